"""The Linux calls that the tests need and Python lacks, with Python's errors."""

import ctypes
import errno
import fcntl
import os
import select
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

AT_FDCWD = -100
AT_SYMLINK_FOLLOW, AT_EMPTY_PATH = 0x400, 0x1000
MNT_DETACH = 2
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND = 1, 2, 4, 32, 4096
RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
MS_REC, _MS_PRIVATE = 1 << 14, 1 << 18
_CLONE_NEWNS = 0x00020000
_IN_CHANGES = 0x100 | 0x80 | 0x2  # created, moved here, written
IN_OPEN = 0x20
IN_ACCESS = 0x1
_DROP_CACHES = Path("/proc/sys/vm/drop_caches")
UTIME_OMIT = (1 << 30) - 2
UTIME_NOW = (1 << 30) - 1
XATTR_CREATE, XATTR_REPLACE = 1, 2
_SYS_GETDENTS64 = 217 if os.uname().machine == "x86_64" else 61


def _checked(result: int, path: object = None) -> int:
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)
    return result


def _bytes(path: Path | str | bytes) -> bytes:
    return os.fsencode(path)


def mount(source: str, target: Path, fstype: str, flags: int = 0, data: bytes = b"") -> None:
    _checked(
        _libc.mount(
            _bytes(source), _bytes(target), fstype.encode(), ctypes.c_ulong(flags), data or None
        ),
        target,
    )


def umount(target: Path, flags: int = 0) -> None:
    """Unmount; a process that only looks at all mounts in passing, as df does, is waited for."""
    deadline = time.monotonic() + 5
    while True:
        try:
            _checked(_libc.umount2(_bytes(target), flags), target)
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            os.sched_yield()
        else:
            return


def leave_mount_namespace() -> None:
    """Mount from now on where no other process sees it, but those that this one starts."""
    _checked(_libc.unshare(_CLONE_NEWNS))
    mount("none", Path("/"), "none", MS_REC | _MS_PRIVATE)


