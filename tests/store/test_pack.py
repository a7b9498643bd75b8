"""Layer tars of trees: on the layers below they show what they were made from."""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest
import trio
from hypothesis import HealthCheck, given, seed, settings

from layerstore.errors import StoreError
from layerstore.pack import pack_changes, pack_squash, pack_tree
from tests.store import trees
from tests.store.trees import names, shown
from tests.support.layers import (
    FIFO,
    OLD,
    WHITEOUT,
    Directory,
    File,
    HardLink,
    Item,
    Node,
    Symlink,
    Tree,
    build,
    opaque,
    redirect,
)
from tests.unit.memory import Implied, MemoryLayer
from tests.unit.unions import ROOT, Union, in_trio
from unionfs.filesystem import Changes
from unionfs.layers.directory import DirectoryLayer
from unionfs.layers.markers import Dialects
from unionfs.model import NO_ID

SOCKET: Final = Node(stat.S_IFSOCK)
METACOPY: Final = {"trusted.overlay.metacopy": b""}
EVERY_KIND: Final[Tree] = {
    "file": File("text", mode=0o4755, uid=1000, gid=1001, xattrs={"user.a": b"\xff"}),
    "link": HardLink("file"),
    "directory": Directory({"x": File("x", mtime=OLD + 1)}, mode=0o1777, uid=7),
    "symlink": Symlink("target", uid=3),
    "char": Node(stat.S_IFCHR, 1, 3, mode=0o666),
    "fifo": FIFO,
    "fifo2": HardLink("fifo"),
}


def none_left_out(path: bytes) -> None:
    pytest.fail(f"{path!r} was left out")


def memory(*described: Tree | Directory) -> list[MemoryLayer]:
    return [MemoryLayer(tree, identity=f"layer {n}") for n, tree in enumerate(described)]


def changes(*described: Tree | Directory) -> bytes:
    """The tar of what the last of the layers changes; it shows what that layer shows."""
    *lower, upper = memory(*described)
    tar = b"".join(pack_changes(lower, upper, none_left_out))
    assert shown([*lower, trees.layer([tar])]) == shown([*lower, upper])
    return tar


@contextmanager
def opened(*paths: Path) -> Iterator[list[DirectoryLayer]]:
    with ExitStack() as stack:
        layers = []
        for path in paths:
            layers.append(DirectoryLayer(bytes(path)))
            stack.callback(layers[-1].close)
        yield layers


# What changes


def test_what_is_new_is_in_the_layer_with_the_directories_above_it() -> None:
    lower: Tree = {"d": Directory({"e": {"old": ""}}, mode=0o1777), "f": {"old": ""}}

    assert names(changes(lower, {"d": Directory({"e": {"new": ""}}, mode=0o1777)})) == [
        "d/",
        "d/e/",
        "d/e/new",
    ]


def test_a_layer_that_changes_nothing_is_empty() -> None:
    assert changes(EVERY_KIND, {}) == bytes(1024)


def test_what_was_copied_up_and_is_the_same_is_left_out() -> None:
    assert changes(EVERY_KIND, EVERY_KIND) == bytes(1024)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (File("one"), File("two")),
        (File("x"), File("x", mode=0o600)),
        (File("x"), File("x", uid=1)),
        (File("x"), File("x", gid=1)),
        (File("x"), File("x", mtime=OLD + 1)),
        (File("x"), File("x", xattrs={"user.a": b""})),
        (File("x", xattrs={"user.a": b"1"}), File("x", xattrs={"user.a": b"2"})),
        (Directory({}), Directory({}, mode=0o700)),
        (Directory({}), Directory({}, mtime=OLD + 1)),
        (Symlink("a"), Symlink("b")),
        (Symlink("a"), Symlink("a", uid=1)),
        (Node(stat.S_IFCHR, 1, 3), Node(stat.S_IFCHR, 1, 4)),
        (File("x"), Symlink("x")),
        (File("x"), Directory({})),
        (Directory({}), File("x")),
        (Directory({"below": ""}), File("x")),
    ],
)
def test_whatever_differs_is_in_the_layer(before: Item, after: Item) -> None:
    assert [name.rstrip("/") for name in names(changes({"n": before}, {"n": after}))] == ["n"]


def test_labels_of_the_host_are_no_change_and_not_written() -> None:
    label = {"security.selinux": b"label"}

    labelled: Tree = {"same": File("x", xattrs=label), "new": File(xattrs=label)}
    *lower, upper = memory({"same": "x"}, labelled)

    new = shown([trees.layer(pack_changes(lower, upper, none_left_out))])

    assert new.keys() == {b"", b"new"}
    assert new[b"new"].xattrs == ()


