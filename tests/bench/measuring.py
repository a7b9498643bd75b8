"""Measures rows: in each round every program in its turn, each in a fresh mount.

Each round begins with the next program, for what a program comes after is in its time: disks write
for a while what they have taken.
"""

import time
from collections.abc import Callable, Sequence

from tests.bench.contenders import Contender, UnableError
from tests.bench.results import Figure
from tests.bench.rows import Row
from tests.bench.stand import Workshop

_LEAST_ROUNDS = 3
_FAR_TOO_LONG = 5  # times the seconds; then even fewer rounds have to do


def measure(
    row: Row,
    contenders: Sequence[Contender],
    rounds: int,
    seconds: float,
    workshop: Workshop,
    say: Callable[[str], None],
) -> list[Figure]:
    """The figures of a row.

    rounds: how many at most. seconds: after this time no further round begins, unless there were
    less than three, and after five times this time none at all. A program that is unable to do what
    a row asks for is left out of it.
    """
    figures = [
        Figure(name, row.name, row.topic, kind, row.unit, row.grows)
        for name, kind in zip(row.names(), row.figures.values(), strict=True)
    ]
    unable: dict[str, str] = {}
    workshop.read(row, stored=any(contender.stored for contender in contenders))
    begin = time.monotonic()
    for number in range(rounds):
        allowed = seconds if number >= _LEAST_ROUNDS else seconds * _FAR_TOO_LONG
        if number and time.monotonic() - begin > allowed:
            break
        first = number % len(contenders)
        for contender in (*contenders[first:], *contenders[:first]):
            if contender.name in unable:
                continue
            say(f"{row.name}: round {number + 1}, {contender.name}")
            try:
                with workshop.mounted(contender, row) as stand:
                    measured = row.act(stand)
            except UnableError as error:
                unable[contender.name] = str(error)
                continue
            for figure, sample in zip(figures, measured, strict=True):
                if sample is not None:
                    figure.samples.setdefault(contender.name, []).append(sample)
    for figure in figures:
        figure.unable = unable
        for name in unable:
            figure.samples.pop(name, None)
    return figures
