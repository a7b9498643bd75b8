"""What the store knows of images: configs, manifests, names, and which blobs were kept.

Whatever can be read off a config is not kept beside it: an image's layers, for example.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from layerstore import database, digest
from layerstore.errors import DamagedError

_VERSION: Final = 1
_SECONDS_TO_WAIT: Final = 60
_EMPTY: Final = (
    "have layerstore check --repair make an empty one, and import the images again, which reads no"
    " layer that is there"
)
_REMEDY: Final = f"; move catalog.sqlite away, {_EMPTY}"

_SCHEMA: Final = """
-- An image is its config: whoever has the same config has the same layers (image-spec config.md).
CREATE TABLE image (
    image TEXT PRIMARY KEY,     -- digest of the config
    config BLOB NOT NULL,
    added INTEGER NOT NULL      -- seconds since 1970
) STRICT;
-- One config may come in several manifests: with other compression, for example.
CREATE TABLE manifest (
    manifest TEXT PRIMARY KEY,  -- its digest
    image TEXT NOT NULL REFERENCES image ON DELETE CASCADE,
    content BLOB NOT NULL
) STRICT;
CREATE INDEX manifest_image ON manifest (image);
CREATE TABLE tag (
    name TEXT PRIMARY KEY,      -- with its tag: alpine:3.20
    image TEXT NOT NULL REFERENCES image ON DELETE CASCADE
) STRICT;
CREATE INDEX tag_image ON tag (image);
-- Compressed layers that were to be kept, in the store's directory blobs.
CREATE TABLE blob (
    blob TEXT PRIMARY KEY,      -- its digest
    diff_id TEXT NOT NULL,      -- of what it holds
    compression TEXT NOT NULL,
    size INTEGER NOT NULL
) STRICT;
CREATE INDEX blob_diff_id ON blob (diff_id);
"""


class ImageRow(NamedTuple):
    """An image. added: seconds since 1970."""

    image: str
    config: bytes
    added: int


class BlobRow(NamedTuple):
    """A kept blob. size: bytes."""

    blob: str
    diff_id: str
    compression: str
    size: int


class ManifestRow(NamedTuple):
    """A manifest of an image."""

    manifest: str
    image: str
    content: bytes


class Catalog:
    """The catalog at a path; several processes may use it.

    create: make it, unless that has been done. Only for a new store: in one that has lost its own,
    an empty one would make garbage of everything.

    All methods raise DamagedError if it can't be read, StoreError if others have it locked for a
    minute, OSError. A document leaves it only if it has the digest that it is kept under; a blob's
    name, by which files are removed, only if it is a digest.
    """

    def __init__(self, path: str, *, create: bool = False) -> None:
        self._changing = threading.Lock()
        if not create and not os.path.lexists(path):
            raise DamagedError(f"the catalog {path} is missing; put it back; or {_EMPTY}")
        with database.errors("the catalog", _REMEDY):
            self._database = sqlite3.connect(
                f"file:{quote(os.fsencode(path))}?mode={'rwc' if create else 'rw'}",
                timeout=_SECONDS_TO_WAIT,
                isolation_level=None,
                check_same_thread=False,
                uri=True,
            )
        try:
            self._open(create=create)
        except BaseException:
            self._database.close()
            raise

    def _open(self, *, create: bool) -> None:
        # A WAL would need room on a disk that is full just to be opened, and so would any other
        # journal to remove an image; this one keeps the room that it had.
        self._run("PRAGMA journal_mode = PERSIST")
        self._run("PRAGMA synchronous = FULL")
        self._run("PRAGMA foreign_keys = ON")
        if create:
            with self.changing():
                # Another process may have been first.
                if self._version() == 0:
                    for statement in _SCHEMA.split(";\n"):
                        self._run(statement)
                    self._run(f"PRAGMA user_version = {_VERSION}")
        version = self._version()
        if version != _VERSION:
            raise DamagedError(
                f"the catalog has version {version}, and this program knows {_VERSION} only"
                f"{_REMEDY}"
            )

    def _version(self) -> int:
        ((version,),) = self._run("PRAGMA user_version")
        return int(version)

    def close(self) -> None:
        """Give up what is held."""
        self._database.close()

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """All changes in the block take place, durably, or none; other threads wait."""
        with self._changing:
            self._run("BEGIN IMMEDIATE")
            try:
                yield
                self._run("COMMIT")
            except BaseException:
                # Some errors have ended it already.
                if self._database.in_transaction:
                    self._run("ROLLBACK")
                raise

    # Images

    def add_image(self, image: str, config: bytes) -> None:
        """Have an image; nothing changes if it is there, unless its config is damaged."""
        self._run(
            "INSERT INTO image VALUES (?, ?, ?)"
            " ON CONFLICT (image) DO UPDATE SET config = excluded.config",
            (image, config, int(time.time())),
        )

    def add_manifest(self, manifest: str, image: str, content: bytes) -> None:
        """Have a manifest of an image; what is there of it stays only if it is the same."""
        self._run(
            "INSERT INTO manifest VALUES (?, ?, ?) ON CONFLICT (manifest)"
            " DO UPDATE SET image = excluded.image, content = excluded.content",
            (manifest, image, content),
        )

    def remove_image(self, image: str) -> None:
        """Remove an image, its manifests and its names."""
        self._run("DELETE FROM image WHERE image = ?", (image,))

    def images(self) -> list[ImageRow]:
        """All images, the newest last."""
        rows = self._run("SELECT * FROM image ORDER BY rowid")
        return [_whole(ImageRow(*row)) for row in rows]

    def image(self, image: str) -> ImageRow | None:
        """The image of a digest."""
        rows = self._run("SELECT * FROM image WHERE image = ?", (image,))
        return _whole(ImageRow(*rows[0])) if rows else None

    def images_beginning(self, digits: str) -> list[str]:
        """The images whose digests begin so after ``sha256:``."""
        rows = self._run("SELECT image FROM image WHERE image GLOB ?", (f"sha256:{digits}*",))
        return [row[0] for row in rows]

    def manifests(self, image: str) -> list[tuple[str, bytes]]:
        """The manifests of an image: digests and contents, the first that came first."""
        rows = self._run(
            "SELECT manifest, content FROM manifest WHERE image = ? ORDER BY rowid", (image,)
        )
        for manifest, content in rows:
            if digest.of_bytes(content) != manifest:
                raise DamagedError(f"manifest {manifest} is damaged; see layerstore check")
        return [(row[0], row[1]) for row in rows]

    def remove_manifest(self, manifest: str) -> None:
        """Remove a manifest."""
        self._run("DELETE FROM manifest WHERE manifest = ?", (manifest,))

    def image_of_manifest(self, manifest: str) -> str | None:
        """The image whose manifest has this digest."""
        rows = self._run("SELECT image FROM manifest WHERE manifest = ?", (manifest,))
        return str(rows[0][0]) if rows else None

    # Names

    def set_tag(self, name: str, image: str) -> None:
        """Let a name be of an image from now on."""
        self._run("INSERT OR REPLACE INTO tag VALUES (?, ?)", (name, image))

    def remove_tag(self, name: str) -> bool:
        """Take a name away; whether it was there."""
        return bool(self._run("DELETE FROM tag WHERE name = ? RETURNING name", (name,)))

    def tags(self) -> list[tuple[str, str]]:
        """All names and their images, sorted."""
        return [(row[0], row[1]) for row in self._run("SELECT name, image FROM tag ORDER BY name")]

    def image_of_tag(self, name: str) -> str | None:
        """The image of a name."""
        rows = self._run("SELECT image FROM tag WHERE name = ?", (name,))
        return str(rows[0][0]) if rows else None

    # Blobs

    def add_blob(self, blob: BlobRow) -> None:
        """A blob was kept."""
        self._run("INSERT OR REPLACE INTO blob VALUES (?, ?, ?, ?)", blob)

    def remove_blob(self, blob: str) -> None:
        """A blob is not there any more."""
        self._run("DELETE FROM blob WHERE blob = ?", (blob,))

    def blobs(self) -> list[BlobRow]:
        """All that were kept."""
        return [_named(BlobRow(*row)) for row in self._run("SELECT * FROM blob ORDER BY blob")]

    def blobs_of(self, diff_id: str) -> list[BlobRow]:
        """Those that hold a layer."""
        rows = self._run("SELECT * FROM blob WHERE diff_id = ? ORDER BY blob", (diff_id,))
        return [_named(BlobRow(*row)) for row in rows]

    # For who checks it

    def problems(self) -> list[str]:
        """What SQLite finds wrong, and names that lead nowhere, as lines."""
        found = [str(row[0]) for row in self._run("PRAGMA integrity_check")]
        lost = self._run("PRAGMA foreign_key_check")
        found += [
            f"row {row[1]} of the table {row[0]} is of an image that is not there" for row in lost
        ]
        return [line for line in found if line != "ok"]

    def configs(self) -> Iterator[ImageRow]:
        """All images as they stand there, whole or not."""
        return (ImageRow(*row) for row in self._run("SELECT * FROM image ORDER BY rowid"))

    def all_manifests(self) -> Iterator[ManifestRow]:
        """All manifests as they stand there, whole or not."""
        return (ManifestRow(*row) for row in self._run("SELECT * FROM manifest ORDER BY rowid"))

    def _run(self, statement: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        with database.errors("the catalog", _REMEDY):
            return self._database.execute(statement, values).fetchall()


def _whole(row: ImageRow) -> ImageRow:
    if digest.of_bytes(row.config) != row.image:
        raise DamagedError(
            f"the config of image {row.image} is damaged: import the image again, or see"
            " layerstore check"
        )
    return row


def _named(row: BlobRow) -> BlobRow:
    for name in (row.blob, row.diff_id):
        if not digest.is_sha256(name):
            raise DamagedError(
                f"the catalog is damaged: it has a blob called {name!r}, which is no digest"
                f"{_REMEDY}"
            )
    return row
