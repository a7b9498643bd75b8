"""What lsattr(1) shows and chattr(1) sets: inode flags, and the attributes that XFS began with.

All layers lie on a file system of the test's own, where what can't be removed goes with it.
"""

import errno
import fcntl
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import linux
from tests.support.fileops import (
    APPEND,
    IMMUTABLE,
    KEEP_SIZE,
    NOATIME,
    NODUMP,
    PUNCH_HOLE,
    SYNC,
    XFLAG_IMMUTABLE,
    XFLAG_NOATIME,
    XFLAG_NODUMP,
    XFLAG_PROJINHERIT,
    ZERO_RANGE,
    FsXattr,
    add_flags,
    drop_flags,
    fallocate,
    get_flags,
    get_fsxattr,
    set_flags,
    set_fsxattr,
)
from tests.support.filesystems import FileSystems
from tests.support.layers import OLD, Layer, Tree, build
from tests.support.mounts import Mount, Mounts, three_times

PROTECTING = IMMUTABLE | APPEND
SOURCES = ["lower", "upper", "copied"]
FILES: Tree = {"file": "content", "dir": {"in": "in"}}
_EMPTY: Tree = {}


def _disk(filesystems: FileSystems, kind: str) -> Path:
    return filesystems.tmpfs() if kind == "tmpfs" else filesystems.image(kind, 300)


def _mounted(mounts: Mounts[Mount], disk: Path, lower: Layer, upper: Layer = _EMPTY) -> Mount:
    """A mount with layer, upper and work directory on one disk."""
    layers = build(disk / "lower", lower)
    return mounts(layers, upper=build(disk / "upper", upper), work=disk / "work")


def _with_files(mounts: Mounts[Mount], disk: Path, source: str) -> Mount:
    if source == "upper":
        return _mounted(mounts, disk, {}, FILES)
    mount = _mounted(mounts, disk, FILES)
    if source == "copied":
        for name in FILES:
            os.setxattr(mount / name, "user.copied", b"up")
    return mount


def _answer(call: Callable[..., object], *arguments: object, **named: object) -> str:
    """The name of a call's error, or "" for success."""
    try:
        call(*arguments, **named)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ""


def _flagged(root: Path, flags: dict[str, int]) -> None:
    """A layer with a file and a directory, with something in it, for each kind of flags."""
    root.mkdir(exist_ok=True)
    for name, value in flags.items():
        build(root / name, {"file": "content", "dir": {"in": "in"}})
        for path in (root / name / "file", root / name / "dir"):
            add_flags(path, value)


# Asking


@pytest.mark.needs_native
@pytest.mark.parametrize("kind", ["tmpfs", "ext4", "xfs"])
@pytest.mark.parametrize("source", ["lower", "upper"])
def test_flags_are_those_of_the_file_below(
    both: Mounts[Mount], filesystems: FileSystems, source: str, kind: str
) -> None:
    disk = _disk(filesystems, kind)
    flags = {"none": 0, "nodump": NODUMP, "noatime": NOATIME, "both": NODUMP | NOATIME}
    if kind != "tmpfs":
        flags["sync"] = SYNC
    if source == "lower":
        flags |= {"immutable": IMMUTABLE, "append": APPEND}

    def layer(root: Path) -> None:
        _flagged(root, flags)

    mount = _mounted(both, disk, layer) if source == "lower" else _mounted(both, disk, {}, layer)
    below = mount.layers[0] if source == "lower" else mount.changes
    for when in three_times(mount):
        for name, value in flags.items():
            for path in (f"{name}/file", f"{name}/dir"):
                assert get_flags(mount / path) == get_flags(below / path), (path, when)
                assert get_flags(mount / path) & value == value, (path, when)
                assert get_fsxattr(mount / path) == get_fsxattr(below / path), (path, when)
    assert source == "upper" or os.listdir(mount.changes) == []


