"""Rows about the content of files."""

from collections.abc import Sequence

from tests.bench.rows import COLD_AND_WARM, DATA, row
from tests.bench.stand import Stand

_PROCESSES = 8


@row("open-read-close of small files", "root", COLD_AND_WARM)
def small_files(stand: Stand) -> Sequence[float]:
    return stand.cold_and_warm("read", stand.root, stand.some(stand.stack.files))


@row("grep -r", "root", COLD_AND_WARM)
def grep(stand: Stand) -> Sequence[float]:
    # It finds nothing, which it reports by a status.
    search = 'grep -r --devices=skip "no such words anywhere" "$1" || test $? = 1'
    return stand.cold_and_warm(*stand.run("sh", "-c", search, "sh", stand.tree))


@row("tar out", "root", COLD_AND_WARM)
def tar(stand: Stand) -> Sequence[float]:
    return stand.cold_and_warm(*stand.run("tar", "-C", stand.tree, "-cf", "-", "."))


@row("sequential read by 128 KiB", "large", DATA)
def sequential(stand: Stand) -> Sequence[float]:
    return stand.cold_and_warm("sequential", stand.root / "large", f"{1 << 17}")


@row("sequential read by 1 MiB", "large", DATA)
def sequential_large(stand: Stand) -> Sequence[float]:
    return stand.cold_and_warm("sequential", stand.root / "large", f"{1 << 20}")


@row("random reads of 4 KiB", "large", DATA)
def random(stand: Stand) -> Sequence[float]:
    count = stand.many(10_000, 100)
    return stand.cold_and_warm("random", stand.root / "large", f"{count}")


@row("mmap of a large file", "large", DATA)
def mmap(stand: Stand) -> Sequence[float]:
    return stand.cold_and_warm("map", stand.root / "large")


@row("8 processes reading", "root", COLD_AND_WARM)
def processes(stand: Stand) -> Sequence[float]:
    files = stand.some(stand.stack.files)
    return stand.cold_and_warm("together", stand.root, files, f"{_PROCESSES}")
