"""The power goes while the daemon is about to make a call: nothing is torn, nothing synced is lost.

All directories are on a disk of their own, of which a copy is taken while the daemon is stopped:
it has what was written to the disk, not what waits in memory. The copy is mounted, so
that its journal is replayed, and the union on it. It shows the state of some moment, since the
last one that a program had synced; it may be older, but it is whole. (A write that was not synced
may have changed the file's time and not yet its content, as on any file system.) As in
test_crash.py, the work directory is swept, the kernel shows the same, and what is undone can be
done.

What file systems promise for that, and all that is relied on: names, attributes and marks reach
the disk in the order in which they were changed (the journal), and a file's data with fsync(2).
ext4 with `data=writeback,noauto_da_alloc` promises nothing more.

Alone, the daemon brings little to the disk. So each operation runs a second time while another
program syncs a file of its own before every call: that brings all names and attributes to the
disk, but no other file's data, and is where a name without its content would show.

In the end there are two copies more: when the operation is done, and when all was synced then.

At their default length the tests take some operations, by a seed, and some copies of each; with
--campaign=15 they take all of both.
"""

import os
import random
from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.mount.crash_cases import CASES
from tests.mount.crashes import Crashes, Progress
from tests.support import disks, linux
from tests.support.filesystems import FileSystems
from tests.support.injector import Call
from tests.support.launcher import Launcher

_CASES, _MOMENTS = 6, 5  # on each file system, and in each case; times --campaign


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    count = min(_CASES * metafunc.config.getoption("campaign"), len(CASES))
    metafunc.parametrize(
        ("kind", "name"),
        [
            (kind, name)
            for kind in disks.KINDS
            for name in random.Random(kind).sample(list(CASES), count)
        ],
    )


class Moment(NamedTuple):
    """What the disk had, and how far the operation was."""

    disk: Path
    progress: Progress
    to_come: list[Call]


def recorded(crashes: Crashes, disk: Path, point: Path, *, busy: bool) -> list[Moment]:
    """Do the operation, and keep what the disk has before each call that changes something.

    busy: another program syncs a file of its own each time.
    """
    moments: list[Moment] = []
    progress = Progress()
    seen = set()

    def keep() -> None:
        copied = disk.with_name(f"{disk.name}-{busy:d}-{len(moments)}")
        state = disks.copy(disk, copied), progress.synced
        if state not in seen:
            seen.add(state)
            moments.append(Moment(copied, copy(progress), []))

    def before(_: int, call: Call) -> None:
        if call.changes:
            if busy:
                _sync_another_file(point)
            keep()
        for moment in moments:
            moment.to_come.append(call)

    crashes.begin()
    linux.syncfs(point)
    crashes.run(before, progress)
    keep()
    linux.syncfs(point)
    progress.synced = progress.done
    keep()
    return moments


def _sync_another_file(point: Path) -> None:
    with linux.opened(point / "another", os.O_WRONLY | os.O_CREAT | os.O_APPEND) as descriptor:
        os.write(descriptor, b"more")
        os.fsync(descriptor)


def test_what_was_or_what_was_to_be(
    launcher: Launcher,
    filesystems: FileSystems,
    campaign: int,
    record_property: Callable[[str, object], None],
    kind: str,
    name: str,
) -> None:
    place = filesystems.tmpfs()
    disk, point = place / "disk.img", place / "disk"
    point.mkdir()
    disks.make(disks.KINDS[kind], disk)
    with disks.mounted(disks.KINDS[kind], disk, point):
        crashes = Crashes(launcher, CASES[name], place, point)
        moments = recorded(crashes, disk, point, busy=False)
        moments += recorded(crashes, disk, point, busy=True)
    random.Random(name).shuffle(moments)
    moments = moments[: _MOMENTS * campaign]
    for moment in moments:
        with disks.mounted(disks.KINDS[kind], moment.disk, point):
            crashes.look(moment.progress, moment.to_come, power=False)
    record_property("power cut: operations", 1)
    record_property("power cut: moments", len(moments))
