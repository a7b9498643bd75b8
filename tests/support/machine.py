"""Random work on two mounts side by side: what is done, and what must be equal.

A `Step` is one operation. A `Pair` is two mounts of one stack: the oracle, which is the kernel's,
and the subject, which does the same. `Machine` has hypothesis draw a stack and steps for a pair.
"""

import contextlib
import enum
import errno
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, TypeVar

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)
from hypothesis.strategies import DataObject, DrawFn, SearchStrategy

from tests.support import linux
from tests.support.acls import ACCESS, DEFAULT
from tests.support.layers import OLD
from tests.support.mounts import COMMAND, KernelMount, Mount, Mounts, UnionMount
from tests.support.snapshots import NEW, Entry, Snapshot, differences, snapshot
from tests.support.stacks import (
    ACLS,
    CAPABILITY,
    MODES,
    USER,
    Dialect,
    Stack,
    build_stack,
    stacks,
    translate,
)
from tests.support.stores import StoreBuilder

_ATTRIBUTES = (
    ("user.k", b"1"),
    ("user.k", b"another"),
    ("user.\udcff", b""),
    ("user.l", b""),
    ("trusted.t", b"t"),
    ("security.capability", CAPABILITY),
    *((kind, value) for kind in (ACCESS, DEFAULT) for value in ACLS),
)
_SLOTS = 3
_SIZES = (0, 1, 3, 4096, 5000, 20000)
_NOW = 1_500_000_000_000_000_000  # all times that are set are long before
_LAYERS_MAX = 20

# What is done


@dataclass(frozen=True)
class Status:
    """What is compared of a stat(2). No two file systems agree on a directory's size and links."""

    kind: str
    mode: int
    owner: tuple[int, int]
    size: int | None
    nlink: int | None
    rdev: int
    mtime: int | str


_Change = tuple[tuple[str, bytes], int]
_Glance = Status | str
_Seen = TypeVar("_Seen", Entry, _Glance)


