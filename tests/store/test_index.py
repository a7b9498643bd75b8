"""The index: what the entries of a layer's tar come to, the last of a name and all whiteouts."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import sqlite3
import stat
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from layerstore import tarstream
from layerstore.errors import DamagedError, InvalidContentError, LimitExceededError
from layerstore.index import ROOT, Index, Inode
from layerstore.indexwriter import IndexWriter
from layerstore.limits import Limits
from layerstore.objects import Key
from layerstore.tarstream import TarEntry
from tests.support import tars
from tests.support.tars import directory, file, hardlink, opaque, symlink, whiteout

Open = Callable[..., Index]


class Sink:
    """Takes a tar, and of contents no more than their first byte, which is their hash here."""

    def __init__(self, path: str) -> None:
        self.writer = IndexWriter(path, Limits().entries)
        self._content: int | None = None
        self._size = 0

    def literal(self, piece: bytes) -> None:
        self._size += len(piece)

    def content(self, entry: TarEntry) -> Sink:
        self._hash = bytes(16)
        self._entry = entry
        return self

    def write(self, piece: bytes) -> None:
        self._size += len(piece)
        self._hash = piece[:1] * 16

    def skip(self, count: int) -> None:
        pass

    def close(self) -> None:
        self._content = self.writer.content(Key(self._hash, self._entry.size), 8)

    def entry(self, entry: TarEntry) -> None:
        self.writer.entry(entry, self._content if entry.kind == stat.S_IFREG else None)

    def finish(self) -> None:
        self.writer.finish(self._size)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Open]:
    """The index of the tar of these members."""
    with contextlib.ExitStack() as stack:
        numbers = itertools.count()

        def opened(*members: bytes) -> Index:
            path = str(tmp_path / f"index {next(numbers)}")
            sink = Sink(path)
            done = False
            try:
                tarstream.read(io.BytesIO(tars.tar(*members)), sink, Limits())
                sink.finish()
                done = True
            finally:
                sink.writer.close(keep=done)
            made = Index(path)
            stack.callback(made.close)
            return made

        yield opened


class Shown(NamedTuple):
    """What a path leads to. what: ``d``, ``opaque d``, ``implied d``, ``- x`` (x: first byte),
    ``l TARGET``, or ``whiteout``. links: as stat(2) counts them."""

    what: str
    links: int


def tree(index: Index) -> dict[str, Shown]:
    return dict(_below(index, "", index.inode(ROOT)))


def whats(index: Index) -> dict[str, str]:
    return {path: shown.what for path, shown in tree(index).items() if path}


def _below(index: Index, path: str, inode: Inode) -> Iterator[tuple[str, Shown]]:
    yield path, Shown(_what(inode), inode.links if inode.inode else 0)
    for name, child in index.children(inode.inode) if inode.inode else ():
        yield from _below(index, f"{path}/{os.fsdecode(name)}".lstrip("/"), child)


def _what(inode: Inode) -> str:
    if not inode.inode:
        return "whiteout"
    if stat.S_ISDIR(inode.mode):
        return "opaque " * inode.opaque + "implied " * inode.implied + "d"
    if stat.S_ISLNK(inode.mode):
        return f"l {os.fsdecode(inode.target or b'')}"
    assert inode.hash is not None
    return f"- {chr(inode.hash[0])}"


# Entries


def test_an_empty_tar_is_a_root_that_says_nothing(index: Open) -> None:
    assert tree(index()) == {"": Shown("implied d", 2)}


def test_attributes_come_out_as_they_went_in(index: Open) -> None:
    made = index(
        tars.pax({"mtime": "12.000000034"}),
        file("file", b"x", mode=0o4755, uid=1 << 31, gid=(1 << 32) - 2),
        tars.character("char", 4095, 1048575, mode=0o600),
        tars.block("block", 7, 0),
        tars.fifo("fifo"),
        symlink("link", b"\xff/..", mode=0),
        directory("sticky", mode=0o1777),
    )
    found = dict(made.children(ROOT))
    assert {os.fsdecode(name): oct(inode.mode) for name, inode in found.items()} == {
        "block": oct(stat.S_IFBLK | 0o644),
        "char": oct(stat.S_IFCHR | 0o600),
        "fifo": oct(stat.S_IFIFO | 0o644),
        "file": oct(stat.S_IFREG | 0o4755),
        "link": oct(stat.S_IFLNK | 0o777),
        "sticky": oct(stat.S_IFDIR | 0o1777),
    }
    assert (found[b"file"].uid, found[b"file"].gid) == (1 << 31, (1 << 32) - 2)
    assert (found[b"file"].seconds, found[b"file"].nanoseconds) == (12, 34)
    assert found[b"file"].key == Key(b"x" * 16, 1)
    assert found[b"char"].rdev == os.makedev(4095, 1048575)
    assert found[b"block"].rdev == os.makedev(7, 0)
    assert found[b"link"].target == b"\xff/.."
    assert {inode.key for name, inode in found.items() if name != b"file"} == {None}


@pytest.mark.parametrize(
    ("told", "seconds", "nanoseconds"),
    [
        ("-1.5", -2, 500_000_000),
        ("-0.000000001", -1, 999_999_999),
        ("0", 0, 0),
        ("253402300800.999999999", 253402300800, 999_999_999),
        ("-9223372036854775808", -(1 << 63), 0),
        ("9223372036854775807", (1 << 63) - 1, 0),
    ],
)
def test_times_are_rounded_down_to_seconds(
    index: Open, told: str, seconds: int, nanoseconds: int
) -> None:
    found = index(tars.pax({"mtime": told}), file("a")).child(ROOT, b"a")
    assert found is not None
    assert (found.seconds, found.nanoseconds) == (seconds, nanoseconds)


def test_names_may_be_any_bytes(index: Open) -> None:
    names = sorted([b"\xff\xfe", b"a\nb", b"%", b"_", b"'", "ö".encode(), b"a" * 255])
    made = index(*(file(name) for name in names))
    assert [name for name, _ in made.children(ROOT)] == names
    assert all(made.child(ROOT, name) for name in names)


def test_the_root_may_have_an_entry_of_its_own(index: Open) -> None:
    made = index(file("a"), directory("."), directory("./", mode=0o700, uid=5))
    root = made.inode(ROOT)
    assert (root.mode, root.uid, root.implied) == (stat.S_IFDIR | 0o700, 5, 0)
    assert whats(made) == {"a": "- \0"}


def test_a_thousand_directories_may_be_one_in_the_other(index: Open) -> None:
    made = index(file("d/" * 1023 + "f", b"x"))
    assert len(tree_down(made)) == 1024


def tree_down(made: Index) -> list[bytes]:
    names, inode = [], ROOT
    while children := list(made.children(inode)):
        ((name, child),) = children
        names.append(name)
        inode = child.inode
        if not stat.S_ISDIR(child.mode):
            break
    return names


def test_an_index_tells_what_its_tar_had(index: Open) -> None:
    members = [directory("a"), file("a/b", b"x" * 600), file("a/b", b"y"), whiteout("c")]
    made = index(*members)
    assert made.totals() == (len(tars.tar(*members)), 4)
    assert [content.key for content in made.contents()] == [
        Key(b"x" * 16, 600),
        Key(b"y" * 16, 1),
        Key(bytes(16), 0),
    ]
    assert made.content(2) == Key(b"y" * 16, 1)


# Directories without an entry


def test_what_lies_above_an_entry_is_implied(index: Open) -> None:
    assert tree(index(file("a/b/c", b"x"))) == {
        "": Shown("implied d", 3),
        "a": Shown("implied d", 3),
        "a/b": Shown("implied d", 2),
        "a/b/c": Shown("- x", 1),
    }


def test_an_entry_that_comes_later_describes_what_was_implied(index: Open) -> None:
    made = index(file("a/b", b"x"), tars.xattrs({"user.a": b"1"}), directory("a", mode=0o711))
    found = made.child(ROOT, b"a")
    assert found is not None
    assert (found.implied, found.mode) == (0, stat.S_IFDIR | 0o711)
    assert made.xattrs(found.inode) == {b"user.a": b"1"}
    assert whats(made) == {"a": "d", "a/b": "- x"}


def test_a_whiteout_implies_what_lies_above_it(index: Open) -> None:
    assert whats(index(whiteout("a/b/c"))) == {
        "a": "implied d",
        "a/b": "implied d",
        "a/b/c": "whiteout",
    }


# Several entries of one name

KINDS = {
    "file": (lambda: file("a", b"x"), {"a": "- x"}),
    "link": (lambda: symlink("a", "t"), {"a": "l t"}),
    "directory": (lambda: directory("a"), {"a": "d"}),
    "tree": (lambda: file("a/b/c", b"y"), {"a": "implied d", "a/b": "implied d", "a/b/c": "- y"}),
    "hard link": (lambda: hardlink("a", "other"), {"a": "- o"}),
}
OTHER = file("other", b"o")


@pytest.mark.parametrize(
    ("first", "last"), list(itertools.product(KINDS, ("file", "link", "hard link")))
)
def test_what_is_no_directory_replaces_all_that_was_there(
    index: Open, first: str, last: str
) -> None:
    made = index(OTHER, KINDS[first][0](), KINDS[last][0]())
    links = 2 if last == "hard link" else 1
    assert whats(made) == {"other": "- o", **KINDS[last][1]}
    assert tree(made)["a"].links == links
    assert tree(made)["other"].links == links
    assert tree(made)[""].links == 2


@pytest.mark.parametrize("first", ["file", "link", "hard link"])
def test_a_directory_replaces_what_was_none(index: Open, first: str) -> None:
    made = index(OTHER, KINDS[first][0](), directory("a", mode=0o700))
    assert tree(made) == {
        "": Shown("implied d", 3),
        "a": Shown("d", 2),
        "other": Shown("- o", 1),
    }


def test_a_directory_told_twice_keeps_what_is_in_it(index: Open) -> None:
    made = index(
        tars.xattrs({"user.a": b"1"}),
        directory("a", mode=0o700),
        file("a/b", b"x"),
        tars.xattrs({"user.b": b"2"}),
        directory("a", mode=0o755, uid=3),
    )
    found = made.child(ROOT, b"a")
    assert found is not None
    assert (found.mode, found.uid) == (stat.S_IFDIR | 0o755, 3)
    assert made.xattrs(found.inode) == {b"user.b": b"2"}
    assert whats(made) == {"a": "d", "a/b": "- x"}


def test_nothing_of_a_directory_comes_back_when_a_file_was_in_its_place(index: Open) -> None:
    made = index(
        file("a/b/c", b"x"),
        opaque("a/b"),
        file("a", b"y"),
        directory("a"),
        directory("a/b"),
    )
    assert whats(made) == {"a": "d", "a/b": "d"}
    assert tree(made)["a"].links == 3


def test_attributes_of_what_was_replaced_are_gone(index: Open) -> None:
    made = index(tars.xattrs({"user.a": b"1"}), file("a", b"x"), file("a", b"y"))
    found = made.child(ROOT, b"a")
    assert found is not None
    assert found.key == Key(b"y" * 16, 1)
    assert made.xattrs(found.inode) == {}


@pytest.mark.parametrize("below", [file("a/b", b"y"), directory("a/b"), hardlink("a/b", "a")])
def test_nothing_can_lie_below_what_is_no_directory(index: Open, below: bytes) -> None:
    with pytest.raises(
        InvalidContentError, match=r"entry 2 \(a/b/?\): it lies below something that is"
    ):
        index(file("a", b"x"), below)
    with pytest.raises(InvalidContentError, match="no directory"):
        index(symlink("a", "."), below)


# Hard links


def test_a_hard_link_is_one_more_name(index: Open) -> None:
    made = index(
        file("a", b"x"),
        hardlink("b", "a", mode=0, uid=9),
        hardlink("d/c", "/./b"),
        hardlink("a", "d/c"),
    )
    assert tree(made)["a"] == tree(made)["b"] == tree(made)["d/c"] == Shown("- x", 3)
    found = {path: made.child(ROOT, path) for path in (b"a", b"b")}
    assert found[b"a"] == found[b"b"]


@pytest.mark.parametrize(
    "other",
    [symlink("a", "nowhere"), tars.fifo("a"), tars.character("a", 1, 3)],
    ids=["symbolic link", "FIFO", "device"],
)
def test_whatever_is_no_directory_can_have_several_names(index: Open, other: bytes) -> None:
    made = index(other, hardlink("b", "a"))
    one, two = made.child(ROOT, b"a"), made.child(ROOT, b"b")
    assert one == two
    assert one is not None
    assert one.links == 2


def test_a_name_stays_when_the_one_it_was_linked_to_is_replaced(index: Open) -> None:
    made = index(
        tars.xattrs({"user.a": b"1"}),
        file("d/a", b"x"),
        hardlink("b", "d/a"),
        file("d", b"y"),
        file("d", b"z"),
    )
    assert tree(made) == {
        "": Shown("implied d", 2),
        "b": Shown("- x", 1),
        "d": Shown("- z", 1),
    }
    found = made.child(ROOT, b"b")
    assert found is not None
    assert made.xattrs(found.inode) == {b"user.a": b"1"}


@pytest.mark.parametrize(
    "members",
    [
        [hardlink("b", "a")],
        [hardlink("b", "a"), file("a")],
        [hardlink("a", "a")],
        [directory("a"), hardlink("b", "a")],
        [hardlink("b", ".")],
        [file("a"), hardlink("b", "a/c")],
        [file("a"), file("d/a"), hardlink("b", "d/b")],
        [whiteout("a"), hardlink("b", "a")],
        [file("d/a"), file("d"), hardlink("b", "d/a")],
        [symlink("s", "d"), file("d/a"), hardlink("b", "s/a")],
        [file(".wh.a"), hardlink("b", ".wh.a")],
    ],
    ids=[
        "absent",
        "later",
        "itself",
        "a directory",
        "the root",
        "below a file",
        "absent in a directory",
        "gone",
        "replaced",
        "through a link",
        "a whiteout",
    ],
)
def test_a_hard_link_needs_a_file_of_the_layer(index: Open, members: list[bytes]) -> None:
    with pytest.raises(
        InvalidContentError, match=r"a hard link to .*, which is no file of this layer"
    ):
        index(*members)


# Whiteouts


@pytest.mark.parametrize("order", [1, -1])
def test_a_whiteout_does_not_hide_what_its_own_layer_has(index: Open, order: int) -> None:
    made = index(*[file("a", b"x"), whiteout("a")][::order])
    assert whats(made) == {"a": "- x"}


@pytest.mark.parametrize("members", list(itertools.permutations([0, 1, 2])))
def test_a_whiteout_hides_what_is_below_a_directory_of_its_layer(
    index: Open, members: tuple[int, ...]
) -> None:
    all_members = [directory("a"), file("a/b", b"x"), whiteout("a")]
    made = index(*(all_members[number] for number in members))
    assert whats(made) == {"a": "opaque d", "a/b": "- x"}


@pytest.mark.parametrize("members", list(itertools.permutations([0, 1, 2])))
def test_an_opaque_marker_counts_wherever_it_stands(index: Open, members: tuple[int, ...]) -> None:
    all_members = [directory("a"), file("a/b", b"x"), opaque("a")]
    made = index(*(all_members[number] for number in members))
    assert whats(made) == {"a": "opaque d", "a/b": "- x"}


def test_the_root_can_be_opaque(index: Open) -> None:
    assert tree(index(file(".wh..wh..opq"), file("a", b"x")))[""] == Shown("opaque implied d", 2)


def test_a_directory_can_be_nothing_but_opaque(index: Open) -> None:
    assert whats(index(opaque("a/b"))) == {"a": "implied d", "a/b": "opaque implied d"}


def test_only_the_last_entry_of_a_hidden_name_counts(index: Open) -> None:
    assert whats(index(whiteout("a"), file("a", b"x"), hardlink("a", "a"))) == {"a": "- x"}
    assert whats(index(whiteout("a"), whiteout("a"))) == {"a": "whiteout"}
    assert whats(index(file("b", b"x"), whiteout("a"), hardlink("a", "b")))["a"] == "- x"


def test_a_device_0_0_is_a_whiteout(index: Open) -> None:
    made = index(tars.character("a", 0, 0), tars.block("b", 0, 0), directory("d"))
    assert {name for name, inode in made.children(ROOT) if not inode.inode} == {b"a"}
    made = index(file("a", b"x"), tars.character("a", 0, 0))
    assert whats(made) == {"a": "- x"}


@pytest.mark.parametrize(
    "marker", [directory(".wh.a"), symlink(".wh.a", "x"), tars.fifo(".wh.a"), file(".wh.a", b"x")]
)
def test_a_whiteout_may_be_an_entry_of_any_kind(index: Open, marker: bytes) -> None:
    assert whats(index(marker)) == {"a": "whiteout"}
    assert whats(index(file("b"), hardlink(".wh.a", "b")))["a"] == "whiteout"


@pytest.mark.parametrize("name", [".wh.", "a/.wh.", ".wh..", ".wh...", "a/.wh.."])
def test_a_whiteout_needs_a_name_that_something_can_have(index: Open, name: str) -> None:
    with pytest.raises(InvalidContentError, match=r"entry 1 \(.*\.wh\..*\): a whiteout of"):
        index(file(name))


@pytest.mark.parametrize("below", [whiteout("a/b"), opaque("a")])
def test_below_a_file_there_is_nothing_to_hide(index: Open, below: bytes) -> None:
    assert whats(index(file("a", b"x"), below)) == {"a": "- x"}


def test_what_aufs_kept_for_itself_is_not_shown(index: Open) -> None:
    made = index(
        directory(".wh..wh.plnk"),
        file(".wh..wh.plnk/12.34", b"x"),
        hardlink("a", ".wh..wh.plnk/12.34"),
        hardlink("b", ".wh..wh.plnk/12.34"),
        file(".wh..wh.aufs"),
        directory(".wh..wh.orph"),
        file("d/.wh..wh.other"),
    )
    assert tree(made) == {
        "": Shown("implied d", 2),
        "a": Shown("- x", 2),
        "b": Shown("- x", 2),
    }


def test_what_is_below_what_aufs_kept_for_itself_is_gone_with_it(index: Open) -> None:
    made = index(
        file("d/.wh..wh.a/.wh..wh.b/f"),
        file("d/.wh..wh.a/g/h"),
        hardlink("kept", "d/.wh..wh.a/g/h"),
        file(".wh..wh.c/f"),
        file(".wh..wh.c"),
    )
    assert set(tree(made)) == {"", "d", "kept"}


@pytest.mark.parametrize("name", [".wh.a/b", "d/.wh.a/b/c", ".wh..wh..opq/a", ".wh./a"])
def test_nothing_can_lie_below_a_whiteout(index: Open, name: str) -> None:
    with pytest.raises(InvalidContentError, match="below a whiteout"):
        index(file(name))


def test_marks_of_overlays_are_neither_believed_nor_kept(index: Open) -> None:
    marks = {
        "trusted.overlay.opaque": b"y",
        "trusted.overlay.redirect": b"/etc",
        "user.overlay.whiteout": b"",
        "user.overlay.metacopy": b"",
        "user.fuseoverlayfs.opaque": b"y",
        "trusted.overlay.overlay.opaque": b"y",
    }
    kept = {"user.overlayed": b"1", "trusted.overlay": b"2", "security.capability": b"\0\xff"}
    made = index(tars.xattrs(marks | kept), directory("a"))
    found = made.child(ROOT, b"a")
    assert found is not None
    assert not found.opaque
    assert made.xattrs(found.inode) == {key.encode(): value for key, value in kept.items()}


# Contents that move


def test_contents_that_got_other_names_are_found_under_these(tmp_path: Path) -> None:
    writer = IndexWriter(str(tmp_path / "index"), Limits().entries)
    keys = [Key(b"a" * 16, 5, variant) for variant in range(4)] + [Key(b"a" * 16, 6)]
    numbers = [writer.content(key, 8) for key in keys]
    writer.finish(0)
    moved = {keys[0]: keys[2], keys[1]: keys[0]._replace(variant=5), keys[2]: keys[3]}
    moved[keys[3]] = keys[0]._replace(variant=4)
    writer.move_contents(moved)
    writer.close(keep=True)
    with contextlib.closing(Index(str(tmp_path / "index"))) as made:
        assert [made.content(number).variant for number in numbers] == [2, 5, 3, 4, 0]


# Reading


def test_the_path_of_an_index_may_be_any(tmp_path: Path) -> None:
    directory = os.fsencode(tmp_path) + b"/%41?mode=rw#\xff \n"
    os.mkdir(directory)
    path = os.fsdecode(directory + b"/index")
    writer = IndexWriter(path, Limits().entries)
    writer.finish(7)
    writer.close(keep=True)
    with contextlib.closing(Index(path)) as made:
        assert made.totals() == (7, 0)


def test_an_index_is_read_without_leaving_anything_beside_it(index: Open, tmp_path: Path) -> None:
    made = index(file("a", b"x"))
    before = os.listdir(tmp_path)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        made._database.execute("DELETE FROM name")
    assert os.listdir(tmp_path) == before == ["index 0"]


@pytest.mark.usefixtures("nothing_left_open")
@pytest.mark.parametrize("content", [None, b"", b"SQLite", b"x" * 8192])
def test_what_is_no_index_is_damage(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "index"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DamagedError, match="its index"):
        Index(str(path))


@pytest.mark.usefixtures("nothing_left_open")
def test_an_index_of_another_version_is_not_read(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "index")) as database:
        database.execute("PRAGMA user_version = 7")
    with pytest.raises(DamagedError, match="its index has version 7"):
        Index(str(tmp_path / "index"))


def test_what_an_index_lacks_is_damage(index: Open) -> None:
    made = index(file("a", b"x"))
    with pytest.raises(DamagedError, match="no inode 99"):
        made.inode(99)
    with pytest.raises(DamagedError, match="no content 99"):
        made.content(99)


def test_every_question_to_a_damaged_index_tells_damage(index: Open, tmp_path: Path) -> None:
    index(file("a", b"x"))
    path = tmp_path / "index 0"
    # The first page is the schema; every table has a page of its own.
    size = path.stat().st_size
    with path.open("r+b") as written:
        written.seek(4096)
        written.write(b"\xff" * (size - 4096))
    with contextlib.closing(Index(str(path))) as made:
        for ask in (
            lambda: list(made.children(ROOT)),
            lambda: list(made.contents()),
            lambda: made.child(ROOT, b"a"),
            lambda: made.content(1),
            lambda: made.xattrs(1),
            made.totals,
        ):
            with pytest.raises(DamagedError, match="its index"):
                ask()


@pytest.mark.parametrize(
    "members",
    [
        [whiteout("d"), file("d/new", b"x")],
        [file("d/new", b"x"), whiteout("d")],
    ],
    ids=["before", "after"],
)
def test_a_directory_below_whose_whiteout_there_is_something_is_not_the_one_below(
    index: Open, members: list[bytes]
) -> None:
    assert whats(index(*members)) == {"d": "opaque d", "d/new": "- x"}


# How much


def plain(path: bytes) -> TarEntry:
    return TarEntry(path, stat.S_IFIFO, 0o600, 0, 0, 0)


@pytest.mark.parametrize(
    ("paths", "counted"),
    [
        ([b"a", b"b", b"c"], 3),
        ([b"a/b/c"], 3),
        ([b"a/b/c", b"a/b/d"], 4),
        ([b"a/b/c", b"a/.wh.b", b"a/.wh..wh..opq"], 5),
        ([b"a/.wh..wh.x/b"], 3),
    ],
)
def test_directories_that_are_implied_count_as_entries(
    tmp_path: Path, paths: list[bytes], counted: int
) -> None:
    for most in (counted, counted - 1):
        writer = IndexWriter(str(tmp_path / f"index {most}"), most)
        with contextlib.ExitStack() as stack:
            stack.callback(writer.close, keep=False)
            if most < counted:
                stack.enter_context(pytest.raises(LimitExceededError, match="--limit entries=N"))
            for path in paths:
                writer.entry(plain(path), None)


_LONG = b"/".join([b"n" * 255] * 200)


@pytest.mark.parametrize(
    "paths",
    [
        (_LONG + b"/%d/f" % number for number in range(400)),
        itertools.chain((b"d/%d" % number for number in range(20_000)), [b"d"]),
        (b".wh..wh.%d/f" % number for number in range(10_000)),
    ],
    ids=["long paths", "many names that go", "directories that aufs kept"],
)
def test_memory_does_not_grow_with_the_layer(tmp_path: Path, paths: Iterator[bytes]) -> None:
    writer = IndexWriter(str(tmp_path / "index"), Limits().entries)
    with contextlib.ExitStack() as stack:
        stack.callback(writer.close, keep=False)
        tracemalloc.start()
        stack.callback(tracemalloc.stop)
        for path in paths:
            writer.entry(plain(path), None)
        writer.finish(0)
        _, peak = tracemalloc.get_traced_memory()
    assert peak < 1_000_000
