"""``pyfuse3.Operations``: translates requests, replies and errors, and does nothing else."""

from __future__ import annotations

import errno
import functools
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, ParamSpec, TypeVar

import pyfuse3
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, RequestContext, SetattrFields

from unionfs.driver.caching import ABSENT, attributes_reply, open_reply
from unionfs.driver.plane import AGAIN
from unionfs.filesystem import Changes, Filesystem
from unionfs.flags import Call
from unionfs.mirror import MirroredError
from unionfs.model import NAME_MAX, Caller
from unionfs.nodes import Node, OpenFile
from unionfs.owners import Owners

_P = ParamSpec("_P")
_T = TypeVar("_T")

_log: Final = logging.getLogger("unionfs")

# What pyfuse3 does not know comes from the plane as something that it knows (translate.c): an ioctl
# as an attribute, O_TMPFILE as a name that there is not.
_CALL: Final = b"\1"
_UNNAMED: Final = b"/"

_WORTH_A_RECORD: Final = frozenset((errno.EIO, errno.ESTALE, errno.EUCLEAN))
"""Errors that tell of a layer or a disk, not of what the caller asked."""


def _answering(
    handler: Callable[_P, Coroutine[Any, Any, _T]],
) -> Callable[_P, Coroutine[Any, Any, _T]]:
    """An OSError becomes the caller's errno; any other exception EIO, and one log record."""

    @functools.wraps(handler)
    async def answer(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        operations = args[0]
        assert isinstance(operations, UnionOperations)
        try:
            operations.catch_up()
            return await handler(*args, **kwargs)
        except FUSEError:
            raise
        except MirroredError:
            raise FUSEError(AGAIN) from None
        except OSError as error:
            if error.errno in _WORTH_A_RECORD:
                _log.warning("%s %r: %s", handler.__name__, args[1:3], error)
            raise FUSEError(error.errno or errno.EIO) from None
        except Exception:
            _log.exception("%s failed for node or handle %r", handler.__name__, args[1:3])
            raise FUSEError(errno.EIO) from None

    return answer


class UnionOperations(pyfuse3.Operations):
    """The requests of one mount, for one filesystem; its owners show as *owners* says.

    offer: told of each file that a reply opens, and whether it is the upper's, right before it.
    answers_calls: whether the plane is beneath. Without it what looks like an ioctl is a name that
    some program asks for.
    """

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = True

    def __init__(
        self,
        filesystem: Filesystem,
        owners: Owners,
        offer: Callable[[int, bool], None] | None = None,
    ) -> None:
        super().__init__()
        self.answers_calls = False
        self._offer = offer
        self._filesystem = filesystem
        self._owners = owners

        self.catch_up: Final = filesystem.catch_up

    # Names

    @_answering
    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        try:
            return self._given(self._filesystem.lookup(parent_inode, name))
        except FileNotFoundError:
            return ABSENT

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for number, count in inode_list:
            try:
                self._filesystem.forget(number, count)
            except Exception:
                _log.exception("forget failed for node %d", number)

    @_answering
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        if name == _UNNAMED:
            file, node = self._filesystem.create_unnamed(
                parent_inode, mode, flags, self._caller(ctx)
            )
        else:
            file, node = self._filesystem.create(parent_inode, name, mode, flags, self._caller(ctx))
        return self._open(file), self._given(node)

    @_answering
    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        return self._given(
            self._filesystem.mknod(parent_inode, name, mode, rdev, self._caller(ctx))
        )

    @_answering
    async def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext
    ) -> EntryAttributes:
        return self._given(self._filesystem.mkdir(parent_inode, name, mode, self._caller(ctx)))

    @_answering
    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        return self._given(self._filesystem.symlink(parent_inode, name, target, self._caller(ctx)))

    @_answering
    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        return self._given(await self._filesystem.link(inode, new_parent_inode, new_name))

    @_answering
    async def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        await self._filesystem.unlink(parent_inode, name)

    @_answering
    async def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        self._filesystem.rmdir(parent_inode, name)

    @_answering
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        await self._filesystem.rename(parent_inode_old, name_old, parent_inode_new, name_new, flags)

    # Attributes

    @_answering
    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        return self._entry(self._filesystem.getattr(inode))

    @_answering
    async def setattr(
        self,
        inode: int,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: int | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        changes = Changes(
            mode=attr.st_mode if fields.update_mode else None,
            uid=self._owners.users.changed(attr.st_uid) if fields.update_uid else None,
            gid=self._owners.groups.changed(attr.st_gid) if fields.update_gid else None,
            size=attr.st_size if fields.update_size else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
        )
        # Without any change it comes before a write, by somebody who may not keep them.
        if changes == Changes() or (fields.update_size and ctx.uid != 0):
            changes = changes._replace(ends_privileges=True)
        return self._entry(await self._filesystem.setattr(inode, changes, fh))

    @_answering
    async def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        return self._filesystem.readlink(inode)

    @_answering
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        value = self._owners.stored_value(name, value)
        await self._filesystem.setxattr(inode, name, value, self._groups(ctx))

    @_answering
    async def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        if self.answers_calls and name.startswith(_CALL):
            return await self._answer_call(inode, name.removeprefix(_CALL))
        return self._owners.shown_value(name, self._filesystem.getxattr(inode, name))

    @_answering
    async def listxattr(self, inode: int, ctx: RequestContext) -> Sequence[bytes]:
        return self._filesystem.listxattr(inode, privileged=ctx.uid == 0)

    @_answering
    async def removexattr(self, inode: int, name: bytes, ctx: RequestContext) -> None:
        await self._filesystem.removexattr(inode, name)

    # Open files. FLUSH is left to the base class: ENOSYS, so the kernel never asks again.

    @_answering
    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        file = await self._filesystem.open(inode, flags, privileged=ctx.uid == 0)
        return self._open(file)

    @_answering
    async def read(self, fh: int, off: int, size: int) -> bytes:
        return self._filesystem.read(fh, off, size)

    @_answering
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        return self._filesystem.write(fh, off, buf)

    @_answering
    async def fsync(self, fh: int, datasync: bool) -> None:
        await self._filesystem.fsync(fh, datasync)

    @_answering
    async def release(self, fh: int) -> None:
        self._filesystem.release(fh)

    # Directories. The handle of one is its number: nothing is kept of who reads it.

    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        return inode

    @_answering
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        given = False
        try:
            for name, node, position in self._filesystem.readdir(fh, start_id):
                taken = False
                try:
                    taken = pyfuse3.readdir_reply(token, name, self._entry(node), position)
                finally:
                    if name not in (b".", b".."):
                        self._filesystem.accepted(node, taken)
                if not taken:
                    break
                given = True
        except OSError:
            # What the kernel has been given counts; its next request begins with the error.
            if not given:
                raise

    @_answering
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        await self._filesystem.fsyncdir(fh)

    async def releasedir(self, fh: int) -> None:
        pass

    @_answering
    async def statfs(self, ctx: RequestContext) -> pyfuse3.StatvfsData:
        has = self._filesystem.statfs()
        reply = pyfuse3.StatvfsData()
        for field in _STATFS_FIELDS:
            setattr(reply, field, getattr(has, field))
        reply.f_namemax = NAME_MAX
        return reply

    def _open(self, file: OpenFile) -> FileInfo:
        if self._offer is not None:
            self._offer(file.descriptor, file.node.has_own_content)
        return open_reply(file.descriptor)

    async def _answer_call(self, inode: int, words: bytes) -> bytes:
        """An ioctl: its number and what it is given, in hexadecimal; answers what it answers."""
        call, value = Call(int(words[:8], 16)), bytes.fromhex(words[8:].decode("ascii"))
        if not call.sets:
            return self._filesystem.flags(inode, call)
        await self._filesystem.set_flags(inode, call, value)
        # The kernel does not know that this changes attributes.
        pyfuse3.invalidate_inode(inode, attr_only=True)
        return b""

    def _given(self, node: Node) -> EntryAttributes:
        """The reply that gives the kernel the reference which was counted for it."""
        try:
            return self._entry(node)
        except BaseException:
            self._filesystem.forget(node.number, 1)
            raise

    def _entry(self, node: Node) -> EntryAttributes:
        return attributes_reply(node.number, self._filesystem.status(node), self._owners)

    def _caller(self, context: RequestContext) -> Caller:
        return Caller(
            self._owners.users.stored(context.uid, errno.EOVERFLOW),
            self._owners.groups.stored(context.gid, errno.EOVERFLOW),
            context.umask,
        )

    def _groups(self, context: RequestContext) -> Callable[[int], bool]:
        """Whether the caller of a request belongs to a stored group; asked only when it matters."""

        def belongs(stored: int) -> bool:
            group = self._owners.groups.shown(stored)
            if context.uid == 0 or context.gid == group:
                return True
            try:
                return group in pyfuse3.get_sup_groups(context.pid)
            except OSError:
                # It is in a namespace of processes that we don't see.
                return False

        return belongs


_STATFS_FIELDS: Final = (
    "f_bsize",
    "f_frsize",
    "f_blocks",
    "f_bfree",
    "f_bavail",
    "f_files",
    "f_ffree",
    "f_favail",
)
