"""Directories for work that is not done: each locked by who works there, swept when nobody does."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator

from layerstore import leases


@contextlib.contextmanager
def workspace(parent: str) -> Iterator[str]:
    """A directory of one's own below *parent*, removed afterwards. Raises OSError."""
    path, lease = _make(parent)
    try:
        yield path
    finally:
        # What can't be removed now is swept later, and must not hide why.
        shutil.rmtree(path, ignore_errors=True)
        os.close(lease)


def _make(parent: str) -> tuple[str, int]:
    while True:
        path = tempfile.mkdtemp(dir=parent)
        # Somebody who sweeps may have come before we could lock it.
        with contextlib.suppress(FileNotFoundError):
            return path, leases.hold(path)


def sweep(parent: str) -> None:
    """Remove what those who were killed have left below *parent*. Raises OSError."""
    with os.scandir(parent) as entries:
        left = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    for path in left:
        remove(path)


def remove(path: str) -> bool:
    """Remove a workspace, unless somebody works there; whether it was removed. Raises OSError."""
    lease = leases.take(path)
    if lease is None:
        return False
    shutil.rmtree(path, ignore_errors=True)
    os.close(lease)
    return True
