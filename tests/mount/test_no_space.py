"""A full disk, and every other want: the caller is told which, nothing else changes, and it passes.

The disks are small ones of their own, filled beside the upper.
"""

import errno
import mmap
import os
import random
import subprocess
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

import pytest

from tests.support import linux
from tests.support.command import read_until
from tests.support.filesystems import FileSystems
from tests.support.layers import Symlink, Tree, build, copies
from tests.support.mounts import COMMAND, KernelMount, Mount, Mounts, UnionMount, three_times
from tests.support.snapshots import differences, snapshot

_CONTENT = "content" * 1000
_PLACE: Tree = {
    "file": _CONTENT,
    "other": "other",
    "empty": {},
    "sub": {"file": _CONTENT},
    "link": Symlink("file"),
}
_OPERATIONS: dict[str, Callable[[Path], object]] = {
    "create": lambda d: (d / "new").touch(),
    "make a directory": lambda d: (d / "new").mkdir(),
    "make a link": lambda d: (d / "new").symlink_to("x" * 100),
    "make a fifo": lambda d: os.mkfifo(d / "new"),
    "give a name": lambda d: os.link(d / "file", d / "new"),
    "append": lambda d: _append(d / "file", b"more"),
    "truncate": lambda d: os.truncate(d / "file", 10),
    "change the mode": lambda d: (d / "file").chmod(0o600),
    "change the times of a link": lambda d: os.utime(d / "link", ns=(0, 0), follow_symlinks=False),
    "change a directory's mode": lambda d: (d / "empty").chmod(0o700),
    "set an attribute": lambda d: os.setxattr(d / "file", "user.new", b"x" * 300),
    "rename a file": lambda d: (d / "file").rename(d / "new"),
    "rename over a file": lambda d: (d / "file").rename(d / "other"),
    "rename a directory": lambda d: (d / "sub").rename(d / "new"),
    "rename over a directory": lambda d: (d / "sub").rename(d / "empty"),
    "remove a file": lambda d: (d / "file").unlink(),
    "remove a directory": lambda d: (d / "empty").rmdir(),
}
_LAYER = copies(_PLACE, _OPERATIONS)


_FULL = os.strerror(errno.ENOSPC)


def _append(path: Path, data: bytes) -> None:
    with open(path, "ab", buffering=0) as file:
        file.write(data)


