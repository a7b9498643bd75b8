"""Rows about content: many maps, and many processes whose every byte is verified."""

import contextlib
import json
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.load import worker
from tests.load.stand import Measure, Stand, descriptors, run_all
from tests.support import linux
from tests.support.maps import Map

_MAPS = 10_000
_CHANGED = b"CHANGED"
_PROCESSES, _OPERATIONS = 64, 10_000
_FIO_JOBS, _FIO_BYTES = 16, 32 << 20
_ENGINES = ("psync", "mmap")
_STRESS_SECONDS = 120
_SECONDS = 3600  # that nothing takes

# Of stress-ng's stressors of file systems, and of others that work on files, these run two of each.
# Left out, because they are about what FUSE or the mount does not have: chattr, fallocate, fiemap,
# file-ioctl, fpunch, inode-flags, verity; because they are about no file of the mount: bind-mount,
# binderfs, dup, eventfd, fanotify, getdent, handle, ioprio, procfs; because they sync the whole
# machine or fill it: copy-file, fsize, io, sync-file.
_STRESSORS = (
    *("access", "chdir", "chmod", "chown", "dentry", "dir", "dirdeep", "dirmany", "dnotify"),
    *("fcntl", "filename", "flock", "fstat", "hdd", "inotify", "iomix", "lease", "link", "locka"),
    *("lockf", "lockofd", "mknod", "mmap", "msync", "open", "readahead", "rename", "seek"),
    *("symlink", "touch", "utime", "xattr"),
)
_STRESS_OPTIONS = (
    *("--chdir-dirs", "256", "--dentries", "256", "--dir-dirs", "256", "--dirdeep-inodes", "1000"),
    *("--hdd-bytes", "8m", "--iomix-bytes", "8m", "--mmap-bytes", "4m", "--mmap-file"),
    *("--msync-bytes", "1m", "--readahead-bytes", "8m", "--seek-size", "8m"),
)


def maps(stand: Stand) -> Iterator[Measure]:
    """10,000 files mapped with their descriptors closed, half of them to be written"""
    half = stand.many(_MAPS // 2)
    content = {f"f{number}": b"content %d" % number for number in range(half)}
    mount = stand.union({"lower": content, "written": content})
    with contextlib.ExitStack() as stack:
        lower, written = {}, {}
        with stand.measured(mount, "mapped", 2 * half, "files") as measure:
            for name in content:
                lower[name] = _mapped(stack, mount / "lower" / name)
                written[name] = _mapped(stack, mount / "written" / name, writable=True)
            used, limit = descriptors(mount)
            measure.result = f"the daemon had {used:,} of {limit:,} descriptors open"
        yield measure
        with stand.measured(mount, "read and written through maps", 2 * half, "files") as measure:
            for name, data in content.items():
                for view in (lower[name], written[name]):
                    assert view.read(0, view.size) == data
                written[name].write(0, _CHANGED)
        yield measure
        (mount / "new").write_text("a descriptor is left")
    for _ in range(2):
        for name, data in content.items():
            assert (mount / "lower" / name).read_bytes() == data
            assert (mount / "written" / name).read_bytes() == _CHANGED + data[len(_CHANGED) :]
        mount.remount()
    mount.unmount()


def _mapped(stack: contextlib.ExitStack, path: Path, *, writable: bool = False) -> Map:
    with linux.opened(path, os.O_RDWR if writable else os.O_RDONLY) as descriptor:
        view = Map(descriptor, os.fstat(descriptor).st_size, writable=writable)
    stack.callback(view.close)
    return view


def work(stand: Stand) -> Iterator[Measure]:
    """64 processes of random work on files and names, half of them begin with files of a lower"""
    processes, operations = stand.many(_PROCESSES, 8), stand.many(_OPERATIONS)
    mount = stand.union(lambda root: _worker_directories(root, processes))
    with stand.measured(mount, "random work", processes * operations, "operations") as measure:
        module = [sys.executable, "-m", worker.__name__]
        reports = [
            json.loads(said)
            for said in run_all(
                [
                    [*module, mount / f"{seed}", f"{seed}", f"{operations}"]
                    for seed in range(processes)
                ],
                _SECONDS,
            )
        ]
        verified = sum(report["verified"] for report in reports)
        measure.result = f"{processes} processes, {verified >> 20:,} MiB verified"
    yield measure
    mount.remount()
    for seed, report in enumerate(reports):
        assert worker.contents(mount / f"{seed}") == report["contents"], seed
    stand.same_in_kernel(mount)


def _worker_directories(root: Path, count: int) -> None:
    for seed in range(count):
        (root / f"{seed}").mkdir()
        if seed % 2:
            worker.lower_layer(root / f"{seed}")


def fio(stand: Stand) -> Iterator[Measure]:
    """fio writes at random, by calls and by maps, to new files and to a lower's, and verifies"""
    jobs, size = stand.many(_FIO_JOBS, 2), stand.many(_FIO_BYTES >> 12) << 12
    mount = stand.union(lambda root: _fio_files(root, jobs, size))
    for engine in _ENGINES:
        what = f"written by fio, engine {engine}, and verified"
        with stand.measured(mount, what, 2 * jobs * size >> 20, "MiB") as measure:
            _run_fio(mount.path, engine, jobs, size)
            measure.result = f"{2 * jobs} jobs, each on a file of its own"
        yield measure
    mount.remount()
    _verify_fio(mount.path, jobs, size)
    theirs = stand.kernel_mount(mount)
    _verify_fio(theirs.path, jobs, size)
    theirs.close()


def _fio_files(root: Path, jobs: int, size: int) -> None:
    """What a lower layer has of the files that the jobs write."""
    content = random.Random(size).randbytes(size)
    for engine in _ENGINES:
        for job in range(jobs):
            (root / f"{engine}-lower.{job}.0").write_bytes(content)


def _verify_fio(root: Path, jobs: int, size: int) -> None:
    for engine in _ENGINES:
        _run_fio(root, engine, jobs, size, "--verify_only")


def _run_fio(root: Path, engine: str, jobs: int, size: int, *more: str) -> None:
    command = ["fio", f"--ioengine={engine}", "--rw=randwrite", "--bs=4k", f"--size={size}"]
    command += [f"--numjobs={jobs}", "--thread", "--fallocate=none", f"--directory={root}"]
    command += ["--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", *more]
    run_all([[*command, f"--name={engine}-{kind}"] for kind in ("lower", "new")], _SECONDS)


def stress(stand: Stand) -> Iterator[Measure]:
    """64 processes of stress-ng's stressors of file systems, each of which checks what it does"""
    seconds = stand.many(_STRESS_SECONDS)
    plain = stand.directory / "plain"
    plain.mkdir()
    _run_stress(plain, seconds)
    mount = stand.union({})
    amount = 2 * len(_STRESSORS)
    with stand.measured(mount, "stress-ng --verify", amount, "processes") as measure:
        _run_stress(mount.path, seconds)
        measure.result = f"{seconds} s; all that passes without the mount"
    yield measure
    mount.remount()
    assert os.listdir(mount.path) == []
    stand.same_in_kernel(mount)


def _run_stress(root: Path, seconds: int) -> None:
    command = ["stress-ng", "--verify", "--temp-path", str(root), "--timeout", f"{seconds}s"]
    command += ["--fstat-dir", str(root), *_STRESS_OPTIONS]
    for stressor in _STRESSORS:
        command += [f"--{stressor}", "2"]
    (said,) = run_all([command], _SECONDS)
    assert "skipp" not in said, said
    assert "fail:" not in said, said
