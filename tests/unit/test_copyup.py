"""Copies: everything of a file, complete before it has a name, or nothing at all."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import linux
from tests.support.acls import acl
from tests.support.filesystems import FileSystems
from tests.support.layers import (
    OLD,
    Directory,
    Entry,
    File,
    HardLink,
    Node,
    Symlink,
    Tree,
    build,
)
from tests.unit.errors import fail_with, raises
from tests.unit.memory import MemoryLayer
from unionfs import copyup
from unionfs.copyup import Plan
from unionfs.layers.directory import DirectoryLayer
from unionfs.merge import Source
from unionfs.model import Entry as LayerEntry
from unionfs.upper import Upper

MIB = 1 << 20
CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)
"""cap_net_raw=ep, as in capability.h's struct vfs_cap_data."""


# Content


class Content:
    """Copies files below a directory, without an upper."""

    def __init__(self, directory: Path) -> None:
        self.source = directory / "source"
        self.target = directory / "target"
        self.target.touch()

    def copy(self, size: int | None = None) -> None:
        with (
            linux.opened(self.source) as source,
            linux.opened(self.target, os.O_RDWR) as target,
        ):
            size = os.fstat(source).st_size if size is None else size
            copyup.copy_content(source, target, size)


@pytest.fixture
def content(tmp_path: Path) -> Content:
    return Content(tmp_path)


