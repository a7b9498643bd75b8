"""What chattr(1) sets, and what of it the union keeps elsewhere than the file system does.

A file that is immutable, or that may only be appended to, could neither be moved nor be removed in
the upper. So there these two are a mark, and only the mount heeds them (fs/overlayfs/inode.c,
ovl_fileattr_set); all others are the upper's own. Numbers are of include/uapi/linux/fs.h.
"""

from __future__ import annotations

import enum
import struct
from typing import Final

SYNC: Final = 0x8
IMMUTABLE: Final = 0x10
APPEND: Final = 0x20
NOATIME: Final = 0x80
PROTECTING: Final = IMMUTABLE | APPEND
COPIED: Final = SYNC | NOATIME
"""What a copy has of its lower file's, beside what protects (OVL_COPY_FS_FLAGS_MASK)."""

_XFLAG_IMMUTABLE: Final = 0x8
_XFLAG_APPEND: Final = 0x10
_LONG: Final = struct.calcsize("l") << 16
_WORD: Final = struct.Struct("=I")
_MARKS: Final = {b"a": APPEND, b"i": IMMUTABLE, b"ai": PROTECTING, b"ia": PROTECTING}
_SAID: Final = {value: mark for mark, value in reversed(_MARKS.items())}


class Call(enum.IntEnum):
    """The ioctls; each takes or gives one of two structures, which begin with a word of flags."""

    GET_FLAGS = 0x80006601 | _LONG
    SET_FLAGS = 0x40006602 | _LONG
    GET_EXTENDED = 0x801C581F
    SET_EXTENDED = 0x401C5820

    @property
    def sets(self) -> bool:
        """Whether it is one of those that change something."""
        return self in (Call.SET_FLAGS, Call.SET_EXTENDED)

    @property
    def size(self) -> int:
        """Bytes of its structure: int, or struct fsxattr."""
        return _WORD.size if self in (Call.GET_FLAGS, Call.SET_FLAGS) else 28

    @property
    def _protecting(self) -> tuple[tuple[int, int], ...]:
        """What protects, and how its structure says so."""
        if self.size == _WORD.size:
            return (IMMUTABLE, IMMUTABLE), (APPEND, APPEND)
        return (IMMUTABLE, _XFLAG_IMMUTABLE), (APPEND, _XFLAG_APPEND)

    def with_protection(self, value: bytes, protection: int) -> bytes:
        """*value*, with what of PROTECTING is in *protection*."""
        (word,) = _WORD.unpack_from(value)
        for flag, said in self._protecting:
            word |= said if protection & flag else 0
        return _WORD.pack(word) + value[_WORD.size :]

    def without_protection(self, value: bytes) -> tuple[bytes, int]:
        """*value* without what of PROTECTING is in it, and what that is."""
        (word,) = _WORD.unpack_from(value)
        protection = 0
        for flag, said in self._protecting:
            protection |= flag if word & said else 0
            word &= ~said
        return _WORD.pack(word) + value[_WORD.size :], protection


def mark(protection: int) -> bytes:
    """The mark that says this."""
    return _SAID[protection]


def protection(mark: bytes) -> int:
    """What a mark says; nothing if it can't be understood (ovl_check_protattr)."""
    return _MARKS.get(mark, 0)


def pack(flags: int) -> bytes:
    """The structure of GET_FLAGS and SET_FLAGS."""
    return _WORD.pack(flags)


def unpack(value: bytes) -> int:
    """The flags in the structure of GET_FLAGS and SET_FLAGS."""
    (word,) = _WORD.unpack(value)
    return int(word)
