"""The few Linux calls that Python lacks, each with the errno it failed with."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import os
import struct
from collections.abc import Iterable
from typing import Final

RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2
RENAME_WHITEOUT: Final = 4
SYNC_FILE_RANGE_WRITE: Final = 2
# SYNC_FILE_RANGE_WAIT_BEFORE, _WRITE and _WAIT_AFTER of linux/fs.h.
SYNC_FILE_RANGE_ALL: Final = 1 | 2 | 4

_STATFS_BYTES_MAX: Final = 256
_AT_EMPTY_PATH: Final = 0x1000
_AT_RECURSIVE: Final = 0x8000
_OPEN_TREE_CLONE: Final = 1
_OPEN_TREE_CLOEXEC: Final = os.O_CLOEXEC
_MOUNT_ATTR_RDONLY: Final = 0x1
_MOUNT_ATTR_NODEV: Final = 0x4
_MOUNT_ATTR_NOATIME: Final = 0x10
_MOUNT_ATTR_ATIME_MASK: Final = 0x70
_MS_PRIVATE: Final = 1 << 18
_MOUNT_ATTR_NOSYMFOLLOW: Final = 0x200000
# open_tree(2) and mount_setattr(2) have these numbers on every architecture (they are newer than
# the common table of include/uapi/asm-generic/unistd.h), and glibc 2.31 has no wrapper for them.
_SYS_OPEN_TREE: Final = 428
_SYS_FACCESSAT2: Final = 439
_SYS_MOUNT_SETATTR: Final = 442
_SYS_FCHMODAT2: Final = 452

_FICLONE: Final = 0x40049409
_INITIAL_USER_NAMESPACE: Final = 0xEFFFFFFD
_CAP_SYS_ADMIN: Final = 21
CAP_SYS_RESOURCE: Final = 24
_CAPABILITY_VERSION: Final = 0x20080522
_ALL_IDS: Final = (1 << 32) - 1
_AT_FDCWD: Final = -100
_AT_EACCESS: Final = 0x200
_AT_SYMLINK_NOFOLLOW: Final = 0x100
_FS_IOC_GETFSUUID: Final = 0x80111500

_PR_GET_SECUREBITS: Final = 27
_PR_SET_SECUREBITS: Final = 28
_SECBIT_NO_SETUID_FIXUP: Final = 1 << 2

_HANDLE_BYTES_MAX: Final = 128
_NO_ID: Final = 0xFFFFFFFF

_STATX_BYTES: Final = 256
_STATX_ATTRIBUTES: Final = struct.Struct("=8xQ")

libc: Final = ctypes.CDLL(None, use_errno=True)
libc.renameat2.argtypes = (
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_uint,
)
libc.name_to_handle_at.argtypes = (
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_void_p,
    ctypes.POINTER(ctypes.c_int),
    ctypes.c_int,
)
libc.statx.argtypes = (
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_int,
    ctypes.c_uint,
    ctypes.c_void_p,
)
libc.syscall.restype = ctypes.c_long
for _function in (libc.setfsuid, libc.setfsgid):
    _function.argtypes = (ctypes.c_uint,)
    _function.restype = ctypes.c_uint


def check(result: int, name: bytes = b"") -> int:
    """The result of a call of ``libc``; raises OSError with its errno, for *name*, if it failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), os.fsdecode(name) or None)
    return result


def renameat2(source_fd: int, source: bytes, target_fd: int, target: bytes, flags: int = 0) -> None:
    """``renameat2(2)`` of names beneath two directory descriptors.

    Raises OSError; EINVAL where the filesystem does not know a flag.
    """
    check(libc.renameat2(source_fd, source, target_fd, target, flags), target)


def chmod_at(directory_fd: int, name: bytes, mode: int) -> None:
    """``fchmodat2(2)`` of a name beneath a directory descriptor, a symbolic link not followed.

    Raises OSError: ENOSYS before Linux 6.6, or EPERM where a container's filter does not know it.
    """
    here, path = ctypes.c_int(directory_fd), ctypes.c_char_p(name)
    flags = ctypes.c_int(_AT_SYMLINK_NOFOLLOW)
    check(libc.syscall(_SYS_FCHMODAT2, here, path, ctypes.c_uint(mode), flags), name)


