"""What a mirror can do by itself, once something was done for it here: then it is asked again.

MirroredError says so. docs/dataplane.md has what it can't do without.
"""

from __future__ import annotations

import os
from typing import Final, NamedTuple

from unionfs.merge import Source
from unionfs.mirror import Mirror, MirroredError, Whereabouts
from unionfs.nodes import Node
from unionfs.raising import Raising
from unionfs.tree import Tree, open_source


class _Unproven(NamedTuple):
    """A file whose content the mirror can't open yet: where it is, and the source that it is."""

    place: Whereabouts
    directory: Source
    source: Source

    @property
    def is_slow(self) -> bool:
        return self.source.layer.opens_slowly(self.source.entry)


class Handover:
    """What is done for *mirror* before an operation on what is known to it alone.

    Everything here raises MirroredError if the mirror can do the operation after that, and OSError.
    """

    def __init__(self, tree: Tree, raising: Raising, mirror: Mirror) -> None:
        self._tree: Final = tree
        self._raising: Final = raising
        self._mirror: Final = mirror

    def names(self, directory: Node) -> None:
        """For a name in a directory to be looked up."""
        if self._tree.mirrored(directory):
            raise MirroredError

    def listing(self, directory: Node) -> None:
        """For a directory to be listed."""
        if self._tree.mirrored(directory) or self._tree.told_unknown(directory):
            raise MirroredError

    async def content(self, number: int) -> None:
        """For a file to be opened: its content was looked at."""
        unproven = self._unproven(number)
        if unproven is None:
            return
        if unproven.is_slow:
            os.close(await open_source(unproven.source))
        self._prove(number, unproven)

    def content_at_once(self, number: int) -> None:
        """The same, if it takes no time."""
        unproven = self._unproven(number)
        if unproven is not None and not unproven.is_slow:
            self._prove(number, unproven)

    async def change(self, number: int) -> None:
        """For a node to be changed: the directory that it is in, and its content."""
        if self.directory_of(number):
            await self.content(number)

    def directory_of(self, number: int) -> bool:
        """For the same, its directory alone; answers whether the mirror alone knows the node."""
        place = None if number in self._tree.nodes else self._mirror.where(number)
        if place is None:
            return False
        self._bring_up(self._tree.node(place.parent))
        return True

    async def change_name(self, parent: int, name: bytes, *, content: bool) -> None:
        """For a name to be taken away or given to another: its directory, perhaps its content."""
        number = self.directory_with(parent, name)
        if number and content:
            await self.content(number)

    def directory_with(self, parent: int, name: bytes) -> int:
        """The same, its directory alone; answers the number if only the mirror knows it, or 0."""
        directory = self._tree.node(parent)
        number = self._mirror.number(directory, name)
        if not number or self._tree.protection(directory):
            return 0
        self._bring_up(directory)
        return number

    def made_ready(self, directory: Node) -> None:
        """For something to be made in a directory: it was just brought to the upper."""
        if self._mirror.has_names(directory) is not None:
            raise MirroredError

    def _bring_up(self, directory: Node) -> None:
        if directory.upper is None and self._mirror.has_names(directory) is not None:
            self._raising.raise_directory(directory)
            raise MirroredError

    def _unproven(self, number: int) -> _Unproven | None:
        place = self._mirror.unproven(number)
        if place is None:
            return None
        (position, *_) = place.positions
        directory = self._tree.source(self._tree.node(place.parent), position)
        source = directory._replace(entry=place.entry(position, directory.entry))
        return _Unproven(place, directory, source)

    def _prove(self, number: int, unproven: _Unproven) -> None:
        if self._mirror.proven(number, unproven.place, unproven.directory):
            raise MirroredError
