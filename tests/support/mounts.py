"""Real mounts for tests: unionmount, and the kernel's overlayfs as the oracle beside it."""

import contextlib
import errno
import os
import re
import select
import subprocess
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from tests.support import driver, linux
from tests.support.launcher import Launcher, Process
from tests.support.layers import Layer, build

_SECONDS_TO_MOUNT = 30
_SECONDS_TO_EXIT = 30
_ERROR = re.compile(r"\b(ERROR|CRITICAL)\b|^Traceback")
_REQUEST = re.compile(rb"^unique: \d+, opcode: (\w+) \(\d+\), .*pid: (\d+)", re.MULTILINE)

COMMAND = (str(Path(sys.executable).with_name("unionmount")),)


@dataclass
class Mount(ABC):
    """One mounted union. `layers` has the base first; `upper` is None when it is read-only."""

    path: Path
    layers: Sequence[Path]
    upper: Path | None
    work: Path
    options: Sequence[str] = ()

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def changes(self) -> Path:
        """The upper of a union that has one."""
        assert self.upper is not None
        return self.upper

    @abstractmethod
    def mount(self) -> None: ...

    def is_mounted(self) -> bool:
        return self.path in linux.mounts_below(self.path)

    def unmount(self) -> None:
        linux.umount(self.path)

    def remount(self) -> None:
        """Unmount and mount the same again: what was only in memory is gone."""
        self.unmount()
        self.mount()

    def drop_caches(self, *, pages: bool = True) -> None:
        """Have the kernel forget all it knows of the mount, but what is open or mapped.

        Of open files it forgets the content, if `pages`, which slows the whole machine down.
        """
        if pages and self.upper is not None:
            linux.syncfs(self.upper)
        linux.drop_caches(pages=pages)

    def close(self) -> None:
        """Unmount whatever state it is in, and tell what was wrong."""
        if not self.is_mounted():
            return
        try:
            self.unmount()
        except OSError:
            while self.is_mounted():
                linux.umount(self.path, linux.MNT_DETACH)
            raise


class KernelMount(Mount):
    """The kernel's overlayfs. Options other than `dev`, `suid` go to it as they are."""

    def mount(self) -> None:
        flags = 0
        settings = {"index": "on", "redirect_dir": "on", "metacopy": "off", "xino": "on"}
        for option in self.options:
            name, _, value = option.partition("=")
            settings[name] = value
        for name, flag in (("dev", linux.MS_NODEV), ("suid", linux.MS_NOSUID)):
            if settings.pop(name, None) is None:
                flags |= flag
        layers = list(self.layers)
        if self.upper is not None:
            settings |= {"upperdir": str(self.upper), "workdir": str(self.work)}
        elif len(layers) == 1:
            # It wants two layers, and an empty one changes nothing.
            empty = self.work.with_name("empty")
            empty.mkdir(exist_ok=True)
            layers.append(empty)
        with contextlib.chdir(layers[0].parent):
            # Short names: all the options together may have one page.
            settings["lowerdir"] = ":".join(
                os.path.relpath(layer).replace(":", "\\:") for layer in reversed(layers)
            )
            data = ",".join(
                f"{name}={value}" if value else name for name, value in settings.items()
            )
            linux.mount("overlay", self.path, "overlay", flags, os.fsencode(data))


