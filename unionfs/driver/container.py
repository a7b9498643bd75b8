"""Running a command in a mounted root, with mounts, processes, names and queues of its own.

Three processes take part: the one that waits (ours); the first of the new process namespace,
which prepares the root, and then waits on everything that lives there; and the command. The
first process of a namespace gets no signal that it does not handle, so the command is better off
not being it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from unionfs.driver import namespaces
from unionfs.driver.namespaces import (
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
)

_FORWARDED: Final = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
_AWAITED: Final = frozenset((*_FORWARDED, signal.SIGCHLD))

# As a shell tells them (POSIX, Shell Command Language, 2.8.2).
_NOT_FOUND: Final = 127
_NOT_EXECUTABLE: Final = 126
_BY_SIGNAL: Final = 128

_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# They name files of the host, or code to load from there.
_OF_THE_HOST: Final = (
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "OLDPWD",
    "PYTHONHOME",
    "PYTHONPATH",
    "TMPDIR",
    "VIRTUAL_ENV",
)

_DEVICES: Final = (b"null", b"zero", b"full", b"random", b"urandom", b"tty")
_LINKS: Final[Mapping[bytes, bytes]] = {
    b"fd": b"/proc/self/fd",
    b"stdin": b"/proc/self/fd/0",
    b"stdout": b"/proc/self/fd/1",
    b"stderr": b"/proc/self/fd/2",
    b"ptmx": b"pts/ptmx",
}
_TERMINALS: Final = b"newinstance,ptmxmode=0666,mode=0620"
# 5 is the group tty in every distribution.
_OF_TTY: Final = b",gid=5"
_RESOLVER: Final = b"etc/resolv.conf"


def run(root: bytes, command: Sequence[str]) -> int:
    """Run *command* with the mounted directory *root* as its root, and wait for it.

    It has our standard streams, terminal and environment (but for PATH, HOME and what names files
    of the host), a ``/proc`` of its own, a ``/dev`` with the devices that programs expect, a
    read-only ``/sys`` and the host's resolver configuration, each where the root has a place for
    it. Signals that are sent to us go to it; whatever it leaves running ends with it.

    Answers its exit status: 128 and the signal's number if a signal ended it, 127 if it was not
    found, 126 if it can't be executed. Afterwards this process can't fork any more, since its new
    process namespace has ended. Needs root. Raises OSError.
    """
    with _place_for_resolver(root), _signals_kept() as former:
        namespaces.unshare(namespaces.CLONE_NEWPID)
        first = _fork(lambda: _be_first(root, command, former))
        return _wait(first)


def _fork(child: Callable[[], int]) -> int:
    """Fork; the new process ends with the status that *child* answers, or shows its error."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        status = child()
    except OSError as error:
        print(f"unionmount: the root can't be prepared for a command: {error}", file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def _wait(process: int, *, adopted: bool = False) -> int:
    """Wait for *process* and pass signals on to it; answers its status as a shell would.

    adopted: wait for other children as well, which are orphans of the namespace.
    """
    while True:
        ended, status = os.waitpid(-1 if adopted else process, os.WNOHANG)
        if ended == process:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else _BY_SIGNAL - code
        if ended:
            continue
        caught = signal.sigwaitinfo(_AWAITED)
        # What the kernel sends, for a key at the terminal say, the command has got as we have.
        if caught.si_signo != signal.SIGCHLD and caught.si_code <= 0:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, caught.si_signo)


@contextlib.contextmanager
def _signals_kept() -> Iterator[set[int]]:
    """Keep the signals that we await until they are asked for; gives the mask to return to."""
    former = signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
    try:
        yield set(former)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def _be_first(root: bytes, command: Sequence[str], mask: set[int]) -> int:
    namespaces.signal_when_parent_ends(signal.SIGKILL)
    namespaces.unshare(namespaces.CLONE_NEWNS | namespaces.CLONE_NEWIPC | namespaces.CLONE_NEWUTS)
    namespaces.mount(b"none", b"/", flags=MS_REC | MS_PRIVATE)
    os.chdir(root)
    _prepare()
    namespaces.enter_root()
    return _wait(_fork(lambda: _execute(command, mask)), adopted=True)


def _execute(command: Sequence[str], mask: set[int]) -> int:
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        # Python ignores these two, and what is ignored stays so over exec.
        signal.signal(number, signal.SIG_DFL)
    environment = {name: os.environ[name] for name in os.environ if name not in _OF_THE_HOST}
    environment |= {"PATH": _PATH, "HOME": "/root", "PWD": "/"}
    try:
        os.execvpe(command[0], list(command), environment)
    except OSError as error:
        print(f"unionmount: {command[0]}: {error.strerror} (in the root)", file=sys.stderr)
        missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
        return _NOT_FOUND if missing else _NOT_EXECUTABLE


