"""Bytes that an image carries and does not show, counted as dive counts them, and as they are.

dive (github.com/wagoodman/dive, dive/filetree/efficiency.go) looks at what each layer has under a
path: files with their sizes, empty directories with 0, and whiteouts, which count what a removed
directory held, and 0 for a removed file. Of these sizes, over all layers,

* efficiency is the sum over all paths of the least, divided by the sum of all;
* wasted are all those of paths that at least two layers have.

So a file that was replaced by its equal counts twice as wasted, and one that went with its
directory does not count at all. *hidden* is what is: the bytes of all files in the layers that the
image does not show. Both agree that of the names of one inode in one layer only one has its size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from layerstore.inspection.listing import is_first_name
from layerstore.layer import StoredLayer
from layerstore.view import Identity, View, ViewNode
from unionfs.model import Entry, Mark


@dataclass(frozen=True, slots=True)
class Version:
    """What one layer has under a path: a file, another leaf of its tree, or a whiteout.

    position: of the layer, 0 for the base. size: bytes of the file, or of the directory that the
    whiteout removed. removes: it is a whiteout. shows: it is what the image shows; a file that has
    several names shows if one of them does.
    """

    position: int
    size: int
    removes: bool
    shows: bool


@dataclass(frozen=True, slots=True)
class PathUse:
    """What the layers have under one path, the topmost first."""

    path: bytes
    versions: tuple[Version, ...]

    @property
    def total(self) -> int:
        """Bytes of all versions."""
        return sum(version.size for version in self.versions)

    @property
    def wasted(self) -> int:
        """What dive counts: the total, if at least two layers have the path."""
        return self.total if len(self.versions) > 1 else 0

    @property
    def hidden(self) -> int:
        """Bytes of files that the image does not show."""
        return sum(version.size for version in self.versions if _is_hidden(version))


@dataclass(frozen=True, slots=True)
class LayerWaste:
    """One layer's part. size: bytes of all its files. wasted: what of its sizes dive counts."""

    diff_id: str
    created_by: str | None
    size: int
    hidden: int
    wasted: int


@dataclass(frozen=True, slots=True)
class Waste:
    """An image's waste, in bytes. layers: the base first. efficiency: from 0 to 1."""

    efficiency: float
    wasted: int
    layers: tuple[LayerWaste, ...]

    @property
    def size(self) -> int:
        """Bytes of the files of all layers."""
        return sum(layer.size for layer in self.layers)

    @property
    def hidden(self) -> int:
        """Bytes of the files that the image does not show."""
        return sum(layer.hidden for layer in self.layers)

    @property
    def shown(self) -> int:
        """Bytes of the files that it shows: what a plain unpack takes."""
        return self.size - self.hidden


def measure(layers: Sequence[StoredLayer]) -> Waste:
    """The waste in an image of these layers, base first. Raises OSError."""
    size, hidden, wasted = ([0] * len(layers) for _ in range(3))
    least = total = 0
    for use in paths(layers):
        total += use.total
        least += min(version.size for version in use.versions)
        for version in use.versions:
            if not version.removes:
                size[version.position] += version.size
            if _is_hidden(version):
                hidden[version.position] += version.size
            if len(use.versions) > 1:
                wasted[version.position] += version.size
    parts = zip(layers, size, hidden, wasted, strict=True)
    return Waste(
        least / total if total else 1.0,
        sum(wasted),
        tuple(
            LayerWaste(layer.identity, layer.describe().get("created_by"), *numbers)
            for layer, *numbers in parts
        ),
    )


def wasteful(layers: Sequence[StoredLayer]) -> list[PathUse]:
    """The paths that waste anything, by dive's count or in fact, those with the most bytes first.

    Raises OSError.
    """
    found = [use for use in paths(layers) if use.wasted or use.hidden]
    return sorted(found, key=lambda use: (-use.total, use.path))


def paths(layers: Sequence[StoredLayer]) -> Iterator[PathUse]:
    """All paths under which a layer has a leaf of its tree, or a whiteout, in no certain order.

    In memory is one directory at a time, and the files with several names. Raises OSError.
    """
    return _Survey(layers).paths()


def _is_hidden(version: Version) -> bool:
    return not version.shows and not version.removes


_Inode = tuple[int, int]
"""Position of the layer, and number."""


class _Said(NamedTuple):
    """What a layer says of a name."""

    position: int
    says: Entry | Mark


