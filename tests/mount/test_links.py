"""Hard links: one file under several names, wherever they lie, whatever happened to it."""

import os
import stat
import tarfile
from pathlib import Path

import pytest

from tests.support import linux
from tests.support.layers import FIFO, File, HardLink, Symlink, Tree
from tests.support.mounts import Mount, Mounts, UnionMount, three_times

LINKED: Tree = {
    "a": File("content", uid=5),
    "b": HardLink("a"),
    "d": {"c": HardLink("a"), "alone": "alone"},
}
NAMES = ["a", "b", "d/c"]


def _check_one_file(mount: Mount, names: list[str], content: str, when: str) -> None:
    statuses = [(mount / name).lstat() for name in names]
    assert len({status.st_ino for status in statuses}) == 1, when
    assert {status.st_nlink for status in statuses} == {len(names)}, when
    assert {(mount / name).read_text() for name in names} == {content}, when


@pytest.mark.parametrize("names", [NAMES, NAMES[::-1]])
def test_links_of_a_layer_are_one_file(both: Mounts[Mount], names: list[str]) -> None:
    mount = both(LINKED)
    for when in three_times(mount):
        _check_one_file(mount, names, "content", when)
    assert os.listdir(mount.changes) == []


@pytest.mark.parametrize("written", NAMES)
@pytest.mark.parametrize("looked_at_first", NAMES)
def test_links_stay_one_file_when_it_is_written(
    both: Mounts[Mount], written: str, looked_at_first: str
) -> None:
    mount = both(LINKED)
    (mount / looked_at_first).stat()
    (mount / written).write_text("changed")
    for when in three_times(mount):
        _check_one_file(mount, NAMES, "changed", when)
    for name in NAMES:
        (mount / name).write_text(f"changed by {name}")
        _check_one_file(mount, NAMES, f"changed by {name}", "live")
    for when in three_times(mount):
        _check_one_file(mount, NAMES, "changed by d/c", when)
    assert (mount.layers[0] / "a").read_text() == "content"


@pytest.mark.parametrize("written", NAMES)
def test_links_are_found_together_after_a_remount(both: Mounts[Mount], written: str) -> None:
    """What one mount copied up under one name, the next copies no second time under another."""
    mount = both(LINKED)
    (mount / written).write_text("changed")
    mount.remount()
    for name in NAMES:
        if name != written:
            (mount / name).chmod(0o600)
            mount.remount()
    _check_one_file(mount, NAMES, "changed", "after remounts")


@pytest.mark.parametrize("change", ["chmod", "chown", "utime", "xattr"])
def test_attributes_are_those_of_all_links(both: Mounts[Mount], change: str) -> None:
    mount = both(LINKED)
    path = mount / "b"
    match change:
        case "chmod":
            path.chmod(0o604)
        case "chown":
            os.chown(path, 70, 71)
        case "utime":
            os.utime(path, ns=(1, 2))
        case "xattr":
            os.setxattr(path, "user.x", b"value")
    for when in three_times(mount):
        _check_one_file(mount, NAMES, "content", when)
        for name in NAMES:
            status = (mount / name).stat()
            match change:
                case "chmod":
                    assert stat.S_IMODE(status.st_mode) == 0o604, when
                case "chown":
                    assert (status.st_uid, status.st_gid) == (70, 71), when
                case "utime":
                    assert status.st_mtime_ns == 2, when
                case "xattr":
                    assert os.getxattr(mount / name, "user.x") == b"value", when


@pytest.mark.parametrize("written_first", [False, True])
@pytest.mark.parametrize("removed", NAMES)
def test_removing_a_link_leaves_the_others(
    both: Mounts[Mount], removed: str, written_first: bool
) -> None:
    mount = both(LINKED)
    if written_first:
        (mount / removed).write_text("changed")
    (mount / removed).unlink()
    left = [name for name in NAMES if name != removed]
    for when in three_times(mount):
        _check_one_file(mount, left, "changed" if written_first else "content", when)
        assert not (mount / removed).exists(), when
    (mount / left[0]).write_text("again")
    for when in three_times(mount):
        _check_one_file(mount, left, "again", when)


