"""The rows of the load table (`scripts/load`) in a short form: what holds there holds here."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.load import files, names
from tests.load.stand import Measure, Stand
from tests.support.mounts import KernelMount, Mounts, UnionMount

MIB = 1 << 20
Row = Callable[[Stand], Iterator[Measure]]


@pytest.fixture
def run(
    union: Mounts[UnionMount], kernel: Mounts[KernelMount], directory: Path, campaign: int
) -> Callable[[Row, float], list[Measure]]:
    """Runs a row in a part of its size."""
    return lambda row, part: list(row(Stand(union, kernel, directory, part * campaign)))


def test_memory_is_for_what_the_kernel_has_not_forgotten(
    run: Callable[[Row, float], list[Measure]],
) -> None:
    in_tenths, *_ = run(names.tree, 0.04)
    # All its files at once take more than twice as much.
    assert in_tenths.peak - in_tenths.before < 20 * MIB, in_tenths


@pytest.mark.parametrize(
    ("row", "part"),
    [
        (names.directory, 0.02),
        (names.layers, 0.1),
        (names.depth, 0.1),
        (files.maps, 0.1),
        (files.work, 0.04),
        (files.fio, 0.05),
        (files.stress, 0.02),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_was_written_is_there(
    run: Callable[[Row, float], list[Measure]], row: Row, part: float
) -> None:
    """The row itself compares all that it reads with what it wrote."""
    assert run(row, part)