@pytest.mark.needs_native
def test_asking_needs_an_open_file_and_nothing_else(
    both: Mounts[Mount], filesystems: FileSystems
) -> None:
    mount = _with_files(both, filesystems.tmpfs(), "lower")
    set_flags(mount / "file", NODUMP)
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR | os.O_APPEND):
        with linux.opened(mount / "file", flags) as descriptor:
            (mount / "file").chmod(0)
            with linux.user(1000):
                assert get_flags(descriptor) == NODUMP
                assert get_fsxattr(descriptor).xflags == XFLAG_NODUMP


def test_flags_are_not_asked_for_by_a_name(both: Mounts[Mount], filesystems: FileSystems) -> None:
    """However the data plane asks pyfuse3 for them, no program can ask so."""
    mount = _with_files(both, filesystems.tmpfs(), "copied")
    for name in FILES:
        for call in ("80086601", "4008660240000000", "801c581f", "", "x"):
            assert _answer(os.getxattr, mount / name, f"\1{call}") == "ENOTSUP"
        assert "trusted.overlay.protattr" not in os.listxattr(mount.changes / name)
        assert get_flags(mount.changes / name) == 0


# Setting


@pytest.mark.needs_native
@pytest.mark.parametrize("kind", ["tmpfs", "ext4", "xfs"])
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", ["file", "dir"])
def test_setting_flags(
    both: Mounts[Mount], filesystems: FileSystems, source: str, kind: str, name: str
) -> None:
    mount = _with_files(both, _disk(filesystems, kind), source)
    path, upper = mount / name, mount.changes / name
    before = get_flags(path)
    with linux.opened(path) as older:
        add_flags(path, NODUMP)
        assert get_flags(older) == before | NODUMP
        add_flags(older, NOATIME)
        assert get_flags(path) == before | NODUMP | NOATIME
    for when in three_times(mount):
        assert get_flags(path) == get_flags(upper) == before | NODUMP | NOATIME, when
        assert get_fsxattr(path) == get_fsxattr(upper), when
        assert path.stat().st_mtime_ns == OLD, when
    drop_flags(path, NODUMP)
    for when in three_times(mount):
        assert get_flags(path) == get_flags(upper) == before | NOATIME, when
        assert (mount / "file").read_text() == "content", when
        assert (mount / "dir" / "in").read_text() == "in", when
    if source != "upper":
        assert get_flags(mount.layers[0] / name) == before


@pytest.mark.needs_native
@pytest.mark.parametrize("source", SOURCES)
def test_setting_flags_changes_the_time_of_change(
    both: Mounts[Mount], filesystems: FileSystems, source: str
) -> None:
    mount = _with_files(both, filesystems.tmpfs(), source)
    for name in FILES:
        (mount / name).stat()
        add_flags(mount / name, NODUMP)
        assert (mount / name).stat().st_ctime_ns == (mount.changes / name).stat().st_ctime_ns


@pytest.mark.needs_native
@pytest.mark.parametrize("source", SOURCES)
def test_setting_by_the_other_structure(
    both: Mounts[Mount], filesystems: FileSystems, source: str
) -> None:
    mount = _with_files(both, _disk(filesystems, "xfs"), source)
    for name in FILES:
        before = get_fsxattr(mount / name)
        set_fsxattr(mount / name, xflags=before.xflags | XFLAG_NODUMP | XFLAG_NOATIME)
        assert get_flags(mount / name) & (NODUMP | NOATIME) == NODUMP | NOATIME
        set_fsxattr(mount / name, xflags=before.xflags | XFLAG_NOATIME | XFLAG_IMMUTABLE)
    for when in three_times(mount):
        for name in FILES:
            assert get_flags(mount / name) & (NODUMP | PROTECTING) == IMMUTABLE, when
            assert get_flags(mount.changes / name) & (NOATIME | PROTECTING) == NOATIME, when


