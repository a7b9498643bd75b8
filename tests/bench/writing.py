"""Rows about changes, each on an empty file system."""

from collections.abc import Sequence
from pathlib import Path

from tests.bench.rows import Kind, row
from tests.bench.stand import Stand

_MIB = 1 << 20
_SMALL = 4096
_RECORD = 100


def _timed(stand: Stand, *words: str | Path) -> list[float]:
    """Seconds of one piece of work, with nothing else left to be written."""
    stand.settle()
    return [stand.seconds(*words)]


@row(
    "small files",
    "blank",
    {"create and write": Kind.WRITE, "remove": Kind.WRITE},
    writes=True,
)
def small_files(stand: Stand) -> Sequence[float]:
    made, count = stand.root / "d/made", stand.many(10_000, 100)
    created = _timed(stand, "create", made, f"{count}", f"{_SMALL}")
    return [*created, *_timed(stand, "remove", made)]


@row("untar a source tree", "blank", Kind.WRITE, writes=True)
def untar(stand: Stand) -> Sequence[float]:
    source = stand.workshop.stacks("checkout").plain.with_name("source.tar")
    # Into a new directory: unionfs-fuse gives one that it copies up another inode number.
    unpack = "mkdir d/new && tar -C d/new --no-same-owner -xf"
    return _timed(stand, *stand.run("sh", "-c", f'{unpack} "$1"', "sh", source))


@row(
    "sequential write of 512 MiB",
    "blank",
    {"no fsync": Kind.WRITE, "fsync": Kind.WRITE},
    writes=True,
)
def sequential(stand: Stand) -> Sequence[float]:
    size = f"{stand.many(512) * _MIB}"
    return [
        *_timed(stand, "write", stand.root / "d/first", size, f"{_MIB}", "never"),
        *_timed(stand, "write", stand.root / "d/second", size, f"{_MIB}", "end"),
    ]


@row(
    "random writes of 4 KiB",
    "blank",
    {"no fsync": Kind.WRITE, "fsync": Kind.WRITE, "fsync each": Kind.WRITE},
    writes=True,
)
def scatter(stand: Stand) -> Sequence[float]:
    file, size = stand.root / "d/file", stand.many(128) * _MIB
    stand.seconds("write", file, f"{size}", f"{_MIB}", "end")
    many, few = f"{stand.many(20_000, 100)}", f"{stand.many(200, 10)}"
    return [
        *_timed(stand, "scatter", file, many, "never"),
        *_timed(stand, "scatter", file, many, "end"),
        *_timed(stand, "scatter", file, few, "each"),
    ]


@row("append 100 bytes each", "blank", Kind.WRITE, writes=True)
def append(stand: Stand) -> Sequence[float]:
    count = stand.many(20_000, 100)
    return _timed(stand, "append", stand.root / "d/log", f"{count}", f"{_RECORD}")


def _on_lower_files(stand: Stand, verb: str, count: int = 10_000) -> list[float]:
    files = stand.listed(stand.stack.files[: stand.many(count, 20)])
    return _timed(stand, verb, stand.root, files)


@row("chmod of 10000 lower files", "many", Kind.WRITE, writes=True)
def chmod(stand: Stand) -> Sequence[float]:
    return _on_lower_files(stand, "chmod")


@row("rename 2000 lower files", "many", Kind.WRITE, writes=True)
def rename(stand: Stand) -> Sequence[float]:
    return _on_lower_files(stand, "rename", 2000)


@row("unlink 10000 lower files", "many", Kind.WRITE, writes=True)
def unlink(stand: Stand) -> Sequence[float]:
    return _on_lower_files(stand, "unlink")


@row("rename 10000 new files", "blank", Kind.WRITE, writes=True)
def rename_new(stand: Stand) -> Sequence[float]:
    made, count = stand.root / "d/made", stand.many(10_000, 100)
    stand.seconds("create", made, f"{count}", "0")
    files = stand.listed([f"d{number % 100:02}/file{number}" for number in range(count)])
    return _timed(stand, "rename", made, files)


@row("copy-up of 1 GiB by its first byte", "large", Kind.WRITE, writes=True)
def first_byte(stand: Stand) -> Sequence[float]:
    return _timed(stand, "poke", stand.root / "large")


@row("copy-up of 1 GiB by all of it", "large", Kind.WRITE, writes=True)
def whole(stand: Stand) -> Sequence[float]:
    return _timed(stand, "overwrite", stand.root / "large")