@dataclass
class UnionMount(Mount):
    """unionmount in the foreground, so that its process is ours to wait for.

    Unmounting fails when the daemon ended with another status than 0 or logged an error that is
    not in `expected_errors` (regular expressions).
    """

    arguments: Sequence[str] = ()
    command: Sequence[str] = COMMAND
    expected_errors: Sequence[str] = ()
    process: Process | None = None
    launcher: ClassVar[Launcher | None] = None  # starts the command, where it is not another

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def log(self) -> Path:
        return self.work.with_name("log")

    @property
    def stderr(self) -> Path:
        return self.work.with_name("stderr")

    def mount(self) -> None:
        words = ["-f", "--log", str(self.log), *self.arguments]
        if self.upper is not None:
            words += ["--upper", str(self.upper), "--work", str(self.work)]
        if options := [*driver.options(), *self.options]:
            words += ["-o", ",".join(options)]
        words += [*map(str, self.layers), str(self.path)]
        with open("/proc/self/mountinfo", "rb") as table:
            self.process = process = self._start(words)
            with _exit_descriptor(process) as exited:
                wake = select.poll()
                wake.register(table, select.POLLPRI | select.POLLERR)
                wake.register(exited, select.POLLIN)
                linux.wait_for(
                    lambda: self._answers() or process.poll() is not None,
                    _SECONDS_TO_MOUNT,
                    wake=wake,
                )
        if process.poll() is not None or not self._answers():
            process.kill()
            process.wait()
            raise AssertionError(f"not mounted: {self.stderr.read_text()}")

    def wait_for_python(self) -> None:
        """Return when what answers in Python is loaded: only that knows the attribute."""
        os.getxattr(self.path, "user.unionmount.layer")

    def _start(self, words: Sequence[str]) -> Process:
        launcher = self.launcher
        if launcher is not None and launcher.is_where_we_are and self.command == COMMAND:
            return launcher.start(words, self.stderr)
        with open(self.stderr, "wb") as stderr:
            words = [*self.command, *words]
            return subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=stderr)

    def _answers(self) -> bool:
        """Whether it is mounted and alive; one that died may still be there, to be cleared."""
        try:
            # Waits until the daemon serves.
            os.statvfs(self.path)
        except OSError as error:
            if error.errno in (errno.ENOTCONN, errno.ECONNABORTED):
                return False
            raise
        return self.is_mounted()

    def unmount(self) -> None:
        super().unmount()
        self.wait()

    def wait(self) -> None:
        """Wait for the daemon's end and look at how it ended."""
        process = self.process
        if process is None:
            return
        self.process = None
        if process.poll() is None and not linux.wait_for_exit(process.pid, _SECONDS_TO_EXIT):
            process.kill()
            process.wait()
            raise AssertionError("the daemon still ran after its mount was gone")
        status = process.wait()
        assert not self.errors(), self.log.read_text(errors="replace")
        assert status == 0, f"the daemon ended with status {status}: {self.stderr.read_text()}"

    def errors(self) -> list[str]:
        """The lines in which the daemon told of errors that nobody expects."""
        files = [file for file in (self.log, self.stderr) if file.exists()]
        lines = [line for file in files for line in file.read_text(errors="replace").splitlines()]
        return [
            line
            for line in lines
            if _ERROR.search(line)
            and not any(re.search(pattern, line) for pattern in self.expected_errors)
        ]

    def forget(self) -> None:
        """Have the kernel forget all that is not in use, and wait until the daemon has heard it."""
        self.drop_caches(pages=False)
        # It lets 16 batches of forgotten inodes and 8 other requests pass in turn.
        for _ in range(32):
            os.statvfs(self.path)
        # What the data plane does not know has been heard in Python, too.
        self.wait_for_python()

    def kill(self) -> None:
        """End the daemon with no chance to tidy up; the dead mount stays where it is."""
        assert self.process is not None
        process, self.process = self.process, None
        process.kill()
        process.wait()

    def close(self) -> None:
        try:
            super().close()
        finally:
            self.wait()

    @contextlib.contextmanager
    def requests(self) -> Iterator[Counter[str]]:
        """Count the requests that this process causes inside; needs `options=["debug"]`.

        RELEASE, for which nobody waits, counts as far as it is sent by the end. Left out are
        FORGET, which the kernel sends when it likes, and the STATFS that marks both ends.
        """
        count: Counter[str] = Counter()
        os.statvfs(self.path)
        start = self.stderr.stat().st_size
        yield count
        # Requests are read in their order: when this one is answered, all before it are written.
        os.statvfs(self.path)
        with open(self.stderr, "rb") as log:
            log.seek(start)
            for opcode, pid in _REQUEST.findall(log.read()):
                if int(pid) in (0, os.getpid()):
                    count[opcode.decode()] += 1
        for opcode in ("STATFS", "FORGET", "BATCH_FORGET"):
            del count[opcode]


@contextlib.contextmanager
def _exit_descriptor(process: Process) -> Iterator[int]:
    descriptor = os.pidfd_open(process.pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def three_times(mount: Mount) -> Iterator[str]:
    """Live, after the kernel dropped its caches, after a remount: what holds must hold in each."""
    yield "live"
    # Nothing is open, and the pages of what isn't go with its name.
    mount.drop_caches(pages=False)
    yield "after drop_caches"
    mount.remount()
    yield "after remount"


AnyMount = TypeVar("AnyMount", bound=Mount)


class Mounts(Generic[AnyMount]):
    """Makes mounts of one kind below a directory and ends them all on close."""

    def __init__(self, kind: type[AnyMount], directory: Path) -> None:
        self.kind = kind
        self._directory = directory
        self._made: list[AnyMount] = []

    def __call__(
        self,
        *layers: Layer,
        upper: "Layer | bool" = True,
        work: Path | None = None,
        options: Sequence[str] = (),
        at: str | Path = "mount",
        **more: Sequence[str],
    ) -> AnyMount:
        """Build the layers, base first, and mount them.

        `upper`: True for an empty one, False for a read-only union, or a layer or directory to
        start from, with `work` the work directory that belongs to it. `at`: the mount point, made
        where it is missing, from a directory made for this mount. `more` goes to the mount's kind.
        """
        own = self._directory / f"{self.kind.__name__.lower()}{len(self._made)}"
        own.mkdir()
        built = [build(own / f"{number}", layer) for number, layer in enumerate(layers)]
        work = work or own / "work"
        work.mkdir(exist_ok=True)
        point = own / at
        point.mkdir(exist_ok=True)
        mount = self.kind(point, built, self._upper(own, upper), work, options, **more)
        self._made.append(mount)
        mount.mount()
        return mount

    def _upper(self, own: Path, upper: "Layer | bool") -> Path | None:
        if upper is False:
            return None
        return build(own / "upper", {} if upper is True else upper)

    def close(self) -> None:
        problems: list[Exception] = []
        for mount in reversed(self._made):
            try:
                mount.close()
            except (OSError, AssertionError) as error:
                problems.append(error)
        if problems:
            raise ExceptionGroup("mounts that did not end well", problems)
