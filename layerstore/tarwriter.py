"""Writing tar: the same members give the same bytes, on any machine.

The format is ustar (POSIX.1-1988), and for what does not fit a POSIX.1-2001 extended header with
just those records: names of any length, big numbers, times in nanoseconds, and extended attributes
as ``SCHILY.xattr.NAME``. Files with holes are GNU's sparse format 1.0 (GNU tar manual, "Storing
Sparse Files"). Names and values are raw bytes, whatever their encoding. GNU tar, Python's tarfile
and Go's archive/tar, which the other image tools use, read all of it. Owners have no names.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from layerstore.errors import InvalidContentError, StoreError, shown
from layerstore.tarformat import BLOCK, FIELDS
from layerstore.view import Naming

_CHUNK: Final = 1 << 20
_SECOND: Final = 10**9
_NAME: Final = 100
_PREFIX: Final = 155
_SMALL: Final = 0o7777777
_BIG: Final = 0o77777777777

_FILE: Final = b"0"
_HARD_LINK: Final = b"1"
_EXTENDED: Final = b"x"
_KINDS: Final = {
    stat.S_IFREG: _FILE,
    stat.S_IFLNK: b"2",
    stat.S_IFCHR: b"3",
    stat.S_IFBLK: b"4",
    stat.S_IFDIR: b"5",
    stat.S_IFIFO: b"6",
}

_DEVICES: Final = (b"3", b"4")

_Records = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One entry of an archive.

    name: without slashes at either end; ``.`` is the root. mode: with the type. size: of a regular
    file's content. device: a device's number. target: a symbolic link's. link: the name of an
    earlier member, if this is another name of it. open: answers a descriptor of the content, which
    the writer closes; not asked for where there is none.
    """

    name: bytes
    mode: int
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size: int = 0
    device: int = 0
    target: bytes = b""
    link: bytes | None = None
    xattrs: Mapping[bytes, bytes] = field(default_factory=dict)
    open: Callable[[], int] | None = None


def write(members: Iterable[Member]) -> Iterator[bytes]:
    """The archive of *members*, in their order, piece by piece.

    Raises InvalidContentError for what no tar can say (a socket, an attribute with ``=`` in its
    name), StoreError if a file changes while it is read, OSError of the layers. What was written
    until then is no whole archive.
    """
    for member in members:
        if stat.S_ISREG(member.mode) and member.size and member.link is None:
            yield from _file(member)
        else:
            yield _head(member, 0, [])
    yield bytes(2 * BLOCK)


def _file(member: Member) -> Iterator[bytes]:
    assert member.open is not None
    descriptor = member.open()
    try:
        status = os.fstat(descriptor)
        _require_same(member, member.size, status.st_size)
        pieces = _pieces(descriptor, status)
        table = _map(pieces, member.size)
        stored = len(table) + sum(end - start for start, end in pieces)
        # An extended header is two blocks or more.
        if stored + 2 * BLOCK < member.size:
            yield _head(member, stored, _sparse_records(member), sparse=True) + table
        else:
            pieces, stored = [(0, member.size)], member.size
            yield _head(member, stored, [])
        for start, end in pieces:
            yield from _content(member, descriptor, start, end)
        now = os.fstat(descriptor)
        _require_same(member, (status.st_size, status.st_mtime_ns), (now.st_size, now.st_mtime_ns))
        yield _padding(stored)
    finally:
        os.close(descriptor)


def _content(member: Member, descriptor: int, start: int, end: int) -> Iterator[bytes]:
    while start < end:
        with Naming(member.name):
            piece = os.pread(descriptor, min(_CHUNK, end - start), start)
        _require_same(member, True, bool(piece))
        yield piece
        start += len(piece)


def _require_same(member: Member, before: object, now: object) -> None:
    if before != now:
        name = shown(member.name)
        raise StoreError(f"{name}: changed while it was read; try again when nothing writes to it")


# Holes


def _pieces(descriptor: int, status: os.stat_result) -> list[tuple[int, int]]:
    """Where a file has data (start, end), rounded to blocks, for GNU tar pads each piece to one."""
    size = status.st_size
    if status.st_blocks * 512 >= size:
        return [(0, size)]
    pieces: list[tuple[int, int]] = []
    end = 0
    while end < size:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break
            raise
        end = min(_rounded_up(os.lseek(descriptor, start, os.SEEK_HOLE)), size)
        start -= start % BLOCK
        if pieces and pieces[-1][1] >= start:
            start = pieces.pop()[0]
        pieces.append((start, end))
    return pieces


def _map(pieces: list[tuple[int, int]], size: int) -> bytes:
    """The map that stands before the data of a sparse file."""
    entries = [(start, end - start) for start, end in pieces]
    if not pieces or pieces[-1][1] < size:
        # As GNU tar tells of a hole at the end.
        entries.append((size, 0))
    numbers = [len(entries), *(number for entry in entries for number in entry)]
    text = b"".join(b"%d\n" % number for number in numbers)
    return text + _padding(len(text))


