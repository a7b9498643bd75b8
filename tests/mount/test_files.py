"""Regular files: opening, reading, writing, mapping, running, locking."""

import errno
import fcntl
import hashlib
import mmap
import os
import random
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from tests.support import linux
from tests.support.layers import OLD, WHITEOUT, File, Symlink, Tree
from tests.support.mounts import Mount, Mounts, UnionMount, three_times
from tests.support.snapshots import tree

LAYER: Tree = {"lower": "content", "dir": {}, "link": Symlink("lower"), "dangling": Symlink("none")}
SOURCES = ["lower", "upper"]


def _with_file(mounts: Mounts[Mount], source: str) -> Mount:
    """A mount with a file "file" that lies in a lower layer or in the upper."""
    if source == "lower":
        return mounts({"file": "content"})
    return mounts({}, upper={"file": "content"})


# Opening


FLAGS = [
    0,
    os.O_APPEND,
    os.O_TRUNC,
    os.O_CREAT,
    os.O_CREAT | os.O_TRUNC,
    os.O_CREAT | os.O_APPEND,
    os.O_SYNC,
    os.O_DSYNC,
    os.O_NONBLOCK,
    os.O_NOFOLLOW,
    os.O_NOATIME,
    os.O_CLOEXEC,
]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("access", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR])
def test_open_flags(both: Mounts[Mount], source: str, access: int) -> None:
    layer: Tree = {oct(flags): "content" for flags in FLAGS}
    mount = both(layer) if source == "lower" else both({}, upper=layer)
    expected = {}
    for flags in FLAGS:
        content = b"" if flags & os.O_TRUNC else b"content"
        with linux.opened(mount / oct(flags), access | flags) as descriptor:
            if access == os.O_WRONLY:
                with pytest.raises(OSError, match="Bad file descriptor"):
                    os.read(descriptor, 10)
            else:
                assert os.read(descriptor, 10) == content, oct(flags)
            if access == os.O_RDONLY:
                with pytest.raises(OSError, match="Bad file descriptor"):
                    os.write(descriptor, b"new")
            else:
                os.lseek(descriptor, 0, os.SEEK_SET)
                os.write(descriptor, b"new")
                content = content + b"new" if flags & os.O_APPEND else b"new" + content[3:]
            assert os.fstat(descriptor).st_size == len(content), oct(flags)
        expected[oct(flags)] = content.decode()
    for when in three_times(mount):
        assert tree(mount.path) == expected, when


def test_exclusive_creation_refuses_what_exists(both: Mounts[Mount]) -> None:
    mount = both(LAYER)
    for name in LAYER:
        with pytest.raises(FileExistsError):
            os.open(mount / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY)


def test_exclusive_creation_of_what_was_removed(both: Mounts[Mount]) -> None:
    mount = both({"file": "", "other": ""}, {"other": WHITEOUT})
    (mount / "file").unlink()
    for name in ("file", "other", "new"):
        with linux.opened(mount / name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o640) as descriptor:
            os.write(descriptor, b"made")
    for when in three_times(mount):
        for name in ("file", "other", "new"):
            assert (mount / name).read_text() == "made", when
            assert (mount / name).stat().st_mode & 0o7777 == 0o640, when


def test_creating_through_a_link(both: Mounts[Mount]) -> None:
    mount = both(LAYER)
    (mount / "dangling").write_text("through")
    (mount / "link").write_text("changed")
    for when in three_times(mount):
        assert (mount / "none").read_text() == "through", when
        assert (mount / "lower").read_text() == "changed", when
        assert (mount / "link").is_symlink(), when


