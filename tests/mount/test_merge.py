"""Which layer answers for a name."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.filesystems import FileSystems
from tests.support.layers import Directory, Item, Layer, Symlink
from tests.support.mounts import Mount, Mounts, UnionMount, three_times
from tests.support.snapshots import tree


def test_of_equal_names_the_topmost_is_shown(both: Mounts[Mount]) -> None:
    mount = both({"a": "base", "b": "base", "c": "base"}, {"b": "deps", "c": "deps"}, {"c": "app"})
    for when in three_times(mount):
        assert tree(mount.path) == {"a": "base", "b": "deps", "c": "app"}, when


def test_the_upper_is_above_all_layers(both: Mounts[Mount]) -> None:
    mount = both({"a": "base", "b": "base"}, {"a": "deps"}, upper={"a": "upper"})
    for when in three_times(mount):
        assert tree(mount.path) == {"a": "upper", "b": "base"}, when


def test_directories_of_one_name_merge_at_every_depth(both: Mounts[Mount]) -> None:
    mount = both(
        {"d": {"base": "1", "d": {"base": "1", "d": {"base": "1", "both": "1"}}}},
        {"d": {"d": {"d": {"both": "2"}, "deps": "2"}}},
        {"d": {"app": "3", "d": {"d": {"app": "3"}}}},
        upper=False,
    )
    for when in three_times(mount):
        assert tree(mount.path) == {
            "d": {
                "app": "3",
                "base": "1",
                "d": {
                    "base": "1",
                    "d": {"app": "3", "base": "1", "both": "2"},
                    "deps": "2",
                },
            }
        }, when


def test_a_merged_directory_has_the_attributes_of_the_topmost(both: Mounts[Mount]) -> None:
    mount = both(
        {"d": Directory({"a": ""}, mode=0o700, uid=1, gid=2, xattrs={"user.base": b"1"})},
        {"d": Directory({"b": ""}, mode=0o1755, uid=3, gid=4, mtime=1_000, xattrs={"user.x": b""})},
    )
    for when in three_times(mount):
        status = (mount / "d").stat()
        assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o1755, 3, 4), when
        assert status.st_mtime_ns == 1_000, when
        assert os.listxattr(mount / "d") == ["user.x"], when


@pytest.mark.parametrize(
    ("base", "top"),
    [
        ("file", {"in": "directory"}),
        ({"in": "directory"}, "file"),
        ({"in": "directory"}, Symlink("nowhere")),
        (Symlink("nowhere"), {"in": "directory"}),
        (Symlink("nowhere"), "file"),
    ],
)
def test_an_entry_of_another_type_replaces(both: Mounts[Mount], base: Item, top: Item) -> None:
    mount = both({"name": base}, {"name": top})
    shown = "-> nowhere" if isinstance(top, Symlink) else top
    for when in three_times(mount):
        assert tree(mount.path) == {"name": shown}, when


@pytest.mark.parametrize("middle", ["file", Symlink("nowhere")])
def test_a_merge_stops_at_what_is_no_directory(both: Mounts[Mount], middle: Item) -> None:
    mount = both({"d": {"hidden": ""}}, {"d": middle}, {"d": {"shown": "yes"}})
    for when in three_times(mount):
        assert tree(mount.path) == {"d": {"shown": "yes"}}, when


def test_a_link_to_a_directory_is_not_merged_with_one(both: Mounts[Mount]) -> None:
    mount = both({"d": {"a": ""}, "other": {"b": ""}}, {"d": Symlink("other")})
    for when in three_times(mount):
        assert tree(mount.path) == {"d": "-> other", "other": {"b": ""}}, when
        assert os.listdir(mount / "d") == ["b"], when


def test_the_root_has_the_attributes_of_the_topmost(both: Mounts[Mount]) -> None:
    mount = both(Directory(mode=0o700, uid=5), upper=Directory(mode=0o1777, uid=6, mtime=7_000))
    for when in three_times(mount):
        status = mount.path.stat()
        assert (status.st_mode & 0o7777, status.st_uid) == (0o1777, 6), when
        assert status.st_mtime_ns == 7_000, when


def _numbered(number: int) -> Layer:
    return {"top": str(number), "d": {f"{number}": str(number), f"{number // 2}": str(number)}}


def test_500_layers(both: Mounts[Mount]) -> None:
    mount = both(*map(_numbered, range(500)))
    expected: dict[str, object] = {}
    for number in range(500):
        expected |= {str(number): str(number), str(number // 2): str(number)}
    for when in three_times(mount):
        assert tree(mount.path) == {"top": "499", "d": expected}, when


def test_1000_layers_with_long_paths_and_odd_names(
    union: Mounts[UnionMount], directory: Path
) -> None:
    """Layer paths that are too many and too long for one page, with what options are cut at."""
    above = directory / ("long" * 50) / ("name" * 50)
    above.mkdir(parents=True)
    layers = []
    for number in range(1000):
        layer = above / f"{number}:a,b\\c d=e"
        layer.mkdir()
        (layer / "top").write_text(str(number))
        layers.append(layer)
    mount = union(*layers)
    assert (mount / "top").read_text() == "999"
    (mount / "top").unlink()
    assert tree(mount.path) == {}


def test_a_layer_given_twice(union: Mounts[UnionMount], directory: Path) -> None:
    layer = directory / "layer"
    layer.mkdir()
    (layer / "a").write_text("once")
    (layer / "d").mkdir()
    (layer / "d" / "b").write_text("too")
    mount = union(layer, {"c": "between", "d": {"b": "hidden"}}, layer)
    for when in three_times(mount):
        assert tree(mount.path) == {"a": "once", "c": "between", "d": {"b": "too"}}, when
    (mount / "a").write_text("changed")
    (mount / "d" / "b").unlink()
    for when in three_times(mount):
        assert tree(mount.path) == {"a": "changed", "c": "between", "d": {}}, when


def test_a_layer_inside_another(union: Mounts[UnionMount], directory: Path) -> None:
    layer = directory / "layer"
    (layer / "d" / "e").mkdir(parents=True)
    (layer / "d" / "a").write_text("inner")
    (layer / "d" / "e" / "b").write_text("innermost")
    for layers in [(layer, layer / "d"), (layer / "d", layer)]:
        mount = union(*layers)
        for when in three_times(mount):
            assert tree(mount.path) == {
                "a": "inner",
                "e": {"b": "innermost"},
                "d": {"a": "inner", "e": {"b": "innermost"}},
            }, when


def test_the_mount_point_inside_a_layer(both: Mounts[Mount], directory: Path) -> None:
    """The layer is shown as it was before the mount, so the mount doesn't contain itself."""
    layer = directory / "layer"
    (layer / "point").mkdir(parents=True)
    (layer / "point" / "covered").write_text("below")
    (layer / "file").write_text("beside")
    mount = both(layer, at=layer / "point")
    for when in three_times(mount):
        assert tree(mount.path) == {"file": "beside", "point": {"covered": "below"}}, when
    (mount / "point" / "new").write_text("")
    (mount / "point" / "covered").unlink()
    for when in three_times(mount):
        assert tree(mount.path) == {"file": "beside", "point": {"new": ""}}, when
    mount.unmount()
    assert tree(layer) == {"file": "beside", "point": {"covered": "below"}}


