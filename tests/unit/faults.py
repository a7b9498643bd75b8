"""System calls that fail, or that the process does not live to see."""

from __future__ import annotations

import errno
import fcntl
import os
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import pytest

from unionfs import syscalls

NAMING: Final = {
    *("create", "link", "mkdir", "mknod", "renameat2", "rmdir", "symlink", "unlink"),
    *("removexattr", "setxattr"),
}
"""The calls that change names and marks, and so what a mount finds after a crash."""
CHANGING: Final = NAMING | {
    *("chmod", "chmod_at", "chown", "copy_file_range", "fchmod", "fdatasync", "fsync", "ftruncate"),
    *("ioctl", "open to write", "pwrite", "utime"),
}
"""The calls with which the union changes anything on a disk."""
CALLS: Final = CHANGING | {
    *("close", "file_handle", "fstat", "fstatvfs", "getdents", "getxattr", "listdir"),
    *("listxattr", "lseek", "open", "pread", "readlink", "scandir", "stat"),
}
"""All calls that can fail for want of something or by a bad disk."""

_DISK: Final = (errno.EIO, errno.ENOMEM)
_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE)
_SYNCS: Final = ("fdatasync", "fsync")
_SPACE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def errors_of(name: str) -> tuple[int, ...]:
    """What a call can fail with for want of something or by a bad disk, as its man page has it.

    Disks and their filesystems go further than some man pages (an unlink may want a block of the
    journal), so calls that change anything have all of that.
    """
    if name == "close":
        return (errno.EIO,)
    changing = _SPACE if name in CHANGING else ()
    opening = _DESCRIPTORS if name in {"create", "open", "open to write", "scandir"} else ()
    return _DISK + opening + changing


Event = Callable[[str], None]


@contextmanager
def _before_calls(event: Event) -> Iterator[None]:
    """Tell *event* the name of each of `CALLS` before it is made; what it raises, the call raises.

    A close tells of writing that failed, so it counts if that was possible, and fails having closed
    (close(2)).
    """

    def watched(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watch(*args: Any, **options: Any) -> Any:
            event(name)
            # Nothing here outlives the machine, and a disk is slow.
            return None if name in _SYNCS else call(*args, **options)

        return watch

    def opened(path: bytes, flags: int, *args: Any, **options: Any) -> int:
        writable = flags & (os.O_ACCMODE | os.O_TRUNC)
        event("create" if flags & os.O_CREAT else "open to write" if writable else "open")
        return open_(path, flags, *args, **options)

    def closed(descriptor: int) -> None:
        written = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
        close(descriptor)
        if written:
            event("close")

    @contextmanager
    def scanned(descriptor: int) -> Iterator[Iterator[_Listed]]:
        event("scandir")
        with scandir(descriptor) as entries:
            event("getdents")
            yield (_Listed(entry, event) for entry in entries)

    open_, close, scandir = os.open, os.close, os.scandir
    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS - {"create", "getdents", "open to write"}:
            module: Any = next(m for m in (syscalls, fcntl, os) if hasattr(m, name))
            patch.setattr(module, name, watched(name, getattr(module, name)))
        patch.setattr(os, "open", opened)
        patch.setattr(os, "close", closed)
        patch.setattr(os, "scandir", scanned)
        yield


@dataclass(frozen=True)
class _Listed:
    """A name of a directory that is read."""

    entry: os.DirEntry[str]
    event: Event

    def stat(self, *, follow_symlinks: bool) -> os.stat_result:
        self.event("stat")
        return self.entry.stat(follow_symlinks=follow_symlinks)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.entry, name)


@contextmanager
def recorded() -> Iterator[list[str]]:
    """Answers the names of the calls that come."""
    calls: list[str] = []
    with _before_calls(calls.append):
        yield calls


@contextmanager
def failing(number: int, code: int) -> Iterator[list[str]]:
    """The call of this number, from 0, fails. Answers the names of the calls that came."""
    calls: list[str] = []

    def event(name: str) -> None:
        calls.append(name)
        if len(calls) - 1 == number:
            raise OSError(code, os.strerror(code), "injected")

    with _before_calls(event):
        yield calls


def killed_before_call(number: int, work: Callable[[], None]) -> bool:
    """Do *work* in a process that is killed before the call of this number that changes names.

    Answers whether it was: False means that the work has no such call, and is done.
    """
    count = 0

    def event(name: str) -> None:
        nonlocal count
        if name in NAMING:
            if count == number:
                os._exit(1)
            count += 1

    with warnings.catch_warnings():
        # Of a parent's threads only their memory is left, and the child asks nothing of them.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        status = 2
        try:
            with _before_calls(event):
                work()
            status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 1)
    return status == 1


def open_descriptors() -> Collection[str]:
    """The descriptors of this process."""
    return frozenset(os.listdir("/proc/self/fd"))