def syncfs(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        _checked(_libc.syncfs(descriptor), path)
    finally:
        os.close(descriptor)


def renameat2(source: Path, target: Path, flags: int) -> None:
    _checked(
        _libc.renameat2(AT_FDCWD, _bytes(source), AT_FDCWD, _bytes(target), flags),
        source,
    )


def linkat(source: bytes, target: Path, flags: int, directory: int = AT_FDCWD) -> None:
    _checked(_libc.linkat(directory, source, AT_FDCWD, _bytes(target), flags), target)


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


def utimensat(path: Path, atime: tuple[int, int], mtime: tuple[int, int]) -> None:
    """Set times as (seconds, nanoseconds); the latter may be UTIME_OMIT or UTIME_NOW."""
    times = (_Timespec * 2)(_Timespec(*atime), _Timespec(*mtime))
    _checked(_libc.utimensat(AT_FDCWD, _bytes(path), times, 0), path)


def getxattr_sized(path: Path, name: bytes, size: int) -> int:
    """What getxattr(2) returns for a buffer of `size` bytes."""
    return _checked(
        _libc.getxattr(_bytes(path), name, ctypes.create_string_buffer(size), size), path
    )


def listxattr_sized(path: Path, size: int) -> int:
    """What listxattr(2) returns for a buffer of `size` bytes."""
    return _checked(_libc.listxattr(_bytes(path), ctypes.create_string_buffer(size), size), path)


class Dirent(NamedTuple):
    ino: int
    off: int
    kind: int
    name: bytes


def getdents(descriptor: int, size: int = 32768) -> list[Dirent]:
    """One getdents64(2) with a buffer of `size` bytes; an empty list at the end."""
    buffer = ctypes.create_string_buffer(size)
    end = _checked(
        _libc.syscall(
            ctypes.c_long(_SYS_GETDENTS64),
            ctypes.c_long(descriptor),
            buffer,
            ctypes.c_long(size),
        )
    )
    entries = []
    start = 0
    while start < end:
        ino, off, length, kind = struct.unpack_from("=QqHB", buffer, start)
        name = buffer.raw[start + 19 : start + length].split(b"\0", 1)[0]
        entries.append(Dirent(ino, off, kind, name))
        start += length
    return entries


def list_directory(path: Path, size: int = 32768) -> list[Dirent]:
    """All of a directory by getdents64(2) in buffers of `size` bytes."""
    with opened(path, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
        entries = []
        while batch := getdents(descriptor, size):
            entries += batch
        return entries


@contextmanager
def opened(path: Path | str | bytes, flags: int = os.O_RDONLY, mode: int = 0o644) -> Iterator[int]:
    descriptor = os.open(path, flags, mode)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def opened_at(directory: int, name: str, flags: int = os.O_RDONLY) -> Iterator[int]:
    descriptor = os.open(name, flags, 0o644, dir_fd=directory)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def user(uid: int, gid: int | None = None, groups: tuple[int, ...] = ()) -> Iterator[None]:
    """Be another user, without capabilities, for everything the file system decides."""
    former = os.getgroups()
    os.setgroups(groups)
    os.setegid(uid if gid is None else gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(former)


@contextmanager
def umask(mask: int) -> Iterator[None]:
    former = os.umask(mask)
    try:
        yield
    finally:
        os.umask(former)


def data_extents(path: Path) -> list[tuple[int, int]]:
    """Where a file has data, as (start, end) in bytes, by SEEK_DATA and SEEK_HOLE."""
    extents: list[tuple[int, int]] = []
    with opened(path) as descriptor:
        end = 0
        while True:
            try:
                start = os.lseek(descriptor, end, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return extents
                raise
            end = os.lseek(descriptor, start, os.SEEK_HOLE)
            extents.append((start, end))


def drop_caches(*, pages: bool) -> None:
    """Have the kernel forget every name and inode that nobody uses, and perhaps every page."""
    with opened(_DROP_CACHES, os.O_WRONLY) as switch:
        fcntl.flock(switch, fcntl.LOCK_EX)
        # Entries in use since the last look survive the first pass.
        for _ in range(2):
            os.pwrite(switch, b"3" if pages else b"2", 0)


@contextmanager
def caches_kept() -> Iterator[None]:
    """No other test has the kernel drop its caches meanwhile; who holds this can't, either."""
    with opened(_DROP_CACHES, os.O_WRONLY) as switch:
        fcntl.flock(switch, fcntl.LOCK_SH)
        yield


@contextmanager
def watched(*directories: Path, events: int = _IN_CHANGES) -> Iterator[select.poll]:
    """Has an event when names appear, or files are written, in one of the directories.

    events: those of inotify(7) to wait for instead.
    """
    descriptor = _checked(_libc.inotify_init1(os.O_CLOEXEC))
    try:
        for path in directories:
            _checked(_libc.inotify_add_watch(descriptor, _bytes(path), events), path)
        wake = select.poll()
        wake.register(descriptor, select.POLLIN)
        yield wake
    finally:
        os.close(descriptor)


def mounts_below(directory: Path) -> list[Path]:
    """The mount points at or below a directory, the last one mounted first."""
    found = []
    with open("/proc/self/mountinfo", "rb") as table:
        for line in table:
            point = line.split()[4].decode("unicode_escape").encode("latin-1")
            path = Path(os.fsdecode(point))
            if path == directory or directory in path.parents:
                found.append(path)
    return found[::-1]


def wait_for(condition: Callable[[], bool], seconds: float, *, wake: select.poll) -> bool:
    """Whether the condition came true in time; it is looked at when `wake` has an event."""
    deadline = time.monotonic() + seconds
    while not condition():
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        wake.poll(left * 1000)
    return True


def wait_for_exit(pid: int, seconds: float) -> bool:
    """Whether the process, which nobody has waited for yet, ended in time."""
    descriptor = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    finally:
        os.close(descriptor)