@pytest.mark.needs_native
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", ["file", "dir"])
@pytest.mark.parametrize(
    ("flags", "mark"), [(APPEND, b"a"), (IMMUTABLE, b"i"), (APPEND | IMMUTABLE, b"ai")]
)
def test_what_protects_is_a_mark(
    both: Mounts[Mount], filesystems: FileSystems, source: str, name: str, flags: int, mark: bytes
) -> None:
    """The upper's own file has no such flag, or it could neither be renamed nor removed there."""
    mount = _with_files(both, filesystems.tmpfs(), source)
    path, upper = mount / name, mount.changes / name
    add_flags(path, flags | NODUMP)
    for when in three_times(mount):
        assert get_flags(path) == flags | NODUMP, when
        assert get_flags(upper) == NODUMP, when
        assert os.getxattr(upper, "trusted.overlay.protattr") == mark, when
        assert not any("protattr" in attribute for attribute in os.listxattr(path)), when
    drop_flags(path, flags)
    for when in three_times(mount):
        assert get_flags(path) == get_flags(upper) == NODUMP, when
        assert "trusted.overlay.protattr" not in os.listxattr(upper), when


@pytest.mark.needs_native
@pytest.mark.parametrize(("writer", "reader"), [("union", "kernel"), ("kernel", "union")])
def test_protection_is_understood_by_the_other(
    kernel: Mounts[Mount],
    union: Mounts[Mount],
    filesystems: FileSystems,
    writer: str,
    reader: str,
) -> None:
    mounts = {"kernel": kernel, "union": union}
    disk = filesystems.tmpfs()
    layer: Tree = dict.fromkeys(("append", "immutable"), FILES)
    one = _mounted(mounts[writer], disk, layer)
    values = {"append": APPEND, "immutable": IMMUTABLE}
    for name, flags in values.items():
        for path in FILES:
            add_flags(one / name / path, flags | NODUMP)
    one.unmount()
    other = mounts[reader](disk / "lower", upper=disk / "upper", work=disk / "work")
    for name, flags in values.items():
        for path in FILES:
            assert get_flags(other / name / path) == flags | NODUMP
            assert _answer((other / name / path).chmod, 0o600) == "EPERM"
            drop_flags(other / name / path, flags)
    other.unmount()
    one.mount()
    for name in values:
        for path in FILES:
            assert get_flags(one / name / path) == NODUMP
            (one / name / path).chmod(0o700)


# What the flags forbid


_TO_FILE: dict[str, Callable[[Path], object]] = {
    "open to write": lambda path: os.close(os.open(path, os.O_WRONLY)),
    "open to truncate": lambda path: os.close(os.open(path, os.O_RDONLY | os.O_TRUNC)),
    "open to append": lambda path: os.close(os.open(path, os.O_WRONLY | os.O_APPEND)),
    "truncate": lambda path: os.truncate(path, 0),
    "change the mode": lambda path: path.chmod(0o600),
    "change the owner": lambda path: os.chown(path, 1, 1),
    "touch": os.utime,
    "set the times": lambda path: os.utime(path, (1, 1)),
    "set an attribute": lambda path: os.setxattr(path, "user.new", b""),
    "link": lambda path: os.link(path, path.with_name("link")),
    "rename": lambda path: path.rename(path.with_name("renamed")),
    "replace": lambda path: _new_beside(path).rename(path),
    "remove": lambda path: path.unlink(),
}
_TO_DIRECTORY: dict[str, Callable[[Path], object]] = {
    "create": lambda path: (path / "new").touch(),
    "make a directory": lambda path: (path / "newdir").mkdir(),
    "link into": lambda path: os.link(_new_beside(path), path / "linked"),
    "rename into": lambda path: _new_beside(path).rename(path / "moved"),
    "change the mode": lambda path: path.chmod(0o700),
    "touch": os.utime,
    "set an attribute": lambda path: os.setxattr(path, "user.new", b""),
    "change what is in it": lambda path: (path / "in").write_text("changed"),
    "rename inside": lambda path: (path / "in").rename(path / "other"),
    "rename out of": lambda path: (path / "in").rename(path.with_name("out")),
    "remove from": lambda path: (path / "in").unlink(),
    "rename": lambda path: path.rename(path.with_name("renamed")),
    "remove": lambda path: path.rmdir(),
}
_ALLOWED = {
    ("file", IMMUTABLE): set[str](),
    ("file", APPEND): {"open to append", "touch"},
    ("dir", IMMUTABLE): {"change what is in it"},
    ("dir", APPEND): {
        "create",
        "make a directory",
        "link into",
        "rename into",
        "touch",
        "change what is in it",
    },
}


