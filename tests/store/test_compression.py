"""Compressed streams: told apart, read within limits, written the same everywhere."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import itertools
import lzma
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator

import pytest

from layerstore.compression import Compression, compress, open_decompressed, sniff
from layerstore.errors import InvalidContentError, LimitExceededError
from layerstore.limits import RATIO_FREE, Limits

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

COMPRESSORS: dict[Compression, Callable[[bytes], bytes]] = {
    Compression.GZIP: gzip.compress,
    Compression.ZSTD: zstd.compress,
    Compression.XZ: lzma.compress,
    Compression.BZIP2: bz2.compress,
}
SKIPPABLE = b"\x5e\x2a\x4d\x18" + struct.pack("<I", 3) + b"abc"
MEBIBYTE = 1 << 20

compressed = pytest.mark.parametrize("kind", COMPRESSORS)


class Trickle:
    """A stream that gives a few bytes at a time, as a pipe may."""

    def __init__(self, content: bytes, at_once: int) -> None:
        self._stream = io.BytesIO(content)
        self._at_once = at_once

    def read(self, size: int, /) -> bytes:
        return self._stream.read(min(size, self._at_once))


def text(size: int) -> bytes:
    """Bytes that compress about as well as those of images, always the same."""
    source = random.Random(size)
    words = [source.randbytes(source.randint(2, 9)) for _ in range(400)]
    return b" ".join(source.choices(words, k=size // 6))[:size]


def pieces(stream: bytes, limits: Limits | None = None, size: int = MEBIBYTE) -> Iterator[bytes]:
    reader = open_decompressed(io.BytesIO(stream), limits or Limits())
    while piece := reader.read(size):
        yield piece


def decompressed(stream: bytes, limits: Limits | None = None) -> bytes:
    return b"".join(pieces(stream, limits))


def zeros(kind: Compression, size: int) -> bytes:
    """A stream of *kind* that becomes *size* zero bytes."""
    member = COMPRESSORS[kind](bytes(MEBIBYTE))
    return member * (size // MEBIBYTE)


@compressed
def test_a_compressed_stream_is_told_by_its_first_bytes(kind: Compression) -> None:
    stream = COMPRESSORS[kind](b"content")
    assert sniff(stream) is kind
    assert open_decompressed(io.BytesIO(stream), Limits()).compression is kind


@pytest.mark.parametrize("head", [b"", b"\x1f\x8b", b"BZh9-release-notes", b"etc/passwd\0\0\0"])
def test_what_is_not_compressed_is_left_alone(head: bytes) -> None:
    assert sniff(head) is Compression.NONE
    assert decompressed(head) == head


@compressed
def test_an_empty_content_is_no_error(kind: Compression) -> None:
    assert decompressed(COMPRESSORS[kind](b"")) == b""


@compressed
def test_members_and_frames_are_read_through(kind: Compression) -> None:
    parts = [text(300_000), b"", b"x", text(70_000)]
    stream = b"".join(COMPRESSORS[kind](part) for part in parts)
    assert decompressed(stream) == b"".join(parts)


def test_skippable_frames_of_zstd_are_skipped() -> None:
    stream = SKIPPABLE + zstd.compress(b"one") + SKIPPABLE * 2 + zstd.compress(b"two") + SKIPPABLE
    assert decompressed(stream) == b"onetwo"


@compressed
@pytest.mark.parametrize("at_once", [1, 7, 4096])
def test_a_stream_may_come_in_small_pieces(kind: Compression, at_once: int) -> None:
    content = text(20_000)
    stream = COMPRESSORS[kind](content) * 2
    reader = open_decompressed(Trickle(stream, at_once), Limits())
    assert reader.compression is kind
    assert b"".join(iter(lambda: reader.read(1000), b"")) == content * 2


@compressed
def test_a_read_gives_no_more_than_asked_for(kind: Compression) -> None:
    assert {len(piece) for piece in pieces(zeros(kind, MEBIBYTE), size=4096)} == {4096}


@compressed
def test_a_stream_cut_off_anywhere_is_refused(kind: Compression) -> None:
    stream = COMPRESSORS[kind](text(3000))
    for length in range(10, len(stream)):
        with pytest.raises(InvalidContentError, match="cut off"):
            decompressed(stream[:length])


@compressed
def test_a_second_member_cut_off_is_refused(kind: Compression) -> None:
    stream = COMPRESSORS[kind](text(3000))
    with pytest.raises(InvalidContentError):
        decompressed(stream + stream[:-1])


@compressed
@pytest.mark.parametrize(
    "garbage", [b"\0", bytes(512), b"garbage", gzip.compress(b"", mtime=0)[:2]]
)
def test_what_follows_the_end_is_refused(kind: Compression, garbage: bytes) -> None:
    with pytest.raises(InvalidContentError, match="something else follows"):
        decompressed(COMPRESSORS[kind](b"content") + garbage)


def test_a_stream_of_another_kind_after_the_end_is_refused() -> None:
    with pytest.raises(InvalidContentError, match="something else follows"):
        decompressed(gzip.compress(b"content", mtime=0) + zstd.compress(b"content"))


@compressed
def test_a_flipped_bit_is_refused_or_changes_nothing(kind: Compression) -> None:
    content = text(300)
    whole = (
        zstd.compress(content, options={zstd.CompressionParameter.checksum_flag: 1})
        if kind is Compression.ZSTD
        else COMPRESSORS[kind](content)
    )
    refused = 0
    for position, bit in itertools.product(range(10, len(whole)), range(8)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << bit
        try:
            assert decompressed(bytes(damaged)) == content
        except InvalidContentError:
            refused += 1
    assert refused > 7 * (len(whole) - 10)


@compressed
def test_more_bytes_than_allowed_are_refused(kind: Compression) -> None:
    stream = COMPRESSORS[kind](bytes(1001))
    assert len(decompressed(stream, Limits(bytes=1001))) == 1001
    with pytest.raises(LimitExceededError, match="--limit bytes=N"):
        decompressed(stream, Limits(bytes=1000))


def test_more_plain_bytes_than_allowed_are_refused() -> None:
    with pytest.raises(LimitExceededError, match="--limit bytes=N"):
        decompressed(bytes(1001), Limits(bytes=1000))


@pytest.mark.parametrize("kind", [Compression.ZSTD, Compression.BZIP2])
def test_a_bomb_is_refused_soon_after_its_ratio_counts(kind: Compression) -> None:
    given = pieces(zeros(kind, 4 * RATIO_FREE))
    assert sum(map(len, itertools.islice(given, RATIO_FREE // MEBIBYTE))) <= RATIO_FREE
    with pytest.raises(LimitExceededError, match="--limit ratio=N"):
        next(given)


def test_a_ratio_below_the_limit_is_accepted() -> None:
    stream = zeros(Compression.GZIP, RATIO_FREE + MEBIBYTE)
    ratio = (RATIO_FREE + MEBIBYTE) // len(stream)
    assert sum(map(len, pieces(stream, Limits(ratio=ratio + 1)))) == RATIO_FREE + MEBIBYTE
    with pytest.raises(LimitExceededError, match="--limit ratio=N"):
        decompressed(stream, Limits(ratio=ratio // 2))


def long_frame(window_log: int) -> bytes:
    options: dict[int, int] = {
        zstd.CompressionParameter.window_log: window_log,
        zstd.CompressionParameter.enable_long_distance_matching: 1,
    }
    stream = zstd.ZstdCompressor(options=options)
    return stream.compress(b"content") + stream.flush()


def test_a_zstd_window_may_have_128_mib_and_no_more() -> None:
    assert decompressed(long_frame(27)) == b"content"
    with pytest.raises(InvalidContentError, match="memory"):
        decompressed(long_frame(28))


@pytest.mark.parametrize("kind", [Compression.NONE, Compression.GZIP, Compression.ZSTD])
@pytest.mark.parametrize("size", [0, 1, MEBIBYTE - 1, MEBIBYTE, MEBIBYTE + 1, 5 * MEBIBYTE])
def test_what_is_compressed_comes_back(kind: Compression, size: int) -> None:
    content = text(size)
    stream = b"".join(compress([content], kind))
    assert sniff(stream) is kind
    assert decompressed(stream) == content


@pytest.mark.parametrize("kind", [Compression.GZIP, Compression.ZSTD])
def test_the_cut_into_chunks_does_not_show(kind: Compression) -> None:
    content = text(3 * MEBIBYTE)
    whole = b"".join(compress([content], kind))
    for size in (4095, MEBIBYTE, MEBIBYTE + 1):
        chunks = [content[start : start + size] for start in range(0, len(content), size)]
        assert b"".join(compress([b"", *chunks, b""], kind)) == whole


@pytest.mark.parametrize(
    ("kind", "digest"),
    [
        (Compression.GZIP, "364dc8ca5df5af9773a87294bda4b659514d0ab93365d01c8a94df53f2bde277"),
        (Compression.ZSTD, "f7c03d033d3bf86bb9a700f6f9f7811c2cdd0d58978818c995e04793f1c2ada6"),
    ],
)
def test_the_same_bytes_come_out_on_every_machine(kind: Compression, digest: str) -> None:
    # Made on x86-64, and the same on emulated ones and on ARM. Where it fails, another version of
    # the library compresses otherwise: two machines with two versions would export two blobs.
    stream = b"".join(compress([text(3 * MEBIBYTE)], kind))
    assert hashlib.sha256(stream).hexdigest() == digest


def test_gzip_is_one_member_that_tells_nothing_of_its_making() -> None:
    content = text(3 * MEBIBYTE)
    stream = b"".join(compress([content], Compression.GZIP))
    assert stream[:10] == bytes.fromhex("1f8b08 00 00000000 00 ff")
    decoder = zlib.decompressobj(31)
    assert decoder.decompress(stream) == content
    assert decoder.eof
    assert not decoder.unused_data


def test_gunzip_reads_what_we_write() -> None:
    content = text(3 * MEBIBYTE)
    stream = b"".join(compress([content], Compression.GZIP))
    done = subprocess.run(["gzip", "-dc"], input=stream, capture_output=True, check=True)
    assert done.stdout == content


@pytest.mark.parametrize("kind", [Compression.XZ, Compression.BZIP2])
def test_nothing_is_written_in_formats_that_no_registry_takes(kind: Compression) -> None:
    with pytest.raises(ValueError, match=kind.value):
        compress([b""], kind)


def test_chunks_that_fail_end_the_stream_with_their_error() -> None:
    def chunks() -> Iterator[bytes]:
        yield bytes(3 * MEBIBYTE)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(compress(chunks(), Compression.GZIP))
