"""Copy-up: what the upper gets before a first change, and that it gets all of it."""

import errno
import os
import random
import stat
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from tests.support import linux
from tests.support.acls import ACCESS, DEFAULT, acl
from tests.support.filesystems import FileSystems
from tests.support.layers import FIFO, OLD, Directory, File, Symlink, Tree
from tests.support.mounts import Mount, Mounts, UnionMount, three_times
from tests.support.snapshots import NEW, differences, snapshot

_CHANGES: dict[str, Callable[[Path], object]] = {
    "open": lambda path: os.close(os.open(path, os.O_RDWR)),
    "xattr": lambda path: os.setxattr(path, "user.new", b""),
    "link": lambda path: os.link(path, path.with_name("new")),
    "rename": lambda path: path.rename(path.with_name("new")),
}


def _holes(path: Path) -> None:
    with open(path, "wb") as file:
        for offset in (0, 1 << 20, 5 << 20):
            file.seek(offset)
            file.write(os.urandom(4096))
        file.truncate(8 << 20)


@pytest.mark.kernel_differs("copies pieces of 1 MiB, whatever the data in them")
@pytest.mark.parametrize("change", _CHANGES)
def test_holes_are_kept(both: Mounts[Mount], change: str) -> None:
    mount = both(lambda root: _holes(root / "file"))
    lower = mount.layers[0] / "file"
    _CHANGES[change](mount / "file")
    name = "new" if change == "rename" else "file"
    copy = mount.changes / name
    assert linux.data_extents(copy) == linux.data_extents(lower)
    # Three blocks, and perhaps one for marks.
    assert lower.stat().st_blocks == 3 * 8
    assert copy.stat().st_blocks <= 4 * 8
    for when in three_times(mount):
        assert (mount / name).read_bytes() == lower.read_bytes(), when
        assert (mount / name).stat().st_blocks <= 4 * 8, when


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, (1 << 20) + 1])
def test_data_of_any_size(both: Mounts[Mount], size: int) -> None:
    content = random.Random(size).randbytes(size)
    mount = both({"file": content})
    _CHANGES["open"](mount / "file")
    for when in three_times(mount):
        assert (mount / "file").read_bytes() == content, when
    assert (mount.changes / "file").read_bytes() == content


@pytest.mark.kernel_differs("copies pieces of 1 MiB, whatever the data in them")
def test_a_file_that_ends_in_a_hole(both: Mounts[Mount]) -> None:
    mount = both({"file": File(b"data", size=1 << 30), "hole": File(size=1 << 30)})
    for name in ("file", "hole"):
        _CHANGES["open"](mount / name)
        assert (mount.changes / name).stat().st_blocks <= 2 * 8
        for when in three_times(mount):
            assert (mount / name).stat().st_size == 1 << 30, when


FULL: Tree = {
    "one": Directory(
        {
            "two": Directory(
                {
                    "file": File(
                        "content",
                        mode=0o6751,
                        uid=1000,
                        gid=2000,
                        mtime=OLD + 1,
                        xattrs={
                            "user.u": b"1",
                            "trusted.t": b"\0",
                            ACCESS: acl("u::rwx,u:5:r--,g::r-x,m::r-x,o::--x"),
                        },
                    ),
                    "dir": Directory({"in": ""}, mode=0o1753, uid=3, gid=4, mtime=OLD + 2),
                    "link": Symlink("x" * 300, uid=5, gid=6, mtime=OLD + 3),
                    "fifo": FIFO,
                },
                mode=0o2770,
                uid=7,
                gid=8,
                mtime=OLD + 4,
                xattrs={
                    "user.d": b"2",
                    DEFAULT: acl("u::rwx,u:9:r--,g::r-x,m::r-x,o::---"),
                    ACCESS: acl("u::rwx,u:1000:rwx,g::rwx,m::rwx,o::---"),
                },
            )
        },
        mode=0o711,
        uid=9,
        gid=10,
        mtime=OLD + 5,
        xattrs={"trusted.d": b"3"},
    )
}


@pytest.mark.parametrize("name", ["file", "dir", "link", "fifo"])
def test_everything_is_kept_of_a_node_and_its_parents(both: Mounts[Mount], name: str) -> None:
    mount = both(FULL)
    before = snapshot(mount.path)
    path = f"one/two/{name}"
    os.setxattr(mount / path, "trusted.new", b"", follow_symlinks=False)
    os.removexattr(mount / path, "trusted.new", follow_symlinks=False)
    assert (mount.changes / path).lstat().st_atime_ns == OLD
    for when in three_times(mount):
        assert differences(before, snapshot(mount.path)) == [], when


def test_only_what_was_changed_is_copied(both: Mounts[Mount]) -> None:
    mount = both(FULL)
    (mount / "one" / "two" / "file").chmod(0o600)
    below = sorted(str(path.relative_to(mount.changes)) for path in mount.changes.rglob("*"))
    assert below == ["one", "one/two", "one/two/file"]


