import hashlib
import io

import pytest

from layerstore import digest
from layerstore.digest import Digest, HashingReader, VerifyingReader
from layerstore.errors import InvalidContentError

DATA = b"some bytes" * 1000


@pytest.mark.parametrize("name", ["sha256", "sha512"])
def test_a_digest_of_a_known_algorithm_is_accepted(name: str) -> None:
    text = f"{name}:{hashlib.new(name, DATA).hexdigest()}"
    found = digest.parse(text)
    assert found == text
    assert digest.algorithm(found) == name
    assert digest.encoded(found) == text[7:]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256",
        "sha256:",
        "sha256:" + "a" * 63,
        "sha256:" + "a" * 65,
        "sha256:" + "A" * 64,
        "sha256:" + "a" * 64 + "\n",
        "sha256:" + "../" * 21 + "a",
        "sha512:" + "a" * 64,
        "SHA256:" + "a" * 64,
        "md5:" + "a" * 32,
        "a" * 64,
        "sha256:" + "\u0661" * 64,
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidContentError, match="is not a sha256 or sha512 digest"):
        digest.parse(text)


def test_the_line_about_a_bad_digest_is_one_short_line() -> None:
    with pytest.raises(InvalidContentError) as refused:
        digest.parse("x\n" * 100_000)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("name", ["sha256", "sha512"])
def test_verified_bytes_pass_through(name: str) -> None:
    expected = Digest(f"{name}:{hashlib.new(name, DATA).hexdigest()}")
    reader = VerifyingReader(io.BytesIO(DATA), expected, len(DATA))
    pieces = []
    while piece := reader.read(777):
        pieces.append(piece)
    assert b"".join(pieces) == DATA
    assert reader.read(777) == b""


def test_other_bytes_are_refused_at_the_end() -> None:
    reader = VerifyingReader(io.BytesIO(DATA[:-1] + b"!"), digest.of_bytes(DATA), len(DATA))
    with pytest.raises(InvalidContentError, match="damaged or forged"):
        reader.drain()


def test_too_few_bytes_are_refused_at_the_end() -> None:
    reader = VerifyingReader(io.BytesIO(DATA[:-1]), digest.of_bytes(DATA), len(DATA))
    with pytest.raises(InvalidContentError, match=r"ends after 9999 of the 10000 bytes"):
        reader.drain()


def test_too_many_bytes_are_refused_before_the_end() -> None:
    class Endless:
        def read(self, size: int) -> bytes:
            return b"x" * size

    reader = VerifyingReader(Endless(), digest.of_bytes(b"xx"), 2)
    assert reader.read(2) == b"xx"
    with pytest.raises(InvalidContentError, match="longer than the 2 bytes"):
        reader.read(1)


def test_reading_nothing_is_not_the_end() -> None:
    reader = VerifyingReader(io.BytesIO(DATA), digest.of_bytes(DATA), len(DATA))
    assert reader.read(0) == b""
    reader.drain()


def test_a_hashing_reader_tells_what_it_saw() -> None:
    reader = HashingReader(io.BytesIO(DATA))
    reader.read(10)
    assert (reader.size, reader.digest) == (10, digest.of_bytes(DATA[:10]))
    while reader.read(4096):
        pass
    assert (reader.size, reader.digest) == (len(DATA), digest.of_bytes(DATA))
