"""Compressed streams: told apart, read within limits, and written the same on every machine.

What is read comes from strangers: no size that a stream claims is believed, and what comes out is
counted while it comes out.
"""

from __future__ import annotations

import bz2
import enum
import lzma
import os
import re
import struct
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Protocol, cast

from zlib_ng import zlib_ng

from layerstore.errors import InvalidContentError, LimitExceededError
from layerstore.limits import RATIO_FREE, Limits
from layerstore.pieces import Reader

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_READ: Final = 1 << 18
_FIRST_FEED: Final = 1 << 12
_HEAD: Final = 10
"""Bytes that tell the formats apart."""
_WINDOW_LOG: Final = 27
"""A zstd stream may look back 128 MiB, as ``zstd --long`` does, and takes that much memory."""
_XZ_MEMORY: Final = 1 << 28
"""Four times what a stream of ``xz -9`` takes."""
_GZIP: Final = 31
"""zlib's word for gzip with the full window."""


class Compression(enum.Enum):
    """How a stream is compressed."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"
    XZ = "xz"
    BZIP2 = "bzip2"


_MAGIC: Final = {
    Compression.GZIP: re.compile(rb"\x1f\x8b\x08"),
    # A skippable frame may come first (RFC 8878, 3.1.2).
    Compression.ZSTD: re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),
    Compression.XZ: re.compile(rb"\xfd7zXZ\x00"),
    # A tar can begin with the letters; not with what follows them, a first block or the end.
    Compression.BZIP2: re.compile(rb"BZh[1-9](1AY&SY|\x17\x72\x45\x38\x50\x90)"),
}


class _Decoder(Protocol):
    """Reads one member or frame, in the manner of the standard library's bz2."""

    def decompress(self, data: bytes, max_length: int) -> bytes: ...
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...


class _Inflate:
    """A :class:`_Decoder` of zlib-ng's, which is twice as fast as most zlibs of Python builds."""

    def __init__(self) -> None:
        self._stream: Final = zlib_ng.decompressobj(_GZIP)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._stream.decompress(self._stream.unconsumed_tail or data, max_length)

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def needs_input(self) -> bool:
        return not self._stream.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data


_DECODERS: Final[dict[Compression, Callable[[], _Decoder]]] = {
    Compression.GZIP: _Inflate,
    Compression.ZSTD: lambda: zstd.ZstdDecompressor(
        options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG}
    ),
    Compression.XZ: lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MEMORY),
    Compression.BZIP2: bz2.BZ2Decompressor,
}

_DAMAGE: Final = (
    cast("type[Exception]", zlib_ng.error),  # its stub declares an instance
    zstd.ZstdError,
    lzma.LZMAError,
    OSError,  # bz2's
)


def sniff(head: bytes) -> Compression:
    """The compression of a stream that begins with *head*: ten bytes of it, or all it has."""
    for kind, magic in _MAGIC.items():
        if magic.match(head):
            return kind
    return Compression.NONE


def open_decompressed(raw: Reader, limits: Limits) -> DecompressedReader:
    """What *raw* holds, decompressed if its first bytes say that it is compressed.

    Raises what reading *raw* raises.
    """
    return DecompressedReader(raw, limits)


