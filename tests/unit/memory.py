"""A layer in memory, as small as a layer can be, and held to the contract like any other."""

from __future__ import annotations

import copy
import errno
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from tests.support import layers
from tests.support.layers import WHITEOUT as WHITEOUT_DEVICE
from tests.support.layers import Directory, File, HardLink, Symlink, Tree, as_entry
from unionfs.flags import Call
from unionfs.layers import markers
from unionfs.model import WHITEOUT, Entry, Mark

_REDIRECT: Final = re.compile(rb"(?!\.\.?\Z)[^/\0]+|(/(?!\.\.?(/|\Z))[^/\0]+)+")


@dataclass
class Status:
    """Attributes."""

    st_mode: int
    st_ino: int
    st_dev: int = 1
    st_nlink: int = 1
    st_uid: int = 0
    st_gid: int = 0
    st_rdev: int = 0
    st_size: int = 0
    st_blksize: int = 4096
    st_blocks: int = 0
    st_atime_ns: int = layers.OLD
    st_mtime_ns: int = layers.OLD
    st_ctime_ns: int = layers.OLD


@dataclass(frozen=True)
class Implied(Directory):
    """A directory that its layer says nothing of but that it has something in it."""

    mtime: int = field(default=0, kw_only=True)


@dataclass(frozen=True)
class _Handle:
    path: bytes
    item: layers.Entry
    names: dict[bytes, Entry | Mark]


class MemoryLayer:
    """The layer that *tree* describes; *lineage* and *device* as if it lay on a host.

    described: what it tells of itself besides its label.
    """

    def __init__(
        self,
        tree: Tree | Directory,
        *,
        identity: str = "memory",
        device: int = 1,
        lineage: Sequence[tuple[int, int]] = (),
        described: Mapping[str, str] | None = None,
    ) -> None:
        self.identity: Final = identity
        self._described = described or {}
        self._device = device
        self._inodes = 0
        self._statfs = -1
        root = as_entry(tree)
        assert isinstance(root, Directory)
        self._root = self._entry(b"/", root)
        self._fill(self._root)
        self.lineage: Final = lineage or [(device, self._root.attributes.st_ino)]

    def describe(self) -> Mapping[str, str]:
        return {"label": self.identity, **self._described}

    def root(self) -> Entry:
        root = copy.copy(self._root)
        root.redirect = None
        return root

    def lookup(self, directory: Entry, name: bytes) -> Entry | Mark | None:
        found = self._handle(directory).names.get(name)
        redirect = found.redirect if isinstance(found, Entry) else None
        if redirect is not None and not _REDIRECT.fullmatch(redirect):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return found

    def listing(self, directory: Entry) -> Mapping[bytes, Entry | Mark]:
        return self._handle(directory).names

    def metacopy(self, entry: Entry) -> bytes | None:
        xattrs = self._handle(entry).item.xattrs
        if "trusted.overlay.metacopy" not in xattrs:
            return None
        return xattrs.get("trusted.overlay.redirect", b"")

    def readlink(self, entry: Entry) -> bytes:
        item = self._handle(entry).item
        if not isinstance(item, Symlink):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return os.fsencode(item.target)

    def listxattr(self, entry: Entry) -> list[bytes]:
        names = map(os.fsencode, self._handle(entry).item.xattrs)
        return [name for name in names if not markers.is_mark(name)]

    def getxattr(self, entry: Entry, name: bytes) -> bytes:
        if name not in self.listxattr(entry):
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        return self._handle(entry).item.xattrs[os.fsdecode(name)]

    def flags(self, entry: Entry, call: Call) -> bytes:
        return bytes(call.size)

    def protection(self, entry: Entry) -> int:
        return 0

    def open(self, entry: Entry) -> int:
        item = self._handle(entry).item
        assert isinstance(item, File)
        writable = os.memfd_create("content")
        try:
            os.write(writable, _content(item))
            return os.open(f"/proc/self/fd/{writable}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(writable)

    def opens_slowly(self, entry: Entry) -> bool:
        return False

    def origin(self, entry: Entry) -> bytes | None:
        return None

    def forget(self, entry: Entry) -> None:
        pass

    def statfs(self) -> int:
        if self._statfs < 0:
            self._statfs = os.memfd_create("statfs")
        return self._statfs

    def close(self) -> None:
        if self._statfs >= 0:
            os.close(self._statfs)

    def _handle(self, entry: Entry) -> _Handle:
        handle: _Handle = entry.handle
        return handle

    def _entry(self, path: bytes, item: layers.Entry) -> Entry:
        self._inodes += 1
        status = Status(item.mode, self._inodes, self._device, st_uid=item.uid, st_gid=item.gid)
        status.st_mtime_ns = item.mtime
        match item:
            case Directory():
                status.st_mode |= stat.S_IFDIR
            case File():
                status.st_mode |= stat.S_IFREG
                status.st_size = len(_content(item))
            case Symlink():
                status.st_mode = stat.S_IFLNK | 0o777
                status.st_size = len(os.fsencode(item.target))
            case layers.Node():
                status.st_mode |= item.kind
                status.st_rdev = os.makedev(item.major, item.minor)
        return Entry(
            status,
            _Handle(path, item, {}),
            opaque=item.xattrs.get("trusted.overlay.opaque") == b"y",
            redirect=item.xattrs.get("trusted.overlay.redirect"),
            implied=isinstance(item, Implied),
        )

    def _fill(self, directory: Entry) -> None:
        handle = self._handle(directory)
        assert isinstance(handle.item, Directory)
        for text, described in handle.item.entries.items():
            name, item = os.fsencode(text), as_entry(described)
            path = handle.path.rstrip(b"/") + b"/" + name
            if item == WHITEOUT_DEVICE:
                handle.names[name] = WHITEOUT
            elif isinstance(item, HardLink):
                handle.names[name] = self._link(path, item)
            else:
                entry = handle.names[name] = self._entry(path, item)
                if entry.is_directory:
                    self._fill(entry)

    def _link(self, path: bytes, link: HardLink) -> Entry:
        entry = self._root
        for name in os.fsencode(link.target).split(b"/"):
            found = self._handle(entry).names[name]
            assert isinstance(found, Entry)
            entry = found
        assert isinstance(entry.attributes, Status)
        entry.attributes.st_nlink += 1
        linked = copy.copy(entry)
        linked.handle = replace(self._handle(entry), path=path)
        return linked


def _content(item: File) -> bytes:
    content = item.content.encode() if isinstance(item.content, str) else item.content
    return content if item.size is None else content[: item.size].ljust(item.size, b"\0")
