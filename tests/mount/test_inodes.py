"""Inode numbers: one for each file, the same over copy-up, rename and remount."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import linux
from tests.support.filesystems import FileSystems
from tests.support.layers import FIFO, HardLink, Symlink, Tree, copies
from tests.support.mounts import KernelMount, Mount, Mounts, UnionMount, three_times

LAYER: Tree = {
    "file": "content",
    "dir": {"inside": "a", "below": {}},
    "link": Symlink("file"),
    "fifo": FIFO,
    "a": "linked",
    "b": HardLink("a"),
}
TOP: Tree = {"dir": {"top": "b"}}

LAYER_COPIES = [f"in {name}" for name in LAYER]
_CHANGES: dict[str, Callable[[Path], object]] = {
    "chown": lambda path: os.chown(path, 5, 6, follow_symlinks=False),
    "utime": lambda path: os.utime(path, ns=(1, 1), follow_symlinks=False),
    "rename": lambda path: path.rename(path.with_name("new")).rename(path),
    "write": lambda path: path.joinpath("new").touch() if path.is_dir() else path.write_text("x"),
}


def _numbers(root: Path) -> dict[str, int]:
    return {str(path.relative_to(root)): path.lstat().st_ino for path in root.rglob("*")}


@pytest.mark.parametrize("change", _CHANGES)
def test_numbers_stay_over_copy_up(both: Mounts[Mount], change: str) -> None:
    mount = both(copies(LAYER, LAYER_COPIES), copies(TOP, LAYER_COPIES))
    before = _numbers(mount.path)
    for name in LAYER:
        writable = name not in ("fifo", "link")
        act = _CHANGES[change if change != "write" or writable else "utime"]
        act(mount / f"in {name}" / name)
    for when in three_times(mount):
        after = _numbers(mount.path)
        assert before.items() <= after.items(), when


def test_numbers_stay_over_a_remount(both: Mounts[Mount]) -> None:
    mount = both(LAYER, TOP, upper={"upper": "", "d": {"upper": ""}})
    (mount / "made").touch()
    (mount / "dir" / "made").mkdir()
    os.rename(mount / "upper", mount / "renamed")
    os.rename(mount / "file", mount / "dir" / "file")
    os.rename(mount / "dir", mount / "moved")
    before = _numbers(mount.path)
    for when in three_times(mount):
        assert _numbers(mount.path) == before, when
    mount.remount()
    # In another order.
    assert {name: (mount / name).lstat().st_ino for name in reversed(before)} == before


def test_numbers_are_unique(both: Mounts[Mount]) -> None:
    mount = both(LAYER, TOP)
    (mount / "file").chmod(0o600)
    (mount / "new").touch()
    (mount / "dir" / "new").mkdir()
    for when in three_times(mount):
        numbers = _numbers(mount.path)
        assert numbers["a"] == numbers["b"], when
        del numbers["b"]
        numbers["."] = mount.path.stat().st_ino
        assert len(set(numbers.values())) == len(numbers), when
        assert 0 not in numbers.values(), when


def test_listings_have_the_numbers_of_stat(both: Mounts[Mount]) -> None:
    mount = both(LAYER, TOP, upper={"upper": "", "dir": {"upper": ""}})
    (mount / "file").chmod(0o600)
    (mount / "made").touch()
    (mount / "dir" / "inside").write_text("copied up")
    os.rename(mount / "dir" / "below", mount / "below")
    for when in three_times(mount):
        for directory, _, _ in os.walk(mount.path):
            for entry in linux.list_directory(Path(directory)):
                # Above the mount is another file system.
                if entry.name == b".." and directory == str(mount.path):
                    continue
                status = os.lstat(os.path.join(os.fsencode(directory), entry.name))
                assert entry.ino == status.st_ino, (directory, entry.name, when)


def test_a_new_file_at_an_old_name_has_another_number(both: Mounts[Mount]) -> None:
    mount = both(LAYER)
    for name, make in (("file", Path.touch), ("dir", Path.mkdir)):
        path = mount / name
        before = path.stat().st_ino
        with linux.opened(path) as descriptor:
            path.rename(mount / f"old {name}")
            make(path)
            assert path.stat().st_ino != before
            assert os.fstat(descriptor).st_ino == before
        for when in three_times(mount):
            assert (mount / f"old {name}").stat().st_ino == before, when
            assert path.stat().st_ino != before, when


def test_an_exchange_takes_numbers_along(both: Mounts[Mount]) -> None:
    mount = both(LAYER)
    before = _numbers(mount.path)
    linux.renameat2(mount / "file", mount / "dir", linux.RENAME_EXCHANGE)
    for when in three_times(mount):
        after = _numbers(mount.path)
        assert (after["file"], after["dir"]) == (before["dir"], before["file"]), when
        assert after["file/inside"] == before["dir/inside"], when


def test_a_mount_is_one_device(union: Mounts[UnionMount], filesystems: FileSystems) -> None:
    layers = [filesystems.tmpfs(), filesystems.image("ext4", 8)]
    for number, layer in enumerate(layers):
        (layer / f"d{number}").mkdir()
        (layer / f"d{number}" / "file").touch()
        (layer / "shared").mkdir()
        (layer / "shared" / str(number)).touch()
    mount = union(*layers)
    (mount / "d0" / "file").write_text("copied up")
    (mount / "new").touch()
    device = mount.path.stat().st_dev
    before = _numbers(mount.path)
    for when in three_times(mount):
        assert _numbers(mount.path) == before, when
        assert len(set(before.values())) == len(before), when
        devices = {path.lstat().st_dev for path in (mount.path, *mount.path.rglob("*"))}
        assert len(devices) == 1, when
    assert device != os.stat(mount.layers[0]).st_dev


def test_a_descriptor_and_its_name_agree(both: Mounts[Mount]) -> None:
    """As programs check that nobody exchanged a file between stat and open."""
    mount = both(LAYER)
    for name in ("file", "dir", "a", "b"):
        before = (mount / name).stat()
        with linux.opened(mount / name) as descriptor:
            (mount / name).chmod(0o700)
            mount.drop_caches()
            by_descriptor, by_name = os.fstat(descriptor), (mount / name).stat()
        assert os.path.samestat(by_descriptor, by_name)
        assert by_name.st_ino == before.st_ino
        assert stat.S_IMODE(by_descriptor.st_mode) == 0o700


def test_the_kernel_lists_the_numbers_of_what_came_into_new_directories(
    both: Mounts[Mount], kernel: Mounts[KernelMount]
) -> None:
    mount = both({**LAYER, "l1": "x", "l2": HardLink("l1"), "e1": "e"}, TOP)
    for name in ("file", "dir", "link", "l1", "e1"):
        (mount / f"to {name}").mkdir()
    (mount / "to e1" / "other").touch()
    for name in ("file", "dir", "link"):
        os.rename(mount / name, mount / f"to {name}" / name)
    os.link(mount / "l1", mount / "to l1" / "l1")
    linux.renameat2(mount / "to e1" / "other", mount / "e1", linux.RENAME_EXCHANGE)
    mount.unmount()
    oracle = kernel(*mount.layers, upper=mount.changes, work=mount.work)
    for directory in [oracle.path, *oracle.path.rglob("*/")]:
        for entry in linux.list_directory(directory):
            if entry.name not in (b".", b".."):
                assert entry.ino == (directory / os.fsdecode(entry.name)).lstat().st_ino, entry
