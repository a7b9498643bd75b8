"""Stacks of layers drawn by hypothesis, and copies of them in other dialects."""

import contextlib
import enum
import functools
import os
import stat
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from layerstore.errors import StoreError
from tests.support.acls import ACCESS, DEFAULT, acl
from tests.support.layers import (
    OLD,
    WHITEOUT,
    Directory,
    File,
    Item,
    Node,
    Symlink,
    Tree,
    build,
    is_whiteout,
)
from tests.support.stores import StoreBuilder, packed

USER = 1000
ACLS = (
    acl("u::rwx,u:1000:r-x,g::r-x,m::r-x,o::---"),
    acl("u::rw-,g::r--,g:1000:rw-,m::rw-,o::r--"),
)
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
MODES = (0o644, 0o600, 0o755, 0o777, 0o4755, 0o2755, 0o2777, 0o1777, 0o500, 0o2644)

_ODD = ("new\nline", os.fsdecode(b"\xff\xfe"), "..x", "l" * 255, ":,\\", "ü")
_RESERVED = (".wh.a", ".wh.", ".wh..wh..opq")
_DEEP = PurePosixPath(*["d"] * 30)
_WIDE: Tree = {f"{number}": "" for number in range(100)}


class Dialect(enum.Enum):
    """How a layer says whiteout and opaque. The kernel's layers have OVERLAY."""

    OVERLAY = enum.auto()
    OCI = enum.auto()
    USER = enum.auto()
    FUSE_OVERLAYFS = enum.auto()
    NESTED = enum.auto()
    STORED = enum.auto()
    """An image of a store, and no directory; see `translate`."""


@dataclass(frozen=True)
class Written:
    """A layer written down, and further names for what is in it."""

    tree: Tree
    links: Sequence[tuple[PurePosixPath, PurePosixPath]] = ()


@dataclass(frozen=True)
class Stack:
    """Layers, base first, each with the dialect of our copy; all their trees lie at `place`.

    names: what entries are called. metacopy: whether the kernel makes such files.
    userxattr: whether marks are those that users can set.
    """

    place: PurePosixPath
    names: tuple[str, ...]
    layers: Sequence[tuple[Written, Dialect]]
    metacopy: bool
    userxattr: bool = False


@functools.cache
def _trees(names: tuple[str, ...], depth: int, marks: str) -> SearchStrategy[Tree]:
    return st.dictionaries(
        st.sampled_from(names),
        _items(names, depth, marks),
        min_size=depth,
        max_size=len(names),
    )


def _items(names: tuple[str, ...], depth: int, marks: str) -> SearchStrategy[Item]:
    owner = st.sampled_from([0, 0, USER])
    mode = st.sampled_from(MODES)
    attributes = st.sampled_from(
        [
            ("user.l", b"layer"),
            ("trusted.t", b"layer"),
            ("security.capability", CAPABILITY),
            (ACCESS, ACLS[0]),
        ]
    )
    kinds = st.sampled_from([stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFBLK])
    file: SearchStrategy[Item] = st.builds(
        File,
        content=st.sampled_from([b"", b"f", b"layer", b"x" * 5000]),
        size=st.sampled_from([None, None, 9000]),
        mode=mode,
        uid=owner,
        gid=owner,
        xattrs=st.lists(attributes, max_size=2).map(dict),
    )
    special: SearchStrategy[Item] = st.builds(
        Node, kind=kinds, minor=st.just(3), mode=mode, uid=owner, gid=owner
    )
    link: SearchStrategy[Item] = st.builds(Symlink, st.sampled_from(names), uid=owner, gid=owner)
    leaf = file | st.just(WHITEOUT)
    if marks == "trusted.overlay":
        # The others are on files and directories only: what else is copied up can't keep its inode.
        leaf |= special | link
    if not depth:
        return leaf
    directory: SearchStrategy[Item] = st.builds(
        Directory,
        _trees(names, depth - 1, marks),
        mode=st.sampled_from([0o755, 0o777, 0o2777, 0o1777]),
        uid=owner,
        gid=owner,
        xattrs=st.sampled_from([{}, {}, {f"{marks}.opaque": b"y"}, {DEFAULT: ACLS[1]}]),
    )
    return st.sampled_from([file, leaf, directory, directory]).flatmap(lambda item: item)