def _identities(root: Path) -> dict[tuple[int, int], list[str]]:
    found: dict[tuple[int, int], list[str]] = {}
    for directory, _, files in os.walk(root):
        for path in [Path(directory), *(Path(directory, name) for name in files)]:
            status = path.stat()
            name = str(path.relative_to(root))
            found.setdefault((status.st_dev, status.st_ino), []).append(name)
    return found


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda filesystems: filesystems.tmpfs(options="inode64"), id="tmpfs"),
        pytest.param(lambda filesystems: filesystems.image("ext4", 8), id="ext4"),
    ],
)
def test_layers_on_devices_with_equal_inode_numbers(
    union: Mounts[UnionMount], filesystems: FileSystems, make: Callable[[FileSystems], Path]
) -> None:
    layers = [make(filesystems) for _ in range(3)]
    for number, layer in enumerate(layers):
        (layer / f"d{number}").mkdir()
        (layer / f"d{number}" / "file").write_text(str(number))
        (layer / f"f{number}").write_text(str(number))
    assert len({(layer / f"f{n}").stat().st_ino for n, layer in enumerate(layers)}) == 1
    mount = union(*layers)
    for when in three_times(mount):
        for number in range(3):
            assert (mount / f"f{number}").read_text() == str(number), when
            assert tree(mount / f"d{number}") == {"file": str(number)}, when
        files = _identities(mount.path)
        assert [names for names in files.values() if len(names) > 1] == [], when
        assert len({device for device, _ in files}) == 1, when


def test_directories_with_equal_inode_numbers_do_not_vanish(
    union: Mounts[UnionMount], filesystems: FileSystems, directory: Path
) -> None:
    """Two directories that merge, or lie beside each other, on devices bound into the layers."""
    devices = [filesystems.tmpfs() for _ in range(3)]
    for number, device in enumerate(devices):
        (device / "d" / "e").mkdir(parents=True)
        (device / "d" / "e" / f"f{number}").write_text(str(number))
    assert len({(device / "d").stat().st_ino for device in devices}) == 1
    base, top = directory / "base", directory / "top"
    for point in (base / "merged", base / "beside", top / "merged"):
        point.mkdir(parents=True)
    filesystems.bind(devices[0], base / "merged")
    filesystems.bind(devices[1], base / "beside")
    filesystems.bind(devices[2], top / "merged")
    mount = union(base, top)
    for when in three_times(mount):
        assert tree(mount.path) == {
            "merged": {"d": {"e": {"f0": "0", "f2": "2"}}},
            "beside": {"d": {"e": {"f1": "1"}}},
        }, when
        assert len({path.stat().st_dev for path in mount.path.rglob("*")}) == 1, when


def test_a_layer_that_is_a_bind_mount(
    both: Mounts[Mount], filesystems: FileSystems, directory: Path
) -> None:
    source = directory / "source"
    (source / "d").mkdir(parents=True)
    (source / "d" / "a").write_text("bound")
    mount = both({"d": {"b": "plain"}}, filesystems.bind(source))
    for when in three_times(mount):
        assert tree(mount.path) == {"d": {"a": "bound", "b": "plain"}}, when
    (mount / "d" / "a").write_text("changed")
    assert (source / "d" / "a").read_text() == "bound"
