"""Owners as the mount shows them, where layers and upper store others.

Layers and upper keep what they have: owners are translated as they pass, one at a time.
"""

from __future__ import annotations

import errno
import os
import struct
from typing import Final, NamedTuple

from unionfs.model import NO_ID

ID_MAX: Final = NO_ID - 1

_ACLS: Final = frozenset((b"system.posix_acl_access", b"system.posix_acl_default"))
# include/uapi/linux/posix_acl_xattr.h: a version, then tag, permissions and id of each entry.
_ACL_VERSION: Final = struct.Struct("<I")
_ACL_ENTRY: Final = struct.Struct("<HHI")
_ACL_USER: Final = 0x02
_ACL_GROUP: Final = 0x08

_CAPABILITIES: Final = b"security.capability"
# include/uapi/linux/capability.h: the bytes of vfs_cap_data, whose fourth is the revision, and of
# vfs_ns_cap_data, which has the root user that they count for behind it.
_REVISION_2: Final = 20
_REVISION_3: Final = 24


class Range(NamedTuple):
    """*length* ids from *stored* on show as those from *shown* on."""

    stored: int
    shown: int
    length: int


class Ids(NamedTuple):
    """How ids of one kind, of users or of groups, are shown.

    ranges: without any, ids show as they are. squashed: what every owner shows as, if not None.
    """

    ranges: tuple[Range, ...] = ()
    squashed: int | None = None

    def shown(self, stored: int) -> int:
        """What an owner shows as: NO_ID if no range has it."""
        return self._mapped(stored) if self.squashed is None else self.squashed

    def stored(self, shown: int, error: int) -> int:
        """What is stored for an id of the mount. Raises OSError(*error*) if no range has it."""
        if not self.ranges:
            return shown
        for piece in self.ranges:
            if 0 <= shown - piece.shown < piece.length:
                return piece.stored + shown - piece.shown
        raise OSError(error, f"id {shown} of the mount stands for none outside")

    def changed(self, shown: int) -> int | None:
        """What is stored for a new owner; None if the owner is to stay.

        Raises OSError: EOVERFLOW if no range has it (as for idmapped mounts), EPERM for another
        than the one that all are squashed to, which would not show.
        """
        if self.squashed is None:
            return self.stored(shown, errno.EOVERFLOW)
        if shown != self.squashed:
            raise PermissionError(errno.EPERM, f"every owner is squashed to {self.squashed}")
        return None

    def _mapped(self, stored: int) -> int:
        if not self.ranges:
            return stored
        for piece in self.ranges:
            if 0 <= stored - piece.stored < piece.length:
                return piece.shown + stored - piece.stored
        return NO_ID

    def translated(self, number: int, *, inwards: bool) -> int:
        """An id in an attribute's value; those are not squashed, as they would be one.

        One that no range has shows as ID_MAX: an ACL with NO_ID would be no ACL to the kernel.
        """
        return self.stored(number, errno.EINVAL) if inwards else min(self._mapped(number), ID_MAX)


class Owners(NamedTuple):
    """How users and groups are shown."""

    users: Ids = Ids()
    groups: Ids = Ids()

    def shown_value(self, name: bytes, value: bytes) -> bytes:
        """The value of an extended attribute, with the ids in it as they show."""
        return self._translated(name, value, inwards=False)

    def stored_value(self, name: bytes, value: bytes) -> bytes:
        """The value to store for an extended attribute. Raises OSError: EINVAL for an id."""
        return self._translated(name, value, inwards=True)

    def _translated(self, name: bytes, value: bytes, *, inwards: bool) -> bytes:
        if name in _ACLS:
            return self._acl(value, inwards=inwards)
        if name == _CAPABILITIES and self.users.ranges:
            return self._capabilities(value, inwards=inwards)
        return value

    def _capabilities(self, value: bytes, *, inwards: bool) -> bytes:
        if len(value) not in (_REVISION_2, _REVISION_3):
            return value
        old = int.from_bytes(value[_REVISION_2:], "little")  # revision 2: of root itself
        new = self.users.translated(old, inwards=inwards)
        if new == old:
            return value
        flags = value[:3]
        return flags + b"\x03" + value[4:_REVISION_2] + new.to_bytes(4, "little")

    def _acl(self, value: bytes, *, inwards: bool) -> bytes:
        if not (self.users.ranges or self.groups.ranges):
            return value
        head, entries = value[: _ACL_VERSION.size], value[_ACL_VERSION.size :]
        if len(entries) % _ACL_ENTRY.size:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        kinds = {_ACL_USER: self.users, _ACL_GROUP: self.groups}
        return head + b"".join(
            _ACL_ENTRY.pack(
                tag,
                permissions,
                kinds[tag].translated(number, inwards=inwards) if tag in kinds else number,
            )
            for tag, permissions, number in _ACL_ENTRY.iter_unpack(entries)
        )