class Side:
    """One of the two mounts, with the descriptors that are open on it.

    Its methods from `make` on are the operations; what they return is compared.
    """

    def __init__(self, mount: Mount) -> None:
        self.mount = mount
        self.slots: dict[int, int] = {}
        self.opened: dict[int, PurePosixPath] = {}

    def at(self, path: PurePosixPath) -> Path:
        return self.mount.path / path

    def close(self) -> None:
        for descriptor in self.slots.values():
            os.close(descriptor)
        self.slots.clear()

    def answer(self, step: "Step") -> object:
        """What the step returns here, or the name of its error."""
        try:
            with linux.umask(step.umask):
                if step.uid == 0:
                    return step.act(self, *step.arguments)
                with linux.user(step.uid):
                    return step.act(self, *step.arguments)
        except OSError as error:
            return errno.errorcode[error.errno or 0]

    def glance(self, path: PurePosixPath) -> tuple[list[str], _Glance, _Glance]:
        """The names beside *path*, and what stat(2) says of its parent and of it."""
        try:
            names = _found(self.at(path.parent))
        except OSError:
            names = []
        return names, self._look(path.parent), self._look(path)

    def _look(self, path: PurePosixPath) -> _Glance:
        try:
            return status(os.lstat(self.at(path)))
        except OSError as error:
            return errno.errorcode[error.errno or 0]

    def make(self, path: PurePosixPath, flags: int, mode: int, data: bytes) -> object:
        descriptor = self._open(path, flags | os.O_CREAT, mode)
        try:
            return os.write(descriptor, data)
        finally:
            os.close(descriptor)

    def write(self, path: PurePosixPath, flags: int, offset: int, data: bytes) -> object:
        descriptor = self._open(path, flags)
        try:
            return os.pwrite(descriptor, data, offset)
        finally:
            os.close(descriptor)

    def read(self, path: PurePosixPath) -> object:
        descriptor = self._open(path, os.O_RDONLY)
        try:
            return _content(descriptor)
        finally:
            os.close(descriptor)

    def truncate(self, path: PurePosixPath, size: int) -> None:
        # Whether its time changes if its size does not, each file system has a mind of its own; and
        # what size a directory has.
        status = os.stat(self.at(path))
        if stat.S_ISDIR(status.st_mode) or status.st_size != size:
            os.truncate(self.at(path), size)

    def mkdir(self, path: PurePosixPath, mode: int) -> None:
        os.mkdir(self.at(path), mode)

    def rmdir(self, path: PurePosixPath) -> None:
        os.rmdir(self.at(path))

    def mknod(self, path: PurePosixPath, mode: int, device: int) -> None:
        os.mknod(self.at(path), mode, device)

    def symlink(self, target: str, path: PurePosixPath) -> None:
        os.symlink(target, self.at(path))

    def link(self, old: PurePosixPath, new: PurePosixPath) -> None:
        os.link(self.at(old), self.at(new), follow_symlinks=False)

    def unlink(self, path: PurePosixPath) -> None:
        os.unlink(self.at(path))

    def rename(self, old: PurePosixPath, new: PurePosixPath, flags: int) -> None:
        linux.renameat2(self.at(old), self.at(new), flags)

    def chmod(self, path: PurePosixPath, mode: int) -> None:
        os.chmod(self.at(path), mode)

    def chown(self, path: PurePosixPath, uid: int, gid: int) -> None:
        os.chown(self.at(path), uid, gid, follow_symlinks=False)

    def times(self, path: PurePosixPath, atime: int, mtime: int) -> object:
        os.utime(self.at(path), ns=(atime, mtime), follow_symlinks=False)
        now = os.lstat(self.at(path))
        return now.st_atime_ns, now.st_mtime_ns

    def setxattr(self, path: PurePosixPath, change: _Change) -> None:
        (name, value), flags = change
        os.setxattr(self.at(path), os.fsencode(name), value, flags, follow_symlinks=False)

    def removexattr(self, path: PurePosixPath, name: str) -> None:
        os.removexattr(self.at(path), os.fsencode(name), follow_symlinks=False)

    def access(self, path: PurePosixPath, mode: int) -> object:
        return os.access(self.at(path), mode, effective_ids=True, follow_symlinks=False)

    def listing(self, path: PurePosixPath, size: int) -> object:
        with linux.opened(self.at(path), os.O_RDONLY | os.O_DIRECTORY) as descriptor:
            return _listing(descriptor, size)

    def open(self, slot: int, path: PurePosixPath, flags: int) -> None:
        descriptor = self._open(path, flags)
        if slot in self.slots:
            os.close(self.slots.pop(slot))
        self.slots[slot] = descriptor
        self.opened[slot] = path

    def opendir(self, slot: int, path: PurePosixPath) -> None:
        self.open(slot, path, os.O_DIRECTORY)

    def fclose(self, slot: int) -> None:
        self._slot(slot)
        os.close(self.slots.pop(slot))

    def fread(self, slot: int) -> object:
        return _content(self._slot(slot))

    def fwrite(self, slot: int, offset: int, data: bytes) -> object:
        return os.pwrite(self._slot(slot), data, offset)

    def ftruncate(self, slot: int, size: int) -> None:
        os.ftruncate(self._slot(slot), size)

    def fchmod(self, slot: int, mode: int) -> None:
        os.fchmod(self._slot(slot), mode)

    def fchown(self, slot: int, uid: int, gid: int) -> None:
        os.fchown(self._slot(slot), uid, gid)

    def ftimes(self, slot: int, atime: int, mtime: int) -> None:
        os.utime(self._slot(slot), ns=(atime, mtime))

    def fsetxattr(self, slot: int, change: _Change) -> None:
        (name, value), flags = change
        os.setxattr(self._slot(slot), os.fsencode(name), value, flags)

    def fxattrs(self, slot: int) -> object:
        return sorted(os.listxattr(self._slot(slot)))

    def fsync(self, slot: int) -> None:
        os.fsync(self._slot(slot))

    def flisting(self, slot: int, size: int) -> object:
        descriptor = self._slot(slot)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return _listing(descriptor, size)

    def flink(self, slot: int, path: PurePosixPath) -> None:
        source = f"/proc/self/fd/{self._slot(slot)}"
        os.link(source, self.at(path), follow_symlinks=True)

    def _open(self, path: PurePosixPath, flags: int, mode: int = 0) -> int:
        return os.open(self.at(path), flags | os.O_NONBLOCK | os.O_NOFOLLOW, mode)

    def _slot(self, slot: int) -> int:
        if slot not in self.slots:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self.slots[slot]


