"""How many requests an operation costs: what the kernel remembers it doesn't ask again."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import driver, linux
from tests.support.layers import Symlink, Tree
from tests.support.mounts import Mounts, UnionMount

LAYER: Tree = {
    "d": {f"file{number}": "content" for number in range(50)},
    "file": "content",
    "big": b"b" * 300_000,
    "dir": {"below": "deep"},
    "link": Symlink("file"),
}


@pytest.fixture
def mount(union: Mounts[UnionMount]) -> UnionMount:
    # Names of its own for each operation.
    layer = {
        **LAYER,
        **{f"lower{number}": "content" for number in range(len(_COSTS))},
        **{f"empty{number}": {} for number in range(len(_COSTS))},
    }
    mount = union(layer, {"d": {"top": "content"}}, options=["debug"])
    mount.wait_for_python()
    # The kernel asks once to flush, and learns that there is nothing to.
    _read(mount / "file")
    return mount


def _requests(
    mount: UnionMount,
    prepare: Callable[[Path, int], object],
    act: Callable[[Path, int], object],
    number: int,
) -> dict[str, int]:
    """Requests of `act`."""
    prepare(mount.path, number)
    # Making or removing a name has the kernel ask once more for the directory's attributes.
    mount.path.stat()
    with mount.requests() as count:
        act(mount.path, number)
    return dict(count)


def _read(path: Path) -> bytes:
    with linux.opened(path) as descriptor:
        return b"".join(iter(lambda: os.read(descriptor, 1 << 20), b""))


def _write(path: Path, content: bytes, flags: int = os.O_CREAT) -> None:
    with linux.opened(path, os.O_WRONLY | flags) as descriptor:
        os.write(descriptor, content)


def _append_ten_times(root: Path, number: int) -> None:
    with linux.opened(root / f"made{number}", os.O_WRONLY | os.O_APPEND) as descriptor:
        for _ in range(10):
            os.write(descriptor, b"more")


def _nothing(root: Path, number: int) -> None:
    pass


def _walk(root: Path, number: int) -> None:
    for entry in os.scandir(root / "d"):
        entry.stat(follow_symlinks=False)


def _made(root: Path, number: int) -> None:
    _write(root / f"made{number}", b"content")


def _looked_at(root: Path, number: int) -> None:
    for name in ("file", "big", "dir", "d", f"lower{number}", f"empty{number}"):
        (root / name).stat()


def _found_absent(root: Path, number: int) -> None:
    assert not (root / f"none{number}").exists()


def _stats(root: Path, number: int) -> None:
    for _ in range(10):
        (root / "file").stat()
        (root / f"lower{number}").stat()


_LISTING = {"OPENDIR": 1, "READDIRPLUS": 2, "RELEASEDIR": 1}
_OPENING = {"OPEN": 1, "RELEASE": 1}
# Before the first write the kernel asks for capabilities, to take them away.
_WRITING = {"GETXATTR": 1, "WRITE": 1}

_COSTS: dict[
    str,
    tuple[Callable[[Path, int], object], Callable[[Path, int], object], dict[str, int]],
] = {
    "stat of what was looked at": (_looked_at, _stats, {}),
    "first look at a name": (
        _nothing,
        lambda root, number: (root / f"lower{number}").stat(),
        {"LOOKUP": 1},
    ),
    "first look at an absent name": (_nothing, _found_absent, {"LOOKUP": 1}),
    "second look at an absent name": (_found_absent, _found_absent, {}),
    "listing and stat of 51 files": (_looked_at, _walk, _LISTING),
    "first listing": (
        _looked_at,
        lambda root, number: os.listdir(root / f"empty{number}"),
        _LISTING,
    ),
    "second listing": (
        lambda root, number: os.listdir(root / f"empty{number}"),
        lambda root, number: os.listdir(root / f"empty{number}"),
        # The first one was an access, whose time is asked for.
        {**_LISTING, "GETATTR": 1},
    ),
    "reading a small file": (
        _looked_at,
        lambda root, number: _read(root / f"lower{number}"),
        {**_OPENING, "READ": 1},
    ),
    "reading a small file again": (
        lambda root, number: _read(root / "file"),
        lambda root, number: _read(root / "file"),
        _OPENING,
    ),
    "reading a link again": (
        lambda root, number: os.readlink(root / "link"),
        lambda root, number: os.readlink(root / "link"),
        {},
    ),
    "creating, writing and closing": (
        _nothing,
        _made,
        {"LOOKUP": 1, "CREATE": 1, "RELEASE": 1, **_WRITING},
    ),
    "appending ten times": (_made, _append_ten_times, {**_OPENING, "WRITE": 10}),
    "stat after creating and writing": (
        _made,
        lambda root, number: (root / f"made{number}").stat(),
        {"GETATTR": 1},
    ),
    "writing a file of a layer": (
        _looked_at,
        lambda root, number: _write(root / f"lower{number}", b"changed", 0),
        {**_OPENING, **_WRITING},
    ),
    "removing": (
        _looked_at,
        lambda root, number: (root / f"lower{number}").unlink(),
        {"UNLINK": 1},
    ),
    "removing a directory": (
        _looked_at,
        lambda root, number: (root / f"empty{number}").rmdir(),
        {"RMDIR": 1},
    ),
    "first look at what was removed": (
        lambda root, number: (root / f"lower{number}").unlink(),
        lambda root, number: (root / f"lower{number}").exists(),
        {"LOOKUP": 1},
    ),
    "renaming": (
        _looked_at,
        lambda root, number: os.rename(root / f"lower{number}", root / f"renamed{number}"),
        {"LOOKUP": 1, "RENAME": 1},
    ),
    "making a directory": (
        _nothing,
        lambda root, number: (root / f"new{number}").mkdir(),
        {"LOOKUP": 1, "MKDIR": 1},
    ),
    "chmod": (
        _looked_at,
        lambda root, number: (root / f"lower{number}").chmod(0o600),
        {"SETATTR": 1},
    ),
    "stat after chmod": (
        lambda root, number: (root / f"lower{number}").chmod(0o600),
        lambda root, number: (root / f"lower{number}").stat(),
        {},
    ),
}


_COSTS_WITH_THE_PLANE = {
    # The kernel opens directories by itself, and keeps what was listed.
    "listing and stat of 51 files": {"READDIRPLUS": 2},
    "first listing": {"READDIRPLUS": 2},
    "second listing": {"GETATTR": 1},
    # A small file's content comes with the reply that opens it.
    "reading a small file": _OPENING,
    # The upper's files are passed through.
    "creating, writing and closing": {"LOOKUP": 1, "CREATE": 1, "RELEASE": 1, "GETXATTR": 1},
    "appending ten times": _OPENING,
    "writing a file of a layer": {**_OPENING, "GETXATTR": 1},
}


def test_requests_of_common_operations(mount: UnionMount) -> None:
    expected = {operation: cost for operation, (_, _, cost) in _COSTS.items()}
    if driver.chosen == "native":
        expected |= _COSTS_WITH_THE_PLANE
    with linux.caches_kept():
        os.listdir(mount / "dir")  # the kernel learns who opens directories
        measured = {
            operation: _requests(mount, prepare, act, number)
            for number, (operation, (prepare, act, _)) in enumerate(_COSTS.items())
        }
    assert measured == expected