def test_the_root_is_in_the_layer_only_if_it_has_changed() -> None:
    assert names(changes(Directory({}), Directory({"new": ""}))) == ["new"]
    assert names(changes(Directory({}), Directory({}, mode=0o700))) == ["./"]


def test_a_removed_name_becomes_a_whiteout() -> None:
    lower: Tree = {"d": {"a": "", "e": {"x": ""}}}

    assert names(changes(lower, {"d": {"a": WHITEOUT, "e": WHITEOUT}})) == [
        "d/",
        "d/.wh.a",
        "d/.wh.e",
    ]


def test_a_whiteout_of_what_is_not_there_is_left_out() -> None:
    assert changes({"x": "", "d": {}}, {"x": WHITEOUT}, {"x": WHITEOUT, "d": {"y": WHITEOUT}}) == (
        bytes(1024)
    )


def test_a_name_that_no_whiteout_has_room_for_goes_with_all_of_its_directory() -> None:
    fits, long = "f" * 251, "l" * 252

    assert names(changes({fits: "", "kept": ""}, {fits: WHITEOUT})) == [f".wh.{fits}"]
    assert names(changes({"d": {long: "", "kept": ""}}, {"d": {long: WHITEOUT}})) == [
        "d/",
        "d/.wh..wh..opq",
        "d/kept",
    ]
    assert names(changes({"d": {long: "", "kept": ""}}, {"d": {"kept": "new"}})) == ["d/", "d/kept"]


def test_a_layer_by_itself_can_not_say_that_such_a_name_is_gone() -> None:
    (layer,) = memory({"d": {"l" * 252: WHITEOUT}})

    with pytest.raises(StoreError, match=r"^d/l+: too long a name"):
        list(pack_tree(layer, none_left_out))


def test_an_opaque_directory_says_so_if_it_hides_something() -> None:
    assert names(changes({"d": {"a": "", "b": ""}}, {"d": opaque({"b": "", "c": ""})})) == [
        "d/",
        "d/.wh..wh..opq",
        "d/b",
        "d/c",
    ]
    assert names(changes({"d": {}}, {"d": opaque({"c": ""})})) == ["d/", "d/c"]
    assert names(changes({}, {"d": opaque({"c": ""})})) == ["d/", "d/c"]


def test_a_directory_that_is_only_emptied_keeps_its_attributes() -> None:
    emptied = Implied({"b": ""}, xattrs={"trusted.overlay.opaque": b"y"})

    assert names(changes({"d": Directory({"a": ""}, mode=0o700)}, {"d": emptied})) == [
        "d/",
        "d/.wh..wh..opq",
        "d/b",
    ]


def test_an_opaque_root_hides_all() -> None:
    assert names(changes({"a": "", "d": {"x": ""}}, opaque({"b": ""}))) == [
        "./",
        ".wh..wh..opq",
        "b",
    ]


def test_a_renamed_directory_is_a_whole_copy_under_its_new_name() -> None:
    lower: Tree = {"old": {"a": "a", "e": {"b": "b"}}, "new": {"hidden": ""}}
    upper: Tree = {"old": WHITEOUT, "new": redirect({"c": "c", "a": WHITEOUT}, "old")}

    assert names(changes(lower, upper)) == [
        "new/",
        "new/.wh..wh..opq",
        "new/c",
        "new/e/",
        "new/e/b",
        ".wh.old",
    ]


def test_a_metacopy_file_gets_its_content() -> None:
    moved = {**METACOPY, "trusted.overlay.redirect": b"/a"}
    *lower, upper = memory(
        {"a": "content"},
        {"a": File(size=7, mode=0o600, xattrs=METACOPY), "b": File(size=7, xattrs=moved)},
    )

    found = shown([*lower, trees.layer(pack_changes(lower, upper, none_left_out))])

    assert (found[b"a"].content, found[b"b"].content) == (b"content", b"content")
    assert found == shown([*lower, upper])


def test_a_metacopy_file_that_changes_nothing_is_left_out() -> None:
    assert changes({"a": "content"}, {"a": File(size=7, xattrs=METACOPY)}) == bytes(1024)


def test_a_file_may_have_any_name_but_that_of_a_whiteout(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / ".wh.x").touch()
    upper = DirectoryLayer(bytes(tmp_path), Dialects.OVERLAY)

    with pytest.raises(StoreError, match=r"^d/\.wh\.x: in a layer this name would be a whiteout"):
        list(pack_changes(memory({}), upper, none_left_out))
    upper.close()


