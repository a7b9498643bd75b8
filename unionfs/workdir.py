"""The work directory: scratch for changes that appear at once or not at all.

It has three directories: ``work`` (scratch, swept at every mount), ``index`` (one link for each
copied-up inode that has several names below) and, in ``work/incompat``, marks that refuse a later
mount. Names and meaning are overlayfs's.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import stat
from collections.abc import Container, Iterator
from typing import Final

from unionfs.layers import markers, places
from unionfs.layers.places import Place
from unionfs.model import BusyError, UnionError

_log: Final = logging.getLogger(__name__)

DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SCRATCH: Final = b"work"
_INDEX: Final = b"index"
_INCOMPAT: Final = b"incompat"
_VOLATILE: Final = b"volatile"
_ACLS: Final = (b"system.posix_acl_default", b"system.posix_acl_access")


class WorkDirectory:
    """The work directory *path* of the upper directory *upper*, whose place is *root*.

    namespace: what marks are to be written in.

    Both are claimed for us alone, and what a mount that was killed left behind is swept.

    Raises OSError if it can't be opened, BusyError if another mount has one of the two,
    UnionError for what the user has to mend.
    """

    def __init__(self, path: bytes, upper: bytes, root: Place, namespace: bytes) -> None:
        self._counter = 0
        self._whiteout: bytes | None = None
        with contextlib.ExitStack() as undo:
            self._root = Place(None, b"", os.open(path, DIRECTORY))
            undo.callback(places.forget, self._root)
            self._claim(upper, root, path)
            self._require_marks(namespace)
            trusted = (os.geteuid(), os.fstat(root.descriptor).st_uid)
            self.scratch: Final = self._own_directory(_SCRATCH, path, trusted)
            undo.callback(places.forget, self.scratch)
            self._refuse_incompatible(path)
            self.index: Final = self._own_directory(_INDEX, path, trusted)
            undo.callback(places.forget, self.index)
            self.sweep()
            undo.pop_all()

    def close(self) -> None:
        """Sweep, and give the directory up."""
        try:
            self.sweep()
        except OSError as error:
            _log.warning("the work directory is swept at the next mount: %s", error)
        for place in (self.scratch, self.index, self._root):
            places.forget_below(place)

    def new_name(self) -> bytes:
        """A name in the scratch directory that is not in use."""
        self._counter += 1
        return b"#%x" % self._counter

    def link_whiteout(self, directory_fd: int, name: bytes) -> None:
        """Make a whiteout: all are one inode, so that each costs a link. Raises OSError."""
        scratch_fd = self.scratch.descriptor
        while True:
            if self._whiteout is None:
                made = self.new_name()
                os.mknod(made, stat.S_IFCHR, 0, dir_fd=scratch_fd)
                self._whiteout = made
            try:
                os.link(
                    self._whiteout,
                    name,
                    src_dir_fd=scratch_fd,
                    dst_dir_fd=directory_fd,
                    follow_symlinks=False,
                )
                return
            except OSError as error:
                if error.errno != errno.EMLINK:
                    raise
            os.unlink(self._whiteout, dir_fd=scratch_fd)
            self._whiteout = None

    def new_whiteout(self) -> bytes:
        """A whiteout in the scratch directory, to be moved into place; answers its name."""
        name = self.new_name()
        self.link_whiteout(self.scratch.descriptor, name)
        return name

    def discard(self, name: bytes) -> None:
        """Remove a scratch entry. What was to be done is done, so that failing here is no error:
        what stays is swept at the next mount.
        """
        try:
            remove_tree(self.scratch.descriptor, name)
        except FileNotFoundError:
            pass
        except OSError as error:
            _log.warning("%r stays in the work directory until the next mount: %s", name, error)

    def discard_directory(self, name: bytes) -> None:
        """Remove a scratch directory in which there is most likely nothing, or a whiteout; as
        ``discard``.
        """
        try:
            os.rmdir(name, dir_fd=self.scratch.descriptor)
        except OSError:
            self.discard(name)

    @contextlib.contextmanager
    def discarding(self, name: bytes) -> Iterator[None]:
        """If the block fails, the scratch entry that it was to use is removed."""
        try:
            yield
        except BaseException:
            self.discard(name)
            raise

    def sweep(self) -> None:
        """Remove what a mount that was killed, or this one, left in the scratch directory."""
        scratch_fd = self.scratch.descriptor
        for name in map(os.fsencode, os.listdir(scratch_fd)):
            if name != _INCOMPAT:
                remove_tree(scratch_fd, name)
        self._whiteout = None

    def mark_volatile(self) -> None:
        """Refuse every later mount, as overlayfs does: what was not synced may be missing."""
        scratch_fd = self.scratch.descriptor
        with contextlib.suppress(FileExistsError):
            os.mkdir(_INCOMPAT, 0o700, dir_fd=scratch_fd)
        os.mkdir(_INCOMPAT + b"/" + _VOLATILE, 0o700, dir_fd=scratch_fd)
        for name in (_INCOMPAT, b"."):
            descriptor = os.open(name, DIRECTORY, dir_fd=scratch_fd)
            os.fsync(descriptor)
            os.close(descriptor)

    def _claim(self, upper: bytes, root: Place, work: bytes) -> None:
        if _mount_of(root.descriptor) != _mount_of(self._root.descriptor):
            raise UnionError(
                f"the work directory {os.fsdecode(work)} is not on the filesystem of the upper "
                f"directory {os.fsdecode(upper)}: name one that is with --work"
            )
        for path, place in ((upper, root), (work, self._root)):
            _lock(place.descriptor, path)

    def _refuse_incompatible(self, work: bytes) -> None:
        try:
            names = names_in(self.scratch.descriptor, _INCOMPAT)
        except FileNotFoundError:
            return
        if names:
            path = os.path.join(work, _SCRATCH, _INCOMPAT)
            features = os.fsdecode(b", ".join(sorted(names)))
            raise UnionError(
                f"the upper was mounted {features} and may lack data: start with an empty "
                f"one, or remove {os.fsdecode(path)} to use it as it is"
            )

    def _own_directory(self, name: bytes, work: bytes, trusted: Container[int]) -> Place:
        """One of the directories in here, which nobody but us and the upper's owner can change."""
        work_fd = self._root.descriptor
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=work_fd)
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        held = os.open(name, flags, dir_fd=work_fd)
        try:
            owner = os.fstat(held).st_uid
            if owner not in trusted:
                raise UnionError(
                    f"{os.fsdecode(os.path.join(work, name))} belongs to user {owner}, who could "
                    "change what is copied there: remove it, or name another directory with --work"
                )
            itself = b"/proc/self/fd/%d" % held
            # What is made in it would inherit these.
            for attribute in _ACLS:
                try:
                    os.removexattr(itself, attribute)
                except OSError as error:
                    if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
                        raise
            # overlayfs leaves it without any permission.
            os.chmod(itself, 0o700)
            return Place(None, b"", os.open(itself, DIRECTORY & ~os.O_NOFOLLOW))
        finally:
            os.close(held)

    def _require_marks(self, namespace: bytes) -> None:
        """Check that the filesystem takes marks in *namespace*. Raises UnionError."""
        probe = b"#probe"
        with contextlib.suppress(FileExistsError):
            os.mkdir(probe, 0o700, dir_fd=self._root.descriptor)
        try:
            places.setxattr(
                Place(self._root, probe), namespace + markers.OPAQUE, markers.OPAQUE_YES
            )
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP):
                raise
            raise UnionError(
                "the filesystem of the upper directory takes no extended attributes "
                f"{os.fsdecode(namespace)}* ({error.strerror}): use a directory on another, not in"
                " a union"
            ) from error
        finally:
            os.rmdir(probe, dir_fd=self._root.descriptor)


