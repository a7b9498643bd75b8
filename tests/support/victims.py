"""Runs of `layerstore` that can be stopped at any system call.

Run as a program it has everything imported; each run is a fork of it, which takes a fraction of
what a fresh interpreter takes.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from layerstore.cli.main import main
from tests.support import injector
from tests.support.injector import Call

_CHANGING = frozenset(
    ("link", "mkdir", "rename", "rmdir", "syncfs", "unlink", "write", "writev", "symlink")
)
_FILE_BEGINS = 3


class Victims:
    """Starts commands; one at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # The time of a commit is in its image.
            env={**os.environ, "SOURCE_DATE_EPOCH": "0", "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(self, *words: str | Path) -> int:
        """Run the command with these words to its end; answers its exit status."""
        self._begin(words)
        return self._go()

    def stopped(self, before: Callable[[int, Call], None], *words: str | Path) -> int:
        """Run it; `before` gets its process and each call that changes something on a disk.

        Answers its exit status, -9 if it was killed.
        """
        process = self._begin(words)

        def each(call: Call) -> None:
            if _changes(call):
                before(process, call)

        with injector.stopping(process, each):
            return self._go()

    def killed(self, number: int, *words: str | Path) -> bool:
        """Run it and kill it before its change of this number; whether there was such a one."""
        left = number

        def kill(process: int, _: Call) -> None:
            nonlocal left
            if left <= 0:
                os.kill(process, signal.SIGKILL)
            left -= 1

        return self.stopped(kill, *words) == -signal.SIGKILL

    def _begin(self, words: tuple[str | Path, ...]) -> int:
        return int(self._ask([str(word) for word in words]))

    def _go(self) -> int:
        return int(self._ask("go"))

    def _ask(self, words: object) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(words).encode() + b"\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def _changes(call: Call) -> bool:
    if call.name in ("write", "writev"):
        return call.arguments[0] >= _FILE_BEGINS
    return call.changes or call.name in _CHANGING


def _serve() -> None:
    # What is frozen is not looked at, and so not copied, by each fork's collector.
    gc.freeze()
    for line in sys.stdin:
        words = json.loads(line)
        waiting, go = os.pipe()
        process = os.fork()
        if process == 0:
            _be_a_victim(words, waiting)
        print(process, flush=True)
        sys.stdin.readline()
        os.write(go, b"!")
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        os.close(waiting)
        os.close(go)
        print(status, flush=True)


def _be_a_victim(words: list[str], waiting: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    os.read(waiting, 1)
    status = 70
    with contextlib.suppress(BaseException):
        status = main(words)
    os._exit(status)


if __name__ == "__main__":
    _serve()