def test_a_whiteout_of_such_a_name_can_not_be_said_either(tmp_path: Path) -> None:
    (tmp_path / ".wh.x").touch()
    lower = DirectoryLayer(bytes(tmp_path), Dialects.OVERLAY)

    with pytest.raises(StoreError, match=r"^\.wh\.x: "):
        list(pack_changes([lower], memory({".wh.x": WHITEOUT})[0], none_left_out))
    lower.close()


def test_sockets_are_left_out_and_hide_what_they_replaced() -> None:
    *lower, upper = memory({"a": "", "d": {"x": ""}}, {"a": SOCKET, "b": SOCKET, "d": SOCKET})
    left_out: list[bytes] = []

    tar = b"".join(pack_changes(lower, upper, left_out.append))

    assert left_out == [b"a", b"b", b"d"]
    assert names(tar) == [".wh.a", ".wh.d"]


def test_an_owner_without_a_number_is_an_error() -> None:
    *lower, upper = memory({}, {"a": File(uid=NO_ID)})

    with pytest.raises(StoreError, match=r"^a: its owner has no number"):
        list(pack_changes(lower, upper, none_left_out))


def test_the_same_layers_give_the_same_bytes() -> None:
    layers = memory(EVERY_KIND, {"new": File(xattrs={"user.b": b"", "user.a": b""})})
    again = memory(EVERY_KIND, {"new": File(xattrs={"user.a": b"", "user.b": b""})})

    one = b"".join(pack_changes(layers[:1], layers[1], none_left_out))
    assert one == b"".join(pack_changes(again[:1], again[1], none_left_out))


def test_directories_that_the_upper_has_nothing_in_are_not_read() -> None:
    class Reluctant(MemoryLayer):
        def listing(self, directory):  # type: ignore[no-untyped-def]
            assert directory is not self.lookup(self.root(), b"big")
            return super().listing(directory)

    lower = Reluctant({"big": {"x": ""}, "d": {}})

    tar = b"".join(pack_changes([lower], memory({"d": {"new": ""}})[0], none_left_out))

    assert names(tar) == ["d/", "d/new"]


# Files with several names


def test_all_names_of_a_changed_inode_are_in_the_layer() -> None:
    lower: Tree = {"a": "old", "b": HardLink("a"), "c": "c"}

    assert names(changes(lower, {"a": "new", "b": HardLink("a")})) == ["a", "b"]


def test_the_names_of_an_inode_that_is_the_same_are_left_out() -> None:
    lower: Tree = {"a": "x", "b": HardLink("a")}

    assert changes(lower, {"a": "x", "b": HardLink("a")}) == bytes(1024)


def test_a_name_that_is_not_of_its_inode_any_more_is_in_the_layer() -> None:
    lower: Tree = {"a": "x", "b": HardLink("a")}

    assert names(changes(lower, {"a": "x"})) == ["a"]


def test_names_that_have_become_one_inode_are_all_in_the_layer() -> None:
    assert names(changes({"a": "x", "b": "x"}, {"a": "x", "b": HardLink("a")})) == ["a", "b"]


def test_a_further_name_brings_the_others_along() -> None:
    lower: Tree = {"a": "x", "b": HardLink("a")}

    assert names(changes(lower, {"a": "x", "b": HardLink("a"), "c": HardLink("a")})) == list("abc")


def test_a_name_moved_along_with_its_directory_stays_one_inode_with_the_others() -> None:
    lower: Tree = {"d": {"a": "x"}, "far": {"away": {"b": HardLink("d/a")}}}
    upper: Tree = {"d": WHITEOUT, "e": redirect({}, "d")}

    assert names(changes(lower, upper)) == [
        ".wh.d",
        "e/",
        "e/a",
        "far/",
        "far/away/",
        "far/away/b",
    ]


@in_trio
async def test_names_that_the_mount_had_not_heard_of_change_with_the_others(tmp_path: Path) -> None:
    lower: Tree = {"a": "old", "d": {"b": HardLink("a")}, "k": "k", "l": HardLink("k")}
    union = Union.build(tmp_path / "union", lower, {})
    await union.write("a", "new")
    # Its content is in the index alone afterwards.
    await union.unlink("k")
    union.forget()
    union.close()

    with opened(union.lower, union.upper, union.work / "index") as (below, upper, index):
        expected = shown([below, upper], index)
        tar = b"".join(pack_changes([below], upper, none_left_out, index=index))
        assert shown([below, trees.layer([tar])]) == expected
    assert names(tar) == ["./", "a", "d/", "d/b", ".wh.k", "l"]
    assert (expected[b"d/b"].content, expected[b"l"].content) == (b"new", b"k")


