"""Starts `unionmount` many times, each in a fraction of what a fresh interpreter takes.

Run as a program it has everything imported; each start is a fork of it that runs the command. It
is in the namespaces, and has the limits and the user, of the process that made it.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol, Self

from unionfs import cli
from unionfs.driver import records

_PR_SET_CHILD_SUBREAPER = 36


class Process(Protocol):
    """What is asked of a program that was started, as `subprocess.Popen` has it."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def wait(self) -> int: ...
    def kill(self) -> None: ...


class Launcher:
    """Runs `unionmount` with words, as a shell would; what it starts is left to the caller."""

    def __init__(self) -> None:
        self._maker = os.getpid()
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    @property
    def is_where_we_are(self) -> bool:
        """Whether we are the process that made it; a fork may be in other namespaces."""
        return self._maker == os.getpid()

    def mount(self, *words: str | Path) -> int:
        """Mount at the last word's directory; answers the daemon's process id."""
        status, said = self._ask("run", [str(word) for word in words])
        assert status == 0, said
        point = os.fsencode(words[-1])
        (daemon,) = (union.process for union in records.mounted() if union.point == point)
        assert daemon is not None
        return daemon

    def start(self, words: Sequence[str], stderr: Path) -> "Started":
        """Start it with our environment and working directory, and its standard error in a file."""
        number = self._ask("start", words, str(stderr), dict(os.environ), os.getcwd())
        return Started(self, number)

    def status(self, number: int) -> int:
        """The exit status, as `subprocess` has it, of a process that was started and ends."""
        status: int = self._ask("status", number)
        return status

    def _ask(self, *words: object) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(words).encode() + b"\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


class Started:
    """A process that a launcher started; it is not our child."""

    def __init__(self, launcher: Launcher, number: int) -> None:
        self.pid = number
        self._launcher = launcher
        self._end = os.pidfd_open(number)
        self._status: int | None = None

    def poll(self) -> int | None:
        """Its exit status, if it has ended."""
        if self._status is None:
            wake = select.poll()
            wake.register(self._end, select.POLLIN)
            if wake.poll(0):
                self.wait()
        return self._status

    def wait(self) -> int:
        """Its exit status, once it has ended."""
        if self._status is None:
            self._status = self._launcher.status(self.pid)
            os.close(self._end)
        return self._status

    def kill(self) -> None:
        """End it, if it has not ended, by SIGKILL."""
        if self._status is None:
            signal.pidfd_send_signal(self._end, signal.SIGKILL)


class _Server:
    """Does what the lines on standard input ask for, and takes in what daemons leave behind."""

    def __init__(self) -> None:
        self._ended: dict[int, int] = {}

    def _fork(self) -> int:
        child = os.fork()
        self._ended.pop(child, None)  # an earlier process of that number
        return child

    def run(self, words: list[str]) -> tuple[int, str]:
        """Run the command; answers its status and what it said on standard error."""
        reader, writer = os.pipe()
        child = self._fork()
        if child == 0:
            os.dup2(writer, 2)
            _become_command(words)
        os.close(writer)
        with open(reader, errors="surrogateescape") as pipe:
            said = pipe.read()
        return self.status(child), said

    def start(
        self, words: list[str], stderr: str, environment: dict[str, str], directory: str
    ) -> int:
        """Start the command; answers its process id."""
        child = self._fork()
        if child == 0:
            null = os.open(os.devnull, os.O_RDWR)
            file = os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for stream, target in ((0, null), (1, null), (2, file)):
                os.dup2(target, stream)
            os.closerange(3, max(null, file) + 1)
            os.environ.clear()
            os.environ.update(environment)
            os.chdir(directory)
            _become_command(words)
        return child

    def status(self, number: int) -> int:
        """The exit status of a child, which is waited for."""
        if number not in self._ended:
            self._ended[number] = os.waitpid(number, 0)[1]
        return os.waitstatus_to_exitcode(self._ended.pop(number))

    def serve(self) -> None:
        for line in sys.stdin:
            # Not after the answer: who is told of a process opens a descriptor of it first.
            with contextlib.suppress(ChildProcessError):
                while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                    self._ended[ended[0]] = ended[1]
            name, *words = json.loads(line)
            print(json.dumps(getattr(self, name)(*words)), flush=True)


def _become_command(words: list[str]) -> NoReturn:
    status = 1
    try:
        status = cli.main(words)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


if __name__ == "__main__":
    # The command would import it only after its fork.
    importlib.import_module("unionfs.driver.answering")
    # What is frozen is not looked at, and so not copied, by each fork's collector.
    gc.freeze()
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    _Server().serve()
