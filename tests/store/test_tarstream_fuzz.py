"""Tars damaged at random: read as what they are, or refused; never anything else.

What is accepted is compared with what Python's tarfile makes of it, another reader of the formats.
"""

from __future__ import annotations

import base64
import contextlib
import io
import os
import stat
import tarfile
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from hypothesis import given, settings
from hypothesis import strategies as st

from layerstore import tarformat, tarstream
from layerstore.errors import InvalidContentError
from layerstore.index import ROOT, Index
from layerstore.indexwriter import IndexWriter
from layerstore.limits import Limits
from layerstore.objects import Key
from layerstore.tarstream import TarEntry
from tests.support.tarcases import SAMPLES, Recorder, recorded
from tests.support.tars import BLOCK

EXAMPLES: Final = 300
MEMORY: Final = 8 << 20
"""Far more than any of the inputs needs, far less than they can claim to."""
LIMITS: Final = Limits(header=1 << 16, entries=1000, depth=64, path=4096)

Mutation = Callable[[st.DrawFn, bytes], bytes]

FIELDS: Final = {
    "name": (0, 100),
    "mode": (100, 8),
    "uid": (108, 8),
    "gid": (116, 8),
    "size": (124, 12),
    "mtime": (136, 12),
    "type": (156, 1),
    "link": (157, 100),
    "magic": (257, 8),
    "major": (329, 8),
    "minor": (337, 8),
    "prefix": (345, 155),
    "sparse": (386, 24),
    "more": (482, 1),
    "realsize": (483, 12),
}
TYPES: Final = [bytes([code]) for code in b"\0001234567SLKxgZ"]
VALUES: Final = [
    b"",
    b"\0" * 24,
    b"00000000001\0",
    b"00000000777 ",
    b"0000644\0",
    b"77777777777\0",
    b"\x80" + bytes(6) + b"\1" + bytes(3) + b"\2",
    b"\xff" * 12,
    b"\xc0" + bytes(11),
    b"\x80" + b"\xff" * 11,
    b"-1\0",
    b"../..\0",
    b"/\0",
    b"a\0",
    b"d/one\0",
    b".wh.\0",
    b".wh.d\0",
    b"d/.wh..wh..opq\0",
    b"ustar  \0",
    b"ustar\x0000",
]


class Damaged(bytes):
    """A tar, shown in a way that can be pasted."""

    def __repr__(self) -> str:
        return f"zlib.decompress(base64.b64decode({base64.b64encode(zlib.compress(self))!r}))"


