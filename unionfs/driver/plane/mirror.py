"""The plane as a mirror of the tree: see :class:`unionfs.mirror.Mirror`."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Final

from unionfs import syscalls
from unionfs.driver.plane import _plane
from unionfs.layers import markers, places
from unionfs.layers.base import Layer
from unionfs.layers.directory import DirectoryLayer
from unionfs.mirror import Adopted, Whereabouts
from unionfs.model import Attributes, Entry, PackedAttributes
from unionfs.nodes import INODE_BITS, Node
from unionfs.upper import Upper

# struct fuse_attr of include/uapi/linux/fuse.h.
_ATTRIBUTES: Final = struct.Struct("=QQQQQQIIIIIIIIII")
_SECOND: Final = 10**9


class PlaneMirror:
    """What the plane is told. It knows nothing until ``started`` is set: then it can answer."""

    def __init__(self) -> None:
        self.started = False
        self._layers: dict[int, DirectoryLayer] = {}
        self._owners_known = syscalls.every_id_is_mapped()

    def layer(self, position: int, layer: Layer, space: int | None, *, upper: bool) -> None:
        """A layer; directories of the host are what the plane can read."""
        if isinstance(layer, DirectoryLayer) and space is not None:
            device = layer.lineage[0][0]
            root, files = layer.statfs(), layer.whiteout_files
            _plane.layer(position, root, upper, files, device, space, self._owners_known)
            self._layers[position] = layer

    def upper(self, upper: Upper) -> None:
        """Let the plane copy up and make whiteouts, where we may do all that they need."""
        if upper.prefix != markers.TRUSTED or upper.metacopies or not self._owners_known:
            return
        try:
            for position, layer in self._layers.items():
                _plane.filesystem(position, layer.filesystem(layer.root()))
        except OSError:
            # All copies are made by who can tell what is wrong with that layer.
            return
        _plane.copies(upper.scratch, upper.prefix, upper.ordering)

    def fill(self, directory: Node) -> Sequence[tuple[bytes, int]] | None:
        """Tell of a directory all whose sources are directories of the host."""
        # Asked for with each lookup that comes here: what is known is not to be read again.
        if not self.started or _plane.filled(directory.number):
            return None
        sources = []
        for position, _, entry in directory.stack:
            layer = self._layers.get(position)
            path = None if layer is None else layer.path_to_read(entry)
            if path is None:
                return None
            sources.append((position, path))
        if directory.upper is not None:
            del sources[0]
        above = directory.names[0].parent if directory.names else directory
        try:
            asked = _plane.fill(
                directory.number,
                above.number,
                directory.lookups,
                sources,
                self._upper_descriptor(directory),
            )
        except OSError:
            # Whoever lists it is told, or it is listed by other rules.
            return None
        if asked is not None:
            directory.lookups = 1
        return asked

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
        self._put(parent.number, name, node, None)

    def describe(self, directory: Node, attributes: Attributes, links: int) -> None:
        """Tell what a directory is like."""
        (parent, name, _) = directory.names[0]
        times = [
            divmod(nanoseconds, _SECOND)
            for nanoseconds in (
                attributes.st_atime_ns,
                attributes.st_mtime_ns,
                attributes.st_ctime_ns,
            )
        ]
        self._put(
            parent.number,
            name,
            directory,
            _ATTRIBUTES.pack(
                directory.number,
                attributes.st_size,
                attributes.st_blocks,
                *(seconds & (1 << 64) - 1 for seconds, _ in times),
                *(rest for _, rest in times),
                attributes.st_mode,
                links,
                attributes.st_uid,
                attributes.st_gid,
                0,
                attributes.st_blksize,
                0,
            ),
        )

    def _put(self, parent: int, name: bytes, node: Node, attributes: bytes | None) -> None:
        kind = node.mode >> 12  # DT_* of readdir(3), its IFTODT
        if _plane.put(parent, name, node.number, kind, attributes, node.lookups):
            node.lookups = 1

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
                st_atime_ns=_signed(times[0]) * _SECOND + rests[0],
                st_mtime_ns=_signed(times[1]) * _SECOND + rests[1],
                st_ctime_ns=_signed(times[2]) * _SECOND + rests[2],
            )
        )

    def adopt(self, number: int) -> Adopted:
        """Take a plain node over."""
        return Adopted(*_plane.adopt(number))


def _signed(seconds: int) -> int:
    return seconds - (1 << 64) if seconds >> 63 else seconds


def _device(wire: int) -> int:
    """The kernel's new_decode_dev."""
    return os.makedev((wire & 0xFFF00) >> 8, (wire & 0xFF) | (wire >> 12 & 0xFFF00))