def _new_beside(path: Path) -> Path:
    new = path.with_name("new")
    new.touch()
    return new


@pytest.mark.needs_native
@pytest.mark.parametrize(
    ("source", "how"), [("lower", "below"), *((source, "in the mount") for source in SOURCES)]
)
@pytest.mark.parametrize("name", ["file", "dir"])
@pytest.mark.parametrize("flags", [IMMUTABLE, APPEND])
@pytest.mark.parametrize("fresh", [False, True])
def test_what_flags_forbid(
    both: Mounts[Mount],
    filesystems: FileSystems,
    source: str,
    how: str,
    name: str,
    flags: int,
    fresh: bool,
) -> None:
    """Flags set in the mount, or those of a layer; also after all of it is forgotten."""
    disk = filesystems.tmpfs()
    if how == "below":
        build(disk / "lower", FILES)
        add_flags(disk / "lower" / name, flags)
        mount = _mounted(both, disk, disk / "lower")
    else:
        mount = _with_files(both, disk, source)
        add_flags(mount / name, flags)
    if fresh:
        mount.remount()
    calls = _TO_FILE if name == "file" else _TO_DIRECTORY
    answers = {call: _answer(calls[call], mount / name) for call in calls}
    allowed = _ALLOWED[name, flags]
    assert answers == {call: "" if call in allowed else "EPERM" for call in calls}
    assert get_flags(mount / name) == flags
    drop_flags(mount / name, flags)
    for call in ("change the mode", "set an attribute", "rename"):
        assert _answer(calls[call], mount / name) == "", call
    assert how == "in the mount" or get_flags(mount.layers[0] / name) == flags


@pytest.mark.needs_native
@pytest.mark.parametrize("source", SOURCES)
def test_what_flags_forbid_to_open_files(
    both: Mounts[Mount], filesystems: FileSystems, source: str
) -> None:
    """Who has a file open for writing goes on writing; all else is as if it were not open."""
    mount = _with_files(both, filesystems.tmpfs(), source)
    (mount / "source").write_text("source")
    with (
        linux.opened(mount / "source") as origin,
        linux.opened(mount / "file", os.O_RDWR) as descriptor,
    ):
        calls: dict[str, tuple[Callable[..., object], tuple[object, ...]]] = {
            "write": (os.pwrite, (descriptor, b"x", 0)),
            "allocate": (fallocate, (descriptor, 0, 0, 4096)),
            "allocate, the size kept": (fallocate, (descriptor, KEEP_SIZE, 0, 4096)),
            "punch": (fallocate, (descriptor, PUNCH_HOLE | KEEP_SIZE, 0, 4096)),
            "zero": (fallocate, (descriptor, ZERO_RANGE, 0, 4096)),
            "copy": (os.copy_file_range, (origin, descriptor, 1, 0, 0)),
            "change the mode": (os.fchmod, (descriptor, 0o600)),
            "touch": (os.utime, (descriptor,)),
            "set an attribute": (os.setxattr, (descriptor, "user.x", b"")),
        }
        for flags, allowed in [
            (IMMUTABLE, {"write"}),
            (APPEND, {"write", "allocate", "allocate, the size kept", "copy", "touch"}),
        ]:
            add_flags(descriptor, flags)
            answers = {name: _answer(call, *words) for name, (call, words) in calls.items()}
            assert answers == {name: "" if name in allowed else "EPERM" for name in calls}
            drop_flags(descriptor, flags)


