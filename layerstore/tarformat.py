"""The formats of tar, block by block: headers, PAX records, sparse maps. No stream in it.

Sources: POSIX pax (ustar interchange format, pax extended headers), the GNU tar manual ("Basic
Tar Format", "Storing Sparse Files"), and for what is tolerated Go's archive/tar, which every
other image tool reads layers with.
"""

from __future__ import annotations

import base64
import binascii
import re
import struct
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

from layerstore.errors import InvalidContentError, LimitExceededError, shown
from layerstore.limits import Limits

BLOCK: Final = 512

FIELDS: Final = struct.Struct("100s8s8s8s12s12s8sc100s6s2s32s32s8s8s155s12x")
"""What stands in a header, from the name to the prefix (POSIX, pax, "ustar Interchange Format")."""

_USTAR: Final = b"ustar\0"
_GNU: Final = b"ustar "

OLD_REGULAR: Final = b"\0"
REGULAR: Final = (b"0", OLD_REGULAR, b"7")
HARD_LINK: Final = b"1"
SYMLINK: Final = b"2"
CHARACTER: Final = b"3"
BLOCK_DEVICE: Final = b"4"
DIRECTORY: Final = b"5"
FIFO: Final = b"6"
GNU_SPARSE: Final = b"S"
GNU_LONG_NAME: Final = b"L"
GNU_LONG_LINK: Final = b"K"
PAX: Final = b"x"
PAX_GLOBAL: Final = b"g"
EXTENDING: Final = frozenset((GNU_LONG_NAME, GNU_LONG_LINK, PAX, PAX_GLOBAL))
"""Headers that say something of an entry which comes after them, or of none."""

_SEVEN_BITS: Final = bytes(range(128))

_SCHILY: Final = b"SCHILY.xattr."
_LIBARCHIVE: Final = b"LIBARCHIVE.xattr."
_XATTR_VALUE_MAX: Final = 1 << 16
_XATTR_NAME_MAX: Final = 255

_SPARSE: Final = b"GNU.sparse."
_PIECE: Final = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")

Segments = Sequence[tuple[int, int]]
"""Where a sparse file has data: (offset, length) of each piece, in order."""


@dataclass(slots=True)
class Header:
    """The fields of one header block, as they stand there."""

    kind: bytes
    name: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    link: bytes
    major: int
    minor: int


def header(block: bytes) -> Header:
    """Read a header block. Raises InvalidContentError: bad checksum, a number that is none."""
    (
        name,
        mode,
        uid,
        gid,
        size,
        mtime,
        checksum,
        kind,
        link,
        magic,
        _,
        _,
        _,
        major,
        minor,
        prefix,
    ) = FIELDS.unpack(block)
    _check_sum(block, checksum)
    name = _text(name)
    posix = magic == _USTAR
    if posix and prefix[0]:
        name = _text(prefix) + b"/" + name
    has_devices = (posix or magic == _GNU) and kind in (CHARACTER, BLOCK_DEVICE)
    return Header(
        kind,
        name,
        number(mode) & 0o7777,
        number(uid),
        number(gid),
        number(size),
        number(mtime),
        _text(link),
        number(major) if has_devices else 0,
        number(minor) if has_devices else 0,
    )


