"""Calls on open files for their data and flags, which Python lacks, with Python's errors."""

import ctypes
import fcntl
import os
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.support import linux

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)

# include/uapi/linux/falloc.h
KEEP_SIZE, PUNCH_HOLE, COLLAPSE_RANGE = 0x1, 0x2, 0x8
ZERO_RANGE, INSERT_RANGE, UNSHARE_RANGE = 0x10, 0x20, 0x40

# include/uapi/linux/fs.h
SYNC, IMMUTABLE, APPEND, NODUMP, NOATIME = 0x8, 0x10, 0x20, 0x40, 0x80
XFLAG_IMMUTABLE, XFLAG_APPEND, XFLAG_NOATIME, XFLAG_NODUMP = 0x8, 0x10, 0x40, 0x80
XFLAG_PROJINHERIT = 0x200
_FICLONE = 0x40049409
_GETFLAGS, _SETFLAGS = 0x80086601, 0x40086602
_FSGETXATTR, _FSSETXATTR = 0x801C581F, 0x401C5820
_FSXATTR = struct.Struct("=IIIII8x")
_FIEMAP = 0xC020660B
_FIEMAP_HEAD = struct.Struct("=QQIIII")
_FIEMAP_EXTENT = struct.Struct("=QQQ16xI12x")
_FIEMAP_SYNC = 1
_EXTENT_LAST, _EXTENT_SHARED = 1, 0x2000


def fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2); the C library's and Python's fall back on writing zeros."""
    if _libc.fallocate(descriptor, mode, offset, length):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def clone(target: int, source: int) -> None:
    """Make one open file share all the blocks of another; what `cp --reflink=always` does."""
    fcntl.ioctl(target, _FICLONE, source)


@contextmanager
def _open(file: Path | int) -> Iterator[int]:
    """A descriptor as it is, or one for a path, as lsattr(1) and chattr(1) open it."""
    if isinstance(file, int):
        yield file
    else:
        with linux.opened(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW) as descriptor:
            yield descriptor


def get_flags(file: Path | int) -> int:
    """The flags that lsattr(1) shows."""
    # An int, though the number of the call tells the size of a long.
    with _open(file) as descriptor:
        return int.from_bytes(fcntl.ioctl(descriptor, _GETFLAGS, bytes(4)), sys.byteorder)


def set_flags(file: Path | int, flags: int) -> None:
    """Set the flags that chattr(1) sets, all at once."""
    with _open(file) as descriptor:
        fcntl.ioctl(descriptor, _SETFLAGS, flags.to_bytes(4, sys.byteorder))


def add_flags(file: Path | int, flags: int) -> None:
    set_flags(file, get_flags(file) | flags)


def drop_flags(file: Path | int, flags: int) -> None:
    set_flags(file, get_flags(file) & ~flags)


@dataclass(frozen=True)
class FsXattr:
    """struct fsxattr, without the number of extents, which no two file systems agree on."""

    xflags: int
    extsize: int
    projid: int
    cowextsize: int


def get_fsxattr(file: Path | int) -> FsXattr:
    with _open(file) as descriptor:
        value = fcntl.ioctl(descriptor, _FSGETXATTR, bytes(_FSXATTR.size))
    xflags, extsize, _, projid, cowextsize = _FSXATTR.unpack(value)
    return FsXattr(xflags, extsize, projid, cowextsize)


def set_fsxattr(file: Path | int, **fields: int) -> None:
    """Set some of the fields, and leave the others as they are."""
    value = replace(get_fsxattr(file), **fields)
    packed = _FSXATTR.pack(value.xflags, value.extsize, 0, value.projid, value.cowextsize)
    with _open(file) as descriptor:
        fcntl.ioctl(descriptor, _FSSETXATTR, packed)


def is_shared(path: Path) -> bool:
    """Whether all blocks of a file are another file's as well; it must have some."""
    room = 64
    request = _FIEMAP_HEAD.pack(0, 1 << 62, _FIEMAP_SYNC, 0, room, 0)
    with linux.opened(path) as descriptor:
        buffer = bytearray(request + bytes(room * _FIEMAP_EXTENT.size))
        fcntl.ioctl(descriptor, _FIEMAP, buffer)
    found = _FIEMAP_HEAD.unpack_from(buffer)[3]
    flags = [
        _FIEMAP_EXTENT.unpack_from(buffer, _FIEMAP_HEAD.size + index * _FIEMAP_EXTENT.size)[3]
        for index in range(found)
    ]
    assert flags, "no extents"
    assert flags[-1] & _EXTENT_LAST, "more extents than there is room for"
    return all(flag & _EXTENT_SHARED for flag in flags)