def _prepare() -> None:
    """Mount what programs expect on the working directory, a root, where that has a place."""
    with _place(b"proc", os.O_DIRECTORY) as point:
        if point:
            namespaces.mount(b"proc", point, b"proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    with _place(b"sys", os.O_DIRECTORY) as point:
        if point:
            try:
                _bind(b"/sys", point)
            except OSError as error:
                # Root of a user namespace may not show what the mounts in it hide.
                if error.errno != errno.EINVAL:
                    raise
                namespaces.mount(b"/sys", point, flags=MS_BIND | MS_REC)
            _make_read_only(b"sys", MS_NOEXEC)
    with _place(b"dev", os.O_DIRECTORY) as point:
        if point:
            namespaces.mount(b"tmpfs", point, b"tmpfs", MS_NOSUID | MS_NOEXEC, b"mode=755,size=64k")
            _fill_devices()
    with _place(_RESOLVER, 0) as point:
        if point and os.path.isfile(point) and os.path.exists(b"/" + _RESOLVER):
            _bind(b"/" + _RESOLVER, point)
            _make_read_only(_RESOLVER, MS_NOEXEC)


def _fill_devices() -> None:
    with _place(b"dev", os.O_DIRECTORY) as devices:
        for name in _DEVICES:
            _bind_device(b"/dev/" + name, devices + b"/" + name)
        with contextlib.suppress(OSError):
            _bind_device(os.fsencode(os.ttyname(0)), devices + b"/console")
        for name, target in _LINKS.items():
            os.symlink(target, devices + b"/" + name)
        os.mkdir(devices + b"/pts")
        flags = MS_NOSUID | MS_NOEXEC
        try:
            namespaces.mount(b"devpts", devices + b"/pts", b"devpts", flags, _TERMINALS + _OF_TTY)
        except OSError as error:
            # A user namespace need not have a number for the group.
            if error.errno != errno.EINVAL:
                raise
            namespaces.mount(b"devpts", devices + b"/pts", b"devpts", flags, _TERMINALS)
        os.mkdir(devices + b"/shm")
        flags = MS_NOSUID | MS_NODEV
        namespaces.mount(b"tmpfs", devices + b"/shm", b"tmpfs", flags, b"mode=1777")


def _bind(source: bytes, target: bytes) -> None:
    namespaces.mount(source, target, flags=MS_BIND)


def _bind_device(source: bytes, target: bytes) -> None:
    if os.path.exists(source):
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
        _bind(source, target)


def _make_read_only(path: bytes, flags: int) -> None:
    """Make the bind mount at *path* below the working directory read-only."""
    # Only what is opened after the mount was made leads to it.
    with _place(path, 0) as point:
        flags |= MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV
        namespaces.mount(b"none", point, flags=flags)


@contextlib.contextmanager
def _place(path: bytes, flags: int) -> Iterator[bytes]:
    """A path of the host that leads to *path* below the working directory; empty without one.

    Links in the root lead to where they would lead inside it.
    """
    with contextlib.ExitStack() as opened:
        root = os.open(b".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        opened.callback(os.close, root)
        try:
            found = namespaces.open_in_root(root, path, os.O_PATH | flags)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            yield b""
            return
        opened.callback(os.close, found)
        yield b"/proc/self/fd/%d" % found


@contextlib.contextmanager
def _place_for_resolver(root: bytes) -> Iterator[None]:
    """Have an empty ``etc/resolv.conf`` to mount on where *root* has none, and remove it again."""
    directory, name = os.path.split(_RESOLVER)
    with contextlib.ExitStack() as undo:
        # A root without etc, or one that can't be written, does without; so does one where the
        # name is taken, by a file or by a link that leads nowhere yet.
        with contextlib.suppress(OSError):
            undo.enter_context(_made(os.path.join(root, directory), name))
        yield


@contextlib.contextmanager
def _made(directory: bytes, name: bytes) -> Iterator[None]:
    with _opened(directory) as descriptor:
        before = os.fstat(descriptor)
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=descriptor))
    try:
        yield
    finally:
        # The command may have put anything in place of either.
        with contextlib.suppress(OSError), _opened(directory) as descriptor:
            if os.lstat(name, dir_fd=descriptor).st_size == 0:
                os.unlink(name, dir_fd=descriptor)
            os.utime(descriptor, ns=(before.st_atime_ns, before.st_mtime_ns))


@contextlib.contextmanager
def _opened(directory: bytes) -> Iterator[int]:
    descriptor = os.open(directory, os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
