"""What bytes are read from, how those who give them in pieces become that, and whether they are
the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final, Protocol

_CHUNK: Final = 1 << 20


class Reader(Protocol):
    """Where bytes come from."""

    def read(self, size: int, /) -> bytes:
        """Up to *size* bytes; none at the end."""
        ...


class PieceReader:
    """A :class:`Reader` of pieces that an iterator gives."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def read(self, size: int, /) -> bytes:
        """Up to *size* bytes; none at the end. Raises what the iterator raises."""
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._rest = piece
        found, self._rest = self._rest[:size], self._rest[size:]
        return found


def reads_the_same(one: int, other: int) -> bool:
    """Whether two descriptors of files read the same bytes. Raises OSError."""
    at = 0
    while True:
        piece = os.pread(one, _CHUNK, at)
        if piece != os.pread(other, _CHUNK, at):
            return False
        if not piece:
            return True
        at += len(piece)
