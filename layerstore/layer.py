"""``StoredLayer``: a layer served from its index and the objects, without extraction."""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import stat
import struct
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from layerstore import leases
from layerstore.errors import DamagedError
from layerstore.index import ROOT, Index, Inode
from layerstore.objects import Key, Objects, has_hash
from unionfs.flags import Call
from unionfs.layers import markers
from unionfs.layers.base import Catalogued
from unionfs.model import WHITEOUT, Entry, Mark, PackedAttributes

_log: Final = logging.getLogger(__name__)

_LISTINGS: Final = 8
_BLOCK: Final = 4096
# No device of the host has a number of so many bits.
_DEVICE: Final = 1 << 62
_DEVICE_DIGITS: Final = 12
_SOON_READ: Final = 1 << 22
"""Bytes that are read and hashed in a millisecond, the kernel having them."""


class StoredLayer:
    """A layer of a store; see :class:`unionfs.layers.base.Layer` for the contract.

    directory: its directory in the store. diff_id: its digest, ``sha256:...``. objects: where its
    contents are. created_by: what the image's history says of it.

    As long as it is open nobody takes it away. Raises OSError (FileNotFoundError if the store does
    not have it) and DamagedError.
    """

    def __init__(
        self, directory: str, diff_id: str, objects: Objects, created_by: str | None = None
    ) -> None:
        self._diff_id = diff_id
        self._objects = objects
        self._created_by = created_by
        digits = diff_id.partition(":")[2][:_DEVICE_DIGITS]
        self._device = _DEVICE | int(digits, 16)
        self._listings: OrderedDict[int, Mapping[bytes, Entry | Mark]] = OrderedDict()
        with contextlib.ExitStack() as undo:
            self._lease = leases.hold(directory)
            undo.callback(os.close, self._lease)
            self.index: Final = Index(f"{directory}/index.sqlite")
            undo.callback(self.index.close)
            self._pool = os.open(objects.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            undo.callback(os.close, self._pool)
            self._verified = bytearray(self.index.highest() + 1)
            undo.pop_all()

    @property
    def identity(self) -> str:
        """The diff ID."""
        return self._diff_id

    @property
    def lineage(self) -> Sequence[tuple[int, int]]:
        """Its own root only: it is nowhere on the host."""
        return [(self._device, ROOT)]

    def describe(self) -> Mapping[str, str]:
        """``label`` and ``digest``, and ``created_by`` where the image tells it."""
        about = {"label": self._diff_id, "digest": self._diff_id}
        if self._created_by:
            about["created_by"] = self._created_by
        return about

    def root(self) -> Entry:
        with self._os_errors():
            return self._entry(self.index.inode(ROOT))

    def lookup(self, directory: Entry, name: bytes) -> Entry | Mark | None:
        listed = self._listings.get(directory.handle)
        if listed is not None:
            return listed.get(name)
        with self._os_errors():
            found = self.index.child(directory.handle, name)
            return None if found is None else self._named(found)

    def listing(self, directory: Entry) -> Mapping[bytes, Entry | Mark]:
        inode: int = directory.handle
        listed = self._listings.get(inode)
        if listed is None:
            with self._os_errors():
                listed = {name: self._named(child) for name, child in self.index.children(inode)}
            # Whoever lists looks the names up next.
            self._listings[inode] = listed
            if len(self._listings) > _LISTINGS:
                self._listings.popitem(last=False)
        return listed

    def contents(self) -> int:
        """The pool of objects."""
        return self._pool

    @functools.cached_property
    def _with_attributes(self) -> frozenset[int]:
        return self.index.with_xattrs()

    def catalogue(self, directory: Entry) -> Iterator[Catalogued]:
        with self._os_errors():
            for name, inode in self.index.children(directory.handle):
                text, key = inode.target, inode.key
                if key is not None and self._verified[inode.inode]:
                    text = os.fsencode(self._objects.path_below(key))
                has_attributes = inode.inode in self._with_attributes
                yield Catalogued(name, self._named(inode), has_attributes, text)

    def content_path(self, directory: Entry, name: bytes) -> bytes:
        with self._os_errors():
            inode = self.index.child(directory.handle, name)
            if inode is None or inode.key is None:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            if not self._verified[inode.inode]:
                os.close(self._opened(inode.inode, inode.key))
            return os.fsencode(self._objects.path_below(inode.key))

    def metacopy(self, entry: Entry) -> bytes | None:
        """None: every file of an image has its own content."""
        return None

    def readlink(self, entry: Entry) -> bytes:
        with self._os_errors():
            target = self.index.inode(entry.handle).target
        if target is None:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return target

    def listxattr(self, entry: Entry) -> list[bytes]:
        with self._os_errors():
            return list(self.index.xattrs(entry.handle))

    def getxattr(self, entry: Entry, name: bytes) -> bytes:
        with self._os_errors():
            attributes = self.index.xattrs(entry.handle)
        if name not in attributes or markers.is_mark(name):
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        return attributes[name]

    def flags(self, entry: Entry, call: Call) -> bytes:
        """None: an image can't tell any."""
        return bytes(call.size)

    def protection(self, entry: Entry) -> int:
        """None, likewise."""
        return 0

    def open(self, entry: Entry) -> int:
        """See the contract. EIO if the content is damaged."""
        with self._os_errors():
            key = self.index.inode(entry.handle).key
            if key is None:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            return self._opened(entry.handle, key)

    def opens_slowly(self, entry: Entry) -> bool:
        return entry.attributes.st_size > _SOON_READ and not self._verified[entry.handle]

    def _opened(self, inode: int, key: Key) -> int:
        """When a content is first opened, all of it is read: nothing wrong is ever given out."""
        descriptor = self._objects.open(key)
        try:
            if not self._verified[inode]:
                if not has_hash(descriptor, key):
                    raise DamagedError(f"object {key.name} is damaged; see layerstore check")
                self._verified[inode] = 1
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def content_key(self, entry: Entry) -> Hashable | None:
        """What equals that of another regular file of this store just when their contents do."""
        with self._os_errors():
            return self._objects.root, self.index.inode(entry.handle).key

    def origin(self, entry: Entry) -> bytes | None:
        """None: an inode of a store has no handle of the host."""
        return None

    def forget(self, entry: Entry) -> None:
        self._listings.pop(entry.handle, None)

    def statfs(self) -> int:
        return self._lease

    def close(self) -> None:
        self._listings.clear()
        self.index.close()
        os.close(self._pool)
        os.close(self._lease)

    @contextlib.contextmanager
    def _os_errors(self) -> Iterator[None]:
        """Damage is EIO to whoever reads through a mount, and a line in the log."""
        try:
            yield
        except DamagedError as error:
            _log.error("layer %s: %s", self._diff_id, error)
            raise OSError(errno.EIO, f"layer {self._diff_id}: {error}") from error

    def _named(self, inode: Inode) -> Entry | Mark:
        return self._entry(inode) if inode.inode else WHITEOUT

    def _entry(self, inode: Inode) -> Entry:
        try:
            attributes = PackedAttributes(_status(inode, self._device))
        except (struct.error, OverflowError) as error:
            raise DamagedError(f"its index has an inode that can't be: {error}") from error
        return Entry(
            attributes,
            inode.inode,
            opaque=bool(inode.opaque),
            implied=bool(inode.implied),
        )


class _Status(NamedTuple):
    st_mode: int
    st_ino: int
    st_dev: int
    st_nlink: int
    st_uid: int
    st_gid: int
    st_rdev: int
    st_size: int
    st_blksize: int
    st_blocks: int
    st_atime_ns: int
    st_mtime_ns: int
    st_ctime_ns: int


def _status(inode: Inode, device: int) -> _Status:
    time = inode.seconds * 10**9 + inode.nanoseconds
    size = inode.size or 0
    if stat.S_ISLNK(inode.mode) and inode.target is not None:
        size = len(inode.target)
    return _Status(
        inode.mode,
        inode.inode,
        device,
        inode.links,
        inode.uid,
        inode.gid,
        inode.rdev,
        size,
        _BLOCK,
        inode.blocks or 0,
        time,
        time,
        time,
    )
