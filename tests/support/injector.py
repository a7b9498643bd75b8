"""Stops a process before each of its system calls, in whatever thread: ptrace(2).

Left out are calls that only wait, wake a thread, get memory or close a descriptor: how many come,
and when, is chance.
"""

import contextlib
import ctypes
import functools
import os
import re
import signal
import struct
import subprocess
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

_SEIZE, _INTERRUPT, _SYSCALL, _GET_SYSCALL_INFO = 0x4206, 0x4207, 24, 0x420E
_TRACESYSGOOD, _TRACECLONE, _EXITKILL = 1, 1 << 3, 1 << 20
_AT_SYSCALL = signal.SIGTRAP | 0x80
_ENTRY = 1
_WALL, _WNOTHREAD = 0x40000000, 0x20000000
_INFO = struct.Struct("=B3xI2Q7Q")  # struct ptrace_syscall_info, of an entry

_FICLONE = 0x40049409
_LEFT_OUT = frozenset(
    (
        *("brk", "clone3", "futex", "gettid", "madvise", "mmap", "mprotect", "munmap", "prctl"),
        *("rseq", "rt_sigaction", "rt_sigprocmask", "sched_yield", "set_robust_list"),
        *("close", "epoll_ctl", "epoll_wait", "poll", "read", "recvfrom", "restart_syscall"),
        *("sendto", "write"),
    )
)
_CHANGING = frozenset(
    (
        *("linkat", "mkdirat", "mknodat", "renameat", "renameat2", "rmdir", "symlinkat"),
        # The fourth has no name in older headers.
        *("unlinkat", "fchmodat", "fchmodat2", "452", "chmod", "chown", "fchmod", "fchown"),
        *("fchownat", "lchown"),
        *("fremovexattr", "fsetxattr", "lremovexattr", "lsetxattr", "removexattr", "setxattr"),
        *("copy_file_range", "fdatasync", "fsync", "ftruncate", "pwrite64", "sync_file_range"),
        "utimensat",
    )
)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_libc.ptrace.restype = ctypes.c_long


class Call(NamedTuple):
    """A system call that a process is about to make."""

    name: str
    arguments: tuple[int, ...]

    @property
    def changes(self) -> bool:
        """Whether it changes something on a disk, or brings it there."""
        match self.name:
            case "openat":
                return bool(self.arguments[2] & (os.O_CREAT | os.O_TRUNC))
            case "ioctl":
                return self.arguments[1] == _FICLONE
        return self.name in _CHANGING


@functools.cache
def _names() -> dict[int, str]:
    """What the C library's headers call the numbers of system calls."""
    macros = subprocess.run(
        ["cc", "-E", "-dM", "-include", "sys/syscall.h", "-"],
        input="",
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = re.findall(r"^#define __NR(?:3264)?_(\w+) (\d+)$", macros, re.MULTILINE)
    return {int(number): name for name, number in found}


@contextlib.contextmanager
def stopping(process: int, before: Callable[[Call], None]) -> Iterator[None]:
    """Have `before` run, in a thread of its own, before each call of an idle process.

    The process waits for it, and may be killed by it: then the call is not made. The process has
    to end in the block. What `before` raises ends it, and is raised at the end of the block.
    """
    # To the kernel the process is this thread's child, so that its other children stay unwaited.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(_seize, process).result()
        ended = thread.submit(_follow, process, _names(), before)
        yield
    ended.result()


def _seize(process: int) -> None:
    options = _TRACESYSGOOD | _TRACECLONE | _EXITKILL
    for task in map(int, os.listdir(f"/proc/{process}/task")):
        _ptrace(_SEIZE, task, data=options)
        _ptrace(_INTERRUPT, task)


def _follow(process: int, names: Mapping[int, str], before: Callable[[Call], None]) -> None:
    try:
        _let_go_from_call_to_call(names, before)
    except BaseException:
        os.kill(process, signal.SIGKILL)
        raise


def _let_go_from_call_to_call(names: Mapping[int, str], before: Callable[[Call], None]) -> None:
    """Until all threads have ended."""
    while True:
        try:
            task, status = os.waitpid(-1, _WALL | _WNOTHREAD)
        except ChildProcessError:
            return
        if not os.WIFSTOPPED(status):
            continue
        stop = os.WSTOPSIG(status)
        passed_on = 0
        # A thread that another one's end kills has gone from its stop.
        with contextlib.suppress(ProcessLookupError):
            if stop == _AT_SYSCALL:
                call = _call_to_come(task, names)
                if call is not None and call.name not in _LEFT_OUT:
                    before(call)
            elif status >> 16 == 0:
                passed_on = stop
            _ptrace(_SYSCALL, task, data=passed_on)


def _call_to_come(task: int, names: Mapping[int, str]) -> Call | None:
    """None if the thread stopped after a call."""
    buffer = ctypes.create_string_buffer(_INFO.size)
    _ptrace(_GET_SYSCALL_INFO, task, len(buffer), ctypes.addressof(buffer))
    kind, _, _, _, number, *arguments = _INFO.unpack(buffer.raw)
    return Call(names.get(number, str(number)), tuple(arguments)) if kind == _ENTRY else None


def _ptrace(request: int, task: int, address: int = 0, data: int = 0) -> None:
    if _libc.ptrace(request, task, address, data) == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), request)
