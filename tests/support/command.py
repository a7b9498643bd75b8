"""The `unionmount` command as a user runs it: words in; a status, lines and daemons out."""

import os
import select
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from tests.support import driver, linux
from unionfs.driver import mounts, records

UNIONMOUNT = str(Path(sys.executable).with_name("unionmount"))
SECONDS = 30  # that anything may take


def wait_for_table(condition: Callable[[], bool]) -> bool:
    """Whether *condition*, about what is mounted, came true in time."""
    with open("/proc/self/mountinfo", "rb") as table:
        wake = select.poll()
        wake.register(table, select.POLLPRI | select.POLLERR)
        return linux.wait_for(condition, SECONDS, wake=wake)


def mounted_below(directory: Path) -> list[Path]:
    """The mount points at or below `directory`, the visible one of two last."""
    points = [Path(os.fsdecode(mount.point)) for mount in mounts.table()]
    return [point for point in points if point == directory or directory in point.parents]


class Command:
    """Runs `unionmount` in `directory`, and ends whatever it left mounted there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._started: list[subprocess.Popen[bytes]] = []

    def __call__(
        self,
        *words: str | bytes | Path,
        prefix: Sequence[str] = (),
        **more: Any,
    ) -> subprocess.CompletedProcess[str]:
        """Run it to its end, and until nobody holds its streams; `prefix` is what runs it."""
        return subprocess.run(
            [*prefix, UNIONMOUNT, *driver.words(), *words],
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=SECONDS,
            check=False,
            **more,
        )

    def mounts(self, *words: str | bytes | Path, **more: Any) -> str:
        """Run it and expect that it mounts; answers what it said on standard error."""
        done = self(*words, **more)
        assert done.returncode == 0, done.stderr
        assert done.stdout == ""
        return done.stderr

    def refuses(self, *words: str | bytes | Path, status: int = 1, **more: Any) -> str:
        """Run it and expect one line, that status and nothing changed; answers the line."""
        before = self._state()
        done = self(*words, **more)
        assert done.stdout == ""
        assert done.returncode == status, done.stderr
        (line,) = done.stderr.splitlines()
        assert line.startswith("unionmount: ")
        assert self._state() == before
        return line

    def start(
        self, *words: str | bytes | Path, prefix: Sequence[str] = (), **more: Any
    ) -> subprocess.Popen[bytes]:
        """Start it, with its standard error in a pipe unless `more` says otherwise."""
        process = subprocess.Popen(
            [*prefix, UNIONMOUNT, *driver.words(), *words],
            cwd=self.directory,
            stdin=more.pop("stdin", subprocess.DEVNULL),
            stderr=more.pop("stderr", subprocess.PIPE),
            **more,
        )
        self._started.append(process)
        return process

    def foreground(self, *words: str | bytes | Path, **more: Any) -> subprocess.Popen[bytes]:
        """Start it with --foreground, and wait until the last word, its mount point, answers."""
        point = self.directory / os.fsdecode(words[-1])
        process = self.start("-f", *words, **more)
        assert wait_for_table(lambda: point in mounted_below(point))
        os.statvfs(point)
        return process

    def unions(self) -> list[records.Union]:
        """The unions mounted below the directory."""
        return [
            union
            for union in records.mounted()
            if self.directory in Path(os.fsdecode(union.point)).parents
        ]

    def daemon(self, point: str) -> int:
        """A descriptor, to be polled for its end, of the process that serves `point`."""
        (union,) = (u for u in self.unions() if u.point == os.fsencode(self.directory / point))
        assert union.process is not None
        return os.pidfd_open(union.process)

    def close(self) -> None:
        """End what was started and unmount all that is mounted below the directory."""
        for process in self._started:
            if process.poll() is None:
                process.terminate()
        ends = [os.pidfd_open(union.process) for union in self.unions() if union.process]
        for mount in reversed(mounts.table()):
            point = Path(os.fsdecode(mount.point))
            if mount.kind.startswith((b"fuse", b"overlay")) and self.directory in point.parents:
                linux.umount(point, linux.MNT_DETACH)
        for process in self._started:
            process.wait(SECONDS)
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream:
                    stream.close()
        for end in ends:
            assert has_ended(end), "a daemon still ran after its mount was gone"

    def _state(self) -> tuple[list[Path], list[Path]]:
        return mounted_below(self.directory), sorted(self.directory.rglob("*"))


def has_ended(descriptor: int) -> bool:
    """Whether the process of a pidfd ended in time; closes the descriptor."""
    try:
        wake = select.poll()
        wake.register(descriptor, select.POLLIN)
        return bool(wake.poll(SECONDS * 1000))
    finally:
        os.close(descriptor)


def read_until(stream: IO[bytes] | None, end: bytes) -> bytes:
    """What comes from a pipe or terminal up to `end`; empty stands for the end of the stream."""
    assert stream is not None
    wake = select.poll()
    wake.register(stream, select.POLLIN | select.POLLHUP)
    got = b""
    while not (end and end in got):
        assert wake.poll(SECONDS * 1000), f"nothing more after {got!r}"
        more = os.read(stream.fileno(), 4096)
        if not more:
            assert not end, f"ended after {got!r}"
            break
        got += more
    return got