def test_the_topmost_of_equal_names_is_copied(both: Mounts[Mount]) -> None:
    mount = both({"d": {"f": "base"}}, {"d": {"f": "deps"}}, {"d": {"g": "app"}})
    with open(mount / "d" / "f", "a") as file:
        file.write("+")
    for when in three_times(mount):
        assert (mount / "d" / "f").read_text() == "deps+", when


@pytest.mark.parametrize("mode", [0o000, 0o444, 0o200])
def test_modes_are_no_obstacle(both: Mounts[Mount], mode: int) -> None:
    mount = both({"file": File("content", mode=mode), "d": Directory({"f": ""}, mode=0o000)})
    with open(mount / "file", "a") as file:
        file.write("+")
    (mount / "d" / "f").write_text("changed")
    for when in three_times(mount):
        assert (mount / "file").read_text() == "content+", when
        assert stat.S_IMODE((mount / "file").stat().st_mode) == mode, when
        assert stat.S_IMODE((mount / "d").stat().st_mode) == 0, when


def test_a_user_who_may_write_makes_a_copy_that_stays_the_owners(both: Mounts[Mount]) -> None:
    mount = both({"d": Directory({"f": File("content", mode=0o666, uid=5, gid=6)}, uid=7)})
    with linux.user(1000), open(mount / "d" / "f", "a") as file:
        file.write("+")
    for when in three_times(mount):
        status = (mount / "d" / "f").stat()
        assert (status.st_uid, status.st_gid, status.st_size) == (5, 6, 8), when
        assert (mount / "d").stat().st_uid == 7, when


def test_a_user_who_may_not_write_copies_nothing(both: Mounts[Mount]) -> None:
    mount = both({"d": {"f": "content"}})
    with linux.user(1000):
        for act in _CHANGES.values():
            with pytest.raises(PermissionError):
                act(mount / "d" / "f")
    assert os.listdir(mount.changes) == []


def test_a_layer_is_never_written(both: Mounts[Mount]) -> None:
    mount = both(FULL, {"other": {"file": "deps"}})
    before = [snapshot(layer) for layer in mount.layers]
    times = {path: path.lstat().st_ctime_ns for path in mount.layers[0].rglob("*")}
    two = mount / "one" / "two"
    with open(two / "file", "r+") as file:
        file.write("C")
    os.chown(two / "fifo", 5, 6)
    os.utime(two / "link", ns=(1, 1), follow_symlinks=False)
    os.setxattr(two / "dir", "user.x", b"")
    (two / "dir" / "in").unlink()
    (two / "dir").rmdir()
    os.link(two / "fifo", two / "linked")
    os.rename(mount / "one", mount / "new")
    os.rename(mount / "other" / "file", mount / "file")
    (mount / "other").rmdir()
    mount.remount()
    for layer, former in zip(mount.layers, before, strict=True):
        assert differences(snapshot(layer), former) == []
    assert {path: path.lstat().st_ctime_ns for path in times} == times


def _at_once(acts: Sequence[Callable[[], object]]) -> None:
    """Each in a thread of its own. Raises what the first of those that failed raised."""
    barrier = threading.Barrier(len(acts))

    def begin(act: Callable[[], object]) -> None:
        barrier.wait()
        act()

    with ThreadPoolExecutor(len(acts)) as threads:
        for done in [threads.submit(begin, act) for act in acts]:
            done.result()


def _write_at(path: Path, content: bytes, offset: int) -> None:
    with linux.opened(path, os.O_RDWR) as descriptor:
        os.pwrite(descriptor, content, offset)


def test_many_open_one_file_for_writing_at_once(both: Mounts[Mount]) -> None:
    content = random.Random(5).randbytes(4 << 20)
    mount = both({"file": content})
    _at_once([partial(_write_at, mount / "file", b"%d" % number, number) for number in range(8)])
    for when in three_times(mount):
        assert (mount / "file").read_bytes() == b"01234567" + content[8:], when


def test_many_large_files_are_copied_at_once(both: Mounts[Mount]) -> None:
    """More than the data plane copies at the same time, and what is small meanwhile."""
    content = random.Random(7).randbytes(2 << 20)
    large = {str(number): content for number in range(24)}
    mount = both({"d": {**large, "small": "small"}})
    writes = [partial(_write_at, mount / "d" / name, b"!", 1) for name in [*large, "small"]]
    _at_once([*writes, (mount / "d" / "small").stat])
    for when in three_times(mount):
        for name in large:
            assert (mount / "d" / name).read_bytes() == content[:1] + b"!" + content[2:], when
        assert (mount / "d" / "small").read_text() == "s!all", when


