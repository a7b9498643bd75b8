"""How a file's content is kept from reaching the disk after its name.

A name that is on the disk before the content of what it names would, after a crash, hide what lies
below by a file that is empty or torn. fsync(2) before the rename rules that out everywhere, and
brings the whole journal to the disk as well. Where the journal keeps names and extents in order, it
is enough that the content is written, and its extents with it, when the name is changed: whatever
commits the name has committed the extents, and a commit flushes the disk's cache first.

- ext4: blocks are allocated, and the size is set, before a page's writeback ends
  (fs/ext4/inode.c, mpage_map_and_submit_extent, ext4_end_io_end), in the running transaction.
- XFS: so are extents and size (fs/xfs/xfs_aops.c, xfs_end_ioend), in the log's order.
"""

from __future__ import annotations

import enum
import os
from typing import Final

from unionfs import syscalls

_EXT4: Final = 0xEF53  # EXT4_SUPER_MAGIC of linux/magic.h; of ext2 and ext3, too
_XFS: Final = 0x58465342


class Ordering(enum.IntEnum):
    """What is done before a copy gets its name."""

    UNORDERED = 0
    WRITTEN = 1
    SYNCED = 2

    def begin(self, descriptor: int, start: int, count: int) -> None:
        """Let the disk begin with what :meth:`settle` will wait for: *count* bytes from *start* on.

        Raises OSError.
        """
        if self is not Ordering.UNORDERED:
            syscalls.sync_file_range(descriptor, start, count, syscalls.SYNC_FILE_RANGE_WRITE)

    def settle(self, descriptor: int) -> None:
        """Have the content of *descriptor* precede a name. Raises OSError."""
        match self:
            case Ordering.WRITTEN:
                syscalls.sync_file_range(descriptor, 0, 0, syscalls.SYNC_FILE_RANGE_ALL)
            case Ordering.SYNCED:
                os.fsync(descriptor)
            case Ordering.UNORDERED:
                pass


def ordering_of(descriptor: int) -> Ordering:
    """What the filesystem of *descriptor* needs."""
    kind = syscalls.filesystem_type(descriptor)
    if kind == _XFS or (kind == _EXT4 and _has_journal(descriptor)):
        return Ordering.WRITTEN
    return Ordering.SYNCED


def _has_journal(descriptor: int) -> bool:
    """Whether an ext4 has a journal, as far as can be seen: only then it tells what is in it."""
    device = os.fstat(descriptor).st_dev
    try:
        disk = os.path.basename(
            os.readlink(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
        )
        with open(f"/proc/fs/ext4/{disk}/options") as options:
            return any(line.startswith("data=") for line in options)
    except OSError:
        return False
