"""What the rows of the load table stand on: mounts, and measures of the daemon that serves them."""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.layers import Layer
from tests.support.mounts import KernelMount, Mounts, UnionMount
from tests.support.snapshots import differences, snapshot

_CHECKOUT = Path(__file__).parents[2]


@dataclass
class Measure:
    """One line of the table: what was done, how often, how it went, and what it took.

    seconds: by the clock; daemon: its own, of processor time. before, peak, after: its memory in
    bytes, the last when the kernel has forgotten all that is not in use. growth: how many times as
    long each takes as in the smallest size, where sizes are compared.
    """

    what: str
    amount: int
    unit: str
    result: str = ""
    seconds: float = 0.0
    daemon: float = 0.0
    before: int = 0
    peak: int = 0
    after: int = 0
    growth: float | None = None

    @property
    def each(self) -> float:
        """Seconds of the daemon for one."""
        return self.daemon / self.amount


@dataclass
class Stand:
    """Where a row runs. `part`: what part of the full size its work is to have."""

    union: Mounts[UnionMount]
    kernel: Mounts[KernelMount]
    directory: Path
    part: float = 1.0

    def many(self, full: int, least: int = 1) -> int:
        """How many of what there are `full` of at full size."""
        return max(least, round(full * self.part))

    @contextlib.contextmanager
    def measured(self, mount: UnionMount, what: str, amount: int, unit: str) -> Iterator[Measure]:
        """Measure the block."""
        measure = self._begin(what, amount, unit)
        mount.forget()
        measure.before = _memory(mount.pid, "VmRSS")
        Path(f"/proc/{mount.pid}/clear_refs").write_text("5")  # the peak begins anew
        daemon, begin = _processor(mount.pid), time.monotonic()
        yield measure
        measure.seconds = time.monotonic() - begin
        measure.daemon = _processor(mount.pid) - daemon
        measure.peak = _memory(mount.pid, "VmHWM")
        mount.forget()
        measure.after = _memory(mount.pid, "VmRSS")

    def mounted(
        self, amount: int, unit: str, *layers: Layer, upper: bool = True
    ) -> tuple[UnionMount, Measure]:
        """Mount, and measure that; the daemon's memory is what a mount without work takes."""
        measure = self._begin("mounted", amount, unit)
        begin = time.monotonic()
        mount = self.union(*layers, upper=upper)
        measure.seconds = time.monotonic() - begin
        measure.daemon = _processor(mount.pid)
        measure.peak = _memory(mount.pid, "VmHWM")
        measure.before = measure.after = _memory(mount.pid, "VmRSS")
        return mount, measure

    def _begin(self, what: str, amount: int, unit: str) -> Measure:
        if sys.stderr.isatty():
            print(f"\033[K{what}, {amount:,} {unit}\r", end="", file=sys.stderr, flush=True)
        return Measure(what, amount, unit)

    def kernel_mount(self, mount: UnionMount) -> KernelMount:
        """What the kernel's overlayfs makes of a union, which is unmounted for it."""
        mount.unmount()
        return self.kernel(*mount.layers, upper=mount.changes, work=mount.work)

    def same_in_kernel(self, mount: UnionMount) -> int:
        """Unmount a union and check that the kernel shows the same; answers how many names."""
        ours = snapshot(mount.path)
        theirs = self.kernel_mount(mount)
        assert differences(ours, snapshot(theirs.path)) == []
        theirs.close()
        return len(ours)


def descriptors(mount: UnionMount) -> tuple[int, int]:
    """How many the daemon has open, and how many it may."""
    limit = resource.prlimit(mount.pid, resource.RLIMIT_NOFILE)[0]
    return len(os.listdir(f"/proc/{mount.pid}/fd")), limit


def run_all(commands: Sequence[Sequence[str | Path]], seconds: float) -> list[str]:
    """Run commands at the same time, all to their end; answers what they printed.

    AssertionError if one fails, subprocess.TimeoutExpired if it takes longer.
    """
    deadline = time.monotonic() + seconds
    with contextlib.ExitStack() as stack:
        processes = []
        for command in commands:
            process = subprocess.Popen(
                command,
                cwd=_CHECKOUT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            stack.callback(_end, process)
            processes.append(process)
        said = []
        for process in processes:
            out, _ = process.communicate(timeout=deadline - time.monotonic())
            assert process.returncode == 0, f"{process.args!r}: {out}"
            said.append(out)
    return said


def _end(process: subprocess.Popen[str]) -> None:
    """End a command that still runs, with all that it has started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def _memory(pid: int, field_name: str) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split(f"{field_name}:")[1].split()[0]) << 10


def _processor(pid: int) -> float:
    """Seconds that the thread which serves has run."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
