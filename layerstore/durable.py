"""Files that are whole or absent after a crash: temporary, sync, rename, sync the directory."""

from __future__ import annotations

import ctypes
import os
import secrets
from pathlib import Path
from typing import Final

from unionfs.syscalls import check, libc

_TEMPORARY: Final = ".new"


def sync_directory(path: str) -> None:
    """Have the names in a directory on the disk: fsync(2). Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_filesystem(path: str) -> None:
    """Have all that was written to the filesystem of a directory on the disk: syncfs(2).

    For ten thousand small files it is one wait where fsync(2) would be ten thousand. Raises
    OSError, for what could not be written since the directory was opened (Linux 5.8).
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        check(libc.syncfs(ctypes.c_int(descriptor)), os.fsencode(path))
    finally:
        os.close(descriptor)


def beside(path: Path) -> Path:
    """A new name in the directory of *path*, for what is to have that name once it is complete.

    Raises OSError, about the directory, if it is not there or is none.
    """
    os.close(os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    # However long the name is, this one is not.
    return path.with_name(f".{secrets.token_hex(8)}{_TEMPORARY}")


def is_empty_directory(path: Path) -> bool:
    """Whether a directory without anything in it is there. Raises OSError."""
    return path.is_dir() and not any(path.iterdir())


def write_file(path: str, content: bytes, mode: int = 0o400) -> None:
    """Make or replace a file, at once and durably. Raises OSError."""
    temporary = path + _TEMPORARY
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    os.rename(temporary, path)
    sync_directory(os.path.dirname(path))