@contextlib.contextmanager
def held(upper: bytes) -> Iterator[None]:
    """Have the upper directory for the block, so that no mount begins. Raises OSError, BusyError
    if one has it.
    """
    descriptor = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _lock(descriptor, upper)
        yield
    finally:
        os.close(descriptor)


def require_free(upper: bytes) -> None:
    """Check that no mount has the upper directory, at this moment. Raises OSError, BusyError."""
    with held(upper):
        pass


def _lock(descriptor: int, path: bytes) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BusyError(
            f"{os.fsdecode(path)} is in use by another mount: unmount that one first"
        ) from None


def remove_tree(directory_fd: int, name: bytes) -> None:
    """Remove *name* and all below it, beneath the descriptor; never follows a link."""
    try:
        os.unlink(name, dir_fd=directory_fd)
        return
    except IsADirectoryError:
        pass
    # However deep it is, one descriptor and no recursion do.
    here = _open_to_empty(directory_fd, name)
    above: list[tuple[bytes, int]] = []
    left: list[list[str]] = []
    try:
        left.append(os.listdir(here))
        while True:
            if left[-1]:
                child = os.fsencode(left[-1].pop())
                try:
                    os.unlink(child, dir_fd=here)
                except IsADirectoryError:
                    above.append((child, os.fstat(here).st_ino))
                    down = _open_to_empty(here, child)
                    os.close(here)
                    here = down
                    left.append(os.listdir(here))
            elif len(left) > 1:
                left.pop()
                up = os.open(b"..", DIRECTORY, dir_fd=here)
                os.close(here)
                here = up
                child, number = above.pop()
                if os.fstat(here).st_ino != number:
                    # Somebody moved it meanwhile, and what is left to remove is not here.
                    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
                os.rmdir(child, dir_fd=here)
            else:
                break
    finally:
        os.close(here)
    os.rmdir(name, dir_fd=directory_fd)


def _open_to_empty(directory_fd: int, name: bytes) -> int:
    """Open a directory, in which its owner may remove names from now on."""
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    held = os.open(name, flags, dir_fd=directory_fd)
    try:
        # Root may anyway, and somebody may still have it open and look at its mode.
        if os.geteuid() != 0 and os.fstat(held).st_mode & stat.S_IRWXU != stat.S_IRWXU:
            os.chmod(b"/proc/self/fd/%d" % held, stat.S_IRWXU)
        return os.open(b".", DIRECTORY, dir_fd=held)
    finally:
        os.close(held)


def names_in(directory_fd: int, name: bytes) -> list[bytes]:
    """The names in a directory. Raises OSError."""
    descriptor = os.open(name, DIRECTORY, dir_fd=directory_fd)
    try:
        return [os.fsencode(child) for child in os.listdir(descriptor)]
    finally:
        os.close(descriptor)


def _mount_of(descriptor: int) -> str:
    """The id of the mount that a descriptor was opened on (proc(5), fdinfo)."""
    with open(f"/proc/self/fdinfo/{descriptor}") as lines:
        return next(line.split()[1] for line in lines if line.startswith("mnt_id:"))