def status(result: os.stat_result) -> Status:
    directory = stat.S_ISDIR(result.st_mode)
    device = stat.S_ISCHR(result.st_mode) or stat.S_ISBLK(result.st_mode)
    return Status(
        stat.filemode(result.st_mode)[0],
        stat.S_IMODE(result.st_mode),
        (result.st_uid, result.st_gid),
        None if directory else result.st_size,
        None if directory and result.st_nlink else result.st_nlink,
        result.st_rdev if device else 0,
        result.st_mtime_ns if result.st_mtime_ns < _NOW else NEW,
    )


def _content(descriptor: int) -> str:
    return hashlib.sha1(os.pread(descriptor, 1 << 20, 0)).hexdigest()


def _found(directory: Path) -> list[str]:
    """The names in a directory; overlayfs also lists whiteouts that hide nothing."""
    return sorted(name for name in os.listdir(directory) if os.path.lexists(directory / name))


def _listing(descriptor: int, size: int) -> object:
    """Names and kinds by getdents64(2) in small buffers; a position must mean the same twice."""
    entries = []
    while batch := linux.getdents(descriptor, size):
        entries += batch
    if len(entries) > 2:
        middle = len(entries) // 2
        os.lseek(descriptor, entries[middle - 1].off, os.SEEK_SET)
        rest = linux.getdents(descriptor, size)
        assert [entry.name for entry in rest] == [
            entry.name for entry in entries[middle : middle + len(rest)]
        ]
    return sorted(
        (entry.name, entry.kind) for entry in entries if _is_there(descriptor, entry.name)
    )


def _is_there(directory: int, name: bytes) -> bool:
    try:
        os.lstat(name, dir_fd=directory)
    except FileNotFoundError:
        return False
    except PermissionError:
        return True
    return True


@dataclass(frozen=True)
class Step:
    """One operation: a method of `Side`, its arguments, and who asks for it."""

    act: Callable[..., object]
    arguments: tuple[Any, ...]
    uid: int = 0
    umask: int = 0o022

    @property
    def paths(self) -> list[PurePosixPath]:
        return [word for word in self.arguments if isinstance(word, PurePosixPath)]

    def __repr__(self) -> str:
        words = [str(word) if isinstance(word, PurePosixPath) else word for word in self.arguments]
        return f"{self.act.__name__}{tuple(words)} by {self.uid}, umask {self.umask:o}"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        # Hypothesis prints the fields of a dataclass else.
        printer.text(repr(self))


class Where(enum.Enum):
    """Which path an operation is to get, mostly."""

    FILE = enum.auto()
    DIRECTORY = enum.auto()
    OLD = enum.auto()
    NEW = enum.auto()
    EITHER = enum.auto()


_Word = Where | SearchStrategy[Any]


