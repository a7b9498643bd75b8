"""Layers written down as dicts, and the marks that layers come with.

A layer is a dict of names to entries: text or bytes for a file, a dict for a directory, or one of
the classes below where attributes matter. Everything built gets the times `OLD`, so that a later
change shows. A function that gets the new directory may fill it instead.
"""

import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

OLD = 981_173_106_789_012_345

Tree: TypeAlias = "Mapping[str, Item]"
Item: TypeAlias = "str | bytes | Tree | Entry"
Layer: TypeAlias = "Tree | Directory | Path | Callable[[Path], None]"


@dataclass(frozen=True, kw_only=True)
class Entry(ABC):
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = OLD
    xattrs: Mapping[str, bytes] = field(default_factory=dict)

    @abstractmethod
    def make(self, path: Path, root: Path) -> None: ...

    def write(self, path: Path, root: Path) -> None:
        self.make(path, root)
        os.chown(path, self.uid, self.gid, follow_symlinks=False)
        if not path.is_symlink():
            path.chmod(self.mode)
        for name, value in self.xattrs.items():
            os.setxattr(path, os.fsencode(name), value, follow_symlinks=False)
        os.utime(path, ns=(OLD, self.mtime), follow_symlinks=False)


@dataclass(frozen=True)
class File(Entry):
    content: bytes | str = b""
    size: int | None = None

    def make(self, path: Path, root: Path) -> None:
        path.write_bytes(self.content.encode() if isinstance(self.content, str) else self.content)
        if self.size is not None:
            os.truncate(path, self.size)


@dataclass(frozen=True)
class Directory(Entry):
    entries: Tree = field(default_factory=dict)
    mode: int = field(default=0o755, kw_only=True)

    def make(self, path: Path, root: Path) -> None:
        path.mkdir(exist_ok=True)
        for name, item in self.entries.items():
            as_entry(item).write(path / name, root)


@dataclass(frozen=True)
class Symlink(Entry):
    target: str

    def make(self, path: Path, root: Path) -> None:
        path.symlink_to(self.target)


@dataclass(frozen=True)
class Node(Entry):
    kind: int
    major: int = 0
    minor: int = 0

    def make(self, path: Path, root: Path) -> None:
        os.mknod(path, self.kind | 0o600, os.makedev(self.major, self.minor))


@dataclass(frozen=True)
class HardLink(Entry):
    """One more name of an entry that was built before it, named from the layer's root."""

    target: str

    def make(self, path: Path, root: Path) -> None:
        os.link(root / self.target, path, follow_symlinks=False)

    def write(self, path: Path, root: Path) -> None:
        self.make(path, root)


def as_entry(item: Item) -> Entry:
    match item:
        case Entry():
            return item
        case str() | bytes():
            return File(item)
        case _:
            return Directory(item)


def build(root: Path, layer: Layer) -> Path:
    """Make the layer at `root`, or take the directory that it is; return where it lies."""
    if isinstance(layer, Path):
        return layer
    if callable(layer):
        root.mkdir()
        layer(root)
    else:
        as_entry(layer).write(root, root)
    return root


def copies(layer: Tree, names: Iterable[str]) -> Tree:
    """A layer that has `layer` below each name: as many cases in one mount, each on its own."""
    return {name: _moved_below(name, as_entry(layer)) for name in names}


def _moved_below(name: str, entry: Entry) -> Entry:
    match entry:
        case HardLink(target=target):
            return replace(entry, target=f"{name}/{target}")
        case Directory(entries=entries):
            moved = {key: _moved_below(name, as_entry(item)) for key, item in entries.items()}
            return replace(entry, entries=moved)
        case _:
            return entry


WHITEOUT = Node(stat.S_IFCHR, 0, 0)
FIFO = Node(stat.S_IFIFO)
OPAQUE_NAMESPACES = ("trusted.overlay", "user.overlay", "user.fuseoverlayfs")


def opaque(entries: Tree, namespace: str = "trusted.overlay") -> Directory:
    """A directory that hides what lies below it."""
    return Directory(entries, xattrs={f"{namespace}.opaque": b"y"})


def holds_xwhiteouts(entries: Tree, namespace: str = "trusted.overlay") -> Directory:
    """A directory in which files with the whiteout attribute count as whiteouts."""
    return Directory(entries, xattrs={f"{namespace}.opaque": b"x"})


def xwhiteout(namespace: str = "trusted.overlay") -> File:
    return File(xattrs={f"{namespace}.whiteout": b"y"})


def redirect(entries: Tree, to: str, namespace: str = "trusted.overlay") -> Directory:
    """A directory whose content in the layers below is called `to`."""
    return Directory(entries, xattrs={f"{namespace}.redirect": os.fsencode(to)})


def is_whiteout(path: Path) -> bool:
    status = path.lstat()
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0