def test_what_cannot_be_opened(both: Mounts[Mount]) -> None:
    mount = both(LAYER)
    for name, flags, code in [
        ("none", os.O_RDONLY, errno.ENOENT),
        ("none/deeper", os.O_CREAT | os.O_WRONLY, errno.ENOENT),
        ("lower/deeper", os.O_RDONLY, errno.ENOTDIR),
        ("lower", os.O_RDONLY | os.O_DIRECTORY, errno.ENOTDIR),
        ("dir", os.O_WRONLY, errno.EISDIR),
        ("dir", os.O_RDWR, errno.EISDIR),
        ("dir", os.O_RDONLY | os.O_CREAT, errno.EISDIR),
        ("link", os.O_RDONLY | os.O_NOFOLLOW, errno.ELOOP),
        ("dangling", os.O_RDONLY, errno.ENOENT),
    ]:
        with pytest.raises(OSError, match=r".") as caught:
            os.open(mount / name, flags)
        assert caught.value.errno == code, (name, oct(flags))
    assert os.listdir(mount.changes) == []


def test_opening_for_reading_copies_nothing_up(both: Mounts[Mount]) -> None:
    mount = both(LAYER)
    for flags in (os.O_RDONLY, os.O_RDONLY | os.O_APPEND, os.O_PATH):
        with linux.opened(mount / "lower", flags):
            pass
    with linux.opened(mount / "link", os.O_PATH | os.O_NOFOLLOW) as descriptor:
        assert os.readlink(b"", dir_fd=descriptor) == b"lower"
    assert os.listdir(mount.changes) == []


def test_truncating_by_open_takes_no_data_up(both: Mounts[Mount]) -> None:
    mount = both({"file": File(size=1 << 40)})
    with linux.opened(mount / "file", os.O_WRONLY | os.O_TRUNC) as descriptor:
        os.write(descriptor, b"short")
    for when in three_times(mount):
        assert (mount / "file").read_bytes() == b"short", when


@pytest.mark.parametrize("source", SOURCES)
def test_direct_io(both: Mounts[Mount], source: str) -> None:
    content = random.Random(1).randbytes(64 << 10)
    layer: Tree = {"file": content}
    mount = both(layer) if source == "lower" else both({}, upper=layer)
    buffer = mmap.mmap(-1, 4096)
    with linux.opened(mount / "file", os.O_RDWR | os.O_DIRECT) as descriptor:
        assert os.preadv(descriptor, [buffer], 8192) == 4096
        assert buffer[:] == content[8192 : 8192 + 4096]
        buffer[:] = b"d" * 4096
        assert os.pwritev(descriptor, [buffer], 4096) == 4096
    for when in three_times(mount):
        expected = content[:4096] + b"d" * 4096 + content[8192:]
        assert (mount / "file").read_bytes() == expected, when


# Reading and writing


@pytest.mark.parametrize("source", SOURCES)
def test_two_writers_append(both: Mounts[Mount], source: str) -> None:
    mount = _with_file(both, source)
    flags = os.O_WRONLY | os.O_APPEND
    with linux.opened(mount / "file", flags) as one, linux.opened(mount / "file", flags) as other:
        for number in range(5):
            os.write(one, f"+{number}".encode())
            os.lseek(other, 0, os.SEEK_SET)
            os.write(other, f"-{number}".encode())
    for when in three_times(mount):
        assert (mount / "file").read_text() == "content+0-0+1-1+2-2+3-3+4-4", when


@pytest.mark.parametrize("source", SOURCES)
def test_reads_and_writes_anywhere(both: Mounts[Mount], source: str) -> None:
    """Against a plain byte array, with offsets and sizes around pages and requests."""
    dice = random.Random(source)
    content = bytearray(dice.randbytes(300_000))
    layer = {"file": bytes(content)}
    mount = both(layer) if source == "lower" else both({}, upper=layer)
    with linux.opened(mount / "file", os.O_RDWR) as descriptor:
        for _ in range(150):
            offset, size = dice.randrange(400_000), dice.choice([1, 100, 4096, 70_000, 200_000])
            if dice.randrange(2):
                data = dice.randbytes(size)
                assert os.pwrite(descriptor, data, offset) == size
                content.extend(bytes(max(0, offset - len(content))))
                content[offset : offset + size] = data
            else:
                assert os.pread(descriptor, size, offset) == content[offset : offset + size]
    for when in three_times(mount):
        assert (mount / "file").read_bytes() == content, when


