"""What a tar is read as, kept for comparison; and tars in all formats that layers come in."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Final

from layerstore import tarstream
from layerstore.limits import Limits
from layerstore.tarstream import ContentWriter, TarEntry
from tests.support.tars import (
    GNU,
    V7,
    block,
    character,
    directory,
    extended,
    fifo,
    file,
    gnu_sparse,
    hardlink,
    libarchive_xattrs,
    long_link,
    long_name,
    member,
    opaque,
    pax,
    pax_records,
    pax_sparse,
    symlink,
    tar,
    whiteout,
    xattrs,
)


@dataclass
class Content:
    """A file's content: what was written, by offset, and how far it goes."""

    stream: bytearray
    pieces: dict[int, bytes] = field(default_factory=dict)
    size: int = 0
    closed: bool = False
    _open: int | None = None

    def write(self, piece: bytes) -> None:
        if self._open is None:
            self._open = self.size
            self.pieces[self._open] = b""
        self.pieces[self._open] += piece
        self.size += len(piece)
        self.stream += piece

    def skip(self, count: int) -> None:
        self._open = None
        self.size += count

    def close(self) -> None:
        self.closed = True

    @property
    def whole(self) -> bytes:
        """All of it; for small ones."""
        content = bytearray(self.size)
        for offset, piece in self.pieces.items():
            content[offset : offset + len(piece)] = piece
        return bytes(content)


@dataclass
class Recorder:
    """A sink that keeps everything. stream: all bytes of the tar, in the order they came."""

    stream: bytearray = field(default_factory=bytearray)
    entries: list[TarEntry] = field(default_factory=list)
    contents: dict[int, Content] = field(default_factory=dict)

    def literal(self, piece: bytes) -> None:
        self.stream += piece

    def content(self, entry: TarEntry) -> ContentWriter:
        content = Content(self.stream)
        self.contents[len(self.entries)] = content
        return content

    def entry(self, entry: TarEntry) -> None:
        content = self.contents.get(len(self.entries))
        assert content is None or (content.closed and content.size == entry.size)
        self.entries.append(entry)

    @property
    def only(self) -> TarEntry:
        [entry] = self.entries
        return entry


def recorded(stream: bytes, limits: Limits | None = None) -> Recorder:
    """What *stream* is read as. Raises InvalidContentError."""
    recorder = Recorder()
    tarstream.read(io.BytesIO(stream), recorder, limits or Limits())
    return recorder


MAP: Final = {at * 8192: bytes([65 + at % 26]) * (500 + at) for at in range(1, 30)}
"""A sparse file of more pieces than one block of any format can tell."""
MAP_SIZE: Final = 300_000

SAMPLES: Final = {
    "every kind": tar(
        directory("."),
        directory("d", mode=0o1777, uid=1000, gid=100),
        file("d/empty"),
        file("d/one", b"x", mode=0o4755, mtime=1),
        file("d/blocks", bytes(range(256)) * 5),
        symlink("d/link", "../somewhere"),
        hardlink("h", "d/one"),
        character("c", 1, 3),
        block("b", 8, 17),
        fifo("p"),
        whiteout("gone"),
        opaque("d"),
    ),
    "long names, ustar": tar(file("name", b"1", prefix=b"p" * 100 + b"/" + b"q" * 54)),
    "long names, PAX": tar(file("n" * 120, b"2"), symlink("l", "t" * 300), file(b"m\xe4\xff" * 50)),
    "long names, GNU": tar(
        long_name("n" * 120),
        file("n" * 100, b"3", magic=GNU),
        long_link("t" * 300),
        long_name("l" * 150),
        symlink("l", "t" * 100, magic=GNU),
    ),
    "7th edition": tar(file("a", b"4", magic=V7), member(b"\0", "b/", magic=V7)),
    "large numbers": tar(file("a", b"5", uid=(1 << 32) - 2, gid=1 << 31, mtime=-(1 << 40))),
    "PAX numbers": tar(
        pax({"mtime": "1234567890.987654321", "uid": "4000000", "gid": "5000000", "size": "6"}),
        file("a", b"sixsix", size=0),
        pax({"mtime": "-1.5", "comment": "of no use", "atime": "7"}),
        directory("b"),
    ),
    "a global header": tar(extended(b"g", pax_records({"comment": "of git"})), file("a", b"6")),
    "attributes": tar(
        xattrs({"user.text": b"a=b\n", "security.capability": bytes(range(20)), "user.empty": b""}),
        file("a", b"7"),
        libarchive_xattrs({"user.a b%": b"\0\xff"}),
        file("b", b"8"),
    ),
    "sparse, GNU": tar(gnu_sparse("a", MAP, MAP_SIZE), gnu_sparse("hole", {}, 1 << 33)),
    **{
        f"sparse, PAX {version}": tar(
            pax_sparse("a", MAP, MAP_SIZE, version),
            pax_sparse("hole", {1 << 33: b""}, 1 << 33, version),
        )
        for version in ("0.0", "0.1", "1.0")
    },
    "without padding and trailer": tar(
        file("a", b"9" * 600), file("b", b"9" * 600)[:-424], end=b""
    ),
    "a record of padding": tar(file("a"), end=bytes(10240)),
    "nothing": b"",
}
"""Right ones, by what they show."""