def _operations() -> dict[Callable[..., object], tuple[int, *tuple[_Word, ...]]]:
    """How often each operation is drawn, and what for arguments."""
    slot = st.integers(0, _SLOTS - 1)
    size, mode = st.sampled_from(_SIZES), st.sampled_from(MODES)
    data = st.builds(lambda count: b"data" * count, st.sampled_from([1, 0, 20]))
    owner = st.sampled_from([-1, 0, USER, USER + 1])
    time = st.integers(0, 9).map(lambda number: OLD + 1_000_000_001 * number)
    attribute = st.sampled_from(_ATTRIBUTES)
    change = st.tuples(attribute, st.sampled_from([0, 0, linux.XATTR_CREATE, linux.XATTR_REPLACE]))
    access = st.sampled_from([os.O_RDWR, os.O_WRONLY, os.O_RDONLY])
    flags = st.builds(int.__or__, access, st.sampled_from([0, 0, os.O_TRUNC, os.O_APPEND]))
    kinds = st.sampled_from([stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFREG])
    device = st.sampled_from([os.makedev(1, 3), 0])
    target = st.sampled_from(["a", "b", "a/b", "../a", "nowhere"])
    moves = st.sampled_from([0, 0, 0, linux.RENAME_EXCHANGE, linux.RENAME_NOREPLACE])
    buffer = st.sampled_from([300, 700, 32768])
    excl = st.sampled_from([0, os.O_EXCL])
    return {
        Side.make: (5, Where.EITHER, st.builds(int.__or__, flags, excl), mode, data),
        Side.write: (6, Where.FILE, flags, size, data),
        Side.read: (1, Where.FILE),
        Side.truncate: (3, Where.FILE, size),
        Side.mkdir: (7, Where.NEW, mode),
        Side.rmdir: (6, Where.DIRECTORY),
        Side.mknod: (2, Where.NEW, st.builds(int.__or__, kinds, mode), device),
        Side.symlink: (3, target, Where.NEW),
        Side.link: (6, Where.OLD, Where.NEW),
        Side.unlink: (8, Where.OLD),
        Side.rename: (20, Where.OLD, Where.EITHER, moves),
        Side.chmod: (4, Where.OLD, mode),
        Side.chown: (3, Where.OLD, owner, owner),
        Side.times: (4, Where.OLD, time, time),
        Side.setxattr: (4, Where.OLD, change),
        Side.removexattr: (3, Where.OLD, attribute.map(lambda pair: pair[0])),
        Side.access: (1, Where.OLD, st.integers(0, 7)),
        Side.listing: (3, Where.DIRECTORY, buffer),
        Side.open: (8, slot, Where.FILE, flags),
        Side.opendir: (2, slot, Where.DIRECTORY),
        Side.fclose: (1, slot),
        Side.fread: (2, slot),
        Side.fwrite: (4, slot, size, data),
        Side.ftruncate: (2, slot, size),
        Side.fchmod: (1, slot, mode),
        Side.fchown: (1, slot, owner, owner),
        Side.ftimes: (1, slot, time, time),
        Side.fsetxattr: (1, slot, change),
        Side.fxattrs: (1, slot),
        Side.fsync: (1, slot),
        Side.flisting: (1, slot, buffer),
        Side.flink: (1, slot, Where.NEW),
    }


_OPERATIONS = _operations()
_ACTS = st.sampled_from([act for act, (weight, *_) in _OPERATIONS.items() for _ in range(weight)])
_UIDS = st.sampled_from([0] * 6 + [USER])
_UMASKS = st.sampled_from([0o022, 0o022, 0, 0o077])


@st.composite
def _steps(draw: DrawFn, paths: dict[Where, list[PurePosixPath]], stack: Stack) -> Step:
    act = draw(_ACTS)
    arguments: list[object] = []
    for word in _OPERATIONS[act][1:]:
        if not isinstance(word, Where):
            arguments.append(draw(word))
        elif paths[word] and draw(st.integers(0, 9)) < 9:
            arguments.append(draw(st.sampled_from(paths[word])))
        else:
            names = draw(st.lists(st.sampled_from(stack.names), min_size=1, max_size=3))
            arguments.append(stack.place.joinpath(*names))
    return Step(act, tuple(arguments), draw(_UIDS), draw(_UMASKS))


# The comparison


