"""The dialects in which directories say *whiteout*, *opaque* and *redirect*.

Sources: Documentation/filesystems/overlayfs.rst (character device 0:0, ``overlay.whiteout``,
``overlay.opaque``, ``overlay.redirect``, ``overlay.metacopy``), the OCI image specification's
layer.md (``.wh.NAME``, ``.wh..wh..opq``), fuse-overlayfs (``user.fuseoverlayfs.opaque``).
"""

from __future__ import annotations

import enum
import stat
from typing import Final

from unionfs.model import Attributes


class Dialects(enum.Enum):
    """Which dialects a layer may be written in."""

    AUTO = "auto"
    """All of them."""
    OVERLAY = "overlay"
    """All but ``.wh.`` names, which then are names like any other."""


WHITEOUT_PREFIX: Final = b".wh."
OPAQUE_NAME: Final = b".wh..wh..opq"
# aufs keeps its own files under this prefix; layer.md reserves it.
_RESERVED_PREFIX: Final = b".wh..wh."

TRUSTED: Final = b"trusted.overlay."
USER: Final = b"user.overlay."
_FUSE_OVERLAYFS: Final = b"user.fuseoverlayfs."

OPAQUE: Final = b"opaque"
REDIRECT: Final = b"redirect"
METACOPY: Final = b"metacopy"
WHITEOUT_ATTRIBUTE: Final = b"whiteout"
ORIGIN: Final = b"origin"
LINKS: Final = b"nlink"
IMPURE: Final = b"impure"
"""Overlayfs's: a directory of the upper holds entries whose inode numbers are from below."""
PROTECTION: Final = b"protattr"
"""Overlayfs's: which of :data:`unionfs.flags.PROTECTING` an entry of the upper has in the union."""
NUMBER: Final = b"unionmount.number"
"""Ours: the inode number, in decimal, that the copied-up file had in the layer it came from."""
INDEX: Final = b"unionmount.index"
"""Ours: the name in the index of an inode whose layer has no handles, so that ORIGIN is absent."""

OPAQUE_YES: Final = b"y"
OPAQUE_WITH_WHITEOUTS: Final = b"x"
IMPURE_YES: Final = b"y"


def is_mark(attribute: bytes) -> bool:
    """Whether an extended attribute is a mark: hidden in the mount, not to be set through it."""
    return attribute.startswith((TRUSTED, USER, _FUSE_OVERLAYFS))


def spellings(mark: bytes, namespace: bytes) -> tuple[bytes, ...]:
    """The attributes that may hold *mark*, the one that wins first.

    namespace: TRUSTED if only those who may write that are believed, else USER. Everybody may set
    ``user.`` attributes on files of their own. That something is hidden there harms nobody else;
    a redirect, or a mark about another file, would show what its owner may not see.
    """
    if mark == OPAQUE:
        return (TRUSTED + mark, USER + mark, _FUSE_OVERLAYFS + mark)
    if mark == WHITEOUT_ATTRIBUTE or namespace == USER:
        return (TRUSTED + mark, USER + mark)
    return (TRUSTED + mark,)


def is_whiteout_device(attributes: Attributes) -> bool:
    """A character device 0:0."""
    return stat.S_ISCHR(attributes.st_mode) and attributes.st_rdev == 0


def is_reserved(name: bytes) -> bool:
    """Whether *name* belongs to the ``.wh.`` dialect."""
    return name.startswith(WHITEOUT_PREFIX)


def is_aufs(name: bytes) -> bool:
    """Whether *name* is of what aufs keeps for itself: it says nothing of the layer."""
    return name.startswith(_RESERVED_PREFIX) and name != OPAQUE_NAME


def hidden_by(name: bytes) -> bytes | None:
    """The name that the ``.wh.`` file *name* hides; None when it hides none.

    A bare ``.wh.`` hides nothing (image-spec layer.md has no meaning for it).
    """
    if name.startswith(_RESERVED_PREFIX):
        return None
    return name[len(WHITEOUT_PREFIX) :] or None


def whiteout_name(name: bytes) -> bytes:
    """The ``.wh.`` file that hides *name*."""
    return WHITEOUT_PREFIX + name
