"""Mounting: a mount point becomes a filesystem of FUSE that a descriptor of /dev/fuse serves.

We do it and not libfuse, since the data plane may answer before libfuse is there (session.py).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Set
from typing import Final

from unionfs.driver import mounts, namespaces, preflight
from unionfs.sources import problem

_FLAGS: Final = {
    "ro": namespaces.MS_RDONLY,
    "nosuid": namespaces.MS_NOSUID,
    "nodev": namespaces.MS_NODEV,
    "noexec": namespaces.MS_NOEXEC,
    "sync": namespaces.MS_SYNCHRONOUS,
    "dirsync": namespaces.MS_DIRSYNC,
    "noatime": namespaces.MS_NOATIME,
}


def mount(point: bytes, source: bytes, options: Set[str]) -> int:
    """Mount on *point*; answers the descriptor of /dev/fuse that serves it.

    source: what tables of mounts show as such. options: ``ro nosuid nodev noexec sync dirsync
    noatime`` of mount(8), and FUSE's own (Documentation/filesystems/fuse.rst). Who may not mount
    has fusermount3(1) do it. Raises UnionError.
    """
    descriptor = preflight.open_fuse()
    flags = sum(flag for word, flag in _FLAGS.items() if word in options)
    own = sorted(options - _FLAGS.keys())
    try:
        root = stat.S_IFMT(os.stat(point).st_mode)
        numbers = f"fd={descriptor},rootmode={root:o},user_id={os.getuid()},group_id={os.getgid()}"
        data = ",".join([numbers, *own]).encode("ascii")
        namespaces.mount(source, point, mounts.TYPE, flags, data)
    except OSError as error:
        os.close(descriptor)
        if error.errno != errno.EPERM:
            raise problem("mount point", point, error) from error
    else:
        return descriptor
    # Only users need it, and what it needs takes a while to load.
    from unionfs.driver import fusermount  # noqa: PLC0415 - see above

    # It takes these for granted where nothing is said.
    allowed = {word for word in ("suid", "dev") if f"no{word}" not in options}
    words = [word.encode("ascii") for word in sorted(options | allowed)]
    return fusermount.mount(point, [*words, b"fsname=" + source, b"subtype=" + mounts.SUBTYPE])
