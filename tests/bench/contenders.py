"""The programs that are compared: how each is given the same layers, base first, and an upper."""

import contextlib
import ctypes
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import BinaryIO, Final

from tests.bench.stacks import IMAGE
from tests.support import linux
from tests.support.mounts import KernelMount

NOBODY: Final = 65534
_SECONDS_TO_MOUNT = 60
_SECONDS_TO_END = 20
_PR_SET_CHILD_SUBREAPER = 36
# In the bin directory of a .venv that is in its checkout.
COMMAND: Final = Path(
    os.environ.get("UNIONMOUNT") or Path(sys.executable).with_name("unionmount")
).absolute()


class UnableError(Exception):
    """A program can't do what a row asks for; the text is the reason, in a line."""


class Role(Enum):
    """What unionmount is compared with."""

    OURS = "unionmount"
    FUSE = "another union in user space"
    KERNEL = "the kernel's union"
    PLAIN = "no union"


@dataclass(frozen=True)
class Place:
    """What is to be mounted, and where. plain: the same tree as one directory.

    fresh: upper, work and point are on a file system of their own that takes changes. store: one
    that has the layers as `stacks.IMAGE`, for who wants that.
    """

    layers: Sequence[Path]
    plain: Path
    upper: Path
    work: Path
    point: Path
    fresh: bool
    store: Path | None


@dataclass
class Mounted:
    """A tree that is there now. daemons: the processes that serve it, children of this one.

    seconds: how long it took to mount, if it is a mount.
    """

    root: Path
    seconds: float | None = None
    daemons: Sequence[int] = ()


@dataclass(frozen=True)
class Contender(ABC):
    """A program under test. user: who mounts, and works in the mount. stored: it wants a store."""

    name: str
    role: Role
    user: int = 0
    stored: bool = False

    @abstractmethod
    def mount(self, place: Place) -> Mounted:
        """Mount; UnableError if it can't."""

    def unmount(self, mounted: Mounted) -> None:
        """Unmount, and wait until nothing serves it any more."""
        unmount(mounted)


@dataclass(frozen=True)
class Plain(Contender):
    """The tree itself, or a copy that may be changed."""

    def mount(self, place: Place) -> Mounted:
        if not place.fresh:
            return Mounted(place.plain)
        subprocess.run(["cp", "-a", f"{place.plain}/.", str(place.point)], check=True)
        linux.syncfs(place.point)
        return Mounted(place.point)

    def unmount(self, mounted: Mounted) -> None:
        pass


@dataclass(frozen=True)
class Kernel(Contender):
    """The kernel's overlayfs."""

    def mount(self, place: Place) -> Mounted:
        union = KernelMount(
            place.point, place.layers, place.upper, place.work, options=("dev", "suid")
        )
        begin = time.monotonic()
        try:
            union.mount()
        except OSError as error:
            raise UnableError(f"not mounted: {error}") from error
        return Mounted(place.point, time.monotonic() - begin)


@dataclass(frozen=True)
class Fuse(Contender):
    """A command that returns when it has mounted, and leaves a daemon.

    words: the command for a place.
    """

    words: Callable[[Place], Sequence[str]] = field(kw_only=True)

    def mount(self, place: Place) -> Mounted:
        words = self.words(place)
        if shutil.which(words[0]) is None:
            raise UnableError(f"{words[0]} is not installed")
        known = _children()
        said = place.point.with_name("said")
        with said.open("w+b") as stderr:
            begin = time.monotonic()
            status = _status([*become(self.user), *words], stderr)
            if status == 0:
                _answers(self.user, place.point)
            seconds = time.monotonic() - begin
            stderr.seek(0)
            text = stderr.read().decode(errors="replace")
        mounted = Mounted(place.point, seconds, sorted(_children() - known))
        if status or place.point not in linux.mounts_below(place.point):
            unmount(mounted)
            raise UnableError(f"not mounted: {' '.join(text.split()) or status}")
        return mounted


