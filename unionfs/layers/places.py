"""Places: how an inode on the host is reached beneath descriptors.

A place is a name in the directory of another place, up to a root whose descriptor is kept. So no
path is ever resolved from the host's root, no symbolic link is followed, and PATH_MAX limits
nothing. Directories that were used lately keep a descriptor; there is one budget for the process.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import stat
from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Final

from unionfs import syscalls

_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Place:
    """A name in a directory, or (parent None) an inode that its own descriptor holds.

    hidden: for a directory whose listing was read, or that was made: the names its ``.wh.`` files
    hide.
    impure: for a directory of the upper: whether it has been marked so.
    whiteout_attributes: for a directory: whether regular files in it may be whiteouts by attribute.
    """

    __slots__ = ("descriptor", "hidden", "impure", "name", "parent", "whiteout_attributes")

    def __init__(self, parent: Place | None, name: bytes, descriptor: int = -1) -> None:
        self.parent = parent
        self.name = name
        self.descriptor = descriptor
        self.hidden: frozenset[bytes] | None = None
        self.impure = False
        self.whiteout_attributes = False

    @property
    def root(self) -> Place:
        """The place without a parent from which this one is reached."""
        place = self
        while place.parent is not None:
            place = place.parent
        return place


class _Descriptors:
    """Descriptors of directories, the least recently used closed first."""

    def __init__(self) -> None:
        self._cached: OrderedDict[Place, None] = OrderedDict()
        # Asked for by one operation, they are in use together: these are never closed.
        self._in_use: deque[Place] = deque(maxlen=8)
        # A quarter for directories leaves the rest to open files.
        self._limit = max(64, resource.getrlimit(resource.RLIMIT_NOFILE)[1] // 4)

    def get(self, place: Place) -> int:
        self._in_use.append(place)
        if place.descriptor >= 0:
            if place.parent is not None:
                self._cached.move_to_end(place)
            return place.descriptor
        missing = []
        while place.descriptor < 0:
            missing.append(place)
            if place.parent is None:
                raise ValueError("a root place has lost its descriptor")
            place = place.parent
        for child in reversed(missing):
            child.descriptor = os.open(child.name, _DIRECTORY, dir_fd=place.descriptor)
            self._cached[child] = None
            place = child
            if len(self._cached) > self._limit:
                self._evict(keep=place)
        return place.descriptor

    def _evict(self, keep: Place) -> None:
        for oldest in self._cached:
            if oldest is keep:
                return
            if oldest not in self._in_use:
                self.drop(oldest)
                return

    def drop(self, place: Place) -> None:
        """Close the cached descriptor of *place*, if there is one."""
        if place in self._cached:
            del self._cached[place]
            os.close(place.descriptor)
            place.descriptor = -1

    def drop_below(self, root: Place) -> None:
        """Close the cached descriptors of all places below *root*."""
        for place in [place for place in self._cached if place.root is root]:
            self.drop(place)

    def pin(self, place: Place, descriptor: int) -> None:
        """Make *place* the inode that *descriptor* holds, wherever its name went."""
        self.drop(place)
        place.parent = None
        place.name = b""
        place.descriptor = descriptor


_descriptors = _Descriptors()


def directory(place: Place) -> int:
    """An O_PATH descriptor of the directory at *place*; it stays ours and may be closed by the
    next but few calls, so it is used at once and never kept.

    Raises OSError: ENOTDIR or ELOOP where something else took the directory's place.
    """
    return _descriptors.get(place)


def forget(place: Place) -> None:
    """Close what is held for *place*: of no use any more."""
    if place.parent is None:
        if place.descriptor >= 0:
            os.close(place.descriptor)
            place.descriptor = -1
    else:
        _descriptors.drop(place)


def forget_below(root: Place) -> None:
    """Close what is held for *root* and for every place below it."""
    _descriptors.drop_below(root)
    forget(root)


@contextlib.contextmanager
def outliving(place: Place) -> Iterator[None]:
    """When the block has taken the name of *place* away, it stays the place of the same inode.

    A descriptor holds it, so its inode number can't be given to another file before ``forget``.
    """
    if place.parent is None:
        yield
        return
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(place.name, flags, dir_fd=directory(place.parent))
    try:
        yield
    except BaseException:
        os.close(descriptor)
        raise
    _descriptors.pin(place, descriptor)


@contextlib.contextmanager
def held(place: Place) -> Iterator[bytes]:
    """A path to the inode at *place* itself, for calls that would follow a link there."""
    if place.parent is None:
        yield b"/proc/self/fd/%d" % place.descriptor
        return
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(place.name, flags, dir_fd=directory(place.parent))
    try:
        yield b"/proc/self/fd/%d" % descriptor
    finally:
        os.close(descriptor)


def status(place: Place) -> os.stat_result:
    """``fstatat(2)`` of *place*, a symbolic link not followed."""
    if place.parent is None:
        return os.stat(place.descriptor)
    return os.stat(place.name, dir_fd=directory(place.parent), follow_symlinks=False)


def reference(place: Place) -> tuple[bytes, bool]:
    """A path for the calls that take no descriptor, and whether they have to follow it.

    Only the ``/proc/self/fd`` link is ever followed, never a link at *place*.
    """
    if place.parent is None:
        return b"/proc/self/fd/%d" % place.descriptor, True
    return b"/proc/self/fd/%d/%s" % (directory(place.parent), place.name), False


def has_known_owner(place: Place, status: os.stat_result) -> bool:
    """Whether owner and group of what seems to be of OVERFLOW_ID are really that.

    Owners without a number in our user namespace seem to be that as well. But CAP_DAC_OVERRIDE
    counts only where both owner and group have a number (capabilities(7)), so that a right tells
    which the mode does not give. Where it gives all, nobody knows, and the answer is no.
    """
    path, follow = reference(place)
    classes = 0o111 if status.st_uid == os.geteuid() else 0o011
    for right in (os.W_OK, os.R_OK, os.X_OK):
        given = status.st_mode & (classes * right)
        if not given and (right != os.X_OK or stat.S_ISDIR(status.st_mode)):
            return not syscalls.is_denied(path, right, follow=follow)
    return False


def getxattr(place: Place, name: bytes) -> bytes:
    """``lgetxattr(2)``."""
    path, follow = reference(place)
    return os.getxattr(path, name, follow_symlinks=follow)


def listxattr(place: Place) -> list[bytes]:
    """``llistxattr(2)``; nothing where the filesystem has no extended attributes."""
    path, follow = reference(place)
    try:
        return [os.fsencode(name) for name in os.listxattr(path, follow_symlinks=follow)]
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return []
        raise


def setxattr(place: Place, name: bytes, value: bytes) -> None:
    """``lsetxattr(2)``."""
    path, follow = reference(place)
    os.setxattr(path, name, value, follow_symlinks=follow)


def removexattr(place: Place, name: bytes) -> None:
    """``lremovexattr(2)``."""
    path, follow = reference(place)
    os.removexattr(path, name, follow_symlinks=follow)


def readlink(place: Place) -> bytes:
    """``readlinkat(2)``."""
    if place.parent is None:
        return os.readlink(b"", dir_fd=place.descriptor)
    return os.readlink(place.name, dir_fd=directory(place.parent))


def lineage(descriptor: int) -> list[tuple[int, int]]:
    """(device, inode) of an open directory and of all that it lies in, up to the root.

    They tell directories apart, so neither links nor bind mounts deceive. Raises OSError.
    """
    here = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 0)
    found: list[tuple[int, int]] = []
    try:
        while True:
            status = os.fstat(here)
            identity = (status.st_dev, status.st_ino)
            if found and identity == found[-1]:
                return found
            found.append(identity)
            above = os.open(b"..", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=here)
            os.close(here)
            here = above
    finally:
        os.close(here)
