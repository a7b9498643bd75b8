"""The words that all strata share: entries, attributes, and the errors a user can mend.

Nothing here does I/O and nothing here knows FUSE.
"""

from __future__ import annotations

import enum
import stat
from dataclasses import dataclass
from typing import Any, Final, Protocol

NAME_MAX: Final = 255
"""Bytes a name may have (limits.h, and every filesystem that can be an upper)."""


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


class Mark(enum.Enum):
    """What a layer can say of a name instead of giving its entry."""

    WHITEOUT = "whiteout"
    """The name is gone: nothing below shows through."""
    UNREAD = "unread"
    """The name is there; the listing did not read it, ``lookup`` does."""


WHITEOUT: Final = Mark.WHITEOUT
UNREAD: Final = Mark.UNREAD


@dataclass(slots=True)
class Entry:
    """What one layer says of one name that it has.

    handle: the layer's own reference to it; nobody else looks inside.
    opaque: for a directory: nothing below shows through.
    redirect: for a directory: the name (no slash) or the path from the layers' root (leading
        slash) that it has in the layers below; None when it is called the same there.
    """

    attributes: Attributes
    handle: Any
    opaque: bool = False
    redirect: bytes | None = None

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.attributes.st_mode)

    @property
    def is_regular(self) -> bool:
        return stat.S_ISREG(self.attributes.st_mode)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the owner of what is made, and the umask for it."""

    uid: int
    gid: int
    umask: int


class UnionError(Exception):
    """A mistake that the user can mend: its text is the one line to show."""


class BusyError(UnionError):
    """The upper or work directory serves another mount."""
