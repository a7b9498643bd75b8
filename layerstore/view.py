"""The merged tree of several layers, read-only, for all that inspects, compares or packs.

It asks :mod:`unionfs.merge` and keeps nothing but the way from the root to a node, so that a walk
over a tree of any size needs memory for its depth and for one directory's names.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from layerstore.errors import StoreError
from unionfs import copyup, merge
from unionfs.layers.base import Layer
from unionfs.merge import Source, Stack
from unionfs.model import WHITEOUT, Attributes, Entry, Mark

_LINKS_MAX: Final = 40  # MAXSYMLINKS of linux/namei.h

Identity = tuple[int, int, int]
"""(position, device, inode): names of one identity in one view are one inode."""


def identity(source: Source) -> Identity:
    """Which inode of which layer a source is."""
    attributes = source.entry.attributes
    return source.position, attributes.st_dev, attributes.st_ino


class ViewNode:
    """One name of a view.

    path: its names from the root, with slashes between them; empty for the root itself.
    stack: what it consists of (:mod:`unionfs.merge`); one source unless it is a directory.
    indexed: the index has its inode, so that the layers don't tell how many names that has.
    """

    __slots__ = ("indexed", "name", "parent", "path", "stack", "view")

    def __init__(
        self,
        view: View,
        parent: ViewNode | None,
        name: bytes,
        stack: Stack,
        *,
        indexed: bool = False,
    ) -> None:
        self.view: Final = view
        self.parent: Final = parent
        self.name: Final = name
        above = b"" if parent is None else parent.path
        self.path: Final[bytes] = above + b"/" + name if above else name
        self.stack: Final = stack
        self.indexed: Final = indexed

    @property
    def source(self) -> Source:
        """The source whose attributes and extended attributes count."""
        return merge.described(self.stack)

    @property
    def attributes(self) -> Attributes:
        """Its attributes; the link count is its layer's (see :attr:`links`)."""
        return self.source.entry.attributes

    @property
    def identity(self) -> Identity:
        """The inode that it is a name of."""
        return identity(self.stack[0])

    @property
    def links(self) -> int | None:
        """How many names its layer has for its inode; None where only the index could tell."""
        return None if self.indexed else self.attributes.st_nlink

    @property
    def may_have_other_names(self) -> bool:
        """Whether other names in the view may be the same inode."""
        return not self.is_directory and self.links != 1

    @property
    def kind(self) -> int:
        """The type bits of its mode."""
        return stat.S_IFMT(self.attributes.st_mode)

    @property
    def is_directory(self) -> bool:
        return self.kind == stat.S_IFDIR

    @property
    def is_regular(self) -> bool:
        return self.kind == stat.S_IFREG

    @property
    def is_symlink(self) -> bool:
        return self.kind == stat.S_IFLNK

    @property
    def is_device(self) -> bool:
        return self.kind in (stat.S_IFCHR, stat.S_IFBLK)

    @property
    def is_socket(self) -> bool:
        return self.kind == stat.S_IFSOCK

    def content(self) -> Source:
        """For a regular file: the source that holds its content. Raises OSError (merge.content)."""
        if self.parent is None:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with Naming(self.path):
            return merge.content(self.view.layers, self.parent.stack, self.name, self.stack[0])

    def open(self) -> int:
        """A descriptor for reading a regular file; the caller closes it. Raises OSError."""
        _, layer, entry = self.content()
        with Naming(self.path):
            return layer.open(entry)

    def readlink(self) -> bytes:
        """The target of a symbolic link. Raises OSError."""
        _, layer, entry = self.stack[0]
        with Naming(self.path):
            return layer.readlink(entry)

    def xattrs(self) -> dict[bytes, bytes]:
        """The extended attributes, sorted by name, without the layers' marks. Raises OSError."""
        _, layer, entry = self.source
        with Naming(self.path):
            return {name: layer.getxattr(entry, name) for name in sorted(layer.listxattr(entry))}


class Said(NamedTuple):
    """What one layer says of a path.

    position, layer: which layer. at: the name that it speaks of, as that layer calls it: the path
    itself, or a directory above it that it hides or replaces. says: an entry, or WHITEOUT.
    hidden: a layer further up has the last word already, so that this shows nowhere.
    """

    position: int
    layer: Layer
    at: bytes
    says: Entry | Mark
    hidden: bool


