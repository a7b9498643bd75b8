"""What is in a directory of an image, and in all below it: ls and tree."""

from __future__ import annotations

import os
import stat
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from layerstore.view import Identity, View, ViewNode
from unionfs.merge import Source

KINDS: Final = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}
"""What files are, in words, by the type bits of their mode."""

_DEVICES: Final = (stat.S_IFCHR, stat.S_IFBLK)


@dataclass(frozen=True, slots=True)
class Item:
    """One name and what it leads to.

    path: from the root of the image, with a slash in front. mode: with the type, as ``st_mode``.
    links: names that its layer has for the inode; 1 for a directory. size: bytes of a file or of
    a link's target, 0 for all else. mtime: nanoseconds since 1970. device: major and minor number;
    None for what is no device. target: of a symbolic link. position: of the layer whose
    attributes these are, 0 for the base.
    """

    path: bytes
    mode: int
    uid: int
    gid: int
    links: int
    size: int
    mtime: int
    device: tuple[int, int] | None
    target: bytes | None
    position: int

    @property
    def name(self) -> bytes:
        """The last part of the path; empty for the root."""
        return self.path.rpartition(b"/")[2]

    @property
    def kind(self) -> str:
        """One of the words in :data:`KINDS`."""
        return KINDS[stat.S_IFMT(self.mode)]


@dataclass(frozen=True, slots=True)
class Listing:
    """A directory's path, and what is in it, sorted by name."""

    path: bytes
    items: list[Item]


@dataclass(frozen=True, slots=True)
class Branch:
    """A name in a tree.

    size: of a directory, bytes of all files below it, each inode once; else that of the item.
    ends: for the start's directory and each further one on the way here, whether the name taken
    there is the last one in it; empty for the start itself.
    """

    item: Item
    size: int
    ends: tuple[bool, ...]


def item(node: ViewNode) -> Item:
    """What there is to tell of a node. Raises OSError."""
    return item_of(node.path, node.source)


def item_of(path: bytes, source: Source) -> Item:
    """What a layer's entry tells of *path*, which has no slash in front. Raises OSError."""
    position, layer, entry = source
    attributes = entry.attributes
    kind = stat.S_IFMT(attributes.st_mode)
    is_directory = kind == stat.S_IFDIR
    rdev = attributes.st_rdev
    return Item(
        b"/" + path,
        attributes.st_mode,
        attributes.st_uid,
        attributes.st_gid,
        1 if is_directory else attributes.st_nlink,
        0 if is_directory else attributes.st_size,
        attributes.st_mtime_ns,
        (os.major(rdev), os.minor(rdev)) if kind in _DEVICES else None,
        layer.readlink(entry) if kind == stat.S_IFLNK else None,
        position,
    )


def items(view: View) -> Iterator[Item]:
    """All that *view* shows but its root: a directory, then what is in it. Raises OSError."""
    walk = view.walk()
    next(walk)
    return map(item, walk)


def listings(view: View, start: ViewNode, *, recursive: bool = False) -> Iterator[Listing]:
    """The directory *start*; *recursive*: and those below it, each before those in it.

    One directory's names are in memory at a time. Raises OSError: ENOTDIR.
    """
    waiting = [start]
    while waiting:
        directory = waiting.pop()
        found: list[Item] = []
        below: list[ViewNode] = []
        for node in view.children(directory):
            found.append(item(node))
            if recursive and node.is_directory:
                below.append(node)
        yield Listing(b"/" + directory.path, found)
        waiting.extend(reversed(below))


def tree(view: View, start: ViewNode, depth: int | None = None) -> Iterator[Branch]:
    """*start* and what is below it, down to *depth* levels (None: all), a directory before what is
    in it.

    The tree is walked twice, since a directory's size comes before it is known; in between only
    sizes of directories are kept. Raises OSError.
    """
    sizes = iter(_sizes(view, start, depth))

    def branch(node: ViewNode, ends: tuple[bool, ...]) -> Branch:
        about = item(node)
        return Branch(about, next(sizes) if node.is_directory else about.size, ends)

    yield branch(start, ())
    if not start.is_directory or depth == 0:
        return
    levels = [_with_ends(view.children(start))]
    ends: list[bool] = []
    while levels:
        node, is_last = next(levels[-1], (None, False))
        del ends[len(levels) - 1 :]
        if node is None:
            levels.pop()
            continue
        ends.append(is_last)
        yield branch(node, tuple(ends))
        if node.is_directory and (depth is None or len(levels) < depth):
            levels.append(_with_ends(view.children(node)))


def _with_ends(nodes: Iterator[ViewNode]) -> Iterator[tuple[ViewNode, bool]]:
    """Each node, and whether it is the last."""
    node = next(nodes, None)
    while node is not None:
        following = next(nodes, None)
        yield node, following is None
        node = following


def _sizes(view: View, start: ViewNode, depth: int | None) -> array[int]:
    """Bytes below each directory that is at most *depth* levels down, in the order of a walk."""
    sizes = array("q")
    above = _level(start)
    open_: list[int] = []
    counted: set[Identity] = set()
    for node in view.walk(start):
        level = _level(node) - above
        del open_[level:]
        if node.is_directory and (depth is None or level <= depth):
            open_.append(len(sizes))
            sizes.append(0)
        elif node.is_regular and is_first_name(node, counted):
            for number in open_:
                sizes[number] += node.attributes.st_size
    return sizes


def is_first_name(node: ViewNode, counted: set[Identity]) -> bool:
    """Whether no other name of the file's inode was asked for with the same set."""
    if not node.may_have_other_names:
        return True
    is_new = node.identity not in counted
    counted.add(node.identity)
    return is_new


def _level(node: ViewNode) -> int:
    return node.path.count(b"/") + 1 if node.path else 0
