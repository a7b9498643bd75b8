"""A layer's tar, read as a stream: its entries, and every byte that is no file's content.

It keeps nothing but the entry at hand, trusts no number before it is checked, and knows no
whiteouts: what names mean is :mod:`layerstore.index`'s affair. Rules: image-spec layer.md; where
formats leave a choice, what Go's archive/tar does counts, for all other tools read layers so.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

from layerstore import tarformat
from layerstore.errors import InvalidContentError, LimitExceededError, shown
from layerstore.limits import Limits
from layerstore.pieces import Reader
from layerstore.tarformat import BLOCK, Extended, Header, Records, Segments
from unionfs.model import NAME_MAX

_CHUNK: Final = 1 << 20
_ID_MAX: Final = (1 << 32) - 2
_SIZE_MAX: Final = (1 << 63) - 1
# PATH_MAX (linux/limits.h) counts the NUL at the end.
_SYMLINK_MAX: Final = 4095

_TABLE_OF_CONTENTS: Final = b"stargz.index.json\0"

_KINDS: Final = {
    tarformat.SYMLINK: stat.S_IFLNK,
    tarformat.CHARACTER: stat.S_IFCHR,
    tarformat.BLOCK_DEVICE: stat.S_IFBLK,
    tarformat.DIRECTORY: stat.S_IFDIR,
    tarformat.FIFO: stat.S_IFIFO,
    tarformat.GNU_SPARSE: stat.S_IFREG,
    **dict.fromkeys(tarformat.REGULAR, stat.S_IFREG),
}


@dataclass(slots=True)
class TarEntry:
    """One entry of a tar.

    path: names joined by slashes, none of them ``.`` or ``..``; empty for the root.
    kind: S_IFREG and its like, 0 for a hard link. size: of the content, holes included.
    target: of a symbolic link as it stands; of a hard link in the form of *path*.
    """

    path: bytes
    kind: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int = 0
    rdev: int = 0
    target: bytes = b""
    xattrs: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def is_hard_link(self) -> bool:
        """Whether it is one more name of an entry before it."""
        return self.kind == 0


class ContentWriter(Protocol):
    """Takes the content of one file."""

    def write(self, piece: bytes) -> None:
        """The next bytes, which stand in the tar."""
        ...

    def skip(self, count: int) -> None:
        """The next *count* bytes are a hole, which the tar does not have."""
        ...

    def close(self) -> None:
        """That was all."""
        ...


class Sink(Protocol):
    """What a tar is turned into. Calls come in the order of the stream."""

    def literal(self, piece: bytes) -> None:
        """Bytes of the tar that are no file's content: headers, padding, trailer."""
        ...

    def content(self, entry: TarEntry) -> ContentWriter:
        """The content of a regular file begins."""
        ...

    def entry(self, entry: TarEntry) -> None:
        """An entry, after its content. May raise InvalidContentError; its path is added here."""
        ...


def read(reader: Reader, sink: Sink, limits: Limits) -> None:
    """Give all that *reader* has to *sink*.

    Raises InvalidContentError (LimitExceededError) with the name of the entry that is wrong, and
    what the reader and the sink raise.
    """
    _Parser(_Input(reader), sink, limits).run()


class _Input:
    """The stream in pieces of the sizes that are wanted."""

    def __init__(self, reader: Reader) -> None:
        self._read = reader.read
        self._chunk = b""
        self._at = 0

    def take(self, size: int) -> bytes:
        """*size* bytes; fewer only at the end."""
        end = self._at + size
        if end <= len(self._chunk):
            found = self._chunk[self._at : end]
            self._at = end
            return found
        return b"".join(self.pieces(size))

    def pieces(self, size: int) -> Iterator[bytes]:
        """*size* bytes as they come; fewer only at the end."""
        while size:
            if self._at == len(self._chunk):
                self._chunk, self._at = self._read(_CHUNK), 0
                if not self._chunk:
                    return
            piece = self._chunk[self._at : self._at + size]
            self._at += len(piece)
            size -= len(piece)
            yield piece


