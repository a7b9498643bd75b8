"""Allocating, punching, seeking and copying inside files, as on the file system below.

Each is done to a file in the mount and to its like beside it, and both must look the same. That a
file was looked at before, even before its copy-up, must not matter.
"""

import errno
import os
import random
import resource
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import linux
from tests.support.fileops import (
    COLLAPSE_RANGE,
    INSERT_RANGE,
    KEEP_SIZE,
    PUNCH_HOLE,
    UNSHARE_RANGE,
    ZERO_RANGE,
    fallocate,
    is_shared,
)
from tests.support.filesystems import FileSystems
from tests.support.layers import OLD, File, Tree, build
from tests.support.maps import Map
from tests.support.mounts import KernelMount, Mount, Mounts, UnionMount, three_times

PAGE = 4096
CONTENT = random.Random(1).randbytes(5 * PAGE + 100)
END = len(CONTENT)
LARGE = CONTENT + random.Random(2).randbytes(2 << 20)
SOURCES = ["lower", "upper", "copied"]
WRITING = [os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND]


def _with_files(mounts: Mounts[Mount], source: str, layer: Tree) -> Mount:
    """A mount with files that lie in a lower layer or in the upper, or were copied up."""
    if source == "upper":
        return mounts({}, upper=layer)
    mount = mounts(layer)
    if source == "copied":
        for name in layer:
            os.setxattr(mount / name, "user.copied", b"up")
    return mount


def _answer(call: Callable[..., object], *arguments: object, **named: object) -> object:
    """What a call gives: its result, or the name of its error."""
    try:
        return call(*arguments, **named)
    except OSError as error:
        return errno.errorcode[error.errno or 0]


class _Readers:
    """Who looked at a file before it is changed: a descriptor that was read, and a map."""

    def __init__(self, mount: Mount, name: str) -> None:
        self._mount = mount
        self._path, self._upper = mount / name, mount.changes / name
        # What the kernel copies up stays as it was in maps that are older.
        self._map_follows = not isinstance(mount, KernelMount) or self._upper.exists()
        self._descriptor = os.open(self._path, os.O_RDONLY)
        size = os.fstat(self._descriptor).st_size
        self._map = Map(self._descriptor, size)
        assert os.pread(self._descriptor, size, 0) == self._map.read(0, size)

    def agree(self, expected: bytes) -> None:
        """Everybody who looks now sees this content, whichever way."""
        size = len(expected)
        assert self._path.stat().st_size == os.fstat(self._descriptor).st_size == size
        assert os.pread(self._descriptor, size + 1, 0) == expected
        assert self._path.read_bytes() == expected
        if size:
            with linux.opened(self._path) as descriptor:
                new = Map(descriptor, size)
            assert new.read(0, size) == expected
            new.close()
        if self._map_follows:
            common = min(size, self._map.size)
            assert self._map.read(0, common) == expected[:common]
        assert self._upper.read_bytes() == expected
        # What is written but not on the disk yet may come to need a block more, or less.
        difference = self._path.stat().st_blocks - self._upper.stat().st_blocks
        assert abs(difference) <= 2 * PAGE // 512

    def close(self) -> None:
        self._map.close()
        os.close(self._descriptor)


@contextmanager
def _readers(mount: Mount, name: str = "file") -> Iterator[_Readers]:
    readers = _Readers(mount, name)
    try:
        yield readers
    finally:
        readers.close()


def _below(mount: Mount, name: str) -> Path:
    """The file that a file of the mount is."""
    upper = mount.changes / name
    return upper if upper.exists() else mount.layers[0] / name


def _assert_alike(mount: Mount, plain: Path, names: Mapping[str, object]) -> None:
    """What is in the mount and what is beside it look the same, at every time."""
    linux.syncfs(plain)
    for when in three_times(mount):
        for name in names:
            one, other = mount / name, plain / name
            assert one.read_bytes() == other.read_bytes(), (name, when)
            # Of ranges of zeros a file system makes data or holes, as it suits it.
            assert linux.data_extents(one) == linux.data_extents(_below(mount, name)), (name, when)
            was, like = one.stat(), other.stat()
            assert (was.st_mtime_ns == OLD) == (like.st_mtime_ns == OLD), (name, when)
            # A block more where marks don't fit into the inode, or extents.
            assert abs(was.st_blocks - like.st_blocks) <= 2 * PAGE // 512, (name, when)


# Allocating


@pytest.fixture(params=[CONTENT, LARGE], ids=["small", "large"])
def content(request: pytest.FixtureRequest) -> bytes:
    """What is in a file: drivers may treat large ones otherwise."""
    given: bytes = request.param
    return given


