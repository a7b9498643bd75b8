"""The union as a tree of nodes: finding them, what they are like, keeping them true to the layers.

What an operation means on them is :mod:`unionfs.filesystem`'s affair, bringing them to the upper
that of :mod:`unionfs.raising`.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from unionfs import copyup, flags, merge
from unionfs.layers import markers, places
from unionfs.layers.base import Layer
from unionfs.layers.places import Place
from unionfs.merge import Source
from unionfs.mirror import Mirror, Whereabouts
from unionfs.model import Attributes, Entry
from unionfs.nodes import ROOT_NUMBER, Node, Nodes, Numbering
from unionfs.upper import Upper
from unionfs.waiting import in_thread

_log: Final = logging.getLogger(__name__)
_ABSENT: Final = os.strerror(errno.ENOENT)
# Names in a directory that are asked for one by one; from then on it pays to read them all. As
# unionfs/driver/plane/tree.c has it.
_ASKED_MOST: Final = 8
_METACOPY: Final = frozenset(markers.spellings(markers.METACOPY, markers.USER))


class Status(NamedTuple):
    """What stat(2) tells of a node: what its top source has, but for links and blocks."""

    attributes: Attributes
    links: int
    blocks: int


async def open_source(source: Source) -> int:
    """A descriptor for reading what a layer has of a regular file; the caller closes it.

    Where that takes long it is done in another thread; see :meth:`Layer.opens_slowly`.
    """
    _, layer, entry = source
    if layer.opens_slowly(entry):
        return await in_thread(layer.open, entry)
    return layer.open(entry)


class Tree:
    """Layers, base first, with an upper or without (then every change gives EROFS)."""

    def __init__(self, layers: Sequence[Layer], upper: Upper | None, mirror: Mirror) -> None:
        self.nodes: Final = Nodes(mirror)
        self._mirror = mirror
        self._upper = upper
        self._upper_position = len(layers)
        self._layers: list[Layer] = list(layers)
        if upper is not None:
            self._layers.append(upper.layer)
        self._numbering = Numbering(self._layers)
        for position, layer in enumerate(self._layers):
            space = self._numbering.space(position, layer)
            mirror.layer(position, layer, space, upper=position == self._upper_position)
        mirror.space(self._layers[-1].statfs())
        if upper is not None:
            mirror.upper(upper)
        self.nodes.add(self._root())

    @property
    def upper(self) -> Upper:
        """The upper. Raises OSError: EROFS if there is none."""
        if self._upper is None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return self._upper

    @property
    def layers(self) -> Sequence[Layer]:
        """All layers, the upper last."""
        return self._layers

    # Finding

    def node(self, number: int) -> Node:
        """The node of a number. Raises OSError: ESTALE if nobody knows it."""
        try:
            return self.nodes[number]
        except KeyError:
            return self._adopted(number)

    def lookup(self, parent: Node, name: bytes) -> Node:
        """The node called *name* in *parent*. Raises OSError: ENOENT if there is none."""
        known = None if parent.children is None else parent.children.get(name)
        if isinstance(known, Node):
            return known
        if node := self._adopt_by_name(parent, name):
            return node
        children = self._children_to_look_in(parent)
        found = children.get(name)
        if isinstance(found, Node):
            return found
        if found is None and parent.listed:
            raise FileNotFoundError(errno.ENOENT, _ABSENT)
        sources = merge.resolve(self._layers, parent.stack, name, found)
        if not sources:
            # If it was listed, a layer has changed while it was mounted.
            children.pop(name, None)
            raise FileNotFoundError(errno.ENOENT, _ABSENT)
        return self._discover(parent, name, sources)

    def mirrored(self, node: Node) -> bool:
        """Let the mirror know a directory; answers whether it does now, and did not before."""
        if node.upper is not None and self.protection(node):
            # The mirror does not ask before it changes something there.
            return False
        asked = self._mirror.fill(node)
        if asked is None:
            return False
        # What is known here is ours to answer for, also where it looks plain by now.
        known = [name for name, child in (node.children or {}).items() if isinstance(child, Node)]
        self._tell_all(node, [*asked, *((name, self._upper_position) for name in known)])
        return True

    def told_unknown(self, node: Node) -> bool:
        """Tell the mirror what it could not find out itself of the names in a directory.

        Answers whether there was anything of that kind.
        """
        asked = self._mirror.unknown(node)
        if asked:
            self._tell_all(node, asked)
        return bool(asked)

    def catch_up(self) -> None:
        """Take in what the mirror has changed in directories that are known here."""
        for number, name, present in self._mirror.changes():
            children = self.nodes[number].children if number in self.nodes else None
            if children is None:
                continue
            if not present:
                children.pop(name, None)
            elif not isinstance(children.get(name), Node):
                children[name] = self._upper_position

    def _tell_all(self, node: Node, asked: Sequence[tuple[bytes, int]]) -> None:
        if node.children is None:
            node.children = {}
        for name, position in asked:
            try:
                self._tell(node, name, position)
            except OSError as error:
                # It is not listed, and who looks it up is told why.
                _log.warning("%r is left out of a listing: %s", name, error)

    def _tell(self, parent: Node, name: bytes, position: int) -> None:
        assert parent.children is not None
        node = parent.children.get(name)
        if not isinstance(node, Node):
            sources = merge.resolve(self._layers, parent.stack, name, position)
            if not sources:
                self._mirror.remove(parent, name)
                return
            node = self._discover(parent, name, sources)
        else:
            self._mirror.put(parent, name, node)
        self.describe(node)

    def describe(self, node: Node) -> None:
        """Let the mirror know what a directory is like that the upper has not, if it is one."""
        if node.is_directory and node.upper is None:
            status = self.status(node)
            self._mirror.describe(node, status.attributes, status.links)

    def children(self, node: Node) -> dict[bytes, Node | int]:
        """The names in a directory, each with its node or the position of its topmost layer."""
        if node.children is None or not node.listed:
            if not node.is_directory:
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            node.children = {**merge.children(node.stack), **(node.children or {})}
            node.listed = True
        return node.children

    def is_empty(self, node: Node) -> bool:
        """Whether a directory shows nothing; one that can't be read any more may be known to."""
        has_names = self._mirror.has_names(node)
        return not self.children(node) if has_names is None else not has_names

    def remember_names(self, node: Node) -> None:
        """Before a directory may become one that we can't read: its names, if we can now."""
        with contextlib.suppress(OSError):
            self.children(node)

    def _children_to_look_in(self, node: Node) -> dict[bytes, Node | int]:
        """The names in a directory that are known; all of them, once it pays to read them."""
        if node.asked < _ASKED_MOST and not node.listed and _may_be_asked(node):
            node.asked += 1
        else:
            # Whoever may not list it may still pass through.
            with contextlib.suppress(PermissionError):
                return self.children(node)
        if node.children is None:
            node.children = {}
        return node.children

    def shows_below(self, parent: Node, name: bytes) -> bool:
        """Whether the layers below the upper show anything under *name* in *parent*."""
        known = (parent.children or {}).get(name)
        if isinstance(known, Node) and not known.has_name(parent, name).in_upper:
            return True
        return bool(merge.resolve(self._layers, parent.lower, name))

    def status(self, node: Node) -> Status:
        """The attributes of a node as the union has them."""
        if node.upper is None:
            attributes: Attributes = node.top.entry.attributes
        else:
            attributes = self.upper.layer.attributes(node.place)
        blocks = attributes.st_blocks
        if self._may_be_metacopy(node, attributes):
            # Its blocks are those of its content. That this is missing is an error for who wants to
            # read it, and must not look like a hole.
            try:
                blocks = self.content(node).entry.attributes.st_blocks
            except OSError:
                blocks = -(-attributes.st_size // 512)
        return Status(attributes, self._links_of(node, attributes), blocks)

    def _may_be_metacopy(self, node: Node, attributes: Attributes) -> bool:
        """Whether a node's attributes and its content are perhaps of two files."""
        if not node.is_regular or not attributes.st_size or node.content is node.top:
            return False
        # That of an upper file is known once it was looked up. A lower one is a file of holes
        # otherwise, or has more attributes than its inode has room for.
        return node.upper is not None or attributes.st_blocks == 0

    def _links_of(self, node: Node, attributes: Attributes) -> int:
        if node.index_key is not None:
            return node.links
        if node.removed and (node.upper is None or node.is_directory):
            return 0
        if node.is_directory and len(node.stack) > 1:
            # What programs read as the number of subdirectories is known only where one layer
            # has them all; 1 says that it is not known (find(1), option -noleaf).
            return 1
        return attributes.st_nlink

    def source(self, node: Node, position: int) -> Source:
        """The source of a node that is of the layer at *position*."""
        return next(source for source in node.stack if source.position == position)

    def content(self, node: Node) -> Source:
        """The source that holds the content of a regular file."""
        if node.content is None:
            # Without a name, only a path can tell where the content of a metacopy is.
            parents, name = (
                (node.names[0].parent.stack, node.names[0].name) if node.names else ((), b"")
            )
            node.content = merge.content(self._layers, parents, name, node.top)
        return node.content

    def protection(self, node: Node) -> int:
        """Which of :data:`unionfs.flags.PROTECTING` a node has.

        What has the flag itself in the upper is protected there.
        """
        if node.protection is None:
            node.protection = self._find_protection(node)
        return node.protection

    def protect(self, node: Node, protection: int) -> None:
        """Let a node, which the upper has, have just these of PROTECTING."""
        place = node.place
        if protection:
            self.upper.set_mark(place, markers.PROTECTION, flags.mark(protection))
        else:
            self.upper.remove_mark(place, markers.PROTECTION)
        node.protection = protection
        if node.is_directory and protection:
            self._mirror.leave(node)

    # Keeping and forgetting

    def forget(self, node: Node, count: int) -> None:
        """The kernel gives up *count* of its references (FUSE_FORGET)."""
        node.lookups -= count
        self.release(node)

    def release(self, node: Node) -> None:
        """Give *node* up if nobody needs it any more."""
        for gone in self.nodes.release(node):
            for _, layer, entry in gone.stack:
                layer.forget(entry)

    def made(self, parent: Node, name: bytes) -> Node:
        """The node of what was just made in the upper under *name*."""
        assert parent.children is not None
        # It is there, even if the rest fails.
        parent.children[name] = self._upper_position
        node = self._new(Place(parent.place, name))
        self.nodes.add_name(node, parent, name, below=None)
        return node

    def made_unnamed(self, descriptor: int) -> Node:
        """The node of the open file that was just made in the upper without a name."""
        held = os.open(b"/proc/self/fd/%d" % descriptor, os.O_PATH | os.O_CLOEXEC)
        return self._new(Place(None, b"", held))

    def _new(self, place: Place) -> Node:
        attributes = places.status(place)
        source = Source(self._upper_position, self.upper.layer, Entry(attributes, place))
        identity = self._numbering.identity(source.position, attributes)
        number = self.nodes.free(self._numbering.number(identity))
        node = Node(number, identity, attributes.st_mode, source, ())
        node.content = source
        node.protection = 0
        if node.is_directory:
            node.children, node.listed = {}, True
            place.hidden = frozenset()
        self.nodes.add(node)
        return node

    def _adopt_by_name(self, parent: Node, name: bytes) -> Node | None:
        """The node that the mirror has told the kernel of, and not what a layer may have by now."""
        number = self._mirror.number(parent, name)
        place = self._mirror.where(number) if number else None
        return None if place is None else self._adopt(number, parent, place)

    def _adopted(self, number: int) -> Node:
        """The node of a number that only the mirror knows as yet."""
        # With all that lies above it, which may be more than there is room for calls.
        below: list[tuple[int, Whereabouts]] = []
        while number not in self.nodes and (place := self._mirror.where(number)) is not None:
            below.append((number, place))
            number = place.parent
        node = self.nodes[number] if number in self.nodes else self._adopt_removed(number)
        while node is not None and below:
            number, place = below.pop()
            node = self._adopt(number, node, place)
        if node is None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return node

    def _adopt(self, number: int, parent: Node, place: Whereabouts) -> Node | None:
        """The node of a number that only the mirror knows; None if it is another one by now.

        It is as the mirror has found it: a layer that changed meanwhile must not deceive us.
        """
        if parent.children is None:
            parent.children = {}
        known = parent.children.get(place.name)
        if isinstance(known, Node):
            return known if known.number == number else None
        above = {source.position: source for source in parent.stack}
        sources = [
            above[position]._replace(entry=place.entry(position, above[position].entry))
            for position in place.positions
        ]
        first = sources[0]
        upper = sources.pop(0) if first.position == self._upper_position else None
        base = sources[0] if sources else first
        identity = self._numbering.identity(base.position, base.entry.attributes)
        node = Node(number, identity, first.entry.attributes.st_mode, upper, sources)
        if not node.is_directory:
            node.content = upper
        self.nodes.add(node)
        self.nodes.add_name(node, parent, place.name, None if upper else first.position)
        return node

    def _adopt_removed(self, number: int) -> Node | None:
        """The node of a number that only the mirror knows, and that has no name any more."""
        adopted = self._mirror.adopt(number)
        if adopted.descriptor < 0:
            return None
        attributes = os.stat(adopted.descriptor)
        place = Place(None, b"", adopted.descriptor)
        layer = self._layers[adopted.position]
        source = Source(adopted.position, layer, Entry(attributes, place))
        identity = self._numbering.identity(source.position, attributes)
        upper = source if adopted.position == self._upper_position else None
        node = Node(number, identity, attributes.st_mode, upper, () if upper else (source,))
        node.content = source
        self.nodes.add(node)
        node.lookups = adopted.references
        for descriptor, writable in adopted.handles:
            self.nodes.open(node, descriptor, writable=writable)
        return node

    @contextlib.contextmanager
    def losing_name(self, node: Node, parent: Node, name: bytes) -> Iterator[None]:
        """The block takes a name of a file away; the node stays reachable, its count right."""
        known = node.has_name(parent, name)
        last = node.index_key is not None and node.links == 1
        with contextlib.ExitStack() as stack:
            if node.upper is not None and known.in_upper:
                place = node.place
                if node.index_key is not None:
                    self.upper.set_links_by_upper(place, node.links)
                refuge = None if last else self._refuge(node, parent, name)
                if refuge is None:
                    stack.enter_context(places.outliving(place))
                else:
                    place.parent, place.name = refuge
            yield
        self.nodes.drop_name(node, parent, name)
        if node.index_key is not None:
            node.links -= 1
            if last:
                self.upper.drop_index(node.index_key)

    def raised(self, node: Node, attributes: os.stat_result, place: Place) -> None:
        """The upper has a node, or another inode for it, from now on, with all that is above it."""
        assert self._upper is not None
        if node.upper is not None:
            places.forget(node.place)
        entry = Entry(attributes, place)
        node.upper = Source(self._upper_position, self._upper.layer, entry)
        if not node.is_directory:
            self.nodes.move(node, self._numbering.identity(self._upper_position, attributes))
            return
        if self.protection(node):
            self._mirror.leave(node)
        self._mirror.raised(node)
        place.hidden = frozenset()

    def open_upper(self, node: Node, flags: int) -> int:
        """Open what the upper has of a regular file. Raises OSError: ESTALE if it has another."""
        assert node.upper is not None
        return self.upper.open(node.upper.entry, flags)

    # Helpers

    def _root(self) -> Node:
        sources = merge.roots(self._layers)
        upper = sources.pop(0) if self._upper is not None else None
        first = upper or sources[0]
        attributes = first.entry.attributes
        identity = self._numbering.identity(first.position, attributes)
        return Node(ROOT_NUMBER, identity, attributes.st_mode, upper, sources)

    def _discover(self, parent: Node, name: bytes, sources: list[Source]) -> Node:
        first = sources[0]
        upper = first if first.position == self._upper_position else None
        lower = sources if upper is None else sources[1:]
        below = None if upper else first.position
        if first.entry.is_directory:
            base = lower[0] if lower else first
            identity = self._numbering.identity(base.position, base.entry.attributes)
            number = self._numbering.number(identity)
            node = Node(number, identity, first.entry.attributes.st_mode, upper, lower)
        else:
            node = self._discover_file(first, upper, parent, name)
            if known := self.nodes.find(node.identity):
                self._another_name(known, node, parent, name, below)
                return known
        node.number = self.nodes.free(node.number)
        self.nodes.add(node)
        self.nodes.add_name(node, parent, name, below)
        return node

    def _discover_file(
        self, first: Source, upper: Source | None, parent: Node, name: bytes
    ) -> Node:
        """A node, not yet taken up, for what is not a directory."""
        lower = () if upper else (first,)
        present = () if upper is None else places.listxattr(upper.entry.handle)
        key = self._index_key(first, present)
        if upper is None and key is not None:
            place = self.upper.index_place(key)
            entry = Entry(places.status(place), place)
            upper = Source(self._upper_position, self.upper.layer, entry)
            present = places.listxattr(place)
        top = upper or first
        attributes = top.entry.attributes
        identity = self._numbering.identity(top.position, attributes)
        number = None if upper is None else self.upper.number(upper.entry.handle, present)
        if number is None or number <= ROOT_NUMBER or number >> 64 or number in self.nodes:
            # None was kept, or another file has it, as an upper may be a copy.
            number = self._numbering.number(identity)
        node = Node(number, identity, attributes.st_mode, upper, lower)
        if upper is not None and not _METACOPY.intersection(present):
            node.content = upper
        if upper is not None and key is not None:
            node.index_key = key
            node.links = self._links(upper, lower or self._indexed_below(parent, name, key))
        return node

    def _indexed_below(self, parent: Node, name: bytes, key: bytes) -> Sequence[Source]:
        """The lower inode of an index entry, if it is what lies below this name."""
        sources = merge.resolve(self._layers, parent.lower, name)
        if sources and not sources[0].entry.is_directory:
            first = sources[0]
            if copyup.index_key(first, first.layer.origin(first.entry)) == key:
                return sources
        return ()

    def _links(self, upper: Source, lower: Sequence[Source]) -> int:
        """How many names an indexed inode has in the union."""
        upper_links = upper.entry.attributes.st_nlink
        # Without the lower inode at hand, all names but the index's own are in the upper.
        lower_links = lower[0].entry.attributes.st_nlink if lower else upper_links - 1
        return self.upper.links(upper.entry.handle, upper_links, lower_links)

    def _index_key(self, source: Source, present: Sequence[bytes]) -> bytes | None:
        """The index entry of an inode that is not a directory, if it has one.

        present: the extended attributes that it has if it is in the upper.
        """
        if self._upper is None or not self._upper.indexed or source.entry.attributes.st_nlink < 2:
            return None
        if source.position == self._upper_position:
            key = self._upper.recorded_index_key(source.entry.handle, present)
        else:
            key = copyup.index_key(source, source.layer.origin(source.entry))
        return key if key in self._upper.indexed else None

    def _another_name(
        self, known: Node, found: Node, parent: Node, name: bytes, below: int | None
    ) -> None:
        self.nodes.add_name(known, parent, name, below)
        if not known.lower:
            known.lower = found.lower
        if known.upper is not None and found.upper is not None:
            place = known.place
            if place.parent is None:
                places.forget(place)
                place.parent = found.place.parent
                place.name = found.place.name

    def _refuge(self, node: Node, parent: Node, name: bytes) -> tuple[Place, bytes] | None:
        """Where a file in the upper is besides *name*."""
        if node.index_key is not None:
            place = self.upper.index_place(node.index_key)
            assert place.parent is not None
            return place.parent, place.name
        for other in node.names:
            if other.in_upper and (other.parent is not parent or other.name != name):
                return other.parent.place, other.name
        return None

    def _find_protection(self, node: Node) -> int:
        if not (node.is_regular or node.is_directory):
            return 0
        _, layer, entry = node.top
        if node.upper is None:
            return layer.protection(entry)
        place: Place = entry.handle
        value = self.upper.layer.mark(place, markers.PROTECTION, places.listxattr(place))
        return flags.protection(value or b"")


def _may_be_asked(node: Node) -> bool:
    """Whether one name in a directory may be looked for without reading the others.

    Which ``.wh.`` files the upper has has to be known before anything is made beside them.
    """
    if not node.is_directory:
        return False
    return node.upper is None or node.place.hidden is not None