@pytest.fixture
def no_reflink(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unionfs.syscalls.clone_file", fail_with(errno.EOPNOTSUPP))


def test_holes_stay_holes(content: Content) -> None:
    with open(content.source, "wb") as file:
        for offset in (0, 2 * MIB, 5 * MIB):
            file.seek(offset)
            file.write(b"data" * 2048)
        file.truncate(9 * MIB)
    content.copy()
    extents = [(0, 8192), (2 * MIB, 2 * MIB + 8192), (5 * MIB, 5 * MIB + 8192)]
    assert linux.data_extents(content.source) == extents
    assert linux.data_extents(content.target) == extents
    assert content.target.read_bytes() == content.source.read_bytes()


@pytest.mark.parametrize("size", [0, 1, 4096, 3 * MIB])
def test_a_hole_is_copied_as_one(content: Content, size: int) -> None:
    content.source.touch()
    os.truncate(content.source, size)
    content.copy()
    assert content.target.stat().st_size == size
    assert content.target.stat().st_blocks == 0


@pytest.mark.parametrize("size", [0, 1, 5000, 2 * MIB, 3 * MIB + 1])
def test_a_copy_ends_where_it_is_to_end(content: Content, size: int) -> None:
    data = bytes(range(256)) * (4 * MIB // 256)
    content.source.write_bytes(data)
    content.copy(size)
    assert content.target.read_bytes() == data[:size]


def test_blocks_are_shared_where_they_can_be(tmp_path: Path, filesystems: FileSystems) -> None:
    content = Content(filesystems.image("xfs", 300))
    content.source.write_bytes(os.urandom(16 * MIB))
    linux.syncfs(content.source)
    free = os.statvfs(content.source).f_bfree
    for size in (16 * MIB, 12 * MIB + 1, 5000):
        os.truncate(content.target, 0)
        content.copy(size)
        linux.syncfs(content.source)
        after = os.statvfs(content.source)
        assert (free - after.f_bfree) * after.f_frsize < MIB
        assert content.target.read_bytes() == content.source.read_bytes()[:size]


NOT_POSSIBLE = [
    errno.EOPNOTSUPP,
    errno.EXDEV,
    errno.EINVAL,
    errno.ENOTTY,
    errno.ENOSYS,
    errno.EPERM,
]


@pytest.mark.parametrize("number", NOT_POSSIBLE, ids=errno.errorcode.get)
def test_content_is_copied_by_hand_where_the_kernel_cannot(
    content: Content, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr("unionfs.syscalls.clone_file", fail_with(number))
    monkeypatch.setattr(os, "copy_file_range", fail_with(number))
    with open(content.source, "wb") as file:
        file.write(os.urandom(MIB + 5))
        file.seek(3 * MIB)
        file.write(b"end")
    content.copy()
    assert content.target.read_bytes() == content.source.read_bytes()
    assert linux.data_extents(content.target) == linux.data_extents(content.source)


def test_between_filesystems_content_is_copied(tmp_path: Path, filesystems: FileSystems) -> None:
    content = Content(tmp_path)
    content.source = filesystems.tmpfs() / "source"
    content.source.write_bytes(os.urandom(MIB + 5))
    content.copy()
    assert content.target.read_bytes() == content.source.read_bytes()


@pytest.mark.parametrize("call", ["unionfs.syscalls.clone_file", "os.copy_file_range"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_other_errors_are_the_callers(
    content: Content, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    content.source.write_bytes(b"data")
    monkeypatch.setattr("unionfs.syscalls.clone_file", fail_with(errno.EOPNOTSUPP))
    monkeypatch.setattr(call, fail_with(number))
    with raises(number):
        content.copy()


@pytest.mark.usefixtures("no_reflink")
@pytest.mark.parametrize("left", [0, 100, 4096, 2 * MIB])
def test_a_source_that_lost_its_end_is_not_copied(content: Content, left: int) -> None:
    content.source.write_bytes(b"x" * left)
    with raises(errno.ESTALE):
        content.copy(3 * MIB)


@pytest.mark.parametrize("left", [0, 100, 2 * MIB])
def test_nor_is_one_whose_blocks_are_shared(
    tmp_path: Path, filesystems: FileSystems, left: int
) -> None:
    content = Content(filesystems.image("xfs", 300))
    content.source.write_bytes(b"x" * left)
    with raises(errno.ESTALE):
        content.copy(3 * MIB)


@pytest.mark.usefixtures("no_reflink")
@pytest.mark.parametrize("by_hand", [False, True])
def test_a_source_that_loses_its_end_meanwhile_is_not_copied(
    content: Content, monkeypatch: pytest.MonkeyPatch, by_hand: bool
) -> None:
    content.source.write_bytes(b"x" * (3 * MIB))
    copy = os.copy_file_range

    def shrinking(source_fd: int, target_fd: int, count: int, start: int, to: int) -> int:
        copied = copy(source_fd, target_fd, min(count, MIB), start, to)
        os.truncate(content.source, MIB)
        if by_hand:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return copied

    monkeypatch.setattr(os, "copy_file_range", shrinking)
    with raises(errno.ESTALE):
        content.copy()


# Whole copies


class Copies:
    """Copies entries of a layer into the scratch directory of an upper."""

    def __init__(self, directory: Path, layer: Tree, *, volatile: bool = False) -> None:
        for name in ("upper", "work"):
            (directory / name).mkdir()
        self.scratch = directory / "work/work"
        self.layer = DirectoryLayer(bytes(build(directory / "layer", layer)))
        self.upper = Upper(bytes(directory / "upper"), bytes(directory / "work"), volatile=volatile)

    def source(self, name: str) -> Source:
        entry = self.layer.lookup(self.layer.root(), os.fsencode(name))
        assert isinstance(entry, LayerEntry)
        return Source(0, self.layer, entry)

    def plan(self, name: str, **marks: bytes) -> Plan:
        given = [(mark.encode(), value) for mark, value in marks.items()]
        return copyup.plan(self.upper, self.source(name), given)

    def copy(self, name: str, wanted: Plan | None = None, size: int | None = None) -> Path:
        """Copy an entry of the layer's root; answers where its copy is."""
        source = self.source(name)
        wanted = wanted or self.plan(name)
        scratch = self.upper.scratch_name()
        if source.entry.is_regular:
            size = wanted.attributes.st_size if size is None else size
            descriptor = self.layer.open(source.entry)
            try:
                copyup.copy_regular(self.upper, scratch, descriptor, size, wanted)
            finally:
                os.close(descriptor)
        else:
            copyup.copy_other(self.upper, scratch, source, wanted)
        return self.scratch / os.fsdecode(scratch)

    def close(self) -> None:
        self.upper.close()
        self.layer.close()


Make = Callable[..., Copies]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes a layer and an upper: `make(tree)`."""
    with contextlib.ExitStack() as stack:

        def copies(layer: Tree, *, volatile: bool = False) -> Copies:
            made = Copies(tmp_path, layer, volatile=volatile)
            stack.callback(made.close)
            return made

        yield copies


def attributes(path: Path) -> tuple[object, ...]:
    status = path.lstat()
    xattrs = {
        name: os.getxattr(path, name, follow_symlinks=False)
        for name in os.listxattr(path, follow_symlinks=False)
    }
    return (
        oct(status.st_mode),
        status.st_uid,
        status.st_gid,
        status.st_rdev,
        status.st_atime_ns,
        status.st_mtime_ns,
        xattrs,
    )


_ACL = acl("u::rwx,u:1000:r--,g::r-x,m::r-x,o::---")
_OWNED: dict[str, Any] = {"uid": 1000, "gid": 1001, "mtime": OLD + 7}
ENTRIES: dict[str, Entry] = {
    "file": File("content", mode=0o640, xattrs={"user.\udcff": b"\0", "trusted.t": b""}, **_OWNED),
    "set-user-ID": File("content", mode=0o6755, **_OWNED),
    "capability": File("x", mode=0o755, xattrs={"security.capability": CAPABILITY}, **_OWNED),
    "ACL": File("x", mode=0o750, xattrs={"system.posix_acl_access": _ACL}, **_OWNED),
    "no permissions": File("x", mode=0, **_OWNED),
    "directory": Directory(mode=0o3777, xattrs={"user.u": b"1"}, **_OWNED),
    "default ACL": Directory(mode=0o750, xattrs={"system.posix_acl_default": _ACL}, **_OWNED),
    "link": Symlink("/nowhere", xattrs={"trusted.t": b"1"}, **_OWNED),
    "char": Node(stat.S_IFCHR, 1, 3, mode=0o666, xattrs={"trusted.t": b"1"}, **_OWNED),
    "block": Node(stat.S_IFBLK, 7, 200, mode=0o660, **_OWNED),
    "fifo": Node(stat.S_IFIFO, mode=0o622, **_OWNED),
    "socket": Node(stat.S_IFSOCK, mode=0o755, **_OWNED),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_a_copy_has_everything(make: Make, tmp_path: Path, name: str) -> None:
    copies = make({name: ENTRIES[name]})
    copy = copies.copy(name)
    assert attributes(copy) == attributes(tmp_path / "layer" / name)


def test_a_copy_is_a_file_of_its_own(make: Make, tmp_path: Path) -> None:
    copies = make({"a": "content", "b": HardLink("a"), "link": Symlink("target")})
    copy = copies.copy("a")
    assert copy.stat().st_nlink == 1
    assert copy.read_text() == "content"
    assert os.readlink(copies.copy("link")) == "target"


def test_marks_of_the_layer_stay_behind_and_ours_are_set(make: Make) -> None:
    copies = make({"file": File("x", xattrs={"trusted.overlay.origin": b"1", "user.u": b"2"})})
    copy = copies.copy("file", copies.plan("file", redirect=b"old"))
    assert attributes(copy)[-1] == {"user.u": b"2", "trusted.overlay.redirect": b"old"}


def test_a_file_that_cannot_have_a_mark_does_without(make: Make) -> None:
    copies = make({"link": Symlink("target")})
    copies.upper.prefix = b"user.overlay."
    assert attributes(copies.copy("link", copies.plan("link", origin=b"1")))[-1] == {}


def test_attributes_that_the_filesystem_lacks_are_left(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = make({"file": File("x", xattrs={"user.u": b"1"})})
    monkeypatch.setattr(os, "setxattr", fail_with(errno.EOPNOTSUPP))
    assert attributes(copies.copy("file"))[-1] == {}


@pytest.mark.parametrize("name", ["capability", "ACL"])
def test_attributes_that_decide_who_may_do_what_are_not(
    make: Make, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    copies = make({name: ENTRIES[name]})
    monkeypatch.setattr(os, "setxattr", fail_with(errno.EOPNOTSUPP))
    with raises(errno.EOPNOTSUPP):
        copies.copy(name)


@pytest.mark.parametrize(
    ("volatile", "size", "syncs"), [(False, 4, 1), (False, 0, 0), (True, 4, 0)]
)
def test_content_is_on_disk_before_the_copy_is_done(
    make: Make, monkeypatch: pytest.MonkeyPatch, volatile: bool, size: int, syncs: int
) -> None:
    copies = make({"file": File("data", mode=0o4755, **_OWNED)}, volatile=volatile)
    synced: list[os.stat_result] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor)))
    copy = copies.copy("file", size=size)
    assert len(synced) == syncs
    for then in synced:
        now = copy.stat()
        assert then.st_size == now.st_size
        assert then.st_mode == now.st_mode
        assert then.st_mtime_ns == now.st_mtime_ns


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize(
    "call",
    ["chown", "setxattr", "chmod", "utime", "fsync", "copy_file_range", "ftruncate"],
)
def test_a_copy_that_fails_leaves_nothing(
    make: Make, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    copies = make({"file": File("x", size=10_000, xattrs={"user.u": b"1"})})
    monkeypatch.setattr("unionfs.syscalls.clone_file", fail_with(errno.EOPNOTSUPP))
    monkeypatch.setattr(os, call, fail_with(number))
    with raises(number):
        copies.copy("file")
    assert os.listdir(copies.scratch) == []


@pytest.mark.parametrize("name", ["directory", "link", "char", "block", "fifo", "socket"])
def test_a_copy_of_any_type_that_fails_leaves_nothing(
    make: Make, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    copies = make({name: ENTRIES[name]})
    monkeypatch.setattr(os, "utime", fail_with(errno.ENOSPC))
    with raises(errno.ENOSPC):
        copies.copy(name)
    assert os.listdir(copies.scratch) == []


def test_the_index_calls_an_inode_by_its_handle(make: Make) -> None:
    source = make({"file": ""}).source("file")
    assert copyup.index_key(source, b"\x00\xfb") == b"00fb"


def test_the_index_knows_inodes_without_a_handle_apart() -> None:
    keys = {
        copyup.index_key(Source(0, layer, entry), None)
        for identity in ("one", "other")
        for layer in [MemoryLayer({"a": "", "b": HardLink("a"), "c": ""}, identity=identity)]
        for entry in layer.listing(layer.root()).values()
        if isinstance(entry, LayerEntry)
    }
    assert len(keys) == 4
