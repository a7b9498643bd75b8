"""What differs between two views."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Hashable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, seed, settings

from layerstore.changes import Change, compare
from layerstore.view import View
from tests.store.trees import shown, stacks
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
from tests.unit.memory import MemoryLayer
from tests.unit.unions import Union, in_trio
from unionfs.layers.base import Layer
from unionfs.layers.directory import DirectoryLayer
from unionfs.model import Entry, Mark

MEBIBYTE = 1 << 20


def view(*layers: Layer) -> View:
    return View(layers)


def memory(tree: Tree | Directory, identity: str) -> MemoryLayer:
    return MemoryLayer(tree, identity=identity)


def differ(before: Tree, after: Tree) -> list[Change]:
    return list(compare(view(memory(before, "before")), view(memory(after, "after"))))


def lines(changes: list[Change]) -> list[str]:
    return [
        " ".join([change.kind.value, os.fsdecode(change.path), *sorted(change.what)])
        for change in changes
    ]


def test_equal_trees_have_no_changes() -> None:
    tree: Tree = {
        "file": File("text", mode=0o4755, uid=7, xattrs={"user.a": b"1"}),
        "link": HardLink("file"),
        "directory": {"x": "x"},
        "symlink": Symlink("target"),
        "device": Node(stat.S_IFCHR, 1, 3),
        "fifo": FIFO,
    }

    assert differ(tree, tree) == []


def test_a_directory_that_is_new_or_gone_is_told_with_all_that_is_in_it() -> None:
    before: Tree = {"gone": {"a": "", "d": {"b": ""}}, "same": ""}
    after: Tree = {"new": {"a": ""}, "same": ""}

    assert lines(differ(before, after)) == [
        "removed gone",
        "removed gone/a",
        "removed gone/d",
        "removed gone/d/b",
        "added new",
        "added new/a",
    ]


@pytest.mark.parametrize(
    ("before", "after", "what"),
    [
        (File("one"), File("two"), "content"),
        (File("one"), File("three"), "content"),
        (File("x" * 5 * MEBIBYTE), File("x" * (5 * MEBIBYTE - 1) + "y"), "content"),
        (
            File("x" * 3 * MEBIBYTE),
            File("x" * MEBIBYTE + "y" + "x" * (2 * MEBIBYTE - 1)),
            "content",
        ),
        (File(), File(mode=0o600), "mode"),
        (File(), File(mode=0o4644), "mode"),
        (File(), File(uid=1), "owner"),
        (File(), File(gid=1), "owner"),
        (File(), File(mtime=OLD + 1), "mtime"),
        (File(), File(xattrs={"user.a": b""}), "xattrs"),
        (File(xattrs={"user.a": b"1"}), File(xattrs={"user.a": b"2"}), "xattrs"),
        (Directory(), Directory(mtime=OLD + 1), "mtime"),
        (Directory(), Directory(mode=0o700), "mode"),
        (Symlink("one"), Symlink("two"), "target"),
        (Node(stat.S_IFBLK, 1, 3), Node(stat.S_IFBLK, 1, 4), "device"),
        (Node(stat.S_IFBLK, 1, 3), Node(stat.S_IFCHR, 1, 3), "type"),
        (File("x", mode=0o600), Symlink("x", uid=1), "owner type"),
        (File("one"), File("two", mode=0o600, uid=1), "content mode owner"),
    ],
)
def test_a_change_tells_in_what(before: Item, after: Item, what: str) -> None:
    assert lines(differ({"n": before}, {"n": after})) == [f"modified n {what}"]


def test_what_is_in_a_directory_that_becomes_a_file_is_gone() -> None:
    assert lines(differ({"d": Directory({"x": ""}, mode=0o644)}, {"d": ""})) == [
        "modified d type",
        "removed d/x",
    ]
    assert lines(differ({"d": ""}, {"d": Directory({"x": ""}, mode=0o644)})) == [
        "modified d type",
        "added d/x",
    ]


def test_a_file_that_is_not_linked_any_more_says_so() -> None:
    before: Tree = {"a": "x", "b": HardLink("a")}

    assert lines(differ(before, {"a": "x", "b": "x"})) == ["modified a links", "modified b links"]


def test_the_root_may_differ_too() -> None:
    one, other = memory(Directory({}), "one"), memory(Directory({}, mode=0o700), "other")

    assert lines(list(compare(view(one), view(other)))) == ["modified  mode"]


def test_labels_of_the_host_are_no_change() -> None:
    assert differ({"f": ""}, {"f": File(xattrs={"security.selinux": b"label"})}) == []


def test_sizes_are_those_of_content() -> None:
    changes = differ({"a": "12345", "d": {"x": "x"}}, {"a": "123", "d": Symlink("x"), "n": "12"})

    assert [(one.path, one.size_before, one.size_after) for one in changes] == [
        (b"a", 5, 3),
        (b"d", 0, 0),
        (b"d/x", 1, 0),
        (b"n", 0, 2),
    ]
    assert changes[-1].before is None
    assert changes[-1].after is not None


# What is not read


class Unreadable(MemoryLayer):
    """Has names, but no content."""

    def open(self, entry: Entry) -> int:
        raise AssertionError("it was read")


class Sealed(Unreadable):
    """Nothing but its root may be looked into."""

    def listing(self, directory: Entry) -> dict[bytes, Entry | Mark]:
        assert directory.attributes == self.root().attributes, "it was looked into"
        return dict(super().listing(directory))


def test_what_two_views_share_is_not_looked_into() -> None:
    base = Sealed({"big": {"x": {"y": ""}}, "file": "x"}, identity="base")
    one, other = memory({"new": "1"}, "one"), memory({"new": "2"}, "other")

    assert lines(list(compare(view(base, one), view(base, other)))) == ["modified new content"]
    assert lines(list(compare(view(base), view(base, other)))) == ["added new"]


def test_a_file_from_the_same_layer_is_not_read_wherever_that_lies() -> None:
    app = Unreadable({"d": {"app": "x"}}, identity="app")
    one, other = memory({"d": {"v": "1"}}, "one"), memory({"d": {"v": "2"}}, "other")

    assert lines(list(compare(view(one, app), view(other, app)))) == ["modified d/v content"]


def test_a_shared_directory_is_looked_into_where_other_layers_lie_below_it() -> None:
    top: Tree = {"d": {"e": redirect({}, "/f")}}
    one, other = memory({"f": {"x": "1"}}, "one"), memory({"f": {"x": "2"}}, "other")
    layer = memory(top, "top")

    assert lines(list(compare(view(one, layer), view(other, layer)))) == [
        "modified d/e/x content",
        "modified f/x content",
    ]


class Keyed(Unreadable):
    """Tells equal contents by a key."""

    def __init__(self, tree: Tree, identity: str, key: Callable[[Entry], Hashable | None]) -> None:
        super().__init__(tree, identity=identity)
        self.content_key = key


def test_contents_with_keys_are_compared_by_these() -> None:
    def compared(key: Hashable, other: Hashable) -> list[str]:
        left = Keyed({"f": "x"}, "left", lambda _: key)
        right = Keyed({"f": "y"}, "right", lambda _: other)
        return lines(list(compare(view(left), view(right))))

    assert compared(1, 1) == []
    assert compared(1, 2) == ["modified f content"]


@pytest.mark.parametrize("key", [None, 1])
def test_contents_of_which_one_has_no_key_are_read(key: Hashable) -> None:
    left = Keyed({"f": "x"}, "left", lambda _: key)
    right = memory({"f": "y"}, "right")

    with pytest.raises(AssertionError, match="it was read"):
        list(compare(view(left), view(right)))


def test_contents_of_other_sizes_are_not_read() -> None:
    left = Unreadable({"f": "x"}, identity="left")

    assert lines(list(compare(view(left), view(memory({"f": "xy"}, "right"))))) == [
        "modified f content"
    ]


def test_whiteouts_and_opaque_directories_take_away() -> None:
    base = memory({"a": "", "d": {"x": "", "y": ""}}, "base")
    top = memory({"a": WHITEOUT, "d": opaque({"x": ""})}, "top")

    assert lines(list(compare(view(base), view(base, top)))) == ["removed a", "removed d/y"]


@in_trio
async def test_what_only_an_index_has_is_a_change_too(tmp_path: Path) -> None:
    union = Union.build(tmp_path / "union", {"a": "old", "d": {"b": HardLink("a")}}, {})
    await union.write("a", "new")
    union.forget()
    union.close()
    lower, upper, index = (
        DirectoryLayer(bytes(path)) for path in (union.lower, union.upper, union.work / "index")
    )

    changes = list(compare(View([lower, upper]), View([lower, upper], index)))

    assert [(one.path, "content" in one.what) for one in changes] == [(b"d/b", True)]
    for layer in (lower, upper, index):
        layer.close()


def test_directories_of_the_host_are_compared_byte_by_byte(tmp_path: Path) -> None:
    build(tmp_path / "one", {"same": "x" * 5000, "other": "x" * 5000})
    build(tmp_path / "two", {"same": "x" * 5000, "other": "x" * 4999 + "y"})
    one, two = (DirectoryLayer(bytes(tmp_path / name)) for name in ("one", "two"))
    before = os.listdir("/proc/self/fd")

    assert lines(list(compare(view(one), view(two)))) == ["modified other content"]

    assert len(os.listdir("/proc/self/fd")) == len(before)
    one.close()
    two.close()


def test_changes_are_just_what_differs(campaign: int) -> None:
    @settings(
        max_examples=30 * campaign,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @seed(1)
    @given(stacks(3))
    def tells(layers: list[MemoryLayer]) -> None:
        before, after = shown(layers[:2]), shown(layers)
        changes = list(compare(View(layers[:2]), View(layers)))
        told = {change.path for change in changes if change.what != {"links"}}
        differing = {
            path
            for path in before.keys() | after.keys()
            if path not in before
            or path not in after
            or before[path]._replace(group=()) != after[path]._replace(group=())
        }
        # They are told of too, but not shown.
        sockets = {
            change.path
            for change in changes
            if any(node and node.is_socket for node in (change.before, change.after))
        }
        assert told - sockets == differing - sockets
        paths = [change.path.split(b"/") for change in changes]
        assert paths == sorted(paths)

    tells()
