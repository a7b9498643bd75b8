"""Recipes: what was told comes out in the same order, and damage is told."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerstore import recipe
from layerstore.errors import DamagedError
from layerstore.recipe import RecipeWriter

NUMBERS = st.integers(0, (1 << 62) - 1)
RECORDS = st.lists(st.one_of(st.binary(max_size=50), st.tuples(NUMBERS, NUMBERS, NUMBERS)))

Record = bytes | tuple[int, int, int]


def written(records: list[Record]) -> bytes:
    file = io.BytesIO()
    writer = RecipeWriter(file)
    for record in records:
        if isinstance(record, bytes):
            writer.literal(record)
        else:
            writer.content(*record)
    writer.finish()
    return file.getvalue()


def read(data: bytes) -> list[Record]:
    """The records again, literals between two contents as one."""
    found: list[Record] = []
    asked: list[Record] = []

    def contents(content: int, offset: int, length: int) -> Iterator[bytes]:
        asked.append((content, offset, length))
        yield b"content"

    for piece in recipe.tar(io.BytesIO(data), contents):
        found.append(asked.pop() if asked else piece)
    return found


def joined(records: list[Record]) -> list[Record]:
    found: list[Record] = []
    for record in records:
        if isinstance(record, bytes) and found and isinstance(found[-1], bytes):
            found[-1] += record
        else:
            found.append(record)
    return [record for record in found if record]


@given(RECORDS)
def test_a_recipe_tells_what_was_told(records: list[Record]) -> None:
    assert joined(read(written(records))) == joined(records)


def test_an_empty_recipe_is_an_empty_tar() -> None:
    assert read(written([])) == []


def test_a_literal_may_be_larger_than_what_is_read_at_once() -> None:
    large = bytes(range(256)) * 5000
    records: list[Record] = [b"a" * 5_000_000, (1, 2, 3), large, large, large]
    assert joined(read(written(records))) == joined(records)


def test_the_same_tar_gives_the_same_recipe_however_it_came_in() -> None:
    whole = b"x" * 3_000_000
    pieces: list[Record] = [whole[:7], whole[7:1000], whole[1000:]]
    assert joined(read(written(pieces))) == [whole]


RECORDS_READ: list[Record] = [b"literal" * 9, (1, 2, 3), b"x", (1 << 40, 0, 9), b"padding"]


def test_wherever_a_recipe_is_cut_off_it_is_damaged() -> None:
    data = written(RECORDS_READ)
    for end in range(len(data)):
        with pytest.raises(DamagedError, match="truncated"):
            read(data[:end])


def test_whichever_bit_of_a_recipe_is_wrong_it_is_damaged() -> None:
    data = written(RECORDS_READ)
    for at in range(len(data)):
        for bit in range(8):
            wrong = bytearray(data)
            wrong[at] ^= 1 << bit
            try:
                found = read(bytes(wrong))
            except DamagedError:
                continue
            # Some bits of the header of a zstd stream say nothing of the content.
            assert joined(found) == joined(RECORDS_READ)


@pytest.mark.parametrize(
    "records", [b"X", b"L\1", b"L\1\0\0\0", b"C" + bytes(23), b"L\1\0\0\0aL", b"C" + b"\xff" * 24]
)
def test_a_stream_of_something_else_is_damaged(records: bytes) -> None:
    file = io.BytesIO()
    writer = RecipeWriter(file)
    writer._put(records)
    writer.finish()
    with pytest.raises(DamagedError, match="a recipe"):
        read(file.getvalue())
