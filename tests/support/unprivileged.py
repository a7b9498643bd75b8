"""Somebody without privileges: an ordinary user, or root of a user namespace of theirs."""

import contextlib
import ctypes
import os
import signal
import struct
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO

from tests.support import linux
from tests.support.command import read_until
from tests.support.layers import Directory, Entry, HardLink, Item, Tree, as_entry

ME = 1000  # as root of the machine sees it

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWUSER, _CLONE_NEWNS = 0x10000000, 0x00020000
_PR_SET_DUMPABLE = 4
_SYS_OPEN_TREE, _SYS_MOVE_MOUNT, _SYS_MOUNT_SETATTR = 428, 429, 442
_OPEN_TREE_CLONE, _MOVE_MOUNT_F_EMPTY_PATH, _MOUNT_ATTR_IDMAP = 1, 4, 0x100000


def _checked(result: int) -> None:
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def bind_idmapped(source: Path, target: Path, namespace: int) -> None:
    """A bind mount in which owners show as `namespace`, of users, numbers them: from its inside,
    which is what is stored, to its outside.
    """
    tree = _libc.syscall(
        _SYS_OPEN_TREE, linux.AT_FDCWD, os.fsencode(source), _OPEN_TREE_CLONE | os.O_CLOEXEC
    )
    _checked(tree)
    try:
        wanted = struct.pack("=QQQQ", _MOUNT_ATTR_IDMAP, 0, 0, namespace)
        size = ctypes.c_size_t(len(wanted))
        _checked(_libc.syscall(_SYS_MOUNT_SETATTR, tree, b"", linux.AT_EMPTY_PATH, wanted, size))
        move = (tree, b"", linux.AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH)
        _checked(_libc.syscall(_SYS_MOVE_MOUNT, *move))
    finally:
        os.close(tree)


def mine(entries: Tree) -> Directory:
    """A layer of these entries; what would be root's is ME's."""
    return Directory({name: _mine(item) for name, item in entries.items()}, uid=ME, gid=ME)


def _mine(item: Item) -> Entry:
    entry = as_entry(item)
    if isinstance(entry, HardLink):
        return entry
    if isinstance(entry, Directory):
        entry = replace(entry, entries=mine(entry.entries).entries)
    return replace(entry, uid=entry.uid or ME, gid=entry.gid or ME)


class Somebody:
    """The user ME, or root of a user namespace of theirs, with mounts of their own.

    ids: what the namespace has, in lines for uid_map and gid_map (user_namespaces(7)); none for
    the user outside of any. home: a directory of theirs. conf: what they have as /etc/fuse.conf.
    namespaces: descriptors, of the user namespace, if there is one, and of that of mounts.
    """

    def __init__(self, directory: Path, ids: Sequence[str] = ()) -> None:
        self.ids = ids
        self.home = directory / "home"
        self.home.mkdir()
        os.chown(self.home, ME, ME)
        self._device = directory / "fuse"
        os.mknod(self._device, 0o20666, os.stat("/dev/fuse").st_rdev)
        self._device.chmod(0o666)
        self.conf = directory / "fuse.conf"
        self.conf.write_text("user_allow_other\n")
        with _child(self._prepare) as (process, pipe):
            ready = read_until(pipe, b"\n")
            assert ready == b"\n", read_until(pipe, b"")
            for kind in ("uid_map", "gid_map") if ids else ():
                Path(f"/proc/{process}/{kind}").write_text("\n".join(ids))
            kinds = ("user", "mnt") if ids else ("mnt",)
            self.namespaces = [os.open(f"/proc/{process}/ns/{kind}", os.O_RDONLY) for kind in kinds]

    def run(self, body: Callable[[], None], number: int | None = None) -> None:
        """Have them run *body* in `home`; it fails as it would here.

        number: another user than ME, or than root of the namespace, who is to do it.
        """
        if number is None:
            number = 0 if self.ids else ME

        def theirs() -> None:
            self._enter(self.namespaces)
            _become(number)
            body()

        _run(theirs)

    def close(self) -> None:
        """Unmount what they left mounted, which ends its daemons."""

        def unmount() -> None:
            self._enter(self.namespaces[-1:])
            for point in linux.mounts_below(self.home):
                linux.umount(point, linux.MNT_DETACH)

        _run(unmount)
        for descriptor in self.namespaces:
            os.close(descriptor)

    def _enter(self, namespaces: Sequence[int]) -> None:
        for descriptor in namespaces:
            _checked(_libc.setns(descriptor, 0))
        os.chdir(self.home)

    def _prepare(self, told: int) -> None:
        linux.leave_mount_namespace()
        let_pass(Path(sys.base_prefix))
        linux.mount(str(self._device), Path("/dev/fuse"), "none", linux.MS_BIND)
        linux.mount(str(self.conf), Path("/etc/fuse.conf"), "none", linux.MS_BIND)
        if self.ids:
            _become(ME)
            _checked(_libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS))
        os.write(told, b"\n")
        signal.pause()


def let_pass(*paths: Path) -> list[Path]:
    """Let others reach *paths*, which may be in a home directory that only its owner enters.

    Answers the mount points that this took, which hide all else that is there.
    """
    closed = {path: above for path in paths if (above := _closed(path))}
    with contextlib.ExitStack() as opened:
        inside = {path: opened.enter_context(linux.opened(path, os.O_PATH)) for path in closed}
        for above in set(closed.values()):
            linux.mount("tmpfs", above, "tmpfs", data=b"mode=755")
        for path, descriptor in inside.items():
            path.mkdir(parents=True, exist_ok=True)
            linux.mount(f"/proc/self/fd/{descriptor}", path, "none", linux.MS_BIND | linux.MS_REC)
    return [*set(closed.values()), *closed]


def _closed(path: Path) -> Path | None:
    """The uppermost directory on the way that others can't pass through."""
    closed = [parent for parent in path.parents if not parent.stat().st_mode & 0o001]
    return closed[-1] if closed else None


def _become(number: int) -> None:
    """Be the user and the group of that number, for good."""
    os.setgroups([])
    os.setresgid(number, number, number)
    os.setresuid(number, number, number)
    # Or /proc/self would be root's.
    _checked(_libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0))


def _run(body: Callable[[], None]) -> None:
    """Run *body* in a process of its own; it fails as it would here."""
    with _child(lambda _: body()) as (_, pipe):
        problem = read_until(pipe, b"").decode("utf-8", "replace")
    assert not problem, problem


@contextlib.contextmanager
def _child(body: Callable[[int], None]) -> Iterator[tuple[int, IO[bytes]]]:
    """A process that runs *body*: its id, and what it writes to the descriptor that it is given.

    It ends with the context; an exception of its is written there as well.
    """
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # The thread of pytest-xdist may hold a lock, but nothing here wants one of its.
        warnings.simplefilter("ignore", DeprecationWarning)
        process = os.fork()
    if process == 0:
        try:
            os.close(reader)
            body(writer)
        except BaseException:
            os.write(writer, traceback.format_exc().encode("utf-8", "backslashreplace"))
        finally:
            os._exit(0)
    os.close(writer)
    try:
        with open(reader, "rb", buffering=0) as pipe:
            yield process, pipe
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
