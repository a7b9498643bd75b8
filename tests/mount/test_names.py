"""Names of any bytes, of any length, at any depth."""

import os
import random
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support import linux
from tests.support.layers import Item, Symlink, Tree
from tests.support.mounts import Mount, Mounts, three_times

_dice = random.Random(8)
_ODD: list[bytes] = [
    *(bytes([byte]) for byte in range(1, 256) if byte not in b"/."),
    *(bytes(_dice.choices([b for b in range(1, 256) if b != 0x2F], k=40)) for _ in range(50)),
    b"n" * 255,
    "ü".encode() * 127,
    b"\xff" * 255,
    *(b"...", b"..a", b".hidden", b"a b", b"-rf", b"*", b"$HOME", b"new\nline", b"\\040", b"a:b,c"),
]
ODD = list(dict.fromkeys(_ODD))


def test_names_of_any_bytes_in_a_layer(both: Mounts[Mount]) -> None:
    layer: dict[str, Item] = {os.fsdecode(name): name for name in ODD}
    mount = both({"d": layer}, {"d": {}})
    for when in three_times(mount):
        assert sorted(os.listdir(os.fsencode(mount / "d"))) == sorted(ODD), when
        for name in ODD:
            assert (mount / "d" / os.fsdecode(name)).read_bytes() == name, when


def test_names_of_any_bytes_made_changed_and_removed(both: Mounts[Mount]) -> None:
    half: dict[str, Item] = {os.fsdecode(name): name for name in ODD[::2]}
    mount = both({"d": half})
    for name in ODD:
        (mount / "d" / os.fsdecode(name)).write_bytes(b"changed " + name)
    (mount / "e").mkdir()
    for name in ODD[1::3]:
        os.rename(mount / "d" / os.fsdecode(name), mount / "e" / os.fsdecode(name))
    for name in ODD[2::3]:
        (mount / "d" / os.fsdecode(name)).unlink()
    for when in three_times(mount):
        assert sorted(os.listdir(os.fsencode(mount / "e"))) == sorted(ODD[1::3]), when
        left = set(ODD) - set(ODD[1::3]) - set(ODD[2::3])
        assert sorted(os.listdir(os.fsencode(mount / "d"))) == sorted(left), when
        for name in left:
            assert (mount / "d" / os.fsdecode(name)).read_bytes() == b"changed " + name, when


def test_directories_with_names_of_any_bytes_move(both: Mounts[Mount]) -> None:
    names = [name for name in ODD if len(name) < 250]
    layer: dict[str, Item] = {os.fsdecode(name): {"in": name} for name in names}
    mount = both({"d": layer}, {"e": {}})
    for number, name in enumerate(names):
        os.rename(mount / "d" / os.fsdecode(name), mount / "e" / str(number))
        os.rename(mount / "e" / str(number), mount / "e" / os.fsdecode(name))
    for when in three_times(mount):
        assert os.listdir(mount / "d") == [], when
        for name in names:
            assert (mount / "e" / os.fsdecode(name) / "in").read_bytes() == name, when


@pytest.mark.kernel_differs("EXDEV for paths over 256 bytes, by its parameter redirect_max")
def test_directories_with_long_paths_move(both: Mounts[Mount]) -> None:
    inner: Tree = {"n" * 255: {"in": "content"}}
    mount = both({"d" * 255: {"e" * 255: {"f" * 255: inner}}})
    path = mount.path / ("d" * 255) / ("e" * 255) / ("f" * 255)
    os.rename(path / ("n" * 255), mount / "moved")
    os.rename(mount / "moved", path / ("m" * 255))
    os.rename(path, mount / ("g" * 255))
    for when in three_times(mount):
        assert (mount / ("g" * 255) / ("m" * 255) / "in").read_text() == "content", when


@pytest.mark.parametrize("target", [b"t" * 4095, b"\xff\n \x01", b"/", b"..", b"a//b/../c/"])
def test_targets_of_any_bytes(both: Mounts[Mount], target: bytes) -> None:
    mount = both({"lower": Symlink(os.fsdecode(target)), "d": {}})
    os.symlink(target, os.fsencode(mount / "made"))
    os.rename(mount / "lower", mount / "d" / "lower")
    for when in three_times(mount):
        for name in ("made", "d/lower"):
            assert os.readlink(os.fsencode(mount / name)) == target, when
            assert (mount / name).lstat().st_size == len(target), when


