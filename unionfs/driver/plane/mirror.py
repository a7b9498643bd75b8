"""The plane as a mirror of the tree: see :class:`unionfs.mirror.Mirror`."""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Final

from unionfs import syscalls
from unionfs.driver.plane import _plane
from unionfs.layers import places
from unionfs.layers.base import Catalogue, Catalogued, Layer
from unionfs.layers.directory import DirectoryLayer
from unionfs.merge import Source
from unionfs.mirror import Adopted, Mirror, Whereabouts
from unionfs.model import Attributes, Entry, PackedAttributes
from unionfs.nodes import INODE_BITS, Node
from unionfs.upper import Upper

# struct fuse_attr of include/uapi/linux/fuse.h.
_ATTRIBUTES: Final = struct.Struct("=QQQqqqIIIIIIIIII")
_NO_ATTRIBUTES: Final = bytes(_ATTRIBUTES.size)
_SECOND: Final = 10**9
_AHEAD_MOST: Final = 64
"""Files that are verified at once before they are opened."""
_AHEAD_SIZE: Final = 1 << 16
"""Bytes that such a file has at most."""
_WHITEOUT: Final = 14  # DT_WHT

_ToldName = tuple[bytes, int, bool, bool, bytes, bytes | None]


class PlaneMirror(Mirror):
    """What the plane is told. It knows nothing until ``started`` is set: then it can answer."""

    def __init__(self) -> None:
        self.started = False
        self._layers: dict[int, DirectoryLayer] = {}
        self._catalogues: dict[int, Catalogue] = {}
        self._proven: Counter[int] = Counter()  # how often in which directory
        self._owners_known = syscalls.every_id_is_mapped()

    def layer(self, position: int, layer: Layer, space: int | None, *, upper: bool) -> None:
        """A layer; directories of the host are what the plane can read, catalogues it is told."""
        if space is None:
            return
        device, known = layer.lineage[0][0], self._owners_known
        if isinstance(layer, DirectoryLayer):
            root, files = layer.statfs(), layer.whiteout_files
            _plane.layer(position, root, upper, files, device, space, known, False)
            self._layers[position] = layer
        elif isinstance(layer, Catalogue):
            root = layer.contents()
            _plane.layer(position, root, upper, False, device, space, known, True)
            self._catalogues[position] = layer

    def space(self, descriptor: int) -> None:
        """Let the plane answer statfs(2)."""
        _plane.space(descriptor)

    def upper(self, upper: Upper) -> None:
        """Let the plane copy up and make whiteouts; what it may not do is asked of us."""
        if upper.metacopies:
            return
        try:
            for position, layer in self._layers.items():
                _plane.filesystem(position, layer.filesystem(layer.root()))
        except OSError:
            # All copies are made by who can tell what is wrong with that layer.
            return
        _plane.copies(upper.scratch, upper.prefix, upper.ordering)

    def fill(self, directory: Node) -> Sequence[tuple[bytes, int]] | None:
        """Tell of a directory all whose sources are directories of the host or of catalogues."""
        # Asked for with each lookup that comes here: what is known is not to be read again.
        if not self.started or _plane.filled(directory.number):
            return None
        found = []
        for position, _, entry in directory.stack:
            path = self._path(position, entry)
            if path is None:
                return None
            found.append((position, path, entry))
        if directory.upper is not None:
            del found[0]
        above = directory.names[0].parent if directory.names else directory
        try:
            asked = _plane.fill(
                directory.number,
                above.number,
                directory.lookups,
                [(position, path, self._told(position, entry)) for position, path, entry in found],
                self._upper_descriptor(directory),
            )
        except (OSError, struct.error):
            # Whoever lists it is told, or it is listed by other rules.
            return None
        if asked is not None:
            directory.lookups = 1
        return asked

    def _path(self, position: int, directory: Entry) -> bytes | None:
        """Where the plane finds a directory of a layer; None if it can't read it, nor be told."""
        if position in self._catalogues:
            return b"."
        layer = self._layers.get(position)
        return None if layer is None else layer.path_to_read(directory)

    def _told(self, position: int, directory: Entry) -> list[_ToldName] | None:
        layer = self._catalogues.get(position)
        return None if layer is None else [_told(name) for name in layer.catalogue(directory)]

    @staticmethod
    def _upper_descriptor(directory: Node) -> int:
        if directory.upper is None:
            return -1
        return os.dup(places.directory(directory.upper.entry.handle))

    def unknown(self, directory: Node) -> Sequence[tuple[bytes, int]]:
        """Names that the plane has found, and can't say what they are."""
        return _plane.unknown(directory.number)

    def put(self, parent: Node, name: bytes, node: Node) -> None:
        """Tell of a name; a directory stays known here as long as the plane knows it."""
        kind = node.mode >> 12  # DT_* of readdir(3), its IFTODT
        if _plane.put(parent.number, name, node.number, kind, node.lookups):
            node.lookups = 1

    def describe(self, directory: Node, attributes: Attributes, links: int) -> None:
        """Tell what a directory is like."""
        _plane.describe(directory.number, _packed(directory.number, attributes, links))

    def remove(self, parent: Node, name: bytes) -> None:
        """Tell that a name is gone."""
        _plane.remove(parent.number, name)

    def raised(self, directory: Node) -> None:
        """Tell that a directory is in the upper now."""
        _plane.raised(directory.number, self._upper_descriptor(directory))

    def leave(self, directory: Node) -> None:
        """Take the names in a directory over."""
        _plane.leave(directory.number)

    def changes(self) -> Sequence[tuple[int, bytes, bool]]:
        """What the plane has changed."""
        return _plane.changes()

    def refer(self, node: Node) -> bool:
        """Count a reference to a directory that the plane knows."""
        return node.is_directory and _plane.refer(node.number)

    def forget(self, number: int, count: int) -> bool:
        """Give up references to what the plane knows by now."""
        return _plane.forget(number, count)

    def has_names(self, directory: Node) -> bool | None:
        """Whether the plane has found names in a directory."""
        return _plane.has_names(directory.number)

    def number(self, parent: Node, name: bytes) -> int:
        """A plain node by its name."""
        return _plane.number(parent.number, name)

    def where(self, number: int) -> Whereabouts | None:
        """Where a plain node is."""
        found = _plane.where(number)
        if found is None:
            return None
        parent, name, positions, packed = found

        def entry(position: int, directory: Entry) -> Entry:
            if position in self._catalogues:
                return _entry(self._catalogues[position], directory, name)
            attributes = self._attributes(position, packed)
            return self._layers[position].known_entry(directory, name, attributes)

        return Whereabouts(parent, name, positions, entry)

    def _attributes(self, position: int, packed: bytes) -> Attributes:
        """Attributes as the layer gave them, which the plane made *packed* of."""
        (number, size, blocks, *seconds, mode, links, uid, gid, device, blksize, _) = (
            _ATTRIBUTES.unpack(packed)
        )
        times, rests = seconds[:3], seconds[3:]
        return PackedAttributes(
            SimpleNamespace(
                st_mode=mode,
                st_nlink=links,
                st_uid=uid,
                st_gid=gid,
                st_ino=number & (1 << INODE_BITS) - 1,
                st_dev=self._layers[position].lineage[0][0],
                st_rdev=_device(device),
                st_size=size,
                st_blksize=blksize,
                st_blocks=blocks,
                st_atime_ns=times[0] * _SECOND + rests[0],
                st_mtime_ns=times[1] * _SECOND + rests[1],
                st_ctime_ns=times[2] * _SECOND + rests[2],
            )
        )

    def unproven(self, number: int) -> Whereabouts | None:
        """Where a file of a catalogue is."""
        if not self._catalogues or _plane.trusted(number):
            return None
        return self.where(number)

    def proven(self, number: int, place: Whereabouts, directory: Source) -> bool:
        """Let the plane open a file of a catalogue; and as many as were opened there before."""
        layer = self._catalogues[directory.position]
        path = layer.content_path(directory.entry, place.name)
        proven = _plane.trust(place.parent, place.name, path)
        ahead = min(self._proven[place.parent], _AHEAD_MOST)
        self._proven[place.parent] += 1
        for name in _plane.untrusted(number, _AHEAD_SIZE, ahead):
            # Whoever opens it is told what is wrong.
            with contextlib.suppress(OSError):
                _plane.trust(place.parent, name, layer.content_path(directory.entry, name))
        return proven

    def adopt(self, number: int) -> Adopted:
        """Take a plain node over."""
        return Adopted(*_plane.adopt(number))


