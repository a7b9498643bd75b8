"""Commands are killed before each change that they make on the disk: nothing is lost.

After each kill the store opens again, and check finds nothing wrong; all images that were there are
whole. Then the command is run again, and garbage is collected: the store has what it has after a
run that nobody killed, and nothing else.

At their default length the tests take some changes of each command, by a seed; with --campaign=400
they take every one.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

import pytest

from tests.store.crashes import CASES, Stage
from tests.support.filesystems import FileSystems
from tests.support.victims import Victims

_KILLS: Final = 4  # of each command, times --campaign


@pytest.mark.parametrize("name", CASES)
def test_a_kill_loses_nothing_and_the_next_run_finishes(
    victims: Victims,
    filesystems: FileSystems,
    campaign: int,
    record_property: Callable[[str, object], None],
    name: str,
) -> None:
    place = filesystems.tmpfs()
    stage = Stage(victims, CASES[name], place, place / "copy")
    points = list(range(len(stage.calls)))
    random.Random(name).shuffle(points)
    killed = 0
    for number in sorted(points[: _KILLS * campaign]):
        killed += stage.kill(number)
        stage.look()
    assert killed
    record_property("crash: commands", 1)
    record_property("crash: changes on the disk in them", len(stage.calls))
    record_property("crash: killed before", killed)
