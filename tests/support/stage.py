"""One union that is mounted, ended in whatever way, and mounted again, many times."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.support import driver, injector, linux
from tests.support.command import has_ended
from tests.support.injector import Call
from tests.support.launcher import Launcher
from tests.support.layers import Tree, build
from tests.support.mounts import KernelMount
from tests.support.snapshots import Snapshot, snapshot


class Stage:
    """A mount point below `directory`; layers, base first, upper and work directory on `disk`.

    options: those of the mount.
    """

    def __init__(
        self,
        launcher: Launcher,
        directory: Path,
        layers: Sequence[Tree],
        disk: Path,
        options: Sequence[str] = (),
    ) -> None:
        self._launcher = launcher
        self._options = [word for option in options for word in ("-o", option)]
        self.point = directory / "mount"
        self.point.mkdir()
        self._layers = [build(disk / f"{number}", layer) for number, layer in enumerate(layers)]
        self._log = directory / "log"
        self.upper = disk / "upper"
        self.work = disk / "work"

    def begin(self, upper: Tree) -> None:
        """Make upper and work directory anew."""
        for path in (self.upper, self.work):
            if path.exists():
                shutil.rmtree(path)
        build(self.upper, upper)
        self.work.mkdir()

    @contextlib.contextmanager
    def mounted(self) -> Iterator[int]:
        """Mount it with unionmount, and unmount it, dead or not; gives the daemon's process id."""
        place = ("--log", self._log, "--upper", self.upper, "--work", self.work)
        options = (*driver.words(), *self._options)
        daemon = self._launcher.mount(*options, *place, *self._layers, self.point)
        end = os.pidfd_open(daemon)
        try:
            yield daemon
            linux.umount(self.point)
        except BaseException:
            signal.pidfd_send_signal(end, signal.SIGKILL)
            linux.umount(self.point, linux.MNT_DETACH)
            raise
        finally:
            assert has_ended(end)
        assert self._log.read_text() == ""

    @contextlib.contextmanager
    def stopping(self, before: Callable[[int, Call], None]) -> Iterator[None]:
        """Mount it; `before` gets the daemon's process id and each call that it is to make."""
        with contextlib.ExitStack() as injected, self.mounted() as daemon:
            injected.enter_context(injector.stopping(daemon, lambda call: before(daemon, call)))
            yield

    def shown_by_kernel(self, *options: str) -> Snapshot:
        """What overlayfs shows of it; in a copy, so that it mends nothing that is ours to mend."""
        copies = self.upper.with_name("copies")
        copies.mkdir()
        subprocess.run(["cp", "-a", self.upper, self.work, copies], check=True)
        upper, work = copies / self.upper.name, copies / self.work.name
        mount = KernelMount(self.point, self._layers, upper, work, options)
        mount.mount()
        try:
            return snapshot(self.point, lists_whiteouts=True)
        finally:
            mount.unmount()
            shutil.rmtree(copies)
