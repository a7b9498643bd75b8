"""Trees as layer tars: a directory, changes of an upper directory (commit), many layers (squash).

Whiteouts and opaque directories become ``.wh.NAME`` and ``.wh..wh..opq`` (image-spec layer.md);
other marks are never written.

What changes is told by comparing what is shown with the change and without it, not by what the
upper directory holds: overlayfs copies up more than it changes, its renames refer to other layers,
and of a file with several names it may have copied only one. Directories above what changed are
written along with it, with the attributes that they have: several programs unpack a layer by itself
and would make up others.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from layerstore import changes, tarwriter
from layerstore.changes import Pair
from layerstore.errors import StoreError, shown
from layerstore.tarwriter import Member
from layerstore.view import Identity, Naming, View, ViewNode, identity
from unionfs import merge
from unionfs.layers import markers
from unionfs.layers.base import Layer
from unionfs.merge import Source, Stack
from unionfs.model import NAME_MAX, NO_ID, WHITEOUT

LeftOut = Callable[[bytes], None]
"""Called with the path of each socket: no tar can hold one, and a layer goes on without it."""


def pack_tree(
    layer: Layer, left_out: LeftOut, *, without: tuple[int, int] | None = None
) -> Iterator[bytes]:
    """The layer tar of all that *layer* says, the root included, whiteouts and opaque marks too.

    without: device and inode number of a directory that is left out, and told to *left_out*.

    Yields pieces of the tar. Raises StoreError for what means something only on other layers (a
    directory that overlayfs has renamed, a metacopy file) or can't be in a layer (a name beginning
    ``.wh.``), and whatever :func:`layerstore.tarwriter.write` raises.
    """
    return tarwriter.write(_tree(layer, left_out, without))


def pack_changes(
    lower: Sequence[Layer], upper: Layer, left_out: LeftOut, *, index: Layer | None = None
) -> Iterator[bytes]:
    """The layer tar that makes of *lower* (base first) what it is under *upper*: a commit.

    index: ``index`` of the work directory; see :class:`layerstore.view.View`. Without it, files
    with several names of which only some are in the upper fall apart. Errors are those of
    :func:`pack_tree`; a rename is written out as the whole directory under its new name.
    """
    return _pack(View(lower) if lower else None, View([*lower, upper], index), left_out)


def pack_squash(layers: Sequence[Layer], left_out: LeftOut, *, keep: int = 0) -> Iterator[bytes]:
    """The layer tar that, in the place of all but the first *keep* layers, shows the same.

    Errors are those of :func:`pack_tree`.
    """
    return _pack(View(layers[:keep]) if keep else None, View(layers), left_out)


def _pack(base: View | None, whole: View, left_out: LeftOut) -> Iterator[bytes]:
    return tarwriter.write(_Difference(base, whole, left_out).members())


def _tree(layer: Layer, left_out: LeftOut, without: tuple[int, int] | None) -> Iterator[Member]:
    def is_left_out(node: ViewNode) -> bool:
        attributes = node.attributes
        found = node.is_socket or (attributes.st_dev, attributes.st_ino) == without
        if found:
            left_out(node.path)
        return found

    names = _Names()
    for node in View([layer]).walk(without=is_left_out):
        entry = node.stack[0].entry
        with Naming(node.path):
            _require_whole(layer, node)
        if not entry.implied:
            yield from _node(node, names)
        if node.is_directory:
            if entry.opaque:
                yield _marker(node, markers.OPAQUE_NAME)
            with Naming(node.path):
                said = layer.listing(entry)
            for name, found in sorted(said.items()):
                if found is WHITEOUT:
                    yield _whiteout(node, name)


def _require_whole(layer: Layer, node: ViewNode) -> None:
    entry = node.stack[0].entry
    if entry.redirect is not None:
        what = "a directory that was renamed"
    elif node.is_regular and layer.metacopy(entry) is not None:
        what = "a file without its content"
    else:
        return
    raise StoreError(f"{shown(node.path)}: {what}; commit the changes onto their image instead")


# What differs


class _Step(NamedTuple):
    """One name, side by side.

    before: what the base has there, None also where the base does not show through. after: what is
    to be there. hides: before is a directory with something in it, none of which shows through the
    directory after.
    """

    before: ViewNode | None
    after: ViewNode | None
    depth: int
    hides: bool = False


@dataclass(slots=True)
class _Group:
    """The names that were found of one inode.

    links: how many its layer has. same: nothing of it changed, as far as the first name tells.
    before: the inodes that they were names of, None where there was none; links_before: how many
    names the first of these had in its layer.
    """

    links: int | None
    same: bool
    links_before: int | None
    names: int = 0
    before: set[Identity | None] = field(default_factory=set)

    @property
    def is_unchanged(self) -> bool:
        """Whether the base has the same inode under the same names, and no others."""
        only_one = len(self.before) == 1 and None not in self.before
        return self.same and only_one and self.names == self.links_before


class _Difference:
    """What a layer on *base* has to say, so that both together show what *whole* does.

    The layers of *base* are the first ones of *whole*.
    """

    def __init__(self, base: View | None, whole: View, left_out: LeftOut) -> None:
        self._base = base
        self._whole = whole
        self._kept = 0 if base is None else len(base.layers)
        self._left_out = left_out

    def members(self) -> Iterator[Member]:
        """What the layer says, in order."""
        everywhere, changed = self._changed_inodes()
        names = _Names()
        # The directories above the name at hand; None for one that needs no entry any more.
        above: list[ViewNode | None] = []
        for step in self._steps(everywhere=everywhere):
            del above[step.depth :]
            members = self._members(step, changed, names)
            if members:
                for depth, directory in enumerate(above):
                    if directory is not None:
                        yield from _node(directory, names)
                        above[depth] = None
                yield from members
            if step.after is not None and step.after.is_directory:
                # The root needs none for what is in it.
                above.append(step.after if step.depth and not members else None)

    def _members(self, step: _Step, changed: set[Identity], names: _Names) -> list[Member]:
        before, after = step.before, step.after
        if after is None:
            return _gone(before)
        if after.is_directory:
            if before is not None and not step.hides and _is_equal(before, after):
                return []
            marker = [_marker(after, markers.OPAQUE_NAME)] if step.hides else []
            return [*_node(after, names), *marker]
        if after.may_have_other_names:
            written = after.identity in changed
        else:
            written = before is None or not _is_equal(before, after)
        if written and after.is_socket:
            self._left_out(after.path)
            return _gone(before)
        return list(_node(after, names)) if written else []

    def _steps(self, *, everywhere: bool) -> Iterator[_Step]:
        """All names, a directory before what is in it; everywhere: also in directories in which
        nothing but the base's layers has anything."""
        root = None if self._base is None else self._base.root()
        levels: list[Iterator[Pair]] = [iter([(root, self._whole.root())])]
        while levels:
            pair = next(levels[-1], None)
            if pair is None:
                levels.pop()
                continue
            before, after = pair
            depth = len(levels) - 1
            if after is None or not after.is_directory:
                yield _Step(before, after, depth)
                continue
            through = before
            if before is None or not self._shows_through(before, after):
                through = None
            elif self._is_kept(after.identity) and not everywhere:
                continue
            elif self._loses_a_long_name(before, after):
                through = None
            hides = through is None and before is not None and _has_names(before)
            yield _Step(before, after, depth, hides)
            levels.append(changes.pairs(through, after))

    def _shows_through(self, before: ViewNode, after: ViewNode) -> bool:
        """Whether what the base has in a directory is what it adds to the one after."""
        if not before.is_directory:
            return False
        found = [source for source in map(identity, _showing(after.stack)) if self._is_kept(source)]
        return found == list(map(identity, _showing(before.stack)))

    def _loses_a_long_name(self, before: ViewNode, after: ViewNode) -> bool:
        """Whether a directory needs a whiteout whose name would be longer than names can be."""
        nodes = (
            self._whole.child(after, name)
            for name in merge.children(before.stack)
            if len(markers.whiteout_name(name)) > NAME_MAX
        )
        return any(node is None or node.is_socket for node in nodes)

    def _is_kept(self, inode: Identity) -> bool:
        """Whether an inode is one of the base."""
        position, _, _ = inode
        return position < self._kept

    # Inodes with several names

    def _changed_inodes(self) -> tuple[bool, set[Identity]]:
        """The inodes with several names that have to be written, under all of them; before that,
        whether any of their names may be in directories that only the base has something in.
        """
        everywhere = self._whole.has_index
        groups = self._groups(everywhere=everywhere)
        changed = self._changed(groups)
        if not everywhere and any(self._has_more_names(inode, groups[inode]) for inode in changed):
            everywhere = True
            groups = self._groups(everywhere=everywhere)
            changed = self._changed(groups)
        return everywhere, changed

    def _groups(self, *, everywhere: bool) -> dict[Identity, _Group]:
        groups: dict[Identity, _Group] = {}
        for before, after, _, _ in self._steps(everywhere=everywhere):
            if after is None or not after.may_have_other_names:
                continue
            file = None if before is None or before.is_directory else before
            group = groups.get(after.identity)
            if group is None:
                same = file is not None and _is_equal(file, after)
                group = _Group(after.links, same, None if file is None else file.links)
                groups[after.identity] = group
            group.names += 1
            group.before.add(None if file is None else file.identity)
        return groups

    def _changed(self, groups: dict[Identity, _Group]) -> set[Identity]:
        return {
            inode
            for inode, group in groups.items()
            if (group.before != {inode} if self._is_kept(inode) else not group.is_unchanged)
        }

    def _has_more_names(self, inode: Identity, group: _Group) -> bool:
        return self._is_kept(inode) and group.links is not None and group.names < group.links


