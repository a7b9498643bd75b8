"""How many system calls of the daemon an operation costs, on ext4; see docs/performance.md.

Left out are those that take and answer requests, wait, wake, get memory or close.
"""

import errno
import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import driver, linux, tars
from tests.support.filesystems import FileSystems
from tests.support.mounts import COMMAND, Mounts, UnionMount
from tests.support.stores import StoreBuilder
from tests.unit.errors import raises

_LEFT_OUT = frozenset(
    (
        *("close", "epoll_create1", "epoll_ctl", "epoll_wait", "fcntl", "mmap", "poll"),
        *("read", "write", "writev"),
    )
)
# FUSE_DEV_IOC_BACKING_CLOSE closes, too: with RELEASE, which nobody waits for.
_CALL = re.compile(r"^(\d+) +(\w+)\((?!\d+, _IOC\(_IOC_WRITE, 0xe5, 0x2,)", re.MULTILINE)
_STRACE = ("strace", "-f", "-qq", "-e", "trace=%file,%desc", "-o")
_BETWEEN = "fstatfs"  # each comes before an operation, and after it


def _write(path: Path, flags: int) -> None:
    with linux.opened(path, os.O_WRONLY | flags) as descriptor:
        os.write(descriptor, b"new")


_Operations = dict[str, tuple[Callable[[Path], object], int, int]]

# In a directory that the upper has, of names that were looked at; with pyfuse3, and the plane.
_COSTS: _Operations = {
    "stat": (lambda root: (root / "d/stat").stat(), 0, 0),
    "first look at a name": (lambda root: (root / "e/file").stat(), 6, 6),
    "first look at a file of holes": (lambda root: (root / "e/holes").stat(), 3, 3),
    "second look at the same directory": (lambda root: (root / "e/other").stat(), 2, 2),
    "listing": (lambda root: os.listdir(root / "d"), 4, 1),
    "the same again": (lambda root: os.listdir(root / "d"), 4, 0),
    "reading": (lambda root: (root / "alone/read").read_bytes(), 4, 4),  # nothing to read ahead
    "chmod": (lambda root: (root / "d/chmod").chmod(0o600), 26, 22),
    "chmod of an upper file": (lambda root: (root / "d/chmod").chmod(0o644), 2, 4),
    "first write": (lambda root: _write(root / "d/write", 0), 28, 26),
    "truncation": (lambda root: _write(root / "d/truncate", os.O_TRUNC), 23, 26),
    "rename": (lambda root: os.rename(root / "d/rename", root / "d/renamed"), 26, 21),
    "unlink": (lambda root: (root / "d/unlink").unlink(), 4, 5),
    "unlink of a copy": (lambda root: (root / "d/chmod").unlink(), 5, 4),
    "create": (lambda root: _write(root / "d/new", os.O_CREAT), 6, 7),
    "append": (lambda root: _write(root / "d/new", os.O_APPEND), 4, 4),
    "mkdir": (lambda root: (root / "d/made").mkdir(), 3, 2),
    "rename of an upper file": (lambda root: os.rename(root / "d/new", root / "d/newer"), 3, 2),
    "unlink of an upper file": (lambda root: (root / "d/newer").unlink(), 4, 3),
    "link": (lambda root: os.link(root / "d/write", root / "d/linked"), 3, 9),
}


def test_system_calls_of_common_operations(
    union: Mounts[UnionMount], filesystems: FileSystems, tmp_path: Path
) -> None:
    _check(
        _COSTS, tmp_path, lambda said: _on_directories(union, filesystems.image("ext4", 32), said)
    )


# Of an image of a store, each of them done before.
_OF_IMAGES: _Operations = {
    "stat": (lambda root: (root / "d/file").stat(), 0, 0),
    "a name that is absent": (lambda root: (root / "d/absent").exists(), 0, 0),
    "listing": (lambda root: os.listdir(root / "d"), 1, 0),
    "reading": (lambda root: (root / "d/file").read_bytes(), 2, 2),
    "where a link leads": (lambda root: os.readlink(root / "d/link"), 0, 0),
    "an attribute that is absent": (lambda root: _has_no_attribute(root / "d/file"), 0, 0),
}


