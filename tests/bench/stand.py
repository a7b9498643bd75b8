"""What a row stands on: one program's mount of a stack, and the worker that works in it."""

import contextlib
import os
import signal
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from tests.bench.contenders import Contender, Mounted, Place, Role, UnableError, become, family
from tests.bench.rows import Row
from tests.bench.stacks import Stack, Stacks
from tests.support import disks, linux

_SOURCE: Final = Path(__file__).with_name("worker.c")
_WARNINGS: Final = ("-Wall", "-Wextra", "-Wconversion", "-Werror")
_SECONDS: Final = 300  # that a piece of work may take
_WARM_PASSES: Final = 3
_PLACES: Final = ("upper", "work", "point")
_LINES: Final = 2  # of what went wrong
_TICK: Final = os.sysconf("SC_CLK_TCK")
# Without what the kernel would write for hours after an ext4 was made.
_DISK: Final = disks.Kind(("mkfs.ext4", "-q"), 16 << 10, "noinit_itable")


class Pass(NamedTuple):
    """A piece of work: seconds by the clock, and of the processor; on how many things."""

    seconds: float
    processor: float
    things: int


def build_worker(directory: Path) -> Path:
    """Compile the worker; subprocess.CalledProcessError if that fails."""
    target = directory / "worker"
    subprocess.run(["gcc", "-O2", *_WARNINGS, "-o", target, _SOURCE], check=True)
    return target


@dataclass(frozen=True)
class Workshop:
    """Where rows are measured.

    views: the directory of the stacks as each user has it, who owns what root has there, and can't
    change it. really_cold: the kernel's caches are dropped after each mount.
    """

    scratch: Path
    worker: Path
    stacks: Stacks
    views: Mapping[int, Path]
    really_cold: bool = False

    def read(self, row: Row, *, stored: bool) -> None:
        """Read all that a row's mounts will show, so that it is in the page cache.

        stored: that of a store as well.
        """
        stack = self.stacks(row.on)
        places = [stack.plain, *stack.layers]
        if stored:
            places.append(self.stacks.store(stack))
        read = ["-type", "f", "-exec", "cat", "{}", "+"]
        subprocess.run(["find", *places, *read], stdout=subprocess.DEVNULL, check=True)

    @contextlib.contextmanager
    def mounted(self, contender: Contender, row: Row) -> Iterator["Stand"]:
        """A fresh mount for a row, which ends with the context. UnableError if it can't be had."""
        stack = self.stacks(row.on)
        with self._home(contender.user, fresh=row.writes) as home:
            layers = [self._seen(layer, contender) for layer in stack.layers]
            upper, work, point = (home / name for name in _PLACES)
            plain = self._seen(stack.plain, contender)
            store = self.stacks.store(stack) if contender.stored else None
            place = Place(layers, plain, upper, work, point, row.writes, store)
            mounted = contender.mount(place)
            if self.really_cold:
                linux.drop_caches(pages=True)
            try:
                yield Stand(
                    contender,
                    mounted,
                    stack,
                    self,
                    home,
                    again=lambda: self.mounted(contender, row),
                )
            finally:
                contender.unmount(mounted)

    @contextlib.contextmanager
    def _home(self, user: int, *, fresh: bool) -> Iterator[Path]:
        """A directory with one each for upper, work and mount point.

        fresh: on a file system that nothing was removed from. On one where many files were, ext4
        takes several times as long to make others, for minutes: it looks at each inode that has
        become free (recently_deleted in fs/ext4/ialloc.c).
        """
        with (
            tempfile.TemporaryDirectory(dir=self.scratch) as name,
            contextlib.ExitStack() as stack,
        ):
            home = Path(name)
            home.chmod(0o711)
            if fresh:
                home = stack.enter_context(_empty_disk(home))
            for directory in _PLACES:
                (home / directory).mkdir()
                os.chown(home / directory, user, user)
            yield home

    def _seen(self, path: Path, contender: Contender) -> Path:
        return self.views[contender.user] / path.relative_to(self.stacks.data)


@contextlib.contextmanager
def _empty_disk(home: Path) -> Iterator[Path]:
    disk, point = home / "disk", home / "files"
    point.mkdir()
    disks.make(_DISK, disk)
    with disks.mounted(_DISK, disk, point):
        yield point


