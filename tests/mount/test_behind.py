"""Layers and uppers that change behind the mount: seen or told, never taken for another.

Each mount proves, when it ends, that its daemon lived on and logged no error of its own.
"""

import errno
import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.support import linux
from tests.support.filesystems import FileSystems
from tests.support.layers import Tree, build, copies
from tests.support.mounts import Mounts, UnionMount
from tests.support.snapshots import differences, snapshot, tree

_PLACE: Tree = {"file": "content", "d": {"file": "content", "sub": {"deep": "content"}}}


def _by(make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Replaces a file or directory by what *make* makes."""

    def replace(path: Path) -> None:
        aside = path.with_name("aside")
        path.rename(aside)
        make(path)
        if aside.is_dir():
            shutil.rmtree(aside)
        else:
            aside.unlink()

    return replace


def _link_outside(path: Path) -> None:
    path.symlink_to(path.parents[2] / "outside" / ("file" if path.name == "file" else ""))


_REPLACED: dict[str, Callable[[Path], object]] = {
    "a file by another": lambda d: _by(lambda path: path.write_text("another"))(d / "file"),
    "a file by a directory": lambda d: _by(Path.mkdir)(d / "file"),
    "a file by a link": lambda d: _by(_link_outside)(d / "file"),
    "a file by a fifo": lambda d: _by(os.mkfifo)(d / "file"),
    "a file by nothing": lambda d: (d / "file").unlink(),
    "a directory by another": lambda d: _by(lambda path: build(path, {"file": "another"}))(d / "d"),
    "a directory by a file": lambda d: _by(lambda path: path.write_text("another"))(d / "d"),
    "a directory by a link": lambda d: _by(_link_outside)(d / "d"),
    "a directory by nothing": lambda d: shutil.rmtree(d / "d"),
}
_IN_PLACE: dict[str, Callable[[Path], object]] = {
    "a shorter file": lambda d: os.truncate(d / "file", 3),
    "a longer file": lambda d: (d / "file").write_text("content and more"),
    "another content": lambda d: (d / "file").write_text("another"),
    "another mode": lambda d: (d / "file").chmod(0),
    "another owner": lambda d: os.chown(d / "d", 7, 7),
    "a new attribute": lambda d: os.setxattr(d / "file", "user.new", b""),
    "a new name": lambda d: (d / "d" / "new").write_text("new"),
}
_STALE, _GONE = os.strerror(errno.ESTALE), os.strerror(errno.ENOENT)
_NO_DIRECTORY = os.strerror(errno.ENOTDIR)  # from who has not kept the directory open
_OUTSIDE: Tree = {"file": "secret", "sub": {"deep": "secret"}}


def _read(path: Path) -> bytes:
    with linux.opened(path, os.O_RDONLY | os.O_NONBLOCK) as descriptor:
        return os.read(descriptor, 100)


def _append(path: Path) -> None:
    with linux.opened(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK) as descriptor:
        os.write(descriptor, b"more")


_OPERATIONS: dict[str, Callable[[Path], object]] = {
    "read": _read,
    "append": _append,
    "truncate": lambda path: os.truncate(path, 1),
    "rename": lambda path: path.rename(path.with_name("moved")),
    "link": lambda path: os.link(path, path.with_name("linked")),
}


def _hold_all(known: ExitStack, root: Path) -> None:
    """Have the kernel know, and keep, all that is there."""
    for path in root.rglob("*"):
        known.enter_context(linux.opened(path, os.O_PATH))


def _changed(mount: UnionMount, name: str) -> Path:
    """A file that was replaced, or its directory was."""
    return mount / name / ("d/file" if name.startswith("a directory") else "file")


@pytest.mark.parametrize("operation", _OPERATIONS)
def test_what_takes_the_place_of_what_is_known_below_is_refused(
    union: Mounts[UnionMount], operation: str
) -> None:
    mount = union(copies(_PLACE, _REPLACED))
    outside = build(mount.layers[0].parent / "outside", _OUTSIDE)
    with ExitStack() as known:
        _hold_all(known, mount.path)
        for name, replace in _REPLACED.items():
            replace(mount.layers[0] / name)
        for name in _REPLACED:
            with pytest.raises(OSError, match=f"{_STALE}|{_GONE}|{_NO_DIRECTORY}"):
                _OPERATIONS[operation](_changed(mount, name))
    log = mount.log.read_text()
    assert "a layer changed while it was mounted" in log
    assert str(mount.layers[0]) in log
    assert [path for path in mount.changes.rglob("*") if not path.is_dir()] == []
    assert tree(outside) == _OUTSIDE


@pytest.mark.parametrize("operation", ["read", "append", "truncate"])
def test_what_takes_the_place_of_what_is_known_in_the_upper_is_never_taken_for_it(
    union: Mounts[UnionMount], operation: str
) -> None:
    mount = union({}, upper=copies(_PLACE, _REPLACED))
    outside = build(mount.changes.parent / "outside", _OUTSIDE)
    with ExitStack() as known:
        _hold_all(known, mount.path)
        for name, replace in _REPLACED.items():
            replace(mount.changes / name)
        changed = snapshot(mount.changes)
        for name in _REPLACED:
            # Told, or shown as what it is now: then it is for the kernel to refuse.
            with suppress(OSError):
                assert not _OPERATIONS[operation](_changed(mount, name)), name
    assert differences(changed, snapshot(mount.changes)) == []
    assert tree(outside) == _OUTSIDE


@pytest.mark.parametrize("asked", [False, True], ids=["never known", "forgotten"])
def test_what_is_not_known_shows_as_the_layer_has_it_now(
    union: Mounts[UnionMount], asked: bool
) -> None:
    changes = _REPLACED | _IN_PLACE
    mount = union(copies(_PLACE, changes))
    build(mount.layers[0].parent / "outside", _OUTSIDE)
    if asked:
        snapshot(mount.path)
    for name, change in changes.items():
        change(mount.layers[0] / name)
    # The root and its names are known always.
    mount.drop_caches(pages=False)
    assert differences(snapshot(mount.layers[0]), snapshot(mount.path)) == []


@pytest.mark.parametrize("change", _IN_PLACE)
def test_what_changes_in_place_shows_as_it_was_or_as_it_is(
    union: Mounts[UnionMount], change: str
) -> None:
    mount = union(_PLACE)
    below = mount.layers[0] / "file"
    with ExitStack() as known:
        _hold_all(known, mount.path)
        contents = [below.read_bytes()]
        _IN_PLACE[change](below.parent)
        contents.append(below.read_bytes())
        # What is not in memory any more comes from the layer as it is, up to the known end.
        mount.drop_caches()
        shown = _read(mount / "file")
        assert shown
        assert any(content.startswith(shown) for content in contents)
        if len(contents[1]) < len(contents[0]):
            with pytest.raises(OSError, match=_STALE):
                _append(mount / "file")
        else:
            _append(mount / "file")
            assert _read(mount / "file") in [content[:7] + b"more" for content in contents]


def test_a_layer_outlives_its_own_mount(union: Mounts[UnionMount], directory: Path) -> None:
    """The union has a view of its own of it."""
    point = directory / "filesystem"
    point.mkdir()
    linux.mount("tmpfs", point, "tmpfs")
    try:
        mount = union(build(point / "layer", _PLACE))
    finally:
        linux.umount(point)
    assert tree(mount.path) == _PLACE
    _append(mount / "file")
    assert _read(mount / "file") == b"contentmore"


def test_a_disk_that_fails_is_an_error_of_what_lies_on_it_as_long_as_it_fails(
    union: Mounts[UnionMount], filesystems: FileSystems, directory: Path
) -> None:
    point = filesystems.image("ext4", 8, directory / "disk")
    content = "content" * 10_000
    layer = build(point / "layer", {"on disk": {"file": content, "other": content}})
    mount = union({"here": "here"}, layer)
    linux.syncfs(point)
    disk = directory / "disk.img"
    written = disk.read_bytes()
    os.listdir(mount / "on disk")
    mount.drop_caches()
    os.truncate(disk, 0)
    for operation in _OPERATIONS.values():
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            operation(mount / "on disk" / "file")
    assert (mount / "here").read_text() == "here"
    (mount / "here").write_text("changed")
    assert tree(mount.changes) == {"here": "changed", "on disk": {}}
    disk.write_bytes(written)
    assert tree(mount.path) == {
        "here": "changed",
        "on disk": {"file": content, "other": content},
    }
    _append(mount / "on disk" / "file")
    assert (mount / "on disk" / "file").read_text() == f"{content}more"
