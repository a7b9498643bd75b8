"""Bringing nodes to the upper: copies, directories above them, names of files that have several.

:mod:`unionfs.copyup` makes the copies, this decides which, and when a node is where. It is the one
place where shared state waits; docs/concurrency.md has every await.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Final

from unionfs import copyup, flags
from unionfs.layers import markers, places
from unionfs.layers.places import Place
from unionfs.nodes import Node
from unionfs.tree import Tree, open_source
from unionfs.waiting import in_thread, new_lock

if TYPE_CHECKING:
    import trio


class Raising:
    """What brings the nodes of *tree* to its upper. Without one, each change raises EROFS."""

    def __init__(self, tree: Tree) -> None:
        self._tree: Final = tree
        self._copying: dict[Node, trio.Lock] = {}

    async def copy_up(self, node: Node, size: int | None = None, *, content: bool = True) -> None:
        """Bring a node, with all that lies above it, to the upper.

        size: bytes of a regular file's content that are wanted, if a truncation comes next.
        content: whether its content is wanted at all; without it a metacopy may do.
        Raises OSError; then nothing has changed.
        """
        content = content or not self._tree.upper.metacopies
        # While a metacopy is filled, nothing else of it may change.
        if self._is_up(node, content) and node not in self._copying:
            return
        lock = self._copying.get(node)
        if lock is None:
            lock = self._copying[node] = new_lock()
            # To wait for it would be to let others go first.
            lock.acquire_nowait()
        else:
            await lock.acquire()
        try:
            if not self._is_up(node, content):
                await self._copy_up(node, size, content)
        finally:
            lock.release()
            # Whoever waits has been given it by now.
            if not lock.locked():
                self._copying.pop(node, None)

    def raise_directory(self, node: Node) -> None:
        """Bring a directory, with all that lies above it, to the upper."""
        missing = []
        while node.upper is None:
            missing.append(node)
            if not node.names:
                break
            node = node.names[0].parent
        for directory in reversed(missing):
            self._raise_one(directory)

    async def keep_links(self, node: Node, parent: Node, name: bytes) -> None:
        """Before *name* is taken away or moved: a lower inode with several names is in the upper
        under this one, so that the others stay one file and its link count is right.
        """
        if node.is_directory or (node.index_key is None and not self._has_other_names(node)):
            return
        await self.copy_up(node, content=False)
        if node.index_key is None:
            return
        if not node.has_name(parent, name).in_upper:
            self._link_up(node, parent, name)
        # Once it has a name that no layer has, the lower inode may not be at hand any more.
        self._tree.upper.set_links_by_upper(node.place, node.links)

    def has_content(self, node: Node) -> bool:
        """Whether the upper has a node with its content, if it is a regular file."""
        return self._is_up(node, content=True)

    # Helpers

    def _has_other_names(self, node: Node) -> bool:
        return node.upper is None and node.lower[0].entry.attributes.st_nlink > 1

    def _protecting_marks(self, node: Node) -> list[tuple[bytes, bytes]]:
        """The mark that a copy gets in the place of the flags that its lower inode has."""
        protection = self._tree.protection(node)
        return [(markers.PROTECTION, flags.mark(protection))] if protection else []

    def _is_up(self, node: Node, content: bool) -> bool:
        if node.upper is None:
            return False
        return not (content and node.is_regular) or self._tree.content(node) is node.upper

    async def _copy_up(self, node: Node, size: int | None, content: bool) -> None:
        if node.is_directory:
            self.raise_directory(node)
            return
        if node.upper is not None:
            await self._fill_metacopy(node, size)
            return
        upper, source = self._tree.upper, node.lower[0]
        # An empty file is whole anyway.
        metacopy = node.is_regular and not content and source.entry.attributes.st_size > 0
        for parent, _, _ in node.names:
            self.raise_directory(parent)
        origin = source.layer.origin(source.entry)
        marks = [(markers.NUMBER, b"%d" % node.number)]
        if origin is not None:
            marks.append((markers.ORIGIN, origin))
        marks += self._protecting_marks(node)
        key = None
        if self._has_other_names(node) and node.names:
            key = copyup.index_key(source, origin)
            if origin is None:
                marks.append((markers.INDEX, key))
        if metacopy:
            # While there is a name that tells where it is.
            self._tree.content(node)
            marks.append((markers.METACOPY, b""))
        wanted = copyup.plan(upper, source, marks)
        scratch = upper.scratch_name()
        if metacopy:
            whole = wanted.attributes.st_size
            attributes = copyup.copy_regular(upper, scratch, None, whole, wanted)
        elif node.is_regular:
            descriptor = await open_source(self._tree.content(node))
            try:
                attributes = await self._copy_regular(scratch, descriptor, size, wanted)
            finally:
                os.close(descriptor)
        else:
            attributes = copyup.copy_other(upper, scratch, source, wanted)
        self._publish(node, scratch, attributes, key, whole=not metacopy)

    async def _copy_regular(
        self, scratch: bytes, source_fd: int, size: int | None, wanted: copyup.Plan
    ) -> os.stat_result:
        whole = wanted.attributes.st_size
        size = whole if size is None else min(size, whole)
        if size < whole:
            wanted = wanted._replace(cut_ns=time.time_ns())
        if size == 0:
            return copyup.copy_regular(self._tree.upper, scratch, source_fd, 0, wanted)
        return await in_thread(
            copyup.copy_regular, self._tree.upper, scratch, source_fd, size, wanted
        )

    async def _fill_metacopy(self, node: Node, size: int | None) -> None:
        """Give a metacopy file in the upper its content."""
        place = node.place
        source_fd = await open_source(self._tree.content(node))
        try:
            status = places.status(place)
            if status.st_nlink == 1 and [name.in_upper for name in node.names] == [True]:
                await self._replace_metacopy(node, source_fd, size, status)
            else:
                await self._fill_in_place(node, source_fd)
        finally:
            os.close(source_fd)

    async def _replace_metacopy(
        self, node: Node, source_fd: int, size: int | None, status: os.stat_result
    ) -> None:
        """Put a whole copy in the place of a metacopy file."""
        assert node.upper is not None
        upper, place = self._tree.upper, node.place
        copyup.require_owner(upper.layer.attributes(place))
        left = {
            name
            for mark in (markers.METACOPY, markers.REDIRECT)
            for name in markers.spellings(mark, markers.USER)
        }
        kept = [
            (name, places.getxattr(place, name))
            for name in places.listxattr(place)
            if name not in left
        ]
        # It becomes another inode of the upper.
        number = (upper.prefix + markers.NUMBER, b"%d" % node.number)
        wanted = copyup.Plan(status, kept, [number], copyup.copied_flags(node.upper))
        scratch = upper.scratch_name()
        attributes = await self._copy_regular(scratch, source_fd, size, wanted)
        self._publish(node, scratch, attributes, None)

    async def _fill_in_place(self, node: Node, source_fd: int) -> None:
        """Fill a metacopy file with several names; the mark goes when the content is on disk."""
        assert node.upper is not None
        target_fd = self._tree.open_upper(node, os.O_RDWR)
        try:
            ordering = self._tree.upper.ordering
            await in_thread(copyup.fill_metacopy, source_fd, target_fd, ordering)
            _rebind(node, target_fd)
        finally:
            os.close(target_fd)
        self._tree.upper.remove_mark(node.place, markers.METACOPY)
        node.content = node.upper

    def _raise_one(self, node: Node) -> None:
        upper, source = self._tree.upper, node.top
        scratch = upper.scratch_name()
        wanted = copyup.plan(upper, source, self._protecting_marks(node))
        attributes = copyup.copy_other(upper, scratch, source, wanted)
        self._publish(node, scratch, attributes, None)

    def _publish(
        self,
        node: Node,
        scratch: bytes,
        attributes: os.stat_result,
        key: bytes | None,
        *,
        whole: bool = True,
    ) -> None:
        """Give a complete copy its names and the node its place in the upper.

        whole: whether a regular file's content is in it, so that it is read there from now on.
        The node may have lost its names while it was copied: then the copy has none either.
        """
        upper = self._tree.upper
        rebound = whole and node.files
        with contextlib.ExitStack() as opened:
            with upper.discarding(scratch):
                if rebound:
                    # While nothing has changed, for it may fail.
                    reading = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
                    copy = os.open(scratch, reading, dir_fd=upper.scratch)
                    opened.callback(os.close, copy)
                place = self._place(node, scratch, key)
            if rebound:
                _rebind(node, copy)
        self._tree.raised(node, attributes, place)
        if node.is_directory:
            return
        if whole:
            node.content = node.upper
        if key is not None:
            for parent, name, _ in list(node.names):
                self._link_up(node, parent, name)
            upper.set_links_by_upper(place, node.links)

    def _place(self, node: Node, scratch: bytes, key: bytes | None) -> Place:
        """Move a complete copy to where it belongs; answers its place."""
        upper = self._tree.upper
        place = upper.scratch_place(scratch)
        if not node.names:
            with places.outliving(place):
                upper.drop_scratch(scratch)
        elif key is not None:
            links = node.lower[0].entry.attributes.st_nlink
            upper.set_links_by_lower(place, links, links)
            place = upper.publish_index(scratch, key)
            node.index_key, node.links = key, links
        else:
            parent, name, _ = node.names[0]
            upper.publish(scratch, parent.place, name)
            place.parent, place.name = parent.place, name
            node.names[0] = node.names[0]._replace(below=None)
        return place

    def _link_up(self, node: Node, parent: Node, name: bytes) -> None:
        """Give the copy of an indexed inode the name *name* in the upper too."""
        assert node.index_key is not None
        # A name may have been looked up while the copy was made.
        self.raise_directory(parent)
        upper, place = self._tree.upper, node.place
        if node.lower:
            lower_links = node.lower[0].entry.attributes.st_nlink
            upper.set_links_by_lower(place, node.links, lower_links)
        upper.link_copy(node.index_key, parent.place, name)
        known = node.has_name(parent, name)
        node.names[node.names.index(known)] = known._replace(below=None)


def _rebind(node: Node, descriptor: int) -> None:
    """Let descriptors that were opened below read what *descriptor* does from now on."""
    for file in node.files:
        os.dup2(descriptor, file.descriptor, inheritable=False)
