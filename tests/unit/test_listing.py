"""Listings of the filesystem: what a position in one means while the directory changes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from tests.unit.unions import Union, in_trio

NAMES = [f"n{number}" for number in range(10)]


@pytest.fixture
def union(tmp_path: Path) -> Iterator[Union]:
    opened = Union.build(tmp_path / "union", {"d": dict.fromkeys(NAMES, "")}, {})
    yield opened
    opened.forget()
    opened.close()


def read(union: Union, start: int = 0, most: int | None = None) -> tuple[list[str], int]:
    """Up to so many names from a position on, and the position after them."""
    names = []
    entries = union.filesystem.readdir(union.number("d"), start)
    for name, node, position in islice(entries, most):
        if name not in (b".", b".."):
            union.filesystem.accepted(node, taken=False)
            names.append(os.fsdecode(name))
        start = position
    return names, start


@in_trio
async def test_whoever_reads_goes_on_after_what_it_has(union: Union) -> None:
    first, position = read(union, most=5)
    for name in first:
        await union.unlink(f"d/{name}")
    union.create("d/new")
    rest, end = read(union, position)
    assert len(first) == 3
    assert sorted([*first, *rest]) == NAMES
    assert read(union, end) == ([], end)


@in_trio
async def test_another_reader_sees_what_is_new_and_moves_nothing(union: Union) -> None:
    first, position = read(union, most=5)
    await union.unlink(f"d/{first[0]}")
    union.create("d/new")
    others, _ = read(union)
    rest, _ = read(union, position)
    assert sorted(others) == sorted({*NAMES, "new"} - {first[0]})
    assert sorted([*first, *rest]) == [*NAMES, "new"]


@in_trio
async def test_names_that_are_gone_are_not_kept_for_ever(union: Union) -> None:
    for number in range(3000):
        union.create(f"d/temporary{number}")
        if number % 500 == 0:
            read(union)
        await union.unlink(f"d/temporary{number}")
    names, end = read(union)
    _, first = read(union, most=1)
    assert sorted(names) == NAMES
    assert end - first < 1100