def _status(command: Sequence[str], stderr: BinaryIO) -> int:
    """Run a command that mounts; its status. UnableError if it can't be run, or does not end."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
        )
    except OSError as error:
        raise UnableError(f"not mounted: {error}") from error
    # subprocess, given a time, would look every 50 ms.
    if not linux.wait_for_exit(process.pid, _SECONDS_TO_MOUNT):
        process.kill()
        process.wait()
        raise UnableError(f"not mounted in {_SECONDS_TO_MOUNT} s")
    return process.wait()


def _answers(user: int, point: Path) -> None:
    """Wait until the daemon serves."""
    with contextlib.suppress(PermissionError) if user else contextlib.nullcontext():
        os.statvfs(point)


def unmount(mounted: Mounted) -> None:
    """Unmount, whatever state it is in, and wait for the daemons; one that hangs is ended."""
    for point in linux.mounts_below(mounted.root):
        try:
            linux.umount(point)
        except OSError:
            linux.umount(point, linux.MNT_DETACH)
    for daemon in mounted.daemons:
        if not linux.wait_for_exit(daemon, _SECONDS_TO_END):
            os.kill(daemon, signal.SIGKILL)
        os.waitpid(daemon, 0)


def become(user: int) -> list[str]:
    """The words that run a command as another user, before it."""
    ids = [f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    return ["setpriv", *ids, "--"] if user else []


def adopt_daemons() -> None:
    """Have daemons become children of this process, which knows them by that."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _children() -> set[int]:
    return {child for child, parent in _parents() if parent == os.getpid()}


def family(process: int) -> list[int]:
    """A process and all that descend from it."""
    parents = dict(_parents())
    found = [process]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def _parents() -> Iterator[tuple[int, int]]:
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{name}/stat").read_text()
                yield int(name), int(status.rpartition(")")[2].split()[1])


def _colons(paths: Sequence[Path], suffix: str = "") -> str:
    return ":".join(f"{path}{suffix}" for path in paths)


def _unionmount(place: Place, *options: str) -> list[str]:
    chosen = ["-o", ",".join(options)] if options else []
    layers = map(str, place.layers) if place.store is None else [IMAGE]
    words = ["--upper", str(place.upper), "--work", str(place.work), *chosen]
    return [str(COMMAND), *words, *layers, str(place.point)]


def _image(place: Place) -> list[str]:
    return ["env", f"LAYERSTORE={place.store}", *_unionmount(place, "dev", "suid")]


def _fuse_overlayfs(place: Place) -> list[str]:
    below = _colons(place.layers[::-1])
    options = f"lowerdir={below},upperdir={place.upper},workdir={place.work},dev,suid"
    return ["fuse-overlayfs", "-o", options, str(place.point)]


def _unionfs(place: Place) -> list[str]:
    # The example in unionfs(8), as far as the limit goes.
    files = min(32768, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    options = f"cow,max_files={files},allow_other,use_ino,suid,dev"
    branches = f"{place.upper}=RW:{_colons(place.layers[::-1], '=RO')}"
    return ["unionfs", "-o", options, branches, str(place.point)]


def _mergerfs(place: Place) -> list[str]:
    # With the page cache, as its documentation advises for programs that map files; and the first
    # branch is the one that may be written.
    options = "cache.files=auto-full,category.create=ff,minfreespace=0,allow_other,use_ino,suid,dev"
    branches = f"{place.upper}=RW:{_colons(place.layers[::-1], '=RO')}"
    return ["mergerfs", "-o", options, branches, str(place.point)]


OURS: Final = Fuse("unionmount", Role.OURS, words=lambda place: _unionmount(place, "dev", "suid"))
CONTENDERS: Final[Mapping[str, Contender]] = {
    contender.name: contender
    for contender in (
        OURS,
        Fuse(
            "unionmount-stock",
            Role.OURS,
            words=lambda place: _unionmount(place, "dev", "suid", "driver=stock"),
        ),
        Fuse("unionmount-user", Role.OURS, NOBODY, words=_unionmount),
        Fuse("unionmount-image", Role.OURS, stored=True, words=_image),
        Fuse("fuse-overlayfs", Role.FUSE, words=_fuse_overlayfs),
        Fuse("unionfs-fuse", Role.FUSE, words=_unionfs),
        Fuse("mergerfs", Role.FUSE, words=_mergerfs),
        Kernel("kernel", Role.KERNEL),
        Plain("plain", Role.PLAIN),
    )
}
