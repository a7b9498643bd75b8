"""Which layer answers: the rules of merging, on layers in memory."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.layers import WHITEOUT, Directory, File, Item, as_entry, opaque, redirect
from tests.unit.errors import raises
from tests.unit.memory import Implied, MemoryLayer
from unionfs import merge
from unionfs.layers.base import Layer
from unionfs.merge import Source

Shown = dict[str, "str | Shown"]
"""What a union shows: names with texts of files or with what directories show."""


def layers_of(*trees: Item) -> list[Layer]:
    """The layers that are described, base first."""
    return [
        MemoryLayer(as_directory(tree), identity=str(number)) for number, tree in enumerate(trees)
    ]


def as_directory(item: Item) -> Directory:
    directory = as_entry(item)
    assert isinstance(directory, Directory)
    return directory


def root_of(layers: Sequence[Layer]) -> list[Source]:
    """The stack of the roots."""
    return [Source(position, layer, layer.root()) for position, layer in enumerate(layers)][::-1]


def find(layers: Sequence[Layer], path: str) -> list[Source]:
    """The sources of a path in the union."""
    sources = root_of(layers)
    for name in path.split("/"):
        sources = merge.resolve(layers, sources, name.encode())
    return sources


def shown(layers: Sequence[Layer], stack: merge.Stack | None = None) -> Shown:
    """All that the union shows below *stack*, or its root."""
    stack = root_of(layers) if stack is None else stack
    found: Shown = {}
    for name, topmost in merge.children(stack).items():
        sources = merge.resolve(layers, stack, name)
        assert merge.resolve(layers, stack, name, topmost) == sources
        assert sources[0].position == topmost
        if sources[0].entry.is_directory:
            found[os.fsdecode(name)] = shown(layers, sources)
        else:
            (source,) = sources
            found[os.fsdecode(name)] = text(source)
    return found


def text(source: Source) -> str:
    with open(source.layer.open(source.entry)) as file:
        return file.read()


# Names

NAMES: dict[str, tuple[list[Item], Shown]] = {
    "one layer shows itself": ([{"f": "1", "d": {"g": "2"}}], {"f": "1", "d": {"g": "2"}}),
    "the topmost file wins": ([{"f": "1"}, {"f": "2"}, {}, {"f": "4"}, {}], {"f": "4"}),
    "directories merge": (
        [{"d": {"a": "1", "b": "1"}}, {"d": {"b": "2", "c": "2"}}, {"d": {}}],
        {"d": {"a": "1", "b": "2", "c": "2"}},
    ),
    "layers between need not have the directory": (
        [{"d": {"e": {"a": "1"}}}, {}, {"d": {}}, {"d": {"e": {"b": "4"}}}],
        {"d": {"e": {"a": "1", "b": "4"}}},
    ),
    "a file hides a directory": ([{"d": {"a": "1"}}, {"d": "2"}], {"d": "2"}),
    "a directory hides a file": ([{"d": "1"}, {"d": {"a": "2"}}], {"d": {"a": "2"}}),
    "a file between parts directories": (
        [{"d": {"a": "1"}}, {"d": "2"}, {"d": {"c": "3"}}],
        {"d": {"c": "3"}},
    ),
    "a whiteout hides a file": ([{"f": "1", "g": "1"}, {"f": WHITEOUT}, {}], {"g": "1"}),
    "a whiteout hides a directory": ([{"d": {"a": "1"}}, {"d": WHITEOUT}], {}),
    "a whiteout hides what is below only": (
        [{"f": "1"}, {"f": WHITEOUT}, {"f": "3"}],
        {"f": "3"},
    ),
    "a whiteout between parts directories": (
        [{"d": {"a": "1"}}, {"d": WHITEOUT}, {"d": {"c": "3"}}],
        {"d": {"c": "3"}},
    ),
    "a whiteout of nothing is nothing": ([{}, {"f": WHITEOUT}], {}),
    "a whiteout at the base is nothing": ([{"f": WHITEOUT, "g": "1"}], {"g": "1"}),
    "an opaque directory hides those below": (
        [{"d": {"a": "1", "e": {"b": "1"}}}, {"d": opaque({"c": "2"})}],
        {"d": {"c": "2"}},
    ),
    "an opaque directory merges with those above": (
        [{"d": {"a": "1"}}, {"d": opaque({"b": "2"})}, {"d": {"c": "3"}}],
        {"d": {"b": "2", "c": "3"}},
    ),
    "a directory in an opaque one has nothing below": (
        [{"d": {"e": {"a": "1"}}}, {"d": opaque({"e": {"b": "2"}})}],
        {"d": {"e": {"b": "2"}}},
    ),
}


@pytest.mark.parametrize(("trees", "expected"), NAMES.values(), ids=NAMES)
def test_names(trees: list[Item], expected: Shown) -> None:
    assert shown(layers_of(*trees)) == expected


# Redirects

REDIRECTS: dict[str, tuple[list[Item], Shown]] = {
    "a name leads to its sibling below": (
        [{"d": {"old": {"a": "1"}}}, {"d": {"new": redirect({"b": "2"}, "old"), "old": WHITEOUT}}],
        {"d": {"new": {"a": "1", "b": "2"}}},
    ),
    "a path leads from the root below": (
        [{"x": {"y": {"a": "1"}}}, {"d": {"new": redirect({"b": "2"}, "/x/y")}, "x": WHITEOUT}],
        {"d": {"new": {"a": "1", "b": "2"}}},
    ),
    "what is called so below the old name is not meant": (
        [{"new": {"a": "1"}, "old": {"b": "1"}}, {"new": redirect({}, "old"), "old": WHITEOUT}],
        {"new": {"b": "1"}},
    ),
    "it counts for all layers further down": (
        [{"old": {"a": "1"}}, {"old": {"b": "2"}}, {"new": redirect({}, "old"), "old": WHITEOUT}],
        {"new": {"a": "1", "b": "2"}},
    ),
    "a layer without the directory is passed": (
        [{"d": {"old": {"a": "1"}}}, {}, {"d": {}}, {"d": {"new": redirect({}, "old")}}],
        {"d": {"new": {"a": "1"}, "old": {"a": "1"}}},
    ),
    "names lead on": (
        [{"c": {"x": "1"}}, {"b": redirect({"y": "2"}, "c")}, {"a": redirect({"z": "3"}, "b")}],
        {
            "a": {"x": "1", "y": "2", "z": "3"},
            "b": {"x": "1", "y": "2"},
            "c": {"x": "1"},
        },
    ),
    "a name after a path is beside the path's end": (
        [
            {"p": {"c": {"x": "1"}}, "c": {"wrong": ""}},
            {"p": {"b": redirect({}, "c")}},
            {"a": redirect({}, "/p/b"), "p": WHITEOUT, "c": WHITEOUT},
        ],
        {"a": {"x": "1"}},
    ),
    "a path after a name": (
        [
            {"p": {"c": {"x": "1"}}},
            {"d": {"b": redirect({}, "/p/c")}},
            {"d": {"a": redirect({}, "b"), "b": WHITEOUT}, "p": WHITEOUT},
        ],
        {"d": {"a": {"x": "1"}}},
    ),
    "a directory on a path may itself be redirected": (
        [
            {"p": {"c": {"x": "1"}}, "q": {"c": {"wrong": ""}}},
            {"q": redirect({"c": {"y": "2"}}, "p"), "p": WHITEOUT},
            {"a": redirect({}, "/q/c"), "q": WHITEOUT},
        ],
        {"a": {"x": "1", "y": "2"}},
    ),
    "or lead to another path": (
        [
            {"z": {"c": {"x": "1"}}, "p": {"z": {"c": {"wrong": ""}}}},
            {"p": {"q": redirect({"c": {"y": "2"}}, "/z")}},
            {"a": redirect({}, "/p/q/c"), "p": WHITEOUT, "z": WHITEOUT},
        ],
        {"a": {"x": "1", "y": "2"}},
    ),
    "also where its layer lacks the last name": (
        [{"p": {"c": {"x": "1"}}}, {"q": redirect({}, "/p")}, {"a": redirect({}, "/q/c")}],
        {"a": {"x": "1"}, "p": {"c": {"x": "1"}}, "q": {"c": {"x": "1"}}},
    ),
    "a redirected parent has its children below": (
        [{"old": {"d": {"x": "1"}}}, {"new": redirect({"d": {"y": "2"}}, "old"), "old": WHITEOUT}],
        {"new": {"d": {"x": "1", "y": "2"}}},
    ),
    "an opaque directory on a path ends it": (
        [{"p": {"c": {"x": "1"}}}, {"p": opaque({})}, {"a": redirect({}, "/p/c")}],
        {"a": {}, "p": {}},
    ),
    "also one further up the path": (
        [
            {"p": {"q": {"c": {"x": "1"}}}},
            {"p": opaque({"q": {"c": {"y": "2"}}})},
            {"a": redirect({}, "/p/q/c"), "p": WHITEOUT},
        ],
        {"a": {"y": "2"}},
    ),
    "an opaque directory on a path still has its own": (
        [{"p": {"c": {"x": "1"}}}, {"p": opaque({"c": {"y": "2"}})}, {"a": redirect({}, "/p/c")}],
        {"a": {"y": "2"}, "p": {"c": {"y": "2"}}},
    ),
    "a whiteout on a path ends it": (
        [{"p": {"c": {"x": "1"}}}, {"p": WHITEOUT}, {"a": redirect({}, "/p/c")}],
        {"a": {}},
    ),
    "a whiteout at its end too": (
        [{"p": {"c": {"x": "1"}}}, {"p": {"c": WHITEOUT}}, {"a": redirect({}, "/p/c")}],
        {"a": {}, "p": {}},
    ),
    "a file on a path ends it": (
        [{"p": {"c": {"x": "1"}}}, {"p": "2"}, {"a": redirect({}, "/p/c")}],
        {"a": {}, "p": "2"},
    ),
    "a file at its end is not merged": (
        [{"old": "1"}, {"a": redirect({"x": "2"}, "old")}, {"a": {"y": "3"}}],
        {"a": {"x": "2", "y": "3"}, "old": "1"},
    ),
    "one that leads to nothing leaves what is above": (
        [{}, {"a": redirect({"x": "2"}, "/no/where"), "b": redirect({"y": "2"}, "nothing")}],
        {"a": {"x": "2"}, "b": {"y": "2"}},
    ),
    "one that leads to itself leads to the layer below": (
        [{"a": {"x": "1"}}, {"a": redirect({"y": "2"}, "a")}, {"a": redirect({"z": "3"}, "/a")}],
        {"a": {"x": "1", "y": "2", "z": "3"}},
    ),
    "opaque is stronger": (
        [
            {"old": {"x": "1"}},
            {
                "a": Directory(
                    {"y": "2"},
                    xattrs={"trusted.overlay.opaque": b"y", "trusted.overlay.redirect": b"old"},
                )
            },
        ],
        {"a": {"y": "2"}, "old": {"x": "1"}},
    ),
}


@pytest.mark.parametrize(("trees", "expected"), REDIRECTS.values(), ids=REDIRECTS)
def test_redirects(trees: list[Item], expected: Shown) -> None:
    assert shown(layers_of(*trees)) == expected


# Metacopy files


def metacopy(to: str | None = None) -> File:
    """A file whose content lies below, under another name or path if one is given."""
    xattrs = {"trusted.overlay.metacopy": b""}
    if to is not None:
        xattrs["trusted.overlay.redirect"] = to.encode()
    return File(size=1, xattrs=xattrs)


CONTENTS: dict[str, tuple[list[Item], str]] = {
    "a plain file's content is its own": ([{"d": {"f": "1"}}, {"d": {"f": "2"}}], "2"),
    "it is that of the same name below": ([{"d": {"f": "1"}}, {"d": {"f": metacopy()}}], "1"),
    "layers without the file are passed": (
        [{"d": {"f": "1"}}, {}, {"d": {}}, {"d": {"f": metacopy()}}],
        "1",
    ),
    "the nearest below counts": (
        [{"d": {"f": "1"}}, {"d": {"f": "2"}}, {"d": {"f": metacopy()}}],
        "2",
    ),
    "they make a chain": (
        [{"d": {"f": "1"}}, {"d": {"f": metacopy()}}, {"d": {"f": metacopy()}}],
        "1",
    ),
    "another name": ([{"d": {"old": "1", "f": "wrong"}}, {"d": {"f": metacopy("old")}}], "1"),
    "a path": ([{"p": {"old": "1"}, "d": {"f": "wrong"}}, {"d": {"f": metacopy("/p/old")}}], "1"),
    "a name is that of a layer below": (
        [{"d": {"old": "1"}}, {"d": {"f": metacopy("old"), "old": "wrong"}}],
        "1",
    ),
    "so is a path": (
        [{"p": {"old": "1"}}, {"p": {"old": "wrong"}, "d": {"f": metacopy("/p/old")}}],
        "1",
    ),
    "a chain of names and paths": (
        [
            {"p": {"c": "1"}, "d": {"c": "wrong"}},
            {"p": {"b": metacopy("c")}},
            {"d": {"a": metacopy("/p/b")}},
            {"d": {"f": metacopy("a")}},
        ],
        "1",
    ),
    "through a redirected parent": (
        [{"old": {"f": "1"}}, {"d": redirect({"f": metacopy()}, "old")}],
        "1",
    ),
}


@pytest.mark.parametrize(("trees", "expected"), CONTENTS.values(), ids=CONTENTS)
def test_the_content_of_a_file(trees: list[Item], expected: str) -> None:
    layers = layers_of(*trees)
    (top,) = find(layers, "d/f")
    assert text(merge.content(layers, find(layers, "d"), b"f", top)) == expected


@pytest.mark.parametrize(
    "below",
    [
        [],
        [{"d": {}}],
        [{"d": {"f": "1"}}, {"d": {"f": WHITEOUT}}],
        [{"d": {"f": "1"}}, {"d": {"f": {"directory": ""}}}],
        [{"d": {"f": "1"}}, {"d": opaque({})}],
        [{"d": {"f": metacopy()}}],
    ],
)
@pytest.mark.parametrize("to", [None, "/d/f"])
def test_a_metacopy_file_without_content_cannot_be_read(below: list[Item], to: str | None) -> None:
    layers = layers_of(*below, {"d": {"f": metacopy(to)}})
    (top,) = find(layers, "d/f")
    with raises(errno.EIO):
        merge.content(layers, find(layers, "d"), b"f", top)


# Directories that a layer has no entry of its own for

OPAQUE = {"trusted.overlay.opaque": b"y"}


def emptied(entries: dict[str, Item]) -> Implied:
    """What `.wh..wh..opq` makes of a directory that has no entry of its own."""
    return Implied(entries, xattrs=OPAQUE)


IMPLIED: dict[str, tuple[list[Item], int, Shown]] = {
    "implied at the top": (
        [{"d": {"a": "1"}}, {"d": Implied({"b": "2"})}],
        0,
        {"a": "1", "b": "2"},
    ),
    "two implied at the top": (
        [{"d": {"a": "1"}}, {"d": Implied({"b": "2"})}, {"d": Implied({"c": "3"})}],
        0,
        {"a": "1", "b": "2", "c": "3"},
    ),
    "layers between need not have it": (
        [{"d": {"a": "1"}}, {}, {"d": Implied({"b": "3"})}, {}],
        0,
        {"a": "1", "b": "3"},
    ),
    "implied in the middle": (
        [{"d": {"a": "1"}}, {"d": Implied({"b": "2"})}, {"d": {"c": "3"}}],
        2,
        {"a": "1", "b": "2", "c": "3"},
    ),
    "implied between two": (
        [{"d": {}}, {"d": {}}, {"d": Implied({"b": "3"})}, {"d": Implied({"c": "4"})}],
        1,
        {"b": "3", "c": "4"},
    ),
    "implied everywhere": (
        [{"d": Implied({"a": "1"})}, {"d": Implied({"b": "2"})}],
        1,
        {"a": "1", "b": "2"},
    ),
    "over a whiteout": (
        [{"d": {"a": "1"}}, {"d": WHITEOUT}, {"d": Implied({"c": "3"})}],
        2,
        {"c": "3"},
    ),
    "over a file": ([{"d": {"a": "1"}}, {"d": "2"}, {"d": Implied({"c": "3"})}], 2, {"c": "3"}),
    "over an opaque one": (
        [{"d": {"a": "1"}}, {"d": opaque({"b": "2"})}, {"d": Implied({"c": "3"})}],
        1,
        {"b": "2", "c": "3"},
    ),
    "emptied": ([{"d": {"a": "1"}}, {"d": emptied({"b": "2"})}], 0, {"b": "2"}),
    "emptied, and implied above": (
        [{"d": {"a": "1"}}, {"d": emptied({"b": "2"})}, {"d": Implied({"c": "3"})}],
        0,
        {"b": "2", "c": "3"},
    ),
    "emptied, and implied below": (
        [{"d": {"a": "1"}}, {"d": Implied({"b": "2"})}, {"d": emptied({"c": "3"})}],
        0,
        {"c": "3"},
    ),
    "emptied twice": (
        [{"d": {"a": "1"}}, {"d": emptied({"b": "2"})}, {"d": emptied({"c": "3"})}],
        0,
        {"c": "3"},
    ),
    "emptied below a directory of its own": (
        [{"d": {"a": "1"}}, {"d": emptied({"b": "2"})}, {"d": {"c": "3"}}],
        2,
        {"b": "2", "c": "3"},
    ),
    "emptied where nothing was": ([{}, {"d": emptied({"b": "2"})}], 1, {"b": "2"}),
    "emptied after a whiteout": (
        [{"d": {"a": "1"}}, {"d": WHITEOUT}, {"d": emptied({"c": "3"})}],
        2,
        {"c": "3"},
    ),
    "emptied after a file": (
        [{"d": {"a": "1"}}, {"d": "2"}, {"d": emptied({"c": "3"})}],
        2,
        {"c": "3"},
    ),
    "a whiteout above the emptied counts on": (
        [
            {"d": {"a": "1"}},
            {"d": emptied({"b": "2", "c": "2"})},
            {"d": Implied({"a": WHITEOUT, "b": WHITEOUT})},
        ],
        0,
        {"c": "2"},
    ),
    "called otherwise below": (
        [{"old": {"a": "1"}}, {"d": redirect({"b": "2"}, "old")}, {"d": Implied({"c": "3"})}],
        1,
        {"a": "1", "b": "2", "c": "3"},
    ),
}


@pytest.mark.parametrize(("trees", "position", "expected"), IMPLIED.values(), ids=IMPLIED)
def test_an_implied_directory(trees: list[Item], position: int, expected: Shown) -> None:
    layers = layers_of(*trees)
    assert merge.described(find(layers, "d")).position == position
    assert shown(layers)["d"] == expected
    below_root = layers_of(*({"p": tree} for tree in trees))
    assert merge.described(find(below_root, "p/d")).position == position


def test_a_directory_in_an_emptied_one_is_a_new_one() -> None:
    layers = layers_of({"d": {"e": {"a": "1"}}}, {"d": emptied({"e": Implied({"b": "2"})})})
    assert merge.described(find(layers, "d")).position == 0
    assert merge.described(find(layers, "d/e")).position == 1


def test_what_only_describes_an_emptied_directory_holds_no_content() -> None:
    metacopied = File(size=1, xattrs={"trusted.overlay.metacopy": b""})
    layers = layers_of({"d": {"f": "1"}}, {"d": emptied({"f": metacopied})})
    (top,) = find(layers, "d/f")
    with raises(errno.EIO):
        merge.content(layers, find(layers, "d"), b"f", top)


ROOTS: dict[str, tuple[list[Item], int, Shown]] = {
    "of its own": ([{"a": "1"}, {"b": "2"}], 1, {"a": "1", "b": "2"}),
    "opaque": ([{"a": "1"}, opaque({"b": "2"}), {"c": "3"}], 2, {"b": "2", "c": "3"}),
    "implied": ([{"a": "1"}, Implied({"b": "2"})], 0, {"a": "1", "b": "2"}),
    "implied everywhere": ([Implied({"a": "1"}), Implied({"b": "2"})], 1, {"a": "1", "b": "2"}),
    "emptied": ([{"a": "1"}, emptied({"b": "2"})], 0, {"b": "2"}),
}


@pytest.mark.parametrize(("trees", "position", "expected"), ROOTS.values(), ids=ROOTS)
def test_the_root(trees: list[Item], position: int, expected: Shown) -> None:
    layers = layers_of(*trees)
    assert merge.described(merge.roots(layers)).position == position
    assert shown(layers, merge.roots(layers)) == expected


# All of it at once, against the plainest rule there is: lay one layer over the other

_NAME = st.sampled_from("abc")
_TEXTS = st.integers(0, 9).map(str)
_TARGETS = st.one_of(
    st.none(),
    _NAME,
    st.lists(_NAME, min_size=1, max_size=3).map(lambda names: "/" + "/".join(names)),
)


@st.composite
def _directory(draw: st.DrawFn, depth: int) -> Directory:
    inner = [_TEXTS, st.just(WHITEOUT)]
    entry = st.one_of(*inner, _directory(depth - 1)) if depth else st.one_of(*inner)
    xattrs = {}
    if (target := draw(_TARGETS)) is not None:
        xattrs["trusted.overlay.redirect"] = target.encode()
    if draw(st.integers(0, 4)) == 0:
        xattrs["trusted.overlay.opaque"] = b"y"
    return Directory(draw(st.dictionaries(_NAME, entry)), xattrs=xattrs)


_ROOT = _directory(3).map(lambda root: Directory(root.entries))


def flattened(trees: Sequence[Directory]) -> Shown:
    """What the layers show, base first, when each is laid over all those below it."""
    below: Shown = {}
    for tree in trees:
        below = laid_over(tree, below, below)
    return below


def laid_over(directory: Directory, below: Shown, root: Shown) -> Shown:
    """*directory* over what is *below* it; *root*: all that is below, for redirects."""
    result = dict(below)
    for name, item in directory.entries.items():
        if item == WHITEOUT:
            result.pop(name, None)
        elif isinstance(item, Directory):
            result[name] = laid_over(item, merged_into(item, name, below, root), root)
        else:
            assert isinstance(item, str)
            result[name] = item
    return result


def merged_into(directory: Directory, name: str, below: Shown, root: Shown) -> Shown:
    """What is below a directory."""
    target = directory.xattrs.get("trusted.overlay.redirect", name.encode()).decode()
    if "trusted.overlay.opaque" in directory.xattrs:
        return {}
    found: Any = root if target.startswith("/") else below
    for step in target.strip("/").split("/"):
        found = found.get(step) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


@settings(deadline=None, max_examples=300)
@given(st.lists(_ROOT, min_size=1, max_size=6))
def test_merging_is_laying_layers_over_each_other(trees: list[Directory]) -> None:
    assert shown(layers_of(*trees)) == flattened(trees)


@settings(deadline=None)
@given(st.lists(_ROOT, min_size=1, max_size=6), st.lists(_NAME, min_size=1, max_size=4))
def test_what_is_not_listed_is_not_found(trees: list[Directory], path: list[str]) -> None:
    layers = layers_of(*trees)
    expected: Any = flattened(trees)
    sources = root_of(layers)
    for name in path:
        expected = expected.get(name)
        sources = merge.resolve(layers, sources, name.encode())
        assert bool(sources) == (expected is not None)
        if not isinstance(expected, dict):
            break


# And of implied directories, against what an unpacker does

_OWNERS = st.integers(1, 9)


@st.composite
def _packed(draw: st.DrawFn, depth: int) -> Directory:
    inner = [_TEXTS, st.just(WHITEOUT)]
    entry = st.one_of(*inner, _packed(depth - 1)) if depth else st.one_of(*inner)
    entries = draw(st.dictionaries(_NAME, entry, max_size=2))
    xattrs = OPAQUE if draw(st.integers(0, 3)) == 0 else {}
    if draw(st.booleans()):
        return Implied(entries, xattrs=xattrs)
    return Directory(entries, uid=draw(_OWNERS), xattrs=xattrs)


@dataclass
class Unpacked:
    """A directory on a disk."""

    owner: int
    entries: dict[str, Unpacked | str]


def unpack(layer: Directory, directory: Unpacked) -> None:
    """Do to a *directory* that is there what *layer* says."""
    if not isinstance(layer, Implied):
        directory.owner = layer.uid
    if layer.xattrs:
        directory.entries.clear()
    for name, item in layer.entries.items():
        if item == WHITEOUT:
            directory.entries.pop(name, None)
        elif isinstance(item, Directory):
            found = directory.entries.get(name)
            if not isinstance(found, Unpacked):
                found = directory.entries[name] = Unpacked(0, {})
            unpack(item, found)
        else:
            assert isinstance(item, str)
            directory.entries[name] = item


def merged(layers: Sequence[Layer], stack: merge.Stack) -> Unpacked:
    """All that the union has below *stack*."""
    assert not any(source.entry.opaque for source in stack[:-2]), "more than one only describes"
    entries: dict[str, Unpacked | str] = {}
    for name, topmost in merge.children(stack).items():
        sources = merge.resolve(layers, stack, name, topmost)
        is_directory = sources[0].entry.is_directory
        entries[os.fsdecode(name)] = merged(layers, sources) if is_directory else text(sources[0])
    return Unpacked(merge.described(stack).entry.attributes.st_uid, entries)


@settings(deadline=None, max_examples=300)
@given(st.lists(_packed(3), min_size=1, max_size=6))
def test_merging_is_unpacking_layers_over_each_other(trees: list[Directory]) -> None:
    layers = layers_of(*trees)
    directory = Unpacked(0, {})
    for tree in trees:
        unpack(tree, directory)
    assert merged(layers, merge.roots(layers)) == directory
