"""Names that a layer removes, in every dialect that layers come with."""

import errno
import os
import random
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.layers import (
    OPAQUE_NAMESPACES,
    WHITEOUT,
    Directory,
    Item,
    Tree,
    holds_xwhiteouts,
    is_whiteout,
    opaque,
    xwhiteout,
)
from tests.support.mounts import KernelMount, Mount, Mounts, UnionMount, three_times
from tests.support.snapshots import differences, snapshot, tree

BASE: Tree = {"a": "base", "b": "base", "d": {"a": "base", "b": "base", "e": {"a": "base"}}}


# Reading


def test_a_whiteout_hides_what_is_below(both: Mounts[Mount]) -> None:
    mount = both(BASE, {"a": WHITEOUT, "d": {"b": WHITEOUT, "e": WHITEOUT}})
    for when in three_times(mount):
        assert tree(mount.path) == {"b": "base", "d": {"a": "base"}}, when
        for name in ("a", "d/b", "d/e", "d/e/a"):
            assert not os.path.lexists(mount / name), (name, when)


def test_a_whiteout_hides_nothing_above(both: Mounts[Mount]) -> None:
    mount = both(BASE, {"a": WHITEOUT, "d": WHITEOUT}, {"a": "app", "d": {"c": "app"}})
    for when in three_times(mount):
        assert tree(mount.path) == {"a": "app", "b": "base", "d": {"c": "app"}}, when


@pytest.mark.kernel_differs("lists whiteouts of a directory that only one layer has")
def test_a_whiteout_of_nothing_is_not_shown(both: Mounts[Mount]) -> None:
    mount = both({"x": WHITEOUT, "d": {"x": WHITEOUT}}, {"y": WHITEOUT}, {"y": WHITEOUT})
    for when in three_times(mount):
        assert tree(mount.path) == {"d": {}}, when
        for name in ("x", "y", "d/x"):
            assert not os.path.lexists(mount / name), (name, when)


def test_a_whiteout_in_the_upper_hides_all_layers(both: Mounts[Mount]) -> None:
    mount = both(BASE, {"a": "deps"}, upper={"a": WHITEOUT})
    for when in three_times(mount):
        assert not (mount / "a").exists(), when