def test_reading_at_and_after_the_end(both: Mounts[Mount]) -> None:
    mount = both(LAYER)
    with linux.opened(mount / "lower") as descriptor:
        assert os.pread(descriptor, 10, 6) == b"t"
        assert os.pread(descriptor, 10, 7) == b""
        assert os.pread(descriptor, 10, 1 << 40) == b""


def test_a_file_with_a_hole_beyond_4_gib(both: Mounts[Mount]) -> None:
    mount = both(LAYER)
    far = (1 << 33) + 5
    with linux.opened(mount / "lower", os.O_RDWR) as descriptor:
        os.pwrite(descriptor, b"far", far)
    for when in three_times(mount):
        with linux.opened(mount / "lower") as descriptor:
            assert os.pread(descriptor, 10, 0) == b"content\0\0\0", when
            assert os.pread(descriptor, 10, far - 2) == b"\0\0far", when
            assert os.fstat(descriptor).st_size == far + 3, when
            assert os.fstat(descriptor).st_blocks * 512 < 1 << 20, when


def test_a_big_file(both: Mounts[Mount]) -> None:
    content = random.Random(2).randbytes(1 << 20) * 24
    mount = both({"file": content})
    for when in three_times(mount):
        with open(mount / "file", "rb") as file:
            digest = hashlib.file_digest(file, "sha1").digest()
        assert digest == hashlib.sha1(content).digest(), when
    with linux.opened(mount / "file", os.O_RDWR) as descriptor:
        os.pwrite(descriptor, b"!", 12 << 20)
    for when in three_times(mount):
        expected = content[: 12 << 20] + b"!" + content[(12 << 20) + 1 :]
        assert (mount / "file").read_bytes() == expected, when


def test_copying_inside_the_mount(both: Mounts[Mount]) -> None:
    content = random.Random(3).randbytes(500_000)
    mount = both({"file": content})
    with (
        linux.opened(mount / "file") as source,
        linux.opened(mount / "sent", os.O_CREAT | os.O_WRONLY) as sent,
        linux.opened(mount / "ranged", os.O_CREAT | os.O_WRONLY) as ranged,
    ):
        while os.sendfile(sent, source, None, 1 << 20):
            pass
        os.lseek(source, 0, os.SEEK_SET)
        while os.copy_file_range(source, ranged, 1 << 20):
            pass
    shutil.copy2(mount / "file", mount / "copied")
    for when in three_times(mount):
        for name in ("sent", "ranged", "copied"):
            assert (mount / name).read_bytes() == content, when
        assert (mount / "copied").stat().st_mtime_ns == OLD, when


def test_allocating_ahead(both: Mounts[Mount]) -> None:
    mount = both(LAYER)
    with linux.opened(mount / "lower", os.O_RDWR) as descriptor:
        os.posix_fallocate(descriptor, 0, 100_000)
        assert os.fstat(descriptor).st_size == 100_000
    for when in three_times(mount):
        assert (mount / "lower").read_bytes() == b"content".ljust(100_000, b"\0"), when


def test_seeking_for_data_loses_none(both: Mounts[Mount]) -> None:
    def layer(root: Path) -> None:
        with open(root / "file", "wb") as file:
            file.seek(1 << 20)
            file.write(b"data")
            file.truncate(4 << 20)

    mount = both(layer)
    for when in three_times(mount):
        extents = linux.data_extents(mount / "file")
        assert any(start <= 1 << 20 and end >= (1 << 20) + 4 for start, end in extents), when


@pytest.mark.parametrize("source", SOURCES)
def test_fsync(both: Mounts[Mount], source: str) -> None:
    mount = _with_file(both, source)
    for flags in (os.O_RDONLY, os.O_RDWR):
        with linux.opened(mount / "file", flags) as descriptor:
            if flags == os.O_RDWR:
                os.write(descriptor, b"new")
            os.fsync(descriptor)
            os.fdatasync(descriptor)
    with linux.opened(mount.path) as descriptor:
        os.fsync(descriptor)
        os.fdatasync(descriptor)
    assert (mount / "file").read_text() == "newtent"