def _is_equal(before: ViewNode, after: ViewNode) -> bool:
    """Whether nothing differs; the number of names is :class:`_Group`'s affair."""
    several = after.may_have_other_names
    return all(several and aspect == "links" for aspect in changes.aspects(before, after))


def _showing(stack: Stack) -> Iterator[Source]:
    """The sources whose names show (merge: one that only describes may follow)."""
    for source in stack:
        yield source
        if source.entry.opaque:
            return


def _has_names(node: ViewNode) -> bool:
    return node.is_directory and any(True for _ in node.view.children(node))


# Members


class _Names:
    """The names under which inodes were written."""

    def __init__(self) -> None:
        self._first: dict[Identity, bytes] = {}

    def earlier(self, node: ViewNode) -> bytes | None:
        """The first name of the node's inode; None if this is the first, which is noted."""
        if not node.may_have_other_names:
            return None
        first = self._first.setdefault(node.identity, node.path)
        return None if first == node.path else first


def _node(node: ViewNode, names: _Names) -> Iterator[Member]:
    """The entry of a node; none for a root of which no layer has one."""
    if node.parent is None and node.source.entry.implied:
        return
    _require_name(node.path, node.name)
    attributes = node.attributes
    if NO_ID in (attributes.st_uid, attributes.st_gid):
        raise StoreError(f"{shown(node.path)}: its owner has no number in this user namespace")
    yield Member(
        name=node.path or b".",
        mode=attributes.st_mode,
        uid=attributes.st_uid,
        gid=attributes.st_gid,
        mtime_ns=attributes.st_mtime_ns,
        size=attributes.st_size if node.is_regular else 0,
        device=attributes.st_rdev if node.is_device else 0,
        target=node.readlink() if node.is_symlink else b"",
        link=names.earlier(node),
        xattrs=changes.xattrs(node),
        open=node.open,
    )


def _gone(before: ViewNode | None) -> list[Member]:
    if before is None or before.parent is None:
        return []
    return [_whiteout(before.parent, before.name)]


def _whiteout(directory: ViewNode, name: bytes) -> Member:
    path, marker = _below(directory, name), markers.whiteout_name(name)
    _require_name(path, name)
    if len(marker) > NAME_MAX:
        raise StoreError(f"{shown(path)}: too long a name for a layer to say that it is gone")
    return _marker(directory, marker)


def _marker(directory: ViewNode, name: bytes) -> Member:
    """A file that says something of others; nobody looks at its attributes."""
    return Member(name=_below(directory, name), mode=stat.S_IFREG)


def _below(directory: ViewNode, name: bytes) -> bytes:
    return os.path.join(directory.path, name)


def _require_name(path: bytes, name: bytes) -> None:
    if markers.is_reserved(name):
        raise StoreError(
            f"{shown(path)}: in a layer this name would be a whiteout; rename it or remove it"
        )