def _calls(end: int) -> dict[str, tuple[int, int, int]]:
    """fallocate(2) in all that it can do to a file of this size without moving its content."""
    return {
        "more": (0, 0, 3 * end),
        "far": (0, end + 10 * PAGE, 2 * PAGE),
        "what is there": (0, PAGE, PAGE),
        "behind the end": (KEEP_SIZE, end, 10 * PAGE),
        "inside, the size kept": (KEEP_SIZE, 0, end),
        "punch": (PUNCH_HOLE | KEEP_SIZE, PAGE, 2 * PAGE),
        "punch parts of pages": (PUNCH_HOLE | KEEP_SIZE, 1000, 3 * PAGE),
        "punch in a page": (PUNCH_HOLE | KEEP_SIZE, PAGE + 10, 20),
        "punch over the end": (PUNCH_HOLE | KEEP_SIZE, end - PAGE - 1, 100 * PAGE),
        "punch all": (PUNCH_HOLE | KEEP_SIZE, 0, end),
        "punch behind the end": (PUNCH_HOLE | KEEP_SIZE, end + 10 * PAGE, PAGE),
        "zero": (ZERO_RANGE, PAGE, 2 * PAGE),
        "zero parts of pages": (ZERO_RANGE, 1000, 3 * PAGE),
        "zero over the end": (ZERO_RANGE, end - 200, 3 * PAGE),
        "zero over the end, the size kept": (ZERO_RANGE | KEEP_SIZE, end - 200, 3 * PAGE),
    }


@pytest.mark.needs_native
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("access", WRITING)
def test_fallocate(
    both: Mounts[Mount], directory: Path, source: str, access: int, content: bytes
) -> None:
    calls = _calls(len(content))
    layer = dict.fromkeys(calls, content)
    mount = _with_files(both, source, layer)
    plain = build(directory / "plain", layer)
    for name, call in calls.items():
        with (
            _readers(mount, name) as readers,
            linux.opened(mount / name, access) as descriptor,
            linux.opened(plain / name, access) as like,
        ):
            fallocate(descriptor, *call)
            fallocate(like, *call)
            assert os.fstat(descriptor).st_size == os.fstat(like).st_size, name
            readers.agree((plain / name).read_bytes())
    _assert_alike(mount, plain, calls)
    if source != "upper":
        assert {(mount.layers[0] / name).read_bytes() for name in calls} == {content}


@pytest.mark.needs_native
@pytest.mark.parametrize("source", SOURCES)
def test_fallocate_in_the_order_of_writes(both: Mounts[Mount], source: str, content: bytes) -> None:
    """Writes, through a descriptor and through a map, before and after count as they came."""
    end = len(content)
    mount = _with_files(both, source, {"file": content})
    expected = bytearray(content)
    with _readers(mount) as readers, linux.opened(mount / "file", os.O_RDWR) as descriptor:
        view = Map(descriptor, end, writable=True)
        for number, mode in enumerate([PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE] * 3):
            page = number % 3 * PAGE
            expected[page : page + 2 * PAGE] = bytes(2 * PAGE)
            view.write(page + 10, b"mapped, to be lost")
            view.write(4 * PAGE, b"mapped%d" % number)
            expected[4 * PAGE : 4 * PAGE + 7] = b"mapped%d" % number
            os.pwrite(descriptor, b"written, to be lost", page + PAGE)
            fallocate(descriptor, mode, page, 2 * PAGE)
            assert view.read(0, end) == expected
            view.write(page + 7, b"mapped")
            os.pwrite(descriptor, b"written", page + PAGE - 3)
            expected[page + 7 : page + 13] = b"mapped"
            expected[page + PAGE - 3 : page + PAGE + 4] = b"written"
            view.sync()
            readers.agree(bytes(expected))
        view.close()
    for when in three_times(mount):
        assert (mount / "file").read_bytes() == expected, when


_WRONG = {
    "before the beginning": (0, -1, 5),
    "nothing": (0, 0, 0),
    "less than nothing": (0, 0, -1),
    "too far": (0, 1 << 62, 1 << 62),
    "as far as numbers go": (0, (1 << 63) - 1, 1),
    "further than the file system goes": (0, 1 << 60, PAGE),
    "a hole that changes the size": (PUNCH_HOLE, 0, PAGE),
    "a hole of zeros": (PUNCH_HOLE | ZERO_RANGE | KEEP_SIZE, 0, PAGE),
    "a reserved mode": (0x4, 0, PAGE),
    "an unknown mode": (0x4000, 0, PAGE),
    "moving with the size kept": (COLLAPSE_RANGE | KEEP_SIZE, 0, PAGE),
}


@pytest.mark.needs_native
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("access", [os.O_RDONLY, *WRITING])
def test_what_cannot_be_allocated(
    both: Mounts[Mount], directory: Path, source: str, access: int
) -> None:
    mount = _with_files(both, source, {"file": CONTENT})
    plain = build(directory / "plain", {"file": CONTENT})
    with (
        linux.opened(mount / "file", access) as descriptor,
        linux.opened(plain / "file", access) as like,
    ):
        for name, call in {**_WRONG, **(_calls(END) if access == os.O_RDONLY else {})}.items():
            expected = _answer(fallocate, like, *call)
            assert isinstance(expected, str), name
            assert _answer(fallocate, descriptor, *call) == expected, name
        assert os.fstat(descriptor).st_size == END
    _assert_alike(mount, plain, {"file": ...})