def clone_tree(directory_fd: int) -> int:
    """A private, read-only view of an open directory: a descriptor of a detached mount.

    Mounts made later (our own above all) are not in it, mounts that are there now are; through it
    nothing can be written, no device opened, no symbolic link followed, no access time changed.
    open_tree(2), mount_setattr(2).

    Raises OSError: EPERM without CAP_SYS_ADMIN, ENOSYS before Linux 5.12.
    """
    descriptor = _open_tree(directory_fd, _AT_RECURSIVE)
    wanted = _MOUNT_ATTR_RDONLY | _MOUNT_ATTR_NODEV | _MOUNT_ATTR_NOSYMFOLLOW
    try:
        try:
            _set_attributes(descriptor, wanted | _MOUNT_ATTR_NOATIME, _MOUNT_ATTR_ATIME_MASK)
        except PermissionError:
            # In a user namespace access times stay as whoever mounted has decided.
            _set_attributes(descriptor, wanted, 0)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def clone_root() -> int:
    """What is our root, without what is mounted in it, now or later: a detached mount.

    Nobody else changes the root of a process that has it for one (pivot_root(2) does, of those that
    have the root of their namespace). Other mounts are not in it, for they would stay in use.
    open_tree(2), mount_setattr(2). Raises OSError as ``clone_tree``; EINVAL where what is mounted
    in the root may not be looked under.
    """
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        descriptor = _open_tree(root, 0)
    finally:
        os.close(root)
    try:
        _set_attributes(descriptor, 0, 0)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _open_tree(directory_fd: int, recursive: int) -> int:
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | _AT_EMPTY_PATH | recursive
    here = ctypes.c_char_p(b"")
    return check(libc.syscall(_SYS_OPEN_TREE, ctypes.c_int(directory_fd), here, flags))


def _set_attributes(tree: int, wanted: int, cleared: int) -> None:
    # struct mount_attr: attr_set, attr_clr (the access time modes are one field, to be cleared
    # first), propagation, userns_fd.
    attributes = struct.pack("=QQQQ", wanted, cleared, _MS_PRIVATE, 0)
    check(
        libc.syscall(
            _SYS_MOUNT_SETATTR,
            ctypes.c_int(tree),
            ctypes.c_char_p(b""),
            _AT_EMPTY_PATH | _AT_RECURSIVE,
            ctypes.c_char_p(attributes),
            ctypes.c_size_t(len(attributes)),
        )
    )


def file_handle(directory_fd: int, name: bytes) -> tuple[int, bytes]:
    """The type and bytes of the kernel's handle of *name*, a symbolic link not followed.

    name_to_handle_at(2). Raises OSError: EOPNOTSUPP where the filesystem has no handles.
    """
    buffer = ctypes.create_string_buffer(8 + _HANDLE_BYTES_MAX)
    struct.pack_into("=Ii", buffer, 0, _HANDLE_BYTES_MAX, 0)
    mount_id = ctypes.c_int()
    flags = 0 if name else _AT_EMPTY_PATH
    check(libc.name_to_handle_at(directory_fd, name, buffer, ctypes.byref(mount_id), flags), name)
    length, kind = struct.unpack_from("=Ii", buffer, 0)
    return kind, buffer.raw[8 : 8 + length]


def filesystem_uuid(descriptor: int) -> bytes:
    """The 16 bytes that name the filesystem of *descriptor*; zeros where it has none.

    FS_IOC_GETFSUUID (Linux 6.9). It is the ``s_uuid`` that overlayfs puts into its file handles.
    """
    buffer = bytearray(17)
    try:
        fcntl.ioctl(descriptor, _FS_IOC_GETFSUUID, buffer)
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL):
            return bytes(16)
        raise
    return bytes(buffer[1:17]) if buffer[0] == 16 else bytes(16)


def clone_file(source_fd: int, target_fd: int) -> None:
    """Let *target* share all of *source*'s blocks: ioctl_ficlone(2).

    Raises OSError (EOPNOTSUPP, EXDEV, EINVAL, ENOTTY where that is not possible).
    """
    fcntl.ioctl(target_fd, _FICLONE, source_fd)


def extended_attributes(directory_fd: int, name: bytes) -> int:
    """``stx_attributes`` of statx(2), of the descriptor itself without a name.

    Those of chattr(1) that it tells have the numbers of FS_IOC_GETFLAGS. Raises OSError.
    """
    buffer = ctypes.create_string_buffer(_STATX_BYTES)
    check(libc.statx(directory_fd, name, _AT_SYMLINK_NOFOLLOW | _AT_EMPTY_PATH, 0, buffer), name)
    return int(_STATX_ATTRIBUTES.unpack_from(buffer)[0])


