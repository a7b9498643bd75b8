"""Loading libraries while others wait, and when a mount may cover the way to them."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator

from unionfs import syscalls


@contextlib.contextmanager
def there_to_stay() -> Iterator[None]:
    """What is made meanwhile is there to stay: to look for garbage in it would be lost time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def keep_root() -> int | None:
    """A descriptor of all that there is now, for :func:`as_kept`; None where we may have none."""
    try:
        root = syscalls.clone_root()
    except OSError:
        return None
    try:
        with as_kept(root):
            return root
    except OSError:
        os.close(root)
        return None


@contextlib.contextmanager
def as_kept(root: int) -> Iterator[None]:
    """Have all paths mean what they did when *root* was kept, whatever was mounted, or became the
    root of our namespace, since then; in all threads. Raises OSError without CAP_SYS_CHROOT.
    """
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
