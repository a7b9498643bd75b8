"""The writable layer: create, remove, whiteout, rename, and the marks for them.

On disk it is what overlayfs writes, so that either can mount the other's. Every change appears
at once or not at all: what takes more than one system call is built in the work directory and
moved into place by one rename. The order within each operation is stated where it matters.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar

from unionfs import syscalls
from unionfs.flags import Call
from unionfs.layers import markers, places
from unionfs.layers.directory import DirectoryLayer
from unionfs.layers.markers import Dialects
from unionfs.layers.places import Place
from unionfs.model import Caller, Entry
from unionfs.ordering import Ordering, ordering_of
from unionfs.workdir import DIRECTORY, WorkDirectory, names_in

_T = TypeVar("_T")

_DIGITS_MAX: Final = 20  # of a number of 64 bits
_LINKS_MAX: Final = (1 << 32) - 1
_LINKS: Final = re.compile(rb"([LU])([+-]\d{1,10})")


class Upper:
    """An upper directory and its work directory, both ours alone while it is open.

    upper, work: the directories; they must exist and lie on one mount of one filesystem.
    volatile: nothing is synced, and a mark in the work directory refuses every later mount.
    metacopy: what changes only a file's attributes or names leaves its content below, if marks
    are in a namespace that not everybody can write (see ``metacopies``).
    dialects: what whiteouts that others wrote there may look like. namespace: what marks are
    written in, and believed in.

    Raises OSError if one can't be opened, BusyError if another mount has one of them, UnionError
    for what the user has to mend.
    """

    def __init__(
        self,
        upper: bytes,
        work: bytes,
        *,
        volatile: bool = False,
        metacopy: bool = False,
        dialects: Dialects = Dialects.AUTO,
        namespace: bytes = markers.TRUSTED,
    ) -> None:
        self.volatile: Final = volatile
        """Whether nothing is synced."""
        self.metacopies: Final = metacopy and namespace == markers.TRUSTED
        """Whether copies without content are made."""
        self._ids = (os.geteuid(), os.getegid())
        self._impersonates = False
        with contextlib.ExitStack() as undo:
            self.layer = DirectoryLayer(upper, dialects, namespace=namespace, writable=True)
            undo.callback(self.layer.close)
            self.root: Place = self.layer.root().handle
            self._work = WorkDirectory(work, upper, self.root, namespace)
            undo.callback(self._work.close)
            self.prefix = namespace
            self.ordering: Final = (
                Ordering.UNORDERED if volatile else ordering_of(self.root.descriptor)
            )
            """What is done with a copy's content before the copy gets its name."""
            if volatile:
                self._work.mark_volatile()
            index_fd = self._work.index.descriptor
            self.indexed = {os.fsencode(name) for name in os.listdir(index_fd)}
            self._sweep_index()
            undo.pop_all()

    def close(self) -> None:
        """Sweep the work directory and give both directories up."""
        self._work.close()
        self.layer.close()

    # Making entries

    def create(self, parent: Place, name: bytes, mode: int, flags: int, caller: Caller) -> int:
        """Make a regular file and open it with *flags*; answers the descriptor."""
        flags |= os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

        def make(directory_fd: int, name: bytes) -> int:
            return os.open(name, flags, mode & 0o7777, dir_fd=directory_fd)

        return self._make(parent, name, make, caller)

    def create_unnamed(self, parent: Place, mode: int, flags: int, caller: Caller) -> int:
        """Make a regular file that has no name as yet (O_TMPFILE); answers the descriptor.

        Raises OSError; EOPNOTSUPP where the filesystem has none.
        """
        flags |= os.O_TMPFILE | os.O_CLOEXEC
        with self._as(caller):
            return os.open(b".", flags, mode & 0o7777, dir_fd=places.directory(parent))

    def make_node(self, parent: Place, name: bytes, mode: int, device: int, caller: Caller) -> None:
        """Make a file, device, socket or FIFO.

        Raises OSError; EPERM for a character device 0:0, which would be a whiteout.
        """
        if stat.S_ISCHR(mode) and device == 0:
            raise PermissionError(errno.EPERM, "a character device 0:0 is a whiteout")

        def make(directory_fd: int, name: bytes) -> None:
            os.mknod(name, mode, device, dir_fd=directory_fd)

        self._make(parent, name, make, caller)

    def make_directory(self, parent: Place, name: bytes, mode: int, caller: Caller) -> None:
        """Make a directory, opaque if a whiteout was in its place."""

        def make(directory_fd: int, name: bytes) -> None:
            os.mkdir(name, mode & 0o7777, dir_fd=directory_fd)

        self._make(parent, name, make, caller)

    def make_symlink(self, parent: Place, name: bytes, target: bytes, caller: Caller) -> None:
        """Make a symbolic link."""

        def make(directory_fd: int, name: bytes) -> None:
            os.symlink(target, name, dir_fd=directory_fd)

        self._make(parent, name, make, caller)

    def link(self, source: Place, parent: Place, name: bytes) -> None:
        """Give *source* another name."""

        def make(directory_fd: int, name: bytes) -> None:
            self._link(source, directory_fd, name)

        self._make(parent, name, make, None)

    # Taking entries away

    def remove(self, parent: Place, name: bytes, *, present: bool, covers: bool) -> None:
        """Take *name*, not a directory, out of the union.

        present: the upper has it. covers: a layer below has it too, so a whiteout takes its
        place, in the same instant (a name that was removed never shows what is below it).
        """
        directory_fd = places.directory(parent)
        if not covers:
            os.unlink(name, dir_fd=directory_fd)
        elif not present:
            self._work.link_whiteout(directory_fd, name)
        else:
            scratch = self._work.new_whiteout()
            with self._work.discarding(scratch):
                _rename(self.scratch, scratch, directory_fd, name)

    def remove_directory(self, place: Place, *, present: bool, covers: bool) -> None:
        """Take a directory that shows nothing out of the union; arguments as for ``remove``."""
        parent, name = place.parent, place.name
        assert parent is not None
        if not present:
            self._work.link_whiteout(places.directory(parent), name)
            return
        with places.outliving(place):
            scratch = self._take_directory(places.directory(parent), name, covers)
        if scratch is not None:
            self._work.discard(scratch)

    def _take_directory(self, directory_fd: int, name: bytes, covers: bool) -> bytes | None:
        """Take a directory away; answers its scratch name if it is there now, to be removed."""
        scratch_fd = self.scratch
        if covers:
            scratch = self._work.new_whiteout()
            exchange = syscalls.RENAME_EXCHANGE
            with self._work.discarding(scratch):
                _rename(scratch_fd, scratch, directory_fd, name, exchange)
            return scratch
        try:
            os.rmdir(name, dir_fd=directory_fd)
            return None
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        scratch = self.scratch_name()
        _rename(directory_fd, name, scratch_fd, scratch)
        return scratch

    def clear_whiteouts(self, place: Place) -> None:
        """Leave the directory at *place*, in which the union shows nothing, physically empty.

        An empty opaque one takes its place at once, so that nothing below shows in between.
        """
        parent, name = place.parent, place.name
        assert parent is not None
        if not names_in(places.directory(place), b"."):
            return
        scratch = self.scratch_name()
        with self._work.discarding(scratch):
            status = places.status(place)
            self._make_empty(scratch, place, status)
            with self._same_times(parent):
                directory_fd = places.directory(parent)
                _rename(self.scratch, scratch, directory_fd, name, syscalls.RENAME_EXCHANGE)
                places.forget(place)
                # XFS changes those of what is moved to another parent; not worth failing for.
                with contextlib.suppress(OSError):
                    self.change_times(place, status.st_atime_ns, status.st_mtime_ns)
        place.impure, place.hidden = False, None
        self._work.discard(scratch)

    def _make_empty(self, scratch: bytes, like: Place, status: os.stat_result) -> None:
        os.mkdir(scratch, 0o700, dir_fd=self.scratch)
        empty = self.scratch_place(scratch)
        for name in places.listxattr(like):
            places.setxattr(empty, name, places.getxattr(like, name))
        self.set_mark(empty, markers.OPAQUE, markers.OPAQUE_YES)
        self.change_owner(empty, status.st_uid, status.st_gid)
        self.change_mode(empty, stat.S_IMODE(status.st_mode))
        self.change_times(empty, status.st_atime_ns, status.st_mtime_ns)

    # Moving entries

    def move(
        self, source: Place, parent: Place, name: bytes, *, directory: bool, covers: bool
    ) -> None:
        """Rename *source* to *name* in *parent*, replacing what the upper has there.

        covers: a layer below has the old name, so a whiteout is left there in the same instant.
        A directory that is replaced must be physically empty (see ``clear_whiteouts``).
        """
        assert source.parent is not None
        old, old_fd = source.name, places.directory(source.parent)
        new_fd = places.directory(parent)
        flags = 0
        spare = False
        if directory and self._is_whiteout(parent, name):
            # A directory can't replace a whiteout, but change places with it.
            flags = syscalls.RENAME_EXCHANGE
            spare = not covers
        elif covers:
            flags = syscalls.RENAME_WHITEOUT
        _rename(old_fd, old, new_fd, name, flags)
        if spare:
            # It hides nothing, so that it may as well stay.
            with contextlib.suppress(OSError):
                os.unlink(old, dir_fd=old_fd)
        source.parent, source.name = parent, name

    def exchange(self, one: Place, other: Place) -> None:
        """Let two entries change names."""
        assert one.parent is not None
        assert other.parent is not None
        _rename(
            places.directory(one.parent),
            one.name,
            places.directory(other.parent),
            other.name,
            syscalls.RENAME_EXCHANGE,
        )
        one.parent, other.parent = other.parent, one.parent
        one.name, other.name = other.name, one.name

    # Copy-up: what is built in the scratch directory, and where it goes

    def scratch_name(self) -> bytes:
        """A name in the scratch directory that is not in use."""
        return self._work.new_name()

    def scratch_place(self, name: bytes) -> Place:
        """The place of a scratch name."""
        return Place(self._work.scratch, name)

    @property
    def scratch(self) -> int:
        """A descriptor of the scratch directory."""
        return self._work.scratch.descriptor

    def discarding(self, name: bytes) -> contextlib.AbstractContextManager[None]:
        """If the block fails, the scratch entry that it was to use is removed."""
        return self._work.discarding(name)

    def drop_scratch(self, name: bytes) -> None:
        """Remove a scratch entry: a copy whose node has lost its last name."""
        self._work.discard(name)

    def publish(self, scratch: bytes, parent: Place, name: bytes) -> None:
        """Move a copy into place; the parent's times stay, for nothing changed in the union."""
        with self._same_times(parent):
            self.mark_impure(parent)
            _rename(self.scratch, scratch, places.directory(parent), name)

    def publish_index(self, scratch: bytes, key: bytes) -> Place:
        """Move the copy of an inode with several names into the index; answers its place."""
        _rename(self.scratch, scratch, self._work.index.descriptor, key)
        self.indexed.add(key)
        return self.index_place(key)

    def index_place(self, key: bytes) -> Place:
        """The place of an index entry."""
        return Place(self._work.index, key)

    def link_copy(self, key: bytes, parent: Place, name: bytes) -> None:
        """Give a copy in the index the name that its lower inode has in the union."""
        with self._same_times(parent):
            self.mark_impure(parent)
            os.link(
                key,
                name,
                src_dir_fd=self._work.index.descriptor,
                dst_dir_fd=places.directory(parent),
                follow_symlinks=False,
            )

    def drop_index(self, key: bytes) -> None:
        """Remove the index entry of an inode that has no name left.

        Its names are gone, so that failing here is no error: the next mount tries again.
        """
        self.indexed.discard(key)
        with contextlib.suppress(OSError):
            os.unlink(key, dir_fd=self._work.index.descriptor)

    def _sweep_index(self) -> None:
        """Remove the entries whose last name went when a mount was killed before they did."""
        for key in list(self.indexed):
            place = self.index_place(key)
            status = places.status(place)
            alone = stat.S_ISREG(status.st_mode) and status.st_nlink == 1
            # A count relative to the lower inode's, which is not known here, keeps the entry.
            if alone and self.links(place, 1, _LINKS_MAX) == 0:
                self.drop_index(key)

    # Changing what is there

    def open(self, entry: Entry, flags: int) -> int:
        """Open a regular file; answers the descriptor.

        Raises OSError: ESTALE if somebody else put another in its place. It never waits for one.
        """
        place: Place = entry.handle
        flags |= os.O_CLOEXEC | os.O_NONBLOCK
        if place.parent is None:
            return os.open(places.reference(place)[0], flags & ~os.O_NOFOLLOW)
        descriptor = os.open(
            place.name, flags | os.O_NOFOLLOW, dir_fd=places.directory(place.parent)
        )
        try:
            self.layer.check_same(entry, os.fstat(descriptor))
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def change_owner(self, place: Place, uid: int, gid: int) -> None:
        """chown(2) of the entry itself; -1 leaves one as it is."""
        if place.parent is None:
            os.chown(b"/proc/self/fd/%d" % place.descriptor, uid, gid)
        else:
            directory_fd = places.directory(place.parent)
            os.chown(place.name, uid, gid, dir_fd=directory_fd, follow_symlinks=False)

    def change_mode(self, place: Place, mode: int) -> None:
        """chmod(2) of the entry itself, never of what a link leads to."""
        if place.parent is not None:
            try:
                syscalls.chmod_at(places.directory(place.parent), place.name, mode)
                return
            except OSError as error:
                if error.errno not in (errno.ENOSYS, errno.EPERM):
                    raise
        with places.held(place) as path:
            os.chmod(path, mode)

    def change_times(self, place: Place, atime_ns: int, mtime_ns: int) -> None:
        """utimensat(2), in nanoseconds."""
        if place.parent is None:
            os.utime(b"/proc/self/fd/%d" % place.descriptor, ns=(atime_ns, mtime_ns))
        else:
            _set_times(places.directory(place.parent), place.name, atime_ns, mtime_ns)

    def set_flags(self, entry: Entry, call: Call, value: bytes) -> None:
        """Do *call*, one that sets flags. Raises OSError: EOPNOTSUPP for those it has not."""
        with self.layer.opened(entry) as descriptor:
            fcntl.ioctl(descriptor, call, value)

    # Marks

    def set_mark(self, place: Place, mark: bytes, value: bytes) -> None:
        """Set a mark on the entry at *place*. Raises OSError."""
        name = self.prefix + mark
        try:
            places.setxattr(place, name, value)
        except PermissionError as error:
            if error.errno != errno.EACCES:
                raise
            # Attributes of users take the right to write, which the owner can always have.
            with places.held(place) as path, _writable(path):
                os.setxattr(path, name, value)

    def remove_mark(self, place: Place, mark: bytes) -> None:
        """Remove a mark in whichever spelling it is there."""
        present = places.listxattr(place)
        for name in markers.spellings(mark, markers.USER):
            if name in present:
                places.removexattr(place, name)

    def mark_impure(self, directory: Place) -> None:
        """Before an entry with an inode number from below comes into *directory*.

        In other directories overlayfs lists the upper's numbers (its ovl_calc_d_ino).
        """
        if not directory.impure:
            self.set_mark(directory, markers.IMPURE, markers.IMPURE_YES)
            directory.impure = True

    def has_origin(self, place: Place) -> bool:
        """Whether overlayfs shows the entry under the inode number of a lower one."""
        return self.prefix + markers.ORIGIN in places.listxattr(place)

    def number(self, place: Place, present: Sequence[bytes]) -> int | None:
        """The inode number that a copied-up entry had below, if it has the mark.

        present: what ``places.listxattr`` gave, here and where it is asked for elsewhere.
        """
        value = self.layer.mark(place, markers.NUMBER, present)
        if value is None or not value.isdigit() or len(value) > _DIGITS_MAX:
            return None
        return int(value)

    def recorded_index_key(self, place: Place, present: Sequence[bytes]) -> bytes | None:
        """The name in the index of an upper inode, as its own marks have it."""
        origin = self.layer.mark(place, markers.ORIGIN, present)
        if origin is not None:
            return origin.hex().encode()
        return self.layer.mark(place, markers.INDEX, present)

    def links(self, place: Place, upper_links: int, lower_links: int) -> int:
        """How many names of an indexed inode the union has.

        The mark is relative to the links of the upper inode or of the lower one, whichever does
        not change along with it (fs/overlayfs/inode.c, ovl_get_nlink).
        """
        try:
            value = places.getxattr(place, self.prefix + markers.LINKS)
        except OSError as error:
            if error.errno != errno.ENODATA:
                raise
            return lower_links
        if not (match := _LINKS.fullmatch(value)):
            return lower_links
        base = upper_links if match[1] == b"U" else lower_links
        return min(max(base + int(match[2]), 0), _LINKS_MAX)

    def set_links_by_upper(self, place: Place, links: int) -> None:
        """Note the links relative to the upper inode's, before both change by one together."""
        relative = links - places.status(place).st_nlink
        self.set_mark(place, markers.LINKS, b"U%+d" % relative)

    def set_links_by_lower(self, place: Place, links: int, lower_links: int) -> None:
        """Note the links relative to the lower inode's, before only the upper's change."""
        self.set_mark(place, markers.LINKS, b"L%+d" % (links - lower_links))

    # Helpers

    def _make(
        self,
        parent: Place,
        name: bytes,
        make: Callable[[int, bytes], _T],
        caller: Caller | None,
    ) -> _T:
        """Make an entry where the union has none: in place, or instead of a whiteout."""
        self.settle(parent, name)
        with self._as(caller):
            try:
                return make(places.directory(parent), name)
            except FileExistsError:
                if not self._is_whiteout(parent, name):
                    raise
        return self._make_over_whiteout(parent, name, make, caller)

    def _make_over_whiteout(
        self,
        parent: Place,
        name: bytes,
        make: Callable[[int, bytes], _T],
        caller: Caller | None,
    ) -> _T:
        stage = self.scratch_name()
        with self._work.discarding(stage):
            stage_fd = self._stage(stage, parent)
            try:
                with self._as(caller):
                    made = make(stage_fd, name)
                try:
                    self._replace_whiteout(Place(Place(None, b"", stage_fd), name), parent)
                except BaseException:
                    if isinstance(made, int):
                        os.close(made)
                    raise
            finally:
                os.close(stage_fd)
        self._work.discard_directory(stage)
        return made

    def _replace_whiteout(self, made: Place, parent: Place) -> None:
        assert made.parent is not None
        flags = 0
        if stat.S_ISDIR(places.status(made).st_mode):
            self.set_mark(made, markers.OPAQUE, markers.OPAQUE_YES)
            flags = syscalls.RENAME_EXCHANGE
        _rename(made.parent.descriptor, made.name, places.directory(parent), made.name, flags)

    def _stage(self, scratch: bytes, parent: Place) -> int:
        """Make a scratch directory in which a new entry inherits what it would inherit in *parent*.

        Answers its descriptor.
        """
        place = self.scratch_place(scratch)
        os.mkdir(scratch, 0o700, dir_fd=self.scratch)
        status = os.stat(places.directory(parent))
        if status.st_mode & stat.S_ISGID:
            self.change_owner(place, -1, status.st_gid)
            self.change_mode(place, 0o2700)
        default = b"system.posix_acl_default"
        try:
            places.setxattr(place, default, places.getxattr(parent, default))
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
                raise
        return os.open(scratch, DIRECTORY, dir_fd=self.scratch)

    def settle(self, parent: Place, name: bytes) -> None:
        """Turn a ``.wh.`` file for *name* into a whiteout device, before *name* gets an entry.

        Beside that entry it would say something else: that it is opaque.
        """
        if parent.hidden is None or name not in parent.hidden:
            return
        scratch = self.scratch_name()
        with self._same_times(parent):
            directory_fd = places.directory(parent)
            with contextlib.suppress(FileExistsError):
                self._work.link_whiteout(directory_fd, name)
            # It may be a directory.
            _rename(directory_fd, markers.whiteout_name(name), self.scratch, scratch)
        self._work.discard(scratch)
        parent.hidden -= {name}

    def _is_whiteout(self, parent: Place, name: bytes) -> bool:
        try:
            return markers.is_whiteout_device(
                os.stat(name, dir_fd=places.directory(parent), follow_symlinks=False)
            )
        except FileNotFoundError:
            return False

    def _link(self, source: Place, directory_fd: int, name: bytes) -> None:
        if source.parent is None:
            # It never had a name; one that has lost its last gets no other: ENOENT.
            os.link(b"/proc/self/fd/%d" % source.descriptor, name, dst_dir_fd=directory_fd)
            return
        os.link(
            source.name,
            name,
            src_dir_fd=places.directory(source.parent),
            dst_dir_fd=directory_fd,
            follow_symlinks=False,
        )

    @contextlib.contextmanager
    def _same_times(self, directory: Place) -> Iterator[None]:
        before = os.stat(places.directory(directory))
        with contextlib.ExitStack() as stack:
            if self._ids[0] != 0:
                # Names for copies are made even in directories that their owner may not write.
                stack.enter_context(_writable(stack.enter_context(places.held(directory))))
            yield
        # What was to be done is done; its times are not worth failing for.
        with contextlib.suppress(OSError):
            times = before.st_atime_ns, before.st_mtime_ns
            _set_times(places.directory(directory), b".", *times)

    @contextlib.contextmanager
    def _as(self, caller: Caller | None) -> Iterator[None]:
        """Let what is made belong to *caller* from the first instant.

        So that no crash leaves it with another owner, and set-group-ID directories, default ACLs
        and quotas do their work. Raises PermissionError if the daemon can't make such a file.
        """
        if caller is None:
            yield
            return
        own_umask = os.umask(caller.umask)
        try:
            with self._with_ids(caller.uid, caller.gid):
                yield
        finally:
            os.umask(own_umask)

    @contextlib.contextmanager
    def _with_ids(self, uid: int, gid: int) -> Iterator[None]:
        if (uid, gid) == self._ids:
            yield
            return
        if not self._impersonates:
            # Here and not at the start: a command that is executed must not inherit it.
            self._impersonates = syscalls.keep_capabilities_over_fsuid()
        try:
            if not syscalls.set_filesystem_ids(uid, gid):
                raise PermissionError(errno.EPERM, "the daemon may not give files this owner")
            yield
        finally:
            syscalls.set_filesystem_ids(*self._ids)


