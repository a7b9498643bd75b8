"""A view's tree as files of the host: what an image looks like, in a directory of its own.

Everything is made relative to a descriptor of the directory that it is in, under a name that must
not be there yet: no name and no link of an image leads anywhere else. Memory is for the depth of
the tree and the names of the directories on the way down.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from layerstore import changes, durable
from layerstore.errors import StoreError, shown
from layerstore.ingest import Tell
from layerstore.progress import Nobody, Progress
from layerstore.view import View, ViewNode
from unionfs.copyup import copy_content
from unionfs.merge import Source
from unionfs.model import NO_ID, printable
from unionfs.workdir import remove_tree

_CREATE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_HELD: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_ACL: Final = b"system.posix_acl_"
_INHERITED: Final = (_ACL + b"default", _ACL + b"access")
_PRIVILEGED: Final = stat.S_ISUID | stat.S_ISGID
# Not ours to change, or its ids have no number in our user namespace.
_NO_OWNER: Final = frozenset((errno.EPERM, errno.EINVAL))
_NO_ATTRIBUTE: Final = frozenset(
    (errno.EPERM, errno.EOPNOTSUPP, errno.EINVAL, errno.E2BIG, errno.ERANGE)
)


@dataclass(frozen=True, slots=True)
class Extracted:
    """What was written.

    entries: how many names, the root included. reowned: how many of these belong to whoever wrote
    them, who may not give them to their owners. left_out: what else could not be had: a path in
    the image, and a word why.
    """

    entries: int
    reowned: int
    left_out: Sequence[tuple[bytes, str]]


def extract(view: View, target: Path, progress: Progress | None = None) -> Extracted:
    """Write all that *view* shows into *target*, which must not exist yet or be empty.

    Files get owners, modes, times, extended attributes, and holes where the view has them; names
    of one inode are names of one inode there. What takes privileges that we lack is left out and
    told: owners, devices, some attributes; without its owner nothing is set-user-ID or
    set-group-ID.

    The directory is there as a whole, and on the disk, or not at all. Raises StoreError if it is in
    the way, OSError (EIO for what is damaged in the store), its filename the path of the target.
    """
    _require_free(target)
    path = target.absolute()
    tell = (progress or Nobody()).begin(path.name, None)
    building = f".{secrets.token_hex(8)}.export".encode()
    with (
        _opened(path.parent) as parent,
        _directory(parent, building) as root,
        _directory(parent, building + b".links") as links,
    ):
        writer = _Writer(os.fsencode(path), links, tell)
        writer.write(view, root)
        durable.sync_filesystem(str(path.parent))
        os.rename(building, path, src_dir_fd=parent)
        os.fsync(parent)
    return Extracted(writer.entries, writer.reowned, writer.left_out)


def _require_free(target: Path) -> None:
    name = printable(str(target))
    if target.is_mount():
        # Nothing can be renamed over it.
        raise StoreError(f"{name} is a mount point: name a new directory in it")
    if target.is_symlink() or (target.exists() and not durable.is_empty_directory(target)):
        raise StoreError(f"{name} is in the way: it is not an empty directory")


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[int]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _directory(parent: int, name: bytes) -> Iterator[int]:
    """A new directory that nobody else enters; it ends with the context unless it was moved."""
    os.mkdir(name, 0o700, dir_fd=parent)
    try:
        with _held(parent, name) as descriptor:
            for attribute in _INHERITED:
                _remove_attribute(descriptor, attribute)
            yield descriptor
    finally:
        with contextlib.suppress(FileNotFoundError):
            remove_tree(parent, name)


def _remove_attribute(descriptor: int, name: bytes) -> None:
    try:
        os.removexattr(_path(descriptor), name)
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
            raise


class _Writer:
    """Writes one view into one directory.

    target: where it will be, for messages. links: an empty directory, in which every inode that
    may have several names has one more until the end, so that they are found without remembering.
    """

    def __init__(self, target: bytes, links: int, tell: Tell) -> None:
        self._target = target
        self._links = links
        self._tell = tell
        self.entries = 0
        self.reowned = 0
        self.left_out: list[tuple[bytes, str]] = []

    def write(self, view: View, root: int) -> None:
        """Write all of *view*, its root to the directory *root*."""
        node = view.root()
        levels = [(node, view.children(node))]
        # However deep it is, one descriptor does; nobody else can move what it leads to.
        here = os.open(b".", _HELD, dir_fd=root)
        try:
            while levels:
                directory, children = levels[-1]
                child = next(children, None)
                node = child or directory
                if child is None:
                    levels.pop()
                    here = self._leave(here, directory)
                elif not _is_name(child.name):
                    raise OSError(errno.EINVAL, "that is no name of a file")
                elif child.is_directory:
                    here = self._enter(here, child)
                    levels.append((child, view.children(child)))
                else:
                    self._name(here, child)
        except OSError as error:
            path = os.path.join(self._target, node.path)
            raise OSError(error.errno, error.strerror, path) from error
        finally:
            os.close(here)

    def _enter(self, here: int, node: ViewNode) -> int:
        # Its own mode may not let us in; it comes last.
        os.mkdir(node.name, 0o700, dir_fd=here)
        below = os.open(node.name, _HELD, dir_fd=here)
        os.close(here)
        return below

    def _leave(self, here: int, node: ViewNode) -> int:
        above = os.open(b"..", _HELD, dir_fd=here)
        try:
            self._finish(_path(here), node)
        except BaseException:
            os.close(above)
            raise
        os.close(here)
        return above

    def _name(self, here: int, node: ViewNode) -> None:
        """Give what is no directory its name; make it, if this is its first."""
        if not node.may_have_other_names:
            self._make(here, node)
            return
        kept = b"%d-%d-%d" % node.identity
        try:
            _link(self._links, kept, here, node.name)
        except FileNotFoundError:
            if self._make(here, node):
                _link(here, node.name, self._links, kept)
        else:
            self.entries += 1

    def _make(self, here: int, node: ViewNode) -> bool:
        """Make what is no directory; answers whether that was possible."""
        if node.is_regular:
            self._make_regular(here, node)
            return True
        if node.is_symlink:
            os.symlink(node.readlink(), node.name, dir_fd=here)
        else:
            try:
                os.mknod(node.name, node.kind | 0o600, node.attributes.st_rdev, dir_fd=here)
            except PermissionError as error:
                self._leave_out(node, f"a device: {error.strerror}")
                return False
        with _held(here, node.name) as descriptor:
            self._finish(_path(descriptor), node)
        return True

    def _make_regular(self, here: int, node: ViewNode) -> None:
        size = node.attributes.st_size
        descriptor = os.open(node.name, _CREATE, 0o600, dir_fd=here)
        try:
            if size:
                _copy(node.content(), descriptor, size)
            self._finish(descriptor, node)
        finally:
            os.close(descriptor)
        self._tell(size)

    def _finish(self, target: int | bytes, node: ViewNode) -> None:
        """Give owner, attributes, mode and times, in this order: a change of owner clears
        capabilities and set-user-ID, and an ACL or mode may take our right to set the rest.
        """
        self.entries += 1
        attributes = node.attributes
        mode = stat.S_IMODE(attributes.st_mode)
        if not _give(target, attributes.st_uid, attributes.st_gid):
            self.reowned += 1
            if mode & _PRIVILEGED and not node.is_directory and not node.is_symlink:
                mode &= ~_PRIVILEGED
                self._leave_out(node, "set-user-ID and set-group-ID: its owner here is another")
        extended = changes.xattrs(node)
        for name in sorted(extended, key=lambda name: name.startswith(_ACL)):
            try:
                os.setxattr(target, name, extended[name])
            except OSError as error:
                if error.errno not in _NO_ATTRIBUTE:
                    raise
                self._leave_out(node, f"{shown(name)}: {error.strerror}")
        if not node.is_symlink:
            os.chmod(target, mode)
        os.utime(target, ns=(attributes.st_atime_ns, attributes.st_mtime_ns))

    def _leave_out(self, node: ViewNode, reason: str) -> None:
        self.left_out.append((node.path, reason))


def _is_name(name: bytes) -> bool:
    """Whether it is one name, so that it can lead nowhere else."""
    return b"/" not in name and name not in (b"", b".", b"..")


def _copy(content: Source, target: int, size: int) -> None:
    """Copy the content that a layer has for a regular file."""
    _, layer, entry = content
    descriptor = layer.open(entry)
    try:
        copy_content(descriptor, target, size)
    finally:
        os.close(descriptor)


def _give(target: int | bytes, uid: int, gid: int) -> bool:
    """Give an inode to its owner; answers whether that was possible."""
    if NO_ID in (uid, gid):
        return False
    try:
        os.chown(target, uid, gid)
    except OSError as error:
        if error.errno in _NO_OWNER:
            return False
        raise
    return True


def _link(source: int, name: bytes, target: int, new_name: bytes) -> None:
    os.link(name, new_name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)


@contextlib.contextmanager
def _held(directory: int, name: bytes) -> Iterator[int]:
    descriptor = os.open(name, _HELD, dir_fd=directory)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _path(descriptor: int) -> bytes:
    """A path for those calls that take no descriptor of this kind."""
    return b"/proc/self/fd/%d" % descriptor
