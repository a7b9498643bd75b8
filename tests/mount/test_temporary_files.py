"""O_TMPFILE: files without a name, which may get one later."""

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import linux
from tests.support.acls import ACCESS, DEFAULT, acl
from tests.support.filesystems import FileSystems
from tests.support.layers import OLD, WHITEOUT, Directory, Symlink, Tree, build
from tests.support.maps import Map
from tests.support.mounts import Mount, Mounts, UnionMount, three_times
from tests.support.snapshots import tree

pytestmark = pytest.mark.needs_native

LAYER: Tree = {"file": "content", "dir": {"in": "in"}, "link": Symlink("dir")}
PLACES = ["lower", "upper", "copied"]


def _mounted(mounts: Mounts[Mount], place: str) -> Mount:
    """A mount with "dir" in a lower layer, in the upper, or copied up."""
    if place == "upper":
        return mounts({}, upper=LAYER)
    mount = mounts(LAYER)
    if place == "copied":
        os.setxattr(mount / "dir", "user.copied", b"up")
    return mount


def _temporary(directory: Path, flags: int = os.O_RDWR, mode: int = 0o644) -> int:
    return os.open(directory, os.O_TMPFILE | flags, mode)


def _give_name(descriptor: int, path: Path) -> None:
    """As open(2) says it is done without privileges."""
    linux.linkat(b"/proc/self/fd/%d" % descriptor, path, linux.AT_SYMLINK_FOLLOW)


def _give_name_by_descriptor(descriptor: int, path: Path) -> None:
    linux.linkat(b"", path, linux.AT_EMPTY_PATH, descriptor)


@pytest.fixture(params=[_give_name, _give_name_by_descriptor])
def give_name(request: pytest.FixtureRequest) -> Callable[[int, Path], None]:
    give: Callable[[int, Path], None] = request.param
    return give


@pytest.mark.parametrize("place", PLACES)
def test_a_file_without_a_name(both: Mounts[Mount], place: str) -> None:
    mount = _mounted(both, place)
    before = tree(mount.path)
    descriptor = _temporary(mount / "dir", mode=0o640)
    status = os.fstat(descriptor)
    assert (status.st_nlink, status.st_size, status.st_mode) == (0, 0, stat.S_IFREG | 0o640)
    assert os.write(descriptor, b"written") == 7
    os.ftruncate(descriptor, 5)
    assert os.pread(descriptor, 10, 0) == b"writt"
    os.fchmod(descriptor, 0o600)
    os.setxattr(descriptor, "user.x", b"1")
    os.fsync(descriptor)
    view = Map(descriptor, 5, writable=True)
    view.write(0, b"WR")
    view.sync()
    view.close()
    mount.drop_caches()
    assert os.pread(descriptor, 10, 0) == b"WRitt"
    assert os.fstat(descriptor).st_ino == status.st_ino
    assert tree(mount.path) == before
    os.close(descriptor)
    for when in three_times(mount):
        assert tree(mount.path) == before, when
    assert [name for name in os.listdir(mount.changes) if name not in LAYER] == []


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("target", ["dir/new", "new"])
def test_giving_it_a_name(
    both: Mounts[Mount], place: str, target: str, give_name: Callable[[int, Path], None]
) -> None:
    mount = _mounted(both, place)
    expected = tree(mount.path)
    with linux.opened(mount / "dir", os.O_TMPFILE | os.O_RDWR, 0o604) as descriptor:
        os.write(descriptor, b"before ")
        os.setxattr(descriptor, "user.x", b"1")
        number = os.fstat(descriptor).st_ino
        give_name(descriptor, mount / target)
        os.write(descriptor, b"after")
        assert (mount / target).read_text() == "before after"
        assert os.fstat(descriptor).st_nlink == (mount / target).stat().st_nlink == 1
        assert (mount / target).stat().st_ino == number
        # With a name it can get more of them.
        os.link(mount / target, mount / "more")
        assert os.fstat(descriptor).st_nlink == 2
    expected["more"] = "before after"
    (expected["dir"] if target == "dir/new" else expected)["new"] = "before after"
    for when in three_times(mount):
        assert tree(mount.path) == expected, when
        assert (mount / target).stat().st_ino == (mount / "more").stat().st_ino, when
        assert (mount / target).stat().st_mode & 0o7777 == 0o604, when
        assert os.getxattr(mount / "more", "user.x") == b"1", when
    assert (mount.changes / target).read_text() == "before after"


