"""FUSE_INIT: asking the kernel for what pyfuse3 does not ask for.

pyfuse3 answers INIT through libfuse and lets nobody add to the answer. So for this one exchange
libfuse's descriptor is a socket of ours: the kernel's request goes through it, and the answer
comes back to have flags added on its way to the kernel. After that it is the kernel's descriptor
again, and nothing stands between.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import Final, NamedTuple

import pyfuse3
import trio

# include/uapi/linux/fuse.h: struct fuse_in_header and fuse_init_in, fuse_out_header and
# fuse_init_out; all begin as they did in the first version that has these flags.
# The flags come in two words; the second counts only where the first has _MORE_FLAGS.
_OFFERED: Final = struct.Struct("=52xII")
_FLAGS: Final = struct.Struct("=I")
_FLAGS_OFFSET: Final = 28
_MORE_FLAGS_OFFSET: Final = 48
_STACK_DEPTH_OFFSET: Final = 52
_REQUEST_SIZE_MAX: Final = 1 << 20

_DONT_MASK: Final = 1 << 6
"""The umask is ours to apply: only so does a default ACL come before it (acl(5))."""
_CACHE_SYMLINKS: Final = 1 << 23
"""The kernel may remember where a link leads. In a root with /lib a link, each path asks."""
_NO_OPENDIR_SUPPORT: Final = 1 << 24
"""The kernel opens directories by itself once it was told that nobody else does (Linux 5.1)."""
_HANDLE_KILLPRIV_V2: Final = 1 << 28
"""Set-user-ID is ours to take away when the kernel says so, by a SETATTR that changes nothing. For
that it remembers which files have no capabilities; else it asks before each write."""
_WANTED: Final = _DONT_MASK | _CACHE_SYMLINKS | _HANDLE_KILLPRIV_V2
_MORE_FLAGS: Final = 1 << 30
_DIRECT_IO_ALLOW_MMAP: Final = 1 << 4
"""Of the second word: files that are neither cached nor passed through can be mapped too."""
_PASSTHROUGH: Final = 1 << 5
"""Of the second word: the kernel reads and writes files itself that we name to it."""


class Agreed(NamedTuple):
    """What the kernel offers. passthrough: also that it was asked for."""

    passthrough: bool
    opens_directories: bool


def fuse_descriptors() -> set[int]:
    """Our open descriptors of /dev/fuse."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") == "/dev/fuse":
                found.add(int(name))
        except FileNotFoundError:
            # The descriptor that listed them.
            continue
    return found


def negotiate(descriptor: int, *, passthrough: bool) -> Agreed:
    """Exchange INIT on *descriptor*, which ``pyfuse3.init`` has mounted.

    passthrough: whether to ask for it. Raises OSError if the mount is gone already.
    """
    kernel = os.dup(descriptor)
    ours, libfuse = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        try:
            with libfuse:
                os.dup2(libfuse.fileno(), descriptor, inheritable=False)
            request = os.read(kernel, _REQUEST_SIZE_MAX)
            ours.send(request)
            reply = bytearray(trio.run(_answered, ours))
            offered, more = _OFFERED.unpack_from(request.ljust(_OFFERED.size, b"\0"))
            passes = passthrough and bool(offered & _MORE_FLAGS and more & _PASSTHROUGH)
            _add(reply, _FLAGS_OFFSET, offered & _WANTED)
            if passes:
                _add(reply, _FLAGS_OFFSET, _MORE_FLAGS)
                _add(reply, _MORE_FLAGS_OFFSET, more & (_PASSTHROUGH | _DIRECT_IO_ALLOW_MMAP))
                # Files below lie on a filesystem that is stacked on none.
                _add(reply, _STACK_DEPTH_OFFSET, 1)
            os.write(kernel, reply)
            return Agreed(passes, bool(offered & _NO_OPENDIR_SUPPORT))
        finally:
            os.dup2(kernel, descriptor, inheritable=False)
            os.close(kernel)


def _add(reply: bytearray, offset: int, flags: int) -> None:
    (before,) = _FLAGS.unpack_from(reply, offset)
    _FLAGS.pack_into(reply, offset, before | flags)


async def _answered(ours: socket.socket) -> bytes:
    """Let pyfuse3 answer the one request that it finds; gives the answer."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pyfuse3.main)
        await trio.lowlevel.wait_readable(ours)
        reply = ours.recv(_REQUEST_SIZE_MAX)
        nursery.cancel_scope.cancel()
    return reply