class DecompressedReader:
    """A stream, decompressed as it is read: all its members or frames, one after the other.

    compression: how the stream is compressed.
    """

    def __init__(self, raw: Reader, limits: Limits) -> None:
        self._raw: Final = raw
        self._limits: Final = limits
        self._buffer = b""
        self._at = 0
        self._taken = 0
        self._given = 0
        self._feed = _FIRST_FEED
        self._decoder: _Decoder | None = None
        self.compression: Final = sniff(self._peek())

    def read(self, size: int) -> bytes:
        """Up to *size* bytes (at least 1, better 1 MiB); none only at the end.

        Raises InvalidContentError for a stream that is damaged, cut off or followed by something
        else, LimitExceededError for one that holds too much, and what reading the raw stream
        raises.
        """
        plain = self.compression is Compression.NONE
        piece = self._take(size) if plain else self._decompress(size)
        self._given += len(piece)
        self._check_limits()
        return piece

    def _decompress(self, size: int) -> bytes:
        while decoder := self._decoder or self._next_decoder():
            piece = self._decode(decoder, size)
            if decoder.eof:
                self._at -= len(decoder.unused_data)
                self._decoder = None
            if piece:
                return piece
        return b""

    def _next_decoder(self) -> _Decoder | None:
        """The decoder for what follows, a member or frame; None at the end."""
        head = self._peek()
        if not head:
            return None
        if sniff(head) is not self.compression:
            raise self._invalid("something else follows it")
        # What a decoder leaves is copied. A stream may be nothing but ends, so each member or
        # frame gets little at first.
        self._feed = _FIRST_FEED
        self._decoder = _DECODERS[self.compression]()
        return self._decoder

    def _decode(self, decoder: _Decoder, size: int) -> bytes:
        data, starved = b"", False
        if decoder.needs_input:
            data = self._take(self._feed)
            self._feed = min(4 * self._feed, _READ)
            starved = not data
        try:
            piece = decoder.decompress(data, size)
        except _DAMAGE as error:
            raise self._invalid(str(error)) from error
        # Without input a decoder may still have output.
        if starved and not piece and not decoder.eof:
            raise self._invalid("it is cut off")
        return piece

    def _peek(self) -> bytes:
        """The next bytes of the raw stream, enough to tell the formats apart, or all there are."""
        while len(self._buffer) - self._at < _HEAD and (more := self._raw.read(_READ)):
            self._buffer = self._buffer[self._at :] + more
            self._at = 0
            self._taken += len(more)
        return self._buffer[self._at : self._at + _HEAD]

    def _take(self, size: int) -> bytes:
        """Up to *size* bytes of the raw stream; none only at its end."""
        if self._at == len(self._buffer):
            self._buffer = self._raw.read(_READ)
            self._at = 0
            self._taken += len(self._buffer)
        piece = self._buffer[self._at : self._at + size]
        self._at += len(piece)
        return piece

    def _check_limits(self) -> None:
        if self._given > self._limits.bytes:
            raise LimitExceededError(
                f"the stream holds more than {self._limits.bytes} bytes; "
                "`--limit bytes=N` allows more"
            )
        if self._given > RATIO_FREE and self._given > self._limits.ratio * self._taken:
            raise LimitExceededError(
                f"the {self.compression.value} stream becomes more than {self._limits.ratio} "
                "times its size; `--limit ratio=N` allows more"
            )

    def _invalid(self, what: str) -> InvalidContentError:
        return InvalidContentError(
            f"the {self.compression.value} stream is damaged near byte "
            f"{self._taken - len(self._buffer) + self._at}: {what}"
        )


_BLOCK: Final = 1 << 20
"""Bytes compressed by themselves, so that several cores can share the work."""
_GZIP_LEVEL: Final = 2
_ZSTD_LEVEL: Final = 3
_GZIP_HEADER: Final = b"\x1f\x8b\x08\x00" + bytes(4) + b"\x00\xff"
"""Deflate; no name, no time, no known system (RFC 1952, 2.3)."""
_GZIP_LAST_BLOCK: Final = b"\x03\x00"


def compress(chunks: Iterable[bytes], kind: Compression) -> Iterator[bytes]:
    """The bytes of *chunks* as one stream of *kind*: NONE, GZIP or ZSTD.

    The same bytes give the same stream, however they are cut into chunks and on any machine with
    the same zlib-ng and libzstd. Under other processors (emulated: x86-64 from the first to
    AVX2, AVX-512, ARM) isal's output differs, zlib-ng's and zstd's doesn't; Python's zlib is
    another library in other builds, while the wheel of zlib-ng brings its own.
    """
    match kind:
        case Compression.NONE:
            return iter(chunks)
        case Compression.GZIP:
            return _gzip(_blocks(chunks))
        case Compression.ZSTD:
            return _in_order(_zstd_frame, _blocks(chunks))
    raise ValueError(f"nothing is written as {kind.value}")


def _blocks(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in blocks of one size, and a last one that may be smaller."""
    rest = bytearray()
    for chunk in chunks:
        rest += chunk
        while len(rest) > _BLOCK:
            yield bytes(rest[:_BLOCK])
            del rest[:_BLOCK]
    yield bytes(rest)


def _gzip(blocks: Iterable[bytes]) -> Iterator[bytes]:
    # One member, since some readers stop after the first.
    crc = length = 0

    def summed() -> Iterator[bytes]:
        nonlocal crc, length
        for block in blocks:
            crc = zlib_ng.crc32(block, crc)
            length += len(block)
            yield block

    yield _GZIP_HEADER
    yield from _in_order(_deflate, summed())
    yield _GZIP_LAST_BLOCK + struct.pack("<II", crc, length & 0xFFFFFFFF)


def _deflate(block: bytes) -> bytes:
    """*block* in deflate blocks that end at a byte, so that others can follow."""
    stream = zlib_ng.compressobj(_GZIP_LEVEL, zlib_ng.DEFLATED, -zlib_ng.MAX_WBITS)
    return stream.compress(block) + stream.flush(zlib_ng.Z_SYNC_FLUSH)


def _zstd_frame(block: bytes) -> bytes:
    return zstd.compress(block, _ZSTD_LEVEL)


def _in_order(work: Callable[[bytes], bytes], blocks: Iterable[bytes]) -> Iterator[bytes]:
    """What *work* makes of each block, several at a time."""
    workers = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(workers) as pool:
        begun: deque[Future[bytes]] = deque()
        for block in blocks:
            begun.append(pool.submit(work, block))
            if len(begun) > workers:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