def test_only_files_have_room(both: Mounts[Mount]) -> None:
    mount = both({"dir": {}})
    os.mkfifo(mount / "fifo")
    with linux.opened(mount / "dir") as directory, linux.opened(mount / "fifo", os.O_RDWR) as fifo:
        assert _answer(fallocate, directory, 0, 0, PAGE) == "EBADF"
        assert _answer(fallocate, fifo, 0, 0, PAGE) == "ESPIPE"


@pytest.mark.needs_native
@pytest.mark.parametrize("kind", ["ext4", "xfs", "tmpfs"])
def test_a_full_disk(both: Mounts[Mount], filesystems: FileSystems, kind: str) -> None:
    """ext4 keeps what it has found so far, and all must know of it."""
    disk = (
        filesystems.tmpfs(options="size=8m")
        if kind == "tmpfs"
        else filesystems.image(kind, 300 if kind == "xfs" else 8)
    )
    mount = both({"file": CONTENT}, upper=build(disk / "upper", {}), work=disk / "work")
    with _readers(mount) as readers, linux.opened(mount / "file", os.O_RDWR) as descriptor:
        for mode in (0, KEEP_SIZE):
            with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
                fallocate(descriptor, mode, 0, 1 << 30)
            end = (mount.changes / "file").stat().st_size
            assert end == END or (kind == "ext4" and mode == 0)
            readers.agree(CONTENT.ljust(end, b"\0"))
            os.ftruncate(descriptor, END)
        fallocate(descriptor, 0, 0, 2 * END)
        readers.agree(CONTENT + bytes(END))


@pytest.mark.needs_native
def test_the_limit_of_a_files_size_holds(both: Mounts[Mount]) -> None:
    mount = both({"file": CONTENT})
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    with linux.opened(mount / "file", os.O_WRONLY) as descriptor:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 * END, former[1]))
        try:
            assert _answer(fallocate, descriptor, 0, END, END + 1) == "EFBIG"
            fallocate(descriptor, 0, END, END)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, former)
    for when in three_times(mount):
        assert (mount / "file").read_bytes() == CONTENT + bytes(END), when


_MOVING = {
    "collapse": (COLLAPSE_RANGE, PAGE, 2 * PAGE),
    "insert": (INSERT_RANGE, PAGE, 2 * PAGE),
}


def test_ranges_are_not_moved(kernel: Mounts[Mount], union: Mounts[UnionMount]) -> None:
    """The kernel's FUSE refuses what would move data, or unshare it, before we are asked."""
    mount, oracle = union({"file": CONTENT}), kernel(dict.fromkeys(_MOVING, CONTENT))
    with _readers(mount) as readers, linux.opened(mount / "file", os.O_RDWR) as descriptor:
        for name, call in {**_MOVING, "unshare": (UNSHARE_RANGE, 0, END)}.items():
            assert _answer(fallocate, descriptor, *call) == "ENOTSUP", name
        # Any change of its own would have the kernel ask for the copy's blocks.
        os.utime(descriptor)
        readers.agree(CONTENT)
    for name, call in _MOVING.items():
        with linux.opened(oracle / name, os.O_RDWR) as descriptor:
            fallocate(descriptor, *call)
    assert (oracle / "collapse").read_bytes() == CONTENT[:PAGE] + CONTENT[3 * PAGE :]
    assert (oracle / "insert").read_bytes() == CONTENT[:PAGE] + bytes(2 * PAGE) + CONTENT[PAGE:]


def _allocate(target: int, _: int) -> None:
    fallocate(target, 0, 0, 2 * END)


def _zero(target: int, _: int) -> None:
    fallocate(target, ZERO_RANGE, 0, PAGE)


def _copy(target: int, source: int) -> None:
    assert os.copy_file_range(source, target, PAGE, 0, 0) == PAGE


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(_allocate, marks=pytest.mark.needs_native),
        pytest.param(_zero, marks=pytest.mark.needs_native),
        _copy,
    ],
)
def test_a_change_of_content_takes_privileges(
    both: Mounts[Mount], change: Callable[[int, int], None]
) -> None:
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    program = File(CONTENT, mode=0o6777, xattrs={"security.capability": capability})
    mount = both({"file": program, "source": CONTENT})
    with (
        linux.user(1000),
        linux.opened(mount / "file", os.O_RDWR) as target,
        linux.opened(mount / "source") as source,
    ):
        change(target, source)
    for when in three_times(mount):
        assert stat.S_IMODE((mount / "file").stat().st_mode) == 0o777, when
        assert os.listxattr(mount / "file") == [], when


# Seeking


_DATA_AT = (2, 3, 10, 300)
_PAGES = 400