def test_names_that_are_taken_or_were(
    both: Mounts[Mount], give_name: Callable[[int, Path], None]
) -> None:
    mount = both({"lower": "", "removed": "old", "white": "old"}, {"white": WHITEOUT})
    (mount / "removed").unlink()
    with linux.opened(mount.path, os.O_TMPFILE | os.O_RDWR) as descriptor:
        os.write(descriptor, b"new")
        with pytest.raises(FileExistsError):
            give_name(descriptor, mount / "lower")
        with pytest.raises(FileNotFoundError):
            give_name(descriptor, mount / "none" / "new")
        give_name(descriptor, mount / "removed")
        give_name(descriptor, mount / "white")
    for when in three_times(mount):
        assert tree(mount.path) == {"lower": "", "removed": "new", "white": "new"}, when
        assert (mount / "removed").stat().st_nlink == 2, when


def test_one_that_is_never_to_have_a_name(
    both: Mounts[Mount], give_name: Callable[[int, Path], None]
) -> None:
    mount = both(LAYER)
    with linux.opened(mount.path, os.O_TMPFILE | os.O_RDWR | os.O_EXCL) as descriptor:
        os.write(descriptor, b"content")
        with pytest.raises(FileNotFoundError):
            give_name(descriptor, mount / "new")
    assert os.listdir(mount.changes) == []


def test_one_that_had_a_name_cannot_get_another(
    both: Mounts[Mount], give_name: Callable[[int, Path], None]
) -> None:
    mount = both(LAYER)
    with linux.opened(mount.path, os.O_TMPFILE | os.O_RDWR) as descriptor:
        give_name(descriptor, mount / "new")
        (mount / "new").unlink()
        assert os.fstat(descriptor).st_nlink == 0
        with pytest.raises(FileNotFoundError):
            give_name(descriptor, mount / "again")
        os.write(descriptor, b"on")
        assert os.pread(descriptor, 10, 0) == b"on"
    for when in three_times(mount):
        assert set(os.listdir(mount.path)) == set(LAYER), when


def test_many_at_once_are_as_many_files(both: Mounts[Mount]) -> None:
    mount = both(LAYER)
    descriptors = [_temporary(mount / "dir") for _ in range(20)]
    for number, descriptor in enumerate(descriptors):
        os.write(descriptor, b"%d" % number)
    assert len({os.fstat(descriptor).st_ino for descriptor in descriptors}) == 20
    for number, descriptor in enumerate(descriptors[::2]):
        _give_name(descriptor, mount / "dir" / f"{number}")
    for descriptor in descriptors:
        os.close(descriptor)
    expected = {"in": "in"} | {f"{number}": f"{2 * number}" for number in range(10)}
    for when in three_times(mount):
        assert tree(mount / "dir") == expected, when


# Whose it is


@pytest.mark.parametrize("place", PLACES)
def test_owner_group_and_mode(both: Mounts[Mount], place: str) -> None:
    layer: Tree = {
        "plain": Directory({}, mode=0o777),
        "setgid": Directory({}, mode=0o2777, gid=2000),
        "acl": Directory(
            {}, mode=0o777, xattrs={DEFAULT: acl("u::rwx,u:7:rwx,g::r-x,m::rwx,o::---")}
        ),
    }
    mount = both({}, upper=layer) if place == "upper" else both(layer)
    made = {}
    with linux.user(1000), linux.umask(0o027):
        for name in layer:
            with linux.opened(mount / name, os.O_TMPFILE | os.O_RDWR, 0o666) as descriptor:
                _give_name(descriptor, mount / name / "new")
                made[name] = os.fstat(descriptor)
    shown = {
        name: (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))
        for name, status in made.items()
    }
    assert shown == {
        "plain": (1000, 1000, 0o640),
        "setgid": (1000, 2000, 0o640),
        "acl": (1000, 1000, 0o660),
    }
    for when in three_times(mount):
        for name in layer:
            status = (mount / name / "new").stat()
            found = (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))
            assert found == shown[name], (name, when)
        inherited = os.getxattr(mount / "acl" / "new", ACCESS)
        assert inherited == acl("u::rw-,u:7:rwx,g::r-x,m::rw-,o::---"), when


