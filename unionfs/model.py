"""The words that all strata share: entries, attributes, and the errors a user can mend.

Nothing here does I/O and nothing here knows FUSE.
"""

from __future__ import annotations

import enum
import os
import stat
import struct
import unicodedata
from typing import Any, Final, NamedTuple, Protocol

NAME_MAX: Final = 255
"""Bytes a name may have (limits.h, and every filesystem that can be an upper)."""

NO_ID: Final = (1 << 32) - 1
"""An owner who has no number here: told of it, the kernel gives nobody rights over the inode, and
shows OVERFLOW_ID (inode_permission of its fs/namei.c)."""

OVERFLOW_ID: Final = 65534
"""What stands for ids that have no number in a user namespace (user_namespaces(7))."""

_NOT_SEEN: Final = frozenset(("Cc", "Cf", "Zl", "Zp"))
"""Categories of Unicode: controls, formats (of direction and width), ends of lines, paragraphs."""


class Attributes(Protocol):
    """What ``stat(2)`` tells of an entry; :class:`os.stat_result` is one.

    ``st_dev`` and ``st_ino`` identify an inode *within its layer*; the inode number that the
    mount shows is made from them by :class:`unionfs.nodes.Numbering`.
    """

    @property
    def st_mode(self) -> int: ...
    @property
    def st_ino(self) -> int: ...
    @property
    def st_dev(self) -> int: ...
    @property
    def st_nlink(self) -> int: ...
    @property
    def st_uid(self) -> int: ...
    @property
    def st_gid(self) -> int: ...
    @property
    def st_rdev(self) -> int: ...
    @property
    def st_size(self) -> int: ...
    @property
    def st_blksize(self) -> int: ...
    @property
    def st_blocks(self) -> int: ...
    @property
    def st_atime_ns(self) -> int: ...
    @property
    def st_mtime_ns(self) -> int: ...
    @property
    def st_ctime_ns(self) -> int: ...


_TIME: Final = struct.Struct("=qI")
_SECOND: Final = 10**9


class _Field:
    """One value in the bytes of :class:`PackedAttributes`."""

    def __init__(self, layout: str, offset: int) -> None:
        self._unpack: Final = struct.Struct("=" + layout).unpack_from
        self._offset: Final = offset

    def __get__(self, instance: PackedAttributes, owner: object = None) -> int:
        value: int = self._unpack(instance.packed, self._offset)[0]
        return value


class _TimeField:
    """A time in nanoseconds; seconds of 64 bits are more than nanoseconds of 64 bits can say."""

    def __init__(self, offset: int) -> None:
        self._offset: Final = offset

    def __get__(self, instance: PackedAttributes, owner: object = None) -> int:
        seconds, rest = _TIME.unpack_from(instance.packed, self._offset)
        return int(seconds) * _SECOND + int(rest)


class PackedAttributes:
    """:class:`Attributes` in a quarter of the memory, for what a mount may know a million of."""

    __slots__ = ("packed",)

    _LAYOUT: Final = struct.Struct("=IIIIQQQqqQqIqIqI")

    st_mode = _Field("I", 0)
    st_nlink = _Field("I", 4)
    st_uid = _Field("I", 8)
    st_gid = _Field("I", 12)
    st_ino = _Field("Q", 16)
    st_dev = _Field("Q", 24)
    st_rdev = _Field("Q", 32)
    st_size = _Field("q", 40)
    st_blksize = _Field("q", 48)
    st_blocks = _Field("Q", 56)
    st_atime_ns = _TimeField(64)
    st_mtime_ns = _TimeField(76)
    st_ctime_ns = _TimeField(88)

    def __init__(self, status: Attributes) -> None:
        self.packed = self._LAYOUT.pack(
            status.st_mode,
            status.st_nlink,
            status.st_uid,
            status.st_gid,
            status.st_ino,
            status.st_dev,
            status.st_rdev,
            status.st_size,
            status.st_blksize,
            status.st_blocks,
            *divmod(status.st_atime_ns, _SECOND),
            *divmod(status.st_mtime_ns, _SECOND),
            *divmod(status.st_ctime_ns, _SECOND),
        )

    def unpacked(self) -> tuple[int, ...]:
        """All values, in the order of the fields above; times as seconds and nanoseconds."""
        return self._LAYOUT.unpack(self.packed)

    def without_owner(self) -> PackedAttributes:
        """The same, but what seems to be of OVERFLOW_ID is of NO_ID."""
        other = PackedAttributes(self)
        values = list(self._LAYOUT.unpack(self.packed))
        values[2:4] = [NO_ID if number == OVERFLOW_ID else number for number in values[2:4]]
        other.packed = self._LAYOUT.pack(*values)
        return other

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PackedAttributes) and self.packed == other.packed

    def __hash__(self) -> int:
        return hash(self.packed)


class Mark(enum.Enum):
    """What a layer can say of a name instead of giving its entry."""

    WHITEOUT = "whiteout"
    """The name is gone: nothing below shows through."""
    UNREAD = "unread"
    """The name is there; the listing did not read it, ``lookup`` does."""


WHITEOUT: Final = Mark.WHITEOUT
UNREAD: Final = Mark.UNREAD


class Entry:
    """What one layer says of one name that it has.

    handle: the layer's own reference to it; nobody else looks inside.
    opaque: for a directory: nothing below shows through.
    redirect: for a directory: the name (no slash) or the path from the layers' root (leading
        slash) that it has in the layers below; None when it is called the same there.
    implied: for a directory: the layer has something in it, but no entry of its own for it.
        Attributes and extended attributes are those of the directory that it merges with further
        down (:func:`unionfs.merge.described`); its own are a placeholder, for when there is none.
    """

    __slots__ = ("attributes", "handle", "implied", "opaque", "redirect")
    __hash__ = None  # type: ignore[assignment]

    def __init__(
        self,
        attributes: Attributes,
        handle: Any,
        opaque: bool = False,
        redirect: bytes | None = None,
        implied: bool = False,
    ) -> None:
        self.attributes = attributes
        self.handle = handle
        self.opaque = opaque
        self.redirect = redirect
        self.implied = implied

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Entry) and all(
            getattr(self, name) == getattr(other, name) for name in self.__slots__
        )

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.attributes.st_mode)

    @property
    def is_regular(self) -> bool:
        return stat.S_ISREG(self.attributes.st_mode)


class Caller(NamedTuple):
    """Who asks: the owner of what is made, and the umask for it."""

    uid: int
    gid: int
    umask: int


def printable(text: str) -> str:
    """*text* on one line, whatever names are in it: escaped are non-UTF-8, and what is no character
    to be seen: controls, line ends, and those that turn the direction of what follows.
    """
    if text.isprintable():
        return text
    escaped = "".join(map(_escaped, text))
    return os.fsencode(escaped).decode("utf-8", "backslashreplace")


def _escaped(character: str) -> str:
    if unicodedata.category(character) not in _NOT_SEEN:
        return character
    if character.isascii():
        return f"\\x{ord(character):02x}"
    return character.encode("ascii", "backslashreplace").decode("ascii")


class UnionError(Exception):
    """A mistake that the user can mend: its text is the one line to show."""


class BusyError(UnionError):
    """The upper or work directory serves another mount."""