# Descriptors that are older than the change


def test_an_old_descriptor_sees_what_another_writes(both: Mounts[Mount]) -> None:
    mount = both({"file": "content"})
    with linux.opened(mount / "file") as reader:
        assert os.pread(reader, 10, 0) == b"content"
        with linux.opened(mount / "file", os.O_RDWR) as writer:
            os.pwrite(writer, b"CHANGED more", 0)
            assert os.pread(reader, 20, 0) == b"CHANGED more"
            mount.drop_caches()
            assert os.pread(reader, 20, 0) == b"CHANGED more"
            os.ftruncate(writer, 4)
            assert os.pread(reader, 20, 0) == b"CHAN"
        mount.drop_caches()
        assert os.pread(reader, 20, 0) == b"CHAN"
        assert os.fstat(reader).st_size == 4


@pytest.mark.parametrize("change", ["write", "truncate", "rename", "chmod"])
def test_an_old_descriptor_sees_a_change_after_the_caches_went(
    both: Mounts[Mount], change: str
) -> None:
    """Nothing was read before: what the descriptor reads first must be the new content."""
    mount = both({"file": "content"})
    with linux.opened(mount / "file") as reader:
        match change:
            case "write":
                (mount / "file").write_text("new")
            case "truncate":
                os.truncate(mount / "file", 3)
            case "rename":
                (mount / "file").rename(mount / "new").write_text("new")
            case "chmod":
                (mount / "file").chmod(0o600)
                (mount / "file").write_text("new")
        mount.drop_caches()
        assert os.pread(reader, 10, 0) == (b"con" if change == "truncate" else b"new")


@pytest.mark.kernel_differs("a shared map of the lower file stays as it was")
def test_an_old_shared_map_sees_what_another_writes(both: Mounts[Mount]) -> None:
    mount = both({"file": "content" + "." * 5000})
    with (
        linux.opened(mount / "file") as reader,
        mmap.mmap(reader, 0, mmap.MAP_SHARED, mmap.PROT_READ) as view,
    ):
        assert view[:7] == b"content"
        with linux.opened(mount / "file", os.O_RDWR) as writer:
            os.pwrite(writer, b"CHANGED", 0)
            os.pwrite(writer, b"CHANGED", 4500)
        assert view[:7] == view[4500:4507] == b"CHANGED"
        mount.drop_caches()
        assert view[:7] == view[4500:4507] == b"CHANGED"


@pytest.mark.kernel_differs("a shared map of the lower file stays as it was")
def test_a_shared_map_made_before_its_first_read_sees_the_change(both: Mounts[Mount]) -> None:
    mount = both({"file": "content" + "." * 5000})
    with linux.opened(mount / "file") as reader:
        view = mmap.mmap(reader, 0, mmap.MAP_SHARED, mmap.PROT_READ)
    with view:
        with linux.opened(mount / "file", os.O_RDWR) as writer:
            os.pwrite(writer, b"CHANGED", 0)
        mount.drop_caches()
        assert view[:7] == b"CHANGED"


# Removed while open


@pytest.mark.parametrize("source", SOURCES)
def test_a_removed_file_lives_on_in_its_descriptors(both: Mounts[Mount], source: str) -> None:
    mount = _with_file(both, source)
    with linux.opened(mount / "file", os.O_RDWR) as descriptor:
        os.pwrite(descriptor, b"C", 0)
        (mount / "file").unlink()
        assert os.fstat(descriptor).st_nlink == 0
        assert not (mount / "file").exists()
        os.pwrite(descriptor, b" and more", 7)
        mount.drop_caches()
        assert os.pread(descriptor, 20, 0) == b"Content and more"
        os.ftruncate(descriptor, 4)
        os.fchmod(descriptor, 0o600)
        os.fsync(descriptor)
        status = os.fstat(descriptor)
        assert (status.st_size, status.st_mode & 0o777, status.st_nlink) == (4, 0o600, 0)
        (mount / "file").write_text("another")
        assert os.pread(descriptor, 20, 0) == b"Cont"
        assert (mount / "file").stat().st_ino != status.st_ino
    for when in three_times(mount):
        assert (mount / "file").read_text() == "another", when
    assert os.listdir(mount.path) == os.listdir(mount.changes) == ["file"]