class _Parser:
    def __init__(self, source: _Input, sink: Sink, limits: Limits) -> None:
        self._source = source
        self._sink = sink
        self._limits = limits
        self._entries = 0
        self._bytes = 0
        self._extended = Extended()
        self._name = b""

    def run(self) -> None:
        while (block := self._block()) is not None:
            self._name = b""
            try:
                self._header(block, tarformat.header(block))
            except InvalidContentError as error:
                where = f"entry {self._entries + 1}"
                if self._name:
                    where += f" ({shown(self._name[:NAME_MAX])})"
                raise type(error)(f"{where}: {error}") from error

    def _block(self) -> bytes | None:
        """The next header; None at the end of the archive."""
        block = self._source.take(BLOCK)
        if block.strip(b"\0"):
            if len(block) < BLOCK:
                raise InvalidContentError("the tar ends in the middle of a header: it is truncated")
            self._sink.literal(block)
            return block
        if self._extended.size:
            raise InvalidContentError("the tar ends after an extended header: it is truncated")
        while block:
            # One block of zeros may be followed by a second; and by more, up to a record's size.
            self._sink.literal(block)
            if block.strip(b"\0"):
                self._table_of_contents(block)
            block = self._source.take(BLOCK)
        return None

    def _table_of_contents(self, block: bytes) -> None:
        """Pass what eStargz has after the end of the tar, which is no entry of it."""
        if len(block) < BLOCK or not block.startswith(_TABLE_OF_CONTENTS):
            raise InvalidContentError("there is something after the end of the tar")
        left = size = self._size(tarformat.header(block).size)
        for piece in self._source.pieces(size):
            self._sink.literal(piece)
            left -= len(piece)
        if left:
            raise InvalidContentError("the table of contents after the tar is truncated")
        self._padding(size)

    def _header(self, block: bytes, header: Header) -> None:
        self._name = header.name
        if header.kind in tarformat.EXTENDING:
            self._extended.add(header.kind, self._metadata(header))
        else:
            extended, self._extended = self._extended, Extended()
            self._entry(block, header, extended)
            self._entries += 1

    def _metadata(self, header: Header) -> bytes:
        self._extended.expect(header.size, self._limits)
        data = self._source.take(header.size)
        if len(data) < header.size:
            raise InvalidContentError("it is truncated")
        self._sink.literal(data)
        self._padding(header.size)
        return data

    def _padding(self, size: int) -> None:
        # What is missing at the very end is not missed (umoci 0.4.7 writes such tars).
        padding = self._source.take(-size % BLOCK)
        if padding:
            self._sink.literal(padding)

    def _entry(self, block: bytes, header: Header, extended: Extended) -> None:
        values = extended.records.values
        self._name = extended.name(header)
        if self._entries >= self._limits.entries:
            raise LimitExceededError(
                f"more than {self._limits.entries} entries; allow more with --limit entries=N"
            )
        kind = self._kind(header)
        if extended.records.are_sparse() and header.kind not in tarformat.REGULAR:
            raise InvalidContentError("a sparse map of something that can't have one")
        stored = self._whole(values, b"size", header.size, _SIZE_MAX)
        # Go: these have no content, whatever their size says.
        stored = stored if kind == stat.S_IFREG else 0
        entry = TarEntry(
            self._path(self._name),
            kind,
            header.mode,
            self._whole(values, b"uid", header.uid, _ID_MAX),
            self._whole(values, b"gid", header.gid, _ID_MAX),
            _time(header, values.get(b"mtime")),
            xattrs=extended.records.xattrs,
        )
        if entry.path == b"" and kind != stat.S_IFDIR:
            raise InvalidContentError("the root can be nothing but a directory")
        if kind in (stat.S_IFCHR, stat.S_IFBLK):
            entry.rdev = _device(header)
        elif kind in (stat.S_IFLNK, 0):
            entry.target = self._target(entry, extended.link(header))
        elif kind == stat.S_IFREG:
            self._content(block, header, extended.records, entry, stored)
        self._sink.entry(entry)

    def _kind(self, header: Header) -> int:
        if header.kind == tarformat.HARD_LINK:
            return 0
        if header.kind == tarformat.OLD_REGULAR and self._name.endswith(b"/"):
            # Before there was a type for directories (7th edition).
            return stat.S_IFDIR
        kind = _KINDS.get(header.kind)
        if kind is None:
            raise InvalidContentError(f"type {header.kind!r} is not one that a layer can have")
        return kind

    def _whole(self, values: dict[bytes, bytes], key: bytes, told: int, most: int) -> int:
        value = tarformat.pax_number(values[key]) if key in values else told
        if not 0 <= value <= most:
            raise InvalidContentError(f"its {key.decode()} is {value}")
        return value

    def _path(self, name: bytes) -> bytes:
        if name.startswith(b"/") and name.strip(b"/"):
            # "/" alone is what kaniko calls the root.
            raise InvalidContentError("its name is absolute")
        if b"\0" in name:
            raise InvalidContentError("its name has a NUL in it")
        names = [part for part in name.split(b"/") if part not in (b"", b".")]
        if b".." in names:
            raise InvalidContentError("its name leads out of the layer")
        if not names and not name:
            raise InvalidContentError("it has no name")
        if any(len(part) > NAME_MAX for part in names):
            raise InvalidContentError(f"a name in its path has more than {NAME_MAX} bytes")
        if len(names) > self._limits.depth:
            raise LimitExceededError(
                f"deeper than {self._limits.depth} directories; allow more with --limit depth=N"
            )
        if len(name) > self._limits.path:
            raise LimitExceededError(
                f"a path of more than {self._limits.path} bytes; allow more with --limit path=N"
            )
        return b"/".join(names)

    def _target(self, entry: TarEntry, target: bytes) -> bytes:
        if entry.is_hard_link:
            try:
                # Docker's own tars have them with and without the leading slash.
                path = self._path(target.lstrip(b"/"))
            except InvalidContentError as error:
                raise type(error)(
                    f"as a hard link to {shown(target[:NAME_MAX])}: {error}"
                ) from error
            if path.startswith(entry.path + b"/"):
                raise InvalidContentError(
                    "a hard link in the place of a directory that has its target"
                )
            return path
        if not target or b"\0" in target:
            raise InvalidContentError("a symbolic link to nothing")
        if len(target) > _SYMLINK_MAX:
            raise InvalidContentError(
                f"a symbolic link to {len(target)} bytes; none can have more than {_SYMLINK_MAX}"
            )
        if len(target) > self._limits.path:
            raise LimitExceededError(
                f"a link to more than {self._limits.path} bytes; allow more with --limit path=N"
            )
        return target

    # Content

    def _content(
        self, block: bytes, header: Header, records: Records, entry: TarEntry, stored: int
    ) -> None:
        pieces, entry.size, used = self._sparse(block, header, records, stored)
        if pieces is None:
            pieces, entry.size = [(0, stored)], stored
        self._bytes += entry.size
        if self._bytes > self._limits.bytes:
            # Holes take no room, but whoever reads them has to read that much.
            raise LimitExceededError(
                f"more than {self._limits.bytes} bytes in files; allow more with --limit bytes=N"
            )
        tarformat.check_pieces(pieces, stored - used, entry.size)
        writer = self._sink.content(entry)
        at = 0
        for offset, length in pieces:
            if offset > at:
                writer.skip(offset - at)
            left = length
            for piece in self._source.pieces(length):
                writer.write(piece)
                left -= len(piece)
            if left:
                raise InvalidContentError(
                    f"its content ends {left} bytes early: the tar is truncated"
                )
            at = offset + length
        if entry.size > at:
            writer.skip(entry.size - at)
        writer.close()
        self._padding(stored)

    def _sparse(
        self, block: bytes, header: Header, records: Records, stored: int
    ) -> tuple[Segments | None, int, int]:
        """The pieces of a sparse file (None: it is none), its size, and bytes read for the map."""
        values = records.values
        if header.kind == tarformat.GNU_SPARSE:
            pieces, size, more = tarformat.gnu_sparse(block)
            while more:
                further, more = tarformat.gnu_sparse_more(self._map_block(len(pieces)))
                pieces += further
            return pieces, self._size(size), 0
        if not records.are_sparse():
            return None, 0, 0
        told = values.get(b"GNU.sparse.size") or values.get(b"GNU.sparse.realsize", b"")
        size = self._size(tarformat.pax_number(told))
        if b"GNU.sparse.major" in values or b"GNU.sparse.minor" in values:
            version = values.get(b"GNU.sparse.major"), values.get(b"GNU.sparse.minor")
            if version != (b"1", b"0"):
                raise InvalidContentError("a sparse file of an unknown format")
            listed, used = self._leading_map(stored)
            return listed, size, used
        numbers = records.pieces or values.get(b"GNU.sparse.map", b"").split(b",")
        return tarformat.pieces_of_list(numbers), size, 0

    def _size(self, size: int) -> int:
        if not 0 <= size <= _SIZE_MAX:
            raise InvalidContentError(f"its size is {size}")
        return size

    def _map_block(self, pieces: int) -> bytes:
        if pieces * 24 > self._limits.header:
            raise LimitExceededError(
                f"a sparse map of more than {self._limits.header} bytes;"
                " allow more with --limit header=N"
            )
        block = self._source.take(BLOCK)
        if len(block) < BLOCK:
            raise InvalidContentError("it is truncated")
        self._sink.literal(block)
        return block

    def _leading_map(self, stored: int) -> tuple[Segments, int]:
        """Format 1.0: the map stands before the content, in blocks of its own."""
        blocks: list[bytes] = []
        lines, wanted = 0, None
        while wanted is None or lines <= wanted:
            if len(blocks) * BLOCK >= stored:
                raise InvalidContentError("its sparse map does not end")
            block = self._map_block(len(blocks) * BLOCK // 24)
            blocks.append(block)
            lines += block.count(b"\n")
            if wanted is None:
                wanted = 2 * tarformat.pax_number(block.partition(b"\n")[0])
                if wanted < 0:
                    raise InvalidContentError("its sparse map has a negative number of pieces")
        numbers = b"".join(blocks).split(b"\n")[1 : wanted + 1]
        return tarformat.pieces_of_list(numbers), len(blocks) * BLOCK


def _time(header: Header, told: bytes | None) -> int:
    nanoseconds = header.mtime * 10**9 if told is None else tarformat.pax_time(told)
    if not -(1 << 63) <= nanoseconds // 10**9 < 1 << 63:
        raise InvalidContentError("its time is too far away")
    return nanoseconds


def _device(header: Header) -> int:
    if not (0 <= header.major < 1 << 12 and 0 <= header.minor < 1 << 20):
        raise InvalidContentError(f"a device {header.major}:{header.minor}")
    return os.makedev(header.major, header.minor)