def _sparse_records(member: Member) -> _Records:
    return [
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.name", member.name),
        (b"GNU.sparse.realsize", b"%d" % member.size),
    ]


# Headers


def _head(member: Member, size: int, records: _Records, *, sparse: bool = False) -> bytes:
    """The header of a member with all that has to stand before it."""
    kind = _kind(member)
    device = member.device if kind in _DEVICES else 0
    if max(os.major(device), os.minor(device)) > _SMALL:
        raise InvalidContentError(f"{shown(member.name)}: a device number that no tar has room for")
    name = member.name + b"/" if stat.S_ISDIR(member.mode) else member.name
    target = member.target if member.link is None else member.link
    base = name.rstrip(b"/").rpartition(b"/")[2]
    records = records + _records(member, b"" if sparse else name, target, size)
    prefix, name = (b"", b"GNUSparseFile.0/" + base) if sparse else _split(name) or (b"", name)
    block = _block(
        kind,
        name[:_NAME],
        prefix=prefix,
        mode=stat.S_IMODE(member.mode),
        uid=member.uid,
        gid=member.gid,
        size=size,
        mtime=member.mtime_ns // _SECOND,
        target=target[:_NAME],
        device=device,
    )
    if not records:
        return block
    extended = b"".join(_record(key, value) for key, value in records)
    name = (b"PaxHeaders.0/" + base)[:_NAME]
    head = _block(_EXTENDED, name, mode=0o644, size=len(extended))
    return head + extended + _padding(len(extended)) + block


def _kind(member: Member) -> bytes:
    if member.link is not None:
        return _HARD_LINK
    kind = _KINDS.get(stat.S_IFMT(member.mode))
    if kind is None:
        raise InvalidContentError(f"{shown(member.name)}: a socket can't be in a tar")
    return kind


def _records(member: Member, name: bytes, target: bytes, size: int) -> _Records:
    """What the header has no room for."""
    records = []
    if name and _split(name) is None:
        records.append((b"path", name))
    if len(target) > _NAME:
        records.append((b"linkpath", target))
    numbers = ((b"size", size, _BIG), (b"uid", member.uid, _SMALL), (b"gid", member.gid, _SMALL))
    records += [(key, b"%d" % number) for key, number, most in numbers if number > most]
    if not 0 <= member.mtime_ns <= _BIG * _SECOND or member.mtime_ns % _SECOND:
        records.append((b"mtime", _time(member.mtime_ns)))
    for key, value in sorted(member.xattrs.items()):
        if b"=" in key:
            where = f"{shown(member.name)}: the attribute {shown(key)}"
            raise InvalidContentError(f"{where} can't be in a tar, as its name has an equals sign")
        records.append((b"SCHILY.xattr." + key, value))
    return records


def _split(name: bytes) -> tuple[bytes, bytes] | None:
    """*name* as prefix and name of a ustar header, which has a slash between them; None if it has
    no room for it."""
    if len(name) <= _NAME:
        return b"", name
    at = name.rfind(b"/", 0, min(_PREFIX + 1, len(name) - 1))
    if at < 1 or len(name) - at - 1 > _NAME:
        return None
    return name[:at], name[at + 1 :]


def _time(nanoseconds: int) -> bytes:
    """A decimal number of seconds."""
    seconds, rest = divmod(abs(nanoseconds), _SECOND)
    sign = b"-" if nanoseconds < 0 else b""
    return (sign + b"%d.%09d" % (seconds, rest)).rstrip(b"0").rstrip(b".")


def _record(key: bytes, value: bytes) -> bytes:
    """A record of an extended header; its length counts its own digits too."""
    rest = b" %s=%s\n" % (key, value)
    length = len(rest)
    while length != len(rest) + len(b"%d" % length):
        length = len(rest) + len(b"%d" % length)
    return b"%d" % length + rest


def _block(
    kind: bytes,
    name: bytes,
    *,
    mode: int,
    size: int,
    prefix: bytes = b"",
    uid: int = 0,
    gid: int = 0,
    mtime: int = 0,
    target: bytes = b"",
    device: int = 0,
) -> bytes:
    def pack(checksum: bytes) -> bytes:
        return FIELDS.pack(
            name,
            _octal(mode, _SMALL),
            _octal(uid, _SMALL),
            _octal(gid, _SMALL),
            _octal(size, _BIG),
            _octal(mtime, _BIG),
            checksum,
            kind,
            target,
            b"ustar\0",
            b"00",
            b"",
            b"",
            _octal(os.major(device), _SMALL),
            _octal(os.minor(device), _SMALL),
            prefix,
        )

    return pack(b"%06o\0 " % sum(pack(b" " * 8)))


def _octal(number: int, most: int) -> bytes:
    """A number as a field has it; 0 if there is no room, for an extended header has it then."""
    digits = len(b"%o" % most)
    return b"%0*o\0" % (digits, number if 0 <= number <= most else 0)


def _rounded_up(size: int) -> int:
    return size + -size % BLOCK


def _padding(size: int) -> bytes:
    return bytes(-size % BLOCK)
