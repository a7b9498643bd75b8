"""Identity: which node is which inode number, who knows it, and what is open.

A node is what the mount shows under an inode number. It outlives renames and copy-up, and it
stays as long as the kernel knows it, a descriptor is open, or a node below it stays.
"""

from __future__ import annotations

import stat
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import xxhash

from unionfs.layers.base import Layer
from unionfs.layers.places import Place
from unionfs.merge import Source, described
from unionfs.mirror import Mirror
from unionfs.model import Attributes

ROOT_NUMBER: Final = 1
"""FUSE_ROOT_ID: the kernel never looks the root up, so its number is given."""

INODE_BITS: Final = 48
_SPACES_MAX: Final = 1 << 14  # so that no number has the 62nd bit alone
_HASHED: Final = 1 << 63
_NUMBER_MAX: Final = (1 << 64) - 1

Identity = tuple[int, int, int]
"""(domain, device, inode): one inode of the host, as one layer shows it."""


class Numbering:
    """From an inode of a layer to the inode number that the mount shows.

    The number is the same at every mount of the same layers. Inodes of the first filesystem keep
    their own; each further filesystem has its index in the bits above the 48th (what overlayfs
    calls xino); what does not fit, or lies on a filesystem mounted inside a layer, is hashed.

    layers: base first, the upper last.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._domains: list[int] = []
        self._spaces: dict[tuple[int, int], int] = {}
        # The domains of the layers that are a directory, and of those that are or lie in it.
        being: defaultdict[tuple[int, int], set[int]] = defaultdict(set)
        within: defaultdict[tuple[int, int], set[int]] = defaultdict(set)
        for position, layer in enumerate(layers):
            own, *above = layer.lineage
            # A layer given twice, or inside another, shows the same inodes as other files: it
            # gets a domain of its own.
            taken = within[own].union(*(being[directory] for directory in above))
            domain = next(number for number in range(position + 1) if number not in taken)
            self._domains.append(domain)
            self._spaces.setdefault((domain, own[0]), len(self._spaces))
            being[own].add(domain)
            for directory in layer.lineage:
                within[directory].add(domain)

    def identity(self, position: int, attributes: Attributes) -> Identity:
        """The inode that *attributes*, of the layer at *position*, belong to."""
        return self._domains[position], attributes.st_dev, attributes.st_ino

    def number(self, identity: Identity) -> int:
        """The number for an inode."""
        domain, device, inode = identity
        space = self._spaces.get((domain, device), _SPACES_MAX)
        if space >= _SPACES_MAX or inode >> INODE_BITS:
            return _HASHED | xxhash.xxh3_64_intdigest(b"%d:%d:%d" % identity)
        number = space << INODE_BITS | inode
        return number if number > ROOT_NUMBER else _HASHED | number

    def space(self, position: int, layer: Layer) -> int | None:
        """What numbers of the layer's own filesystem have above the 48th bit, if that is so."""
        space = self._spaces[self._domains[position], layer.lineage[0][0]]
        return space if space < _SPACES_MAX else None


class Name(NamedTuple):
    """A name of a node; below: the position of the layer it was found in, None for the upper."""

    parent: Node
    name: bytes
    below: int | None

    @property
    def in_upper(self) -> bool:
        """Whether the upper itself has it."""
        return self.below is None


class Node:
    """One file, directory, link, device, socket or FIFO of the union.

    upper: where it is in the upper, if it is there.
    lower: what it consists of below: for a directory all that merge, topmost first (a stack of
        :mod:`unionfs.merge`); for anything else one source, or none when it was found in the upper.
    names: what it is called.
    index_key, links: for a copied-up inode that has several names below: its entry in the index,
        and how many names the union has (otherwise the attributes tell).
    content: for a regular file, once asked for: the source of its content.
    children: for a directory, once asked for: its names, each with its node or with the position
        of the topmost layer that has it.
    listed: whether those are all; not so in a directory that we may pass through but not list, or
        of which few names were asked for: so often as asked says.
    protection: for a regular file or a directory, once asked for: what of
        :data:`unionfs.flags.PROTECTING` it has.
    files: what is open; lookups: the kernel's references; known_below: names of nodes in here.
    """

    __slots__ = (
        "asked",
        "children",
        "content",
        "files",
        "identity",
        "index_key",
        "known_below",
        "links",
        "listed",
        "lookups",
        "lower",
        "mode",
        "names",
        "number",
        "protection",
        "upper",
    )

    def __init__(
        self,
        number: int,
        identity: Identity,
        mode: int,
        upper: Source | None,
        lower: Sequence[Source],
    ) -> None:
        self.number = number
        self.identity = identity
        self.mode: Final = stat.S_IFMT(mode)
        self.upper = upper
        self.lower = tuple(lower)
        self.names: list[Name] = []
        self.index_key: bytes | None = None
        self.links = 0
        self.content: Source | None = None
        self.protection: int | None = None
        self.children: dict[bytes, Node | int] | None = None
        self.listed = False
        self.asked = 0
        self.files: list[OpenFile] = []
        self.lookups = 0
        self.known_below = 0

    @property
    def is_directory(self) -> bool:
        return self.mode == stat.S_IFDIR

    @property
    def is_regular(self) -> bool:
        return self.mode == stat.S_IFREG

    @property
    def has_own_content(self) -> bool:
        """Whether a regular file's content, once asked for, was found in the upper."""
        return self.upper is not None and self.content is self.upper

    @property
    def removed(self) -> bool:
        """Whether no name leads here any more."""
        return not self.names and self.number != ROOT_NUMBER

    @property
    def place(self) -> Place:
        """Where it is in the upper, which has it."""
        assert self.upper is not None
        place: Place = self.upper.entry.handle
        return place

    @property
    def top(self) -> Source:
        """The source whose attributes count."""
        return self.upper or described(self.lower)

    @property
    def stack(self) -> Sequence[Source]:
        """For a directory: all that merge, topmost first."""
        return self.lower if self.upper is None else (self.upper, *self.lower)

    def has_name(self, parent: Node, name: bytes) -> Name:
        """The :class:`Name` that *parent* and *name* are; KeyError if it isn't one."""
        for known in self.names:
            if known.parent is parent and known.name == name:
                return known
        raise KeyError(name)