@pytest.mark.needs_native
@pytest.mark.parametrize("source", SOURCES)
def test_flags_of_a_removed_file(
    both: Mounts[Mount], filesystems: FileSystems, source: str
) -> None:
    mount = _with_files(both, filesystems.tmpfs(), source)
    with linux.opened(mount / "file") as reader, linux.opened(mount / "file", os.O_RDWR) as writer:
        (mount / "file").unlink()
        assert get_flags(writer) == 0
        add_flags(writer, NODUMP)
        add_flags(reader, NOATIME)
        assert get_flags(reader) == get_flags(writer) == NODUMP | NOATIME
        (mount / "file").touch()
        assert get_flags(mount / "file") == 0
    for when in three_times(mount):
        assert get_flags(mount / "file") == 0, when


# Copy-up


@pytest.mark.needs_native
@pytest.mark.parametrize("kind", ["tmpfs", "ext4", "xfs"])
@pytest.mark.parametrize("name", ["file", "dir"])
def test_what_a_copy_keeps(
    both: Mounts[Mount], filesystems: FileSystems, kind: str, name: str
) -> None:
    """As the kernel: what concerns reading and writing, and what protects; the rest is dropped."""
    disk = _disk(filesystems, kind)
    flags = {"nodump": NODUMP, "noatime": NOATIME | NODUMP, "append": APPEND | NOATIME}
    kept = {"nodump": 0, "noatime": NOATIME, "append": APPEND | NOATIME}
    if kind != "tmpfs":
        flags["sync"] = kept["sync"] = SYNC
    mount = _mounted(both, disk, lambda root: _flagged(root, flags))
    plain = get_flags(mount / "nodump") if name == "dir" else get_flags(disk / "lower" / "nodump")
    for case in flags:
        os.utime(mount / case / name)
    for when in three_times(mount):
        for case, value in kept.items():
            assert get_flags(mount / case / name) == plain | value, (case, when)
            below = get_flags(mount.changes / case / name)
            assert below == plain | value & ~PROTECTING, (case, when)
    assert os.getxattr(mount.changes / "append" / name, "trusted.overlay.protattr") == b"a"
    for case, value in flags.items():
        assert get_flags(mount.layers[0] / case / name) & value == value


@pytest.mark.needs_native
def test_an_immutable_directory_is_copied_up_for_what_is_below_it(
    both: Mounts[Mount], filesystems: FileSystems
) -> None:
    def layer(root: Path) -> None:
        build(root, {"dir": {"sub": {"file": "content"}}})
        add_flags(root / "dir", IMMUTABLE)

    mount = _mounted(both, filesystems.tmpfs(), layer)
    (mount / "dir" / "sub" / "file").write_text("changed")
    (mount / "dir" / "sub" / "new").touch()
    for when in three_times(mount):
        assert get_flags(mount / "dir") == IMMUTABLE, when
        assert get_flags(mount.changes / "dir") == 0, when
        assert _answer((mount / "dir" / "new").touch) == "EPERM", when
        assert (mount / "dir" / "sub" / "file").read_text() == "changed", when


# Project IDs


@pytest.mark.needs_native
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", ["file", "dir"])
def test_project_ids(both: Mounts[Mount], filesystems: FileSystems, source: str, name: str) -> None:
    mount = _with_files(both, _disk(filesystems, "xfs"), source)
    set_fsxattr(mount / name, projid=42)
    for when in three_times(mount):
        assert get_fsxattr(mount / name).projid == 42, when
        assert get_fsxattr(mount.changes / name).projid == 42, when
    set_fsxattr(mount / name, projid=(1 << 32) - 2)
    for when in three_times(mount):
        assert get_fsxattr(mount / name).projid == (1 << 32) - 2, when
    if source != "upper":
        assert get_fsxattr(mount.layers[0] / name).projid == 0