def _set_times(directory_fd: int, name: bytes, atime_ns: int, mtime_ns: int) -> None:
    os.utime(name, ns=(atime_ns, mtime_ns), dir_fd=directory_fd, follow_symlinks=False)


def _rename(old_fd: int, old: bytes, new_fd: int, new: bytes, flags: int = 0) -> None:
    """renameat2(2), also of a directory of our own that we may not write.

    Its entry ``..`` changes, which takes a permission that its owner can give and take away.
    """
    try:
        syscalls.renameat2(old_fd, old, new_fd, new, flags)
    except PermissionError as error:
        if error.errno != errno.EACCES:
            raise
        moved = (
            [(old_fd, old), (new_fd, new)] if flags & syscalls.RENAME_EXCHANGE else [(old_fd, old)]
        )
        with contextlib.ExitStack() as stack:
            for directory_fd, name in moved:
                path = stack.enter_context(places.held(Place(Place(None, b"", directory_fd), name)))
                stack.enter_context(_writable(path))
            syscalls.renameat2(old_fd, old, new_fd, new, flags)


@contextlib.contextmanager
def _writable(path: bytes) -> Iterator[None]:
    """Meanwhile what *path* leads to may be written by its owner, if that is us."""
    status = os.stat(path)
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISLNK(status.st_mode) or mode & stat.S_IWUSR or status.st_uid != os.geteuid():
        yield
        return
    os.chmod(path, mode | stat.S_IWUSR)
    try:
        yield
    finally:
        os.chmod(path, mode)