class _EndsFull:
    """The block, which would go on for ever, ends when no room is left."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        return isinstance(error, OSError) and error.errno == errno.ENOSPC


class _Disk:
    """A small file system with an upper and a work directory, and what fills the rest of it."""

    def __init__(self, root: Path) -> None:
        self.upper, self.work = root / "upper", root / "work"
        self._ballast = root / "ballast"
        for path in (self.upper, self.work, self._ballast):
            build(path, {})

    def fill(self, *, blocks: bool = True) -> None:
        """Leave no room for another file, nor for another block."""
        if blocks:
            with linux.opened(self._ballast / "blocks", os.O_CREAT | os.O_WRONLY) as descriptor:
                end, size = 0, 1 << 30
                while size >= 512:
                    with _EndsFull():
                        while True:
                            os.posix_fallocate(descriptor, end, size)
                            end += size
                    size >>= 1
        with _EndsFull():
            for number in count():
                (self._ballast / str(number)).touch()

    def make_room(self) -> None:
        for path in self._ballast.iterdir():
            path.unlink()


def _disk(filesystems: FileSystems, kind: str) -> _Disk:
    if kind == "tmpfs":
        return _Disk(filesystems.tmpfs(options="size=4m,nr_inodes=2000"))
    return _Disk(filesystems.image(kind, 300 if kind == "xfs" else 8))


@pytest.mark.parametrize(
    ("kind", "blocks"),
    [("ext4", True), ("xfs", True), ("tmpfs", True), ("ext4", False), ("tmpfs", False)],
    ids=["ext4", "xfs", "tmpfs", "inodes of ext4", "inodes of tmpfs"],
)
def test_what_finds_no_room_changes_nothing_and_works_later(
    both: Mounts[Mount], filesystems: FileSystems, kind: str, blocks: bool
) -> None:
    disk = _disk(filesystems, kind)
    mount = both(_LAYER, upper=disk.upper, work=disk.work)
    roomy = both(_LAYER)
    lists_whiteouts = isinstance(mount, KernelMount)
    if not blocks:
        # Directories that are in the upper already have room for names.
        for name in _OPERATIONS:
            os.utime(mount / name)
            os.utime(roomy / name)
    before = snapshot(mount.path)
    disk.fill(blocks=blocks)
    for name, act in _OPERATIONS.items():
        with pytest.raises(OSError, match=_FULL):
            act(mount / name)
        assert differences(before, snapshot(mount.path)) == [], name
    disk.make_room()
    for name, act in _OPERATIONS.items():
        act(mount / name)
        act(roomy / name)
    after = snapshot(roomy.path, lists_whiteouts=lists_whiteouts)
    for when in three_times(mount):
        now = snapshot(mount.path, lists_whiteouts=lists_whiteouts)
        assert differences(after, now) == [], when
    mount.unmount()
    assert os.listdir(disk.work / "work") == []


@pytest.mark.parametrize("kind", ["ext4", "tmpfs"])
def test_what_was_written_is_there_and_removing_makes_room(
    both: Mounts[Mount], filesystems: FileSystems, kind: str
) -> None:
    data = random.Random(3).randbytes(16 << 20)
    disk = _disk(filesystems, kind)
    mount = both({"below": "below"}, upper=disk.upper, work=disk.work)
    end = 0
    with linux.opened(mount / "file", os.O_CREAT | os.O_WRONLY) as descriptor, _EndsFull():
        while True:
            end += os.write(descriptor, data[end : end + 50_000])
    assert end > 1 << 20
    mount.drop_caches()
    assert (mount / "file").read_bytes() == data[:end]
    # A whiteout needs no block.
    (mount / "below").unlink()
    (mount / "file").unlink()
    (mount / "new").write_bytes(data[: 1 << 20])
    for when in three_times(mount):
        assert os.listdir(mount.path) == ["new"], when
        assert (mount / "new").read_bytes() == data[: 1 << 20], when


@pytest.mark.kernel_differs("copies the whole file to cut it")
@pytest.mark.parametrize("kind", ["ext4", "tmpfs"])
def test_a_copy_that_finds_no_room_gives_back_what_it_took(
    both: Mounts[Mount], filesystems: FileSystems, kind: str
) -> None:
    content = random.Random(4).randbytes(20 << 20)
    disk = _disk(filesystems, kind)
    mount = both({"file": content}, upper=disk.upper, work=disk.work)
    free = os.statvfs(mount.path).f_bfree
    for _ in range(3):
        with pytest.raises(OSError, match=_FULL):
            _append(mount / "file", b"more")
    assert os.statvfs(mount.path).f_bfree == free
    assert (mount / "file").read_bytes() == content
    os.truncate(mount / "file", 1 << 20)
    for when in three_times(mount):
        assert (mount / "file").read_bytes() == content[: 1 << 20], when


@pytest.mark.needs_stock
def test_a_map_whose_pages_find_no_room_is_told_when_it_is_synced(
    union: Mounts[UnionMount], filesystems: FileSystems
) -> None:
    disk = _disk(filesystems, "ext4")
    mount = union({}, upper=disk.upper, work=disk.work)
    with linux.opened(mount / "file", os.O_CREAT | os.O_RDWR) as descriptor:
        os.ftruncate(descriptor, 1 << 20)
        disk.fill()
        with mmap.mmap(descriptor, 1 << 20) as shared:
            shared[:] = b"x" * (1 << 20)
            with pytest.raises(OSError, match=_FULL):
                shared.flush()
        disk.make_room()
        os.pwrite(descriptor, b"y" * (1 << 20), 0)
        os.fsync(descriptor)
    mount.remount()
    assert (mount / "file").read_bytes() == b"y" * (1 << 20)


def test_without_descriptors_left_nothing_is_lost_and_with_some_again_all_works(
    union: Mounts[UnionMount],
) -> None:
    names = [str(number) for number in range(300)]
    mount = union(
        {"d": dict.fromkeys(names, "below"), **_LAYER},
        command=["prlimit", "--nofile=200", *COMMAND],
    )
    before = snapshot(mount.path)
    mount.remount()
    with ExitStack() as opened:
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            deque(opened.enter_context(linux.opened(mount / "d" / name)) for name in names)
        for name, act in _OPERATIONS.items():
            with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
                act(mount / name)
    assert differences(before, snapshot(mount.path)) == []
    for name, act in _OPERATIONS.items():
        act(mount / name)
    for name in names:
        _append(mount / "d" / name, b"more")
    mount.remount()
    assert {(mount / "d" / name).read_text() for name in names} == {"belowmore"}


# What the daemon calls for it, the error that call gives, and how the program asks for it.
_INJECTED: list[tuple[str, int, Callable[[Path], object]]] = [
    ("mkdirat", errno.EDQUOT, lambda root: (root / "new").mkdir()),
    ("mknodat", errno.ENOSPC, lambda root: (root / "file").unlink()),
    ("renameat,renameat2", errno.EROFS, lambda root: (root / "own").rename(root / "new")),
    ("copy_file_range", errno.ENOSPC, lambda root: _append(root / "file", b"more")),
    ("pwrite64", errno.EDQUOT, lambda root: _append(root / "own", b"more")),
    ("fsync", errno.EIO, lambda root: _sync(root / "own")),
    ("chown,lchown,fchownat", errno.EROFS, lambda root: os.chown(root / "own", 1, 1)),
    ("setxattr,lsetxattr", errno.ENOSPC, lambda root: os.setxattr(root / "own", "user.x", b"")),
    ("getxattr,lgetxattr", errno.EIO, lambda root: os.getxattr(root / "own", "user.y")),
    ("openat", errno.ENFILE, lambda root: (root / "file").read_bytes()),
    ("pread64", errno.EIO, lambda root: (root / "file").read_bytes()),
    ("getdents64", errno.EIO, lambda root: os.listdir(root / "sub")),
    ("fstatfs", errno.ENOMEM, os.statvfs),
]


def _sync(path: Path) -> None:
    with linux.opened(path, os.O_RDWR) as descriptor:
        os.fsync(descriptor)


@contextmanager
def _failing(process: int, calls: str, code: int) -> Iterator[None]:
    """The system calls of these names that the process makes fail."""
    tamper = f"inject={calls}:error={errno.errorcode[code]}"
    words = ["strace", "-f", "-p", str(process), "-e", f"trace={calls}", "-e", tamper]
    with subprocess.Popen(words, stderr=subprocess.PIPE) as strace:
        try:
            read_until(strace.stderr, b"attached")
            yield
        finally:
            strace.terminate()
            read_until(strace.stderr, b"")


@pytest.mark.needs_stock
def test_an_error_of_the_daemons_calls_is_the_callers(union: Mounts[UnionMount]) -> None:
    mount = union({**_PLACE}, upper={"own": "own"})
    before = snapshot(mount.path)
    for calls, code, act in _INJECTED:
        mount.drop_caches()
        with (
            _failing(mount.pid, calls, code),
            pytest.raises(OSError, match=os.strerror(code)),
        ):
            act(mount.path)
        assert differences(before, snapshot(mount.path)) == [], calls
