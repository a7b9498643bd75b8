"""What was measured, and what follows: ratios, means, and where unionmount misses its aim."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from tests.bench.rows import Kind, Unit

# How many times as long as the kernel's union; a union in user space may never be ahead.
KERNEL_LIMITS: Final[Mapping[Kind, float]] = {Kind.DATA: 1.2, Kind.WARM: 1.2, Kind.COLD: 3.0}
FUSE_LIMIT: Final = 1.0


@dataclass
class Figure:
    """One line of the table. row: what it belongs to. samples: of each program, one a round.

    unable: why programs have none. grows: it is one of several that differ in size.
    """

    name: str
    row: str
    topic: str
    kind: Kind
    unit: Unit = Unit.SECONDS
    grows: bool = False
    samples: dict[str, list[float]] = field(default_factory=dict)
    unable: dict[str, str] = field(default_factory=dict)

    def median(self, program: str) -> float | None:
        """The middle of what was measured of a program."""
        found = self.samples.get(program)
        return statistics.median(found) if found else None

    def ratio(self, subject: str, peer: str) -> "Ratio | None":
        """How many times as much the subject takes as its peer, round by round."""
        pairs = zip(self.samples.get(subject, ()), self.samples.get(peer, ()), strict=False)
        ratios = [mine / theirs for mine, theirs in pairs if mine > 0 and theirs > 0]
        if not ratios:
            return None
        return Ratio(statistics.median(ratios), min(ratios), max(ratios))


class Ratio(NamedTuple):
    """The middle, the least and the greatest of several rounds."""

    middle: float
    least: float
    greatest: float


class Miss(NamedTuple):
    """A figure in which a program takes more than `limit` times what a peer does."""

    figure: str
    kind: Kind
    peer: str
    ratio: Ratio
    limit: float


def mean(figures: Iterable[Figure], subject: str, peer: str) -> float | None:
    """The geometric mean of the ratios of times that both have, those of growth left out."""
    logs = [
        math.log(ratio.middle)
        for figure in figures
        if figure.unit is Unit.SECONDS and not figure.grows
        if (ratio := figure.ratio(subject, peer)) is not None
    ]
    return math.exp(statistics.fmean(logs)) if logs else None


def misses(figures: Iterable[Figure], subject: str, fuse: Sequence[str], kernel: str) -> list[Miss]:
    """Where a subject takes longer than it is meant to, those furthest off first.

    fuse: the unions in user space, ahead of which it is to be. kernel: the kernel's.
    """
    found = []
    for figure in figures:
        limits = dict.fromkeys(fuse, FUSE_LIMIT)
        if figure.kind in KERNEL_LIMITS:
            limits[kernel] = KERNEL_LIMITS[figure.kind]
        for peer, limit in limits.items():
            ratio = figure.ratio(subject, peer)
            if ratio is not None and ratio.middle > limit:
                found.append(Miss(figure.name, figure.kind, peer, ratio, limit))
    return sorted(found, key=lambda miss: miss.ratio.middle / miss.limit, reverse=True)