def test_a_target_that_is_too_long(both: Mounts[Mount]) -> None:
    mount = both({})
    with pytest.raises(OSError, match="File name too long"):
        os.symlink("t" * 4096, mount / "link")
    with pytest.raises(FileNotFoundError):
        os.symlink("", mount / "link")


LONG = "long" * 50
DEPTH = 60  # 12,000 bytes, three times PATH_MAX


@contextmanager
def _descended(root: Path, depth: int, *, make: bool = False) -> Iterator[int]:
    """A descriptor of the directory that lies `depth` long names below `root`."""
    with ExitStack() as stack:
        descriptor = stack.enter_context(linux.opened(root))
        for _ in range(depth):
            if make:
                os.mkdir(LONG, dir_fd=descriptor)
            descriptor = stack.enter_context(linux.opened_at(descriptor, LONG))
        yield descriptor


def _write_at(directory: int, name: str, content: bytes) -> None:
    with linux.opened_at(directory, name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC) as file:
        os.write(file, content)


def _read_at(directory: int, name: str) -> bytes:
    with linux.opened_at(directory, name) as file:
        return os.read(file, 100)


def _deep_layer(root: Path) -> None:
    with _descended(root, DEPTH, make=True) as bottom:
        _write_at(bottom, "file", b"content")
        _write_at(bottom, "other", b"other")
        os.mkdir("dir", dir_fd=bottom)


def test_paths_in_a_layer_that_are_longer_than_path_max(both: Mounts[Mount]) -> None:
    def top(root: Path) -> None:
        with _descended(root, DEPTH, make=True) as bottom:
            _write_at(bottom, "top", b"top")

    mount = both(_deep_layer, top)
    for when in three_times(mount):
        with _descended(mount.path, DEPTH) as bottom:
            assert sorted(os.listdir(bottom)) == ["dir", "file", "other", "top"], when
            assert _read_at(bottom, "file") == b"content", when
    with _descended(mount.path, DEPTH) as bottom:
        _write_at(bottom, "file", b"changed")
        _write_at(bottom, "new", b"new")
        os.unlink("other", dir_fd=bottom)
        os.rename("top", "moved", src_dir_fd=bottom, dst_dir_fd=bottom)
        os.rename("dir", "e", src_dir_fd=bottom, dst_dir_fd=bottom)
    for when in three_times(mount):
        with _descended(mount.path, DEPTH) as bottom:
            assert sorted(os.listdir(bottom)) == ["e", "file", "moved", "new"], when
            assert _read_at(bottom, "file") == b"changed", when


def test_deep_trees_made_moved_and_removed(both: Mounts[Mount]) -> None:
    mount = both(_deep_layer)
    (mount / "made").mkdir()
    with _descended(mount / "made", DEPTH, make=True) as bottom:
        _write_at(bottom, "file", b"made")
    os.rename(mount / LONG, mount / "made" / "lower")
    for when in three_times(mount):
        with (
            _descended(mount / "made" / "lower", DEPTH - 1) as lower,
            _descended(mount / "made", DEPTH) as made,
        ):
            assert _read_at(lower, "file") == b"content", when
            assert _read_at(made, "file") == b"made", when
    shutil.rmtree(mount / "made")
    for when in three_times(mount):
        assert os.listdir(mount.path) == [], when


def test_a_path_as_long_as_path_max_works(both: Mounts[Mount]) -> None:
    """Where the layer lies takes nothing of what the mount's own names may have."""
    steps = ["n" * 250] * 16
    name = "/".join([*steps, "f" * 77])

    def layer(root: Path) -> None:
        with ExitStack() as stack:
            directory = stack.enter_context(linux.opened(root))
            for step in steps:
                os.mkdir(step, dir_fd=directory)
                directory = stack.enter_context(linux.opened_at(directory, step))
            _write_at(directory, "f" * 77, b"content")

    mount = both(layer)
    assert len(name) == 4093
    for when in three_times(mount):
        with linux.opened(mount.path) as directory:
            assert _read_at(directory, name) == b"content", when
    with linux.opened(mount.path) as directory:
        _write_at(directory, name, b"changed")
        os.rename(name, name[:-1] + "g", src_dir_fd=directory, dst_dir_fd=directory)
    for when in three_times(mount):
        with linux.opened(mount.path) as directory:
            assert _read_at(directory, name[:-1] + "g") == b"changed", when
