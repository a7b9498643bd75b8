"""Programs that know of holes, shared blocks and allocated room, and a database."""

import random
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.support import linux
from tests.support.fileops import is_shared
from tests.support.filesystems import FileSystems
from tests.support.layers import Tree, build
from tests.support.mounts import KernelMount, Mount, Mounts, three_times

CONTENT = random.Random(1).randbytes(100_000)
PAGE = 4096
SIZE = 8 << 20
SOURCES = ["lower", "upper", "copied"]


def _ran(*words: str | Path) -> str:
    """What a program says; it must succeed."""
    ran = subprocess.run(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def _sparse(path: Path) -> None:
    """8 MiB with 4 KiB of data at each half."""
    with open(path, "wb") as file:
        for offset in (0, SIZE // 2):
            file.seek(offset)
            file.write(CONTENT[:PAGE])
        file.truncate(SIZE)


def _with_file(mounts: Mounts[Mount], source: str, fill: Callable[[Path], object]) -> Mount:
    """A mount with "file" in a lower layer, in the upper, or copied up."""

    def layer(root: Path) -> None:
        root.mkdir(exist_ok=True)
        fill(root / "file")

    if source == "upper":
        return mounts({}, upper=layer)
    mount = mounts(layer)
    if source == "copied":
        (mount / "file").chmod(0o640)
    return mount


def _used(path: Path) -> int:
    """Bytes on disk."""
    return path.stat().st_blocks * 512


# cp, tar, dd


@pytest.mark.needs_native
@pytest.mark.parametrize("source", ["lower", "upper"])
@pytest.mark.parametrize("how", ["auto", "always"])
def test_cp_keeps_holes(both: Mounts[Mount], source: str, how: str) -> None:
    mount = _with_file(both, source, _sparse)
    _ran("cp", f"--sparse={how}", "--reflink=never", mount / "file", mount / "copy")
    for when in three_times(mount):
        assert (mount / "copy").read_bytes() == (mount / "file").read_bytes(), when
        assert _used(mount / "copy") <= 4 * PAGE, when
        extents = linux.data_extents(mount / "copy")
        assert extents == [(0, PAGE), (SIZE // 2, SIZE // 2 + PAGE)], when


@pytest.mark.parametrize("source", SOURCES)
def test_cp_out_of_and_into_the_mount(both: Mounts[Mount], directory: Path, source: str) -> None:
    mount = _with_file(both, source, _sparse)
    expected = (mount / "file").read_bytes()
    _ran("cp", mount / "file", directory / "out")
    _ran("cp", directory / "out", mount / "in")
    assert (directory / "out").read_bytes() == expected
    for when in three_times(mount):
        assert (mount / "in").read_bytes() == expected, when


def test_tar_stores_no_holes(both: Mounts[Mount], directory: Path) -> None:
    mount = _with_file(both, "lower", _sparse)
    _ran("tar", "-cSf", directory / "made.tar", "-C", mount.path, "file")
    assert (directory / "made.tar").stat().st_size < 1 << 20
    (mount / "dir").mkdir()
    _ran("tar", "-xf", directory / "made.tar", "-C", mount / "dir")
    for when in three_times(mount):
        assert (mount / "dir" / "file").read_bytes() == (mount / "file").read_bytes(), when
        assert _used(mount / "dir" / "file") <= 4 * PAGE, when


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("conversion", ["notrunc", "notrunc,sparse", "notrunc,fsync"])
def test_dd_writes_into_the_middle(both: Mounts[Mount], source: str, conversion: str) -> None:
    mount = _with_file(both, source, lambda path: path.write_bytes(CONTENT))
    (mount / "part").write_bytes(b"p" * 5000)
    with open(mount / "file", "rb") as reader:
        assert reader.read() == CONTENT
        words = ["bs=1000", "seek=10", f"conv={conversion}", "status=none"]
        _ran("dd", f"if={mount / 'part'}", f"of={mount / 'file'}", *words)
        expected = CONTENT[:10_000] + b"p" * 5000 + CONTENT[15_000:]
        reader.seek(0)
        assert reader.read() == expected
    for when in three_times(mount):
        assert (mount / "file").read_bytes() == expected, when


@pytest.fixture
def on_xfs(both: Mounts[Mount], filesystems: FileSystems) -> Mount:
    """A mount of a "file" with all its layers on one file system that can share blocks."""
    disk = filesystems.image("xfs", 300)
    layer: Tree = {"file": CONTENT}
    mount = both(build(disk / "lower", layer), upper=build(disk / "upper", {}), work=disk / "work")
    linux.syncfs(mount.changes)
    return mount


@pytest.mark.needs_native
def test_cp_shares_blocks_where_it_can(on_xfs: Mount) -> None:
    _ran("cp", on_xfs / "file", on_xfs / "copy")
    _ran("cp", on_xfs / "copy", on_xfs / "again")
    for name in ("copy", "again"):
        assert is_shared(on_xfs.changes / name)
    (on_xfs / "copy").write_bytes(b"other")
    for when in three_times(on_xfs):
        assert (on_xfs / "again").read_bytes() == (on_xfs / "file").read_bytes() == CONTENT, when


def test_cp_that_insists_on_sharing(on_xfs: Mount) -> None:
    """The kernel's FUSE has no such call: cp is told so, and leaves an empty file, as ever."""
    ran = subprocess.run(
        ["cp", "--reflink=always", on_xfs / "file", on_xfs / "copy"],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if isinstance(on_xfs, KernelMount):
        assert ran.returncode == 0
        assert is_shared(on_xfs.changes / "copy")
    else:
        assert "Operation not supported" in ran.stderr
        assert (on_xfs / "copy").stat().st_size == 0


# fallocate


@pytest.mark.needs_native
@pytest.mark.parametrize("source", SOURCES)
def test_fallocate_digs_holes(both: Mounts[Mount], source: str) -> None:
    content = CONTENT[:PAGE] + bytes(100 * PAGE) + CONTENT[:100]
    mount = _with_file(both, source, lambda path: path.write_bytes(content))
    with open(mount / "file", "rb") as reader:
        assert reader.read() == content
        _ran("fallocate", "--dig-holes", mount / "file")
        reader.seek(0)
        assert reader.read() == content
    for when in three_times(mount):
        assert (mount / "file").read_bytes() == content, when
        assert linux.data_extents(mount / "file") == [(0, PAGE), (101 * PAGE, len(content))], when
        assert _used(mount / "file") <= 3 * PAGE, when


@pytest.mark.needs_native
@pytest.mark.parametrize("source", SOURCES)
def test_fallocate_in_other_ways(both: Mounts[Mount], source: str) -> None:
    mount = _with_file(both, source, lambda path: path.write_bytes(CONTENT))
    file, end = mount / "file", len(CONTENT)
    _ran("fallocate", "--length", f"{2 * end}", file)
    expected = CONTENT + bytes(end)
    assert file.read_bytes() == expected
    _ran("fallocate", "--keep-size", "--offset", f"{2 * end}", "--length", "1MiB", file)
    assert file.read_bytes() == expected
    assert _used(file) > 1 << 20
    _ran("fallocate", "--punch-hole", "--offset", "100", "--length", "10000", file)
    expected = expected[:100] + bytes(10_000) + expected[10_100:]
    assert file.read_bytes() == expected
    _ran("fallocate", "--zero-range", "--offset", "20000", "--length", f"{2 * end}", file)
    expected = expected[:20_000] + bytes(2 * end)
    _ran("fallocate", "--posix", "--length", f"{3 * end}", file)
    expected = expected.ljust(3 * end, b"\0")
    for when in three_times(mount):
        assert file.read_bytes() == expected, when


# A database


def _database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE t (number INTEGER PRIMARY KEY, text TEXT)")
        connection.executemany("INSERT INTO t (text) VALUES (?)", [("x" * 500,)] * 600)


@contextmanager
def _connected(path: Path, mapped: int, *, read_only: bool = False) -> Iterator[sqlite3.Connection]:
    mode = "ro" if read_only else "rw"
    with closing(sqlite3.connect(f"file:{path}?mode={mode}", uri=True)) as connection:
        connection.execute(f"PRAGMA mmap_size={mapped}")
        yield connection


def _state(connection: sqlite3.Connection) -> tuple[str, int, int]:
    (check,) = connection.execute("PRAGMA integrity_check").fetchone()
    return check, *connection.execute("SELECT count(*), total(length(text)) FROM t").fetchone()


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    ("journal", "mapped"), [("delete", 0), ("truncate", 1 << 30), ("wal", 0), ("wal", 1 << 30)]
)
def test_sqlite(both: Mounts[Mount], source: str, journal: str, mapped: int) -> None:
    """A reader that was there first, by reading or by a map, sees what a writer commits."""
    mount = _with_file(both, source, _database)
    kernel_keeps_old_maps = isinstance(mount, KernelMount) and source == "lower"
    with (
        _connected(
            mount / "file", 0 if kernel_keeps_old_maps else mapped, read_only=True
        ) as reader,
        _connected(mount / "file", mapped) as writer,
    ):
        assert _state(reader) == ("ok", 600, 300_000)
        assert writer.execute(f"PRAGMA journal_mode={journal}").fetchone() == (journal,)
        with writer:
            writer.execute("UPDATE t SET text = ?", ("y" * 700,))
        assert _state(reader) == _state(writer) == ("ok", 600, 420_000)
        with writer:
            writer.execute("DELETE FROM t WHERE number % 2")
        assert _state(reader) == _state(writer) == ("ok", 300, 210_000)
        writer.execute("VACUUM")
        assert _state(reader) == _state(writer) == ("ok", 300, 210_000)
        writer.execute("BEGIN")
        writer.execute("DELETE FROM t")
        writer.rollback()
        assert _state(reader) == ("ok", 300, 210_000)
    for when in three_times(mount):
        with _connected(mount / "file", mapped) as connection:
            assert _state(connection) == ("ok", 300, 210_000), when
