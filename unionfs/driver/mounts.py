"""The kernel's table of mounts, and unmounting."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from unionfs.driver import namespaces
from unionfs.model import UnionError

SUBTYPE: Final = b"unionmount"
TYPE: Final = b"fuse." + SUBTYPE
_OVERLAY: Final = b"overlay"


class Mount(NamedTuple):
    """One mount of the table: proc_pid_mountinfo(5).

    device: ``major:minor``, which no two mounted filesystems share. root: the directory of the
    filesystem that shows at the mount point; ``/`` unless it is a bind mount of a part.
    """

    device: str
    root: bytes
    point: bytes
    kind: bytes
    options: Mapping[bytes, bytes]


def table() -> list[Mount]:
    """Every mount that this process can see; of two on one mount point the visible one last.

    Raises UnionError without /proc, which we need for much else.
    """
    try:
        with open("/proc/self/mountinfo", "rb") as lines:
            return [_mount(line) for line in lines]
    except FileNotFoundError as error:
        raise UnionError("/proc is not there; mount it with mount -t proc proc /proc") from error


def visible_at(point: bytes) -> Mount | None:
    """The mount that shows at *point*, a real path; None if it is no mount point."""
    found = [mount for mount in table() if mount.point == point]
    return found[-1] if found else None


def is_union(point: bytes) -> bool:
    """Whether what shows at *point* is a union."""
    mount = visible_at(point)
    return mount is not None and mount.kind == TYPE


def set_readahead(point: bytes, size: int) -> None:
    """Let the kernel read *size* bytes ahead in files of the mount at *point*, where we may.

    Documentation/ABI/testing/sysfs-class-bdi.
    """
    mount = visible_at(point)
    # Without privileges, or without /sys, it stays as it is.
    with contextlib.suppress(OSError):
        if mount is not None:
            with open(f"/sys/class/bdi/{mount.device}/read_ahead_kb", "w") as setting:
                setting.write(str(size // 1024))


def is_dead(point: bytes) -> bool:
    """Whether the mount at *point* is one of FUSE whose process is gone (ENOTCONN)."""
    try:
        # Attributes would come from the kernel's memory; this it has to ask for.
        os.statvfs(point)
    except OSError as error:
        return error.errno == errno.ENOTCONN
    return False


def overlay_using(directory: bytes) -> bytes | None:
    """Where the kernel's overlayfs is mounted with *directory* as upper or work directory."""
    for mount in table():
        if mount.kind != _OVERLAY:
            continue
        for role in (b"upperdir", b"workdir"):
            # A path of another mount namespace or root may lead nowhere here.
            with contextlib.suppress(OSError):
                if role in mount.options and os.path.samefile(mount.options[role], directory):
                    return mount.point
    return None


def unmount(point: bytes) -> bool:
    """Unmount *point*, lazily if it is in use; answers whether it was in use.

    A mount detached lazily is gone from the tree at once and ends with its last user.

    Raises OSError.
    """
    try:
        _unmount(point, lazy=False)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        _unmount(point, lazy=True)
        return True
    return False


def detach(point: bytes) -> None:
    """Unmount *point* lazily. Raises OSError."""
    _unmount(point, lazy=True)


def _unmount(point: bytes, *, lazy: bool) -> None:
    try:
        namespaces.unmount(point, lazy=lazy)
    except PermissionError:
        # Only users need it, and what it needs takes a while to load.
        from unionfs.driver import fusermount  # noqa: PLC0415 - see above

        fusermount.unmount(point, lazy=lazy)


def _mount(line: bytes) -> Mount:
    mount, _, filesystem = line.rstrip(b"\n").partition(b" - ")
    _, _, device, root, point, *_ = mount.split(b" ")
    kind, _, options = filesystem.split(b" ", 2)
    named = (option.partition(b"=") for option in options.split(b","))
    return Mount(
        device=device.decode("ascii"),
        root=_unescape(root),
        point=_unescape(point),
        kind=kind,
        options={name: _unescape(value) for name, _, value in named},
    )


def _unescape(field: bytes) -> bytes:
    return re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), field)
