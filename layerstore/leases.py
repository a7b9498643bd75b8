"""Who uses a layer, and who is at work in the store: locks that end with their process.

A layer in use is a layer whose directory somebody has a shared lock on (flock(2)); one that can be
locked exclusively is used by nobody. Nothing has to be cleaned up after a process that was killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from typing import Final

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# struct flock of fcntl(2): type, whence, start, length, process.
_RANGE: Final = struct.Struct("hhqqi4x")


def hold(directory: str) -> int:
    """Use a directory: a descriptor of it, to be closed after use; until then it stays.

    Raises OSError; FileNotFoundError if it is not there, or being taken away at this moment.
    """
    while True:
        descriptor = os.open(directory, _DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            if _is_at(descriptor, directory):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def take(directory: str) -> int | None:
    """Have a directory for oneself, if nobody uses it: a descriptor of it, else None."""
    try:
        descriptor = os.open(directory, _DIRECTORY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(descriptor, directory):
            return descriptor
    except BlockingIOError:
        pass
    os.close(descriptor)
    return None


def _is_at(descriptor: int, directory: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(directory))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def locked(path: str, *, alone: bool) -> Iterator[None]:
    """Wait for a lock on a file, which is made if need be: for oneself *alone*, or shared."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def alone_in(directory: str) -> Iterator[None]:
    """Wait until nobody uses a directory, then have it for oneself. Raises OSError."""
    descriptor = os.open(directory, _DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def turn(path: str, number: int, wait: Callable[[], None]) -> Iterator[None]:
    """Wait until nobody else has *number* (63 bits) of the file at *path*, then have it.

    wait: called before each further try, to let some time pass; what it raises ends the waiting.
    The system would wait more patiently (F_OFD_SETLKW), but in a thread nothing interrupts it.

    Numbers are bytes of the file that are locked (fcntl(2), "Open file description locks"), so
    none of them leaves anything behind.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        wanted = _RANGE.pack(fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0)
        while not _is_locked(descriptor, wanted):
            wait()
        yield
    finally:
        os.close(descriptor)


def _is_locked(descriptor: int, wanted: bytes) -> bool:
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, wanted)
    except (BlockingIOError, PermissionError):
        # Either says that somebody else has it (fcntl(2)).
        return False
    return True