def _sparse(path: Path) -> None:
    with open(path, "wb") as file:
        for page in _DATA_AT:
            file.seek(page * PAGE)
            file.write(CONTENT[:PAGE])
        file.truncate(_PAGES * PAGE + 7)
        os.fsync(file.fileno())


@pytest.mark.needs_native
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("access", [os.O_RDONLY, *WRITING])
def test_seeking_data_and_holes(both: Mounts[Mount], source: str, access: int) -> None:
    def layer(root: Path) -> None:
        root.mkdir(exist_ok=True)
        _sparse(root / "file")

    mount = both({}, upper=layer) if source == "upper" else both(layer)
    if source == "copied":
        (mount / "file").chmod(0o600)
    end = _PAGES * PAGE + 7
    with (
        linux.opened(mount / "file", access) as descriptor,
        linux.opened(_below(mount, "file")) as like,
    ):
        edges = [page * PAGE for page in (0, 2, 3, 4, 10, 11, 300, 301, _PAGES)]
        places = {edge + step for edge in edges for step in (-1, 0, 1)}
        for place in sorted(places | {end - 1, end, end + 1, 1 << 40, 1 << 62}):
            for whence in (os.SEEK_DATA, os.SEEK_HOLE):
                expected = _answer(os.lseek, like, place, whence)
                answer = _answer(os.lseek, descriptor, place, whence)
                assert answer == expected, (place, whence)
        # A failed one moves nothing, and a good one is where the next read begins.
        assert os.lseek(descriptor, 300 * PAGE, os.SEEK_DATA) == 300 * PAGE
        assert _answer(os.lseek, descriptor, end, os.SEEK_DATA) == "ENXIO"
        assert os.lseek(descriptor, 0, os.SEEK_CUR) == 300 * PAGE
        if access in (os.O_RDONLY, os.O_RDWR):
            assert os.read(descriptor, PAGE) == CONTENT[:PAGE]
    if source != "copied" and access == os.O_RDONLY:
        pages = [(2, 4), (10, 11), (300, 301)]
        expected_extents = [(start * PAGE, stop * PAGE) for start, stop in pages]
        for when in three_times(mount):
            assert linux.data_extents(mount / "file") == expected_extents, when


@pytest.mark.needs_native
@pytest.mark.parametrize("size", [0, 1, PAGE])
def test_seeking_where_all_is_data_or_all_a_hole(both: Mounts[Mount], size: int) -> None:
    mount = both({"data": b"d" * size, "hole": File(size=size)})
    for when in three_times(mount):
        assert linux.data_extents(mount / "data") == ([(0, size)] if size else []), when
        assert linux.data_extents(mount / "hole") == [], when


@pytest.mark.needs_native
def test_seeking_by_a_descriptor_that_is_older_than_the_copy(both: Mounts[Mount]) -> None:
    mount = both({"file": File(size=100 * PAGE)})
    with linux.opened(mount / "file") as reader:
        assert _answer(os.lseek, reader, 0, os.SEEK_DATA) == "ENXIO"
        with linux.opened(mount / "file", os.O_WRONLY) as writer:
            os.pwrite(writer, b"data", 50 * PAGE)
            assert os.lseek(reader, 0, os.SEEK_DATA) == 50 * PAGE
            os.ftruncate(writer, 150 * PAGE)
            assert os.lseek(reader, 0, os.SEEK_HOLE) == 0
            assert os.lseek(reader, 140 * PAGE, os.SEEK_HOLE) == 140 * PAGE
            fallocate(writer, PUNCH_HOLE | KEEP_SIZE, 0, 150 * PAGE)
            assert _answer(os.lseek, reader, 0, os.SEEK_DATA) == "ENXIO"


@pytest.mark.needs_native
def test_seeking_while_somebody_may_write_by_a_map(both: Mounts[Mount]) -> None:
    """Holes may be hidden; data never is."""
    mount = both({"file": File(size=100 * PAGE)})
    with (
        linux.opened(mount / "file") as reader,
        linux.opened(mount / "file", os.O_RDWR) as writer,
    ):
        os.pwrite(writer, b"data", 50 * PAGE)
        assert os.lseek(reader, 0, os.SEEK_DATA) <= 50 * PAGE
        assert os.lseek(reader, 50 * PAGE, os.SEEK_DATA) == 50 * PAGE
        assert os.lseek(reader, 50 * PAGE, os.SEEK_HOLE) >= 51 * PAGE
    for when in three_times(mount):
        assert linux.data_extents(mount / "file") == [(50 * PAGE, 51 * PAGE)], when


