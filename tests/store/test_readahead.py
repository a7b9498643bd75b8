"""Reading in a thread: the same bytes, the same errors, and an end in every case."""

from __future__ import annotations

import hashlib
import io
import os
import random
import threading

import pytest

from layerstore.pieces import Reader
from layerstore.readahead import ReadAhead

DATA = random.Random(0).randbytes(12_345_678)


class Counting:
    """A source that counts who reads it, and fails after *size* bytes."""

    def __init__(self, size: int) -> None:
        self._left = size
        self.calls = 0

    def read(self, size: int) -> bytes:
        self.calls += 1
        if not self._left:
            raise OSError(5, "no more")
        found = bytes(min(size, self._left))
        self._left -= len(found)
        return found


def drained(reader: Reader, size: int) -> bytes:
    return b"".join(iter(lambda: reader.read(size), b""))


@pytest.mark.parametrize("size", [1000, 1 << 20, 3_333_333])
def test_all_that_the_source_has_is_read_and_seen(size: int) -> None:
    hasher = hashlib.sha256()
    with ReadAhead(io.BytesIO(DATA), hasher.update) as reader:
        assert drained(reader, size) == DATA
        assert reader.read(1) == b""
    assert hasher.digest() == hashlib.sha256(DATA).digest()


def test_an_empty_source_ends_at_once() -> None:
    with ReadAhead(io.BytesIO(), lambda _: None) as reader:
        assert reader.read(10) == b""
        assert reader.read(10) == b""


def test_what_goes_wrong_in_the_source_is_raised_after_what_came_before() -> None:
    def read_all() -> None:
        with ReadAhead(Counting(5_000_000), lambda _: None) as reader:
            got.append(reader.read(4_000_000))
            got.append(drained(reader, 1 << 20))

    got: list[bytes] = []
    with pytest.raises(OSError, match="no more"):
        read_all()
    assert got[0]


def test_what_goes_wrong_in_who_sees_is_raised() -> None:
    def see(chunk: bytes) -> None:
        raise ZeroDivisionError

    with ReadAhead(io.BytesIO(DATA), see) as reader, pytest.raises(ZeroDivisionError):
        reader.read(1)


def test_who_stops_early_ends_the_thread() -> None:
    before = threading.active_count()
    source = Counting(1 << 30)
    with ReadAhead(source, lambda _: None) as reader:
        reader.read(1)
    assert threading.active_count() == before
    assert source.calls < 20


def test_no_more_is_read_ahead_than_fits() -> None:
    source = Counting(1 << 30)
    with ReadAhead(source, lambda _: None) as reader:
        for _ in range(100):
            reader.read(1 << 20)
        assert source.calls <= 100 + 10


def test_who_stops_while_a_pipe_gives_nothing_does_not_wait_for_it() -> None:
    reading, writing = os.pipe()
    with open(reading, "rb", buffering=0) as source, open(writing, "wb") as target:
        # Without an end this would wait for ever.
        with ReadAhead(source, lambda _: None):
            pass
        target.close()
