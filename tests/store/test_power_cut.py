"""The power goes while a command is about to change something: nothing that was there is lost.

The store is on a disk of its own, of which a copy is taken while the command is stopped: it has
what was written to the disk, not what waits in memory. The copy is mounted, so that its journal is
replayed; then all holds that holds after a kill (test_crash.py), but that objects may have other
names: one without its content keeps its own until it is collected.

Each command runs a second time while another program syncs a file of its own before every change:
that brings all names to the disk, but no other file's data, and is where a name without its content
would show.

At their default length the tests take some commands, by a seed, and some copies of each; with
--campaign=100 they take all of both.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Container
from pathlib import Path
from typing import Final

import pytest

from tests.store.crashes import CASES, Stage
from tests.support import disks, linux
from tests.support.filesystems import FileSystems
from tests.support.injector import Call
from tests.support.victims import Victims

_CASES: Final = 2  # on each file system; times --campaign
_MOMENTS: Final = 3  # in each case; times --campaign


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


def recorded(
    stage: Stage, disk: Path, point: Path, moments: Container[int], *, busy: bool
) -> list[Path]:
    """Run the command; answers copies of the disk, as it is before the changes of these numbers.

    busy: another program syncs a file of its own before each change.
    """
    copies: dict[str, Path] = {}
    numbers = itertools.count()

    def before(_: int, call: Call) -> None:
        if busy:
            _sync_another_file(point)
        number = next(numbers)
        if number in moments:
            copied = disk.with_name(f"{disk.name}-{busy:d}-{number}")
            copies.setdefault(disks.copy(disk, copied), copied)

    stage.begin()
    linux.syncfs(point)
    stage.run(before)
    return list(copies.values())


def _sync_another_file(point: Path) -> None:
    with linux.opened(point / "another", os.O_WRONLY | os.O_CREAT | os.O_APPEND) as descriptor:
        os.write(descriptor, b"more")
        os.fsync(descriptor)


def test_a_power_cut_loses_nothing_and_the_next_run_finishes(
    victims: Victims,
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
        stage = Stage(victims, CASES[name], place, point)
        numbers = range(len(stage.calls))
        moments = random.Random(name).sample(numbers, min(_MOMENTS * campaign, len(numbers)))
        copies = recorded(stage, disk, point, moments, busy=False)
        copies += recorded(stage, disk, point, moments, busy=True)
    for copy in copies:
        with disks.mounted(disks.KINDS[kind], copy, point):
            stage.look(power=False)
    record_property("power cut: commands", 1)
    record_property("power cut: moments", len(copies))
