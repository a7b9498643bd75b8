"""Owner, mode, times and size, and what statfs says."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import linux
from tests.support.layers import FIFO, OLD, Directory, File, HardLink, Symlink, Tree, copies
from tests.support.mounts import Mount, Mounts, three_times

LAYER: Tree = {
    "file": File("content", mode=0o640, uid=1, gid=2),
    "dir": Directory({"inside": "a"}, mode=0o750, uid=1, gid=2),
    "link": Symlink("file"),
    "fifo": FIFO,
}
# ext4 keeps years up to 2446 and nanoseconds.
TIMES = [0, 1, 1_000_000_000, 981_173_106_123_456_789, 2**33 * 10**9 + 999_999_999]


def test_chmod(both: Mounts[Mount]) -> None:
    mount = both(LAYER)
    for name in ("file", "dir", "fifo"):
        for mode in (0o000, 0o777, 0o4711, 0o2755, 0o1777, 0o600):
            (mount / name).chmod(mode)
            assert stat.S_IMODE((mount / name).stat().st_mode) == mode, name
    for when in three_times(mount):
        for name in ("file", "dir", "fifo"):
            status = (mount / name).stat()
            assert stat.S_IMODE(status.st_mode) == 0o600, (name, when)
            assert status.st_mtime_ns == OLD, (name, when)


def test_chown(both: Mounts[Mount]) -> None:
    mount = both(LAYER)
    for name in LAYER:
        os.chown(mount / name, 1000, 2**32 - 2, follow_symlinks=False)
        os.chown(mount / name, -1, 70000, follow_symlinks=False)
        os.chown(mount / name, 2**31 + 5, -1, follow_symlinks=False)
    for when in three_times(mount):
        for name in LAYER:
            status = (mount / name).lstat()
            assert (status.st_uid, status.st_gid) == (2**31 + 5, 70000), (name, when)
            assert status.st_mtime_ns == OLD, (name, when)


def test_times_in_nanoseconds(both: Mounts[Mount]) -> None:
    mount = both(LAYER)
    for name in LAYER:
        for time in TIMES:
            os.utime(mount / name, ns=(time + 3, time), follow_symlinks=False)
            status = (mount / name).lstat()
            assert (status.st_atime_ns, status.st_mtime_ns) == (time + 3, time), name
    for when in three_times(mount):
        for name in LAYER:
            status = (mount / name).lstat()
            shown = (status.st_atime_ns, status.st_mtime_ns)
            assert shown == (TIMES[-1] + 3, TIMES[-1]), (name, when)


def test_times_before_1970(both: Mounts[Mount]) -> None:
    mount = both({"file": File("", mtime=-1_500_000_000)}, {"other": ""})
    os.utime(mount / "other", ns=(-7_000_000_001, -1))
    for when in three_times(mount):
        assert (mount / "file").stat().st_mtime_ns == -1_500_000_000, when
        status = (mount / "other").stat()
        assert (status.st_atime_ns, status.st_mtime_ns) == (-7_000_000_001, -1), when


def test_one_time_is_set_and_the_other_kept(both: Mounts[Mount]) -> None:
    mount = both(LAYER)
    linux.utimensat(mount / "file", (0, linux.UTIME_OMIT), (5, 6))
    linux.utimensat(mount / "dir", (7, 8), (0, linux.UTIME_OMIT))
    linux.utimensat(mount / "fifo", (0, linux.UTIME_OMIT), (0, linux.UTIME_NOW))
    for when in three_times(mount):
        assert (mount / "file").stat().st_mtime_ns == 5_000_000_006, when
        assert (mount / "file").stat().st_atime_ns == OLD, when
        assert (mount / "dir").stat().st_mtime_ns == OLD, when
        assert (mount / "dir").stat().st_atime_ns == 7_000_000_008, when
        assert (mount / "fifo").stat().st_atime_ns == OLD, when
        assert (mount / "fifo").stat().st_mtime_ns > OLD, when


def test_truncate(both: Mounts[Mount]) -> None:
    sizes = [0, 3, 7, 5000, 3_000_000_000]
    mount = both({str(size): "content" for size in sizes})
    for size in sizes:
        os.truncate(mount / str(size), size)
    for when in three_times(mount):
        for size in sizes:
            status = (mount / str(size)).stat()
            assert status.st_size == size, when
            assert status.st_mtime_ns > OLD, (size, when)
            with open(mount / str(size), "rb") as file:
                assert file.read(20) == b"content".ljust(20, b"\0")[:size], (size, when)
    assert (mount.layers[0] / "0").read_text() == "content"


def test_truncate_of_a_directory_or_fifo(both: Mounts[Mount]) -> None:
    mount = both(LAYER)
    with pytest.raises(IsADirectoryError):
        os.truncate(mount / "dir", 0)
    with pytest.raises(OSError, match="Invalid argument"):
        os.truncate(mount / "fifo", 0)


_THROUGH_DESCRIPTOR: dict[str, tuple[Callable[[int], None], Callable[[os.stat_result], bool]]] = {
    "fchmod": (lambda fd: os.fchmod(fd, 0o604), lambda s: stat.S_IMODE(s.st_mode) == 0o604),
    "fchown": (lambda fd: os.fchown(fd, 50, 60), lambda s: (s.st_uid, s.st_gid) == (50, 60)),
    "futimens": (lambda fd: os.utime(fd, ns=(7, 9)), lambda s: s.st_mtime_ns == 9),
}


@pytest.mark.parametrize("renamed", [False, True])
def test_changes_through_a_descriptor_opened_before_the_copy_up(
    both: Mounts[Mount], renamed: bool
) -> None:
    mount = both(copies(LAYER, _THROUGH_DESCRIPTOR))
    for change, (act, holds) in _THROUGH_DESCRIPTOR.items():
        for name in ("file", "dir"):
            path = mount / change / name
            with linux.opened(path) as descriptor:
                if renamed:
                    path.rename(mount / f"{change} {name}")
                act(descriptor)
                assert holds(os.fstat(descriptor)), (change, name)
    for when in three_times(mount):
        for change, (_, holds) in _THROUGH_DESCRIPTOR.items():
            for name in ("file", "dir"):
                path = mount / (f"{change} {name}" if renamed else f"{change}/{name}")
                assert holds(path.stat()), (change, name, when)


@pytest.mark.kernel_differs("EEXIST from the copy-up of a file without a name")
def test_changes_through_a_descriptor_of_a_removed_file(both: Mounts[Mount]) -> None:
    mount = both(copies(LAYER, _THROUGH_DESCRIPTOR))
    for change, (act, holds) in _THROUGH_DESCRIPTOR.items():
        with linux.opened(mount / change / "file") as descriptor:
            (mount / change / "file").unlink()
            act(descriptor)
            assert holds(os.fstat(descriptor)), change
            assert os.pread(descriptor, 20, 0) == b"content", change
    for when in three_times(mount):
        assert not list(mount.path.glob("*/file")), when


def test_changes_through_a_descriptor_of_a_removed_directory(both: Mounts[Mount]) -> None:
    mount = both(copies(LAYER, _THROUGH_DESCRIPTOR))
    for change, (act, holds) in _THROUGH_DESCRIPTOR.items():
        with linux.opened(mount / change / "dir") as descriptor:
            (mount / change / "dir" / "inside").unlink()
            (mount / change / "dir").rmdir()
            act(descriptor)
            assert holds(os.fstat(descriptor)), change
    for when in three_times(mount):
        assert not list(mount.path.glob("*/dir")), when


def test_ftruncate(both: Mounts[Mount]) -> None:
    mount = both(LAYER)
    with linux.opened(mount / "file", os.O_RDWR) as descriptor:
        os.ftruncate(descriptor, 3)
        assert os.pread(descriptor, 10, 0) == b"con"
        os.ftruncate(descriptor, 5)
        assert os.pread(descriptor, 10, 0) == b"con\0\0"
    for when in three_times(mount):
        assert (mount / "file").read_bytes() == b"con\0\0", when
    with linux.opened(mount / "file") as descriptor, pytest.raises(OSError, match="Invalid"):
        os.ftruncate(descriptor, 0)


def test_a_write_changes_size_and_times(both: Mounts[Mount]) -> None:
    mount = both(LAYER)
    before = (mount / "file").stat()
    with open(mount / "file", "ab") as file:
        file.write(b" and more")
    for when in three_times(mount):
        status = (mount / "file").stat()
        assert status.st_size == 16, when
        assert status.st_mtime_ns > OLD, when
        assert status.st_ctime_ns > before.st_ctime_ns, when
        assert status.st_blocks > 0, when


def test_a_change_of_attributes_changes_ctime(both: Mounts[Mount]) -> None:
    mount = both(LAYER)
    for name in ("file", "dir"):
        before = (mount / name).stat().st_ctime_ns
        (mount / name).chmod(0o700)
        for when in three_times(mount):
            assert (mount / name).stat().st_ctime_ns > before, when


_ENTRY_CHANGES: dict[str, Callable[[Path], object]] = {
    "create": lambda directory: (directory / "new").touch(),
    "unlink": lambda directory: (directory / "a").unlink(),
    "mkdir": lambda directory: (directory / "new").mkdir(),
    "rename": lambda directory: os.rename(directory / "a", directory / "new"),
    "link": lambda directory: os.link(directory / "a", directory / "new"),
    "symlink": lambda directory: (directory / "new").symlink_to("a"),
}


def test_a_change_of_entries_changes_the_times_of_the_directory(both: Mounts[Mount]) -> None:
    mount = both(copies({"a": "", "b": HardLink("a")}, _ENTRY_CHANGES))
    before = {change: (mount / change).stat() for change in _ENTRY_CHANGES}
    assert {status.st_mtime_ns for status in before.values()} == {OLD}
    for change, act in _ENTRY_CHANGES.items():
        act(mount / change)
    for when in three_times(mount):
        for change in _ENTRY_CHANGES:
            after = (mount / change).stat()
            assert after.st_mtime_ns > OLD, (change, when)
            assert after.st_ctime_ns > before[change].st_ctime_ns, (change, when)


def test_an_owner_may_change_the_group_to_one_of_theirs(both: Mounts[Mount]) -> None:
    mount = both({"file": File(uid=1000, gid=1000), "dir": Directory(uid=1000, gid=1000)})
    for name in ("file", "dir"):
        with linux.user(1000, groups=(2000, 3000)):
            os.chown(mount / name, -1, 2000)
            os.chown(mount / name, 1000, 3000)
            with pytest.raises(PermissionError):
                os.chown(mount / name, -1, 4000)
            with pytest.raises(PermissionError):
                os.chown(mount / name, 1001, -1)
        for when in three_times(mount):
            assert (mount / name).stat().st_gid == 3000, when


def test_only_the_owner_may_change_attributes(both: Mounts[Mount]) -> None:
    mount = both({"file": File(mode=0o666, uid=1000, gid=1000)})
    file = mount / "file"
    with linux.user(1001, groups=(1000,)):
        with pytest.raises(PermissionError):
            file.chmod(0o600)
        with pytest.raises(PermissionError):
            os.chown(file, -1, 1000)
        with pytest.raises(PermissionError):
            os.utime(file, ns=(1, 1))
        os.utime(file)
        os.truncate(file, 10)
    with linux.user(1000, groups=(1000,)):
        file.chmod(0o640)
        os.utime(file, ns=(1, 1))
    for when in three_times(mount):
        status = file.stat()
        assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (0o640, 1), when


def test_set_user_id_is_cleared_by_chown(both: Mounts[Mount]) -> None:
    mount = both({"file": File(mode=0o6755, uid=1000, gid=1000)})
    with linux.user(1000, groups=(2000,)):
        os.chown(mount / "file", -1, 2000)
    for when in three_times(mount):
        assert stat.S_IMODE((mount / "file").stat().st_mode) == 0o755, when


def test_set_group_id_is_not_given_outside_of_the_group(both: Mounts[Mount]) -> None:
    mount = both({"file": File(uid=1000, gid=5000)})
    with linux.user(1000):
        (mount / "file").chmod(0o2755)
    for when in three_times(mount):
        assert stat.S_IMODE((mount / "file").stat().st_mode) == 0o755, when


def test_statfs(both: Mounts[Mount]) -> None:
    mount = both(LAYER)
    below = os.statvfs(mount.changes)
    for when in three_times(mount):
        for path in (mount.path, mount / "file", mount / "dir"):
            shown = os.statvfs(path)
            assert shown.f_namemax == 255, when
            assert (shown.f_frsize, shown.f_blocks) == (below.f_frsize, below.f_blocks), when
            assert shown.f_files == below.f_files, when
            assert shown.f_bavail > 0, when


@pytest.mark.parametrize("name", ["n" * 256, "ü" * 128, "n" * 4000])
def test_names_that_are_too_long(both: Mounts[Mount], name: str) -> None:
    mount = both(LAYER)
    path = mount / "dir" / name
    refused: list[Callable[[], object]] = [
        path.lstat,
        path.touch,
        path.mkdir,
        path.unlink,
        path.rmdir,
        lambda: path.symlink_to("file"),
        lambda: os.link(mount / "file", path),
        lambda: os.rename(mount / "file", path),
        lambda: os.rename(path, mount / "new"),
        lambda: os.mkfifo(path),
    ]
    for act in refused:
        with pytest.raises(OSError, match=r".") as caught:
            act()
        assert caught.value.errno == errno.ENAMETOOLONG


def test_reading_leaves_the_access_times_of_layers(both: Mounts[Mount]) -> None:
    """They are older than a day, so a plain read would renew them."""
    mount = both(LAYER)
    (mount / "file").read_bytes()
    os.listdir(mount / "dir")
    os.readlink(mount / "link")
    Path(mount / "dir" / "inside").read_bytes()
    mount.unmount()
    for name in ("file", "link", "dir/inside", "dir"):
        assert (mount.layers[0] / name).lstat().st_atime_ns == OLD, name


def test_a_truncation_to_the_same_size_sets_the_time(both: Mounts[Mount]) -> None:
    mount = both({"file": File("content")})
    for name, truncate in (("truncate", os.truncate), ("ftruncate", _ftruncate)):
        os.utime(mount / "file", ns=(OLD, OLD))
        truncate(mount / "file", len("content"))
        assert (mount / "file").stat().st_mtime_ns > OLD, name


def _ftruncate(path: Path, size: int) -> None:
    with linux.opened(path, os.O_WRONLY) as descriptor:
        os.ftruncate(descriptor, size)
