"""An operation that does not come to its end, and what has to be there then."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise, takewhile
from pathlib import Path

from tests.mount.crash_cases import SYNCED, Case, steps
from tests.support.injector import Call
from tests.support.launcher import Launcher
from tests.support.snapshots import NEW, Snapshot, differences, snapshot
from tests.support.stage import Stage

# What a case may need of overlayfs, beside what it needs always.
_KERNEL_OPTIONS = ("metacopy=on",)


class Progress:
    """How many changes of an operation were done, and how many are on the disk for sure."""

    done = 0
    synced = 0


class Crashes:
    """A case, the states that it goes through, and the looks at what a crash left of it."""

    def __init__(self, launcher: Launcher, case: Case, directory: Path, disk: Path) -> None:
        self._case = case
        layers = [case.lower, case.middle]
        self.stage = Stage(launcher, directory, layers, disk, case.options)
        self.stage.begin(case.upper)
        point = self.stage.point
        with self.stage.mounted():
            self.states = [snapshot(point)]
            self.states += (snapshot(point) for _ in steps(case.operation, point))
        with self.stage.mounted():
            assert differences(snapshot(point), self.states[-1]) == []

    def run(self, before: Callable[[int, Call], None], progress: Progress) -> None:
        """Do the operation; `before` gets the daemon's process id and each call that is to come.

        Raises OSError if the daemon ends.
        """
        with self.stage.stopping(before):
            for step in steps(self._case.operation, self.stage.point):
                progress.done += 1
                if step is SYNCED:
                    progress.synced = progress.done
            # Requests are taken in their order: whatever the operation left to do comes before.
            os.statvfs(self.stage.point)

    def begin(self) -> None:
        """Have the upper anew as it was before the operation."""
        self.stage.begin(self._case.upper)

    def look(self, progress: Progress, to_come: Sequence[Call], *, power: bool = True) -> None:
        """Mount what is there: it has to be one of the states that may be.

        to_come: the calls that the operation had still to make. power: whether only the daemon has
        ended, and not the machine; that may have brought an earlier moment to the disk.
        """
        stage = self.stage
        shown_by_kernel = self._shown_by_kernel()
        settle = _as_it_is
        if not power or _puts_times_back(to_come):
            settle = _with_filled_files if self._case.fills else _with_new_directories
        with stage.mounted():
            assert os.listdir(stage.work / "work") == []
            found = snapshot(stage.point)
            _same(shown_by_kernel or found, found)
            assert _without_names(stage) == set()
            may_be = self.states[progress.synced : progress.done + 2]
            if not power:
                begun = self.states[progress.synced : progress.done + 2]
                may_be += [state for two in pairwise(begun) for state in _half_written(*two)]
            lines = [differences(found, settle(state, found)) for state in may_be]
            assert [] in lines, lines
            if lines[0] == [] and progress.synced == 0:
                for _ in steps(self._case.operation, stage.point):
                    pass
                found = snapshot(stage.point)
                _same(found, settle(self.states[-1], found))
        _same(self._shown_by_kernel() or found, found)

    def _shown_by_kernel(self) -> Snapshot | None:
        """None if it doesn't know the upper's marks."""
        return self.stage.shown_by_kernel(*_KERNEL_OPTIONS) if self._case.for_kernel else None


def _same(one: Snapshot, other: Snapshot) -> None:
    lines = differences(one, other)
    assert lines == [], lines


def _puts_times_back(to_come: Sequence[Call]) -> bool:
    """Whether, before an answer, a call is to come that puts a directory's times back."""
    names = takewhile(lambda name: name != "writev", (call.name for call in to_come))
    return "utimensat" in names


def _as_it_is(state: Snapshot, found: Snapshot) -> Snapshot:
    return state


def _with_new_directories(state: Snapshot, found: Snapshot) -> Snapshot:
    """The state, with the new times of two directories: the one whose names changed, and one that
    was exchanged, whose own time XFS changes.
    """
    new = [
        name
        for name, entry in found.items()
        if name in state and entry.kind == "d" and entry.mtime == NEW != state[name].mtime
    ]
    return state | {name: replace(state[name], mtime=NEW) for name in new[:2]}


def _with_filled_files(state: Snapshot, found: Snapshot) -> Snapshot:
    """The state, with the new time of a file of several names, too, which writing to it has set."""
    new = {
        name: replace(state[name], mtime=NEW)
        for name, entry in found.items()
        if name in state and entry.links and entry.mtime == NEW
    }
    return _with_new_directories(state | new, found)


def _half_written(before: Snapshot, after: Snapshot) -> Iterator[Snapshot]:
    """As a write that is not synced may leave a file: only its time is new, or only its content."""
    same = [name for name in after if name in before and before[name].size == after[name].size]
    yield after | {name: replace(after[name], content=before[name].content) for name in same}
    yield after | {name: replace(after[name], mtime=before[name].mtime) for name in same}


def _without_names(stage: Stage) -> set[int]:
    """The numbers of inodes in the index that no name of the union has."""
    indexed = {
        int(os.getxattr(path, "trusted.overlay.unionmount.number", follow_symlinks=False))
        for path in (stage.work / "index").iterdir()
    }
    return indexed - {path.lstat().st_ino for path in stage.point.rglob("*")}