@pytest.mark.needs_native
@pytest.mark.parametrize("source", SOURCES)
def test_what_a_map_has_and_the_disk_has_not_is_data(both: Mounts[Mount], source: str) -> None:
    """Who copies what is found this way, as cp and tar do, would lose it."""
    mount = _with_files(both, source, {"file": File(size=100 * PAGE)})
    with linux.opened(mount / "file", os.O_RDWR) as writer:
        view = Map(writer, 100 * PAGE, writable=True)
    view.write(50 * PAGE + 5, b"mapped")
    with linux.opened(mount / "file") as reader:
        assert os.lseek(reader, 0, os.SEEK_DATA) <= 50 * PAGE + 5
        assert os.lseek(reader, 50 * PAGE + 5, os.SEEK_DATA) == 50 * PAGE + 5
        assert os.lseek(reader, 50 * PAGE + 5, os.SEEK_HOLE) > 50 * PAGE + 5
    view.close()
    for when in three_times(mount):
        assert linux.data_extents(mount / "file") == [(50 * PAGE, 51 * PAGE)], when


# Copying


@pytest.mark.parametrize("origin", SOURCES)
@pytest.mark.parametrize("source", SOURCES)
def test_copying_from_file_to_file(
    both: Mounts[Mount], source: str, origin: str, content: bytes
) -> None:
    """`source` is where the target lies before, `origin` where what is copied lies."""
    end = len(content)
    files = {"file": content, "origin": content[::-1]}
    lower = {
        name: files[name]
        for name, where in [("file", source), ("origin", origin)]
        if where != "upper"
    }
    mount = both(lower, upper={name: files[name] for name in files if name not in lower})
    for name, where in [("file", source), ("origin", origin)]:
        if where == "copied":
            (mount / name).chmod(0o640)
    expected = bytearray(content)
    with (
        _readers(mount) as readers,
        linux.opened(mount / "origin") as taken,
        linux.opened(mount / "file", os.O_RDWR) as target,
    ):
        for start, size, to in [
            (0, PAGE, PAGE),
            (PAGE, 2 * PAGE, 0),
            (10, 1, 20),
            (1000, 5000, 3),
            (end - 10, 10, end),
            (5, 0, 7),
            (0, end, end + 2 * PAGE + 1),
        ]:
            expected.extend(bytes(max(0, to + size - len(expected)) if size else 0))
            assert os.copy_file_range(taken, target, size, start, to) == size
            expected[to : to + size] = files["origin"][start : start + size]
            readers.agree(bytes(expected))
        # Where a source ends, so does the copy.
        assert os.copy_file_range(taken, target, 100, end - 3, 0) == 3
        expected[:3] = files["origin"][-3:]
        for start in (end, end + 1, 1 << 40):
            assert os.copy_file_range(taken, target, 100, start, 0) == 0
        readers.agree(bytes(expected))
    for when in three_times(mount):
        assert (mount / "file").read_bytes() == expected, when
        assert (mount / "origin").read_bytes() == files["origin"], when
        assert (mount / "origin").stat().st_mtime_ns == OLD, when
        assert (mount / "file").stat().st_mtime_ns != OLD, when
    assert origin != "lower" or not (mount.changes / "origin").exists()


@pytest.mark.parametrize("source", SOURCES)
def test_copying_moves_the_places_of_both_descriptors(both: Mounts[Mount], source: str) -> None:
    mount = _with_files(both, source, {"file": CONTENT, "origin": CONTENT[::-1]})
    with (
        linux.opened(mount / "origin") as taken,
        linux.opened(mount / "file", os.O_RDWR) as target,
    ):
        os.lseek(taken, 100, os.SEEK_SET)
        os.lseek(target, 200, os.SEEK_SET)
        assert os.copy_file_range(taken, target, 50) == 50
        assert os.lseek(taken, 0, os.SEEK_CUR) == 150
        assert os.lseek(target, 0, os.SEEK_CUR) == 250
        assert os.copy_file_range(taken, target, 50, offset_src=0) == 50
        assert os.lseek(taken, 0, os.SEEK_CUR) == 150
        assert os.lseek(target, 0, os.SEEK_CUR) == 300
    moved = CONTENT[::-1]
    expected = CONTENT[:200] + moved[100:150] + moved[:50] + CONTENT[300:]
    for when in three_times(mount):
        assert (mount / "file").read_bytes() == expected, when


@pytest.mark.parametrize("source", SOURCES)
def test_copying_inside_one_file(both: Mounts[Mount], source: str, content: bytes) -> None:
    end = len(content)
    mount = _with_files(both, source, {"file": content})
    with _readers(mount) as readers, linux.opened(mount / "file", os.O_RDWR) as descriptor:
        with linux.opened(mount / "file") as other:
            assert os.copy_file_range(other, descriptor, PAGE, 0, 3 * PAGE) == PAGE
        expected = content[: 3 * PAGE] + content[:PAGE] + content[4 * PAGE :]
        readers.agree(expected)
        assert os.copy_file_range(descriptor, descriptor, end, 0, end) == end
        readers.agree(expected * 2)
        for start, to in [(0, 0), (0, PAGE), (PAGE, 0), (0, end - 1)]:
            answer = _answer(os.copy_file_range, descriptor, descriptor, end, start, to)
            assert answer == "EINVAL", (start, to)
        readers.agree(expected * 2)


