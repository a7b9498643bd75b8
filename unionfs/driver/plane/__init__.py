"""The data plane: requests that are answered in C, between the kernel and pyfuse3.

docs/dataplane.md tells how it sits there and why that is sound. It is optional: where it was not
built, pyfuse3 answers everything.
"""

from __future__ import annotations

import functools
import importlib.util
import mmap
import os
import sys
from collections.abc import Callable
from typing import Final

from unionfs.mirror import Lack

# pyfuse3 finds the extension's functions before libfuse's if they are there, and global, when it
# is loaded.
_flags = sys.getdlopenflags()
sys.setdlopenflags(os.RTLD_NOW | os.RTLD_GLOBAL)
try:
    from unionfs.driver.plane import _plane
except ImportError:
    _plane = None  # type: ignore[assignment]
finally:
    sys.setdlopenflags(_flags)

AGAIN: Final = 600
"""The error that a request is answered with to have the plane look at it again (channel.c)."""

_MOST: Final = 257 * mmap.PAGESIZE
"""Bytes of the longest request: libfuse asks for 256 pages of content and one for the rest."""
_THREADS: Final = 2
_PASSED_FROM: Final = 1 << 17
"""Bytes of a lower file that is passed through where nothing changes; smaller ones are stored."""


def built() -> bool:
    """Whether the extension is there."""
    return _plane is not None


@functools.cache
def usable() -> bool:
    """Whether the plane can get between the kernel and pyfuse3, which need not be imported yet."""
    if not built():
        return False
    found = importlib.util.find_spec("pyfuse3")
    return found is not None and found.origin is not None and _plane.usable(found.origin)


def start(
    kernel: int,
    request: bytes,
    *,
    writable: bool,
    passthrough: bool,
    sync: bool,
    only_ours: bool,
    debug: bool,
) -> int:
    """Answer the requests on *kernel*, a descriptor of /dev/fuse that becomes the plane's.

    What it can't answer waits for libfuse, behind *request*, a FUSE_INIT whose reply nobody gets.
    writable: whether the mount is. passthrough: whether the kernel has agreed to it. sync: whether
    fsync(2) has an effect. only_ours: leave to libfuse what others than root and we ask for.
    debug: show the requests that pyfuse3 does not see.

    Answers a descriptor, the plane's, that is readable when something waits. Raises OSError.
    """
    return _plane.start(
        kernel,
        request,
        1 if debug else _THREADS,
        _MOST,
        debug,
        passthrough,
        _PASSED_FROM,
        not writable,
        sync,
        only_ours,
    )


def help_first(prepare: Callable[[Lack, int, bytes], bool]) -> bool:
    """Let *prepare* do what the plane lacks for the request that waits first, and look again.

    prepare: is told what it may lack, its node and its name; answers whether it helped. Answers
    that, False if nothing can help: then libfuse has to be there.
    """
    request = _plane.first()
    if request is None:
        return False
    lack, number, name = request
    if not prepare(Lack(lack), number, name):
        return False
    _plane.again()
    return True


def ended() -> bool:
    """Whether the mount is gone, and so no request comes."""
    return _plane.ended()


def offer(descriptor: int, upper: bool) -> None:
    """The reply that comes next opens *descriptor*, a file of the upper or of a layer below."""
    _plane.offer(descriptor, upper)