class Pair:
    """Two mounts of one stack in *directory*: the kernel's, and the subject, ours at first.

    Where they may differ is said in `_aligned` and `_excused`, and nowhere else.
    """

    def __init__(self, stack: Stack, directory: Path) -> None:
        self.stack = stack
        self._directory = directory
        self._kernel = Mounts(KernelMount, directory)
        self._union = Mounts(UnionMount, directory)
        self._sides: Sequence[Side] = ()
        self._age = 0
        self._layers = self._ours = build_stack(stack, directory)
        if any(dialect is not Dialect.OVERLAY for _, dialect in stack.layers):
            self._ours = translate(stack, self._layers, directory / "translated")
        self._command: Sequence[str] = COMMAND
        if any(dialect is Dialect.STORED for _, dialect in stack.layers):
            self._command = StoreBuilder(directory / "translated" / "store").command

    @property
    def plain(self) -> bool:
        """Whether our layers are the kernel's."""
        return self._ours == self._layers

    def mount(self) -> None:
        """Mount the layers as they are now under empty uppers."""
        self._before = {layer: snapshot(layer) for layer in self._ours if layer.exists()}
        self.oracle = Side(self._kernel_at("oracle", self._layers))
        self.subject = Side(self._union_at("subject", self._ours))
        self._sides = (self.oracle, self.subject)
        self.compare("at the mount")

    def close(self) -> None:
        """Unmount whatever is mounted."""
        for side in self._sides:
            side.close()
        try:
            self._union.close()
        finally:
            self._kernel.close()

    def steps(self) -> SearchStrategy[Step]:
        """Steps that fit what there is now, mostly."""
        return _steps(self._paths(), self.stack)

    def _paths(self) -> dict[Where, list[PurePosixPath]]:
        """Where an operation may be sent to, by what it is to find there."""
        found: dict[Where, list[PurePosixPath]] = {where: [] for where in Where}
        for below, directories, files in os.walk(self.oracle.at(self.stack.place)):
            at = PurePosixPath(below).relative_to(self.oracle.mount.path)
            here = [at / name for name in sorted((*directories, *files))]
            free = [at / name for name in self.stack.names if at / name not in here]
            found[Where.DIRECTORY] += [at / name for name in sorted(directories)]
            found[Where.FILE] += [at / name for name in sorted(files)]
            found[Where.OLD] += here
            found[Where.NEW] += free
            found[Where.EITHER] += here + free
            directories.sort()
        # What is open is to be changed through its name, too.
        found[Where.FILE] += 3 * list(self.oracle.opened.values())
        return found

    def do(self, step: Step) -> None:
        """Do the same on both, and look at what it touched."""
        expected = self.oracle.answer(step)
        if expected == "EXDEV":
            # The kernel's redirects are shorter than ours can be, and users' mounts have none.
            return
        answer = self.subject.answer(step)
        if answer != expected:
            excused = self._excused(step, answer, expected)
            assert excused, f"{step}: {answer}, by the kernel {expected}"
        for path in step.paths:
            names, *found = self.subject.glance(path)
            others, *wanted = self.oracle.glance(path)
            assert names == others, f"{step}: {names}, by the kernel {others}"
            self._same(step, answer, self.subject.at(path.parent), found[0], wanted[0])
            self._same(step, answer, self.subject.at(path), found[1], wanted[1])
        for slot, descriptor in self.subject.slots.items():
            now, then = (status(os.fstat(side.slots[slot])) for side in self._sides[::-1])
            self._same(step, answer, Path(f"/proc/self/fd/{descriptor}"), now, then)

    def _same(
        self, step: Step, answer: object, path: Path, found: _Glance, wanted: _Glance
    ) -> None:
        found = self._aligned(found, wanted)
        leveled = found != wanted and self._leveled(step, answer, path, found, wanted)
        assert leveled or found == wanted, f"{step}: {path}: {found}, by the kernel {wanted}"

    def compare(self, when: str = "after some steps") -> None:
        """Look at everything, and at what is open, once the kernel forgot its content."""
        self._compare(self.subject.mount, _shown(self.oracle.mount), when)
        for slot, descriptor in list(self.subject.slots.items()):
            with contextlib.suppress(OSError):  # no regular file
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            self.do(Step(Side.fread, (slot,)))

    def forget(self) -> None:
        """Have the kernel forget what it knows of both."""
        with self._same_numbers():
            linux.drop_caches(pages=False)
            self.compare("after drop_caches")

    def remount(self) -> None:
        """Mount both anew."""
        with self._same_numbers():
            for side in self._sides:
                side.close()
                side.mount.remount()
            self.compare("after a remount")

    def turn(self) -> None:
        """Let the other implementation go on with the subject's upper, if it knows the layers."""
        if not self.plain:
            return
        self._unmount()
        self.oracle.mount.mount()
        other = self._union_at if isinstance(self.subject.mount, KernelMount) else self._kernel_at
        self.subject.mount = other("subject", self._ours)
        self.compare("after the upper changed hands")
        _numbers(self.subject.mount.path)

    def freeze_ours(self) -> None:
        """Let the subject's upper become a layer of both."""
        self._freeze(self.subject)

    def freeze_the_kernels(self) -> None:
        """Let the oracle's upper become a layer of both."""
        self._freeze(self.oracle)

    def _freeze(self, side: Side) -> None:
        if len(self._layers) == _LAYERS_MAX:
            return
        self._unmount()
        layer = self._directory / f"frozen{self._age}"
        side.mount.changes.rename(layer)
        for each in self._sides:
            # Links in the index would count.
            shutil.rmtree(each.mount.work)
        self._layers, self._ours = [*self._layers, layer], [*self._ours, layer]
        self._age += 1
        self.mount()

    def finish(self) -> None:
        """Everything once more, and each implementation with the other's upper."""
        self.forget()
        self.remount()
        wanted = _shown(self.oracle.mount)
        if self.plain:
            self.turn()
        self._unmount()
        self._compare(self._union_at("oracle", self._layers), wanted, "we on the kernel's upper")
        for layer, before in self._before.items():
            assert snapshot(layer) == before, f"{layer} was changed"

    def _unmount(self) -> None:
        for side in self._sides:
            side.close()
            side.mount.unmount()
            if isinstance(side.mount, UnionMount):
                assert os.listdir(side.mount.work / "work") == []

    def _kernel_at(self, home: str, layers: Sequence[Path]) -> KernelMount:
        upper, work, point = self._places(home)
        options = ["metacopy=on"] if self.stack.metacopy else []
        if self.stack.userxattr:
            options = ["userxattr", "redirect_dir=nofollow"]
        return self._kernel(*layers, upper=upper, work=work, at=point, options=options)

    def _union_at(self, home: str, layers: Sequence[Path]) -> UnionMount:
        upper, work, point = self._places(home)
        literal = any(name.startswith(".wh.") for name in self.stack.names)
        metacopy = ["metacopy=on"] if self.stack.metacopy else []
        return self._union(
            *layers,
            upper=upper,
            work=work,
            at=point,
            options=["userxattr"] if self.stack.userxattr else metacopy,
            arguments=["--whiteouts=overlay"] if literal else [],
            command=self._command,
        )

    def _places(self, home: str) -> list[Path]:
        """The upper, work directory and mount point in *home*, made where they are missing."""
        root = self._directory / f"{home}{self._age}"
        places = [root / name for name in ("upper", "work", "mount")]
        if not root.exists():
            for path in (root, *places):
                path.mkdir()
            places[0].chmod(0o777)
            os.utime(places[0], ns=(OLD, OLD))
        return places

    def _compare(self, mount: Mount, wanted: Snapshot, when: str) -> None:
        found = _shown(mount)
        for name in found.keys() & wanted.keys():
            found[name] = self._aligned(found[name], wanted[name])
        lines = differences(found, wanted)
        assert not lines, (when, *lines)
        if isinstance(mount, UnionMount):
            _numbers(mount.path)

    @contextlib.contextmanager
    def _same_numbers(self) -> Iterator[None]:
        """Our inode numbers stay over the block; the kernel's may not."""
        ours = isinstance(self.subject.mount, UnionMount)
        before = _numbers(self.subject.mount.path) if ours else {}
        yield
        after = _numbers(self.subject.mount.path) if ours else {}
        changed = {
            path: (before[path], after[path]) for path in before if before[path] != after[path]
        }
        assert not changed, changed

    # Where the two may differ

    def _aligned(self, found: _Seen, wanted: _Seen) -> _Seen:
        """*found*, with what the kernel shows instead where it is known to do so."""
        if isinstance(found, str) or isinstance(wanted, str):
            return found
        if self.stack.metacopy and found.kind == "-" and wanted.mtime == NEW:
            # It does not keep the time of a file of whose data it had not made a copy yet.
            found = replace(found, mtime=NEW)
        if found.nlink == 0 and wanted.nlink in (1, None):
            # What is in a layer still has its links there, once removed and open.
            found = replace(found, nlink=wanted.nlink)
        return found

    def _leveled(
        self, step: Step, answer: object, path: Path, found: _Glance, wanted: _Glance
    ) -> bool:
        """Whether *path* is known to be another now, and the two are made alike."""
        match found, wanted:
            case Status(mode=mode), Status(mode=less) if mode == less | stat.S_ISGID:
                # FUSE leaves this to a file without group execute that a stranger changes. To whom
                # removes its ACL, so does ext4.
                known = step.act is Side.removexattr or not mode & stat.S_IXGRP
                path.chmod(less)
                return known and step.uid != 0 and found == replace(wanted, mode=mode)
            case Status(mode=less), Status(mode=mode) if (
                mode != less == mode & ~(stat.S_ISUID | stat.S_ISGID)
            ):
                # FUSE asks in the same words whether it takes capabilities, or these as well.
                path.chmod(mode)
                known = step.act in (Side.write, Side.fwrite, Side.make)
                return known and step.uid == 0 and found == replace(wanted, mode=less)
            case Status(kind="d", mtime=mtime), Status(mtime="new") if answer == "ENOTEMPTY":
                # ext4 had the whiteout in place already when it found that out.
                os.utime(path)
                return step.act is Side.rename and found == replace(wanted, mtime=mtime)
        return False

    def _excused(self, step: Step, answer: object, expected: object) -> bool:
        """Whether it is known that the kernel's answer differs; the two are made alike."""
        match step.act, answer, expected:
            case (Side.removexattr, None, "ENODATA"):
                # Of an absent ACL, while the file is not in the upper.
                return step.arguments[1] in (ACCESS, DEFAULT)
            case (
                Side.fchmod | Side.fchown | Side.ftimes | Side.fsetxattr,
                None,
                "EEXIST" | "ENOTDIR" | "EISDIR",
            ):
                # Of a lower file that was removed while it was open. Something else is there now.
                slot = step.arguments[0]
                removed = os.fstat(self.subject.slots[slot]).st_nlink == 0
                for side in self._sides:
                    side.fclose(slot)
                return removed
        return False


