"""Sets of object keys that may be larger than memory."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterable, Iterator
from typing import Final, Self

from layerstore.database import TEMPORARY, system_errors
from layerstore.objects import PARTS, Key

_CACHE_KIB: Final = 32 << 10
_BATCH: Final = 4096


class KeySet:
    """Keys with a number each; what does not fit in some megabytes is in a file without a name.

    A context. All methods raise OSError.
    """

    def __init__(self) -> None:
        # SQLite makes it outside the store, in $SQLITE_TMPDIR or /var/tmp: a full store can still
        # be collected.
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute(
            "CREATE TABLE object (hash BLOB, size INTEGER, variant INTEGER, number INTEGER,"
            " PRIMARY KEY (hash, size, variant)) WITHOUT ROWID"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def add(self, keys: Iterable[tuple[Key, int]]) -> None:
        """Take up keys; those that are there keep their numbers."""
        rows = ((*key, number) for key, number in keys)
        with system_errors(TEMPORARY):
            while batch := list(itertools.islice(rows, _BATCH)):
                self._database.execute("BEGIN")
                self._database.executemany(
                    "INSERT OR IGNORE INTO object VALUES (?, ?, ?, ?)", batch
                )
                self._database.execute("COMMIT")

    def part(self, first: int) -> dict[Key, int]:
        """The keys whose hashes have this first byte, and their numbers."""
        end = bytes([first + 1]) if first + 1 < PARTS else b"\xff" * 17
        with system_errors(TEMPORARY):
            rows = self._database.execute(
                "SELECT hash, size, variant, number FROM object WHERE hash >= ? AND hash < ?",
                (bytes([first]), end),
            )
            return {Key(*row[:3]): row[3] for row in rows}

    def total(self) -> tuple[int, int]:
        """How many keys there are, and the sum of their numbers."""
        with system_errors(TEMPORARY):
            count, numbers = self._database.execute(
                "SELECT count(*), total(number) FROM object"
            ).fetchone()
        return count, int(numbers)

    def __iter__(self) -> Iterator[tuple[Key, int]]:
        """All keys with their numbers, sorted."""
        for first in range(PARTS):
            yield from sorted(self.part(first).items())
