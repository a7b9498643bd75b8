"""What is told to whoever answers requests in our place: names, and who refers to what.

The nodes and names of :mod:`unionfs.nodes` are the truth. A mirror has a copy of the names in
directories of lower layers, and answers for the *plain* nodes in them on its own: they are unknown
here until something is done to one. docs/dataplane.md has the rules that keep both true.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from unionfs.layers.base import Layer
    from unionfs.merge import Source
    from unionfs.model import Attributes, Entry
    from unionfs.nodes import Node
    from unionfs.upper import Upper


PIN: Final = 1 << 63
"""So many references are given up at once for the one that a mirror had itself."""


class Lack(enum.IntEnum):
    """What a mirror may lack to answer itself. As unionfs/driver/plane/plane.h has it."""

    NAMES = 0
    """The names in a directory."""
    LISTING = 1
    """The same, and what is behind each."""
    PARENT = 2
    """The directory in the upper that a name is to be made in."""
    AROUND = 3
    """The same of a name that is to be taken away, or to be another's."""
    UPPER = 4
    """The same of a node that is to be changed, and its content."""
    CONTENT = 5
    """A content that was looked at."""


class MirroredError(Exception):
    """The mirror can answer this now; it has to be asked again."""


class Whereabouts(NamedTuple):
    """Where a plain node is: a name in the directory *parent*.

    positions: of the layers that have it, topmost first; one, but for a directory. entry: makes its
    entry in the layer at a position, as it was found, of the directory's there.
    """

    parent: int
    name: bytes
    positions: Sequence[int]
    entry: Callable[[int, Entry], Entry]


class Adopted(NamedTuple):
    """What there is of a plain node that becomes ours.

    references: the kernel's; 0 if the number is no plain node's. handles: the descriptors that are
    open for it, each with whether it is for writing. descriptor: O_PATH, of what has no name any
    more, in the layer at a position; -1 for others.
    """

    references: int
    handles: Sequence[tuple[int, bool]]
    descriptor: int
    position: int


_NOTHING: Final = Adopted(0, (), -1, 0)


class Mirror:
    """Who answers in our place. Numbers are of nodes.

    This one answers nothing itself: it is for when nobody does, and for others to be made from.
    """

    def layer(self, position: int, layer: Layer, space: int | None, *, upper: bool) -> None:
        """A layer, and what its inode numbers have above the 48th bit (None: it varies)."""

    def space(self, descriptor: int) -> None:
        """*descriptor*, which stays open, is on the filesystem whose space statfs(2) tells."""

    def upper(self, upper: Upper) -> None:
        """Where copies and whiteouts are made, and by what rules."""

    def fill(self, directory: Node) -> Sequence[tuple[bytes, int]] | None:
        """Let the mirror know all names in a directory.

        Answers those that have to be told to it by ``put``, each with the position of the topmost
        layer that has it. None if it knows the directory already, or can't. Raises OSError.
        """
        return None

    def put(self, parent: Node, name: bytes, node: Node) -> None:
        """*node* is called *name* in *parent*."""

    def describe(self, directory: Node, attributes: Attributes, links: int) -> None:
        """What a directory is like that only has to do with lower layers."""

    def remove(self, parent: Node, name: bytes) -> None:
        """*parent* has *name* no more."""

    def unknown(self, directory: Node) -> Sequence[tuple[bytes, int]]:
        """Names that have to be told to it, as ``fill`` answers them, each once."""
        return ()

    def raised(self, directory: Node) -> None:
        """A directory is in the upper from now on."""

    def leave(self, directory: Node) -> None:
        """What is asked of a name in a directory, if it knows them, is ours to answer."""

    def changes(self) -> Sequence[tuple[int, bytes, bool]]:
        """What it has changed since this was asked before, in directories that it knows.

        The number of the directory, the name, and whether it is there now.
        """
        return ()

    def refer(self, node: Node) -> bool:
        """The kernel gets a reference; answers whether the mirror counts it."""
        return False

    def forget(self, number: int, count: int) -> bool:
        """The kernel gives up references; answers whether the mirror counts them."""
        return False

    def has_names(self, directory: Node) -> bool | None:
        """Whether there is any name in a directory; None if the mirror does not know it."""
        return None

    def number(self, parent: Node, name: bytes) -> int:
        """The number of a plain node that the kernel was told of; 0 if that is none."""
        return 0

    def where(self, number: int) -> Whereabouts | None:
        """Where a plain node is; None if the number is no plain node's."""
        return None

    def unproven(self, number: int) -> Whereabouts | None:
        """Where a plain file is that the mirror can't open before we have looked at its content."""
        return None

    def proven(self, number: int, place: Whereabouts, directory: Source) -> bool:
        """Look at the content of such a file, at once if it was not opened in a thread before.

        directory: the source, of its directory, that has it. Answers whether the mirror can open it
        now, and could not before. Raises OSError.
        """
        return False

    def adopt(self, number: int) -> Adopted:
        """A plain node is ours from now on, with all that is open for it."""
        return _NOTHING