# Whatever was done

PATHS: Final = (
    *("a", "a/f", "a/f", "a/g", "a/l", "a/d", "a/d/x", "a/d/h", "b", "b/s", "b/k", "b/m", "b/e"),
    *("t", "u", "p", "q", "a/d/n", "n", "n/f", "n/d/h", "d", "d/h", "b/n", "b/f", "b/x"),
)
WORKED_ON: Final[Tree] = {
    "a": {
        "f": "f",
        "g": File("g", mode=0o4755),
        "l": HardLink("a/f"),
        "d": {"x": "x", "h": HardLink("a/f")},
    },
    "b": {"s": Symlink("f"), "k": "k", "m": HardLink("b/k"), "e": {}},
    "t": "t",
    "u": HardLink("t"),
    "p": FIFO,
    "q": HardLink("p"),
}


class Work:
    """Random work on a union, as a kernel would let programs do it."""

    def __init__(self, union: Union, choices: random.Random) -> None:
        self._union = union
        self._random = choices
        self.done: list[str] = []

    async def step(self) -> None:
        path, new = self._random.choice(PATHS), self._random.choice(PATHS)
        kind, new_kind = self._kind(path), self._kind(new)
        if self._random.random() < 0.1:
            self._union.forget()
            self._union.reopen()
        elif kind is None:
            self._make(path)
        elif self._random.random() < 0.4:
            await self._move(path, kind, new, new_kind)
        elif kind == stat.S_IFDIR:
            await self._change(path, kind)
        elif self._random.random() < 0.3:
            await self._union.unlink(path)
        else:
            await self._change(path, kind)
        self.done.append(f"{path} {new}")

    def _kind(self, path: str) -> int | None:
        try:
            return self._union.node(path).mode
        except OSError:
            return None

    def _make(self, path: str) -> None:
        parent = path.rpartition("/")[0]
        if parent and self._kind(parent) != stat.S_IFDIR:
            return
        if self._random.random() < 0.5:
            self._union.create(path, "made")
        else:
            made = self._union.filesystem.mkdir(*self._union.spot(path), 0o755, ROOT)
            self._union.refer(made)

    async def _move(self, path: str, kind: int, new: str, new_kind: int | None) -> None:
        parent = new.rpartition("/")[0]
        directory = kind == stat.S_IFDIR
        if parent and self._kind(parent) != stat.S_IFDIR:
            return
        if new_kind is not None and (new_kind == stat.S_IFDIR) != directory:
            return
        if f"{new}/".startswith(f"{path}/") or f"{path}/".startswith(f"{new}/"):
            return
        if new_kind is None and not directory and self._random.random() < 0.5:
            await self._union.link(path, new)
            return
        if directory and new_kind is not None and self._union.listing(self._union.number(new)):
            return
        await self._union.rename(path, new)

    async def _change(self, path: str, kind: int) -> None:
        number = self._union.number(path)
        if kind == stat.S_IFREG and self._random.random() < 0.4:
            await self._union.write(path, self._random.choice(["1", "22"]))
        elif kind == stat.S_IFREG and self._random.random() < 0.3:
            await self._union.filesystem.setxattr(number, b"user.a", b"1", lambda _: True)
        elif kind != stat.S_IFLNK:
            # There and back: copied up for nothing.
            node = self._union.filesystem.getattr(number)
            mode = self._union.filesystem.status(node).attributes.st_mode
            modes = [0o600, mode & 0o7777] if self._random.random() < 0.5 else [0o640]
            for wanted in modes:
                await self._union.filesystem.setattr(number, Changes(mode=wanted))


def test_after_any_work_the_layer_shows_what_the_mount_showed(
    tmp_path: Path, campaign: int
) -> None:
    async def check(number: int) -> None:
        union = Union.build(tmp_path / f"{number}", WORKED_ON, {})
        work = Work(union, random.Random(number))
        for _ in range(20):
            await work.step()
        mounted = {
            os.fsencode(path.strip("/")): tuple(os.fsencode(name.strip("/")) for name in one.group)
            for path, one in (await union.shown()).items()
        }
        union.forget()
        union.close()
        with opened(union.lower, union.upper, union.work / "index") as (lower, upper, index):
            expected = shown([lower, upper], index)
            packed = trees.layer(pack_changes([lower], upper, none_left_out, index=index))
            assert {path: one.group for path, one in expected.items()} == mounted, number
            assert shown([lower, packed]) == expected, number

    for number in range(25 * campaign):
        trio.run(check, number)


