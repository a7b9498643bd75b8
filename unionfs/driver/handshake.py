"""FUSE_INIT: what the kernel and we agree on, before anything else is asked.

We answer it and not libfuse: some of what we want pyfuse3 does not ask for, and libfuse need not be
there yet. What libfuse is told later offers no more than was agreed on, so that it means the same
to both.
"""

from __future__ import annotations

import mmap
import os
import struct
from typing import Final, NamedTuple

# include/uapi/linux/fuse.h: struct fuse_in_header and the beginning of fuse_init_in, which older
# kernels end with; struct fuse_out_header and fuse_init_out.
_REQUEST: Final = struct.Struct("=IIQ24xIIIII")
_FLAGS_OFFSET: Final = 52
_REPLY: Final = struct.Struct("=IiQIIIIHHIIHHII24x")
_MAJOR: Final = 7
_MINOR: Final = 31
"""Of the protocol that all the rest of us speaks, whatever flags are added to it."""
_REQUEST_SIZE_MAX: Final = 1 << 20

_MAX_PAGES: Final = 1 << 22
"""A request may have more content than 32 pages (Linux 4.20)."""
_NO_OPENDIR_SUPPORT: Final = 1 << 24
"""The kernel opens directories by itself once it was told that nobody else does (Linux 5.1)."""
_MORE_FLAGS: Final = 1 << 30
"""There is a second word of flags, which counts only then."""
_WANTED: Final = (
    1 << 0  # ASYNC_READ: several requests for one file at once
    | 1 << 3  # ATOMIC_O_TRUNC: a truncation comes with the open
    | 1 << 5  # BIG_WRITES: of more than a page
    | 1 << 6  # DONT_MASK: the umask is ours; only so a default ACL comes before it (acl(5))
    | 1 << 12  # AUTO_INVAL_DATA: content is dropped when the time of change differs
    | 1 << 13  # DO_READDIRPLUS: listings with attributes
    | 1 << 15  # ASYNC_DIO: several requests for one O_DIRECT at once
    | 1 << 20  # POSIX_ACL: the kernel minds them
    | _MAX_PAGES
    # CACHE_SYMLINKS: the kernel remembers where a link leads. In a root with /lib a link, each path
    # asks.
    | 1 << 23
    # HANDLE_KILLPRIV_V2: set-user-ID is ours to take away when the kernel says so, by a SETATTR
    # that changes nothing. For that it remembers which files have no capabilities; else it asks
    # before each write.
    | 1 << 28
)
_DIRECT_IO_ALLOW_MMAP: Final = 1 << 4
"""Of the second word: files that are neither cached nor passed through can be mapped too."""
_PASSTHROUGH: Final = 1 << 5
"""Of the second word: the kernel reads and writes files itself that we name to it."""


class Agreed(NamedTuple):
    """What the kernel and we agree on.

    passthrough: that files are passed through. opens_directories: that the kernel opens directories
    by itself, if asked. request: a FUSE_INIT for libfuse that offers it what was agreed on.
    """

    passthrough: bool
    opens_directories: bool
    request: bytes


def agree(kernel: int, *, passthrough: bool) -> Agreed:
    """Answer the first request on *kernel*, a descriptor of /dev/fuse that was just mounted.

    passthrough: whether to ask for it. Raises OSError if the mount is gone already.
    """
    request = bytearray(os.read(kernel, _REQUEST_SIZE_MAX))
    _, _, unique, _, minor, readahead, offered, more = _REQUEST.unpack_from(
        request.ljust(_REQUEST.size, b"\0")
    )
    passes = passthrough and bool(offered & _MORE_FLAGS and more & _PASSTHROUGH)
    flags = offered & _WANTED
    pages = 256 if flags & _MAX_PAGES else 32
    reply = _REPLY.pack(
        _REPLY.size,
        0,
        unique,
        _MAJOR,
        min(minor, _MINOR),
        readahead,
        flags | (_MORE_FLAGS if passes else 0),
        0,  # as many requests at once as the kernel thinks right
        0,
        pages * mmap.PAGESIZE,
        1,  # nanosecond
        pages if flags & _MAX_PAGES else 0,
        0,
        more & (_PASSTHROUGH | _DIRECT_IO_ALLOW_MMAP) if passes else 0,
        # Files below lie on a filesystem that is stacked on none.
        1 if passes else 0,
    )
    os.write(kernel, reply)
    struct.pack_into("=I", request, _FLAGS_OFFSET, flags)
    return Agreed(passes, bool(offered & _NO_OPENDIR_SUPPORT), bytes(request))
