"""Tars for tests, right and wrong ones: each function gives the bytes of one member.

A tar is its members one after the other, so one is put together by ``tar(file("a", b"x"), ...)``
and broken by cutting, joining and repeating bytes; what is said of a member in an extended header
stands before it: ``tar(xattrs({"user.a": b"1"}), file("a"))``. Any field of a header can be given.
A number that does not fit in octal is written in base 256, as GNU tar does; bytes stand as they
are.
"""

from __future__ import annotations

import base64
import os
import struct
from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias
from urllib.parse import quote_from_bytes

BLOCK: Final = 512
END: Final = bytes(2 * BLOCK)
USTAR: Final = b"ustar\x0000"
GNU: Final = b"ustar  \0"
V7: Final = bytes(8)
TIME: Final = 1_000_000_000
"""When everything was changed, in seconds, unless something else is said."""

Text: TypeAlias = str | bytes
Field: TypeAlias = int | bytes
"""Of a header: mode, uid, gid, size, mtime, checksum, link, magic, uname, gname, major, minor,
prefix, rest (what is left of the block)."""
Records: TypeAlias = Mapping[str, Text] | Iterable[tuple[Text, Text]]
Pieces: TypeAlias = Mapping[int, bytes]
"""What a sparse file has, by its offset."""

_HEADER: Final = struct.Struct("100s8s8s8s12s12s8s1s100s8s32s32s8s8s155s12s")


def tar(*members: bytes, end: bytes = END) -> bytes:
    return b"".join(members) + end


def file(name: Text, content: bytes = b"", /, **fields: Field) -> bytes:
    return member(b"0", name, content, **fields)


def directory(name: Text, /, **fields: Field) -> bytes:
    return member(b"5", as_bytes(name) + b"/", **{"mode": 0o755, **fields})


def symlink(name: Text, target: Text, /, **fields: Field) -> bytes:
    return member(b"2", name, **{"link": as_bytes(target), "mode": 0o777, **fields})


def hardlink(name: Text, target: Text, /, **fields: Field) -> bytes:
    return member(b"1", name, **{"link": as_bytes(target), **fields})


def character(name: Text, major: int, minor: int, /, **fields: Field) -> bytes:
    return member(b"3", name, **{"major": major, "minor": minor, **fields})


def block(name: Text, major: int, minor: int, /, **fields: Field) -> bytes:
    return member(b"4", name, **{"major": major, "minor": minor, **fields})


def fifo(name: Text, /, **fields: Field) -> bytes:
    return member(b"6", name, **fields)


def whiteout(name: Text, /, **fields: Field) -> bytes:
    above, slash, last = as_bytes(name).rpartition(b"/")
    return file(above + slash + b".wh." + last, **fields)


def opaque(name: Text, /, **fields: Field) -> bytes:
    return file(as_bytes(name) + b"/.wh..wh..opq", **fields)


def member(kind: bytes, name: Text, content: bytes = b"", /, **fields: Field) -> bytes:
    """Header, content and padding; before them a PAX header if a name or link is too long."""
    name, link = as_bytes(name), fields.get("link", b"")
    long = [("path", name)] if len(name) > 100 else []
    if isinstance(link, bytes) and len(link) > 100:
        long.append(("linkpath", link))
    head = header(kind, name, **{"size": len(content), **fields})
    return (pax(long) if long else b"") + head + padded(content)


def header(kind: bytes, name: bytes, /, **fields: Field) -> bytes:
    """One block, with the right checksum unless another is given."""

    def packed(checksum: Field) -> bytes:
        return _HEADER.pack(
            name,
            number(fields.get("mode", 0o644), 8),
            number(fields.get("uid", 0), 8),
            number(fields.get("gid", 0), 8),
            number(fields.get("size", 0), 12),
            number(fields.get("mtime", TIME), 12),
            number(checksum, 8),
            kind,
            fields.get("link", b""),
            fields.get("magic", USTAR),
            fields.get("uname", b""),
            fields.get("gname", b""),
            number(fields.get("major", 0), 8),
            number(fields.get("minor", 0), 8),
            fields.get("prefix", b""),
            fields.get("rest", b""),
        )

    return packed(fields.get("checksum", sum(packed(b" " * 8))))


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % BLOCK)


