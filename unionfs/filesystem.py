"""What each operation means on nodes: POSIX on a union. No FUSE in it.

Operations take the numbers and handles that the kernel knows and raise OSError with the errno
for the caller. Those that may copy content up are asynchronous; every await is accounted for in
docs/concurrency.md. The kernel checks permissions, and holds a directory's lock while one of its
names is changed; what it has checked is not checked again.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from unionfs import syscalls
from unionfs.flags import APPEND, IMMUTABLE, PROTECTING, Call
from unionfs.handover import Handover
from unionfs.layers import markers, places
from unionfs.layers.base import Layer
from unionfs.layers.markers import Dialects
from unionfs.layers.places import Place
from unionfs.mirror import PIN, Lack, Mirror, MirroredError
from unionfs.model import NAME_MAX, Caller
from unionfs.nodes import ROOT_NUMBER, Node, OpenFile
from unionfs.raising import Raising
from unionfs.renaming import Renaming, Spot
from unionfs.tree import Status, Tree, open_source
from unionfs.upper import Upper
from unionfs.waiting import in_thread

_log: Final = logging.getLogger(__name__)

_ACCESS_ACL: Final = b"system.posix_acl_access"
_ACLS: Final = (_ACCESS_ACL, b"system.posix_acl_default")
# What the union tells of an entry: answered by name, never listed, so that nobody copies it.
_TOLD: Final = b"user.unionmount."
_VALUE_MAX: Final = 1 << 16  # XATTR_SIZE_MAX of linux/limits.h
_UPPER: Final = {"label": "upper"}
_NOW_NS: Final = 10**9  # times that are as near as that are those that touch(1) sets
# Positions in our own listings come after this one: those before are of a mirror's listings, in
# which whoever is reading goes on. As unionfs/driver/plane/names.h has it.
_POSITIONS: Final = 1 << 30
_GONE_FROM_A_LISTING: Final = 1000
# The kernel has done what these ask for, or they would make our own reads and writes fail.
_NOT_PASSED_ON: Final = os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_DIRECT | os.O_NOCTTY


class Changes(NamedTuple):
    """What setattr changes; None leaves a value as it is. Times are in nanoseconds.

    ends_privileges: who asks may not keep set-user-ID and set-group-ID of what it truncates, or is
    about to write.
    """

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    ends_privileges: bool = False


class Filesystem:
    """The union of *layers* (base first) under *upper*, or read-only without one.

    dialects: AUTO keeps names beginning ``.wh.`` out of the mount.
    mirror: who answers in our place, if anybody does; then ``lookup``, ``readdir`` and what makes
    something raise MirroredError when it can.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        upper: Upper | None,
        *,
        dialects: Dialects = Dialects.AUTO,
        mirror: Mirror | None = None,
    ) -> None:
        self._mirror = mirror or Mirror()
        self._tree = Tree(layers, upper, self._mirror)
        self._raising = Raising(self._tree)
        self._renaming = Renaming(self._tree, self._raising)
        self._handover = Handover(self._tree, self._raising, self._mirror)
        self._upper = upper
        self._nodes = self._tree.nodes
        self._reserve_markers = dialects is Dialects.AUTO
        self._listings: dict[int, list[bytes]] = {}

    def close(self) -> None:
        """Close all that is open, the layers and the upper too."""
        for descriptor in self._nodes.open_files:
            os.close(descriptor)
        self._nodes.open_files.clear()
        for layer in self._tree.layers:
            if self._upper is None or layer is not self._upper.layer:
                layer.close()
        if self._upper is not None:
            self._upper.close()

    @property
    def known_nodes(self) -> int:
        """How many nodes are known."""
        return len(self._nodes)

    def tell_root(self) -> None:
        """Let the mirror answer for the root before anybody asks for it, if it can."""
        # Whoever asks is told what is wrong.
        with contextlib.suppress(OSError):
            root = self._tree.node(ROOT_NUMBER)
            if self._tree.mirrored(root):
                self._tree.describe(root)

    def prepare(self, lack: Lack, number: int, name: bytes) -> bool:
        """Do what an operation on *number*, or on *name* in it, begins with, for a mirror to go on.

        lack: what that is. Answers whether there was anything to do. What fails, or takes long, is
        left to the operation.
        """
        try:
            self.catch_up()
            match lack:
                case Lack.NAMES:
                    self._handover.names(self._tree.node(number))
                case Lack.LISTING:
                    self._handover.listing(self._tree.node(number))
                case Lack.PARENT:
                    self._name_to_make(number, name)
                case Lack.AROUND:
                    self._handover.directory_with(number, name)
                case Lack.UPPER:
                    self._handover.directory_of(number)
                    self._handover.content_at_once(number)
                case Lack.CONTENT:
                    self._handover.content_at_once(number)
        except MirroredError:
            return True
        except Exception:
            # The operation meets it, too, and tells of it.
            pass
        return False

    def catch_up(self) -> None:
        """Before anything else is done: take in what the mirror has done meanwhile."""
        self._tree.catch_up()

    # Names

    def lookup(self, parent: int, name: bytes) -> Node:
        """The node called *name*, one more reference on it for the kernel."""
        _check_name(name)
        directory = self._tree.node(parent)
        self._handover.names(directory)
        return self._known(self._tree.lookup(directory, name))

    def forget(self, number: int, count: int) -> None:
        """The kernel gives up *count* references, or with PIN the mirror its own."""
        if count == PIN:
            self._tree.forget(self._nodes[number], 1)
        elif not self._mirror.forget(number, count):
            self._tree.forget(self._nodes[number], count)
        if number not in self._nodes:
            self._listings.pop(number, None)

    def create(
        self, parent: int, name: bytes, mode: int, flags: int, caller: Caller
    ) -> tuple[OpenFile, Node]:
        """Make and open a regular file; the kernel has a reference on it."""
        directory = self._name_to_make(parent, name)
        access = flags & ~_NOT_PASSED_ON
        descriptor = self._tree.upper.create(directory.place, name, mode, access, caller)
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        return self._made_open(descriptor, writable, lambda: self._tree.made(directory, name))

    def create_unnamed(
        self, parent: int, mode: int, flags: int, caller: Caller
    ) -> tuple[OpenFile, Node]:
        """Make and open a regular file, as ``create``, that has no name.

        ``link`` may give it one; else it is gone when it is closed.
        Raises OSError; EOPNOTSUPP where the upper's filesystem has none.
        """
        directory = self._tree.node(parent)
        if directory.removed:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        self._check(directory, IMMUTABLE)
        self._raising.raise_directory(directory)
        access = flags & ~_NOT_PASSED_ON
        descriptor = self._tree.upper.create_unnamed(directory.place, mode, access, caller)
        return self._made_open(descriptor, True, lambda: self._tree.made_unnamed(descriptor))

    def mknod(self, parent: int, name: bytes, mode: int, device: int, caller: Caller) -> Node:
        """Make a file, device, socket or FIFO."""
        directory = self._name_to_make(parent, name)
        self._tree.upper.make_node(directory.place, name, mode, device, caller)
        return self._known(self._tree.made(directory, name))

    def mkdir(self, parent: int, name: bytes, mode: int, caller: Caller) -> Node:
        """Make a directory."""
        directory = self._name_to_make(parent, name)
        self._tree.upper.make_directory(directory.place, name, mode, caller)
        return self._known(self._tree.made(directory, name))

    def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Node:
        """Make a symbolic link."""
        directory = self._name_to_make(parent, name)
        self._tree.upper.make_symlink(directory.place, name, target, caller)
        return self._known(self._tree.made(directory, name))

    async def link(self, number: int, parent: int, name: bytes) -> Node:
        """Give a node, not a directory, another name."""
        node = self._tree.node(number)
        self._check_new_name(name)
        self._check(node)
        await self._renaming.ready_to_link(node)
        directory = self._new_name(parent, name)
        self._renaming.link(node, Spot(directory, name))
        return self._known(node)

    async def unlink(self, parent: int, name: bytes) -> None:
        """Take a name, not a directory's, away."""
        await self._handover.change_name(parent, name, content=False)
        directory, node = self._old_name(parent, name)
        if node.is_directory:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        await self._raising.keep_links(node, directory, name)
        self._raising.raise_directory(directory)
        covers = self._tree.shows_below(directory, name)
        present = node.has_name(directory, name).in_upper
        with self._tree.losing_name(node, directory, name):
            self._tree.upper.remove(directory.place, name, present=present, covers=covers)
        self._tree.release(node)

    def rmdir(self, parent: int, name: bytes) -> None:
        """Take an empty directory away."""
        directory, node = self._old_name(parent, name)
        if not self._tree.is_empty(node):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
        self._raising.raise_directory(directory)
        covers = self._tree.shows_below(directory, name)
        place = Place(directory.place, name) if node.upper is None else node.place
        self._tree.upper.remove_directory(place, present=node.upper is not None, covers=covers)
        self._nodes.drop_name(node, directory, name)
        self._tree.release(node)

    async def rename(
        self, old_parent: int, old_name: bytes, new_parent: int, new_name: bytes, flags: int
    ) -> None:
        """renameat2(2) with RENAME_NOREPLACE and RENAME_EXCHANGE."""
        if flags & ~(syscalls.RENAME_NOREPLACE | syscalls.RENAME_EXCHANGE):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        if not flags & syscalls.RENAME_EXCHANGE:
            await self._handover.change_name(old_parent, old_name, content=True)
        source, node = self._old_name(old_parent, old_name)
        self._check_new_name(new_name)
        target = self._tree.node(new_parent)
        old, new = Spot(source, old_name), Spot(target, new_name)
        replaced = self._find(target, new_name)
        if replaced is None:
            self._check(target, IMMUTABLE)
        else:
            self._check(target)
            self._check(replaced)
        if flags & syscalls.RENAME_EXCHANGE:
            if replaced is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            await self._renaming.exchange(node, old, replaced, new)
        elif replaced is not None and flags & syscalls.RENAME_NOREPLACE:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        elif replaced is not node:
            await self._renaming.move(node, old, new, replaced)

    # Attributes

    def getattr(self, number: int) -> Node:
        """The node of a number."""
        return self._tree.node(number)

    def status(self, node: Node) -> Status:
        """The attributes of a node."""
        return self._tree.status(node)

    async def setattr(self, number: int, changes: Changes, handle: int | None = None) -> Node:
        """Change attributes; handle: the open file it was asked through, if it was."""
        await self._handover.change(number)
        node = self._tree.node(number)
        self._check(node, self._forbidding(changes, handle))
        await self._raising.copy_up(node, changes.size, content=changes.size is not None)
        place, upper = node.place, self._tree.upper
        if changes.size is not None:
            self._truncate(node, changes.size, handle)
        if changes.ends_privileges:
            mode = places.status(place).st_mode
            if _privileges(mode):
                upper.change_mode(place, stat.S_IMODE(mode & ~_privileges(mode)))
        if changes.uid is not None or changes.gid is not None:
            upper.change_owner(
                place,
                -1 if changes.uid is None else changes.uid,
                -1 if changes.gid is None else changes.gid,
            )
        if changes.mode is not None:
            if node.is_directory and ~changes.mode & (stat.S_IRUSR | stat.S_IXUSR):
                self._tree.remember_names(node)
            upper.change_mode(place, stat.S_IMODE(changes.mode))
        if changes.atime_ns is not None or changes.mtime_ns is not None:
            before = places.status(place)
            upper.change_times(
                place,
                before.st_atime_ns if changes.atime_ns is None else changes.atime_ns,
                before.st_mtime_ns if changes.mtime_ns is None else changes.mtime_ns,
            )
        return node

    def _forbidding(self, changes: Changes, handle: int | None) -> int:
        """Which of PROTECTING forbid a change (fs/attr.c, may_setattr; fs/open.c, do_ftruncate)."""
        if changes.mode is not None or changes.uid is not None or changes.gid is not None:
            return PROTECTING
        forbidding = 0
        if changes.size is not None:
            forbidding |= PROTECTING if self._writable(handle) is None else APPEND
        times = [time for time in (changes.atime_ns, changes.mtime_ns) if time is not None]
        if times:
            now = time.time_ns()
            touched = len(times) == 2 and all(abs(time - now) < _NOW_NS for time in times)
            forbidding |= IMMUTABLE if touched else PROTECTING
        return forbidding

    def _writable(self, handle: int | None) -> OpenFile | None:
        """The open file of a handle, if it is open for writing."""
        file = None if handle is None else self._nodes.open_files.get(handle)
        return file if file is not None and file.writable else None

    def _truncate(self, node: Node, size: int, handle: int | None) -> None:
        if file := self._writable(handle):
            os.ftruncate(file.descriptor, size)
            return
        descriptor = self._tree.open_upper(node, os.O_WRONLY)
        try:
            os.ftruncate(descriptor, size)
        finally:
            os.close(descriptor)

    def readlink(self, number: int) -> bytes:
        """The target of a symbolic link."""
        _, layer, entry = self._tree.node(number).top
        return layer.readlink(entry)

    def listxattr(self, number: int, *, privileged: bool) -> list[bytes]:
        """Names of extended attributes; marks, and what the union tells, are not among them.

        Only the privileged are told of ``trusted.`` attributes (xattr(7)).
        """
        _, layer, entry = self._tree.node(number).top
        names = layer.listxattr(entry)
        hidden = _TOLD if privileged else (_TOLD, b"trusted.")
        return [name for name in names if not name.startswith(hidden)]

    def getxattr(self, number: int, name: bytes) -> bytes:
        """The value of an extended attribute. Raises OSError: ENODATA.

        ``user.unionmount.layer`` tells which layer an entry is from: its digest, or its label if it
        has none, or ``upper``; ``user.unionmount.created_by`` what that layer was made by.
        """
        node = self._tree.node(number)
        if name.startswith(_TOLD):
            return _told(node, name)
        _, layer, entry = node.top
        try:
            return layer.getxattr(entry, name)
        except OSError as error:
            if name in _ACLS and error.errno == errno.EOPNOTSUPP:
                # To the kernel, which asks for them to check permissions, only this means none.
                raise OSError(errno.ENODATA, os.strerror(errno.ENODATA)) from error
            raise

    async def setxattr(
        self, number: int, name: bytes, value: bytes, in_group: Callable[[int], bool]
    ) -> None:
        """Set an extended attribute. Raises OSError: EPERM for a mark, or what the union tells.

        in_group: whether the caller belongs to a group; who does not, loses set-group-ID along
        with a change of the access ACL, as with one of the mode (acl(5), posix_acl_update_mode).
        """
        node = self._changeable(number, name)
        await self._raising.copy_up(node, content=False)
        place = node.place
        if name == _ACCESS_ACL and node.is_directory:
            self._tree.remember_names(node)
        places.setxattr(place, name, value)
        if name == _ACCESS_ACL:
            status = places.status(place)
            if status.st_mode & stat.S_ISGID and not in_group(status.st_gid):
                self._tree.upper.change_mode(place, stat.S_IMODE(status.st_mode) & ~stat.S_ISGID)

    async def removexattr(self, number: int, name: bytes) -> None:
        """Remove an extended attribute. Raises OSError: EPERM for a mark, ENODATA."""
        node = self._changeable(number, name)
        if node.upper is None or name in _ACLS:
            try:
                self.getxattr(number, name)
            except OSError as error:
                if name in _ACLS and error.errno == errno.ENODATA:
                    # One that is not there is as good as removed (vfs_remove_acl); filesystems
                    # themselves may see it otherwise.
                    return
                raise
        await self._raising.copy_up(node, content=False)
        places.removexattr(node.place, name)

    def _changeable(self, number: int, name: bytes) -> Node:
        if markers.is_mark(name):
            raise PermissionError(errno.EPERM, "a mark of the union can't be set through it")
        if name.startswith(_TOLD):
            raise PermissionError(errno.EPERM, "what the union tells of its layers can't be set")
        if name.startswith(b"system.") and name not in _ACLS:
            # The kernel checks no permission for these, so that anybody could have files copied.
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        node = self._tree.node(number)
        self._check(node)
        return node

    # Flags

    def flags(self, number: int, call: Call) -> bytes:
        """What *call*, one that sets nothing, tells of a regular file or a directory.

        Raises OSError: ENOTTY where its file system has no flags.
        """
        node = self._tree.node(number)
        _, layer, entry = node.top
        return call.with_protection(layer.flags(entry, call), self._tree.protection(node))

    async def set_flags(self, number: int, call: Call, value: bytes) -> None:
        """Do *call*, one that sets flags. Raises OSError: EOPNOTSUPP for what the upper has not."""
        node = self._tree.node(number)
        await self._raising.copy_up(node)
        assert node.upper is not None
        own, protection = call.without_protection(value)
        self._tree.upper.set_flags(node.upper.entry, call, own)
        self._tree.protect(node, protection)

    # Open files

    async def open(self, number: int, flags: int, *, privileged: bool) -> OpenFile:
        """Open a regular file; to write brings it to the upper.

        privileged: whether set-user-ID and set-group-ID stay when it is truncated.
        """
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        if writable or flags & os.O_TRUNC:
            await self._handover.change(number)
        else:
            await self._handover.content(number)
        node = self._tree.node(number)
        if writable or flags & os.O_TRUNC:
            appends = flags & os.O_APPEND and not flags & os.O_TRUNC
            self._check(node, IMMUTABLE if appends else PROTECTING)
            await self._raising.copy_up(node, 0 if flags & os.O_TRUNC else None)
            descriptor = self._tree.open_upper(node, flags & ~_NOT_PASSED_ON)
            mode = os.fstat(descriptor).st_mode if flags & os.O_TRUNC and not privileged else 0
            if _privileges(mode):
                os.fchmod(descriptor, stat.S_IMODE(mode & ~_privileges(mode)))
        else:
            descriptor = await self._open_to_read(node)
        return self._nodes.open(node, descriptor, writable=writable)

    async def _open_to_read(self, node: Node) -> int:
        source = self._tree.content(node)
        if source is not node.upper:
            descriptor = await open_source(source)
            if self._tree.content(node) is source:
                return descriptor
            # It was brought to the upper meanwhile.
            os.close(descriptor)
        return self._tree.open_upper(node, os.O_RDONLY)

    def read(self, handle: int, offset: int, size: int) -> bytes:
        """Up to *size* bytes at *offset*."""
        return os.pread(handle, size, offset)

    def write(self, handle: int, offset: int, data: bytes) -> int:
        """Write at *offset*; answers the number of bytes that were written."""
        return os.pwrite(handle, data, offset)

    async def fsync(self, handle: int, datasync: bool) -> None:
        """Bring a file's content (datasync) and attributes to the disk."""
        file = self._nodes.open_files[handle]
        node = file.node
        if node.upper is None or self._tree.upper.volatile:
            return
        if self._raising.has_content(node):
            sync = os.fdatasync if datasync else os.fsync
            await in_thread(sync, file.descriptor)
        elif not datasync:
            # The descriptor is of the file below, the attributes are of the metacopy.
            descriptor = self._tree.open_upper(node, os.O_RDONLY)
            try:
                await in_thread(os.fsync, descriptor)
            finally:
                os.close(descriptor)

    def release(self, handle: int) -> None:
        """Close an open file."""
        file = self._nodes.close(handle)
        self._tree.release(file.node)
        os.close(file.descriptor)

    # Directories

    def readdir(self, number: int, start: int) -> Iterator[tuple[bytes, Node, int]]:
        """The entries of a directory from position *start* on: name, node, the position after it.

        A position means the same name as long as the directory is known, whatever changes
        meanwhile and whoever reads: nobody has to say when reading begins and ends.
        """
        node = self._tree.node(number)
        self._handover.listing(node)
        names = self._listing(node) if start == 0 else self._listings.get(number, [])
        for at in range(max(0, start - _POSITIONS), len(names)):
            name, position = names[at], _POSITIONS + at + 1
            if at == 0:
                yield name, node, position
            elif at == 1:
                yield name, node.names[0].parent if node.names else node, position
            elif found := self._shown(node, name):
                yield name, found, position

    def accepted(self, node: Node, taken: bool) -> None:
        """Whether the kernel took a node that ``readdir`` gave (then it has a reference)."""
        if taken:
            self._known(node)
        else:
            self._tree.release(node)

    def _listing(self, node: Node) -> list[bytes]:
        """The names in a directory by position: new ones last, those that are gone in their place
        until there are too many.
        """
        present = self._tree.children(node)
        names = self._listings.get(node.number, [])
        if len(names) > 2 * len(present) + _GONE_FROM_A_LISTING:
            names = []
        if not names:
            names = [b".", b"..", *present]
        else:
            listed = set(names)
            names += [name for name in present if name not in listed]
        self._listings[node.number] = names
        return names

    async def fsyncdir(self, number: int) -> None:
        """Bring a directory's names to the disk."""
        node = self._tree.node(number)
        if node.upper is None or self._tree.upper.volatile:
            return
        descriptor = os.open(
            b".",
            os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC,
            dir_fd=places.directory(node.place),
        )
        try:
            await in_thread(os.fsync, descriptor)
        finally:
            os.close(descriptor)

    def statfs(self) -> os.statvfs_result:
        """What the filesystem of the upper, or of the topmost layer, has."""
        return os.fstatvfs(self._tree.layers[-1].statfs())

    # Helpers

    def _check(self, node: Node, forbidding: int = PROTECTING) -> None:
        """Raise OSError, EPERM, if *node* has one of these of PROTECTING."""
        if self._tree.protection(node) & forbidding:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    def _known(self, node: Node) -> Node:
        if not self._mirror.refer(node):
            node.lookups += 1
        return node

    def _made_open(
        self, descriptor: int, writable: bool, made: Callable[[], Node]
    ) -> tuple[OpenFile, Node]:
        """What was just made and opened, as *made* finds it; the kernel has a reference on it."""
        try:
            node = made()
        except BaseException:
            os.close(descriptor)
            raise
        file = self._nodes.open(node, descriptor, writable=writable)
        return file, self._known(node)

    def _find(self, parent: Node, name: bytes) -> Node | None:
        try:
            return self._tree.lookup(parent, name)
        except FileNotFoundError:
            return None

    def _shown(self, parent: Node, name: bytes) -> Node | None:
        """The node of a name in a listing; one that can't be looked up does not hide the rest."""
        try:
            return self._find(parent, name)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            _log.warning("%r is left out of a listing: %s", name, error)
            return None

    def _old_name(self, parent: int, name: bytes) -> tuple[Node, Node]:
        """A directory, and the node that *name* is there; it may be taken away."""
        _check_name(name)
        directory = self._tree.node(parent)
        node = self._tree.lookup(directory, name)
        self._check(directory)
        self._check(node)
        return directory, node

    def _new_name(self, parent: int, name: bytes) -> Node:
        """A directory, which the upper has then, in which *name* is free and allowed."""
        self._check_new_name(name)
        directory = self._tree.node(parent)
        if self._find(directory, name) is not None:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        self._check(directory, IMMUTABLE)
        self._raising.raise_directory(directory)
        return directory

    def _name_to_make(self, parent: int, name: bytes) -> Node:
        """As ``_new_name``, for what a mirror can make once the upper has the directory.

        Raises MirroredError then.
        """
        raised = self._tree.node(parent).upper is None
        directory = self._new_name(parent, name)
        if raised:
            self._handover.made_ready(directory)
        return directory

    def _check_new_name(self, name: bytes) -> None:
        _check_name(name)
        if self._reserve_markers and markers.is_reserved(name):
            raise OSError(errno.EINVAL, "names beginning .wh. are whiteouts")


def _check_name(name: bytes) -> None:
    # The kernel passes names on that are longer than any layer can have.
    if len(name) > NAME_MAX:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))


def _told(node: Node, name: bytes) -> bytes:
    known = _UPPER if node.upper is not None else node.top.layer.describe()
    match name:
        case b"user.unionmount.layer":
            value = known.get("digest", known["label"])
        case b"user.unionmount.created_by":
            value = known.get("created_by", "")
        case _:
            value = ""
    if not value:
        raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
    return os.fsencode(value)[:_VALUE_MAX]


def _privileges(mode: int) -> int:
    """What Linux takes from the mode of a file that is written to (setattr_should_drop_suidgid of
    fs/attr.c).
    """
    if not stat.S_ISREG(mode):
        return 0
    return mode & (stat.S_ISUID | (stat.S_ISGID if mode & stat.S_IXGRP else 0))