class View:
    """What *layers*, base first, show together. Raises StoreError if there are none.

    index: for an upper directory as the last layer, the ``index`` of its work directory opened as
    a layer: it has the inodes with several names that were copied up, under whose names not yet
    touched the layers below show what was there before.

    Methods raise OSError of the layers, its filename the path in the view. The layers stay the
    caller's to close, and open as long as nodes are used.
    """

    def __init__(self, layers: Sequence[Layer], index: Layer | None = None) -> None:
        if not layers:
            raise StoreError("an image without layers has nothing to show")
        self.layers: Final = tuple(layers)
        self._index: Final = None if index is None else _Index(index)

    @property
    def has_index(self) -> bool:
        """Whether names that the upper directory does not have may show what the index has."""
        return self._index is not None and bool(self._index.copies)

    def root(self) -> ViewNode:
        """The root directory."""
        return ViewNode(self, None, b"", merge.roots(self.layers))

    def child(self, directory: ViewNode, name: bytes) -> ViewNode | None:
        """What is called *name* in *directory*; None if nothing is. Raises OSError: ENOTDIR."""
        _require_directory(directory)
        return self._child(directory, name, None)

    def children(self, directory: ViewNode) -> Iterator[ViewNode]:
        """All that is in *directory*, sorted by name. Raises OSError: ENOTDIR.

        What layers hold open for the directory is given up when the last one has been taken.
        """
        _require_directory(directory)
        with Naming(directory.path):
            names = merge.children(directory.stack)
        for name, position in sorted(names.items()):
            node = self._child(directory, name, position)
            if node is not None:
                yield node
        for _, layer, entry in directory.stack:
            layer.forget(entry)

    def walk(
        self,
        start: ViewNode | None = None,
        *,
        without: Callable[[ViewNode], bool] | None = None,
    ) -> Iterator[ViewNode]:
        """*start* (the root, if None) and all below it: a directory, then its names, sorted.

        without: asked for each; those for which it answers true are passed by with all below them.
        """
        first = self.root() if start is None else start
        levels = [iter([first])]
        while levels:
            node = next(levels[-1], None)
            if node is None:
                levels.pop()
                continue
            if without is not None and without(node):
                continue
            yield node
            if node.is_directory:
                levels.append(self.children(node))

    def find(self, path: bytes, *, follow: bool = False) -> ViewNode:
        """What *path* leads to from the root, which nothing leads out of, as with chroot(2).

        follow: whether a symbolic link that the path ends with is followed; those on the way are.
        Raises OSError: ENOENT, ENOTDIR, ELOOP.
        """
        node = self.root()
        waiting = path.split(b"/")[::-1]
        links = 0
        while waiting:
            name = waiting.pop()
            _require_directory(node)
            if name == b"..":
                node = node.parent or node
            elif name not in (b"", b"."):
                child = self._child(node, name, None)
                if child is None:
                    raise _failure(errno.ENOENT, path)
                if child.is_symlink and (follow or waiting):
                    links += 1
                    if links > _LINKS_MAX:
                        raise _failure(errno.ELOOP, path)
                    target = child.readlink()
                    node = self.root() if target.startswith(b"/") else node
                    waiting.extend(target.split(b"/")[::-1])
                else:
                    node = child
        return node

    def history(self, path: bytes) -> list[Said]:
        """What the layers say of *path* (:attr:`ViewNode.path`), the topmost first.

        Layers that say nothing of it are left out. What the view shows is the first that is not
        hidden and gives an entry of the path itself (an implied one only takes away).
        """
        history: list[Said] = []
        names = path.split(b"/") if path else []
        # How many names the deepest directory on the way is away from the path.
        reached = len(names) + 1
        hidden = False
        for position in range(len(self.layers) - 1, -1, -1):
            layer = self.layers[position]
            answer = _ask(layer, names)
            if answer.says is not None:
                hidden = hidden or (answer.ends_a_merge and answer.left >= reached)
                at = b"/".join(names[: len(names) - answer.left])
                history.append(Said(position, layer, at, answer.says, hidden))
            hidden = hidden or answer.ends
            reached = min(reached, answer.reached)
            names = answer.names
        return history

    def _child(self, directory: ViewNode, name: bytes, position: int | None) -> ViewNode | None:
        with Naming(directory.path, name):
            stack = merge.resolve(self.layers, directory.stack, name, position)
        if not stack:
            return None
        if self._index is not None and not stack[0].entry.is_directory:
            source, indexed = self._index.copy(stack[0], len(self.layers) - 1)
            return ViewNode(self, directory, name, (source,), indexed=indexed)
        return ViewNode(self, directory, name, stack)