def number(value: Field, width: int) -> bytes:
    """A number's field: octal and a NUL if that fits, otherwise base 256."""
    if isinstance(value, bytes):
        return value
    if 0 <= value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    base = 1 << (8 * width)
    return (base // 2 + value if value >= 0 else base + value).to_bytes(width, "big")


# What is said of the next member


def pax(records: Records, /) -> bytes:
    return extended(b"x", pax_records(records))


def xattrs(attributes: Mapping[str, bytes], /) -> bytes:
    return pax({f"SCHILY.xattr.{name}": value for name, value in attributes.items()})


def libarchive_xattrs(attributes: Mapping[str, bytes], /) -> bytes:
    """As bsdtar writes them."""
    return pax(
        {
            f"LIBARCHIVE.xattr.{quote_from_bytes(as_bytes(name))}": base64.b64encode(value)
            for name, value in attributes.items()
        }
    )


def long_name(name: Text, /) -> bytes:
    return extended(b"L", as_bytes(name) + b"\0")


def long_link(target: Text, /) -> bytes:
    return extended(b"K", as_bytes(target) + b"\0")


def extended(kind: bytes, content: bytes, /, **fields: Field) -> bytes:
    """A member that says something of others: PAX (x, g), a GNU long name or link (L, K)."""
    return member(kind, "extended", content, **fields)


def pax_records(records: Records, /) -> bytes:
    pairs = records.items() if isinstance(records, Mapping) else records
    return b"".join(_pax_record(b" %s=%s\n" % (as_bytes(k), as_bytes(v))) for k, v in pairs)


def _pax_record(rest: bytes) -> bytes:
    """With its length in front, which counts its own digits."""
    length = len(rest)
    while (whole := b"%d%s" % (length, rest)) and len(whole) != length:
        length = len(whole)
    return whole


# Sparse files


def gnu_sparse(name: Text, pieces: Pieces, size: int, /, **fields: Field) -> bytes:
    """In the old format of GNU tar: four pieces in the header, 21 in each further block."""
    table = [number(at, 12) + number(len(data), 12) for at, data in pieces.items()]
    further = [table[at : at + 21] for at in range(4, len(table), 21)]
    maps = [
        b"".join(part).ljust(504, b"\0") + bytes([part is not further[-1]]) + bytes(7)
        for part in further
    ]
    # The map begins at byte 386, in what is the prefix otherwise.
    first = b"".join(table[:4]).ljust(96, b"\0") + bytes([bool(further)]) + number(size, 12)
    data = b"".join(pieces.values())
    own: dict[str, Field] = {
        "magic": GNU,
        "size": len(data),
        "prefix": bytes(41) + first,
        "rest": b"",
    }
    return header(b"S", as_bytes(name), **{**own, **fields}) + b"".join(maps) + padded(data)


def pax_sparse(name: Text, pieces: Pieces, size: int, version: str, /, **fields: Field) -> bytes:
    """In a PAX format of GNU tar: 0.0, 0.1 or 1.0."""
    numbers = [str(value) for at, data in pieces.items() for value in (at, len(data))]
    data = b"".join(pieces.values())
    records: list[tuple[str, Text]]
    if version == "1.0":
        records = [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0")]
        records += [("GNU.sparse.name", name), ("GNU.sparse.realsize", str(size))]
        lines = [str(len(pieces)), *numbers, ""]
        return pax(records) + file(
            "placeholder", padded("\n".join(lines).encode()) + data, **fields
        )
    records = [("GNU.sparse.size", str(size)), ("GNU.sparse.numblocks", str(len(pieces)))]
    if version == "0.1":
        records += [("GNU.sparse.name", name), ("GNU.sparse.map", ",".join(numbers))]
        return pax(records) + file("placeholder", data, **fields)
    for offset, length in zip(numbers[::2], numbers[1::2], strict=True):
        records += [("GNU.sparse.offset", offset), ("GNU.sparse.numbytes", length)]
    return pax(records) + file(name, data, **fields)


def as_bytes(text: Text) -> bytes:
    return os.fsencode(text)
