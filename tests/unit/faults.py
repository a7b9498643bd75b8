"""System calls that fail, or that the process does not live to see."""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest

from unionfs import syscalls

NAMING: Final = {
    *("link", "mkdir", "mknod", "open", "renameat2", "rmdir", "symlink", "unlink"),
    *("removexattr", "setxattr"),
}
"""The calls that change names and marks, and so what a mount finds after a crash."""
CHANGING: Final = NAMING | {
    *("chmod", "chown", "clone_file", "copy_file_range", "fsync", "ftruncate", "pwrite", "utime"),
}
"""The calls with which the union changes anything on a disk."""


@contextmanager
def before_call(
    names: Collection[str], number: int, event: Callable[[], None]
) -> Iterator[list[str]]:
    """*event* happens before the call of this number, from 0, among those with such names.

    Answers the names of the calls that came, that one included.
    """
    calls: list[str] = []

    def watched(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watch(*args: Any, **options: Any) -> Any:
            if name != "open" or args[1] & (os.O_CREAT | os.O_TRUNC):
                calls.append(name)
                if len(calls) - 1 == number:
                    event()
            return call(*args, **options)

        return watch

    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            module = syscalls if hasattr(syscalls, name) else os
            patch.setattr(module, name, watched(name, getattr(module, name)))
        yield calls


@contextmanager
def disk_full_at(number: int) -> Iterator[list[str]]:
    """The changing call of this number fails, as may the block for that reason, and for no other.

    Answers the names of the calls that came, that one included.
    """

    def fail() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    try:
        with before_call(CHANGING, number, fail) as calls:
            yield calls
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise


def killed_before_call(number: int, work: Callable[[], None]) -> bool:
    """Do *work* in a process that is killed before the call of this number that changes names.

    Answers whether it was: False means that the work has no such call, and is done.
    """
    with warnings.catch_warnings():
        # Of a parent's threads only their memory is left, and the child asks nothing of them.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        status = 2
        try:
            with before_call(NAMING, number, lambda: os._exit(1)):
                work()
            status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 1)
    return status == 1
