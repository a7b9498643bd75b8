"""Digests: parsed before they are used for anything, and readers that check or tell them.

A digest is written ``algorithm:hex`` (image-spec, descriptor.md, "Digests"). It becomes part of
paths and of messages, so nothing gets the type :data:`Digest` without having been checked.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Final, NewType

from layerstore.errors import InvalidContentError
from layerstore.pieces import Reader

Digest = NewType("Digest", str)
"""``sha256:`` and 64 hexadecimal digits in lower case, or ``sha512:`` and 128 of them."""

PATTERN: Final = r"\A(?:sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})\Z"
"""What a :data:`Digest` looks like."""

SHA256_PATTERN: Final = r"\Asha256:[0-9a-f]{64}\Z"
"""What the digest of a layer's tar (its diff ID) looks like."""

_DIGEST: Final = re.compile(PATTERN)
_SHA256: Final = re.compile(SHA256_PATTERN)
_SHOWN: Final = 160
_SHORT: Final = 19


def parse(text: str) -> Digest:
    """Check that *text* is a digest. Raises InvalidContentError."""
    if not _DIGEST.match(text):
        raise InvalidContentError(f"{text[:_SHOWN]!r} is not a sha256 or sha512 digest")
    return Digest(text)


def short(text: str) -> str:
    """A digest as people recognise it: the algorithm and twelve digits."""
    return text[:_SHORT]


def is_sha256(text: str) -> bool:
    """Whether *text* is a sha256 digest: all that a store calls its own things by."""
    return _SHA256.match(text) is not None


def algorithm(digest: Digest) -> str:
    """What comes before the colon."""
    return digest.partition(":")[0]


def encoded(digest: Digest) -> str:
    """The hexadecimal digits: they can stand in a path."""
    return digest.partition(":")[2]


def of_bytes(data: bytes, algorithm: str = "sha256") -> Digest:
    """The digest of *data*."""
    return of_pieces((data,), algorithm)


def of_pieces(pieces: Iterable[bytes], algorithm: str = "sha256") -> Digest:
    """The digest of *pieces* one after the other."""
    found = hashlib.new(algorithm)
    for piece in pieces:
        found.update(piece)
    return Digest(f"{algorithm}:{found.hexdigest()}")


class Check:
    """Compares bytes that come in pieces with the digest and the size that they should have."""

    def __init__(self, digest: Digest, size: int) -> None:
        self._digest: Final = digest
        self._size: Final = size
        self._hash: Final = hashlib.new(algorithm(digest))
        self._seen = 0

    def update(self, piece: bytes) -> None:
        """Take the next bytes. Raises InvalidContentError as soon as there are too many."""
        self._seen += len(piece)
        if self._seen > self._size:
            raise InvalidContentError(
                f"{self._digest} is longer than the {self._size} bytes it claims"
            )
        self._hash.update(piece)

    def finish(self) -> None:
        """That was all. Raises InvalidContentError if it was too short or is something else."""
        if self._seen != self._size:
            raise InvalidContentError(
                f"{self._digest} ends after {self._seen} of the {self._size} bytes it claims"
            )
        found = f"{algorithm(self._digest)}:{self._hash.hexdigest()}"
        if found != self._digest:
            raise InvalidContentError(f"{self._digest} is damaged or forged: its digest is {found}")


class VerifyingReader:
    """Passes on what *raw* has, and refuses it unless its digest and size (bytes) are these.

    What was read before the end is not verified yet.
    """

    def __init__(self, raw: Reader, digest: Digest, size: int) -> None:
        self._raw: Final = raw
        self._check: Final = Check(digest, size)
        self._ended = False

    def read(self, size: int, /) -> bytes:
        """Up to *size* bytes; none at the end.

        Raises InvalidContentError: at the end for another digest or too few bytes, and at once for
        too many.
        """
        piece = self._raw.read(size)
        if piece:
            self._check.update(piece)
        elif size and not self._ended:
            self._check.finish()
            self._ended = True
        return piece

    def drain(self) -> None:
        """Read what is left, so that all is checked. Raises InvalidContentError."""
        while self.read(1 << 20):
            pass


class HashingReader:
    """Passes on what *raw* has, and tells the digest (sha256) and size of what came so far."""

    def __init__(self, raw: Reader) -> None:
        self._raw: Final = raw
        self._hash: Final = hashlib.sha256()
        self.size = 0

    @property
    def digest(self) -> Digest:
        """The digest of the bytes read so far."""
        return Digest("sha256:" + self._hash.hexdigest())

    def read(self, size: int, /) -> bytes:
        """Up to *size* bytes; none at the end."""
        piece = self._raw.read(size)
        self._hash.update(piece)
        self.size += len(piece)
        return piece
