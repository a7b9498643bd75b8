"""POSIX access control lists: kept, inherited and enforced."""

import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.support import linux
from tests.support.acls import ACCESS, DEFAULT, acl, has_acl, set_acl
from tests.support.layers import Directory, File, Tree
from tests.support.mounts import Mount, Mounts, UnionMount, three_times

# uid 1000 may read, group 2000 may read and write what the mask lets it: read.
READERS = "u::rw-,u:1000:r--,g::---,g:2000:rw-,m::r--,o::---"
INHERITED = "u::rwx,u:1000:rwx,g::r-x,g:2000:r--,m::rwx,o::---"
LAYER: Tree = {
    "file": File("content", mode=0o640, xattrs={ACCESS: acl(READERS)}),
    "plain": File("content", mode=0o600),
    "dir": Directory({}, mode=0o771, xattrs={DEFAULT: acl(INHERITED)}),
}


def _may_read(path: Path) -> bool:
    try:
        path.read_bytes()
    except PermissionError:
        return False
    return True


def _may_write(path: Path) -> bool:
    try:
        with linux.opened(path, os.O_WRONLY):
            return True
    except PermissionError:
        return False


@pytest.mark.parametrize("copied_up", [False, True])
def test_an_acl_of_a_layer_is_enforced(both: Mounts[Mount], copied_up: bool) -> None:
    mount = both(LAYER)
    file = mount / "file"
    if copied_up:
        with open(file, "ab") as opened:
            opened.write(b" more")
    for when in three_times(mount):
        assert has_acl(file, READERS), when
        with linux.user(1000):
            assert _may_read(file), when
            assert not _may_write(file), when
        with linux.user(1001, groups=(2000,)):
            assert _may_read(file), when
            # The mask takes it away.
            assert not _may_write(file), when
        with linux.user(1001):
            assert not _may_read(file), when


@pytest.mark.parametrize("name", ["plain", "new"])
def test_an_acl_set_in_the_mount_is_enforced(both: Mounts[Mount], name: str) -> None:
    mount = both(LAYER)
    file = mount / name
    file.touch()
    with linux.user(1000):
        assert _may_read(file) == (name == "new")
    set_acl(file, "u::rw-,u:1000:-w-,u:1001:---,g::r--,m::rw-,o::r--")
    for when in three_times(mount):
        assert stat.S_IMODE(file.stat().st_mode) == 0o664, when
        with linux.user(1000):
            assert _may_write(file), when
            assert not _may_read(file), when
        with linux.user(1001):
            assert not _may_read(file), when
        with linux.user(1002):
            assert _may_read(file), when


def test_an_acl_that_says_no_more_than_the_mode(both: Mounts[Mount]) -> None:
    mount = both(LAYER)
    set_acl(mount / "file", "u::r--,g::-w-,o::--x")
    for when in three_times(mount):
        assert stat.S_IMODE((mount / "file").stat().st_mode) == 0o421, when
        assert ACCESS not in os.listxattr(mount / "file"), when


def test_removing_an_acl(both: Mounts[Mount]) -> None:
    mount = both(LAYER)
    os.removexattr(mount / "file", ACCESS)
    os.removexattr(mount / "dir", DEFAULT)
    for when in three_times(mount):
        assert os.listxattr(mount / "file") == [], when
        assert os.listxattr(mount / "dir") == [], when
        with linux.user(1000):
            assert not _may_read(mount / "file"), when


def test_chmod_changes_the_mask(both: Mounts[Mount]) -> None:
    mount = both(LAYER)
    (mount / "file").chmod(0o664)
    expected = "u::rw-,u:1000:r--,g::---,g:2000:rw-,m::rw-,o::r--"
    for when in three_times(mount):
        assert has_acl(mount / "file", expected), when
        assert stat.S_IMODE((mount / "file").stat().st_mode) == 0o664, when
        with linux.user(1001, groups=(2000,)):
            assert _may_write(mount / "file"), when


def test_a_default_acl_is_inherited(both: Mounts[Mount]) -> None:
    """In place of the umask."""
    mount = both(LAYER)
    directory = mount / "dir"
    with linux.umask(0o077):
        (directory / "file").touch(0o666)
        (directory / "below").mkdir(0o777)
        (directory / "below" / "file").touch(0o640)
        os.mkfifo(directory / "fifo", 0o666)
    for when in three_times(mount):
        for name in ("file", "fifo"):
            path = directory / name
            assert stat.S_IMODE(path.stat().st_mode) == 0o660, (name, when)
            shown = "u::rw-,u:1000:rwx,g::r-x,g:2000:r--,m::rw-,o::---"
            assert has_acl(path, shown), (name, when)
            assert DEFAULT not in os.listxattr(path), (name, when)
        assert stat.S_IMODE((directory / "below").stat().st_mode) == 0o770, when
        assert has_acl(directory / "below", INHERITED), when
        assert has_acl(directory / "below", INHERITED, DEFAULT), when
        assert stat.S_IMODE((directory / "below" / "file").stat().st_mode) == 0o640, when
        with linux.user(1000):
            assert _may_write(directory / "below" / "file") is False, when
            assert _may_read(directory / "below" / "file"), when