class _Directory(NamedTuple):
    """A path under which at least one layer has a directory.

    entries: all such, topmost first, also those that don't show. shown_from: what layers below this
    position have in it is hidden.
    """

    path: bytes
    entries: list[tuple[int, Entry]]
    shown_from: int


class _Survey:
    """Walks the trees of all layers side by side, for what is hidden counts as well."""

    def __init__(self, layers: Sequence[StoredLayer]) -> None:
        self._layers: Final = layers
        # Of each inode with several names: whether one of those that were met shows.
        self._shows: dict[_Inode, bool] = {}
        # Paths to which such inodes' sizes were put down, before all of their names were met.
        self._waiting: list[tuple[PathUse, dict[int, _Inode]]] = []

    def paths(self) -> Iterator[PathUse]:
        directories = [self._root()]
        while directories:
            directory = directories.pop()
            below: list[_Directory] = []
            for path, said in self._names(directory):
                yield from self._path(path, said, directory.shown_from, below)
            directories.extend(reversed(below))
        for use, inodes in self._waiting:
            yield PathUse(use.path, tuple(self._settled(use, inodes)))

    def _root(self) -> _Directory:
        roots = [(number, layer.root()) for number, layer in enumerate(self._layers)]
        opaque = [number for number, root in roots if root.opaque]
        return _Directory(b"", roots[::-1], max(opaque, default=0))

    def _names(self, directory: _Directory) -> Iterator[tuple[bytes, list[_Said]]]:
        """The names in a directory of any layer, with what each layer says, topmost first."""
        listings = [
            (position, self._layers[position].listing(entry))
            for position, entry in directory.entries
        ]
        for name in sorted({name for _, names in listings for name in names}):
            path = directory.path + b"/" + name
            yield path, [_Said(at, names[name]) for at, names in listings if name in names]

    def _path(
        self, path: bytes, said: list[_Said], shown_from: int, below: list[_Directory]
    ) -> Iterator[PathUse]:
        """What layers have under one path; a directory there is added to those *below*."""
        versions: list[Version] = []
        inodes: dict[int, _Inode] = {}
        directories: list[tuple[int, Entry]] = []
        has_directory = False
        for number, (position, says) in enumerate(said):
            shows = position >= shown_from
            if not isinstance(says, Entry):
                size = self._removed(path, position, said[number + 1 :])
                versions.append(Version(position, size, removes=True, shows=False))
            elif says.is_directory:
                directories.append((position, says))
                has_directory = has_directory or shows
                if not self._layers[position].listing(says):
                    versions.append(Version(position, 0, removes=False, shows=shows))
                if not says.opaque:
                    continue
            else:
                shown = shows and not has_directory
                size = self._size(position, says, inodes, shows=shown)
                versions.append(Version(position, size, removes=False, shows=shown))
            if shows:
                shown_from = position
        if directories:
            below.append(_Directory(path, directories, shown_from))
        if inodes:
            self._waiting.append((PathUse(path, tuple(versions)), inodes))
        elif versions:
            yield PathUse(path, tuple(versions))

    def _size(self, position: int, entry: Entry, inodes: dict[int, _Inode], *, shows: bool) -> int:
        """Bytes of a file; 0 if they are put down to another name of it, or it is no file.

        inodes: where an inode with several names is noted if they are put down to this name.
        """
        if not entry.is_regular:
            return 0
        if entry.attributes.st_nlink > 1:
            inode = position, entry.attributes.st_ino
            is_first = inode not in self._shows
            self._shows[inode] = shows or self._shows.get(inode, False)
            if not is_first:
                return 0
            inodes[position] = inode
        return entry.attributes.st_size

    def _settled(self, use: PathUse, inodes: dict[int, _Inode]) -> Iterator[Version]:
        for version in use.versions:
            inode = inodes.get(version.position)
            yield version if inode is None else replace(version, shows=self._shows[inode])

    def _removed(self, path: bytes, position: int, below: Iterable[_Said]) -> int:
        """Bytes of the directory that a whiteout takes away, if it is one."""
        if not any(isinstance(said.says, Entry) and said.says.is_directory for said in below):
            return 0
        view = View(self._layers[:position])
        node: ViewNode | None = view.root()
        for name in path[1:].split(b"/"):
            node = view.child(node, name) if node is not None and node.is_directory else None
        counted: set[Identity] = set()
        return (
            sum(
                found.attributes.st_size
                for found in view.walk(node)
                if found.is_regular and is_first_name(found, counted)
            )
            if node is not None
            else 0
        )
