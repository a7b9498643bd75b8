"""The daemon is killed before each system call of each operation: nothing is lost.

After each kill the upper is mounted again, and a copy of it by the kernel's overlayfs. Both show
what was before the change that went on, or what was to be; changes that were answered stay; the
work directory is swept; and what had not been done can be done then.

At their default length the tests take some calls of each operation, by a seed, those first that
change something on the disk; with --campaign=100 they take every one.
"""

import errno
import os
import random
import signal
from collections.abc import Callable

import pytest

from tests.mount.crash_cases import CASES
from tests.mount.crashes import Crashes, Progress
from tests.support import driver, linux
from tests.support.filesystems import FileSystems
from tests.support.injector import Call
from tests.support.launcher import Launcher

_CALLS = 3  # of each operation, times --campaign
_DEAD = (errno.ENOTCONN, errno.ECONNABORTED)


def counts(call: Call) -> bool:
    """Whether a call comes in its place each time: the data plane has threads, which look for what
    they change at the same time.
    """
    return call.changes or call.name == "fstatfs" or driver.chosen != "native"


def recorded(crashes: Crashes) -> list[Call]:
    """The calls that the operation takes."""
    calls: list[Call] = []
    crashes.begin()
    crashes.run(lambda _, call: calls.append(call) if counts(call) else None, Progress())
    return calls[: [call.name for call in calls].index("fstatfs")]


def kill_before(crashes: Crashes, number: int) -> tuple[Progress, list[str]]:
    """Kill the daemon before the call of this number; answers what was done and called."""
    came: list[str] = []

    def kill(daemon: int, call: Call) -> None:
        if not counts(call):
            return
        came.append(call.name)
        if len(came) > number:
            os.kill(daemon, signal.SIGKILL)

    progress = Progress()
    crashes.begin()
    with pytest.raises(OSError, match=r".") as caught:
        crashes.run(kill, progress)
    assert caught.value.errno in _DEAD
    return progress, came


def kill_and_look(crashes: Crashes, calls: list[Call], number: int) -> None:
    """Kill the daemon before the call of this number, and look at what is there then."""
    expected = [call.name for call in calls[: number + 1]]
    with linux.caches_kept():
        progress, came = kill_before(crashes, number)
    assert came == expected, "the call was not reached"
    progress.synced = progress.done
    crashes.look(progress, calls[number:])


def chosen(calls: list[Call], count: int, seed: str) -> list[int]:
    """Some of the calls, those first that change something, in an order by chance."""
    order = list(range(len(calls)))
    random.Random(seed).shuffle(order)
    return sorted(order, key=lambda number: not calls[number].changes)[:count]


@pytest.mark.parametrize("name", CASES)
def test_what_was_or_what_was_to_be(
    launcher: Launcher,
    filesystems: FileSystems,
    campaign: int,
    record_property: Callable[[str, object], None],
    name: str,
) -> None:
    place = filesystems.tmpfs()
    crashes = Crashes(launcher, CASES[name], place, place)
    with linux.caches_kept():
        calls = recorded(crashes)
    points = chosen(calls, _CALLS * campaign, name)
    for number in points:
        kill_and_look(crashes, calls, number)
    record_property("crash: operations", 1)
    record_property("crash: system calls in them", len(calls))
    record_property("crash: killed before", len(points))
