"""Views: what several layers show together, found and walked, and which layer says what."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given, seed, settings

from layerstore.view import Said, View, ViewNode
from tests.store.trees import shown, stacks
from tests.support.layers import (
    OLD,
    WHITEOUT,
    Directory,
    File,
    HardLink,
    Symlink,
    Tree,
    build,
    opaque,
    redirect,
)
from tests.unit.errors import raises
from tests.unit.memory import Implied, MemoryLayer
from tests.unit.unions import Union, in_trio
from unionfs.layers.directory import DirectoryLayer
from unionfs.model import Entry

METACOPY = {"trusted.overlay.metacopy": b""}


def view(*trees: Tree | Directory) -> View:
    return View([MemoryLayer(tree, identity=f"layer {n}") for n, tree in enumerate(trees)])


def paths(nodes: Iterator[ViewNode]) -> list[bytes]:
    return [node.path for node in nodes]


def content(node: ViewNode) -> bytes:
    with open(node.open(), "rb") as file:
        return file.read()


# The tree


def test_a_walk_tells_a_directory_before_its_names_and_these_sorted() -> None:
    merged = view({"d": {"z": "", "a": ""}, "a": "", "d.": ""}, {"d": {"b": ""}})

    assert paths(merged.walk()) == [b"", b"a", b"d", b"d/a", b"d/b", b"d/z", b"d."]


def test_a_walk_may_start_anywhere() -> None:
    merged = view({"d": {"e": {"f": ""}}, "g": ""})

    assert paths(merged.walk(merged.find(b"d/e"))) == [b"d/e", b"d/e/f"]


def test_the_topmost_layer_wins_and_whiteouts_hide() -> None:
    merged = view({"file": "old", "gone": "", "kept": "kept"}, {"file": "new", "gone": WHITEOUT})

    assert {node.path: content(node) for node in merged.children(merged.root())} == {
        b"file": b"new",
        b"kept": b"kept",
    }


def test_a_walk_goes_deeper_than_python_nests_calls() -> None:
    tree: Tree = {}
    for _ in range(300):
        tree = {"d": tree}
    layer = MemoryLayer(tree)
    depth = 5000
    bottom = layer.root()
    while layer.listing(bottom):
        below = layer.listing(bottom)[b"d"]
        assert isinstance(below, Entry)
        bottom = below
    # The same three hundred, over and over.
    bottom.handle.names[b"d"] = layer.listing(layer.root())[b"d"]

    walk = View([layer]).walk()

    for _ in range(depth):
        node = next(walk)
    assert node.path.count(b"/") == depth - 2


def test_a_walk_keeps_what_lies_above_and_nothing_else() -> None:
    class Counting(MemoryLayer):
        forgotten = 0

        def forget(self, entry: Entry) -> None:
            self.forgotten += 1

    layer = Counting({f"d{number:02}": {"f": ""} for number in range(50)})
    walk = View([layer]).walk()

    next(node for node in walk if node.path == b"d07/f")

    assert layer.forgotten == 7


def test_a_node_tells_what_its_entry_has() -> None:
    file = File(b"text", mode=0o640, uid=7, gid=8, mtime=OLD + 1, xattrs={"user.a": b"1"})
    merged = view({"file": file, "link": Symlink("target"), "d": Directory({}, mode=0o700)})

    node, link = merged.find(b"file"), merged.find(b"link")
    attributes = node.attributes
    assert (attributes.st_mode & 0o7777, attributes.st_uid, attributes.st_gid) == (0o640, 7, 8)
    assert (attributes.st_mtime_ns, attributes.st_size) == (OLD + 1, 4)
    assert (node.name, node.is_regular, node.xattrs()) == (b"file", True, {b"user.a": b"1"})
    assert (link.is_symlink, link.readlink()) == (True, b"target")
    assert merged.find(b"d").is_directory


def test_attributes_of_an_implied_directory_are_those_below() -> None:
    below = Directory({"a": ""}, mode=0o700, xattrs={"user.a": b"1"})
    merged = view({"d": below}, {"d": Implied({"b": ""})})

    node = merged.find(b"d")
    assert (node.source.position, node.attributes.st_mode & 0o777) == (0, 0o700)
    assert (node.xattrs(), paths(merged.children(node))) == (
        {b"user.a": b"1"},
        [b"d/a", b"d/b"],
    )


def test_a_metacopy_file_has_its_content_from_below() -> None:
    merged = view(
        {"old": "content"},
        {"new": File(size=7, xattrs={**METACOPY, "trusted.overlay.redirect": b"old"})},
    )

    node = merged.find(b"new")
    assert (content(node), node.source.position, node.content().position) == (b"content", 1, 0)


def test_names_of_one_inode_have_one_identity() -> None:
    merged = view({"a": "x", "b": HardLink("a"), "c": "x"}, {"d": "x"})

    a, b, c, d = (merged.find(name) for name in (b"a", b"b", b"c", b"d"))
    assert (a.identity, a.links, a.may_have_other_names) == (b.identity, 2, True)
    assert len({a.identity, c.identity, d.identity}) == 3
    assert (c.links, c.may_have_other_names) == (1, False)


def test_what_is_no_directory_has_no_children() -> None:
    merged = view({"file": ""})
    file = merged.find(b"file")

    with raises(errno.ENOTDIR):
        list(merged.children(file))
    with raises(errno.ENOTDIR):
        merged.child(file, b"name")


def test_a_name_that_is_not_there_is_none() -> None:
    merged = view({"gone": ""}, {"gone": WHITEOUT})

    assert merged.child(merged.root(), b"gone") is None
    assert merged.child(merged.root(), b"never") is None


# Paths

LINKED: Tree = {
    "usr": {"bin": {"env": "env", "up": Symlink("../..")}},
    "bin": Symlink("usr/bin"),
    "sh": Symlink("/bin/env"),
    "out": Symlink("../../../../usr"),
    "one": Symlink("other"),
    "other": Symlink("one"),
    "dangling": Symlink("nowhere"),
}


@pytest.mark.parametrize(
    ("path", "follow", "found"),
    [
        (b"", False, b""),
        (b"/", False, b""),
        (b"/usr//bin/./env", False, b"usr/bin/env"),
        (b"usr/bin/", False, b"usr/bin"),
        (b"/usr/bin/..", False, b"usr"),
        (b"/../../usr", False, b"usr"),
        (b"/bin/env", False, b"usr/bin/env"),
        (b"/bin", False, b"bin"),
        (b"/bin", True, b"usr/bin"),
        (b"/bin/", False, b"usr/bin"),
        (b"/sh", False, b"sh"),
        (b"/sh", True, b"usr/bin/env"),
        (b"/out/bin", False, b"usr/bin"),
        (b"/bin/up/usr", False, b"usr"),
        (b"/dangling", False, b"dangling"),
    ],
)
def test_a_path_leads_where_chroot_would_lead(path: bytes, follow: bool, found: bytes) -> None:
    assert view(LINKED).find(path, follow=follow).path == found


@pytest.mark.parametrize(
    ("path", "follow", "number"),
    [
        (b"/nowhere", False, errno.ENOENT),
        (b"/dangling", True, errno.ENOENT),
        (b"/usr/bin/env/x", False, errno.ENOTDIR),
        (b"/usr/bin/env/", False, errno.ENOTDIR),
        (b"/usr/bin/env/..", False, errno.ENOTDIR),
        (b"/one", True, errno.ELOOP),
        (b"/one/x", False, errno.ELOOP),
    ],
)
def test_a_path_that_leads_nowhere_is_an_error(path: bytes, follow: bool, number: int) -> None:
    with raises(number):
        view(LINKED).find(path, follow=follow)


# History


def told(history: Sequence[Said]) -> list[tuple[int, bytes, str, bool]]:
    """Position, path, what, and whether it is hidden, in words."""

    def what(said: Said) -> str:
        if not isinstance(said.says, Entry):
            return "whiteout"
        kind = "directory" if said.says.is_directory else "file"
        return f"opaque {kind}" if said.says.opaque else kind

    return [(said.position, said.at, what(said), said.hidden) for said in history]


def test_the_history_of_a_file_has_what_it_shadows() -> None:
    layers = view({"f": "0"}, {"g": ""}, {"f": "2"}, {"f": WHITEOUT}, {"f": "4"})

    assert told(layers.history(b"f")) == [
        (4, b"f", "file", False),
        (3, b"f", "whiteout", True),
        (2, b"f", "file", True),
        (0, b"f", "file", True),
    ]


def test_a_removed_file_has_a_history_too() -> None:
    assert told(view({"f": ""}, {"f": WHITEOUT}).history(b"f")) == [
        (1, b"f", "whiteout", False),
        (0, b"f", "file", True),
    ]


def test_directories_merge_in_their_history_until_something_ends_it() -> None:
    layers = view({"d": {}}, {"d": opaque({})}, {"d": Implied({"x": ""})}, {"d": {}})

    assert told(layers.history(b"d")) == [
        (3, b"d", "directory", False),
        (1, b"d", "opaque directory", False),
        (0, b"d", "directory", True),
    ]


def test_a_file_below_a_directory_is_hidden() -> None:
    assert told(view({"d": ""}, {"d": {}}).history(b"d")) == [
        (1, b"d", "directory", False),
        (0, b"d", "file", True),
    ]


@pytest.mark.parametrize(
    ("above", "what"),
    [
        ({"d": WHITEOUT}, "whiteout"),
        ({"d": opaque({})}, "opaque directory"),
        ({"d": "file"}, "file"),
    ],
)
def test_a_history_tells_what_hides_a_whole_directory(above: Tree, what: str) -> None:
    layers = view({"d": {"e": {"f": ""}}}, above)

    assert told(layers.history(b"d/e/f")) == [(1, b"d", what, False), (0, b"d/e/f", "file", True)]


def test_a_file_where_others_have_a_directory_on_the_way_is_hidden() -> None:
    layers = view({"d": {"f": ""}}, {"d": "file"}, {"d": {"g": ""}})

    assert told(layers.history(b"d/f")) == [(1, b"d", "file", True), (0, b"d/f", "file", True)]


def test_an_opaque_directory_that_has_the_file_gives_it() -> None:
    layers = view({"d": {"f": ""}}, {"d": opaque({"f": ""})})

    assert told(layers.history(b"d/f")) == [
        (1, b"d/f", "file", False),
        (0, b"d/f", "file", True),
    ]


def test_a_history_follows_renames() -> None:
    layers = view(
        {"a": {"b": {"f": ""}}},
        {"old": redirect({}, "/a/b"), "a": {"b": WHITEOUT}},
        {"new": redirect({"f": ""}, "old"), "old": WHITEOUT},
    )

    assert told(layers.history(b"new/f")) == [
        (2, b"new/f", "file", False),
        (0, b"a/b/f", "file", True),
    ]


def test_a_rename_within_a_directory_that_hides_all_leads_out_of_it() -> None:
    layers = view({"f": {"x": ""}, "d": {"e": {"x": ""}}}, {"d": opaque({"e": redirect({}, "/f")})})

    assert told(layers.history(b"d/e/x")) == [(0, b"f/x", "file", False)]
    assert layers.find(b"d/e/x").source.position == 0


def test_the_root_has_a_history() -> None:
    assert told(view({}, {}).history(b"")) == [
        (1, b"", "directory", False),
        (0, b"", "directory", False),
    ]


def test_the_history_agrees_with_the_view(campaign: int) -> None:
    @settings(max_examples=25 * campaign, deadline=None, database=None)
    @seed(1)
    @given(stacks(3))
    def agrees(layers: list[MemoryLayer]) -> None:
        merged = View(layers)
        for node in merged.walk():
            shown = [
                said
                for said in merged.history(node.path)
                if isinstance(said.says, Entry) and not said.hidden and not said.says.implied
            ]
            if not node.source.entry.implied:
                assert shown[0].position == node.source.position

    agrees()


def test_what_no_layer_has_heard_of_has_none() -> None:
    assert view({"d": {}}).history(b"d/f") == []


# The index of a work directory


@in_trio
async def test_a_file_with_several_names_is_what_the_index_has(tmp_path: Path) -> None:
    union = Union.build(tmp_path / "union", {"a": "old", "b": HardLink("a"), "c": "c"}, {})
    # A mount that has not heard of b.
    await union.write("a", "new")
    union.forget()
    union.close()

    with ExitStack() as stack:
        lower, upper, index = (
            DirectoryLayer(bytes(path)) for path in (union.lower, union.upper, union.work / "index")
        )
        for layer in (lower, upper, index):
            stack.callback(layer.close)
        merged = View([lower, upper], index)
        a, b, c = (merged.find(name) for name in (b"a", b"b", b"c"))
        assert (content(a), content(b), content(c)) == (b"new", b"new", b"c")
        assert a.identity == b.identity
        assert (a.links, b.links, c.links) == (None, None, 1)
        assert merged.has_index
        assert content(View([lower, upper]).find(b"b")) == b"old"


def test_an_index_entry_of_another_kind_changes_nothing(tmp_path: Path) -> None:
    build(tmp_path / "lower", {"a": "a", "b": HardLink("a")})
    layer = DirectoryLayer(bytes(tmp_path / "lower"))
    entry = layer.lookup(layer.root(), b"a")
    assert isinstance(entry, Entry)
    handle = layer.origin(entry)
    assert handle is not None
    build(tmp_path / "index", {handle.hex(): Symlink("x"), "directory": {}})
    upper, index = MemoryLayer({}), DirectoryLayer(bytes(tmp_path / "index"))

    assert shown([layer, upper], index) == shown([layer, upper])
    layer.close()
    index.close()
