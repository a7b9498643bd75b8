"""Layers drawn by hypothesis, what views of them show, and tars read back by Python's tarfile."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import NamedTuple

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from layerstore.view import View
from tests.support.layers import (
    FIFO,
    OLD,
    WHITEOUT,
    Directory,
    Entry,
    File,
    HardLink,
    Item,
    Node,
    Symlink,
    as_entry,
)
from tests.unit.memory import Implied, MemoryLayer
from unionfs.layers.base import Layer

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_XATTR = "SCHILY.xattr."
_DEVICES = (stat.S_IFCHR, stat.S_IFBLK)
_MARKS: Sequence[Mapping[str, bytes]] = (
    {},
    {},
    {"trusted.overlay.opaque": b"y"},
    {"trusted.overlay.redirect": b"a"},
    {"trusted.overlay.redirect": b"b"},
    {"trusted.overlay.redirect": b"/a/b"},
    {"user.a": b"1"},
)
_OTHERS: Sequence[Item] = (
    Symlink("a"),
    Symlink("b"),
    FIFO,
    Node(stat.S_IFCHR, 1, 3),
    Node(stat.S_IFSOCK),
    WHITEOUT,
    WHITEOUT,
)


class Shown(NamedTuple):
    """One name of a view; group: all names of its inode, if it has several in its layer."""

    mode: int
    owner: tuple[int, int]
    mtime: int
    device: int
    content: bytes | None
    xattrs: tuple[tuple[bytes, bytes], ...]
    group: tuple[bytes, ...]


def shown(layers: Sequence[Layer], index: Layer | None = None) -> dict[bytes, Shown]:
    """All names that the layers show together, but sockets, for no tar has any."""
    nodes = [node for node in View(layers, index).walk() if not node.is_socket]
    groups = defaultdict(list)
    for node in nodes:
        if node.may_have_other_names:
            groups[node.identity].append(node.path)
    found = {}
    for node in nodes:
        attributes = node.attributes
        content = None
        if node.is_regular:
            with open(node.open(), "rb") as file:
                content = file.read()
        elif node.is_symlink:
            content = node.readlink()
        found[node.path] = Shown(
            attributes.st_mode,
            (attributes.st_uid, attributes.st_gid),
            attributes.st_mtime_ns,
            attributes.st_rdev if stat.S_IFMT(attributes.st_mode) in _DEVICES else 0,
            content,
            tuple(node.xattrs().items()),
            tuple(groups[node.identity]) if node.may_have_other_names else (node.path,),
        )
    return found


def names(tar: bytes) -> list[str]:
    """The names of the members, a directory's with a slash at the end."""
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        return [member.name + "/" * member.isdir() for member in archive]


def layer(tar: Iterable[bytes], identity: str = "unpacked") -> MemoryLayer:
    """A layer tar as a layer; directories without an entry are implied."""
    return MemoryLayer(unpack(b"".join(tar)), identity=identity)


def unpack(tar: bytes) -> Directory:
    """A layer tar as a tree, its whiteouts and opaque markers as overlayfs has them."""
    root: dict[str, Item] = {}
    top: Directory = Implied(root)
    below = {"": root}
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        for member in archive:
            above, _, name = member.name.rpartition("/")
            if member.name == ".":
                top = replace(_directory(member), entries=root)
            elif name == _OPAQUE:
                opaque = {"trusted.overlay.opaque": b"y"}
                if above:
                    _mark(below, above, opaque)
                else:
                    top = replace(top, xattrs={**top.xattrs, **opaque})
            elif name.startswith(_WHITEOUT):
                below[above][name.removeprefix(_WHITEOUT)] = WHITEOUT
            elif member.isdir():
                names = below[member.name] = {}
                below[above][name] = replace(_directory(member), entries=names)
            else:
                below[above][name] = _entry(archive, member)
    return top


def _mark(below: dict[str, dict[str, Item]], path: str, opaque: dict[str, bytes]) -> None:
    above, _, name = path.rpartition("/")
    directory = as_entry(below[above][name])
    below[above][name] = replace(directory, xattrs={**directory.xattrs, **opaque})


def _entry(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Entry:
    if member.islnk():
        return HardLink(target=member.linkname)
    if member.issym():
        entry: Entry = Symlink(member.linkname)
    elif member.isreg():
        file = archive.extractfile(member)
        assert file is not None
        entry = File(file.read())
    else:
        kinds = {
            tarfile.CHRTYPE: stat.S_IFCHR,
            tarfile.BLKTYPE: stat.S_IFBLK,
            tarfile.FIFOTYPE: stat.S_IFIFO,
        }
        entry = Node(kinds[member.type], member.devmajor, member.devminor)
    return _described(entry, member)


def _directory(member: tarfile.TarInfo) -> Directory:
    directory = _described(Directory(), member)
    assert isinstance(directory, Directory)
    return directory


def _described(entry: Entry, member: tarfile.TarInfo) -> Entry:
    # As a float, the time that tarfile gives is not exact.
    time = member.pax_headers.get("mtime", int(member.mtime))
    return replace(
        entry,
        mode=member.mode,
        uid=member.uid,
        gid=member.gid,
        mtime=int(Decimal(time) * 10**9),
        xattrs={
            key.removeprefix(_XATTR): os.fsencode(value)
            for key, value in member.pax_headers.items()
            if key.startswith(_XATTR)
        },
    )


@st.composite
def layers(draw: DrawFn, identity: str) -> MemoryLayer:
    """Any layer of three names, three levels deep, in which some names are one inode."""
    root = replace(draw(_directories(2)), xattrs={})
    files = list(_files("", root)) or ["a"]
    links = st.tuples(st.sampled_from(files), st.sampled_from("abc"))
    for target, name in draw(st.lists(links, max_size=3)):
        changed = replace(root, entries={**root.entries, name: HardLink(target)})
        try:
            MemoryLayer(changed)
        except (KeyError, AssertionError):
            # It comes before its target, or in the place of a directory that has it.
            continue
        root = changed
    return MemoryLayer(root, identity=identity)


def stacks(number: int) -> SearchStrategy[list[MemoryLayer]]:
    """So many layers, base first."""
    drawn = [layers(f"layer {position}") for position in range(number)]
    return st.tuples(*drawn).map(list)


def _directories(depth: int) -> SearchStrategy[Directory]:
    items = _leaves() | _directories(depth - 1) if depth else _leaves()
    entries = st.dictionaries(st.sampled_from("abc"), items, max_size=3)
    said = st.builds(
        Directory,
        entries,
        mode=st.sampled_from([0o755, 0o755, 0o700]),
        mtime=st.sampled_from([OLD, OLD, OLD + 1]),
        xattrs=st.sampled_from(_MARKS),
    )
    return said | st.builds(Implied, entries)


def _leaves() -> SearchStrategy[Item]:
    files = st.builds(
        File,
        st.sampled_from([b"", b"x", b"y"]),
        mode=st.sampled_from([0o644, 0o644, 0o4755]),
        uid=st.sampled_from([0, 0, 1000]),
        mtime=st.sampled_from([OLD, OLD, OLD + 1]),
        xattrs=st.sampled_from([{}, {}, {"user.a": b"1"}]),
    )
    return files | files | st.sampled_from(_OTHERS)


def _files(above: str, directory: Directory) -> Iterator[str]:
    for name, item in directory.entries.items():
        entry = as_entry(item)
        if isinstance(entry, Directory):
            yield from _files(f"{above}{name}/", entry)
        elif entry != WHITEOUT:
            yield above + name
