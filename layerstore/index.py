"""One layer's tree in SQLite, as it is read; :mod:`layerstore.indexwriter` writes it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from layerstore.errors import DamagedError
from layerstore.objects import Key

VERSION: Final = 1
ROOT: Final = 1
"""The inode of the root."""
_INODE_MAX: Final = 1 << 32
"""More than any layer has: what is larger is damage."""

SCHEMA: Final = """
-- What names lead to. A directory that has something in it and no entry of its own is implied: then
-- its attributes say nothing.
CREATE TABLE inode (
    inode INTEGER PRIMARY KEY,      -- 1 is the root
    mode INTEGER NOT NULL,          -- type and permissions, as st_mode
    uid INTEGER NOT NULL,
    gid INTEGER NOT NULL,
    seconds INTEGER NOT NULL,       -- modification time, since 1970, rounded down
    nanoseconds INTEGER NOT NULL,   -- and the rest of it, never negative
    links INTEGER NOT NULL,         -- names; of a directory: 2, and 1 for each directory in it
    rdev INTEGER NOT NULL,          -- of a device; otherwise 0
    target BLOB,                    -- of a symbolic link; otherwise null
    content INTEGER REFERENCES content,  -- of a regular file; otherwise null
    opaque INTEGER NOT NULL,        -- 1: a directory that hides what is below; otherwise 0
    implied INTEGER NOT NULL        -- 1: an implied directory; otherwise 0
) STRICT;
-- Inode 0: a whiteout.
CREATE TABLE name (
    parent INTEGER NOT NULL,
    name BLOB NOT NULL,
    inode INTEGER NOT NULL,
    PRIMARY KEY (parent, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE xattr (
    inode INTEGER NOT NULL,
    name BLOB NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (inode, name)
) STRICT, WITHOUT ROWID;
-- The contents of the tar, in its order, those included that a later entry replaced: the recipe
-- needs them.
CREATE TABLE content (
    content INTEGER PRIMARY KEY,
    hash BLOB NOT NULL,
    size INTEGER NOT NULL,
    variant INTEGER NOT NULL,
    blocks INTEGER NOT NULL         -- of 512 bytes, holes left out
) STRICT;
-- One row. size: bytes of the tar; entries: of the tar.
CREATE TABLE layer (size INTEGER NOT NULL, entries INTEGER NOT NULL) STRICT;
"""


class Inode(NamedTuple):
    """A row of the table ``inode``, with what ``content`` says of its content."""

    inode: int
    mode: int
    uid: int
    gid: int
    seconds: int
    nanoseconds: int
    links: int
    rdev: int
    target: bytes | None
    opaque: int
    implied: int
    hash: bytes | None
    size: int | None
    variant: int | None
    blocks: int | None

    @property
    def key(self) -> Key | None:
        """The object of a regular file."""
        if self.hash is None or self.size is None or self.variant is None:
            return None
        return Key(self.hash, self.size, self.variant)


_INODE: Final = (
    "inode.inode, mode, uid, gid, seconds, nanoseconds, links, rdev, target, opaque, implied,"
    " hash, size, variant, blocks"
)


_NO_NAMES: Final = frozenset((b"", b".", b".."))
_NUMBERS: Final = (int,) * 8
_BYTES: Final = frozenset((bytes, type(None)))


class Content(NamedTuple):
    """A row of the table ``content``."""

    number: int
    key: Key
    blocks: int


class Index:
    """An index that is complete, open for reading until ``close``.

    All methods raise DamagedError when the file is not what was written.
    """

    def __init__(self, path: str) -> None:
        # Immutable: no locks and no journal are looked for.
        address = f"file:{quote(os.fsencode(path))}?mode=ro&immutable=1"
        try:
            self._database = sqlite3.connect(address, uri=True, check_same_thread=False)
        except sqlite3.Error as error:
            raise _damaged(error) from error
        self._database.isolation_level = None
        try:
            ((version,),) = self._query("PRAGMA user_version")
            if version != VERSION:
                raise DamagedError(f"its index has version {version}")
        except BaseException:
            self._database.close()
            raise

    def close(self) -> None:
        """Give up what is held."""
        self._database.close()

    def inode(self, number: int) -> Inode:
        """An inode. Raises DamagedError if there is none."""
        rows = self._query(
            f"SELECT {_INODE} FROM inode LEFT JOIN content USING (content) WHERE inode = ?",
            (number,),
        )
        if not rows:
            raise DamagedError(f"its index has no inode {number}")
        return _checked(Inode(*rows[0]))

    def child(self, parent: int, name: bytes) -> Inode | None:
        """What *name* in *parent* leads to (inode 0: a whiteout); None if the name is not there."""
        rows = self._query(
            f"SELECT name.inode AS found, {_INODE} FROM name LEFT JOIN inode USING (inode)"
            " LEFT JOIN content USING (content) WHERE parent = ? AND name = ?",
            (parent, name),
        )
        return _named(rows[0]) if rows else None

    def children(self, parent: int) -> Iterator[tuple[bytes, Inode]]:
        """All names in *parent*, sorted, with what they lead to."""
        rows = self._query(
            f"SELECT name, name.inode AS found, {_INODE} FROM name LEFT JOIN inode USING (inode)"
            " LEFT JOIN content USING (content) WHERE parent = ? ORDER BY name",
            (parent,),
        )
        return ((_name(row[0]), _named(row[1:])) for row in rows)

    def xattrs(self, inode: int) -> dict[bytes, bytes]:
        """The extended attributes of an inode."""
        rows = self._query("SELECT name, value FROM xattr WHERE inode = ?", (inode,))
        return {_bytes(name): _bytes(value) for name, value in rows}

    def with_xattrs(self) -> frozenset[int]:
        """The inodes that have extended attributes."""
        rows = self._query("SELECT DISTINCT inode FROM xattr")
        return frozenset(inode for (inode,) in rows)

    def contents(self) -> Iterator[Content]:
        """All contents, in the order of the tar."""
        for row in self._rows("SELECT content, hash, size, variant, blocks FROM content"):
            yield Content(row[0], Key(*row[1:4]), row[4])

    def content(self, number: int) -> Key:
        """The object of a content. Raises DamagedError if there is none."""
        rows = self._query("SELECT hash, size, variant FROM content WHERE content = ?", (number,))
        if not rows:
            raise DamagedError(f"its index has no content {number}")
        return Key(*rows[0])

    def highest(self) -> int:
        """The highest number of an inode."""
        ((number,),) = self._query("SELECT max(inode) FROM inode")
        if not isinstance(number, int) or number > _INODE_MAX:
            raise DamagedError(f"its index has an inode {number}")
        return number

    def totals(self) -> tuple[int, int]:
        """Bytes of the layer's tar, and its entries."""
        ((size, entries),) = self._query("SELECT size, entries FROM layer")
        return size, entries

    def _query(self, statement: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        return list(self._rows(statement, values))

    def _rows(self, statement: str, values: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        try:
            yield from self._database.execute(statement, values)
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            # A message may quote what the file has.
            raise _damaged(error) from error


def _damaged(error: Exception) -> DamagedError:
    return DamagedError(f"its index can't be read: {error}")


def _named(row: tuple[Any, ...]) -> Inode:
    inode = Inode(*row[1:])
    if row[0] == 0:
        return inode._replace(inode=0)
    if inode.inode is None:
        raise DamagedError("its index has a name without an inode")
    return _checked(inode)


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise DamagedError(f"its index has {value!r:.40} where bytes belong")
    return value


def _name(value: object) -> bytes:
    name = _bytes(value)
    if name in _NO_NAMES or b"/" in name or b"\0" in name:
        raise DamagedError(f"its index has a name {name!r:.40}")
    return name


def _checked(inode: Inode) -> Inode:
    """A row has the types of its columns unless the file is damaged."""
    types = tuple(map(type, inode))
    if types[:8] != _NUMBERS or not _BYTES.issuperset((types[8], types[11])):
        raise DamagedError(f"its index has an inode {inode.inode} that can't be")
    return inode