def test_copying_takes_the_newest_of_the_source(both: Mounts[Mount], content: bytes) -> None:
    """What it is changed to after it was opened, also by a map that is not synced."""
    end = len(content)
    mount = both({"origin": content, "file": ""})
    with (
        linux.opened(mount / "origin") as taken,
        linux.opened(mount / "file", os.O_RDWR) as target,
    ):
        assert os.pread(taken, end, 0) == content
        with linux.opened(mount / "origin", os.O_RDWR) as writer:
            os.pwrite(writer, b"written", 10)
            view = Map(writer, end, writable=True)
            view.write(PAGE, b"mapped")
            assert os.copy_file_range(taken, target, end, 0, 0) == end
            view.close()
        expected = content[:10] + b"written" + content[17:PAGE] + b"mapped" + content[PAGE + 6 :]
        assert os.pread(target, end, 0) == expected
    for when in three_times(mount):
        assert (mount / "origin").read_bytes() == (mount / "file").read_bytes() == expected, when


def test_copying_over_what_a_map_wrote(both: Mounts[Mount], content: bytes) -> None:
    end = len(content)
    mount = both({"origin": content}, upper={"file": bytes(end)})
    with (
        linux.opened(mount / "origin") as taken,
        linux.opened(mount / "file", os.O_RDWR) as target,
    ):
        view = Map(target, end, writable=True)
        view.write(10, b"to be lost")
        view.write(PAGE + 10, b"kept")
        assert os.copy_file_range(taken, target, PAGE, 0, 0) == PAGE
        expected = content[:PAGE] + bytes(10) + b"kept" + bytes(end - PAGE - 14)
        assert view.read(0, end) == os.pread(target, end, 0) == expected
        view.write(5, b"mapped")
        view.sync()
        expected = expected[:5] + b"mapped" + expected[11:]
        assert os.pread(target, end, 0) == (mount.changes / "file").read_bytes() == expected
        view.close()
    for when in three_times(mount):
        assert (mount / "file").read_bytes() == expected, when


def test_what_cannot_be_copied(both: Mounts[Mount]) -> None:
    mount = both({"origin": CONTENT, "file": CONTENT, "dir": {}})
    opened: dict[str, tuple[Path, int]] = {
        "reads": (mount / "origin", os.O_RDONLY),
        "writes": (mount / "file", os.O_WRONLY),
        "appends": (mount / "file", os.O_WRONLY | os.O_APPEND),
        "writes origin": (mount / "origin", os.O_WRONLY),
        "reads file": (mount / "file", os.O_RDONLY),
        "dir": (mount / "dir", os.O_RDONLY),
        "null": (Path("/dev/null"), os.O_RDWR),
    }
    descriptors = {name: os.open(path, flags) for name, (path, flags) in opened.items()}
    for source, target, start, to, expected in [
        ("reads", "reads file", 0, 0, "EBADF"),
        ("reads", "appends", 0, 0, "EBADF"),
        ("writes origin", "writes", 0, 0, "EBADF"),
        ("dir", "writes", 0, 0, "EISDIR"),
        ("reads", "dir", 0, 0, "EISDIR"),
        ("null", "writes", 0, 0, "EINVAL"),
        ("reads", "null", 0, 0, "EINVAL"),
        ("reads", "writes", 0, (1 << 63) - 1, "EFBIG"),
        ("reads", "writes", 0, (1 << 63) - PAGE, "EFBIG"),
        ("reads", "writes", 0, 1 << 60, "EFBIG"),
    ]:
        one, other = descriptors[source], descriptors[target]
        answer = _answer(os.copy_file_range, one, other, 10, start, to)
        assert answer == expected, (source, target, to)
    for descriptor in descriptors.values():
        os.close(descriptor)
    for when in three_times(mount):
        assert (mount / "file").read_bytes() == CONTENT, when


def test_copying_to_another_mount(both: Mounts[Mount], directory: Path) -> None:
    """To one of the same kind the kernel copies by itself; programs do it to other kinds."""
    mount, other = both({"file": CONTENT}), both({"file": "content"})
    with linux.opened(mount / "file") as taken:
        with linux.opened(other / "file", os.O_RDWR) as target:
            assert os.copy_file_range(taken, target, END, 0, PAGE) == END
            expected = b"content".ljust(PAGE, b"\0") + CONTENT
            assert os.pread(target, 2 * END, 0) == expected
        with linux.opened(directory / "plain", os.O_CREAT | os.O_RDWR) as plain:
            assert _answer(os.copy_file_range, taken, plain, END, 0, 0) == "EXDEV"
            assert _answer(os.copy_file_range, plain, taken, END, 0, 0) == "EBADF"
    for when in three_times(other):
        assert (other / "file").read_bytes() == expected, when


