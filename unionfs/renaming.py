"""A node gets another name: link(2) and renameat2(2), so that what shows through it stays the same.

What the upper has is found by marks once it is called otherwise than below: a redirect tells where
the rest of a directory, or the content of a metacopy, is in the layers.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Final, NamedTuple

from unionfs.layers import markers, places
from unionfs.layers.places import Place
from unionfs.model import NAME_MAX
from unionfs.nodes import Node
from unionfs.raising import Raising
from unionfs.tree import Tree


class Spot(NamedTuple):
    """A name in a directory."""

    parent: Node
    name: bytes


class Renaming:
    """What gives the nodes of *tree* other names."""

    def __init__(self, tree: Tree, raising: Raising) -> None:
        self._tree: Final = tree
        self._nodes: Final = tree.nodes
        self._raising: Final = raising

    async def ready_to_link(self, node: Node) -> None:
        """The upper has a file, and its content is found from wherever it gets another name."""
        await self._raising.copy_up(node, content=False)
        if node.names:
            await self._keep_data(node, Spot(*node.names[0][:2]), by_path=True)

    def link(self, node: Node, new: Spot) -> None:
        """Give a node that is ready for it the name *new*, which is free, in a directory of the
        upper.
        """
        source, upper = node.place, self._tree.upper
        self._announce(node, new.parent)
        if node.index_key is not None:
            upper.set_links_by_upper(source, node.links)
        upper.link(source, new.parent.place, new.name)
        if node.index_key is not None:
            node.links += 1
        if source.parent is None:
            places.forget(source)
            source.parent, source.name = new.parent.place, new.name
        self._nodes.add_name(node, *new, below=None)

    async def move(self, node: Node, old: Spot, new: Spot, replaced: Node | None) -> None:
        """Rename a node, over *replaced* if there is one."""
        tree, upper = self._tree, self._tree.upper
        if replaced is not None and replaced.is_directory and not tree.is_empty(replaced):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
        await self._ready_to_move(node, old, new.parent)
        if replaced is not None:
            await self._raising.keep_links(replaced, *new)
        self._raising.raise_directory(new.parent)
        covers = tree.shows_below(*old)
        target = new.parent.place
        upper.settle(target, new.name)
        if node.is_directory:
            self._keep_content(node, old, new.parent)
        if old.parent is not new.parent:
            self._announce(node, new.parent)
        place = _place_of_name(node, old)

        def move() -> None:
            upper.move(place, target, new.name, directory=node.is_directory, covers=covers)

        if replaced is None:
            move()
        elif replaced.is_directory:
            self._replace_directory(replaced, new, move)
        else:
            with tree.losing_name(replaced, *new):
                move()
        self._nodes.drop_name(node, *old)
        self._nodes.add_name(node, *new, below=None)
        if replaced is not None:
            tree.release(replaced)

    async def exchange(self, one: Node, old: Spot, other: Node, new: Spot) -> None:
        """Let two nodes change places (RENAME_EXCHANGE)."""
        await self._ready_to_move(one, old, new.parent)
        await self._ready_to_move(other, new, old.parent)
        if one.is_directory:
            self._keep_content(one, old, new.parent)
        if other.is_directory:
            self._keep_content(other, new, old.parent)
        if old.parent is not new.parent:
            self._announce(one, new.parent)
            self._announce(other, old.parent)
        for spot in (old, new):
            self._tree.upper.settle(spot.parent.place, spot.name)
        self._tree.upper.exchange(_place_of_name(one, old), _place_of_name(other, new))
        self._nodes.drop_name(one, *old)
        self._nodes.drop_name(other, *new)
        self._nodes.add_name(one, *new, below=None)
        self._nodes.add_name(other, *old, below=None)

    async def _ready_to_move(self, node: Node, spot: Spot, target: Node) -> None:
        """The upper has the node, under this very name, and it may get another in *target*."""
        await self._raising.copy_up(node, content=False)
        await self._raising.keep_links(node, *spot)
        if node.is_directory:
            return
        if not node.has_name(*spot).in_upper:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        by_path = spot.parent is not target or node.index_key is not None
        await self._keep_data(node, spot, by_path=by_path)

    async def _keep_data(self, node: Node, spot: Spot, *, by_path: bool) -> None:
        """Before a file that is called *spot* is called otherwise: its content is found as it was.

        A metacopy gets a redirect. by_path: the name alone would not do, since a name in another
        directory is to lead there too (as overlayfs, ovl_need_absolute_redirect).
        """
        if self._raising.has_content(node):
            return
        assert node.upper is not None
        entry, upper = node.upper.entry, self._tree.upper
        before = upper.layer.metacopy(entry)
        redirect = before or spot.name
        if by_path and not redirect.startswith(b"/"):
            redirect = _path_below(spot.parent, redirect)
        if redirect == before:
            return
        try:
            upper.set_mark(entry.handle, markers.REDIRECT, redirect)
        except OSError as error:
            if not _is_too_long(error, redirect):
                raise
            await self._raising.copy_up(node)

    def _keep_content(self, node: Node, old: Spot, target: Node) -> None:
        """Before a directory is called otherwise: what shows through it stays the same.

        What merges into it is found by a redirect; what would merge into it there is hidden by
        an opaque mark. At its old name either mark means what is there already.
        """
        assert node.upper is not None
        entry, upper = node.upper.entry, self._tree.upper
        if not node.lower:
            if target.lower:
                # Whatever made it opaque may be no mark of its own (a ``.wh.`` file beside it).
                upper.set_mark(entry.handle, markers.OPAQUE, markers.OPAQUE_YES)
                entry.opaque = True
            return
        redirect = entry.redirect or old.name
        if old.parent is not target and not redirect.startswith(b"/"):
            redirect = _path_below(old.parent, redirect)
        if redirect == entry.redirect:
            return
        try:
            upper.set_mark(entry.handle, markers.REDIRECT, redirect)
        except OSError as error:
            if _is_too_long(error, redirect):
                # mv(1) copies instead.
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV)) from error
            raise
        entry.redirect = redirect

    def _announce(self, node: Node, target: Node) -> None:
        """Before an entry, which may have its inode number from below, comes into a directory where
        it was not yet.
        """
        place = target.place
        if place.impure:
            return
        if node.lower or self._tree.upper.has_origin(node.place):
            self._tree.upper.mark_impure(place)

    def _replace_directory(self, node: Node, spot: Spot, move: Callable[[], None]) -> None:
        if node.upper is None:
            move()
        else:
            self._tree.upper.clear_whiteouts(node.place)
            with places.outliving(node.place):
                move()
        self._nodes.drop_name(node, *spot)


def _is_too_long(error: OSError, redirect: bytes) -> bool:
    """Whether a redirect could not be set because the path is too long for an attribute."""
    return error.errno in (errno.ENOSPC, errno.E2BIG, errno.ERANGE) and len(redirect) > NAME_MAX


def _path_below(directory: Node, name: bytes) -> bytes:
    """The path of *name* in *directory* as the layers below the upper have it, merged.

    Redirects of theirs are found on the way down, those of the upper are not theirs.
    """
    names = [name]
    while directory.names:
        redirect = None if directory.upper is None else directory.upper.entry.redirect
        names.append(redirect or directory.names[0].name)
        if names[-1].startswith(b"/"):
            break
        directory = directory.names[0].parent
    else:
        names.append(b"")
    return b"/".join(reversed(names))


def _place_of_name(node: Node, spot: Spot) -> Place:
    """The place of a node in the upper under one of its names; its own, if that is it."""
    parent = spot.parent.place
    is_it = node.place.parent is parent and node.place.name == spot.name
    return node.place if is_it else Place(parent, spot.name)