def test_a_removed_lower_file_can_be_read_on(both: Mounts[Mount]) -> None:
    mount = both({"file": "content"})
    with linux.opened(mount / "file") as descriptor:
        (mount / "file").unlink()
        mount.drop_caches()
        assert os.pread(descriptor, 20, 0) == b"content"
        (mount / "file").mkdir()
        assert os.pread(descriptor, 20, 0) == b"content"


@pytest.mark.parametrize("source", SOURCES)
def test_a_replaced_file_lives_on_in_its_descriptors(both: Mounts[Mount], source: str) -> None:
    mount = _with_file(both, source)
    (mount / "new").write_text("new")
    with linux.opened(mount / "file") as descriptor:
        os.rename(mount / "new", mount / "file")
        mount.drop_caches()
        assert os.pread(descriptor, 20, 0) == b"content"
    for when in three_times(mount):
        assert (mount / "file").read_text() == "new", when


@pytest.mark.kernel_differs("counts the links of the lower file")
@pytest.mark.parametrize("replaced", [False, True])
def test_a_lower_file_that_lost_its_name_has_no_links(both: Mounts[Mount], replaced: bool) -> None:
    mount = both({"file": "content", "other": ""})
    with linux.opened(mount / "file") as descriptor:
        if replaced:
            os.rename(mount / "other", mount / "file")
        else:
            (mount / "file").unlink()
        assert os.fstat(descriptor).st_nlink == 0
        mount.drop_caches()
        assert os.fstat(descriptor).st_nlink == 0


def test_a_removed_file_leaves_nothing_behind(union: Mounts[UnionMount]) -> None:
    mount = union({"file": "content"})
    with linux.opened(mount / "file", os.O_RDWR) as descriptor:
        (mount / "file").unlink()
        os.pwrite(descriptor, b"more", 0)
    mount.remount()
    below = [path for path in mount.work.rglob("*") if not path.is_dir()]
    assert [path for path in below if path.stat().st_size] == []
    assert os.listdir(mount.changes) == ["file"]


# Maps


@pytest.mark.parametrize("source", SOURCES)
def test_a_shared_map_writes_to_the_file(both: Mounts[Mount], source: str) -> None:
    mount = _with_file(both, source)
    with (
        linux.opened(mount / "file", os.O_RDWR) as descriptor,
        mmap.mmap(descriptor, 7) as view,
    ):
        view[:3] = b"CON"
        view.flush()
        assert os.pread(descriptor, 10, 0) == b"CONtent"
        view[3:5] = b"TE"
    for when in three_times(mount):
        assert (mount / "file").read_text() == "CONTEnt", when


@pytest.mark.parametrize("source", SOURCES)
def test_a_private_map_keeps_its_changes(both: Mounts[Mount], source: str) -> None:
    mount = _with_file(both, source)
    with linux.opened(mount / "file") as descriptor:
        flags = {"flags": mmap.MAP_PRIVATE, "prot": mmap.PROT_READ | mmap.PROT_WRITE}
        with mmap.mmap(descriptor, 7, **flags) as view:
            view[:3] = b"CON"
            assert view[:] == b"CONtent"
    for when in three_times(mount):
        assert (mount / "file").read_text() == "content", when
    assert source == "upper" or os.listdir(mount.changes) == []