def _check_sum(block: bytes, field: bytes) -> None:
    rest = block[:148] + block[156:]
    found = sum(rest) + 8 * ord(" ")
    # Some old tars summed signed bytes; Go reads them as well.
    signed = found - 256 * len(rest.translate(None, _SEVEN_BITS))
    try:
        right = number(field) in (found, signed)
    except InvalidContentError:
        right = False
    if not right:
        raise InvalidContentError("a header's checksum is wrong: it is damaged, or no tar")


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def number(field: bytes) -> int:
    """A number in octal or, as GNU tar has large and negative ones, in base 256."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big")
        bits = 8 * len(field)
        # The first bit says base 256, the second is the sign.
        return value - (1 << bits) if field[0] & 0x40 else value - (1 << (bits - 1))
    digits = field.strip(b" \0").partition(b"\0")[0]
    if not digits:
        return 0
    if digits.strip(b"01234567"):
        raise InvalidContentError(f"a header has {digits!r} where a number belongs")
    return int(digits, 8)


def pax_records(data: bytes) -> list[tuple[bytes, bytes]]:
    """The records of a pax extended header, in order. Raises InvalidContentError."""
    records = []
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 20)
        length = data[at:space] if space > 0 else b""
        if not length.isdigit():
            if not data[at:].strip(b"\0"):
                break
            raise InvalidContentError("an extended header is no list of records")
        end = at + int(length)
        record = data[space + 1 : end]
        key, equals, value = record[:-1].partition(b"=")
        if end > len(data) or end <= space or record[-1:] != b"\n" or not equals or not key:
            raise InvalidContentError("an extended header has a broken record")
        records.append((key, value))
        at = end
    return records


def pax_time(value: bytes) -> int:
    """Nanoseconds since the epoch from seconds with a fraction. Raises InvalidContentError."""
    found = re.fullmatch(rb"([+-]?)(\d{1,19})(?:\.(\d*))?", value)
    if not found:
        raise InvalidContentError(f"a time is {value[:40]!r}")
    sign, seconds, fraction = found.groups()
    nanoseconds = int(seconds) * 10**9 + int(((fraction or b"")[:9]).ljust(9, b"0"))
    return -nanoseconds if sign == b"-" else nanoseconds


def pax_number(value: bytes) -> int:
    """A decimal number. Raises InvalidContentError."""
    if not re.fullmatch(rb"-?\d{1,20}", value):
        raise InvalidContentError(f"a number is {value[:40]!r}")
    return int(value)


def pax_attribute(key: bytes, value: bytes) -> tuple[bytes, bytes] | None:
    """The extended attribute that a record stands for; None if for none.

    Raises InvalidContentError.
    """
    if key.startswith(_SCHILY):
        return key.removeprefix(_SCHILY), value
    if key.startswith(_LIBARCHIVE):
        name = urllib.parse.unquote_to_bytes(key.removeprefix(_LIBARCHIVE))
        try:
            # libarchive leaves the padding out.
            return name, base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
        except binascii.Error:
            raise InvalidContentError(f"the attribute {name[:40]!r} is not in base 64") from None
    return None


def _check_attribute(name: bytes, value: bytes) -> None:
    if not 0 < len(name) <= _XATTR_NAME_MAX or b"\0" in name:
        raise InvalidContentError(
            f"an extended attribute is called {shown(name[:_XATTR_NAME_MAX])!r}"
        )
    if len(value) > _XATTR_VALUE_MAX:
        raise InvalidContentError(
            f"the extended attribute {shown(name)} has more than {_XATTR_VALUE_MAX} bytes"
        )


@dataclass(slots=True)
class Records:
    """What a pax header says of an entry. pieces: those of sparse format 0.0."""

    values: dict[bytes, bytes] = field(default_factory=dict)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    pieces: list[bytes] = field(default_factory=list)

    @classmethod
    def read(cls, data: bytes) -> Self:
        """Those of one header. Raises InvalidContentError."""
        records = cls()
        for key, value in pax_records(data):
            records._add(key, value)
        return records

    def _add(self, key: bytes, value: bytes) -> None:
        attribute = pax_attribute(key, value)
        if attribute is not None:
            _check_attribute(*attribute)
            self.xattrs[attribute[0]] = attribute[1]
        elif key in _PIECE:
            if key != _PIECE[len(self.pieces) % 2]:
                raise InvalidContentError("a sparse map is out of order")
            self.pieces.append(value)
        elif value:
            self.values[key] = value
        else:
            self.values.pop(key, None)

    def are_sparse(self) -> bool:
        """Whether the entry's content is not its file's as it is."""
        return bool(self.pieces) or any(key.startswith(_SPARSE) for key in self.values)


@dataclass(slots=True)
class Extended:
    """What the headers before an entry's own say of it. size: their bytes."""

    records: Records = field(default_factory=Records)
    long_name: bytes = b""
    long_link: bytes = b""
    size: int = 0

    def expect(self, size: int, limits: Limits) -> None:
        """One of *size* bytes is to be read. Raises LimitExceededError if that is too much."""
        self.size += size
        if size < 0 or self.size > limits.header:
            raise LimitExceededError(
                f"extended headers of more than {limits.header} bytes;"
                " allow more with --limit header=N"
            )

    def add(self, kind: bytes, data: bytes) -> None:
        """What one of EXTENDING has. Raises InvalidContentError."""
        if kind == PAX:
            # As Go: a second one takes the place of the first.
            self.records = Records.read(data)
        elif kind == PAX_GLOBAL:
            # As Go: comments of git and the like. They describe no entry, and are one themselves.
            Records.read(data)
            self.records, self.long_name, self.long_link, self.size = Records(), b"", b"", 0
        elif kind == GNU_LONG_NAME:
            self.long_name = _text(data)
        else:
            self.long_link = _text(data)

    def name(self, own: Header) -> bytes:
        """The name of the entry with this header."""
        values = self.records.values
        return values.get(b"GNU.sparse.name") or self.long_name or values.get(b"path") or own.name

    def link(self, own: Header) -> bytes:
        """What the entry with this header links to."""
        return self.long_link or self.records.values.get(b"linkpath", own.link)


def gnu_sparse(block: bytes) -> tuple[list[tuple[int, int]], int, bool]:
    """The pieces that an old GNU sparse header tells, the whole size, whether more are told."""
    pieces = list(_gnu_pieces(block, 386, 4))
    return pieces, number(block[483:495]), block[482] != 0


def gnu_sparse_more(block: bytes) -> tuple[list[tuple[int, int]], bool]:
    """The pieces that a further block of an old GNU sparse header tells; whether more follow."""
    return list(_gnu_pieces(block, 0, 21)), block[504] != 0


def _gnu_pieces(block: bytes, at: int, count: int) -> Iterator[tuple[int, int]]:
    for start in range(at, at + 24 * count, 24):
        if block[start] == 0:
            return
        yield number(block[start : start + 12]), number(block[start + 12 : start + 24])


def pieces_of_list(numbers: Sequence[bytes]) -> list[tuple[int, int]]:
    """Offset, length, offset, length ... as the pax sparse formats list them."""
    if len(numbers) % 2:
        raise InvalidContentError("a sparse map ends in the middle")
    values = [pax_number(text) for text in numbers]
    return list(zip(values[::2], values[1::2], strict=True))


def check_pieces(pieces: Segments, stored: int, size: int) -> None:
    """Raise InvalidContentError unless *pieces* are in order, within *size*, and *stored* bytes."""
    end = 0
    for offset, length in pieces:
        if offset < end or length < 0:
            raise InvalidContentError("a sparse map is out of order")
        end = offset + length
    if end > size or sum(length for _, length in pieces) != stored:
        raise InvalidContentError("a sparse map does not fit the file's size")