class _Index:
    """The inodes in the index of an upper directory's work directory.

    copies: each by its name there (:func:`unionfs.copyup.index_key`).
    """

    def __init__(self, layer: Layer) -> None:
        self._layer: Final = layer
        root = layer.root()
        found = ((name, layer.lookup(root, name)) for name in layer.listing(root))
        # The kernel has directories and whiteouts there too, for its nfs_export.
        self.copies: Final = {
            name: entry
            for name, entry in found
            if isinstance(entry, Entry) and not entry.is_directory
        }
        self._inodes: Final = {_inode(copy) for copy in self.copies.values()}

    def copy(self, source: Source, upper: int) -> tuple[Source, bool]:
        """What shows where the layers have *source*, not a directory: its copy in the index if
        there is one, as the upper's, at position *upper*; and whether its inode is there.
        """
        entry = source.entry
        if source.position == upper:
            return source, _inode(entry) in self._inodes
        if entry.attributes.st_nlink < 2:
            return source, False
        copy = self.copies.get(copyup.index_key(source, source.layer.origin(entry)))
        if copy is None or _kind(copy) != _kind(entry):
            return source, False
        return Source(upper, self._layer, copy), True


def _inode(entry: Entry) -> tuple[int, int]:
    return entry.attributes.st_dev, entry.attributes.st_ino


def _kind(entry: Entry) -> int:
    return stat.S_IFMT(entry.attributes.st_mode)


class _Answer(NamedTuple):
    """What :func:`_ask` found.

    says: None if the layer says nothing of the path. left: how many names are between what it
    speaks of and the path. reached: the same for the deepest directory on the way. ends: layers
    further down have nothing to say. names: what the path is called further down.
    """

    says: Entry | Mark | None
    left: int
    reached: int
    ends: bool
    names: list[bytes]

    @property
    def ends_a_merge(self) -> bool:
        """Whether it is below directories that don't show it."""
        return isinstance(self.says, Entry) and not self.says.is_directory


def _ask(layer: Layer, names: list[bytes]) -> _Answer:
    """What one layer says of the path *names*; see merge for the rules that redirects keep."""
    total = len(names)
    entry = layer.root()
    opaque = (entry, total) if entry.opaque else None
    below: list[bytes] = []
    for depth, name in enumerate(names):
        left = total - depth - 1
        found = layer.lookup(entry, name)
        if found is None:
            below += names[depth:]
            if opaque is None:
                return _Answer(None, 0, left + 1, False, below)
            return _Answer(*opaque, left + 1, True, below)
        if found is WHITEOUT or (isinstance(found, Entry) and left and not found.is_directory):
            return _Answer(found, left, left + 1, True, below + names[depth:])
        assert isinstance(found, Entry)
        entry = found
        if entry.opaque:
            opaque = (entry, left)
        if entry.redirect is None:
            below.append(name)
        elif entry.redirect.startswith(b"/"):
            # It leads from the root, whatever is opaque on the way (merge, _starts_anew).
            below = entry.redirect[1:].split(b"/")
            opaque = (entry, left) if entry.opaque else None
        else:
            below.append(entry.redirect)
    if not entry.is_directory:
        return _Answer(entry, 0, 1, True, below)
    if entry.implied:
        if opaque is None:
            return _Answer(None, 0, 0, False, below)
        return _Answer(*opaque, 0, True, below)
    return _Answer(entry, 0, 0, opaque is not None, below)


def _require_directory(node: ViewNode) -> None:
    if not node.is_directory:
        raise _failure(errno.ENOTDIR, node.path)


class Naming:
    """A context: in its block an OSError is about the path that *names* make."""

    __slots__ = ("_names",)

    def __init__(self, *names: bytes) -> None:
        self._names = names

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            path = os.fsdecode(os.path.join(*self._names) or b".")
            raise OSError(error.errno, error.strerror, path) from error


def _failure(number: int, path: bytes) -> OSError:
    return OSError(number, os.strerror(number), os.fsdecode(path))
