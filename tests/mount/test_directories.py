"""Directories: listing, renaming, removing."""

import copy
import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import linux
from tests.support.layers import WHITEOUT, Directory, File, Item, Symlink, Tree, copies, opaque
from tests.support.mounts import Mount, Mounts, UnionMount, three_times
from tests.support.snapshots import tree


def _errno(act: Callable[..., object], *words: object) -> int:
    try:
        act(*words)
    except OSError as error:
        return error.errno or 0
    return 0


# Listing


def _many(mounts: Mounts[Mount], count: int = 300) -> Mount:
    """A directory "d" of names from three layers, some of them removed."""
    names = [f"name{number:04}{'x' * (number % 50)}" for number in range(count)]
    base: dict[str, Item] = dict.fromkeys(names[: count // 2], "")
    top: dict[str, Item] = dict.fromkeys(names[count // 3 : -count // 6], "")
    upper: dict[str, Item] = dict.fromkeys(names[-count // 6 :], "")
    top[names[0]] = upper[names[1]] = upper[names[-count // 3]] = WHITEOUT
    return mounts({"d": base}, {"d": top}, upper={"d": upper})


def _names(entries: list[linux.Dirent]) -> list[bytes]:
    return [entry.name for entry in entries]


@pytest.mark.parametrize("size", [96, 100, 280, 4096, 1 << 20])
def test_listing_in_buffers_of_any_size(both: Mounts[Mount], size: int) -> None:
    mount = _many(both)
    expected = sorted(map(os.fsencode, [".", "..", *os.listdir(mount / "d")]))
    assert len(expected) == 300 - 3 + 2
    for when in three_times(mount):
        entries = linux.list_directory(mount / "d", size)
        assert sorted(_names(entries)) == expected, when
        assert len({entry.off for entry in entries}) == len(entries), when


@pytest.mark.needs_native
def test_a_walk_is_read_ahead(union: Mounts[UnionMount]) -> None:
    mount = union({"a": {"b": {"in": ""}}, "c": {"d": {"in": ""}}})
    (layer,) = mount.layers
    with (
        linux.caches_kept(),
        linux.watched(layer / "a/b", events=linux.IN_OPEN) as aside,
        linux.watched(layer / "c/d", events=linux.IN_OPEN) as ahead,
    ):
        os.listdir(mount / "a")  # no walk: nobody has listed what it is in
        os.listdir(mount.path)
        os.listdir(mount / "c")
        assert ahead.poll(10_000)
        assert not aside.poll(0)
    assert os.listdir(mount / "c/d") == ["in"]


@pytest.mark.needs_native
def test_files_that_are_read_one_after_the_other_are_read_ahead(
    union: Mounts[UnionMount],
) -> None:
    files: Tree = dict.fromkeys("abc", "content")
    mount = union({"all": files, "one": files})
    (layer,) = mount.layers
    with linux.caches_kept():
        first, second, _ = os.listdir(mount / "all")
        _, middle, last = os.listdir(mount / "one")
        with (
            linux.watched(layer / "one" / last, events=linux.IN_OPEN) as aside,
            linux.watched(layer / "all" / second, events=linux.IN_ACCESS) as ahead,
        ):
            (mount / "one" / middle).read_text()  # who reads all begins with the first
            (mount / "all" / first).read_text()
            assert ahead.poll(10_000)
            assert not aside.poll(0)


def test_a_buffer_that_is_too_small_for_a_name(both: Mounts[Mount]) -> None:
    mount = both({"d": {"n" * 255: ""}})
    with linux.opened(mount / "d") as descriptor:
        names = _names(linux.getdents(descriptor, 64))
        if len(names) == 1:
            names += _names(linux.getdents(descriptor, 64))
        assert sorted(names) == [b".", b".."]
        with pytest.raises(OSError, match="Invalid argument"):
            linux.getdents(descriptor, 64)
        assert _names(linux.getdents(descriptor, 512)) == [b"n" * 255]


@pytest.mark.parametrize("dropped", [False, True])
def test_seeking_in_a_directory(both: Mounts[Mount], dropped: bool) -> None:
    mount = _many(both, 100)
    with linux.opened(mount / "d") as descriptor:
        entries: list[linux.Dirent] = []
        while batch := linux.getdents(descriptor, 200):
            entries += batch
        if dropped:
            mount.drop_caches()
        for number in (50, 3, 97, 0, len(entries) - 2):
            os.lseek(descriptor, entries[number].off, os.SEEK_SET)
            rest: list[linux.Dirent] = []
            while batch := linux.getdents(descriptor, 300):
                rest += batch
            assert _names(rest) == _names(entries[number + 1 :])
        os.lseek(descriptor, 0, os.SEEK_SET)
        assert _names(linux.getdents(descriptor, 1 << 20)) == _names(entries)


@pytest.mark.parametrize("size", [120, 1000])
def test_names_that_stay_are_listed_once_while_others_change(
    both: Mounts[Mount], size: int
) -> None:
    mount = _many(both)
    before = {os.fsencode(name) for name in os.listdir(mount / "d")}
    gone: set[bytes] = set()
    seen: list[bytes] = []
    created: set[bytes] = set()
    with linux.opened(mount / "d") as descriptor:
        while batch := linux.getdents(descriptor, size):
            seen += _names(batch)
            if len(created) == 25:
                continue
            listed = sorted((before & set(seen)) - gone)
            unlisted = sorted(before - set(seen) - gone)
            for name in listed[:1] + unlisted[-1:]:
                (mount / "d" / os.fsdecode(name)).unlink()
                gone.add(name)
            new = f"created{len(created)}"
            (mount / "d" / new).touch()
            created.add(new.encode())
            if len(created) == 10:
                mount.drop_caches()
    for name in before - gone:
        assert seen.count(name) == 1, name
    assert max(map(seen.count, seen)) == 1
    for when in three_times(mount):
        assert set(map(os.fsencode, os.listdir(mount / "d"))) == before - gone | created, when


def test_removing_while_listing(both: Mounts[Mount]) -> None:
    """As `rm -r` does: every name is met although each is removed when it is met."""
    mount = _many(both)
    with linux.opened(mount / "d") as descriptor:
        while batch := linux.getdents(descriptor, 300):
            for entry in batch:
                if entry.name not in (b".", b".."):
                    (mount / "d" / os.fsdecode(entry.name)).unlink()
    for when in three_times(mount):
        assert os.listdir(mount / "d") == [], when
    (mount / "d").rmdir()


def test_rewinding_shows_what_changed(both: Mounts[Mount]) -> None:
    mount = both({"d": {"a": "", "b": ""}})
    with linux.opened(mount / "d") as descriptor:
        linux.getdents(descriptor)
        (mount / "d" / "c").touch()
        (mount / "d" / "a").unlink()
        os.lseek(descriptor, 0, os.SEEK_SET)
        assert sorted(_names(linux.getdents(descriptor))) == [b".", b"..", b"b", b"c"]


def test_two_descriptors_list_independently(both: Mounts[Mount]) -> None:
    mount = _many(both, 40)
    with linux.opened(mount / "d") as one, linux.opened(mount / "d") as other:
        first = linux.getdents(one, 500)
        assert linux.getdents(other, 500) == first
        second = linux.getdents(one, 500)
        assert linux.getdents(other, 500) == second != first


def test_types_in_listings(both: Mounts[Mount]) -> None:
    def layer(root: Path) -> None:
        (root / "file").touch()
        (root / "dir").mkdir()
        (root / "link").symlink_to("file")
        os.mkfifo(root / "fifo")
        os.mknod(root / "char", stat.S_IFCHR, os.makedev(1, 3))
        os.mknod(root / "block", stat.S_IFBLK, os.makedev(7, 0))
        os.mknod(root / "socket", stat.S_IFSOCK)

    mount = both(layer, {"dir": {}})
    for when in three_times(mount):
        for entry in linux.list_directory(mount.path):
            mode = (mount / os.fsdecode(entry.name)).lstat().st_mode
            assert entry.kind == stat.S_IFMT(mode) >> 12, (entry.name, when)


def test_a_removed_directory_lists_nothing(both: Mounts[Mount]) -> None:
    mount = both({"d": {"a": ""}})
    with linux.opened(mount / "d") as descriptor:
        (mount / "d" / "a").unlink()
        (mount / "d").rmdir()
        (mount / "d").mkdir()
        (mount / "d" / "new").touch()
        with pytest.raises(FileNotFoundError):
            linux.getdents(descriptor)
        with pytest.raises(FileNotFoundError):
            os.open("x", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor)


def _check_no_links_after_removal(directory: Path, mount: Mount) -> None:
    with linux.opened(directory) as descriptor:
        directory.rmdir()
        assert os.fstat(descriptor).st_nlink == 0
        mount.drop_caches()
        assert os.fstat(descriptor).st_nlink == 0


def test_a_removed_directory_has_no_links(both: Mounts[Mount]) -> None:
    mount = both({})
    (mount / "d").mkdir()
    _check_no_links_after_removal(mount / "d", mount)


@pytest.mark.kernel_differs("counts one link, as for every directory of a layer")
def test_a_removed_directory_of_a_layer_has_no_links(both: Mounts[Mount]) -> None:
    mount = both({"d": {}})
    _check_no_links_after_removal(mount / "d", mount)


def test_a_removed_directory_of_whiteouts_keeps_its_mode(both: Mounts[Mount]) -> None:
    mount = both({"d": Directory({"gone": ""}, mode=0o644)})
    (mount / "d" / "gone").unlink()
    with linux.opened(mount / "d", os.O_RDONLY | os.O_DIRECTORY) as descriptor:
        (mount / "d").rmdir()
        assert stat.S_IMODE(os.fstat(descriptor).st_mode) == 0o644


# Making


def test_new_directories_take_group_and_bit_from_a_set_group_id_directory(
    both: Mounts[Mount],
) -> None:
    mount = both({"d": Directory(mode=0o2777, gid=4000)})
    with linux.user(1000):
        (mount / "d" / "new").mkdir()
        (mount / "d" / "file").touch()
        (mount / "d" / "link").symlink_to("x")
        os.mkfifo(mount / "d" / "fifo")
    for when in three_times(mount):
        status = (mount / "d" / "new").stat()
        assert (status.st_uid, status.st_gid) == (1000, 4000), when
        assert stat.S_IMODE(status.st_mode) == 0o2755, when
        for name in ("file", "link", "fifo"):
            status = (mount / "d" / name).lstat()
            assert (status.st_uid, status.st_gid) == (1000, 4000), (name, when)


def test_what_a_user_makes_is_theirs(both: Mounts[Mount]) -> None:
    mount = both({"d": Directory(mode=0o777)})
    with linux.user(1000, 1001), linux.umask(0o027):
        (mount / "d" / "file").touch(0o666)
        (mount / "d" / "dir").mkdir(0o777)
        (mount / "d" / "link").symlink_to("x")
        os.mkfifo(mount / "d" / "fifo", 0o606)
    modes = {"file": 0o640, "dir": 0o750, "link": 0o777, "fifo": 0o600}
    for when in three_times(mount):
        for name, mode in modes.items():
            status = (mount / "d" / name).lstat()
            assert (status.st_uid, status.st_gid) == (1000, 1001), (name, when)
            assert stat.S_IMODE(status.st_mode) == mode, (name, when)


def test_nothing_is_made_over_what_exists(both: Mounts[Mount]) -> None:
    layer: Tree = {"file": "", "dir": {}, "link": Symlink("file"), "dangling": Symlink("none")}
    mount = both(layer)
    makers: list[Callable[[Path], object]] = [
        Path.mkdir,
        os.mkfifo,
        lambda path: path.symlink_to("x"),
        lambda path: os.link(mount / "file", path),
    ]
    for name in layer:
        for make in makers:
            with pytest.raises(FileExistsError):
                make(mount / name)
    assert os.listdir(mount.changes) == []


def test_a_tree_200_deep(both: Mounts[Mount]) -> None:
    base: Tree = {"file": "deep"}
    for _ in range(200):
        base = {"d": base}
    mount = both(base)
    path = mount.path / "/".join("d" * 200)
    (path / "file").write_text("changed")
    for when in three_times(mount):
        assert (path / "file").read_text() == "changed", when
    os.rename(mount / "d" / "d", mount / "moved")
    path = mount.path / "moved" / "/".join("d" * 198)
    for when in three_times(mount):
        assert (path / "file").read_text() == "changed", when


def test_what_was_never_asked_for_500_deep(both: Mounts[Mount]) -> None:
    def layer(root: Path) -> None:
        for depth in range(1, 501):
            (root / "/".join("d" * depth)).mkdir()
        (root / "/".join("d" * 500) / "file").write_text("deep")
        (root / "/".join("d" * 500) / "other").hardlink_to(root / "/".join("d" * 500) / "file")

    mount = both(layer)
    path = mount.path / "/".join("d" * 500)
    assert (path / "other").read_text() == "deep"
    (path / "new").mkdir()
    for when in three_times(mount):
        assert sorted(os.listdir(path)) == ["file", "new", "other"], when


# Renaming

BASE: Tree = {
    "lower": {"a": "lower", "e": {"b": "deep"}},
    "merged": {"a": "base", "b": "base", "e": {"b": "base"}},
    "empty": {},
    "emptied": {"a": ""},
    "file": "file",
    "other": "other",
    "link": Symlink("file"),
}
TOP: Tree = {"merged": {"b": "top", "c": "top", "e": {"d": "top"}}, "emptied": {"a": WHITEOUT}}
UPPER: Tree = {
    "upper": {"a": "upper", "e": {"b": "upper"}},
    "opaque": opaque({"a": "opaque"}),
    "merged": {"c": "upper"},
}
DIRECTORIES: dict[str, dict[str, Any]] = {
    "lower": {"a": "lower", "e": {"b": "deep"}},
    "merged": {"a": "base", "b": "top", "c": "upper", "e": {"b": "base", "d": "top"}},
    "upper": {"a": "upper", "e": {"b": "upper"}},
    "opaque": {"a": "opaque"},
}
EMPTY: list[str] = ["empty", "emptied"]


ALL = [*DIRECTORIES, *EMPTY, "file", "link"]
PAIRS = [(one, other) for one in ALL for other in ALL if one != other]


def _mounted(mounts: Mounts[Mount]) -> Mount:
    return mounts(BASE, TOP, upper=UPPER)


def _mounted_for_pairs(mounts: Mounts[Mount]) -> Mount:
    """The tree once for each pair of its names, in a directory called after them."""
    cells = ["-".join(pair) for pair in PAIRS]
    return mounts(copies(BASE, cells), copies(TOP, cells), upper=copies(UPPER, cells))


@pytest.mark.parametrize("name", DIRECTORIES)
def test_renaming_a_directory(both: Mounts[Mount], name: str) -> None:
    mount = _mounted(both)
    inode = (mount / name).stat().st_ino
    os.rename(mount / name, mount / "new")
    for when in three_times(mount):
        assert tree(mount / "new") == DIRECTORIES[name], when
        assert not (mount / name).exists(), when
        assert (mount / "new").stat().st_ino == inode, when
    (mount / "new" / "a").write_text("changed")
    (mount / "new" / "added").write_text("added")
    for when in three_times(mount):
        assert tree(mount / "new") == {**DIRECTORIES[name], "a": "changed", "added": "added"}, when


def test_renaming_anything_into_a_directory(both: Mounts[Mount]) -> None:
    mount = _mounted_for_pairs(both)
    before = tree(mount.path)
    pairs = [pair for pair in PAIRS if pair[1] in (*DIRECTORIES, *EMPTY)]
    for one, other in pairs:
        cell = mount / f"{one}-{other}"
        os.rename(cell / one, cell / other / "in")
    for when in three_times(mount):
        shown = tree(mount.path)
        for one, other in pairs:
            expected = copy.deepcopy(before[f"{one}-{other}"])
            expected[other]["in"] = expected.pop(one)
            assert shown[f"{one}-{other}"] == expected, (one, other, when)


def _outcome_of_rename(one: str, other: str) -> int:
    """What rename(2) says where neither name is absent."""
    directories = (*DIRECTORIES, *EMPTY)
    if (one in directories) != (other in directories):
        return errno.EISDIR if other in directories else errno.ENOTDIR
    return errno.ENOTEMPTY if other in DIRECTORIES else 0


def test_renaming_anything_onto_anything(both: Mounts[Mount]) -> None:
    mount = _mounted_for_pairs(both)
    before = tree(mount.path)
    inodes = {(one, other): (mount / f"{one}-{other}" / one).lstat().st_ino for one, other in PAIRS}
    outcomes = {}
    for one, other in PAIRS:
        cell = mount / f"{one}-{other}"
        outcomes[one, other] = _errno(os.rename, cell / one, cell / other)
    assert outcomes == {pair: _outcome_of_rename(*pair) for pair in PAIRS}
    for when in three_times(mount):
        shown = tree(mount.path)
        for one, other in PAIRS:
            expected = copy.deepcopy(before[f"{one}-{other}"])
            if not outcomes[one, other]:
                expected[other] = expected.pop(one)
                status = (mount / f"{one}-{other}" / other).lstat()
                assert status.st_ino == inodes[one, other], (one, other, when)
            assert shown[f"{one}-{other}"] == expected, (one, other, when)


@pytest.mark.parametrize("name", DIRECTORIES)
def test_a_directory_made_at_the_old_name_is_empty(both: Mounts[Mount], name: str) -> None:
    mount = _mounted(both)
    os.rename(mount / name, mount / "new")
    (mount / name).mkdir()
    (mount / name / "e").mkdir()
    for when in three_times(mount):
        assert tree(mount / name) == {"e": {}}, when
        assert tree(mount / "new") == DIRECTORIES[name], when


@pytest.mark.parametrize("name", DIRECTORIES)
def test_renaming_a_directory_there_and_back(both: Mounts[Mount], name: str) -> None:
    mount = _mounted(both)
    os.rename(mount / name, mount / "empty" / "one")
    os.rename(mount / "empty", mount / "two")
    mount.remount()
    os.rename(mount / "two" / "one", mount / "three")
    mount.remount()
    os.rename(mount / "three", mount / name)
    for when in three_times(mount):
        assert tree(mount / name) == DIRECTORIES[name], when
        assert tree(mount / "two") == {}, when


@pytest.mark.parametrize("name", ["lower", "merged"])
def test_renaming_nested_directories(both: Mounts[Mount], name: str) -> None:
    """The inner one first, then the outer one, and the other way round."""
    mount = _mounted(both)
    expected = {**DIRECTORIES[name], "f": DIRECTORIES[name]["e"]}
    del expected["e"]
    os.rename(mount / name / "e", mount / name / "f")
    os.rename(mount / name, mount / "new")
    for when in three_times(mount):
        assert tree(mount / "new") == expected, when
    os.rename(mount / "new", mount / "newer")
    os.rename(mount / "newer" / "f", mount / "out")
    for when in three_times(mount):
        assert tree(mount / "out") == DIRECTORIES[name]["e"], when
        assert sorted(os.listdir(mount / "newer")) == sorted({*expected} - {"f"}), when


@pytest.mark.parametrize("name", DIRECTORIES)
def test_directories_below_a_renamed_one_still_merge(both: Mounts[Mount], name: str) -> None:
    mount = _mounted(both)
    os.rename(mount / name, mount / "new")
    for directory, _, files in os.walk(mount / "new"):
        for file in files:
            Path(directory, file).unlink()
    for when in three_times(mount):
        empty: dict[str, Any] = {"e": {}} if "e" in DIRECTORIES[name] else {}
        assert tree(mount / "new") == empty, when
    if (mount / "new" / "e").exists():
        (mount / "new" / "e").rmdir()
    (mount / "new").rmdir()
    for when in three_times(mount):
        assert not (mount / "new").exists(), when
        assert not (mount / name).exists(), when


@pytest.mark.parametrize("name", DIRECTORIES)
def test_descriptors_follow_a_renamed_directory(both: Mounts[Mount], name: str) -> None:
    mount = _mounted(both)
    with (
        linux.opened(mount / name) as directory,
        linux.opened(mount / name / "a", os.O_RDWR) as file,
    ):
        os.rename(mount / name, mount / "empty" / "in")
        os.rename(mount / "empty", mount / "outer")
        os.pwrite(file, b"written", 0)
        with linux.opened_at(directory, "added", os.O_CREAT | os.O_WRONLY) as added:
            os.write(added, b"too")
        mount.drop_caches()
        assert b"added" in _names(linux.getdents(directory))
        assert os.pread(file, 7, 0) == b"written"
    for when in three_times(mount):
        assert (mount / "outer" / "in" / "a").read_bytes()[:7] == b"written", when
        assert (mount / "outer" / "in" / "added").read_text() == "too", when


def test_a_directory_does_not_go_below_itself(both: Mounts[Mount]) -> None:
    mount = _mounted(both)
    for name in ("lower", "merged", "upper"):
        for target in (f"{name}/in", f"{name}/e/in"):
            with pytest.raises(OSError, match="Invalid argument"):
                os.rename(mount / name, mount / target)
        # Onto its own ancestor.
        with pytest.raises(OSError, match="Directory not empty"):
            os.rename(mount / name / "e", mount / name)
    for name, content in DIRECTORIES.items():
        assert tree(mount / name) == content


def test_renames_of_what_is_not_there(both: Mounts[Mount]) -> None:
    mount = _mounted(both)
    with pytest.raises(FileNotFoundError):
        os.rename(mount / "none", mount / "new")
    with pytest.raises(FileNotFoundError):
        os.rename(mount / "file", mount / "none" / "new")
    with pytest.raises(NotADirectoryError):
        os.rename(mount / "file", mount / "other" / "new")
    for name in ALL:
        os.rename(mount / name, mount / name)
    assert tree(mount.path) == tree(_mounted(both).path)


def test_a_renamed_file_keeps_its_attributes(both: Mounts[Mount]) -> None:
    mount = _mounted(both)
    for name in ("file", "link", "merged/a", "upper/a"):
        before = (mount / name).lstat()
        os.rename(mount / name, mount / "new")
        for when in three_times(mount):
            after = (mount / "new").lstat()
            assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns), when
            assert (after.st_ino, after.st_nlink) == (before.st_ino, 1), when


# Renaming with flags


def test_rename_without_replacing(both: Mounts[Mount]) -> None:
    mount = _mounted_for_pairs(both)
    before = tree(mount.path)
    for one, other in PAIRS:
        cell = mount / f"{one}-{other}"
        with pytest.raises(FileExistsError):
            linux.renameat2(cell / one, cell / other, linux.RENAME_NOREPLACE)
        linux.renameat2(cell / one, cell / "new", linux.RENAME_NOREPLACE)
    for when in three_times(mount):
        shown = tree(mount.path)
        for one, other in PAIRS:
            expected = copy.deepcopy(before[f"{one}-{other}"])
            expected["new"] = expected.pop(one)
            assert shown[f"{one}-{other}"] == expected, (one, other, when)


def test_rename_that_exchanges(both: Mounts[Mount]) -> None:
    mount = _mounted_for_pairs(both)
    before = tree(mount.path)
    for one, other in PAIRS:
        cell = mount / f"{one}-{other}"
        linux.renameat2(cell / one, cell / other, linux.RENAME_EXCHANGE)
    for when in three_times(mount):
        shown = tree(mount.path)
        for one, other in PAIRS:
            former = before[f"{one}-{other}"]
            expected = {**former, one: former[other], other: former[one]}
            assert shown[f"{one}-{other}"] == expected, (one, other, when)


def test_rename_that_exchanges_across_directories(both: Mounts[Mount]) -> None:
    mount = _mounted(both)
    linux.renameat2(mount / "lower" / "e", mount / "merged" / "a", linux.RENAME_EXCHANGE)
    linux.renameat2(mount / "file", mount / "merged" / "e", linux.RENAME_EXCHANGE)
    for when in three_times(mount):
        assert tree(mount / "lower") == {"a": "lower", "e": "base"}, when
        shown = {"a": {"b": "deep"}, "b": "top", "c": "upper", "e": "file"}
        assert tree(mount / "merged") == shown, when
        assert tree(mount / "file") == {"b": "base", "d": "top"}, when


def test_renames_that_are_refused(both: Mounts[Mount]) -> None:
    mount = _mounted(both)
    before = tree(mount.path)
    for flags, one, other, code in [
        (linux.RENAME_EXCHANGE, "file", "none", errno.ENOENT),
        (linux.RENAME_EXCHANGE, "none", "file", errno.ENOENT),
        (linux.RENAME_EXCHANGE, "merged", "merged/e", errno.EINVAL),
        (linux.RENAME_EXCHANGE, "merged/e", "merged", errno.EINVAL),
        (linux.RENAME_EXCHANGE | linux.RENAME_NOREPLACE, "file", "other", errno.EINVAL),
        (linux.RENAME_WHITEOUT, "file", "new", errno.EINVAL),
        (1 << 10, "file", "new", errno.EINVAL),
    ]:
        outcome = _errno(linux.renameat2, mount / one, mount / other, flags)
        assert outcome == code, (flags, one, other)
    assert tree(mount.path) == before


# Removing


@pytest.mark.parametrize("name", DIRECTORIES)
def test_a_full_directory_is_not_removed(both: Mounts[Mount], name: str) -> None:
    mount = _mounted(both)
    with pytest.raises(OSError, match="Directory not empty"):
        (mount / name).rmdir()
    with pytest.raises(IsADirectoryError):
        (mount / name).unlink()
    for when in three_times(mount):
        assert tree(mount / name) == DIRECTORIES[name], when


@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_directory_is_removed(both: Mounts[Mount], name: str) -> None:
    mount = _mounted(both)
    (mount / name).rmdir()
    for when in three_times(mount):
        assert not (mount / name).exists(), when
        assert name not in os.listdir(mount.path), when


def test_what_is_no_directory_is_not_removed_as_one(both: Mounts[Mount]) -> None:
    mount = _mounted(both)
    for name in ("file", "link"):
        with pytest.raises(NotADirectoryError):
            (mount / name).rmdir()
    with pytest.raises(OSError, match="Invalid argument"):
        os.rmdir(f"{mount.path}/empty/.")
    with pytest.raises(OSError, match="Directory not empty"):
        os.rmdir(f"{mount.path}/empty/..")


@pytest.mark.parametrize("name", DIRECTORIES)
def test_removing_a_whole_tree(both: Mounts[Mount], name: str) -> None:
    mount = _mounted(both)
    for directory, directories, files in os.walk(mount / name, topdown=False):
        for file in files:
            Path(directory, file).unlink()
        for below in directories:
            Path(directory, below).rmdir()
    (mount / name).rmdir()
    for when in three_times(mount):
        assert not (mount / name).exists(), when


def test_names_in_a_sticky_directory_are_their_owners_to_remove(both: Mounts[Mount]) -> None:
    mount = both({"d": Directory({"mine": File(uid=1000), "theirs": File(uid=1001)}, mode=0o1777)})
    with linux.user(1000):
        (mount / "d" / "mine").unlink()
        with pytest.raises(PermissionError):
            (mount / "d" / "theirs").unlink()
        with pytest.raises(PermissionError):
            os.rename(mount / "d" / "theirs", mount / "d" / "new")
    for when in three_times(mount):
        assert os.listdir(mount / "d") == ["theirs"], when


def test_nothing_is_left_in_the_work_directory(union: Mounts[UnionMount]) -> None:
    mount = union(BASE, TOP, upper=UPPER)
    os.rename(mount / "lower", mount / "new")
    linux.renameat2(mount / "merged", mount / "file", linux.RENAME_EXCHANGE)
    os.rename(mount / "upper", mount / "emptied")
    (mount / "empty").rmdir()
    (mount / "empty").mkdir()
    mount.unmount()
    files = [path for path in mount.work.rglob("*") if not path.is_dir()]
    assert [path for path in files if path.lstat().st_size] == []