def test_a_map_outlives_its_descriptor_and_name(both: Mounts[Mount]) -> None:
    content = random.Random(4).randbytes(100_000)
    mount = both({"file": content})
    with linux.opened(mount / "file") as descriptor:
        view = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
    with view:
        (mount / "file").unlink()
        mount.drop_caches()
        assert view[:] == content


# Running


@pytest.mark.parametrize("source", SOURCES)
def test_programs_and_scripts_run(both: Mounts[Mount], source: str) -> None:
    program = Path("/bin/echo").read_bytes()
    tree: Tree = {
        "program": File(program, mode=0o755),
        "script": File("#!/bin/sh\necho script $1\n", mode=0o755),
        "plain": File("#!/bin/sh\n", mode=0o644),
    }
    mount = both(tree) if source == "lower" else both({}, upper=tree)
    for when in three_times(mount):
        for name in ("program", "script"):
            ran = subprocess.run([mount / name, "ran"], stdout=subprocess.PIPE, check=True)
            assert ran.stdout.split()[-1] == b"ran", when
        with pytest.raises(PermissionError):
            subprocess.run([mount / "plain"], check=True)
        (mount / "program").chmod(0o711)


def test_a_running_program_is_not_written(both: Mounts[Mount]) -> None:
    mount = both({"program": File(Path("/bin/cat").read_bytes(), mode=0o755)})
    with subprocess.Popen([mount / "program"], stdin=subprocess.PIPE) as process:
        with pytest.raises(OSError, match="Text file busy"):
            os.open(mount / "program", os.O_WRONLY)
        process.communicate()
    with (
        linux.opened(mount / "program", os.O_RDWR),
        pytest.raises(OSError, match="Text file busy"),
    ):
        subprocess.run([mount / "program"], stdin=subprocess.DEVNULL, check=True)
    subprocess.run([mount / "program"], stdin=subprocess.DEVNULL, check=True)


# Locks


def test_flock(both: Mounts[Mount]) -> None:
    mount = both({"file": "content"})
    with linux.opened(mount / "file") as one, linux.opened(mount / "file") as other:
        fcntl.flock(one, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(one, fcntl.LOCK_SH)
        fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(one, fcntl.LOCK_UN)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_lock_holds_over_the_copy_up(both: Mounts[Mount]) -> None:
    mount = both({"file": "content"})
    with linux.opened(mount / "file") as one:
        fcntl.flock(one, fcntl.LOCK_EX)
        with linux.opened(mount / "file", os.O_RDWR) as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mount.drop_caches()
        with linux.opened(mount / "file") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


_OFD_SETLK = 37


def _range_lock(descriptor: int, kind: int, start: int, length: int) -> None:
    fcntl.fcntl(descriptor, _OFD_SETLK, struct.pack("hhqqi4x", kind, 0, start, length, 0))


def test_locks_of_ranges(both: Mounts[Mount]) -> None:
    mount = both({"file": "content"})
    flags = os.O_RDWR
    with linux.opened(mount / "file", flags) as one, linux.opened(mount / "file", flags) as other:
        _range_lock(one, fcntl.F_WRLCK, 0, 4)
        _range_lock(other, fcntl.F_WRLCK, 4, 3)
        with pytest.raises(BlockingIOError):
            _range_lock(other, fcntl.F_RDLCK, 3, 1)
        _range_lock(one, fcntl.F_UNLCK, 0, 4)
        _range_lock(other, fcntl.F_RDLCK, 3, 1)


def test_locks_of_processes(both: Mounts[Mount]) -> None:
    mount = both({"file": "content"})
    program = (
        "import fcntl, sys; file = open(sys.argv[1], 'r+')\n"
        "try: fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "except BlockingIOError: sys.exit(3)\n"
    )
    command = ["python3", "-c", program, str(mount / "file")]
    with open(mount / "file", "r+") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        assert subprocess.run(command, check=False).returncode == 3
        fcntl.lockf(file, fcntl.LOCK_UN)
        assert subprocess.run(command, check=False).returncode == 0
