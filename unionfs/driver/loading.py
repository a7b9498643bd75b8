"""Loading libraries while others wait, and when a mount may cover the way to them."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Final

from unionfs import syscalls
from unionfs.driver import namespaces

_LINKERS: Final = ("/etc", "/lib", "/usr/lib", "/usr/local/lib")


@contextlib.contextmanager
def there_to_stay() -> Iterator[None]:
    """What is made meanwhile is there to stay: to look for garbage in it would be lost time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def keep_root(names: Iterable[str]) -> int | None:
    """A descriptor of our root as it is now, for :func:`as_kept`, to load libraries *names* from.

    None where we may have none, or where libraries lie elsewhere, so that they are not in it.
    """
    try:
        paths = _directories(names)
        root = syscalls.clone_root()
    except OSError:
        return None
    try:
        before = [_identity(path) for path in paths]
        with as_kept(root):
            if [_identity(path) for path in paths] == before:
                return root
    except OSError:
        pass
    os.close(root)
    return None


def _directories(names: Iterable[str]) -> list[str]:
    """Where libraries may be: Python's, and those that the linker looks for."""
    origins = (spec.origin for name in names if (spec := importlib.util.find_spec(name)))
    with open("/proc/self/maps") as maps:
        files = [line.split(maxsplit=5)[5] for line in maps if ".so" in line]
    known = {os.path.dirname(path) for path in (*filter(None, origins), *files)}
    wished = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    return [*known, *filter(None, [*sys.path, *wished]), *_LINKERS]


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


@contextlib.contextmanager
def as_kept(root: int) -> Iterator[None]:
    """Have paths lead to what is in *root*, whatever was mounted, or became the root of our
    namespace, since then; in this thread alone. Raises OSError without CAP_SYS_CHROOT.
    """
    # Those of the plane take a root of their own when they begin, which may be later than this.
    namespaces.unshare(namespaces.CLONE_FS)
    now = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fchdir(root)
        os.chroot(".")
        try:
            yield
        finally:
            os.fchdir(now)
            os.chroot(".")
    finally:
        os.close(now)