def position(draw: st.DrawFn, stream: bytes) -> int:
    """Anywhere, but often where a block begins."""
    if draw(st.booleans()):
        return BLOCK * draw(st.integers(0, len(stream) // BLOCK))
    return draw(st.integers(0, len(stream)))


def cut(draw: st.DrawFn, stream: bytes) -> bytes:
    start, end = sorted((position(draw, stream), position(draw, stream)))
    return stream[:start] + stream[end:]


def truncate(draw: st.DrawFn, stream: bytes) -> bytes:
    return stream[: position(draw, stream)]


def insert(draw: st.DrawFn, stream: bytes) -> bytes:
    at = position(draw, stream)
    piece = draw(st.binary(max_size=30) | st.sampled_from([bytes(BLOCK), b"\n", b"0", b"9" * 20]))
    return stream[:at] + piece + stream[at:]


def flip(draw: st.DrawFn, stream: bytes) -> bytes:
    if not stream:
        return stream
    at = draw(st.integers(0, len(stream) - 1))
    return stream[:at] + bytes([draw(st.integers(0, 255))]) + stream[at + 1 :]


def splice(draw: st.DrawFn, stream: bytes) -> bytes:
    other = draw(st.sampled_from(list(SAMPLES.values())))
    start, end = sorted((position(draw, other), position(draw, other)))
    at = position(draw, stream)
    return stream[:at] + other[start:end] + stream[at:]


def replace_field(draw: st.DrawFn, stream: bytes) -> bytes:
    headers = list(headers_of(stream))
    if not headers:
        return stream
    start, length = FIELDS[draw(st.sampled_from(list(FIELDS)))]
    values = st.sampled_from(TYPES if length == 1 else VALUES) | st.binary(max_size=length)
    at = draw(st.sampled_from(headers)) + start
    value = draw(values)[:length]
    return stream[:at] + value + stream[at + len(value) :]


def replace_digit(draw: st.DrawFn, stream: bytes) -> bytes:
    """In the records of an extended header, or a sparse map."""
    digits = [at for at, code in enumerate(stream) if chr(code).isdigit() and at % BLOCK < 100]
    if not digits:
        return stream
    at = draw(st.sampled_from(digits))
    return stream[:at] + bytes([draw(st.sampled_from(b"0123456789-+, =\n\0"))]) + stream[at + 1 :]


MUTATIONS: Final[list[Mutation]] = [
    cut,
    truncate,
    insert,
    flip,
    splice,
    replace_field,
    replace_field,
    replace_digit,
]


def headers_of(stream: bytes) -> Iterator[int]:
    """Where a block looks like a header."""
    for at in range(0, len(stream) - BLOCK + 1, BLOCK):
        if stream[at + 257 : at + 262] == b"ustar":
            yield at


def mended(stream: bytes) -> bytes:
    """With right checksums: otherwise little that is damaged gets far."""
    whole = bytearray(stream)
    for at in headers_of(stream):
        whole[at + 148 : at + 156] = b" " * 8
        whole[at + 148 : at + 156] = b"%06o\0 " % sum(whole[at : at + BLOCK])
    return bytes(whole)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    stream = draw(st.sampled_from(list(SAMPLES.values())))
    for _ in range(draw(st.integers(1, 4))):
        stream = draw(st.sampled_from(MUTATIONS))(draw, stream)
    return Damaged(mended(stream) if draw(st.integers(0, 3)) else stream)


def accepted(stream: bytes) -> Recorder | None:
    try:
        return recorded(stream, LIMITS)
    except InvalidContentError:
        return None


# What is read


def check_entry(entry: TarEntry) -> None:
    names = entry.path.split(b"/") if entry.path else []
    assert all(0 < len(name) < 256 and name not in (b".", b"..") for name in names)
    assert b"\0" not in entry.path + entry.target
    assert len(names) <= LIMITS.depth
    assert entry.kind == 0 or stat.S_IFMT(entry.kind) == entry.kind
    assert entry.mode & ~0o7777 == 0
    assert 0 <= entry.uid < (1 << 32) - 1
    assert 0 <= entry.gid < (1 << 32) - 1
    assert 0 <= entry.size <= LIMITS.bytes
    assert abs(entry.mtime_ns // 10**9) <= 1 << 63
    assert (entry.rdev == 0) or entry.kind in (stat.S_IFCHR, stat.S_IFBLK)
    assert bool(entry.target) == (entry.kind == stat.S_IFLNK) or entry.kind == 0


def test_damaged_tars_are_read_or_refused(campaign: int) -> None:
    @settings(max_examples=EXAMPLES * campaign, deadline=None, derandomize=True, database=None)
    @given(damaged())
    def run(stream: bytes) -> None:
        tracemalloc.start()
        try:
            read = accepted(stream)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < MEMORY
        if read is not None:
            assert bytes(read.stream) == stream
            for entry in read.entries:
                check_entry(entry)

    run()


# What an index makes of it


class Indexed(Recorder):
    """Takes the entries up in an index, too."""

    def __init__(self, index: IndexWriter) -> None:
        super().__init__()
        self._index = index

    def entry(self, entry: TarEntry) -> None:
        number = None
        if entry.kind == stat.S_IFREG:
            number = self._index.content(Key(bytes(16), entry.size), 0)
        self._index.entry(entry, number)
        super().entry(entry)


def check_index(index: Index) -> None:
    """Every name leads somewhere; files have as many links as names, directories as they must."""
    names: dict[int, int] = {}
    links: dict[int, int] = {}
    directories = [ROOT]
    for directory in directories:
        below = 0
        for name, inode in index.children(directory):
            assert 0 < len(name) < 256
            if not inode.inode:
                continue  # a whiteout
            if stat.S_ISDIR(inode.mode):
                below += 1
                directories.append(inode.inode)
            else:
                names[inode.inode] = names.get(inode.inode, 0) + 1
                links[inode.inode] = inode.links
        assert index.inode(directory).links == 2 + below
    assert names == links


def test_whatever_is_taken_up_is_a_tree(tmp_path: Path, campaign: int) -> None:
    path = str(tmp_path / "index.sqlite")

    @settings(max_examples=EXAMPLES * campaign, deadline=None, derandomize=True, database=None)
    @given(damaged())
    def run(stream: bytes) -> None:
        writer = IndexWriter(path, Limits().entries)
        try:
            tarstream.read(io.BytesIO(stream), Indexed(writer), LIMITS)
            writer.finish(len(stream))
            writer.close(keep=True)
            index = Index(path)
            check_index(index)
            index.close()
        except InvalidContentError:
            writer.close(keep=False)
        finally:
            os.unlink(path)

    run()


# What tarfile reads

KINDS: Final = {
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.FIFOTYPE: stat.S_IFIFO,
    tarfile.LNKTYPE: 0,
}


def members(stream: bytes) -> Iterator[tuple[tarfile.TarInfo, bytes | None]]:
    """What tarfile reads, until it gives up, which it does in many ways; contents of no holes."""
    file = io.BytesIO(stream)
    with (
        contextlib.suppress(Exception),
        tarfile.open(
            fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape"
        ) as archive,
    ):
        # To tarfile a global header tells of all that follows, to Go of nothing.
        while (member := archive.next()) is not None and not archive.pax_headers:
            content = None
            if member.isreg() and member.sparse is None:
                content = stream[member.offset_data : member.offset_data + member.size]
            yield member, content


def headers_before(stream: bytes, member: tarfile.TarInfo) -> str:
    """The types of the headers that tell of *member*, its own the last."""
    types, at = "", member.offset
    while at < member.offset_data:
        types += chr(stream[at + 156])
        if types[-1] not in "xgLK":
            break
        at += BLOCK + -(-tarformat.number(stream[at + 124 : at + 136]) // BLOCK) * BLOCK
    return types


def is_told_otherwise(stream: bytes, member: tarfile.TarInfo) -> bool:
    """Whether tarfile is known not to read *member* as Go does."""
    types = headers_before(stream, member)
    own = stream[: member.offset_data]
    head = own[-BLOCK:]
    return (
        # Of several extended headers the first counts.
        len(types) > 2
        # Whether a slash at the end makes it a directory, tells the short name.
        or types[-1] == "\0"
        # There is a prefix in formats that have none.
        or (head[345] != 0 and head[257:263] != b"ustar\0")
        # A record without a value is one.
        or b"=\n" in own[member.offset :]
    )


def path_of(name: str) -> bytes:
    parts = os.fsencode(name).split(b"/")
    return b"/".join(part for part in parts if part not in (b"", b"."))


def compare(stream: bytes, read: Recorder) -> int:
    """How many members tarfile reads as we do; fails at one that it reads otherwise."""
    same = 0
    for number, (member, content) in enumerate(members(stream)):
        if is_told_otherwise(stream, member):
            break
        entry = read.entries[number]
        assert path_of(member.name) == entry.path
        assert KINDS.get(member.type, stat.S_IFREG) == entry.kind
        if entry.kind == stat.S_IFLNK:
            assert os.fsencode(member.linkname) == entry.target
        elif entry.kind == 0:
            assert path_of(member.linkname) == entry.target
        elif entry.kind == stat.S_IFREG:
            assert member.size == entry.size
            if content is not None:
                assert read.contents[number].whole == content
        same += 1
    return same


def test_tarfile_reads_the_samples_as_we_do() -> None:
    assert sum(compare(stream, recorded(stream)) for stream in SAMPLES.values()) > 25


def test_what_is_accepted_is_what_tarfile_reads(campaign: int) -> None:
    compared = 0

    @settings(max_examples=EXAMPLES * campaign, deadline=None, derandomize=True, database=None)
    @given(damaged())
    def run(stream: bytes) -> None:
        nonlocal compared
        read = accepted(stream)
        if read is not None:
            compared += compare(stream, read)

    run()
    assert compared > EXAMPLES // 3