@pytest.mark.needs_native
def test_a_project_is_inherited(both: Mounts[Mount], filesystems: FileSystems) -> None:
    mount = _with_files(both, _disk(filesystems, "xfs"), "lower")
    before = get_fsxattr(mount / "dir")
    set_fsxattr(mount / "dir", projid=43, xflags=before.xflags | XFLAG_PROJINHERIT)
    (mount / "dir" / "new").touch()
    (mount / "dir" / "newdir").mkdir()
    for when in three_times(mount):
        for name in ("dir", "dir/new", "dir/newdir"):
            assert get_fsxattr(mount / name).projid == 43, (name, when)
        assert get_fsxattr(mount / "dir" / "in").projid == 0, when


@pytest.mark.needs_native
def test_the_project_of_a_lower_file(both: Mounts[Mount], filesystems: FileSystems) -> None:
    """As in the kernel's overlayfs a copy has none."""

    def layer(root: Path) -> None:
        build(root, FILES)
        set_fsxattr(root / "file", projid=7)

    mount = _mounted(both, _disk(filesystems, "xfs"), layer)
    assert get_fsxattr(mount / "file").projid == 7
    (mount / "file").write_text("changed")
    for when in three_times(mount):
        assert get_fsxattr(mount / "file").projid == 0, when


@pytest.mark.needs_native
def test_extent_size_hints(both: Mounts[Mount], filesystems: FileSystems) -> None:
    mount = _with_files(both, _disk(filesystems, "xfs"), "lower")
    before = get_fsxattr(mount / "dir")
    hint = 0x1000  # FS_XFLAG_EXTSZINHERIT
    set_fsxattr(mount / "dir", extsize=65536, xflags=before.xflags | hint)
    expected = FsXattr(before.xflags | hint, 65536, 0, 0)
    for when in three_times(mount):
        assert get_fsxattr(mount / "dir") == get_fsxattr(mount.changes / "dir") == expected, when


# What is refused


@pytest.mark.needs_native
def test_flags_that_the_file_system_has_not(both: Mounts[Mount], filesystems: FileSystems) -> None:
    mount = _with_files(both, filesystems.tmpfs(), "copied")
    for name in FILES:
        for flags in (0x1, 0x4, 0x10000, 0x800000, 1 << 31):
            assert _answer(set_flags, mount / name, flags) == "ENOTSUP", hex(flags)
        for fields in ({"projid": 5}, {"xflags": 0x200}, {"xflags": 1 << 30}):
            assert _answer(set_fsxattr, mount / name, **fields) == "ENOTSUP", fields
        assert get_flags(mount / name) == 0


@pytest.mark.needs_native
def test_who_may_set_flags(both: Mounts[Mount], filesystems: FileSystems) -> None:
    mount = _with_files(both, filesystems.tmpfs(), "lower")
    with linux.user(1000):
        for name in FILES:
            assert get_flags(mount / name) == 0
            assert _answer(set_flags, mount / name, NODUMP) == "EPERM"
    assert os.listdir(mount.changes) == []
    for name in FILES:
        os.chown(mount / name, 1000, 1000)
    with linux.user(1000):
        for name in FILES:
            set_flags(mount / name, NODUMP)
            for flags in (IMMUTABLE, APPEND):
                assert _answer(add_flags, mount / name, flags) == "EPERM"
    for name in FILES:
        add_flags(mount / name, APPEND)
    with linux.user(1000):
        for name in FILES:
            assert _answer(drop_flags, mount / name, APPEND) == "EPERM"
    for when in three_times(mount):
        assert {get_flags(mount / name) for name in FILES} == {NODUMP | APPEND}, when