def _shown(mount: Mount) -> Snapshot:
    return snapshot(mount.path, lists_whiteouts=isinstance(mount, KernelMount))


def _numbers(directory: Path) -> dict[Path, int]:
    """The inode number of each name, which must be the one that the listing has."""
    found = {}
    with os.scandir(directory) as entries:
        for entry in entries:
            path = Path(entry.path)
            if not os.path.lexists(path):  # a whiteout that the kernel lists
                continue
            found[path] = path.lstat().st_ino
            assert entry.inode() == found[path], f"{path}: {entry.inode()} in the listing"
            if entry.is_dir(follow_symlinks=False):
                found |= _numbers(path)
    return found


# The machine


class Machine(RuleBasedStateMachine):
    """Runs of steps on one pair, and after each run a look at everything, or more.

    home: where stacks are made. layers: which ones. looks: what may follow a run of steps.
    """

    home: ClassVar[Path]
    layers: ClassVar[SearchStrategy[Stack]] = stacks()
    looks: ClassVar[Sequence[Callable[[Pair], None]]] = (
        *[Pair.compare] * 5,
        Pair.forget,
        Pair.remount,
        Pair.freeze_the_kernels,
        Pair.freeze_ours,
        Pair.turn,
    )
    count: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(dir=self.home))
        self.directory.chmod(0o711)
        self.pair: Pair | None = None
        self.failed = False

    @initialize(data=st.data())
    def begin(self, data: DataObject) -> None:
        with self._noting_failure():
            self.pair = Pair(data.draw(self.layers), self.directory)
            self.pair.mount()

    @rule(data=st.data(), count=st.integers(1, 20))
    def work(self, data: DataObject, count: int) -> None:
        assert self.pair is not None
        with self._noting_failure():
            for _ in range(count):
                self.pair.do(data.draw(self.pair.steps()))
                type(self).count += 1
            data.draw(st.sampled_from(self.looks))(self.pair)

    def teardown(self) -> None:
        try:
            if self.pair is not None:
                with contextlib.closing(self.pair):
                    if not self.failed:
                        self.pair.finish()
        finally:
            shutil.rmtree(self.directory)

    @contextlib.contextmanager
    def _noting_failure(self) -> Iterator[None]:
        self.failed = True
        yield
        self.failed = False


def run(machine: type[Machine], number: int, *, examples: int, length: int) -> None:
    """Run a machine on *examples* stacks, *length* runs of steps on each, seeded with *number*."""
    run_state_machine_as_test(
        seed(number)(machine),
        settings=settings(
            max_examples=examples,
            stateful_step_count=length,
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            report_multiple_bugs=False,
            print_blob=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
    print(f"{machine.count} steps")
