"""What a layer says is proved by its tar, whose SHA-256 is its diff ID.

The tar is made from recipe and contents, read as an import reads it, and the index that comes out
is compared with the one that is there, row by row.
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import itertools
import os
import sqlite3
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from layerstore import database, layertar, recipe, tarstream
from layerstore.errors import DamagedError, InvalidContentError
from layerstore.index import Index
from layerstore.indexwriter import IndexWriter
from layerstore.ingest import INDEX, RECIPE, Tell, blocks_of, is_small
from layerstore.limits import UNLIMITED
from layerstore.objects import Key, Objects, ObjectWriter
from layerstore.pieces import PieceReader
from layerstore.readahead import ReadAhead
from layerstore.tarstream import TarEntry

_TABLES: Final = {
    "sqlite_schema": "type, name, tbl_name, sql FROM sqlite_schema ORDER BY name",
    "inode": "* FROM inode ORDER BY inode",
    "name": "* FROM name ORDER BY parent, name",
    "xattr": "* FROM xattr ORDER BY inode, name",
    "content": "* FROM content ORDER BY content",
    "layer": "* FROM layer",
}


class Part(enum.Enum):
    """What of a layer is wrong."""

    INDEX = "index"
    RECIPE = "recipe"


@dataclass(frozen=True, slots=True)
class Fault:
    """problem: as a sentence about the part, without its subject."""

    part: Part
    problem: str


def unreadable(directory: str) -> Fault | None:
    """What of the layer in *directory* can't even be read.

    A recipe that can be read is what was written, for it has a checksum.
    """
    try:
        with open(f"{directory}/{RECIPE}", "rb") as file:
            for _ in recipe.tar(file, lambda *_: iter(())):
                pass
    except FileNotFoundError:
        return Fault(Part.RECIPE, "is missing")
    except (DamagedError, OSError) as error:
        return Fault(Part.RECIPE, f"can't be read: {_said(error)}")
    path = f"{directory}/{INDEX}"
    if not os.path.exists(path):
        return Fault(Part.INDEX, "is missing")
    try:
        Index(path).close()
        with _database(path) as index:
            found = [row[0] for row in index.execute("PRAGMA integrity_check(1)")]
    except (DamagedError, sqlite3.DatabaseError) as error:
        return Fault(Part.INDEX, f"can't be read: {error}")
    return None if found == ["ok"] else Fault(Part.INDEX, f"is not in order: {found[0]}")


def fault(directory: str, diff_id: str, objects: Objects, scratch: str, tell: Tell) -> Fault | None:
    """What is wrong with the layer in *directory*, whose parts can be read and whose contents are
    whole; None: nothing is.

    scratch: an empty directory of the caller's own. tell: as of ``ingest``. Raises OSError.
    """
    rebuilt = f"{scratch}/{INDEX}"
    hasher = hashlib.sha256()

    def seen(chunk: bytes) -> None:
        hasher.update(chunk)
        tell(len(chunk))

    try:
        with database.system_errors("a new index"), contextlib.ExitStack() as stack:
            index = stack.enter_context(contextlib.closing(Index(f"{directory}/{INDEX}")))
            file = stack.enter_context(open(f"{directory}/{RECIPE}", "rb"))
            # The index is also read in the thread that reads ahead.
            ahead = stack.enter_context(contextlib.closing(Index(f"{directory}/{INDEX}")))
            pieces = layertar.pieces(file, lambda number: objects.open(ahead.content(number)))
            build = stack.enter_context(_Build(rebuilt, index))
            reader = stack.enter_context(ReadAhead(PieceReader(pieces), seen))
            tarstream.read(reader, build, UNLIMITED)
            build.finish()
    except (DamagedError, InvalidContentError) as error:
        return Fault(Part.INDEX, f"does not fit the recipe: {error}")
    if f"sha256:{hasher.hexdigest()}" != diff_id:
        return Fault(Part.INDEX, "leads to contents that are not the layer's")
    different = _different(f"{directory}/{INDEX}", rebuilt)
    if different is not None:
        return Fault(Part.INDEX, f"says something else than the layer's tar (table {different})")
    return None


class _Build:
    """A :class:`layerstore.tarstream.Sink` that makes an index of a tar whose contents are known;
    a context.
    """

    def __init__(self, path: str, stored: Index) -> None:
        self._stored = stored
        self._index = IndexWriter(path, UNLIMITED.entries)
        self._nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self._size = 0
        self._content = 0
        self._complete = False

    def __enter__(self) -> _Build:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._nowhere)
        if not self._complete:
            self._index.close(keep=False)

    def literal(self, piece: bytes) -> None:
        self._size += len(piece)

    def content(self, entry: TarEntry) -> _Content:
        writer = ObjectWriter(self._nowhere, lambda _, found, size: Key(found, size))
        return _Content(self, entry.size, writer)

    def entry(self, entry: TarEntry) -> None:
        self._index.entry(entry, self._content if entry.kind == stat.S_IFREG else None)

    def take(self, blocks: int, written: int) -> None:
        """A content is complete; *written* bytes of it stand in the tar."""
        self._content = self._index.content(self._stored.content(self._content + 1), blocks)
        self._size += written

    def finish(self) -> None:
        self._index.finish(self._size)
        self._index.close(keep=True)
        self._complete = True


class _Content:
    """Counts the blocks of a content."""

    def __init__(self, build: _Build, size: int, writer: ObjectWriter) -> None:
        self._build = build
        self._size = size
        self._writer = writer
        self._written = 0
        self._has_holes = False

    def write(self, piece: bytes) -> None:
        self._written += len(piece)
        self._writer.write(piece)

    def skip(self, count: int) -> None:
        self._has_holes = True
        self._writer.skip(count)

    def close(self) -> None:
        self._writer.close()
        dense = is_small(self._size) and not self._has_holes
        self._build.take(blocks_of(self._size) if dense else self._writer.blocks, self._written)


def _different(one: str, other: str) -> str | None:
    """The first table in which two indexes differ."""
    with _database(one) as left, _database(other) as right:
        for table, columns in _TABLES.items():
            rows = _rows(left, columns), _rows(right, columns)
            try:
                if any(a != b for a, b in itertools.zip_longest(*rows)):
                    return table
            except sqlite3.DatabaseError:
                return table
    return None


def _rows(index: sqlite3.Connection, columns: str) -> Iterator[tuple[Any, ...]]:
    return index.execute(f"SELECT {columns}")


def _database(path: str) -> contextlib.closing[sqlite3.Connection]:
    return contextlib.closing(
        sqlite3.connect(f"file:{quote(os.fsencode(path))}?mode=ro&immutable=1", uri=True)
    )


def _said(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