def test_a_character_device_with_other_numbers_is_no_whiteout(both: Mounts[Mount]) -> None:
    def layer(root: Path) -> None:
        os.mknod(root / "a", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        os.mknod(root / "b", stat.S_IFBLK | 0o600, os.makedev(0, 0))

    mount = both(BASE, layer)
    for when in three_times(mount):
        assert stat.S_ISCHR((mount / "a").lstat().st_mode), when
        assert stat.S_ISBLK((mount / "b").lstat().st_mode), when


@pytest.mark.parametrize("value", [b"y", b""])
def test_files_with_the_whiteout_attribute_in_a_marked_directory(
    both: Mounts[Mount], value: bytes
) -> None:
    gone = xwhiteout()
    mount = both(BASE, holds_xwhiteouts({"a": gone, "d": holds_xwhiteouts({"b": gone})}))
    for when in three_times(mount):
        assert tree(mount.path) == {"b": "base", "d": {"a": "base", "e": {"a": "base"}}}, when
        for name in ("a", "d/b"):
            assert not os.path.lexists(mount / name), (name, when)


def test_the_whiteout_attribute_of_users(union: Mounts[UnionMount]) -> None:
    gone = xwhiteout("user.overlay")
    marked = holds_xwhiteouts({"b": gone}, "user.overlay")
    mount = union(BASE, holds_xwhiteouts({"a": gone, "d": marked}, "user.overlay"))
    for when in three_times(mount):
        assert tree(mount.path) == {"b": "base", "d": {"a": "base", "e": {"a": "base"}}}, when


def test_a_directory_marked_for_whiteout_attributes_still_merges(both: Mounts[Mount]) -> None:
    mount = both(BASE, holds_xwhiteouts({"d": holds_xwhiteouts({"c": "deps"})}))
    for when in three_times(mount):
        assert sorted(os.listdir(mount / "d")) == ["a", "b", "c", "e"], when


@pytest.mark.kernel_differs("lists the name, but doesn't find it")
def test_the_whiteout_attribute_elsewhere_means_one_thing(both: Mounts[Mount]) -> None:
    mount = both(BASE, {"d": {"a": xwhiteout()}})
    for when in three_times(mount):
        found = [name for name in "abcde" if (mount / "d" / name).exists()]
        assert sorted(os.listdir(mount / "d")) == found, when


def test_oci_whiteout_files(union: Mounts[UnionMount]) -> None:
    mount = union(BASE, {".wh.a": "", "d": {".wh.b": "", ".wh.e": "", ".wh.none": ""}})
    for when in three_times(mount):
        assert tree(mount.path) == {"b": "base", "d": {"a": "base"}}, when
        for name in (".wh.a", "a", "d/.wh.b", "d/b", "d/none"):
            assert not os.path.lexists(mount / name), (name, when)


def test_an_oci_opaque_file_hides_what_is_below(union: Mounts[UnionMount]) -> None:
    mount = union(BASE, {"d": {".wh..wh..opq": "", "c": "deps"}})
    for when in three_times(mount):
        assert tree(mount.path) == {"a": "base", "b": "base", "d": {"c": "deps"}}, when
        assert not os.path.lexists(mount / "d" / ".wh..wh..opq"), when


def test_an_oci_whiteout_hides_nothing_of_its_own_layer(union: Mounts[UnionMount]) -> None:
    top: Tree = {".wh.a": "", "a": "deps", "d": {".wh.e": "", "e": {"c": "deps"}}}
    mount = union(BASE, top)
    for when in three_times(mount):
        assert tree(mount.path) == {
            "a": "deps",
            "b": "base",
            "d": {"a": "base", "b": "base", "e": {"c": "deps"}},
        }, when


def test_a_whiteout_file_without_a_name_hides_nothing(union: Mounts[UnionMount]) -> None:
    mount = union(BASE, {".wh.": "", "d": {".wh.": ""}})
    for when in three_times(mount):
        assert tree(mount.path) == BASE, when


def test_names_that_only_resemble_whiteouts(both: Mounts[Mount]) -> None:
    names = [".wh", "wh.a", ".whiteout", ".WH.a", "a.wh.b"]
    mount = both(BASE, dict.fromkeys(names, "deps"))
    (mount / ".wh-new").write_text("new")
    for when in three_times(mount):
        assert sorted(os.listdir(mount.path)) == sorted([*BASE, *names, ".wh-new"]), when


@pytest.mark.parametrize("namespace", OPAQUE_NAMESPACES)
def test_an_opaque_directory_hides_what_is_below(union: Mounts[UnionMount], namespace: str) -> None:
    mount = union(BASE, {"d": opaque({"c": "deps"}, namespace)}, {"d": {"f": "app"}})
    for when in three_times(mount):
        assert tree(mount / "d") == {"c": "deps", "f": "app"}, when
        for name in ("d/a", "d/e", "d/e/a"):
            assert not os.path.lexists(mount / name), (name, when)
        assert os.listxattr(mount / "d") == [], when


def test_an_opaque_directory_still_merges_with_what_is_above(both: Mounts[Mount]) -> None:
    mount = both(BASE, {"d": opaque({"c": "deps"})}, {"d": {"f": "app"}})
    for when in three_times(mount):
        assert tree(mount / "d") == {"c": "deps", "f": "app"}, when


def test_only_the_value_y_makes_opaque(both: Mounts[Mount]) -> None:
    marked = Directory({"c": "deps"}, xattrs={"trusted.overlay.opaque": b"n"})
    mount = both(BASE, {"d": marked})
    for when in three_times(mount):
        assert sorted(os.listdir(mount / "d")) == ["a", "b", "c", "e"], when


def test_an_opaque_root(both: Mounts[Mount]) -> None:
    mount = both(BASE, {"a": "deps"}, upper=opaque({"c": "upper"}))
    for when in three_times(mount):
        names = os.listdir(mount.path)
        # The kernel doesn't ask whether the root is opaque; hiding is what the mark says.
        assert names == ["c"] or isinstance(mount, KernelMount), when


@pytest.mark.parametrize(
    ("whiteout", "name"),
    [(WHITEOUT, "a"), ("", ".wh.a"), (xwhiteout(), "a")],
    ids=["device", "oci", "attribute"],
)
def test_dialects_mix_over_layers(union: Mounts[UnionMount], whiteout: Item, name: str) -> None:
    """Each dialect hides what any other wrote below, and is answered by any above."""
    gone = holds_xwhiteouts({name: whiteout})
    mount = union(BASE, gone, {"a": "again"}, {".wh.a": ""}, {"a": "more"}, {"a": WHITEOUT}, gone)
    for when in three_times(mount):
        assert sorted(os.listdir(mount.path)) == ["b", "d"], when
    mount = union(BASE, {"a": WHITEOUT}, gone, {".wh.a": ""}, {"a": "last"})
    for when in three_times(mount):
        assert (mount / "a").read_text() == "last", when


def test_all_dialects_in_one_directory(union: Mounts[UnionMount]) -> None:
    top = holds_xwhiteouts({"a": WHITEOUT, ".wh.b": "", "c": xwhiteout(), "e": "deps"})
    mount = union({"d": {"a": "", "b": "", "c": "", "f": "base"}}, holds_xwhiteouts({"d": top}))
    for when in three_times(mount):
        assert tree(mount / "d") == {"e": "deps", "f": "base"}, when


# Writing

_CREATE: dict[str, Callable[[Path], object]] = {
    "create": lambda path: path.touch(),
    "mkdir": lambda path: path.mkdir(),
    "symlink": lambda path: path.symlink_to("a"),
    "mknod": os.mkfifo,
    "link": lambda path: os.link(path.with_name("a"), path),
    "rename": lambda path: os.rename(path.with_name("a"), path),
    "rename a directory": lambda path: os.rename(path.with_name("d"), path),
}


@pytest.mark.parametrize("name", [".wh.x", ".wh.", ".wh..wh..opq"])
def test_names_of_whiteouts_are_refused(union: Mounts[UnionMount], name: str) -> None:
    mount = union(BASE)
    for operation, create in _CREATE.items():
        with pytest.raises(OSError, match=r".") as caught:
            create(mount / name)
        assert caught.value.errno == errno.EINVAL, operation
        assert os.listdir(mount.changes) == [], operation
    assert tree(mount.path) == BASE


def test_names_of_whiteouts_are_not_found(union: Mounts[UnionMount]) -> None:
    mount = union(BASE, {".wh.x": ""})
    for name in (".wh.x", ".wh.none", ".wh."):
        with pytest.raises(FileNotFoundError):
            (mount / name).lstat()
        with pytest.raises(FileNotFoundError):
            (mount / name).unlink()


def test_whiteout_files_are_files_where_layers_have_none(union: Mounts[UnionMount]) -> None:
    mount = union(
        BASE, {".wh.a": "file", "d": {".wh..wh..opq": "file"}}, arguments=["--whiteouts=overlay"]
    )
    (mount / ".wh.new").write_text("new")
    os.rename(mount / ".wh.new", mount / ".wh.b")
    for when in three_times(mount):
        assert tree(mount.path) == {
            **BASE,
            ".wh.a": "file",
            ".wh.b": "new",
            "d": {"a": "base", "b": "base", "e": {"a": "base"}, ".wh..wh..opq": "file"},
        }, when
    (mount / ".wh.a").unlink()
    for when in three_times(mount):
        assert not (mount / ".wh.a").exists(), when
        assert (mount / "a").read_text() == "base", when


def test_a_whiteout_cannot_be_made_by_hand(both: Mounts[Mount]) -> None:
    mount = both(BASE)
    with pytest.raises(PermissionError):
        os.mknod(mount / "new", stat.S_IFCHR | 0o600, os.makedev(0, 0))
    assert tree(mount.path) == BASE


def test_removing_from_a_layer_leaves_a_whiteout(both: Mounts[Mount]) -> None:
    mount = both(BASE)
    (mount / "a").unlink()
    (mount / "d" / "e" / "a").unlink()
    (mount / "d" / "e").rmdir()
    for when in three_times(mount):
        assert tree(mount.path) == {"b": "base", "d": {"a": "base", "b": "base"}}, when
    assert is_whiteout(mount.changes / "a")
    assert is_whiteout(mount.changes / "d" / "e")
    assert [path.name for path in mount.changes.rglob("*")].count("b") == 0


def test_removing_what_only_the_upper_has_leaves_nothing(both: Mounts[Mount]) -> None:
    mount = both(BASE)
    (mount / "new").write_text("")
    (mount / "dir").mkdir()
    (mount / "dir" / "new").write_text("")
    (mount / "new").unlink()
    (mount / "dir" / "new").unlink()
    (mount / "dir").rmdir()
    assert os.listdir(mount.changes) == []


def test_removing_a_changed_file_leaves_a_whiteout(both: Mounts[Mount]) -> None:
    mount = both(BASE)
    (mount / "a").write_text("changed")
    (mount / "a").unlink()
    for when in three_times(mount):
        assert not (mount / "a").exists(), when
    assert is_whiteout(mount.changes / "a")


def test_removing_what_a_layer_already_hid(both: Mounts[Mount]) -> None:
    mount = both(BASE, {"a": WHITEOUT})
    (mount / "a").write_text("new")
    (mount / "a").unlink()
    for when in three_times(mount):
        assert not (mount / "a").exists(), when


_OVER: dict[str, tuple[Callable[[Path], object], int]] = {
    "file": (lambda path: path.write_text("new"), stat.S_IFREG),
    "directory": (lambda path: path.mkdir(), stat.S_IFDIR),
    "symlink": (lambda path: path.symlink_to("b"), stat.S_IFLNK),
    "fifo": (os.mkfifo, stat.S_IFIFO),
    "link": (lambda path: os.link(path.with_name("source"), path), stat.S_IFREG),
    "rename": (lambda path: os.rename(path.with_name("source"), path), stat.S_IFREG),
}


def test_creating_over_a_whiteout(both: Mounts[Mount]) -> None:
    cells: Tree = {kind: {"name": "base", "source": "source"} for kind in _OVER}
    mount = both(cells, {kind: {"source": "source"} for kind in _OVER})
    for kind, (create, _) in _OVER.items():
        (mount / kind / "name").unlink()
        create(mount / kind / "name")
    for when in three_times(mount):
        for kind, (_, expected) in _OVER.items():
            assert stat.S_IFMT((mount / kind / "name").lstat().st_mode) == expected, (kind, when)
            assert os.listdir(mount / kind).count("name") == 1, (kind, when)
    assert not any(is_whiteout(mount.changes / kind / "name") for kind in _OVER)


def test_a_directory_made_anew_is_empty(both: Mounts[Mount]) -> None:
    mount = both(BASE)
    for path in (mount / "d" / "e" / "a", mount / "d" / "a", mount / "d" / "b"):
        path.unlink()
    (mount / "d" / "e").rmdir()
    (mount / "d").rmdir()
    (mount / "d").mkdir()
    (mount / "d" / "b").mkdir()
    for when in three_times(mount):
        assert tree(mount / "d") == {"b": {}}, when
    assert os.getxattr(mount.changes / "d", "trusted.overlay.opaque") == b"y"


def test_removing_a_merged_directory_that_only_whiteouts_remain_in(both: Mounts[Mount]) -> None:
    mount = both(BASE, {"d": {"c": "deps"}})
    for name in ("a", "b", "c", "e/a"):
        (mount / "d" / name).unlink()
    (mount / "d" / "e").rmdir()
    (mount / "d").rmdir()
    for when in three_times(mount):
        assert tree(mount.path) == {"a": "base", "b": "base"}, when
    assert is_whiteout(mount.changes / "d")


def test_removing_a_directory_that_layers_emptied(both: Mounts[Mount]) -> None:
    mount = both({"d": {"a": ""}}, {"d": {"a": WHITEOUT}})
    (mount / "d").rmdir()
    for when in three_times(mount):
        assert tree(mount.path) == {}, when


# Any order, any depth


def _random_layer(dice: random.Random, depth: int = 0) -> Tree:
    entries: dict[str, Item] = {}
    for name in "abcde":
        match dice.randrange(8):
            case 0 | 1 | 2 if depth < 4:
                below = _random_layer(dice, depth + 1)
                entries[name] = opaque(below) if dice.randrange(4) == 0 else below
            case 3:
                entries[name] = str(dice.random())
            case 4:
                entries[name] = WHITEOUT
    return entries


@pytest.mark.parametrize("seed", range(6))
def test_opaque_directories_are_right_in_any_order_of_lookup(
    union: Mounts[UnionMount], kernel: Mounts[KernelMount], seed: int
) -> None:
    dice = random.Random(seed)
    oracle = kernel(*[_random_layer(dice) for _ in range(4)])
    expected = snapshot(oracle.path, lists_whiteouts=True)
    mount = union(*oracle.layers)
    shown = [name for name in expected if name != "."]
    names = shown + [f"{name}/{other}" for name in shown for other in "abcde"]
    for when in three_times(mount):
        dice.shuffle(names)
        for name in names:
            assert os.path.lexists(mount / name) == os.path.lexists(oracle / name), (name, when)
        assert differences(snapshot(mount.path), expected) == [], when


def test_an_upper_that_was_unpacked_from_an_image(union: Mounts[UnionMount]) -> None:
    """What makes a directory opaque there lies beside it, and does not move along with it."""
    base: Tree = {"d": {"old": "base"}, "e": {"old": "base"}, "f": "base"}
    mount = union(base, upper={".wh.d": "", "d": {"new": "upper"}, ".wh.e": "", ".wh.f": ""})
    assert tree(mount.path) == {"d": {"new": "upper"}}
    os.rename(mount / "d", mount / "e")
    (mount / "f").mkdir()
    for when in three_times(mount):
        assert tree(mount.path) == {"e": {"new": "upper"}, "f": {}}, when


@pytest.mark.kernel_differs("lists the name, but doesn't find it")
def test_the_whiteout_attribute_means_nothing_in_the_upper(both: Mounts[Mount]) -> None:
    mount = both({"d": {"a": "base"}}, upper={"d": holds_xwhiteouts({"a": xwhiteout()})})
    for when in three_times(mount):
        assert tree(mount.path) == {"d": {"a": ""}}, when
    (mount / "d" / "a").unlink()
    (mount / "d" / "a").mkdir()
    for when in three_times(mount):
        assert tree(mount.path) == {"d": {"a": {}}}, when