@pytest.mark.kernel_differs("copies nothing from one file system to another")
def test_copying_from_a_layer_on_another_file_system(
    both: Mounts[Mount], filesystems: FileSystems
) -> None:
    disk = filesystems.tmpfs()
    mount = both({"origin": CONTENT}, upper=build(disk / "upper", {}), work=disk / "work")
    with (
        linux.opened(mount / "origin") as taken,
        linux.opened(mount / "file", os.O_CREAT | os.O_RDWR) as target,
    ):
        assert os.copy_file_range(taken, target, 2 * END, 0, 0) == END
    for when in three_times(mount):
        assert (mount / "file").read_bytes() == CONTENT, when


@pytest.mark.parametrize("kind", ["ext4", "tmpfs"])
def test_a_copy_finds_no_room(both: Mounts[Mount], filesystems: FileSystems, kind: str) -> None:
    disk = filesystems.image(kind, 8) if kind == "ext4" else filesystems.tmpfs(options="size=8m")
    content = random.Random(2).randbytes(1 << 20)
    mount = both({}, upper=build(disk / "upper", {"origin": content}), work=disk / "work")

    def copy_on() -> None:
        while True:
            end = os.fstat(target).st_size
            assert os.copy_file_range(taken, target, 1 << 20, 0, end) > 0

    with (
        linux.opened(mount / "origin") as taken,
        linux.opened(mount / "file", os.O_CREAT | os.O_RDWR) as target,
    ):
        assert _answer(copy_on) == "ENOSPC"
        end = os.fstat(target).st_size
        assert end > 1 << 20
    for when in three_times(mount):
        assert (mount / "file").read_bytes() == (content * 8)[:end], when


@pytest.fixture
def on_xfs(both: Mounts[Mount], filesystems: FileSystems) -> Callable[..., Mount]:
    """Mounts with all their layers on one file system that can share blocks."""
    disk = filesystems.image("xfs", 300)

    def mount(lower: Tree) -> Mount:
        return both(
            build(disk / "lower", lower), upper=build(disk / "upper", {}), work=disk / "work"
        )

    return mount


@pytest.mark.needs_native
def test_copies_share_blocks_where_the_file_system_can(on_xfs: Callable[..., Mount]) -> None:
    content = random.Random(3).randbytes(1 << 20)
    mount = on_xfs({"file": content})
    linux.syncfs(mount.changes)
    for taken, made in [("file", "one"), ("one", "two")]:
        with (
            linux.opened(mount / taken) as source,
            linux.opened(mount / made, os.O_CREAT | os.O_RDWR) as target,
        ):
            assert os.copy_file_range(source, target, 2 << 20, 0, 0) == 1 << 20
            assert os.pread(target, 2 << 20, 0) == content
        assert is_shared(mount.changes / made)
    with linux.opened(mount / "one", os.O_RDWR) as target:
        os.pwrite(target, b"changed", 0)
    for when in three_times(mount):
        assert (mount / "two").read_bytes() == (mount / "file").read_bytes() == content, when
        assert (mount / "one").read_bytes() == b"changed" + content[7:], when


@pytest.mark.needs_native
def test_copies_of_more_than_4_gib(on_xfs: Callable[..., Mount]) -> None:
    size = (5 << 30) + 10
    mount = on_xfs({"file": File(b"begin", size=size)})
    with (
        linux.opened(mount / "file") as source,
        linux.opened(mount / "copy", os.O_CREAT | os.O_RDWR) as target,
    ):
        while copied := os.copy_file_range(source, target, size):
            assert copied <= size
        assert os.fstat(target).st_size == size
    for when in three_times(mount):
        with linux.opened(mount / "copy") as copy:
            assert os.pread(copy, 10, 0) == b"begin\0\0\0\0\0", when
        assert (mount / "copy").stat().st_size == size, when
        assert (mount / "copy").stat().st_blocks * 512 < 1 << 20, when


# Removed while open


@pytest.mark.needs_native
@pytest.mark.parametrize("source", SOURCES)
def test_a_removed_file_is_worked_on_as_before(
    both: Mounts[Mount], source: str, content: bytes
) -> None:
    end = len(content)
    mount = _with_files(both, source, {"file": content, "origin": content[::-1]})
    expected = bytearray(content)
    with (
        linux.opened(mount / "file") as reader,
        linux.opened(mount / "file", os.O_RDWR) as writer,
        linux.opened(mount / "origin") as origin,
    ):
        (mount / "file").unlink()
        (mount / "origin").unlink()
        fallocate(writer, 0, 0, end + PAGE)
        expected.extend(bytes(PAGE))
        fallocate(writer, PUNCH_HOLE | KEEP_SIZE, PAGE, PAGE)
        expected[PAGE : 2 * PAGE] = bytes(PAGE)
        # Who maps the file may have written what is not in it yet: then all of it counts as data.
        assert os.lseek(reader, 0, os.SEEK_HOLE) in (PAGE, len(expected))
        assert os.lseek(reader, PAGE, os.SEEK_DATA) in (2 * PAGE, PAGE)
        assert os.copy_file_range(origin, writer, PAGE, 0, 0) == PAGE
        expected[:PAGE] = content[::-1][:PAGE]
        assert os.copy_file_range(writer, writer, 7, 0, 100) == 7
        expected[100:107] = expected[:7]
        for descriptor in (reader, writer):
            assert os.pread(descriptor, 2 * end, 0) == expected
            assert os.fstat(descriptor).st_size == len(expected)
        # What the kernel copied up is not in maps by descriptors that are older.
        for descriptor in (writer,) if isinstance(mount, KernelMount) else (reader, writer):
            view = Map(descriptor, len(expected))
            assert view.read(0, view.size) == expected
            view.close()
        mount.drop_caches()
        assert os.pread(reader, 2 * end, 0) == expected
    for when in three_times(mount):
        assert os.listdir(mount.path) == [], when