@pytest.mark.needs_native
def test_a_read_only_mount(both: Mounts[Mount], filesystems: FileSystems) -> None:
    disk = filesystems.tmpfs()

    def layer(root: Path) -> None:
        build(root, FILES)
        for name in FILES:
            add_flags(root / name, NODUMP)

    mount = both(build(disk / "lower", layer), upper=False)
    for name in FILES:
        assert get_flags(mount / name) == NODUMP
        assert _answer(add_flags, mount / name, NOATIME) == "EROFS"
        assert _answer(set_fsxattr, mount / name, xflags=0) == "EROFS"


_OTHER_CALLS = {
    "FS_IOC_GETVERSION": 0x80087601,
    "FS_IOC_SETVERSION": 0x40087602,
    "BLKGETSIZE64": 0x80081272,
    "TCGETS": 0x5401,
    "FS_IOC_GETFSLABEL": 0x81009431,
    "FS_IOC_SETFSLABEL": 0x41009432,
    "EXT4_IOC_MIGRATE": 0x6609,
    "XFS_IOC_FSGEOMETRY": 0x80705865,
    "no such call": 0xC0FF99EE,
}


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_other_calls_do_not_reach_the_file_system_below(
    both: Mounts[Mount], filesystems: FileSystems, kind: str
) -> None:
    mount = _with_files(both, _disk(filesystems, kind), "copied")
    for name in FILES:
        with linux.opened(mount / name) as descriptor:
            for call, number in _OTHER_CALLS.items():
                answer = _answer(fcntl.ioctl, descriptor, number, bytes(512))
                assert answer == "ENOTTY", (name, call)


def test_only_files_and_directories_have_flags(
    both: Mounts[Mount], filesystems: FileSystems
) -> None:
    mount = _with_files(both, filesystems.tmpfs(), "lower")
    os.mkfifo(mount / "fifo")
    assert _answer(get_flags, mount / "fifo") == "ENOTTY"
    assert _answer(set_flags, mount / "fifo", NODUMP) == "ENOTTY"


# The programs


@pytest.mark.needs_native
@pytest.mark.parametrize("kind", ["tmpfs", "ext4", "xfs"])
def test_lsattr_and_chattr(both: Mounts[Mount], filesystems: FileSystems, kind: str) -> None:
    mount = _with_files(both, _disk(filesystems, kind), "lower")

    def chattr(*words: str) -> str:
        return subprocess.run(
            ["chattr", *words], cwd=mount.path, stderr=subprocess.PIPE, text=True, check=False
        ).stderr

    def lsattr() -> dict[str, str]:
        shown = subprocess.run(
            ["lsattr", "-R"], cwd=mount.path, stdout=subprocess.PIPE, text=True, check=True
        ).stdout
        lines = [line.split() for line in shown.splitlines() if " " in line]
        return {name: flags.replace("-", "").replace("e", "") for flags, name in lines}

    assert lsattr() == {"./file": "", "./dir": "", "./dir/in": ""}
    assert chattr("-R", "+dA", "dir") == ""
    assert chattr("+i", "file") == ""
    assert (
        "Operation not permitted"
        in subprocess.run(
            ["rm", "-f", mount / "file"], stderr=subprocess.PIPE, text=True, check=False
        ).stderr
    )
    for _ in three_times(mount):
        assert lsattr() == {"./file": "i", "./dir": "dA", "./dir/in": "dA"}
    assert chattr("-i", "file") == chattr("=", "dir") == chattr("=a", "dir/in") == ""
    for _ in three_times(mount):
        assert lsattr() == {"./file": "", "./dir": "", "./dir/in": "a"}
    if kind == "xfs":
        assert chattr("-p", "99", "file") == ""
        shown = subprocess.run(
            ["lsattr", "-p", "file"], cwd=mount.path, stdout=subprocess.PIPE, text=True, check=True
        ).stdout
        assert shown.split()[0] == "99"
    else:
        assert "Operation not supported" in chattr("-p", "99", "file")
