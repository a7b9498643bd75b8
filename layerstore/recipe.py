"""What a layer's tar has besides file contents, so that it can be written again bit for bit.

A recipe is a zstd stream of records. ``L``, a length (u32) and bytes: they stand in the tar.
``C``, a content (u64, a row of the index's table ``content``), an offset and a length (u64 each):
this part of it stands in the tar. All numbers are little-endian. Whether a tar that was written
again is right tells its SHA-256, the layer's diff ID.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import BinaryIO, Final, Protocol

from layerstore.errors import DamagedError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_LITERAL: Final = struct.Struct("<cI")
_CONTENT: Final = struct.Struct("<cQQQ")
_CHUNK: Final = 1 << 20
_NUMBER_MAX: Final = (1 << 62) - 1
"""So that an offset and a length together are still an offset."""
_OPTIONS: Final[Mapping[int, int]] = {
    zstd.CompressionParameter.compression_level: 3,
    # What reads it then knows whether it is the recipe that is damaged, or the index.
    zstd.CompressionParameter.checksum_flag: 1,
}


class RecipeWriter:
    """Writes a recipe to a file, in the order of the tar."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._compressor = zstd.ZstdCompressor(options=_OPTIONS)
        self._literal: list[bytes] = []
        self._length = 0

    def literal(self, piece: bytes) -> None:
        """These bytes stand next. Raises OSError."""
        self._literal.append(piece)
        self._length += len(piece)
        if self._length >= _CHUNK:
            self._flush()

    def content(self, content: int, offset: int, length: int) -> None:
        """This part of a content stands next. Raises OSError."""
        self._flush()
        self._put(_CONTENT.pack(b"C", content, offset, length))

    def finish(self) -> None:
        """That was all. Raises OSError."""
        self._flush()
        self._file.write(self._compressor.flush())

    def _flush(self) -> None:
        if self._literal:
            self._put(_LITERAL.pack(b"L", self._length) + b"".join(self._literal))
            self._literal.clear()
            self._length = 0

    def _put(self, record: bytes) -> None:
        self._file.write(self._compressor.compress(record))


class Source(Protocol):
    """Gives parts of contents."""

    def __call__(self, content: int, offset: int, length: int) -> Iterator[bytes]: ...


def tar(file: BinaryIO, contents: Source) -> Iterator[bytes]:
    """The tar that the recipe in *file* tells, in pieces.

    Raises DamagedError if the recipe can't be read, and what *contents* raises.
    """
    take = _taker(file)

    def whole(size: int) -> bytes:
        found = take(size)
        if len(found) < size:
            raise DamagedError("a recipe is truncated")
        return found

    while kind := take(1):
        if kind == b"L":
            (length,) = struct.unpack("<I", whole(4))
            yield whole(length)
        elif kind == b"C":
            numbers = struct.unpack("<QQQ", whole(24))
            if max(numbers) > _NUMBER_MAX:
                raise DamagedError("a recipe has a part of a content where none can be")
            yield from contents(*numbers)
        else:
            raise DamagedError("a recipe has an unknown record")


def _taker(file: BinaryIO) -> Callable[[int], bytes]:
    """A function that gives so many bytes of the decompressed file; fewer only at its end."""
    decompressor = zstd.ZstdDecompressor()
    buffer = bytearray()

    def take(size: int) -> bytes:
        while len(buffer) < size and not decompressor.eof:
            chunk = file.read(_CHUNK) if decompressor.needs_input else b""
            if decompressor.needs_input and not chunk:
                raise DamagedError("a recipe is truncated")
            try:
                buffer.extend(decompressor.decompress(chunk, max(size, _CHUNK)))
            except zstd.ZstdError as error:
                raise DamagedError(f"a recipe can't be read: {error}") from error
        found = bytes(buffer[:size])
        del buffer[:size]
        return found

    return take
