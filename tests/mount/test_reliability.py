"""The daemon's sudden end, and what the next mount makes of it."""

import contextlib
import os
import random
import select
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import linux
from tests.support.layers import Tree
from tests.support.mounts import Mounts, UnionMount, three_times
from tests.support.snapshots import tree

BASE: Tree = {"file": "content", "d": {"a": "a", "e": {"b": "b"}}}


def test_a_killed_daemon_leaves_a_mount_that_the_next_one_replaces(
    union: Mounts[UnionMount],
) -> None:
    mount = union(BASE)
    (mount / "file").write_text("changed")
    mount.kill()
    with pytest.raises(OSError, match="Transport endpoint is not connected"):
        os.listdir(mount.path)
    mount.mount()
    for when in three_times(mount):
        assert (mount / "file").read_text() == "changed", when
    assert len(mount.numbers()) == 1


def test_what_was_synced_outlives_the_daemon(union: Mounts[UnionMount]) -> None:
    content = random.Random(9).randbytes(3 << 20)
    mount = union(BASE)
    descriptors = []
    for name in ("file", "new", "d/e/b"):
        descriptors.append(os.open(mount / name, os.O_CREAT | os.O_RDWR))
        os.write(descriptors[-1], content)
        os.fsync(descriptors[-1])
    os.rename(mount / "d", mount / "moved")
    (mount / "moved" / "a").unlink()
    mount.kill()
    for descriptor in descriptors:
        with pytest.raises(OSError, match="Transport endpoint is not connected"):
            os.close(descriptor)
    mount.mount()
    for when in three_times(mount):
        assert sorted(os.listdir(mount.path)) == ["file", "moved", "new"], when
        assert os.listdir(mount / "moved") == ["e"], when
        for name in ("file", "new", "moved/e/b"):
            assert (mount / name).read_bytes() == content, when


def _wait_for_any_file(directory: Path) -> bool:
    """Whether a file turned up below the directory in time."""
    inotify = linux.watch_for_creation(directory)
    try:
        wake = select.poll()
        wake.register(inotify, select.POLLIN)
        return linux.wait_for(
            lambda: any(not path.is_dir() for path in directory.rglob("*")), 20, wake=wake
        )
    finally:
        os.close(inotify)


def test_a_copy_up_that_was_cut_short_leaves_the_file_as_it_was(
    union: Mounts[UnionMount],
) -> None:
    content = os.urandom(1 << 20) * 400
    mount = union({"file": content, "other": "other"})

    def copy_up() -> None:
        with contextlib.suppress(OSError):
            os.close(os.open(mount / "file", os.O_RDWR))

    thread = threading.Thread(target=copy_up)
    thread.start()
    begun = _wait_for_any_file(mount.work)
    mount.kill()
    thread.join()
    assert begun
    mount.mount()
    left = [path for path in mount.work.rglob("*") if not path.is_dir()]
    assert sum(path.lstat().st_size for path in left) < 1 << 20
    with open(mount / "file", "rb") as file:
        while piece := file.read(1 << 20):
            assert piece == content[: 1 << 20]
        assert file.tell() == len(content)
    for when in three_times(mount):
        assert (mount / "other").read_text() == "other", when


def _replace(path: Path) -> None:
    temporary = path.with_name(f"temporary{path.name}")
    temporary.write_text("after")
    os.rename(temporary, path)


# Each with what a name and its moved name may hold before it is done, and what they hold then.
_WORK: list[tuple[Callable[[Path], object], set[tuple[str | None, str | None]]]] = [
    # Opened with O_TRUNC, then written: the program's own two steps.
    (lambda path: path.write_text("after"), {("before", None), ("", None), ("after", None)}),
    (Path.unlink, {("before", None), (None, None)}),
    (
        lambda path: path.rename(path.with_name(f"moved{path.name}")),
        {("before", None), (None, "before")},
    ),
    (_replace, {("before", None), ("after", None)}),
]
_DONE = [("after", None), (None, None), (None, "before"), ("after", None)]


@pytest.mark.parametrize("seed", range(4))
def test_the_end_may_come_at_any_time(union: Mounts[UnionMount], seed: int) -> None:
    """Each name is as it was or as it was to be, whatever went on when the daemon ended."""
    count = 200
    mount = union({"d": {str(number): "before" for number in range(count)}})
    begun = threading.Event()
    ends = random.Random(seed).randrange(10, 150)

    def work() -> None:
        with contextlib.suppress(OSError):
            for number in range(count):
                _WORK[number % 4][0](mount / "d" / str(number))
                if number == ends:
                    begun.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(20)
    mount.kill()
    thread.join()
    mount.mount()
    for when in three_times(mount):
        shown = tree(mount / "d")
        for number in range(count):
            found = (shown.get(str(number)), shown.get(f"moved{number}"))
            allowed = {_DONE[number % 4]} if number <= ends else _WORK[number % 4][1]
            assert found in allowed, (number, ends, when)