def test_system_calls_on_an_image(union: Mounts[UnionMount], tmp_path: Path) -> None:
    """What is in the index is not asked for again, and a content is not verified again."""
    store = StoreBuilder(tmp_path / "store")
    store.image(
        "some:1", [tars.tar(tars.file("d/file", b"content"), tars.symlink("d/link", "file"))]
    )

    def measure(said: Path) -> None:
        mount = union(Path("some:1"), command=(*_STRACE, str(said), *store.command))
        for _ in range(2):
            _do(_OF_IMAGES, mount)
        mount.unmount()

    _check(_OF_IMAGES, tmp_path, measure)


@pytest.mark.needs_native
def test_the_first_look_at_a_mount_takes_no_python(
    union: Mounts[UnionMount], tmp_path: Path
) -> None:
    """The plane knows the root before anybody asks for it."""
    said = tmp_path / "calls"
    mount = union({"d": {"file": "content"}}, {}, command=(*_STRACE, str(said), *COMMAND))
    mount.wait_for_python()
    for _ in range(2):
        with raises(errno.ENODATA):
            os.getxattr(mount.path, "user.absent")  # Python asks the layer
        assert (mount / "d/file").read_text() == "content"
    mount.unmount()
    lines = said.read_text().splitlines()
    marks = [at for at, line in enumerate(lines) if "user.absent" in line]
    python = lines[marks[0]].split()[0]
    between = [line for line in lines[marks[0] : marks[1]] if line.split()[0] == python]
    # It wakes for the second of the marks.
    assert sum(" read(" in line for line in between) == 1, between


def _check(operations: _Operations, place: Path, measure: Callable[[Path], None]) -> None:
    """What *measure* writes down ends with the operations, and they cost what they are to cost."""
    native = driver.chosen == "native"
    expected = {name: plane if native else stock for name, (_, stock, plane) in operations.items()}
    said = place / "calls"
    with linux.caches_kept():
        measure(said)
    costs = _segments(said.read_text())[-len(operations) - 1 : -1]
    measured = {name: cost.total() for name, cost in zip(operations, costs, strict=True)}
    assert measured == expected, costs


def _do(operations: _Operations, mount: UnionMount) -> None:
    mount.wait_for_python()
    os.statvfs(mount.path)
    for act, _, _ in operations.values():
        act(mount.path)
        os.statvfs(mount.path)


def _has_no_attribute(path: Path) -> None:
    with raises(errno.ENODATA):
        os.getxattr(path, "user.absent")


def _on_directories(union: Mounts[UnionMount], place: Path, said: Path) -> None:
    layer, upper = place / "layer", place / "upper"
    (layer / "d").mkdir(parents=True)
    (layer / "e").mkdir()
    (layer / "alone").mkdir()
    upper.mkdir()
    names = ("stat", "chmod", "write", "truncate", "rename", "unlink", "first")
    others = ("e/file", "e/other", "alone/read")
    for path in (*(layer / "d" / name for name in names), *(layer / name for name in others)):
        path.write_text("content")
    with linux.opened(layer / "e/holes", os.O_CREAT | os.O_WRONLY) as descriptor:
        os.truncate(descriptor, 1 << 20)
    command = (*_STRACE, str(said), *COMMAND)
    mount = union(layer, upper=upper, work=place / "work", command=command)
    _write(mount / "d/first", 0)
    os.listdir(mount / "d")
    for name in names:
        (mount / "d" / name).stat()
    (mount / "alone/read").stat()
    _do(_COSTS, mount)
    mount.unmount()


def _segments(said: str) -> list[Counter[str]]:
    """The calls before, between and after those that stand between operations."""
    found: list[Counter[str]] = [Counter()]
    for _, name in _CALL.findall(said):
        if name == _BETWEEN:
            found.append(Counter())
        elif name not in _LEFT_OUT:
            found[-1][name] += 1
    return found
