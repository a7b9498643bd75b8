"""Copy-up: building, in the upper's scratch directory, the copy of what a lower layer has.

The copy is complete, and on disk, before it gets its name; the order is: content (or, for a
metacopy, a hole of its size), owner,
attributes, mode, times, sync, and then (:meth:`unionfs.upper.Upper.publish`) the rename.
Mode comes after owner, for a change of owner clears set-user-ID and capabilities.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import xxhash

from unionfs import flags, syscalls
from unionfs.flags import Call
from unionfs.merge import Source
from unionfs.model import NO_ID, Attributes
from unionfs.ordering import Ordering
from unionfs.upper import Upper

_CHANGED: Final = "a layer changed while it was copied"
_ACL: Final = b"system.posix_acl_"
_CAPABILITIES: Final = b"security.capability"
_CHUNK: Final = 1 << 20
_STRETCH: Final = 4 << 20
_NOT_POSSIBLE: Final = frozenset(
    (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM)
)
_NO_ATTRIBUTE_HERE: Final = frozenset((errno.EOPNOTSUPP, errno.EPERM))
_NO_FLAGS_HERE: Final = frozenset(
    (errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EACCES)
)


class Plan(NamedTuple):
    """What a copy gets besides its content.

    attributes: owner, mode and times. extended: attributes with their values. marks: the upper's
    own, which only regular files and directories can have where they are ``user.`` attributes.
    flags: which of :data:`unionfs.flags.COPIED` it has.
    cut_ns: when the content was cut, if it was: the modification time then.
    """

    attributes: Attributes
    extended: list[tuple[bytes, bytes]]
    marks: list[tuple[bytes, bytes]]
    flags: int = 0
    cut_ns: int | None = None


def plan(upper: Upper, source: Source, marks: Iterable[tuple[bytes, bytes]]) -> Plan:
    """Read what the copy of *source* has to have. Raises OSError of the layer."""
    _, layer, entry = source
    require_owner(entry.attributes)
    extended = [(name, layer.getxattr(entry, name)) for name in layer.listxattr(entry)]
    spelled = [(upper.prefix + mark, value) for mark, value in marks]
    return Plan(entry.attributes, extended, spelled, copied_flags(source))


def copied_flags(source: Source) -> int:
    """Which of :data:`unionfs.flags.COPIED` *source* has, as far as we may know."""
    _, layer, entry = source
    if not (entry.is_regular or entry.is_directory):
        return 0
    try:
        return flags.unpack(layer.flags(entry, Call.GET_FLAGS)) & flags.COPIED
    except OSError as error:
        if error.errno in _NO_FLAGS_HERE:
            return 0
        raise


def require_owner(attributes: Attributes) -> None:
    """Raise OSError, EOVERFLOW as overlayfs, if a copy would be somebody else's."""
    if NO_ID in (attributes.st_uid, attributes.st_gid):
        raise OSError(errno.EOVERFLOW, "the owner has no number in this user namespace")


def index_key(source: Source, origin: bytes | None) -> bytes:
    """The name in the index of a lower inode: its handle in hexadecimal, as overlayfs has it."""
    if origin is not None:
        return origin.hex().encode()
    attributes = source.entry.attributes
    layer = xxhash.xxh3_64_intdigest(os.fsencode(source.layer.identity))
    return b"unionmount-%x-%x-%x" % (layer, attributes.st_dev, attributes.st_ino)


