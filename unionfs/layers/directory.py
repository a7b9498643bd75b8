"""A directory on the host as a layer."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import stat
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from unionfs import flags, syscalls
from unionfs.flags import Call
from unionfs.layers import markers, places
from unionfs.layers.markers import Dialects
from unionfs.layers.places import Place
from unionfs.model import (
    OVERFLOW_ID,
    UNREAD,
    WHITEOUT,
    Attributes,
    Entry,
    Mark,
    PackedAttributes,
)

_log: Final = logging.getLogger(__name__)

_CHANGED: Final = "a layer changed while it was mounted"
_PATH_MAX: Final = 3800
"""Bytes of a path that leave room for one name more within what the kernel takes (limits.h)."""
# No such name, or one longer than this filesystem has any.
_ABSENT: Final = (errno.ENOENT, errno.ENAMETOOLONG)
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
# struct ovl_fb of fs/overlayfs/overlayfs.h: version, magic, length, flags, type, filesystem.
_ORIGIN: Final = struct.Struct("=BBBBB16s")
_ORIGIN_MAGIC: Final = 0xFB
_ORIGIN_ENDIAN: Final = 0 if sys.byteorder == "little" else 1


class DirectoryLayer:
    """The tree below a directory; see :class:`unionfs.layers.base.Layer` for the contract.

    path: the directory. dialects: what its whiteouts may look like. namespace: whose marks are
    believed (see :func:`unionfs.layers.markers.spellings`). writable: it is to be an
    upper, and has to be reached by the mount it lies on; any other layer is reached by a private
    read-only view of it where our privileges allow (see :func:`unionfs.syscalls.clone_tree`).

    Raises OSError if it can't be opened as a directory.
    """

    def __init__(
        self,
        path: bytes,
        dialects: Dialects = Dialects.AUTO,
        *,
        namespace: bytes = markers.TRUSTED,
        writable: bool = False,
    ) -> None:
        self.whiteout_files: Final = dialects is Dialects.AUTO
        """Whether names beginning ``.wh.`` are whiteouts in it."""
        self._namespace = namespace
        self._doubted = False
        self._every_id_is_mapped = syscalls.every_id_is_mapped()
        self._writable = writable
        self._filesystems: dict[int, bytes] = {}
        self._attributes_of: tuple[Place, list[bytes]] | None = None
        plain = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # Its real path, in one call.
            self._path = os.readlink(b"/proc/self/fd/%d" % plain)
            self.lineage: Sequence[tuple[int, int]] = places.lineage(plain)
        except OSError:
            os.close(plain)
            raise
        view = None if writable else _private_view(plain)
        if view is not None:
            os.close(plain)
        self.is_private: Final = view is not None
        """Whether mounts made from now on, ours above all, stay out of it."""
        self._root = Place(None, b"", plain if view is None else view)

    @property
    def identity(self) -> str:
        """The real path of the directory."""
        return os.fsdecode(self._path)

    def describe(self) -> Mapping[str, str]:
        """Its path as the label; a directory knows nothing else of itself."""
        return {"label": self.identity}

    def root(self) -> Entry:
        entry = self._directory(self._root, places.status(self._root), hidden=False)
        # Nothing is above a root that could have moved it.
        entry.redirect = None
        return entry

    def lookup(self, directory: Entry, name: bytes) -> Entry | Mark | None:
        if self.whiteout_files and markers.is_reserved(name):
            return None
        place: Place = directory.handle
        descriptor = places.directory(place)
        hidden = self.whiteout_files and self._hides(place, descriptor, name)
        try:
            attributes = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
            return WHITEOUT if hidden else None
        return self._entry(Place(place, name), attributes, hidden)

    def listing(self, directory: Entry) -> Mapping[bytes, Entry | Mark]:
        place: Place = directory.handle
        found: dict[bytes, Entry | Mark] = {}
        hidden: set[bytes] = set()
        descriptor = _open_quietly(b".", os.O_DIRECTORY, places.directory(place))
        try:
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    name = os.fsencode(entry.name)
                    if self.whiteout_files and markers.is_reserved(name):
                        if gone := markers.hidden_by(name):
                            hidden.add(gone)
                    else:
                        # What has just gone must not end the listing.
                        with contextlib.suppress(FileNotFoundError):
                            found[name] = self._listed(place, name, entry)
        finally:
            os.close(descriptor)
        place.hidden = frozenset(hidden)
        for name in hidden:
            found.setdefault(name, WHITEOUT)
        return found

    def metacopy(self, entry: Entry) -> bytes | None:
        place: Place = entry.handle
        present = self._names_of_attributes(place)
        if not self._has_mark(markers.METACOPY, present):
            if self._doubts(markers.METACOPY, present):
                raise OSError(errno.EIO, "whose content this file has only a user says", place.name)
            return None
        return self._redirect(place, present) or b""

    def readlink(self, entry: Entry) -> bytes:
        return places.readlink(entry.handle)

    def listxattr(self, entry: Entry) -> list[bytes]:
        present = self._names_of_attributes(entry.handle)
        return [name for name in present if not markers.is_mark(name)]

    def getxattr(self, entry: Entry, name: bytes) -> bytes:
        if markers.is_mark(name):
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        return places.getxattr(entry.handle, name)

    def flags(self, entry: Entry, call: Call) -> bytes:
        with self.opened(entry) as descriptor:
            return fcntl.ioctl(descriptor, call, bytes(call.size))

    def protection(self, entry: Entry) -> int:
        place: Place = entry.handle
        if place.parent is None:
            found = syscalls.extended_attributes(place.descriptor, b"")
        else:
            found = syscalls.extended_attributes(places.directory(place.parent), place.name)
        return found & flags.PROTECTING

    @contextlib.contextmanager
    def opened(self, entry: Entry) -> Iterator[int]:
        """A descriptor for reading a regular file or a directory."""
        if entry.is_directory:
            descriptor = _open_quietly(b".", os.O_DIRECTORY, places.directory(entry.handle))
        else:
            descriptor = self.open(entry)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def open(self, entry: Entry) -> int:
        place: Place = entry.handle
        if place.parent is None:
            return os.open(b"/proc/self/fd/%d" % place.descriptor, os.O_RDONLY | os.O_CLOEXEC)
        try:
            descriptor = _open_quietly(place.name, _READ, places.directory(place.parent))
        except OSError as error:
            try:
                now = places.status(place)
            except FileNotFoundError:
                _log.warning("%s: %s is gone", _CHANGED, self._path_of(place))
                raise
            # A link, a socket or a device refuses in ways of its own.
            self.check_same(entry, now, error)
            raise
        try:
            self.check_same(entry, os.fstat(descriptor))
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def opens_slowly(self, entry: Entry) -> bool:
        """No: nobody can say what a directory of the host should hold."""
        return False

    def origin(self, entry: Entry) -> bytes | None:
        place: Place = entry.handle
        try:
            if place.parent is None:
                kind, handle = syscalls.file_handle(place.descriptor, b"")
            else:
                kind, handle = syscalls.file_handle(places.directory(place.parent), place.name)
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EOVERFLOW):
                return None
            raise
        head = _ORIGIN.pack(
            0,
            _ORIGIN_MAGIC,
            _ORIGIN.size + len(handle),
            _ORIGIN_ENDIAN,
            kind,
            self.filesystem(entry),
        )
        return head + handle

    def filesystem(self, entry: Entry) -> bytes:
        """The UUID of the filesystem that has *entry*. Raises OSError."""
        device = entry.attributes.st_dev
        known = self._filesystems.get(device)
        if known is None:
            place: Place = entry.handle
            parent = place if place.parent is None else place.parent
            descriptor = _open_quietly(b".", os.O_DIRECTORY, places.directory(parent))
            try:
                known = syscalls.filesystem_uuid(descriptor)
            finally:
                os.close(descriptor)
            self._filesystems[device] = known
        return known

    def forget(self, entry: Entry) -> None:
        if entry.handle is not self._root:
            places.forget(entry.handle)

    def statfs(self) -> int:
        return self._root.descriptor

    def close(self) -> None:
        places.forget_below(self._root)

    def _names_of_attributes(self, place: Place) -> list[bytes]:
        """What a place has. A copy-up asks twice, and only an upper changes meanwhile."""
        if self._writable:
            return places.listxattr(place)
        if self._attributes_of is None or self._attributes_of[0] is not place:
            self._attributes_of = place, places.listxattr(place)
        return self._attributes_of[1]

    def mark(self, place: Place, mark: bytes, present: Sequence[bytes]) -> bytes | None:
        """The value of a mark in the spelling that wins; *present* is what ``listxattr`` gave."""
        for name in markers.spellings(mark, self._namespace):
            if name in present:
                return places.getxattr(place, name)
        return None

    def _has_mark(self, mark: bytes, present: Sequence[bytes]) -> bool:
        return any(name in present for name in markers.spellings(mark, self._namespace))

    def _doubts(self, mark: bytes, present: Sequence[bytes]) -> bool:
        """Whether there is a mark that anybody may have set; the log tells of the first."""
        doubted = markers.USER + mark in present
        if doubted and not self._doubted:
            self._doubted = True
            _log.warning(
                "layer %s: marks %s count only with -o userxattr, as anybody can set them",
                self.identity,
                os.fsdecode(markers.USER + mark),
            )
        return doubted

    def check_same(self, entry: Entry, now: os.stat_result, cause: OSError | None = None) -> None:
        """Raise OSError, ESTALE, if what is *now* at the place of *entry* is another inode."""
        then = entry.attributes
        if (now.st_dev, now.st_ino) != (then.st_dev, then.st_ino):
            raise OSError(errno.ESTALE, _CHANGED, self._path_of(entry.handle)) from cause

    def known_entry(self, directory: Entry, name: bytes, attributes: Attributes) -> Entry:
        """The entry of what was found before with *attributes*, and without marks."""
        return Entry(attributes, Place(directory.handle, name))

    def path_to_read(self, directory: Entry) -> bytes | None:
        """The path of a directory below the root, if its listing says all; ``.`` for the root.

        None where whiteouts are told by attributes, or the path is too long for the kernel.
        """
        path = b"/".join(self._names(directory.handle)) or b"."
        if directory.handle.whiteout_attributes or len(path) > _PATH_MAX:
            return None
        return path

    def _path_of(self, place: Place) -> str:
        """Where a place is on the host, for people to read."""
        return os.fsdecode(os.path.join(self._path, *self._names(place)))

    @staticmethod
    def _names(place: Place) -> list[bytes]:
        """The names from the root down to a place."""
        names: list[bytes] = []
        here: Place | None = place
        while here is not None:
            names.append(here.name)
            here = here.parent
        return names[-2::-1]

    def _entry(self, place: Place, attributes: os.stat_result, hidden: bool) -> Entry | Mark:
        mode = attributes.st_mode
        if stat.S_ISDIR(mode):
            return self._directory(place, attributes, hidden)
        if markers.is_whiteout_device(attributes):
            return WHITEOUT
        if stat.S_ISREG(mode) and attributes.st_size == 0 and self._is_whiteout_file(place):
            return WHITEOUT
        return Entry(self._attributes(place, attributes), place)

    def _directory(self, place: Place, attributes: os.stat_result, hidden: bool) -> Entry:
        present = places.listxattr(place)
        opaque = self.mark(place, markers.OPAQUE, present)
        # They are for lower layers only (overlayfs.rst).
        place.whiteout_attributes = not self._writable and opaque == markers.OPAQUE_WITH_WHITEOUTS
        return Entry(
            self._attributes(place, attributes),
            place,
            # A directory and a whiteout of its name in one layer: the whiteout means what is
            # below (image-spec layer.md), which is what opaque says.
            opaque=hidden or opaque == markers.OPAQUE_YES or self._has_opaque_file(place),
            redirect=self._redirect(place, present),
        )

    def attributes(self, place: Place) -> Attributes:
        """The attributes of an entry as they are now; of NO_ID if the owner has no number here."""
        status = places.status(place)
        if self._knows_owner(place, status):
            return status
        return PackedAttributes(status).without_owner()

    def _attributes(self, place: Place, status: os.stat_result) -> PackedAttributes:
        attributes = PackedAttributes(status)
        return attributes if self._knows_owner(place, status) else attributes.without_owner()

    def _knows_owner(self, place: Place, status: os.stat_result) -> bool:
        if self._every_id_is_mapped or OVERFLOW_ID not in (status.st_uid, status.st_gid):
            return True
        return places.has_known_owner(place, status)

    def _has_opaque_file(self, place: Place) -> bool:
        return self.whiteout_files and _exists(places.directory(place), markers.OPAQUE_NAME)

    def _hides(self, place: Place, descriptor: int, name: bytes) -> bool:
        if place.hidden is not None:
            return name in place.hidden
        return _exists(descriptor, markers.whiteout_name(name))

    def _listed(self, place: Place, name: bytes, entry: os.DirEntry[str]) -> Mark:
        if entry.is_dir(follow_symlinks=False) or entry.is_symlink():
            return UNREAD
        if entry.is_file(follow_symlinks=False):
            if not place.whiteout_attributes or entry.stat(follow_symlinks=False).st_size:
                return UNREAD
            return WHITEOUT if self._is_whiteout_file(Place(place, name)) else UNREAD
        whiteout = markers.is_whiteout_device(entry.stat(follow_symlinks=False))
        return WHITEOUT if whiteout else UNREAD

    def _is_whiteout_file(self, place: Place) -> bool:
        if place.parent is None or not place.parent.whiteout_attributes:
            return False
        return self._has_mark(markers.WHITEOUT_ATTRIBUTE, places.listxattr(place))

    def _redirect(self, place: Place, present: Sequence[bytes]) -> bytes | None:
        value = self.mark(place, markers.REDIRECT, present)
        if value is None:
            self._doubts(markers.REDIRECT, present)
            return None
        names = value[1:].split(b"/") if value.startswith(b"/") else [value]
        if any(name in (b"", b".", b"..") or b"/" in name or b"\0" in name for name in names):
            raise OSError(errno.EINVAL, f"a redirect that leads nowhere: {value!r}", self.identity)
        return value


def _exists(descriptor: int, name: bytes) -> bool:
    try:
        os.stat(name, dir_fd=descriptor, follow_symlinks=False)
    except OSError as error:
        if error.errno in _ABSENT:
            return False
        raise
    return True


def _open_quietly(name: bytes, flags: int, directory_fd: int) -> int:
    """Open for reading, without touching the access time where we may (open(2), O_NOATIME)."""
    flags |= os.O_RDONLY | os.O_CLOEXEC
    try:
        return os.open(name, flags | os.O_NOATIME, dir_fd=directory_fd)
    except PermissionError:
        return os.open(name, flags, dir_fd=directory_fd)


def _private_view(plain: int) -> int | None:
    try:
        return syscalls.clone_tree(plain)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOSYS, errno.EINVAL):
            raise
        # Without the privilege (or the kernel) for it, the directory itself has to do.
        return None