@pytest.mark.parametrize("end", ["renamed", "removed", "replaced"])
def test_a_large_file_loses_its_name_while_it_is_copied(
    union: Mounts[UnionMount], end: str
) -> None:
    """As with the kernel's, which may answer EEXIST, though, if the file is removed."""
    content = random.Random(8).randbytes(8 << 20)
    mount = union({"d": {"file": content, "other": "other"}})
    file = mount / "d" / "file"
    acts: dict[str, Callable[[], object]] = {
        "renamed": lambda: file.rename(mount / "d" / "new"),
        "removed": file.unlink,
        "replaced": lambda: (mount / "d" / "other").rename(file),
    }
    with linux.opened(file) as held:
        path = Path(f"/proc/self/fd/{held}")
        _at_once([partial(_write_at, path, b"!", 1), acts[end]])
        changed = content[:1] + b"!" + content[2:]
        assert os.pread(held, len(content), 0) == changed
    shown = {
        "renamed": {"new": changed, "other": b"other"},
        "removed": {"other": b"other"},
        "replaced": {"file": b"other"},
    }
    for when in three_times(mount):
        found = {path.name: path.read_bytes() for path in (mount / "d").iterdir()}
        assert found == shown[end], when


def test_many_change_different_names_in_one_directory_at_once(both: Mounts[Mount]) -> None:
    """All of them need the same parents in the upper."""
    mount = both({"a": {"b": {"c": {str(number): "content" for number in range(16)}}}})
    directory = mount / "a" / "b" / "c"
    _at_once([partial((directory / str(number)).write_text, "changed") for number in range(16)])
    for when in three_times(mount):
        assert [path.read_text() for path in directory.iterdir()] == ["changed"] * 16, when


def test_a_full_upper_leaves_the_file_as_it_was(
    both: Mounts[Mount], filesystems: FileSystems
) -> None:
    content = random.Random(6).randbytes(4 << 20)
    small = filesystems.tmpfs(options="size=1m")
    (small / "upper").mkdir()
    mount = both({"file": content, "d": {"b": "b"}}, upper=small / "upper", work=small / "work")
    for act in (_CHANGES["open"], lambda path: path.chmod(0o600)):
        with pytest.raises(OSError, match=r".") as caught:
            act(mount / "file")
        assert caught.value.errno == errno.ENOSPC
    assert (mount / "file").read_bytes() == content
    assert os.listdir(mount.changes) == []
    # What there is room for still works: nothing was left of the attempts.
    (mount / "d" / "b").write_text("b" * (512 << 10))
    for when in three_times(mount):
        assert (mount / "file").read_bytes() == content, when
        assert (mount / "d" / "b").stat().st_size == 512 << 10, when


@pytest.mark.parametrize("kind", ["xfs", "tmpfs"])
def test_copy_up_on_other_file_systems(
    both: Mounts[Mount], filesystems: FileSystems, kind: str
) -> None:
    """xfs shares data when layer and upper lie on it; tmpfs has the fewest features."""
    place = filesystems.tmpfs() if kind == "tmpfs" else filesystems.image(kind, 320)
    content = random.Random(7).randbytes(3 << 20)
    layer = place / "layer"
    layer.mkdir()
    (layer / "file").write_bytes(content)
    _holes(layer / "holes")
    os.link(layer / "file", layer / "linked")
    (layer / "d").mkdir()
    (layer / "d" / "deep").write_text("deep")
    (place / "upper").mkdir()
    mount = both(layer, upper=place / "upper", work=place / "work")
    with linux.opened(mount / "file", os.O_RDWR) as descriptor:
        os.pwrite(descriptor, b"!", 1 << 20)
    (mount / "holes").chmod(0o600)
    os.rename(mount / "d", mount / "e")
    (mount / "e" / "deep").unlink()
    expected = content[: 1 << 20] + b"!" + content[(1 << 20) + 1 :]
    for when in three_times(mount):
        assert (mount / "file").read_bytes() == expected, when
        assert (mount / "linked").read_bytes() == expected, when
        assert (mount / "holes").read_bytes() == (layer / "holes").read_bytes(), when
        assert os.listdir(mount / "e") == [], when
        assert not (mount / "d").exists(), when
    assert (mount.changes / "holes").stat().st_blocks * 512 <= 3 << 20
    assert (layer / "file").read_bytes() == content


def test_times_of_parents_stay_and_those_of_changed_ones_change(both: Mounts[Mount]) -> None:
    mount = both({"d": {"e": {"f": "", "g": ""}}})
    (mount / "d" / "e" / "f").chmod(0o600)
    for when in three_times(mount):
        shown = snapshot(mount.path)
        assert {name: entry.mtime for name, entry in shown.items() if name != "."} == dict.fromkeys(
            ["d", "d/e", "d/e/f", "d/e/g"], OLD
        ), when
    (mount / "d" / "e" / "g").unlink()
    for when in three_times(mount):
        shown = snapshot(mount.path)
        assert (shown["d"].mtime, shown["d/e"].mtime) == (OLD, NEW), when
