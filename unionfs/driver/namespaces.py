"""The Linux calls about mounts and namespaces that Python lacks."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Final

from unionfs.syscalls import check, libc

CLONE_FS: Final = 0x00000200
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWPID: Final = 0x20000000

MS_RDONLY: Final = 0x1
MS_NOSUID: Final = 0x2
MS_NODEV: Final = 0x4
MS_NOEXEC: Final = 0x8
MS_SYNCHRONOUS: Final = 0x10
MS_REMOUNT: Final = 0x20
MS_DIRSYNC: Final = 0x80
MS_NOATIME: Final = 0x400
MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 0x40000

_MNT_DETACH: Final = 0x2
_UMOUNT_NOFOLLOW: Final = 0x8
_PR_SET_PDEATHSIG: Final = 1
# openat2(2) has this number on every architecture, and glibc has no wrapper for it.
_SYS_OPENAT2: Final = 437
_RESOLVE_NO_MAGICLINKS: Final = 0x02
_RESOLVE_IN_ROOT: Final = 0x10


def mount(
    source: bytes, target: bytes, kind: bytes = b"", flags: int = 0, data: bytes = b""
) -> None:
    """``mount(2)``; for a bind mount or a change of one, *kind* and *data* mean nothing."""
    check(libc.mount(source, target, kind, ctypes.c_ulong(flags), data), target)


def unmount(point: bytes, *, lazy: bool = False) -> None:
    """``umount2(2)``, a symbolic link not followed; *lazy* detaches a mount that is in use.

    Raises OSError: EBUSY when in use, EINVAL when not a mount point, EPERM without privilege.
    """
    check(libc.umount2(point, _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0)), point)


def unshare(flags: int) -> None:
    """``unshare(2)``."""
    check(libc.unshare(flags))


def enter_root() -> None:
    """Make the working directory, which must be a mount's root, the root; forget the former one.

    By the recipe of pivot_root(2) that needs no directory to put the former root in.
    """
    check(libc.pivot_root(b".", b"."))
    unmount(b".", lazy=True)
    os.chdir("/")


def open_in_root(root: int, path: bytes, flags: int) -> int:
    """Open *path* as if the directory *root* were ``/``: no link and no ``..`` leads out of it.

    openat2(2), RESOLVE_IN_ROOT. Raises OSError.
    """
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    result = libc.syscall(
        ctypes.c_long(_SYS_OPENAT2),
        ctypes.c_int(root),
        ctypes.c_char_p(path),
        ctypes.c_char_p(how),
        ctypes.c_size_t(len(how)),
    )
    return check(result, path)


def signal_when_parent_ends(number: int) -> None:
    """Have the kernel send us signal *number* when our parent process ends: prctl(2)."""
    check(libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(number), 0, 0, 0))