def copy_regular(
    upper: Upper, name: bytes, content_fd: int | None, size: int, wanted: Plan
) -> os.stat_result:
    """Build the copy of a regular file under the scratch *name*; answers its status.

    content_fd: None for a metacopy, which has a hole for content. size: bytes to copy; the copy
    ends there (a truncation that comes next needs no more).
    Uses descriptors only, so a worker thread may run it. Raises OSError, nothing left behind.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    target_fd = os.open(name, flags, 0o600, dir_fd=upper.scratch)
    try:
        try:
            if content_fd is None:
                os.ftruncate(target_fd, size)
            else:
                copy_content(content_fd, target_fd, size, upper.ordering)
            _apply(target_fd, wanted)
            # What has no content is in the journal as a whole, before the name.
            if content_fd is not None and size:
                upper.ordering.settle(target_fd)
            return os.fstat(target_fd)
        finally:
            os.close(target_fd)
    except BaseException:
        os.unlink(name, dir_fd=upper.scratch)
        raise


def copy_other(upper: Upper, name: bytes, source: Source, wanted: Plan) -> os.stat_result:
    """Build the copy of a directory (without its names), link, device, socket or FIFO."""
    mode, scratch_fd = wanted.attributes.st_mode, upper.scratch
    if stat.S_ISDIR(mode):
        os.mkdir(name, 0o700, dir_fd=scratch_fd)
    elif stat.S_ISLNK(mode):
        os.symlink(source.layer.readlink(source.entry), name, dir_fd=scratch_fd)
    else:
        kind = stat.S_IFMT(mode) | 0o600
        os.mknod(name, kind, wanted.attributes.st_rdev, dir_fd=scratch_fd)
    try:
        with _held(scratch_fd, name) as descriptor:
            _apply(b"/proc/self/fd/%d" % descriptor, wanted)
            return os.fstat(descriptor)
    except BaseException:
        if stat.S_ISDIR(mode):
            os.rmdir(name, dir_fd=scratch_fd)
        else:
            os.unlink(name, dir_fd=scratch_fd)
        raise


def fill_metacopy(source_fd: int, target_fd: int, ordering: Ordering) -> None:
    """Give a metacopy file its content; nothing else of it changes.

    ordering: its content precedes what is changed next. Uses descriptors only, so a worker thread
    may run it. Raises OSError.
    """
    before = os.fstat(target_fd)
    capabilities = _capabilities(target_fd)
    copy_content(source_fd, target_fd, before.st_size, ordering)
    # Writing has cleared what gives privileges.
    os.fchmod(target_fd, stat.S_IMODE(before.st_mode))
    if capabilities is not None:
        os.setxattr(target_fd, _CAPABILITIES, capabilities)
    os.utime(target_fd, ns=(before.st_atime_ns, before.st_mtime_ns))
    ordering.settle(target_fd)


def _capabilities(descriptor: int) -> bytes | None:
    try:
        return os.getxattr(descriptor, _CAPABILITIES)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return None
        raise


def copy_content(
    source_fd: int, target_fd: int, size: int, ordering: Ordering = Ordering.UNORDERED
) -> None:
    """Copy the first *size* bytes, holes as holes: by reflink, by the kernel, or by hand.

    ordering: how the caller will settle the copy; the disk is at work on it before all is copied.
    Raises OSError; ESTALE if the source ends before.
    """
    if not size:
        return
    if _clone(source_fd, target_fd):
        # Shared blocks cost nothing, so that those beyond the end may come along.
        copied = os.fstat(target_fd).st_size
        if copied > size:
            os.ftruncate(target_fd, size)
    else:
        copied = 0
        for start, copied in _data(source_fd, size):
            for stretch in range(start, copied, _STRETCH):
                end = min(stretch + _STRETCH, copied)
                _copy_range(source_fd, target_fd, stretch, end)
                ordering.begin(target_fd, stretch, end - stretch)
        if copied < size:
            os.ftruncate(target_fd, size)
            # What is missing at the end looks like a hole.
            copied = os.fstat(source_fd).st_size
    if copied < size:
        raise OSError(errno.ESTALE, _CHANGED)


def _clone(source_fd: int, target_fd: int) -> bool:
    try:
        syscalls.clone_file(source_fd, target_fd)
    except OSError as error:
        if error.errno in _NOT_POSSIBLE:
            return False
        raise
    return True


def _data(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """The stretches of a file, up to *size*, that are not holes (lseek(2), SEEK_DATA)."""
    end = 0
    while end < size:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
            end = min(os.lseek(descriptor, start, os.SEEK_HOLE), size)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        yield start, end


def _copy_range(source_fd: int, target_fd: int, start: int, end: int) -> None:
    by_kernel = True
    while start < end:
        if by_kernel:
            try:
                count = os.copy_file_range(source_fd, target_fd, end - start, start, start)
            except OSError as error:
                if error.errno not in _NOT_POSSIBLE:
                    raise
                by_kernel = False
                continue
        else:
            chunk = os.pread(source_fd, min(_CHUNK, end - start), start)
            count = os.pwrite(target_fd, chunk, start) if chunk else 0
        if count == 0:
            raise OSError(errno.ESTALE, _CHANGED)
        start += count


def _apply(target: int | bytes, wanted: Plan) -> None:
    attributes = wanted.attributes
    os.chown(target, attributes.st_uid, attributes.st_gid)
    acls = [(name, value) for name, value in wanted.extended if name.startswith(_ACL)]
    _set_all(target, [pair for pair in wanted.extended if pair not in acls])
    for name, value in wanted.marks:
        try:
            os.setxattr(target, name, value)
        except OSError as error:
            if error.errno not in _NO_ATTRIBUTE_HERE or stat.S_ISREG(attributes.st_mode):
                raise
    # As the mode, they may take the right to write, which a user needs for the others.
    _set_all(target, acls)
    if wanted.flags:
        _add_flags(target, wanted.flags)
    if not stat.S_ISLNK(attributes.st_mode):
        os.chmod(target, stat.S_IMODE(attributes.st_mode))
    modified = attributes.st_mtime_ns if wanted.cut_ns is None else wanted.cut_ns
    os.utime(target, ns=(attributes.st_atime_ns, modified))


def _add_flags(target: int | bytes, added: int) -> None:
    descriptor = (
        os.open(target, os.O_RDONLY | os.O_CLOEXEC) if isinstance(target, bytes) else target
    )
    try:
        has = flags.unpack(fcntl.ioctl(descriptor, Call.GET_FLAGS, bytes(Call.GET_FLAGS.size)))
        fcntl.ioctl(descriptor, Call.SET_FLAGS, flags.pack(has | added))
    except OSError as error:
        if error.errno not in _NO_FLAGS_HERE:
            raise
    finally:
        if descriptor is not target:
            os.close(descriptor)


def _set_all(target: int | bytes, attributes: Iterable[tuple[bytes, bytes]]) -> None:
    for name, value in attributes:
        try:
            os.setxattr(target, name, value)
        except OSError as error:
            if error.errno == errno.EINVAL and name.startswith(_ACL):
                raise OSError(errno.EOVERFLOW, "an ACL names ids without a number here") from error
            # As overlayfs: an attribute that this filesystem has no room for is left, unless
            # leaving it would change who may do what.
            if error.errno != errno.EOPNOTSUPP or _decides_access(name):
                raise


def _decides_access(name: bytes) -> bool:
    return name.startswith((_ACL, b"security."))


@contextlib.contextmanager
def _held(directory_fd: int, name: bytes) -> Iterator[int]:
    descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory_fd)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
