"""Extended attributes."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import linux
from tests.support.layers import FIFO, OLD, Directory, File, Symlink, Tree
from tests.support.mounts import Mount, Mounts, UnionMount, three_times

VALUES = {"user.a": b"1", "user.empty": b"", "trusted.t": b"\0\xff", "security.s": b"3"}
LAYER: Tree = {
    "file": File("content", xattrs=VALUES),
    "dir": Directory({}, xattrs=VALUES),
    "link": Symlink("file", xattrs={"trusted.t": b"on the link"}),
    "fifo": FIFO,
    "plain": "plain",
}
MARKS = ["trusted.overlay.opaque", "user.overlay.origin", "user.fuseoverlayfs.opaque"]


def _xattrs(path: Path) -> dict[str, bytes]:
    names = os.listxattr(path, follow_symlinks=False)
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}


@pytest.mark.parametrize("name", ["file", "dir"])
def test_attributes_of_a_layer(both: Mounts[Mount], name: str) -> None:
    mount = both(LAYER)
    for when in three_times(mount):
        assert _xattrs(mount / name) == VALUES, when
        assert _xattrs(mount / "plain") == {}, when


@pytest.mark.parametrize("name", ["file", "dir"])
def test_setting_and_removing(both: Mounts[Mount], name: str) -> None:
    mount = both(LAYER)
    path = mount / name
    os.setxattr(path, "user.new", b"new")
    os.setxattr(path, "user.a", b"changed")
    os.setxattr(path, "trusted.new", bytes(range(256)))
    os.setxattr(path, "security.new", b"")
    os.removexattr(path, "user.empty")
    os.removexattr(path, "trusted.t")
    os.removexattr(path, "security.s")
    for when in three_times(mount):
        assert _xattrs(path) == {
            "user.a": b"changed",
            "user.new": b"new",
            "trusted.new": bytes(range(256)),
            "security.new": b"",
        }, when
        assert path.stat().st_mtime_ns == OLD, when
    assert _xattrs(mount.layers[0] / name) == VALUES


@pytest.mark.parametrize("name", ["file", "dir"])
def test_attributes_through_a_descriptor(both: Mounts[Mount], name: str) -> None:
    mount = both(LAYER)
    with linux.opened(mount / name) as descriptor:
        os.setxattr(descriptor, "user.new", b"new")
        os.removexattr(descriptor, "user.a")
        assert os.getxattr(descriptor, "user.new") == b"new"
        assert "user.a" not in os.listxattr(descriptor)
    for when in three_times(mount):
        assert os.getxattr(mount / name, "user.new") == b"new", when


def test_attributes_of_a_link_are_its_own(both: Mounts[Mount]) -> None:
    mount = both(LAYER)
    os.setxattr(mount / "link", "trusted.new", b"link", follow_symlinks=False)
    os.setxattr(mount / "link", "trusted.new", b"file")
    for when in three_times(mount):
        assert _xattrs(mount / "link") == {"trusted.t": b"on the link", "trusted.new": b"link"}
        assert os.getxattr(mount / "file", "trusted.new") == b"file", when


@pytest.mark.parametrize("name", ["link", "fifo"])
def test_only_files_and_directories_have_user_attributes(both: Mounts[Mount], name: str) -> None:
    mount = both(LAYER)
    with pytest.raises(PermissionError):
        os.setxattr(mount / name, "user.x", b"", follow_symlinks=False)
    os.setxattr(mount / name, "trusted.x", b"1", follow_symlinks=False)
    for when in three_times(mount):
        value = os.getxattr(mount / name, "trusted.x", follow_symlinks=False)
        assert value == b"1", when


def test_create_and_replace(both: Mounts[Mount]) -> None:
    mount = both(LAYER)
    with pytest.raises(FileExistsError):
        os.setxattr(mount / "file", "user.a", b"x", linux.XATTR_CREATE)
    with pytest.raises(OSError, match="No data available"):
        os.setxattr(mount / "file", "user.none", b"x", linux.XATTR_REPLACE)
    assert _xattrs(mount / "file") == VALUES
    os.setxattr(mount / "file", "user.none", b"created", linux.XATTR_CREATE)
    os.setxattr(mount / "file", "user.a", b"replaced", linux.XATTR_REPLACE)
    for when in three_times(mount):
        assert os.getxattr(mount / "file", "user.none") == b"created", when
        assert os.getxattr(mount / "file", "user.a") == b"replaced", when


def test_what_is_not_there(both: Mounts[Mount]) -> None:
    mount = both(LAYER)
    acts: list[Callable[[Path, str], object]] = [os.getxattr, os.removexattr]
    for _ in three_times(mount):
        for act in acts:
            with pytest.raises(OSError, match="No data available"):
                act(mount / "file", "user.none")
        with pytest.raises(OSError, match="Operation not supported"):
            os.setxattr(mount / "file", "nonsense.x", b"")


@pytest.mark.parametrize(
    "name", [b"user.\xff\xfe", "user.ü".encode(), b"user.a b\n", b"user." + b"n" * 250]
)
def test_names_of_any_bytes(both: Mounts[Mount], name: bytes) -> None:
    layer: Tree = {"lower": File(xattrs={os.fsdecode(name): b"lower"}), "other": ""}
    mount = both(layer)
    os.setxattr(mount / "other", name, b"set")
    for when in three_times(mount):
        assert os.getxattr(mount / "lower", name) == b"lower", when
        assert os.getxattr(mount / "other", name) == b"set", when
        assert [os.fsencode(shown) for shown in os.listxattr(mount / "other")] == [name], when
    (mount / "lower").write_text("copied up")
    for when in three_times(mount):
        assert os.getxattr(mount / "lower", name) == b"lower", when


def test_names_that_are_too_long(both: Mounts[Mount]) -> None:
    mount = both(LAYER)
    with pytest.raises(OSError, match=r".") as caught:
        os.setxattr(mount / "file", "user." + "n" * 251, b"")
    assert caught.value.errno == errno.ERANGE


def _set_error(path: Path, size: int) -> int:
    """What is said to a value of so many bytes; 0 when it is taken."""
    try:
        os.setxattr(path, "user.bigger", b"d" * size)
    except OSError as error:
        return error.errno or 0
    os.removexattr(path, "user.bigger")
    return 0


def test_big_values(both: Mounts[Mount], directory: Path) -> None:
    mount = both({"file": File(xattrs={"user.big": b"b" * 3900}), "other": ""})
    os.setxattr(mount / "other", "user.big", b"c" * 3900)
    (directory / "plain").touch()
    os.setxattr(directory / "plain", "user.big", b"c" * 3900)
    # How much fits is for the upper's file system to say.
    for size in (10_000, 60_000, 65_537):
        assert _set_error(mount / "other", size) == _set_error(directory / "plain", size), size
    (mount / "file").write_text("copied up")
    for when in three_times(mount):
        assert os.getxattr(mount / "file", "user.big") == b"b" * 3900, when
        assert _xattrs(mount / "other") == {"user.big": b"c" * 3900}, when


def test_sizes_of_buffers(both: Mounts[Mount]) -> None:
    mount = both({"file": File(xattrs={"user.a": b"12345", "user.b": b""})})
    path = mount / "file"
    for when in three_times(mount):
        for size in (0, 5, 6):
            assert linux.getxattr_sized(path, b"user.a", size) == 5, when
        assert linux.getxattr_sized(path, b"user.b", 0) == 0, when
        names = len(b"user.a\0user.b\0")
        for size in (0, names, names + 1):
            assert linux.listxattr_sized(path, size) == names, when
        with pytest.raises(OSError, match="out of range"):
            linux.getxattr_sized(path, b"user.a", 4)
        with pytest.raises(OSError, match="out of range"):
            linux.listxattr_sized(path, names - 1)


def test_100_attributes(both: Mounts[Mount]) -> None:
    attributes = {f"user.{number}": str(number).encode() for number in range(100)}
    mount = both({"file": File(xattrs=attributes)})
    (mount / "file").write_text("copied up")
    for when in three_times(mount):
        assert _xattrs(mount / "file") == attributes, when


def test_attributes_follow_a_rename(both: Mounts[Mount]) -> None:
    mount = both(LAYER)
    os.rename(mount / "file", mount / "dir" / "file")
    os.rename(mount / "dir", mount / "new")
    for when in three_times(mount):
        assert _xattrs(mount / "new" / "file") == VALUES, when
        assert _xattrs(mount / "new") == VALUES, when


# Users


def test_user_attributes_need_the_permissions_of_the_file(both: Mounts[Mount]) -> None:
    mount = both({"read": File(mode=0o644, xattrs=VALUES), "closed": File(mode=0, xattrs=VALUES)})
    with linux.user(1000):
        assert os.getxattr(mount / "read", "user.a") == b"1"
        for name in ("read", "closed"):
            with pytest.raises(PermissionError):
                os.setxattr(mount / name, "user.a", b"2")
            with pytest.raises(PermissionError):
                os.removexattr(mount / name, "user.a")
        with pytest.raises(PermissionError):
            os.getxattr(mount / "closed", "user.a")
    assert os.listdir(mount.changes) == []


def test_trusted_and_security_attributes_are_not_for_users(both: Mounts[Mount]) -> None:
    mount = both({"file": File(mode=0o666, uid=1000, xattrs=VALUES)})
    with linux.user(1000):
        assert "trusted.t" not in os.listxattr(mount / "file")
        with pytest.raises(OSError, match="No data available"):
            os.getxattr(mount / "file", "trusted.t")
        assert os.getxattr(mount / "file", "security.s") == b"3"
        for name in ("trusted.t", "security.s"):
            with pytest.raises(PermissionError):
                os.setxattr(mount / "file", name, b"")
            with pytest.raises(PermissionError):
                os.removexattr(mount / "file", name)
        os.setxattr(mount / "file", "user.mine", b"")
    for when in three_times(mount):
        assert _xattrs(mount / "file") == {**VALUES, "user.mine": b""}, when


# Marks


@pytest.mark.parametrize("mark", MARKS)
def test_marks_are_hidden(union: Mounts[UnionMount], mark: str) -> None:
    marked = Directory({"a": ""}, xattrs={mark: b"n", "user.mine": b""})
    mount = union({"d": {"b": ""}}, {"d": marked}, {"f": File(xattrs={mark: b"n"})})
    for when in three_times(mount):
        assert os.listxattr(mount / "d") == ["user.mine"], when
        assert os.listxattr(mount / "f") == [], when
        for name in "df":
            with pytest.raises(OSError, match="No data available"):
                os.getxattr(mount / name, mark)


@pytest.mark.parametrize("mark", MARKS)
def test_marks_cannot_be_set(union: Mounts[UnionMount], mark: str) -> None:
    mount = union({"d": {"b": ""}, "f": ""}, upper={"upper": ""})
    for name in ("d", "f", "upper"):
        with pytest.raises(PermissionError):
            os.setxattr(mount / name, mark, b"y")
        with pytest.raises(OSError, match=r".") as caught:
            os.removexattr(mount / name, mark)
        assert caught.value.errno in (errno.EPERM, errno.ENODATA), name
    assert os.listdir(mount.changes) == ["upper"]
    for when in three_times(mount):
        assert os.listdir(mount / "d") == ["b"], when


def test_marks_of_our_own_are_hidden(both: Mounts[Mount]) -> None:
    mount = both({"d": {"a": ""}, "e": {}, "f": "", "g": ""})
    os.rename(mount / "d", mount / "redirected")
    (mount / "e").rmdir()
    (mount / "e").mkdir()
    (mount / "f").write_text("copied up")
    os.link(mount / "g", mount / "linked")
    for when in three_times(mount):
        for path in (mount.path, *mount.path.rglob("*")):
            assert os.listxattr(path) == [], (path, when)


def test_marks_are_not_copied_up(union: Mounts[UnionMount]) -> None:
    """They say something of the layer they lie in, and would say it wrongly of the upper."""
    marks = dict.fromkeys(MARKS, b"y")
    file = File("content", xattrs=dict.fromkeys(MARKS, b"n") | {"user.mine": b""})
    mount = union({"d": {"b": ""}}, {"d": Directory({"f": file}, xattrs=marks)})
    (mount / "d" / "f").write_text("copied up")
    for when in three_times(mount):
        assert os.listdir(mount / "d") == ["f"], when
    mount.unmount()
    assert "user.fuseoverlayfs.opaque" not in os.listxattr(mount.changes / "d")
    assert os.getxattr(mount.changes / "d" / "f", "user.mine") == b""
    assert "user.fuseoverlayfs.opaque" not in os.listxattr(mount.changes / "d" / "f")
