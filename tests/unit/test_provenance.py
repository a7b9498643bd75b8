"""Which layer answers for a node: for the attributes it shows, and when it is asked for."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.layers import Directory, File, Item, as_entry
from tests.unit.errors import raises
from tests.unit.memory import Implied, MemoryLayer
from tests.unit.unions import in_trio
from unionfs.filesystem import Filesystem
from unionfs.nodes import ROOT_NUMBER, Node
from unionfs.upper import Upper

LAYER = b"user.unionmount.layer"
CREATED_BY = b"user.unionmount.created_by"
OWN = Directory(
    {"below": "1"}, mode=0o2711, uid=1000, gid=1001, mtime=7, xattrs={"user.of": b"the base"}
)
OPAQUE = {"trusted.overlay.opaque": b"y"}


class Union:
    """A filesystem of layers in memory, under an empty upper."""

    def __init__(self, directory: Path, layers: list[MemoryLayer]) -> None:
        self.upper, self.work = directory / "upper", directory / "work"
        for path in (self.upper, self.work):
            path.mkdir(exist_ok=True)
        upper = Upper(bytes(self.upper), bytes(self.work))
        self.filesystem = Filesystem(layers, upper)

    def node(self, path: str) -> Node:
        node = self.filesystem.getattr(ROOT_NUMBER)
        for name in filter(None, path.split("/")):
            node = self.filesystem.lookup(node.number, os.fsencode(name))
        return node

    def names(self, path: str) -> set[bytes]:
        return {name for name, _, _ in self.filesystem.readdir(self.node(path).number, 0)}

    def told(self, path: str, name: bytes = LAYER) -> bytes:
        return self.filesystem.getxattr(self.node(path).number, name)

    def xattrs(self, path: str) -> dict[bytes, bytes]:
        number = self.node(path).number
        names = self.filesystem.listxattr(number, privileged=True)
        return {name: self.filesystem.getxattr(number, name) for name in names}

    def shown(self, path: str) -> tuple[str, int, int, int, dict[bytes, bytes]]:
        """Mode, owner, modification time and attributes."""
        status = self.filesystem.status(self.node(path)).attributes
        owner = (status.st_uid, status.st_gid)
        return oct(status.st_mode), *owner, status.st_mtime_ns, self.xattrs(path)


SHOWN = ("0o42711", 1000, 1001, 7, {b"user.of": b"the base"})
"""What `OWN` shows."""

Open = Callable[..., Union]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Opens a union of layers, base first; again, if it was open before."""
    unions: list[Union] = []

    def union(*trees: Item) -> Union:
        for before in unions:
            before.filesystem.close()
        layers = []
        for number, tree in enumerate(trees):
            root = as_entry(tree)
            assert isinstance(root, Directory)
            layers.append(MemoryLayer(root, identity=f"layer {number}", device=1 + number))
        unions[:] = [Union(tmp_path, layers)]
        return unions[0]

    yield union
    unions[0].filesystem.close()


# Implied directories

STACKS: dict[str, list[Item]] = {
    "at the top": [{"d": OWN}, {"d": Implied({"new": "2"})}],
    "two of them": [{"d": OWN}, {"d": Implied({})}, {"d": Implied({"new": "3"})}],
    "emptied": [{"d": OWN}, {"d": Implied({"new": "2"}, xattrs=OPAQUE)}],
}


@pytest.mark.parametrize("trees", STACKS.values(), ids=STACKS)
def test_an_implied_directory_shows_what_the_one_below_has(opened: Open, trees: list[Item]) -> None:
    union = opened(*trees)
    assert union.shown("d") == SHOWN
    assert union.told("d") == b"layer 0"
    assert union.told("d/new") == b"layer %d" % (len(trees) - 1)
    assert not list(union.upper.iterdir())


@pytest.mark.parametrize("trees", STACKS.values(), ids=STACKS)
@in_trio
async def test_its_copy_has_that_too(opened: Open, trees: list[Item]) -> None:
    union = opened(*trees)
    number = union.node("d").number
    names = union.names("d")
    await union.filesystem.setxattr(number, b"user.new", b"1", lambda group: True)
    for remounted in (False, True):
        if remounted:
            union = opened(*trees)
        assert union.shown("d") == (*SHOWN[:4], {**SHOWN[4], b"user.new": b"1"})
        assert union.node("d").number == number
        assert union.names("d") == names
        assert union.told("d") == b"upper"