def _entry(layer: Layer, directory: Entry, name: bytes) -> Entry:
    found = layer.lookup(directory, name)
    if not isinstance(found, Entry):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
    return found


def _told(name: Catalogued) -> _ToldName:
    entry = name.entry
    if not isinstance(entry, Entry):
        return name.name, _WHITEOUT, True, True, _NO_ATTRIBUTES, None
    attributes = entry.attributes
    # What else there is to know of one, of its other names above all, is ours to say.
    special = entry.opaque or entry.implied or entry.redirect is not None
    plain = not special and (entry.is_directory or attributes.st_nlink == 1)
    packed = _packed(attributes.st_ino, attributes, attributes.st_nlink)
    kind = attributes.st_mode >> 12  # DT_* of readdir(3), its IFTODT
    return name.name, kind, plain, not name.has_attributes, packed, name.text


def _packed(number: int, attributes: Attributes, links: int) -> bytes:
    if not isinstance(attributes, PackedAttributes):
        attributes = PackedAttributes(attributes)
    (mode, _, uid, gid, _, _, device, size, blksize, blocks, *times) = attributes.unpacked()
    return _ATTRIBUTES.pack(
        number,
        size,
        blocks,
        *times[::2],
        *times[1::2],
        mode,
        links,
        uid,
        gid,
        _wire(device),
        blksize,
        0,
    )


def _wire(device: int) -> int:
    """The kernel's new_encode_dev."""
    major, minor = os.major(device), os.minor(device)
    return (minor & 0xFF | major << 8 | (minor & ~0xFF) << 12) & 0xFFFFFFFF


def _device(wire: int) -> int:
    """The kernel's new_decode_dev."""
    return os.makedev((wire & 0xFFF00) >> 8, (wire & 0xFF) | (wire >> 12 & 0xFFF00))