def is_denied(path: bytes, right: int, *, follow: bool) -> bool:
    """Whether faccessat2(2) says EACCES, and not that a mount is read-only.

    right: one of ``os.R_OK``, ``os.W_OK``, ``os.X_OK``; our effective ids and capabilities count.
    """
    flags = _AT_EACCESS | (0 if follow else _AT_SYMLINK_NOFOLLOW)
    here, name = ctypes.c_int(_AT_FDCWD), ctypes.c_char_p(path)
    failed = libc.syscall(_SYS_FACCESSAT2, here, name, ctypes.c_int(right), ctypes.c_int(flags))
    return bool(failed) and ctypes.get_errno() == errno.EACCES


def every_id_is_mapped() -> bool:
    """Whether all users and groups of the machine have a number in our user namespace."""
    return _maps_every_id(os.stat("/proc/self/ns/user").st_ino)


@functools.cache
def _maps_every_id(namespace: int) -> bool:
    # Its maps are written once (user_namespaces(7)).
    def mapped(kind: str) -> int:
        with open(f"/proc/self/{kind}_map") as lines:
            return sum(int(line.split()[2]) for line in lines)

    return min(mapped("uid"), mapped("gid")) == _ALL_IDS


def may_use_trusted_attributes() -> bool:
    """Whether this process reads and writes ``trusted.`` attributes (xattr(7)).

    That takes CAP_SYS_ADMIN of the initial user namespace, whose inode number is fixed (the
    kernel's include/linux/proc_ns.h, PROC_USER_INIT_INO).
    """
    if os.stat("/proc/self/ns/user").st_ino != _INITIAL_USER_NAMESPACE:
        return False
    with open("/proc/self/status") as lines:
        effective = next(line.split()[1] for line in lines if line.startswith("CapEff:"))
    return bool(int(effective, 16) >> _CAP_SYS_ADMIN & 1)


def keep_capabilities_over_fsuid() -> bool:
    """Let this thread, and those it starts, keep its capabilities when its fsuid changes.

    Without it ``setfsuid(2)`` away from 0 drops CAP_DAC_OVERRIDE and its kin, and a file could
    not be made for a caller whom only a supplementary group or a capability lets write there.
    SECBIT_NO_SETUID_FIXUP, capabilities(7). Answers whether we may (CAP_SETPCAP).
    """
    bits = libc.prctl(_PR_GET_SECUREBITS, 0, 0, 0, 0)
    return bool(libc.prctl(_PR_SET_SECUREBITS, bits | _SECBIT_NO_SETUID_FIXUP, 0, 0, 0) == 0)


def signal_descriptor(signals: Iterable[int]) -> int:
    """``signalfd(2)``: readable while one of *signals*, which are to be blocked, is pending."""
    # sigset_t has 1024 bits, in words of the machine.
    words = (ctypes.c_ulong * (128 // ctypes.sizeof(ctypes.c_ulong)))()
    for number in signals:
        words[0] |= 1 << number - 1
    return check(libc.signalfd(-1, words, os.O_CLOEXEC | os.O_NONBLOCK))


def give_up_capability(number: int) -> None:
    """Take a capability out of this thread's effective set, and of those it starts: capset(2)."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    words = ctypes.create_string_buffer(24)
    check(libc.capget(header, words))
    values = list(struct.unpack("=6I", words))
    # Three words (effective, permitted, inheritable) for each 32 capabilities.
    values[number // 32 * 3] &= ~(1 << number % 32)
    check(libc.capset(header, struct.pack("=6I", *values)))


def set_filesystem_ids(uid: int, gid: int) -> bool:
    """Make what this thread creates belong to *uid* and *gid*: setfsuid(2), setfsgid(2).

    Answers whether both took effect; the calls themselves never fail.
    """
    libc.setfsgid(gid)
    libc.setfsuid(uid)
    # An impossible id leaves the value and returns it: the documented way to read it.
    return bool(libc.setfsuid(_NO_ID) == uid and libc.setfsgid(_NO_ID) == gid)


def filesystem_type(descriptor: int) -> int:
    """The type of the filesystem of *descriptor*: ``f_type`` of statfs(2)."""
    buffer = ctypes.create_string_buffer(_STATFS_BYTES_MAX)
    check(libc.fstatfs(descriptor, buffer))
    (kind,) = struct.unpack_from("l", buffer)
    return int(kind)


def sync_file_range(descriptor: int, start: int, count: int, flags: int) -> None:
    """``sync_file_range(2)``: write content to the disk; a *count* of 0 is all from *start* on.

    Neither is the disk's cache flushed, nor is the journal brought to the disk. Raises OSError.
    """
    offset, length = ctypes.c_int64(start), ctypes.c_int64(count)
    check(libc.sync_file_range(descriptor, offset, length, flags))
