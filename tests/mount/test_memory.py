"""What the daemon holds: as much as is in use, and no more for having run long."""

import contextlib
import mmap
import os
from contextlib import closing
from pathlib import Path

from tests.support import linux
from tests.support.layers import Item, Tree
from tests.support.maps import Map
from tests.support.mounts import COMMAND, Mounts, UnionMount

MAPS = 10_000


def _many_files(directories: int, files: int) -> Tree:
    below: Item = {f"file{number}": "content" for number in range(files)}
    return {f"d{number}": below for number in range(directories)}


def _resident(pid: int) -> int:
    """Bytes of a process in memory."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * mmap.PAGESIZE


def _descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def _walk(directory: Path) -> None:
    for path in directory.rglob("*"):
        path.lstat()


def test_memory_does_not_grow_with_what_was_forgotten(union: Mounts[UnionMount]) -> None:
    mount = union(_many_files(10, 1000))
    mount.wait_for_python()
    sizes = []
    for number in range(10):
        _walk(mount / f"d{number}")
        mount.forget()
        sizes.append(_resident(mount.pid))
    assert sizes[-1] - sizes[2] < 2 << 20, sizes


def test_memory_does_not_grow_with_what_was_removed(union: Mounts[UnionMount]) -> None:
    mount = union({"d": {}})
    mount.wait_for_python()
    sizes = []
    for _ in range(8):
        for number in range(400):
            (mount / "d" / str(number)).write_text("content")
        for number in range(400):
            (mount / "d" / str(number)).unlink()
        os.statvfs(mount.path)
        sizes.append(_resident(mount.pid))
    assert sizes[-1] - sizes[2] < 1 << 20, sizes


def test_descriptors_are_given_back(union: Mounts[UnionMount]) -> None:
    mount = union(_many_files(2, 100))
    mount.wait_for_python()
    _walk(mount.path)
    mount.forget()
    before = _descriptors(mount.pid)
    for _ in range(2):
        for path in mount.path.glob("d*/*"):
            path.read_bytes()
            path.chmod(0o600)
            path.write_text("changed")
    os.rename(mount / "d0", mount / "moved")
    mount.forget()
    assert _descriptors(mount.pid) <= before + 10


def test_directories_of_many_layers_take_few_descriptors(union: Mounts[UnionMount]) -> None:
    """What stays open of 100 directories in each of 40 layers, with a limit of 1024."""
    count = 100
    layers = [
        {f"d{number}": {f"file{layer}": ""} for number in range(count)} for layer in range(40)
    ]
    mount = union(*layers, command=["prlimit", "--nofile=1024:1024", *COMMAND])
    for number in range(count):
        assert not (mount / f"d{number}/absent").exists()
    for number in range(count):
        assert len(os.listdir(mount / f"d{number}")) == len(layers)
    assert _descriptors(mount.pid) < 512


def test_10000_mapped_files_with_closed_descriptors(union: Mounts[UnionMount]) -> None:
    """Each map keeps its file open in the daemon, whose limit a shell has set to 1024."""
    command = ["prlimit", "--nofile=1024:", *COMMAND]
    mount = union(_many_files(10, MAPS // 10), command=command)
    with contextlib.ExitStack() as stack:
        views = []
        for path in mount.path.glob("d*/*"):
            with linux.opened(path) as descriptor:
                views.append(stack.enter_context(closing(Map(descriptor, len("content")))))
        assert len(views) == MAPS
        mount.drop_caches(pages=False)
        assert all(view.read(0, view.size) == b"content" for view in views)
        (mount / "new").write_text("still works")


def test_one_file_mapped_10000_times(union: Mounts[UnionMount]) -> None:
    mount = union({"file": "content"})
    before = _descriptors(mount.pid)
    with contextlib.ExitStack() as stack:
        with linux.opened(mount / "file") as descriptor:
            for _ in range(MAPS):
                stack.enter_context(closing(Map(descriptor, len("content"))))
        assert _descriptors(mount.pid) <= before + 10