@st.composite
def stacks(
    draw: DrawFn, *, mixed: bool = True, userxattr: bool = False, stored: bool = False
) -> Stack:
    """Stacks of 1 to 20 layers, in *mixed* dialects or, but for a few, *stored*."""
    marks = "user.overlay" if userxattr else "trusted.overlay"
    dialects = [Dialect.OVERLAY]
    if stored:
        dialects = [Dialect.STORED] * 4 + [Dialect.OCI]
    elif mixed:
        dialects.append(draw(st.sampled_from([Dialect.OVERLAY] * 4 + list(Dialect))))
    odd = [*_ODD, *(_RESERVED if set(dialects) == {Dialect.OVERLAY} else ())]
    names = ("a", "b", draw(st.sampled_from([*["c"] * len(odd), *odd])))
    parts = st.lists(st.sampled_from(names), min_size=1, max_size=3)
    path = parts.map(lambda parts: PurePosixPath(*parts))
    written = st.builds(
        Written, _trees(names, 2, marks), st.lists(st.tuples(path, path), max_size=4)
    )
    thin = st.builds(Written, _trees(names, 0, marks))
    many = draw(st.sampled_from([False] * 5 + [True]))
    layers = draw(
        st.lists(thin, min_size=4, max_size=19) if many else st.lists(written, max_size=3)
    )
    base = draw(written)
    if draw(st.sampled_from([False] * 9 + [True])):
        base = Written({**base.tree, "wide": _WIDE}, base.links)
    dialect = st.sampled_from(dialects)
    return Stack(
        draw(st.sampled_from([PurePosixPath()] * 4 + [_DEEP])),
        names,
        [(layer, draw(dialect)) for layer in (base, *layers)],
        draw(st.booleans()) and not userxattr,
        userxattr,
    )


def build_stack(stack: Stack, directory: Path) -> list[Path]:
    """Make the layers as the kernel is to have them."""
    made = []
    for number, (layer, _) in enumerate(stack.layers):
        tree = layer.tree
        for name in reversed(stack.place.parts):
            tree = {name: Directory(tree, mode=0o777)}
        path = directory / f"layer{number}"
        build(path, Directory(tree, mode=0o777))
        _link(path / stack.place, layer.links)
        made.append(path)
    return made


def _link(root: Path, links: Iterable[tuple[PurePosixPath, PurePosixPath]]) -> None:
    for old, new in links:
        source, target = root / old, root / new
        if os.path.lexists(source) and not is_whiteout(source):
            with contextlib.suppress(OSError):  # a directory, or there is no such place
                os.link(source, target, follow_symlinks=False)
                os.utime(target.parent, ns=(OLD, OLD))


def translate(stack: Stack, layers: Sequence[Path], directory: Path) -> list[Path]:
    """Make copies of the layers in their dialects.

    Of those in a store, which is `directory / "store"`, the answer has their names.
    """
    directory.mkdir()
    subprocess.run(["cp", "-a", *layers, directory], check=True)
    copies = [directory / layer.name for layer in layers]
    for number, (_, dialect) in enumerate(stack.layers):
        if dialect is Dialect.STORED:
            copies[number] = _stored(copies[number], directory / "store")
            continue
        for below, _, files in os.walk(copies[number]):
            _translate(Path(below), [Path(below, name) for name in files], dialect)
    return copies


def _stored(layer: Path, store: Path) -> Path:
    """The name of an image that has this layer; or the layer, if no image can have all of it."""
    left_out: list[bytes] = []
    try:
        tar = b"".join(packed(layer, left_out.append))
    except StoreError:
        return layer
    if left_out:
        return layer
    StoreBuilder(store).image(f"{layer.name}:stored", [tar])
    return Path(f"{layer.name}:stored")


def _translate(directory: Path, files: Iterable[Path], dialect: Dialect) -> None:
    times = directory.stat()
    opaque = "trusted.overlay.opaque" in os.listxattr(directory)
    whiteouts = list(filter(is_whiteout, files))
    match dialect:
        case Dialect.OCI:
            for path in whiteouts:
                with contextlib.suppress(OSError):  # a name that has become too long
                    path.with_name(f".wh.{path.name}").touch()
                    path.unlink()
            if opaque:
                (directory / ".wh..wh..opq").touch()
        case Dialect.USER if opaque:
            os.setxattr(directory, "user.overlay.opaque", b"y")
        case Dialect.FUSE_OVERLAYFS if opaque:
            os.setxattr(directory, "user.fuseoverlayfs.opaque", b"y")
        case Dialect.NESTED if whiteouts and not opaque:
            os.setxattr(directory, "trusted.overlay.opaque", b"x")
            for path in whiteouts:
                path.unlink()
                path.touch()
                os.setxattr(path, "trusted.overlay.whiteout", b"")
    if opaque and dialect in (Dialect.OCI, Dialect.USER, Dialect.FUSE_OVERLAYFS):
        os.removexattr(directory, "trusted.overlay.opaque")
    os.utime(directory, ns=(times.st_atime_ns, times.st_mtime_ns))