@pytest.mark.parametrize("written_first", [False, True])
def test_removing_all_links(both: Mounts[Mount], written_first: bool) -> None:
    mount = both(LINKED)
    if written_first:
        (mount / "b").write_text("changed")
    with linux.opened(mount / "a") as descriptor:
        for left, name in zip((2, 1, 0), NAMES, strict=True):
            (mount / name).unlink()
            assert os.fstat(descriptor).st_nlink == left
        assert os.read(descriptor, 10) == (b"changed" if written_first else b"content")
    for when in three_times(mount):
        assert sorted(path.name for path in mount.path.rglob("*")) == ["alone", "d"], when
    (mount / "a").write_text("new")
    assert (mount / "a").stat().st_nlink == 1


@pytest.mark.parametrize("source", NAMES)
def test_linking_a_linked_file(both: Mounts[Mount], source: str) -> None:
    mount = both(LINKED)
    os.link(mount / source, mount / "d" / "new")
    for when in three_times(mount):
        _check_one_file(mount, [*NAMES, "d/new"], "content", when)
    (mount / "d" / "new").write_text("changed")
    for when in three_times(mount):
        _check_one_file(mount, [*NAMES, "d/new"], "changed", when)


def test_linking_a_single_file_of_a_layer(both: Mounts[Mount]) -> None:
    mount = both(LINKED)
    before = (mount / "d" / "alone").stat().st_ino
    os.link(mount / "d" / "alone", mount / "new")
    for when in three_times(mount):
        _check_one_file(mount, ["d/alone", "new"], "alone", when)
        assert (mount / "new").stat().st_ino == before, when
    (mount / "new").write_text("changed")
    (mount / "d" / "alone").unlink()
    for when in three_times(mount):
        _check_one_file(mount, ["new"], "changed", when)


@pytest.mark.parametrize("renamed", NAMES)
def test_renaming_a_link(both: Mounts[Mount], renamed: str) -> None:
    mount = both(LINKED)
    os.rename(mount / renamed, mount / "d" / "new")
    names = [name for name in NAMES if name != renamed] + ["d/new"]
    for when in three_times(mount):
        _check_one_file(mount, names, "content", when)
    (mount / names[0]).write_text("changed")
    for when in three_times(mount):
        _check_one_file(mount, names, "changed", when)


def test_renaming_one_link_onto_another_does_nothing(both: Mounts[Mount]) -> None:
    mount = both(LINKED)
    os.rename(mount / "a", mount / "b")
    os.rename(mount / "d" / "c", mount / "a")
    for when in three_times(mount):
        _check_one_file(mount, NAMES, "content", when)


def test_replacing_a_link(both: Mounts[Mount]) -> None:
    mount = both(LINKED)
    os.rename(mount / "d" / "alone", mount / "b")
    for when in three_times(mount):
        _check_one_file(mount, ["a", "d/c"], "content", when)
        _check_one_file(mount, ["b"], "alone", when)


def test_a_link_written_through_an_open_descriptor_of_another(both: Mounts[Mount]) -> None:
    mount = both(LINKED)
    with linux.opened(mount / "a") as reader:
        with linux.opened(mount / "d" / "c", os.O_RDWR) as writer:
            os.pwrite(writer, b"CHANGED", 0)
        (mount / "b").unlink()
        mount.drop_caches()
        assert os.pread(reader, 10, 0) == b"CHANGED"
        assert os.fstat(reader).st_nlink == 2


def test_links_in_the_upper(both: Mounts[Mount]) -> None:
    mount = both({}, upper=LINKED)
    for when in three_times(mount):
        _check_one_file(mount, NAMES, "content", when)
    (mount / "a").write_text("changed")
    (mount / "d" / "c").unlink()
    for when in three_times(mount):
        _check_one_file(mount, ["a", "b"], "changed", when)