@pytest.mark.parametrize("keep", [None, 0, 1, 2])
def test_any_layers_can_be_packed(campaign: int, keep: int | None) -> None:
    """As changes of the last one, and squashed."""

    @settings(
        max_examples=30 * campaign,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @seed(1)
    @given(trees.stacks(3))
    def shows_the_same(layers: list[MemoryLayer]) -> None:
        if keep is None:
            tar = pack_changes(layers[:2], layers[2], lambda _: None)
        else:
            tar = pack_squash(layers, lambda _: None, keep=keep)
        assert shown([*layers[: 2 if keep is None else keep], trees.layer(tar)]) == shown(layers)

    shows_the_same()


# Squashed layers


def test_all_layers_squashed_have_no_marks() -> None:
    layers = memory(
        {"a": "", "gone": "", "d": {"x": ""}}, {"gone": WHITEOUT, "d": opaque({"y": ""})}, {"b": ""}
    )

    assert names(b"".join(pack_squash(layers, none_left_out))) == ["./", "a", "b", "d/", "d/y"]


def test_layers_squashed_on_a_base_hide_what_they_hid() -> None:
    layers = memory(
        {"a": "", "d": {"x": ""}},
        {"a": WHITEOUT, "passing": "", "d": opaque({"y": ""})},
        {"passing": WHITEOUT, "d": {"z": ""}},
    )

    assert names(b"".join(pack_squash(layers, none_left_out, keep=1))) == [
        ".wh.a",
        "d/",
        "d/.wh..wh..opq",
        "d/y",
        "d/z",
    ]


def test_a_directory_that_no_layer_describes_keeps_its_place_when_squashed() -> None:
    layers = memory(Implied({"d": Implied({"x": ""})}))

    assert names(b"".join(pack_squash(layers, none_left_out))) == ["d/", "d/x"]


# Whole directories


def test_a_directory_is_a_layer_with_all_that_is_in_it(tmp_path: Path) -> None:
    build(tmp_path / "root", Directory(EVERY_KIND, mode=0o750))

    with opened(tmp_path / "root") as (layer,):
        tar = b"".join(pack_tree(layer, none_left_out))
        assert shown([trees.layer([tar])]) == shown([layer])
    assert names(tar) == [
        "./",
        "char",
        "directory/",
        "directory/x",
        "fifo",
        "fifo2",
        "file",
        "link",
        "symlink",
    ]


@pytest.mark.parametrize(
    "tree",
    [
        {"d": opaque({"x": ""}), "gone": WHITEOUT},
        {"d": {"x": "", ".wh..wh..opq": ""}, ".wh.gone": ""},
        {"d": opaque({"x": ""}, "user.fuseoverlayfs"), "gone": WHITEOUT},
    ],
)
def test_marks_become_those_of_layers_whatever_their_dialect(tree: Tree, tmp_path: Path) -> None:
    build(tmp_path / "root", tree)

    with opened(tmp_path / "root") as (layer,):
        tar = b"".join(pack_tree(layer, none_left_out))

    assert names(tar) == ["./", ".wh.gone", "d/", "d/.wh..wh..opq", "d/x"]
    assert b"trusted" not in tar
    assert b"overlay" not in tar


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        (redirect({}, "/a"), "a directory that was renamed"),
        (File(xattrs=METACOPY), "a file without its content"),
    ],
)
def test_what_means_something_on_other_layers_only_is_refused(tree: Item, text: str) -> None:
    with pytest.raises(StoreError) as raised:
        list(pack_tree(memory({"d": {"x": tree}})[0], none_left_out))
    assert str(raised.value) == f"d/x: {text}; commit the changes onto their image instead"


def test_sockets_of_a_directory_are_left_out() -> None:
    left_out: list[bytes] = []

    tar = b"".join(pack_tree(memory({"d": {"s": SOCKET}})[0], left_out.append))

    assert (names(tar), left_out) == (["./", "d/"], [b"d/s"])


def test_implied_directories_stay_implied() -> None:
    tar = b"".join(pack_tree(memory({"d": Implied({"x": "", "y": WHITEOUT})})[0], none_left_out))

    assert names(tar) == ["./", "d/.wh.y", "d/x"]
