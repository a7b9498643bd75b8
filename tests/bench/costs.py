"""Rows about what a mount itself costs."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from tests.bench.rows import Kind, Unit, row
from tests.bench.stand import Stand

_MOUNTS = 10


@row("time to mount", "root", Kind.COST)
def mount(stand: Stand) -> Sequence[float | None]:
    return [stand.mounted.seconds]


@row(
    "daemon's memory",
    "root",
    {"just mounted": Kind.COST, "after a walk": Kind.COST},
    unit=Unit.BYTES,
)
def memory(stand: Stand) -> Sequence[float | None]:
    if not stand.has_daemon:
        return [None, None]
    before = stand.daemon_memory()
    stand.seconds("walk", stand.tree)
    return [before, stand.daemon_memory()]


def _processor(stand: Stand, *words: str | Path) -> float:
    """Seconds of the processor, the daemon's and the caller's, for each thing done."""
    before = stand.daemon_processor()
    (done,) = stand.passes(1, *words)
    return (stand.daemon_processor() - before + done.processor) / done.things


@row("processor time for a name of a cold walk", "root", Kind.COST)
def walking(stand: Stand) -> Sequence[float]:
    return [_processor(stand, "walk", stand.tree)]


@row("processor time for a small file read cold", "root", Kind.COST)
def reading(stand: Stand) -> Sequence[float]:
    return [_processor(stand, "read", stand.root, stand.some(stand.stack.files))]


@row("processor time for a new small file", "blank", Kind.COST, writes=True)
def creating(stand: Stand) -> Sequence[float]:
    count = stand.many(10_000, 100)
    return [_processor(stand, "create", stand.root / "d/made", f"{count}", "4096")]


@row("page cache of ten mounts that read 256 MiB", "large-256", Kind.COST, unit=Unit.BYTES)
def page_cache(stand: Stand) -> Sequence[float]:
    with contextlib.ExitStack() as mounts:
        stands = [stand, *(mounts.enter_context(stand.again()) for _ in range(_MOUNTS - 1))]
        for place in (*stand.stack.layers, *stand.stores):
            for file in place.rglob("*"):
                if file.is_file():
                    _forget(file)
        before = _cached()
        for one in stands:
            one.seconds("sequential", one.root / "large", f"{1 << 20}")
        return [_cached() - before]


def _forget(file: Path) -> None:
    """Have the kernel drop the pages of a file."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _cached() -> int:
    text = Path("/proc/meminfo").read_text()
    return int(text.split("\nCached:")[1].split()[0]) << 10