def test_links_in_two_layers_are_two_files(both: Mounts[Mount]) -> None:
    mount = both({"a": "base", "b": HardLink("a")}, {"b": "deps", "c": HardLink("b")})
    for when in three_times(mount):
        assert [(mount / name).read_text() for name in "abc"] == ["base", "deps", "deps"], when
        assert (mount / "b").stat().st_ino == (mount / "c").stat().st_ino, when
        assert (mount / "a").stat().st_ino != (mount / "b").stat().st_ino, when
    (mount / "a").write_text("changed")
    for when in three_times(mount):
        assert [(mount / name).read_text() for name in "abc"] == ["changed", "deps", "deps"], when


@pytest.mark.parametrize("kind", ["symlink", "fifo"])
def test_links_of_what_is_no_regular_file(both: Mounts[Mount], kind: str) -> None:
    mount = both({"a": Symlink("target") if kind == "symlink" else FIFO, "b": HardLink("a")})
    os.link(mount / "b", mount / "c", follow_symlinks=False)
    os.chown(mount / "a", 7, 8, follow_symlinks=False)
    for when in three_times(mount):
        for name in "abc":
            status = (mount / name).lstat()
            assert (status.st_uid, status.st_gid, status.st_nlink) == (7, 8, 3), (name, when)
        assert len({(mount / name).lstat().st_ino for name in "abc"}) == 1, when


def test_what_cannot_be_linked(both: Mounts[Mount]) -> None:
    mount = both(LINKED)
    with pytest.raises(PermissionError):
        os.link(mount / "d", mount / "new")
    with pytest.raises(FileExistsError):
        os.link(mount / "a", mount / "d" / "alone")
    with pytest.raises(FileNotFoundError):
        os.link(mount / "none", mount / "new")
    assert os.listdir(mount.changes) == []


def test_linking_an_open_file(both: Mounts[Mount]) -> None:
    mount = both(LINKED)
    with linux.opened(mount / "d" / "alone") as descriptor:
        linux.linkat(b"", mount / "new", linux.AT_EMPTY_PATH, descriptor)
    for when in three_times(mount):
        _check_one_file(mount, ["d/alone", "new"], "alone", when)


@pytest.mark.parametrize("names", [NAMES, NAMES[::-1]])
def test_tar_sees_links(both: Mounts[Mount], names: list[str], directory: Path) -> None:
    mount = both(LINKED)
    for when in three_times(mount):
        with tarfile.open(directory / "tar", "w") as archive:
            for name in names:
                archive.add(mount / name, name)
        with tarfile.open(directory / "tar") as archive:
            kinds = [member.islnk() for member in archive]
        assert kinds == [False, True, True], when
        (mount / names[-1]).chmod(0o600)


def test_one_inode_in_two_layers(union: Mounts[UnionMount]) -> None:
    """As `cp -al` makes layers: each name is found again in the layer that has it."""

    def second(root: Path) -> None:
        (root / "e").mkdir()
        os.link(root.with_name("0") / "d" / "a", root / "e" / "b")

    mount = union({"d": {"a": "content"}}, second)
    for when in three_times(mount):
        with linux.opened(mount / "e", os.O_DIRECTORY) as held:
            for name in ("d/a", "e/b"):
                assert (mount / name).read_text() == "content", when
            linux.drop_caches(pages=False)
            assert os.listdir(held) == ["b"], when
            assert (mount / "e" / "b").read_text() == "content", when


def test_a_name_that_the_kernel_forgot_while_the_file_is_open(both: Mounts[Mount]) -> None:
    """Whoever knows the file by its open descriptor has to learn of what happens to the name."""
    mount = both({"one": {}, "two": {}})
    with linux.opened(mount / "one/file", os.O_CREAT | os.O_RDWR) as descriptor:
        os.link(mount / "one/file", mount / "two/file")
        (mount / "one/file").unlink()
        mount.drop_caches()
        os.rename(mount / "two/file", mount / "two/renamed")
        os.link(mount / "two/renamed", mount / "two/linked")
        os.write(descriptor, b"written")
        assert os.fstat(descriptor).st_nlink == 2
    for when in three_times(mount):
        assert sorted(os.listdir(mount / "two")) == ["linked", "renamed"], when
        assert (mount / "two/linked").read_text() == "written", when