@pytest.mark.needs_native
@pytest.mark.parametrize("source", ["lower", "upper"])
def test_a_replaced_file_and_the_new_one_are_two(
    both: Mounts[Mount], source: str, content: bytes
) -> None:
    end = len(content)
    mount = _with_files(both, source, {"file": content})
    with linux.opened(mount / "file") as old:
        assert os.pread(old, end, 0) == content
        (mount / "new").write_bytes(content[::-1])
        (mount / "new").rename(mount / "file")
        with linux.opened(mount / "file", os.O_RDWR) as new:
            fallocate(new, ZERO_RANGE, 0, PAGE)
            assert os.copy_file_range(old, new, PAGE, 0, 2 * PAGE) == PAGE
            assert os.pread(old, end, 0) == content
    expected = (
        bytes(PAGE) + content[::-1][PAGE : 2 * PAGE] + content[:PAGE] + content[::-1][3 * PAGE :]
    )
    for when in three_times(mount):
        assert (mount / "file").read_bytes() == expected, when


# In any order


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(4 * metafunc.config.getoption("campaign")))


class _Twins:
    """Files in a mount and plain ones; each descriptor has its like."""

    def __init__(self, dice: random.Random, mount: Path, plain: Path) -> None:
        self._dice, self._mount, self._plain = dice, mount, plain
        self._open: list[tuple[int, int]] = []

    def open(self) -> None:
        """Open one more, or another instead of one."""
        if len(self._open) > 6:
            for descriptor in self._open.pop(self._dice.randrange(len(self._open))):
                os.close(descriptor)
        name = self._dice.choice(["one", "two"])
        access = self._dice.choice([os.O_RDONLY, os.O_RDWR, os.O_RDWR])
        self._open.append(
            (os.open(self._mount / name, access), os.open(self._plain / name, access))
        )

    def do(self, call: Callable[[int, int], object]) -> None:
        """Do something to two of the files; the answer must be the same."""
        (one, like_one), (other, like_other) = self._dice.choices(self._open, k=2)
        assert _answer(call, one, other) == _answer(call, like_one, like_other)

    def compare(self) -> None:
        for one, like in self._open:
            size = os.fstat(like).st_size
            assert os.fstat(one).st_size == size
            assert os.pread(one, size + 1, 0) == os.pread(like, size + 1, 0)

    def close(self) -> None:
        for pair in self._open:
            for descriptor in pair:
                os.close(descriptor)


def _any_change(dice: random.Random) -> Callable[[int, int], object]:
    """Something to do to a file, given another one as well."""

    def place() -> int:
        return max(0, dice.randrange(30) * PAGE + dice.choice([0, 0, -1, 1, 1000]))

    start, to, size = place(), place(), 1 + place() // 2
    match dice.randrange(6):
        case 0 | 1:
            mode = dice.choice(
                [0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE]
            )
            return lambda one, _: fallocate(one, mode, start, size)
        case 2 | 3:
            return lambda one, other: os.copy_file_range(other, one, size, start, to)
        case 4:
            return lambda one, _: os.ftruncate(one, start)
        case _:
            data = dice.randbytes(size)
            return lambda one, _: os.pwrite(one, data, start)


@pytest.mark.needs_native
def test_any_changes_in_any_order(
    both: Mounts[Mount], directory: Path, seed: int, content: bytes
) -> None:
    """By several descriptors of two files, against plain files; `--campaign=N` for more seeds."""
    dice = random.Random(seed)
    layer: Tree = {"one": content, "two": File(content[:100], size=20 * PAGE)}
    mount = _with_files(both, dice.choice(SOURCES), layer)
    plain = build(directory / "plain", layer)
    twins = _Twins(dice, mount.path, plain)
    try:
        for number in range(200):
            if number < 3 or not dice.randrange(10):
                twins.open()
            if not dice.randrange(40):
                mount.drop_caches(pages=False)
            twins.do(_any_change(dice))
            twins.compare()
    finally:
        twins.close()
    for when in three_times(mount):
        for name in layer:
            assert (mount / name).read_bytes() == (plain / name).read_bytes(), when