class OpenFile:
    """An open regular file. Its descriptor is also the handle that the kernel gets."""

    __slots__ = ("descriptor", "node", "writable")

    def __init__(self, node: Node, descriptor: int, writable: bool) -> None:
        self.node = node
        self.descriptor = descriptor
        self.writable = writable


class Nodes:
    """All nodes that are known, and the files that are open.

    mirror: is told of names, and may have known a node before.
    """

    def __init__(self, mirror: Mirror | None = None) -> None:
        self._nodes: dict[int, Node] = {}
        self._files: dict[Identity, Node] = {}
        self._mirror = mirror or Mirror()
        self.open_files: Final[dict[int, OpenFile]] = {}
        """By their descriptors."""

    def __len__(self) -> int:
        return len(self._nodes)

    def __contains__(self, number: int) -> bool:
        return number in self._nodes

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes.values())

    def __getitem__(self, number: int) -> Node:
        """The node of a number that the kernel knows; KeyError if it can't know it."""
        return self._nodes[number]

    def find(self, identity: Identity) -> Node | None:
        """The node of an inode that is not a directory, if one of its names is known."""
        return self._files.get(identity)

    def free(self, number: int) -> int:
        """*number*, or the next that no node has: a hash may collide."""
        while number in self._nodes:
            number = number + 1 if number < _NUMBER_MAX else ROOT_NUMBER + 1
        return number

    def add(self, node: Node) -> None:
        """Take up a node; its number is free."""
        self._nodes[node.number] = node
        adopted = self._mirror.adopt(node.number)
        node.lookups = adopted.references
        for descriptor, writable in adopted.handles:
            self.open(node, descriptor, writable=writable)
        if not node.is_directory:
            self._files[node.identity] = node

    def move(self, node: Node, identity: Identity) -> None:
        """A node, not a directory, is another inode of the host from now on."""
        if self._files.pop(node.identity, None) is node and node.number in self._nodes:
            self._files[identity] = node
        node.identity = identity

    def open(self, node: Node, descriptor: int, *, writable: bool) -> OpenFile:
        """A file of *node* was opened."""
        file = OpenFile(node, descriptor, writable)
        self.open_files[descriptor] = file
        node.files.append(file)
        return file

    def close(self, descriptor: int) -> OpenFile:
        """An open file is closed; KeyError if it isn't one."""
        file = self.open_files.pop(descriptor)
        file.node.files.remove(file)
        return file

    def add_name(self, node: Node, parent: Node, name: bytes, below: int | None) -> None:
        """*node* is called *name* in *parent*; below as for :class:`Name`."""
        assert parent.children is not None
        node.names.append(Name(parent, name, below))
        parent.known_below += 1
        parent.children[name] = node
        self._mirror.put(parent, name, node)

    def drop_name(self, node: Node, parent: Node, name: bytes) -> None:
        """*name* in *parent* is not there any more; the parent stays (it is in use)."""
        assert parent.children is not None
        node.names.remove(node.has_name(parent, name))
        parent.known_below -= 1
        del parent.children[name]
        self._mirror.remove(parent, name)

    def release(self, node: Node) -> list[Node]:
        """Forget *node* if nobody needs it, then those above that only it kept.

        Answers those that went: what is held for them can be given up.
        """
        gone = []
        waiting = [node]
        while waiting:
            node = waiting.pop()
            if node.lookups or node.files or node.known_below or node.number == ROOT_NUMBER:
                continue
            if self._nodes.get(node.number) is not node:
                continue
            del self._nodes[node.number]
            if self._files.get(node.identity) is node:
                del self._files[node.identity]
            gone.append(node)
            for parent, name, below in node.names:
                parent.known_below -= 1
                if parent.children is not None and parent.children.get(name) is node:
                    parent.children[name] = node.top.position if below is None else below
                waiting.append(parent)
            node.names.clear()
        return gone
