"""The entries of an archive of images: where each lies, without reading any.

Nothing is extracted; names are only looked up in a dictionary. Layers, of which everything counts,
are read by :mod:`layerstore.tarstream`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from layerstore import tarformat
from layerstore.errors import InvalidContentError, LimitExceededError, shown
from layerstore.limits import Limits
from layerstore.pieces import Reader
from layerstore.tarformat import BLOCK, Extended, Header

_CHUNK: Final = 1 << 16
_WITHOUT_CONTENT: Final = frozenset(
    {
        tarformat.HARD_LINK,
        tarformat.SYMLINK,
        tarformat.CHARACTER,
        tarformat.BLOCK_DEVICE,
        tarformat.DIRECTORY,
        tarformat.FIFO,
    }
)


@dataclass(frozen=True, slots=True)
class Member:
    """One entry: its content is *size* bytes from *offset* on.

    name, link: as they stand there. sparse: the content is not the file's as it is.
    """

    name: bytes
    kind: bytes
    link: bytes
    offset: int
    size: int
    sparse: bool


class Tape(Protocol):
    """An archive that is gone through once."""

    @property
    def at(self) -> int:
        """The bytes before what comes next."""
        ...

    def take(self, size: int) -> bytes:
        """The next *size* bytes; fewer only at the end."""
        ...

    def skip(self, size: int) -> None:
        """Leave out *size* bytes. Raises InvalidContentError if there are not so many."""
        ...


class FileTape:
    """A file, by its descriptor, which is left open: what is skipped is not read."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: Final = descriptor
        self._size: Final = os.fstat(descriptor).st_size
        self.at = 0

    def take(self, size: int) -> bytes:
        """The next *size* bytes; fewer only at the end."""
        piece = os.pread(self._descriptor, size, self.at)
        self.at += len(piece)
        return piece

    def skip(self, size: int) -> None:
        """Leave out *size* bytes. Raises InvalidContentError if there are not so many."""
        if size > self._size - self.at:
            raise InvalidContentError("the archive ends in the middle of it: it is truncated")
        self.at += size


class StreamTape:
    """A stream."""

    def __init__(self, reader: Reader) -> None:
        self._reader: Final = reader
        self.at = 0

    def take(self, size: int) -> bytes:
        """The next *size* bytes; fewer only at the end."""
        pieces = []
        while size and (piece := self._reader.read(size)):
            pieces.append(piece)
            size -= len(piece)
            self.at += len(piece)
        return b"".join(pieces)

    def skip(self, size: int) -> None:
        """Leave out *size* bytes. Raises InvalidContentError if there are not so many."""
        while size:
            piece = self.take(min(size, _CHUNK))
            if not piece:
                raise InvalidContentError("the archive ends in the middle of it: it is truncated")
            size -= len(piece)


def members(tape: Tape, limits: Limits) -> Iterator[Member]:
    """The entries on *tape*, in its order; each is told before its content is skipped.

    Raises InvalidContentError (LimitExceededError), with the name of the entry that is wrong.
    """
    extended = Extended()
    while (block := tape.take(BLOCK)).strip(b"\0"):
        header = tarformat.header(block.ljust(BLOCK, b"\0"))
        try:
            if header.kind in tarformat.EXTENDING:
                extended.expect(header.size, limits)
                extended.add(header.kind, _metadata(tape, header.size))
            else:
                member = _member(header, extended, tape.at)
                _check_name(member.name, limits)
                _check_name(member.link, limits)
                extended = Extended()
                yield member
                tape.skip(member.size)
                # The padding of the last one may be missing (umoci 0.4.7 writes such tars).
                tape.take(-member.size % BLOCK)
        except InvalidContentError as error:
            raise type(error)(f"{shown(header.name)}: {error}") from error


def _member(header: Header, extended: Extended, offset: int) -> Member:
    told = extended.records.values.get(b"size")
    size = header.size if told is None else tarformat.pax_number(told)
    if size < 0:
        raise InvalidContentError(f"its size is {size}")
    return Member(
        extended.name(header),
        header.kind,
        extended.link(header),
        offset,
        0 if header.kind in _WITHOUT_CONTENT else size,
        header.kind == tarformat.GNU_SPARSE or extended.records.are_sparse(),
    )


def _check_name(name: bytes, limits: Limits) -> None:
    if len(name) > limits.path:
        raise LimitExceededError(
            f"a path of more than {limits.path} bytes; allow more with --limit path=N"
        )
    if name.count(b"/") > limits.depth:
        raise LimitExceededError(
            f"deeper than {limits.depth} directories; allow more with --limit depth=N"
        )


def _metadata(tape: Tape, size: int) -> bytes:
    data = tape.take(size)
    tape.take(-size % BLOCK)
    if len(data) < size:
        raise InvalidContentError("the archive ends in the middle of it: it is truncated")
    return data