def test_where_every_layer_implies_it_the_placeholders_show(opened: Open) -> None:
    union = opened({"d": Implied({"a": "1"})}, {"d": Implied({"b": "2"})})
    assert union.shown("d") == ("0o40755", 0, 0, 0, {})
    assert union.told("d") == b"layer 1"


def test_an_implied_root_shows_what_the_one_below_has() -> None:
    filesystem = Filesystem([MemoryLayer(OWN), MemoryLayer(Implied({"new": "2"}))], None)
    root = filesystem.getattr(ROOT_NUMBER)
    assert filesystem.status(root).attributes.st_uid == 1000
    assert filesystem.getxattr(ROOT_NUMBER, b"user.of") == b"the base"
    filesystem.close()


# What the union tells of its layers


def described(**known: str) -> Filesystem:
    """A read-only union of one layer, which has `file`, and knows that of itself."""
    xattrs = {"user.unionmount.layer": b"a lie", "user.unionmount.other": b"", "user.plain": b"1"}
    layer = MemoryLayer({"file": File(xattrs=xattrs)}, identity="its label", described=known)
    return Filesystem([layer], None)


def test_the_digest_tells_the_layer_or_else_the_label() -> None:
    for known, told in (({}, b"its label"), ({"digest": "sha256:12"}, b"sha256:12")):
        filesystem = described(**known)
        number = filesystem.lookup(ROOT_NUMBER, b"file").number
        assert filesystem.getxattr(number, LAYER) == told
        assert filesystem.getxattr(ROOT_NUMBER, LAYER) == told


def test_what_made_the_layer_is_told_if_it_is_known() -> None:
    filesystem = described(created_by="RUN make")
    assert filesystem.getxattr(ROOT_NUMBER, CREATED_BY) == b"RUN make"
    with raises(errno.ENODATA):
        described().getxattr(ROOT_NUMBER, CREATED_BY)


def test_no_value_is_longer_than_the_kernel_takes() -> None:
    filesystem = described(created_by="RUN " + "x" * 70_000)
    assert filesystem.getxattr(ROOT_NUMBER, CREATED_BY) == b"RUN " + b"x" * (65536 - 4)


def test_it_is_never_listed_and_layers_cannot_pretend() -> None:
    filesystem = described()
    number = filesystem.lookup(ROOT_NUMBER, b"file").number
    assert filesystem.listxattr(number, privileged=True) == [b"user.plain"]
    assert filesystem.listxattr(number, privileged=False) == [b"user.plain"]
    assert filesystem.getxattr(number, LAYER) == b"its label"
    with raises(errno.ENODATA):
        filesystem.getxattr(number, b"user.unionmount.other")


@in_trio
async def test_it_cannot_be_changed(opened: Open) -> None:
    union = opened({"file": "1"})
    number = union.node("file").number
    for name in (LAYER, CREATED_BY, b"user.unionmount.other"):
        with raises(errno.EPERM):
            await union.filesystem.setxattr(number, name, b"value", lambda group: True)
        with raises(errno.EPERM):
            await union.filesystem.removexattr(number, name)
    assert union.told("file") == b"layer 0"


@in_trio
async def test_each_entry_tells_the_topmost_layer_that_has_it(opened: Open) -> None:
    metacopy = File(size=1, xattrs={"trusted.overlay.metacopy": b""})
    union = opened(
        {"file": "1", "both": "1", "d": {"in": "1"}, "content below": "1"},
        {"both": "2", "d": {"other": "2"}, "content below": metacopy},
    )
    paths = ("file", "both", "d", "d/in", "d/other", "content below")
    assert [union.told(path) for path in paths] == [
        b"layer 0",
        b"layer 1",
        b"layer 1",
        b"layer 0",
        b"layer 1",
        b"layer 1",
    ]
    await union.filesystem.setxattr(union.node("file").number, b"user.a", b"1", lambda group: True)
    assert union.told("file") == b"upper"
    with raises(errno.ENODATA):
        union.told("file", CREATED_BY)