def test_a_default_acl_set_in_the_mount_is_inherited(both: Mounts[Mount]) -> None:
    mount = both({"d": {}})
    set_acl(mount / "d", INHERITED, DEFAULT)
    with linux.umask(0o022):
        (mount / "d" / "file").touch(0o666)
        (mount / "d" / "link").symlink_to("file")
    for when in three_times(mount):
        assert stat.S_IMODE((mount / "d" / "file").stat().st_mode) == 0o660, when
        assert os.listxattr(mount / "d" / "link", follow_symlinks=False) == [], when


def test_the_umask_holds_where_no_default_acl_is(both: Mounts[Mount]) -> None:
    mount = both({"d": {}})
    with linux.umask(0o027):
        (mount / "d" / "file").touch(0o666)
        (mount / "d" / "below").mkdir(0o777)
    for when in three_times(mount):
        assert stat.S_IMODE((mount / "d" / "file").stat().st_mode) == 0o640, when
        assert stat.S_IMODE((mount / "d" / "below").stat().st_mode) == 0o750, when


def test_copy_up_inherits_nothing(both: Mounts[Mount]) -> None:
    """A default ACL works on what is made anew, and what is copied up isn't."""
    base = Directory({"file": File("content", mode=0o600), "below": {}}, mode=0o700)
    mount = both({"dir": base}, {"dir": Directory(mode=0o700, xattrs={DEFAULT: acl(INHERITED)})})
    (mount / "dir" / "file").write_text("changed")
    os.utime(mount / "dir" / "below", ns=(1, 1))
    for when in three_times(mount):
        assert os.listxattr(mount / "dir" / "file") == [], when
        assert stat.S_IMODE((mount / "dir" / "file").stat().st_mode) == 0o600, when
        assert os.listxattr(mount / "dir" / "below") == [], when
        assert stat.S_IMODE((mount / "dir" / "below").stat().st_mode) == 0o755, when


@pytest.mark.parametrize("kind", [ACCESS, DEFAULT])
def test_acls_are_the_owners_to_set(both: Mounts[Mount], kind: str) -> None:
    mount = both({"dir": Directory(uid=1000, mode=0o777)})
    with linux.user(1001), pytest.raises(PermissionError):
        set_acl(mount / "dir", INHERITED, kind)
    with linux.user(1000):
        set_acl(mount / "dir", INHERITED, kind)
    for when in three_times(mount):
        assert has_acl(mount / "dir", INHERITED, kind), when


def test_what_is_no_acl_is_refused(both: Mounts[Mount]) -> None:
    mount = both(LAYER)
    for value in (b"nonsense", acl("u::rw-,g::r--"), acl("u::rw-,u:1000:r--,g::r--,o::r--")):
        with pytest.raises(OSError, match=r"Invalid argument|Operation not supported"):
            os.setxattr(mount / "file", ACCESS, value)
    with pytest.raises(PermissionError):
        set_acl(mount / "file", INHERITED, DEFAULT)
    assert has_acl(mount / "file", READERS)


def test_setting_an_acl_outside_of_the_group_clears_set_group_id(both: Mounts[Mount]) -> None:
    mount = both({"file": File(mode=0o2755, uid=1000, gid=5000)})
    with linux.user(1000):
        set_acl(mount / "file", "u::rwx,u:1001:r--,g::r-x,m::r-x,o::r-x")
    for when in three_times(mount):
        assert stat.S_IMODE((mount / "file").stat().st_mode) == 0o755, when


def test_setfacl_and_getfacl(both: Mounts[Mount]) -> None:
    mount = both({"d": {"file": ""}})
    subprocess.run(["setfacl", "-m", "u:1000:r,g:2000:rw", mount / "d" / "file"], check=True)
    subprocess.run(["setfacl", "-d", "-m", "u:1000:rwx", mount / "d"], check=True)
    for when in three_times(mount):
        command = ["getfacl", "-cpn", str(mount / "d" / "file"), str(mount / "d")]
        shown = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        assert shown.split() == [
            *("user::rw-", "user:1000:r--", "group::r--", "group:2000:rw-"),
            *("mask::rw-", "other::r--"),
            *("user::rwx", "group::r-x", "other::r-x"),
            *("default:user::rwx", "default:user:1000:rwx", "default:group::r-x"),
            *("default:mask::rwx", "default:other::r-x"),
        ], when


@pytest.mark.parametrize("kind", [ACCESS, DEFAULT])
def test_an_acl_that_is_not_there_can_be_removed(union: Mounts[UnionMount], kind: str) -> None:
    mount = union({"d": {}})
    os.removexattr(mount / "d", kind)
    assert list(mount.changes.iterdir()) == []
    (mount / "d").chmod(0o700)
    os.removexattr(mount / "d", kind)
