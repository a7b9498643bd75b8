"""Starts `unionmount` many times, each in a fraction of what a fresh interpreter takes.

Run as a program it has everything imported; each start is a fork of it that runs the command.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Self

from unionfs import cli
from unionfs.driver import records

_PR_SET_CHILD_SUBREAPER = 36


class Launcher:
    """Runs `unionmount` with words, as a shell would; its daemons are left to the caller."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def mount(self, *words: str | Path) -> int:
        """Mount at the last word's directory; answers the daemon's process id."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(word) for word in words]).encode() + b"\n")
        self._process.stdin.flush()
        status, said = json.loads(self._process.stdout.readline())
        assert status == 0, said
        point = os.fsencode(words[-1])
        (daemon,) = (union.process for union in records.mounted() if union.point == point)
        assert daemon is not None
        return daemon


def _run(words: list[str]) -> tuple[int, str]:
    """Run the command in a fork; answers its status and what it said on standard error."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(writer, 2)
        os._exit(cli.main(words))
    os.close(writer)
    with open(reader, errors="surrogateescape") as pipe:
        said = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


def _serve() -> None:
    """Do what each line of standard input asks for, and take in what daemons leave behind."""
    # The command would import it only after its fork.
    importlib.import_module("unionfs.driver.session")
    # What is frozen is not looked at, and so not copied, by each fork's collector.
    gc.freeze()
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for line in sys.stdin:
        print(json.dumps(_run(json.loads(line))), flush=True)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


if __name__ == "__main__":
    _serve()
