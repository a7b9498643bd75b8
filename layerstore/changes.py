"""What differs between two views, name by name."""

from __future__ import annotations

import enum
import os
import stat
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, Protocol, runtime_checkable

from layerstore.pieces import reads_the_same
from layerstore.view import View, ViewNode
from unionfs.merge import Source, Stack
from unionfs.model import Entry

Aspect = Literal["type", "mode", "owner", "mtime", "links", "device", "target", "xattrs", "content"]
"""In what one name can differ. The mode is without the type; links is how many names the inode has
in its layer; device is the number of a device; target is a symbolic link's."""

Pair = tuple[ViewNode | None, ViewNode | None]
"""One name in two directories; None where it is not."""

OF_THE_HOST: Final = frozenset((b"security.selinux",))
"""Extended attributes that tell of the machine a file lies on, and nothing of the file."""


@runtime_checkable
class Keyed(Protocol):
    """A layer that can tell equal contents apart from others without reading them."""

    def content_key(self, entry: Entry) -> Hashable | None:
        """A key of a regular file's content, None if there is none: among all layers that have
        keys, equal keys are equal content and different keys different content."""
        ...


class Kind(enum.Enum):
    """What happened to a name."""

    ADDED = "added"
    REMOVED = "removed"
    MODIFIED = "modified"


@dataclass(frozen=True, slots=True)
class Change:
    """One name that differs.

    what: in what, if it was modified; empty otherwise. before, after: what is there; None if the
    name is not.
    """

    path: bytes
    kind: Kind
    what: frozenset[Aspect]
    before: ViewNode | None
    after: ViewNode | None

    @property
    def size_before(self) -> int:
        """Bytes of content, 0 for all but regular files."""
        return _size(self.before)

    @property
    def size_after(self) -> int:
        """Bytes of content, 0 for all but regular files."""
        return _size(self.after)


def compare(before: View, after: View) -> Iterator[Change]:
    """All changes from *before* to *after*: a directory, then what is in it, by name.

    A directory that was added or removed is told with each name in it. One that has only got
    another modification time, because of what happened in it, is modified in its ``mtime`` alone.
    What both have from the same layers is not read. Raises OSError of the layers.
    """
    shared = _shared_layers(before, after)
    levels: list[Iterator[Pair]] = [iter([(before.root(), after.root())])]
    while levels:
        pair = next(levels[-1], None)
        if pair is None:
            levels.pop()
        elif not _is_same_tree(*pair, shared):
            change = _change(*pair)
            if change is not None:
                yield change
            levels.append(pairs(*map(_directory, pair)))


def pairs(one: ViewNode | None, other: ViewNode | None) -> Iterator[Pair]:
    """The names in two directories side by side, sorted; None has no names."""
    ours, theirs = _children(one), _children(other)
    left, right = next(ours, None), next(theirs, None)
    while left is not None or right is not None:
        if right is None or (left is not None and left.name < right.name):
            yield left, None
            left = next(ours, None)
        elif left is None or right.name < left.name:
            yield None, right
            right = next(theirs, None)
        else:
            yield left, right
            left, right = next(ours, None), next(theirs, None)


def aspects(before: ViewNode, after: ViewNode) -> Iterator[Aspect]:
    """In what two nodes differ, what costs nothing to find out first, the content last.

    Raises OSError of the layers.
    """
    if before.kind != after.kind:
        yield "type"
    if not _is_same(before.source, after.source):
        yield from _differing_metadata(before, after)
    if before.is_regular and after.is_regular and not _has_same_content(before, after):
        yield "content"


def xattrs(node: ViewNode) -> dict[bytes, bytes]:
    """The extended attributes of a node that are its own, not the host's. Raises OSError."""
    found = node.xattrs()
    return {name: value for name, value in found.items() if name not in OF_THE_HOST}


def _differing_metadata(before: ViewNode, after: ViewNode) -> Iterator[Aspect]:
    one, other = before.attributes, after.attributes
    # Linux gives every symbolic link the same mode, and knows no way to change it.
    links = before.is_symlink or after.is_symlink
    if not links and stat.S_IMODE(one.st_mode) != stat.S_IMODE(other.st_mode):
        yield "mode"
    if (one.st_uid, one.st_gid) != (other.st_uid, other.st_gid):
        yield "owner"
    if one.st_mtime_ns != other.st_mtime_ns:
        yield "mtime"
    if before.kind == after.kind:
        yield from _differing_metadata_of_one_kind(before, after)
    if xattrs(before) != xattrs(after):
        yield "xattrs"


def _differing_metadata_of_one_kind(before: ViewNode, after: ViewNode) -> Iterator[Aspect]:
    one, other = before.links, after.links
    if not before.is_directory and one is not None and other is not None and one != other:
        yield "links"
    if before.is_device and before.attributes.st_rdev != after.attributes.st_rdev:
        yield "device"
    if before.is_symlink and before.readlink() != after.readlink():
        yield "target"


def _has_same_content(before: ViewNode, after: ViewNode) -> bool:
    if before.attributes.st_size != after.attributes.st_size:
        return False
    one, other = before.content(), after.content()
    if _is_same(one, other):
        return True
    key, other_key = _key(one), _key(other)
    if key is not None and other_key is not None:
        return key == other_key
    return _has_same_bytes(one, other)


def _key(source: Source) -> Hashable | None:
    return source.layer.content_key(source.entry) if isinstance(source.layer, Keyed) else None


def _has_same_bytes(one: Source, other: Source) -> bool:
    left = one.layer.open(one.entry)
    try:
        right = other.layer.open(other.entry)
        try:
            return reads_the_same(left, right)
        finally:
            os.close(right)
    finally:
        os.close(left)


def _change(before: ViewNode | None, after: ViewNode | None) -> Change | None:
    if before is None:
        assert after is not None
        return Change(after.path, Kind.ADDED, frozenset(), None, after)
    if after is None:
        return Change(before.path, Kind.REMOVED, frozenset(), before, None)
    what = frozenset(aspects(before, after))
    return Change(before.path, Kind.MODIFIED, what, before, after) if what else None


def _children(directory: ViewNode | None) -> Iterator[ViewNode]:
    return iter(()) if directory is None else directory.view.children(directory)


def _directory(node: ViewNode | None) -> ViewNode | None:
    return node if node is not None and node.is_directory else None


def _size(node: ViewNode | None) -> int:
    return node.attributes.st_size if node is not None and node.is_regular else 0


def _shared_layers(one: View, other: View) -> int:
    """How many layers, from the base up, two views have in common, nothing else showing there."""
    if one.has_index or other.has_index:
        return 0
    shared = 0
    for left, right in zip(one.layers, other.layers, strict=False):
        if left.identity != right.identity:
            break
        shared += 1
    return shared


def _is_same_tree(one: ViewNode | None, other: ViewNode | None, shared: int) -> bool:
    """Whether two nodes, with all below them, are of the first *shared* layers and the same.

    That the layers further down are the same matters too: redirects may lead to any of them.
    """
    if one is None or other is None:
        return False
    if one.stack[0].position >= shared or other.stack[0].position >= shared:
        return False
    return _inodes(one.stack) == _inodes(other.stack)


def _inodes(stack: Stack) -> list[tuple[str, int, int]]:
    return [_inode(source) for source in stack]


def _inode(source: Source) -> tuple[str, int, int]:
    attributes = source.entry.attributes
    return source.layer.identity, attributes.st_dev, attributes.st_ino


def _is_same(one: Source, other: Source) -> bool:
    return _inode(one) == _inode(other)
