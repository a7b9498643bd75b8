"""What a row of the benchmark is, and the list that the topics' modules put theirs in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.bench.stand import Stand


class Kind(Enum):
    """What a figure is about; decides how far from the kernel's it may be."""

    DATA = "data"
    WARM = "warm"
    COLD = "cold metadata"
    WRITE = "write"
    PROGRAM = "program"
    COST = "cost"


class Unit(Enum):
    """What a figure is counted in; the value is how one of it is written."""

    SECONDS = "s"
    BYTES = "B"


Act = Callable[["Stand"], Sequence[float | None]]


@dataclass(frozen=True)
class Row:
    """Some work, measured in one mount, and the figures that it gives.

    on: the stack that is mounted. figures: the name of each, in the order in which `act` answers
    them, None where there is nothing to measure; an empty name stands for the row itself.
    writes: whether files are made or removed, so that an empty file system should take them, and
    the plain directory be a copy. grows: it is one of several that differ in size.
    """

    name: str
    topic: str
    on: str
    figures: Mapping[str, Kind]
    act: Act
    writes: bool = False
    unit: Unit = Unit.SECONDS
    grows: bool = False

    def names(self) -> list[str]:
        """The names of its figures in full."""
        return [f"{self.name}, {part}" if part else self.name for part in self.figures]


ROWS: Final[list[Row]] = []

# The tree as it is after a fresh mount; and once more, when the kernel knows what it may remember.
COLD_AND_WARM: Final = {"cold": Kind.COLD, "warm": Kind.WARM}
DATA: Final = {"cold": Kind.DATA, "warm": Kind.DATA}


def row(
    name: str,
    on: str,
    figures: Mapping[str, Kind] | Kind,
    *,
    writes: bool = False,
    unit: Unit = Unit.SECONDS,
    grows: bool = False,
) -> Callable[[Act], Act]:
    """Make a row of a function from a mount to its figures; the topic is its module's name."""

    def put(act: Act) -> Act:
        topic = act.__module__.rpartition(".")[2]
        parts = {"": figures} if isinstance(figures, Kind) else figures
        ROWS.append(Row(name, topic, on, parts, act, writes=writes, unit=unit, grows=grows))
        return act

    return put
