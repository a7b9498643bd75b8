"""What must hold of the directories before they are mounted, each failure in one clear line."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

from unionfs.driver import mounts
from unionfs.layers import places
from unionfs.model import BusyError, UnionError
from unionfs.sources import problem

_FUSE_DEVICE = "/dev/fuse"


def open_fuse() -> int:
    """A descriptor of /dev/fuse. Raises UnionError where this machine or user has none."""
    try:
        return os.open(_FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except PermissionError as error:
        raise UnionError(f"no permission to open {_FUSE_DEVICE}: mount as root") from error
    except OSError as error:
        raise UnionError(
            f"{_FUSE_DEVICE}: {error.strerror}; load the module with modprobe fuse, or give this"
            " container the device"
        ) from error


@contextlib.contextmanager
def claimed_mount_point(point: bytes) -> Iterator[list[str]]:
    """Check that *point*, a real path, can be mounted on; take a dead union away from it.

    While the block lasts no other union is mounted on it. Gives what the user should know though it
    stops nothing, a line each. Raises UnionError.
    """
    name = os.fsdecode(point)
    notes = []
    while mounts.is_dead(point):
        _remove_dead(point)
        notes.append(f"{name}: removed the mount of a unionmount process that is gone")
    with contextlib.ExitStack() as claim:
        try:
            descriptor = os.open(point, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            claim.callback(os.close, descriptor)
            # Never waiting, for anybody who may read it may lock it.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.listdir(descriptor):
                notes.append(f"{name} is not empty; the mount hides what it holds")
        except BlockingIOError:
            raise UnionError(
                f"mount point {name}: another program is about to mount on it; try again"
            ) from None
        except PermissionError:
            # Whoever may not list it may still be allowed to mount on it.
            pass
        except FileNotFoundError as error:
            raise UnionError(
                f"mount point {name}: there is no such directory; make it with mkdir -p"
            ) from error
        except OSError as error:
            raise problem("mount point", point, error) from error
        if mounts.is_union(point):
            raise UnionError(f"mount point {name}: a union is mounted on it; unmount that first")
        yield notes


class Directory(NamedTuple):
    """A directory, what it is in the mount, and (device, inode) of it and of all it lies in.

    Those tell directories apart, so neither links nor bind mounts deceive. A layer may be no
    directory of the host; then *path* is the word for it, and it overlaps none.
    """

    role: str
    path: bytes
    lineage: Sequence[tuple[int, int]]

    @classmethod
    def at(cls, role: str, path: bytes) -> Self:
        """The directory at *path*. Raises UnionError if there is none."""
        try:
            descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                return cls(role, path, places.lineage(descriptor))
            finally:
                os.close(descriptor)
        except OSError as error:
            raise problem(role, path, error) from error

    def __str__(self) -> str:
        return f"{self.role} {os.fsdecode(self.path)}"

    def is_in(self, other: Self) -> bool:
        """Whether it lies in *other*, or is the same."""
        return other.lineage[0] in self.lineage


def require_own(own: Directory, others: Sequence[Directory], target: Directory) -> None:
    """Check that *own*, the upper or the work directory, is for nothing but that.

    It must overlap none of the *others*, and the mount point *target* must not lie in it. (Layers
    may overlap each other, and the mount point may lie in one: their views are open by then.)

    Raises UnionError; BusyError if the kernel's overlayfs has it mounted.
    """
    for other in others:
        _require_outside(own, other)
        _require_outside(other, own)
    _require_outside(target, own)
    overlay = mounts.overlay_using(own.path)
    if overlay is not None:
        raise BusyError(
            f"{own} is in use by the overlay mounted on {os.fsdecode(overlay)}; unmount that first"
        )
    if not os.access(own.path, os.W_OK | os.X_OK):
        raise UnionError(f"{own} can't be written; name a directory that can")


def _require_outside(inner: Directory, outer: Directory) -> None:
    if inner.is_in(outer):
        if outer.is_in(inner):
            raise UnionError(f"{inner} is the same directory as {outer}; name another")
        raise UnionError(f"{inner} is inside {outer}; name one that is not")


def _remove_dead(point: bytes) -> None:
    name = os.fsdecode(point)
    mount = mounts.visible_at(point)
    if mount is None or mount.kind != mounts.TYPE:
        kind = "unknown" if mount is None else os.fsdecode(mount.kind)
        raise UnionError(
            f"mount point {name}: a dead mount of type {kind} is on it; remove it with umount -l"
        )
    try:
        mounts.detach(point)
    except OSError as error:
        raise UnionError(
            f"mount point {name}: a dead mount is on it that can't be removed: {error.strerror}"
        ) from error