def test_who_may_not_write_there(both: Mounts[Mount]) -> None:
    mount = both(LAYER)
    with linux.user(1000), pytest.raises(PermissionError):
        _temporary(mount / "dir")
    assert os.listdir(mount.changes) == []


# What is refused


def test_where_there_can_be_none(both: Mounts[Mount]) -> None:
    mount, read_only = both(LAYER), both(LAYER, upper=False)
    for path, flags, code in [
        (mount / "file", os.O_RDWR, errno.ENOTDIR),
        (mount / "none", os.O_RDWR, errno.ENOENT),
        (mount / "dir", os.O_RDONLY, errno.EINVAL),
        (read_only / "dir", os.O_RDWR, errno.EROFS),
    ]:
        with pytest.raises(OSError, match=os.strerror(code)):
            _temporary(path, flags)
    with linux.opened(mount / "link", os.O_TMPFILE | os.O_RDWR) as descriptor:
        assert os.fstat(descriptor).st_nlink == 0


@pytest.mark.kernel_differs("has other errors for it")
@pytest.mark.parametrize("place", ["lower", "upper"])
def test_in_a_removed_directory(both: Mounts[Mount], place: str) -> None:
    mount = both({}, upper={"empty": {}}) if place == "upper" else both({"empty": {}})
    with linux.opened(mount / "empty") as directory:
        (mount / "empty").rmdir()
        with pytest.raises(FileNotFoundError):
            os.open(".", os.O_TMPFILE | os.O_RDWR, dir_fd=directory)


def test_its_directory_may_go(both: Mounts[Mount]) -> None:
    mount = both({"dir": {}})
    with linux.opened(mount / "dir", os.O_TMPFILE | os.O_RDWR) as descriptor:
        (mount / "dir").rmdir()
        os.write(descriptor, b"content")
        _give_name(descriptor, mount / "new")
    for when in three_times(mount):
        assert tree(mount.path) == {"new": "content"}, when


def test_names_in_another_mount(both: Mounts[Mount]) -> None:
    mount, other = both(LAYER), both(LAYER)
    with (
        linux.opened(mount.path, os.O_TMPFILE | os.O_RDWR) as descriptor,
        pytest.raises(OSError, match=os.strerror(errno.EXDEV)),
    ):
        _give_name(descriptor, other / "new")


@pytest.mark.parametrize("kind", ["ext4", "xfs", "tmpfs"])
def test_on_other_file_systems(both: Mounts[Mount], filesystems: FileSystems, kind: str) -> None:
    disk = filesystems.tmpfs() if kind == "tmpfs" else filesystems.image(kind, 300)
    mount = both(LAYER, upper=build(disk / "upper", {}), work=disk / "work")
    with linux.opened(mount / "dir", os.O_TMPFILE | os.O_RDWR) as descriptor:
        os.write(descriptor, b"new")
        _give_name(descriptor, mount / "dir" / "new")
    for when in three_times(mount):
        assert tree(mount / "dir") == {"in": "in", "new": "new"}, when
        assert (mount / "dir" / "in").stat().st_mtime_ns == OLD, when


def test_a_killed_daemon_leaves_none(union: Mounts[UnionMount]) -> None:
    mount = union(LAYER)
    descriptor = _temporary(mount / "dir")
    os.write(descriptor, b"content")
    mount.kill()
    with contextlib.suppress(OSError):  # nobody is there any more to be told
        os.close(descriptor)
    mount.mount()
    below = [path for path in mount.work.rglob("*") if not path.is_dir()]
    assert [path for path in below if path.stat().st_size] == []
    assert [path for path in mount.changes.rglob("*") if not path.is_dir()] == []
