"""Between those who give bytes in pieces and those who read them."""

from __future__ import annotations

from collections.abc import Iterator


class PieceReader:
    """A :class:`layerstore.tarstream.Reader` of pieces that an iterator gives."""

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
