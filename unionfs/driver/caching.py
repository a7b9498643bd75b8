"""What the kernel may remember, and for how long.

The tree changes only through the mount, and whatever changes through it the kernel sees: so it
may remember names, absent names, attributes, and content without end.
"""

from __future__ import annotations

from typing import Final

import pyfuse3

from unionfs.owners import Owners
from unionfs.tree import Status

_FOREVER: Final = 10 * 365 * 24 * 3600
"""Seconds. The kernel counts in jiffies, and takes no number much larger than this."""


def _absent() -> pyfuse3.EntryAttributes:
    reply = pyfuse3.EntryAttributes()
    # Inode number 0 with a timeout: the name is not there, and this may be remembered.
    reply.st_ino = 0
    reply.entry_timeout = _FOREVER
    return reply


ABSENT: Final = _absent()
"""The reply to a lookup of a name that is not there."""


def attributes_reply(number: int, status: Status, owners: Owners) -> pyfuse3.EntryAttributes:
    """The reply that gives a node's number and attributes, with its owner as it shows."""
    attributes = status.attributes
    reply = pyfuse3.EntryAttributes()
    reply.st_ino = number
    reply.entry_timeout = _FOREVER
    reply.attr_timeout = _FOREVER
    reply.st_mode = attributes.st_mode
    reply.st_nlink = status.links
    reply.st_uid = owners.users.shown(attributes.st_uid)
    reply.st_gid = owners.groups.shown(attributes.st_gid)
    reply.st_rdev = attributes.st_rdev
    reply.st_size = attributes.st_size
    reply.st_blksize = attributes.st_blksize
    reply.st_blocks = status.blocks
    reply.st_atime_ns = attributes.st_atime_ns
    reply.st_mtime_ns = attributes.st_mtime_ns
    reply.st_ctime_ns = attributes.st_ctime_ns
    return reply


def open_reply(descriptor: int) -> pyfuse3.FileInfo:
    """The reply to an open: what the kernel has of the content stays good over opens."""
    return pyfuse3.FileInfo(fh=descriptor, keep_cache=True)