@dataclass
class Stand:
    """A program's fresh mount. stack: what is mounted. home: a directory for what a row needs
    beside it. again: another mount of the same layers.
    """

    contender: Contender
    mounted: Mounted
    stack: Stack
    workshop: Workshop
    home: Path
    again: Callable[[], AbstractContextManager["Stand"]]
    _lists: int = field(default=0, init=False)

    @property
    def root(self) -> Path:
        """Where the tree is."""
        return self.mounted.root

    @property
    def tree(self) -> Path:
        """What is to be walked: the whole tree or, at a smaller scale, a directory of that size."""
        scale = self.workshop.stacks.scale
        if scale >= 1:
            return self.root
        wanted = len(self.stack.names) * scale
        sizes = self.stack.directories
        return self.root / min(sorted(sizes), key=lambda path: abs(sizes[path] - wanted))

    @property
    def stores(self) -> list[Path]:
        """The store that was mounted from, if one was."""
        return [self.workshop.stacks.store(self.stack)] if self.contender.stored else []

    def many(self, full: int, least: int = 1) -> int:
        """How many of what there are *full* of at full size."""
        return self.workshop.stacks.many(full, least)

    def some(self, paths: Sequence[str], full: int | None = None) -> Path:
        """A list for the worker: as many of the paths as the scale, or *full*, allows."""
        wanted = self.many(len(paths) if full is None else min(full, len(paths)), 10)
        return self.listed(paths[:wanted])

    def listed(self, paths: Sequence[str]) -> Path:
        """A list for the worker."""
        self._lists += 1
        file = self.home / f"list{self._lists}"
        file.write_text("".join(f"{path}\n" for path in paths), errors="surrogateescape")
        return file

    def passes(self, count: int, *words: str | Path) -> list[Pass]:
        """Have the worker do the same so many times. UnableError if it fails."""
        command = [*become(self.contender.user), self.workshop.worker, f"{count}", *words]
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
            env={**os.environ, "LC_ALL": "C.UTF-8", "GIT_OPTIONAL_LOCKS": "0"},
        ) as process:
            try:
                out, said = process.communicate(timeout=_SECONDS)
            except subprocess.TimeoutExpired as error:
                raise UnableError(f"{words[0]} took more than {_SECONDS} s") from error
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
        if process.returncode:
            first = said.replace(f"{self.root}/", "").strip().splitlines()[:_LINES]
            raise UnableError("; ".join(first) or f"status {process.returncode}")
        lines = [line.split() for line in out.splitlines()]
        return [Pass(float(clock), float(used), int(done)) for clock, used, done in lines]

    def seconds(self, *words: str | Path) -> float:
        """How long the worker takes."""
        return self.passes(1, *words)[0].seconds

    def warm(self, *words: str | Path) -> float:
        """How long it takes when the same was done before: the median of a few times."""
        return self.cold_and_warm(*words)[1]

    def cold_and_warm(self, *words: str | Path) -> list[float]:
        """How long it takes at first, and when the same was done before."""
        first, *rest = self.passes(1 + _WARM_PASSES, *words)
        return [first.seconds, statistics.median(one.seconds for one in rest)]

    def run(self, *command: str | Path) -> tuple[str | Path, ...]:
        """The worker's words for a command, in the directory of the tree."""
        return "run", self.root, *command

    def inside(self, *command: str) -> tuple[str | Path, ...]:
        """The worker's words for a command whose root directory is the tree."""
        if self.contender.user:
            enter = ("unshare", "--map-root-user", f"--root={self.root}", "--wd=/")
            return self.run(*enter, "--", *command)
        return self.run("chroot", self.root, *command)

    def settle(self) -> None:
        """Write what is not on disk yet, so that it is not written while something is timed.

        That of the program before, too, whose file system was a file where ours is one.
        """
        linux.syncfs(self.home)
        linux.syncfs(self.workshop.scratch)

    @property
    def has_daemon(self) -> bool:
        """Whether it is a union in user space."""
        return self.contender.role not in (Role.KERNEL, Role.PLAIN)

    def daemon_memory(self) -> int:
        """Bytes that the daemon has in memory; none without a daemon."""
        return sum(_status(process, "VmRSS") for process in self._daemons())

    def daemon_processor(self) -> float:
        """Seconds of the processor that the daemon has used; none without a daemon."""
        return sum(_processor(process) for process in self._daemons())

    def _daemons(self) -> list[int]:
        return [process for daemon in self.mounted.daemons for process in family(daemon)]


def _status(process: int, name: str) -> int:
    text = Path(f"/proc/{process}/status").read_text()
    return int(text.split(f"{name}:")[1].split()[0]) << 10


def _processor(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK
