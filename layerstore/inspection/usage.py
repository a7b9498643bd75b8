"""How many bytes images take in the store, alone and together, and what sharing saves: du."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from layerstore.database import TEMPORARY, system_errors
from layerstore.inspection import subjects, waste
from layerstore.inspection.waste import Waste
from layerstore.layer import StoredLayer
from layerstore.repository import Image, Repository
from layerstore.space import SECTOR, taken_below

_SCHEMA: Final = """
-- What each layer's tar has. bytes: that the object takes on the disk; times: in this layer.
CREATE TABLE content (
    hash BLOB, size INTEGER, variant INTEGER, layer TEXT, bytes INTEGER, times INTEGER,
    PRIMARY KEY (hash, size, variant, layer)
) WITHOUT ROWID;
CREATE TABLE used (layer TEXT, image TEXT, PRIMARY KEY (layer, image)) WITHOUT ROWID;
"""
_OBJECTS: Final = """
CREATE TABLE object AS
SELECT max(bytes) AS bytes, count(DISTINCT image) AS images, min(image) AS image
FROM content LEFT JOIN used USING (layer) GROUP BY hash, size, variant
"""
_ADD: Final = (
    "INSERT INTO content VALUES (?, ?, ?, ?, ?, 1) ON CONFLICT DO UPDATE SET times = times + 1"
)
_OF_IMAGES: Final = """
SELECT image, sum(bytes) FROM (
    SELECT DISTINCT image, hash, size, variant, bytes FROM used JOIN content USING (layer)
) GROUP BY image
"""
_UNIQUE: Final = "SELECT image, sum(bytes) FROM object WHERE images = 1 GROUP BY image"
_STORED: Final = "SELECT coalesce(sum(bytes), 0) FROM object"
_UNUSED: Final = "SELECT coalesce(sum(bytes), 0) FROM object WHERE images = 0"
_BY_IMAGES: Final = "SELECT coalesce(sum(bytes * times), 0) FROM used JOIN content USING (layer)"
_BY_LAYERS: Final = (
    "SELECT coalesce(sum(bytes * times), 0) FROM content WHERE layer IN (SELECT layer FROM used)"
)


@dataclass(frozen=True, slots=True)
class ImageUsage:
    """Bytes of one image.

    unique: of objects that no other image of the store uses. shared: of those that others use, too.
    waste: what a plain unpack takes (``shown``), and what is carried without being shown.
    """

    image: Image
    unique: int
    shared: int
    waste: Waste


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes of a store.

    images: those that were asked for. The rest is about the whole store. objects: all contents that
    layers have. unused: of these, what no image uses. indexes: what layers have besides contents.
    blobs: compressed layers that were kept. saved_by_layers: what would come on top if no images
    shared layers; saved_by_files: and what, if equal files were kept as often as layers have them.
    """

    images: Sequence[ImageUsage]
    objects: int
    unused: int
    indexes: int
    blobs: int
    saved_by_layers: int
    saved_by_files: int

    @property
    def stored(self) -> int:
        """All that the store takes."""
        return self.objects + self.indexes + self.blobs


def measure(repository: Repository, images: Sequence[Image] | None = None) -> Usage:
    """What *images* (None: all) take, beside all others in the store.

    Objects count with the blocks that they take on the disk, so that a hole is nothing and a small
    file a whole block; what is unpacked, shown and hidden with the sizes of the files. Raises
    StoreError, OSError.
    """
    known = repository.images()
    with system_errors(TEMPORARY), contextlib.closing(_Contents()) as contents:
        for layer in _layers(repository):
            contents.add(layer)
        for image in known:
            contents.use(image)
        contents.settle()
        unique, of_images = contents.by_image(_UNIQUE), contents.by_image(_OF_IMAGES)
        by_images, by_layers = contents.total(_BY_IMAGES), contents.total(_BY_LAYERS)
        objects, unused = contents.total(_STORED), contents.total(_UNUSED)
    return Usage(
        [
            ImageUsage(
                image,
                unique.get(image.id, 0),
                of_images.get(image.id, 0) - unique.get(image.id, 0),
                _waste(repository, image),
            )
            for image in (known if images is None else images)
        ],
        objects,
        unused,
        taken_below(repository.paths.layers),
        taken_below(repository.paths.blobs),
        by_images - by_layers,
        by_layers - (objects - unused),
    )


class _Contents:
    """Which layer has which contents, in a database that needs no memory to speak of."""

    def __init__(self) -> None:
        # Without a name it is a temporary one, on the disk where it grows too big for the cache.
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.executescript(_SCHEMA)
        self._database.execute("BEGIN")

    def add(self, layer: StoredLayer) -> None:
        self._database.executemany(_ADD, _rows(layer))

    def use(self, image: Image) -> None:
        rows = [(layer, image.id) for layer in set(image.layers)]
        self._database.executemany("INSERT INTO used VALUES (?, ?)", rows)

    def settle(self) -> None:
        """All layers and images are there."""
        self._database.execute(_OBJECTS)

    def by_image(self, query: str) -> dict[str, int]:
        return dict(self._database.execute(query))

    def total(self, query: str) -> int:
        ((number,),) = self._database.execute(query)
        return int(number)

    def close(self) -> None:
        self._database.close()


def _rows(layer: StoredLayer) -> Iterator[tuple[Any, ...]]:
    for content in layer.index.contents():
        yield (*content.key, layer.identity, content.blocks * SECTOR)


def _layers(repository: Repository) -> Iterator[StoredLayer]:
    """All layers, one open at a time; those that are being collected are left out."""
    for diff_id in repository.layers():
        held = repository.hold_layer(diff_id)
        if held is None:
            continue
        try:
            with contextlib.closing(repository.open_layer(diff_id)) as layer:
                yield layer
        finally:
            os.close(held)


def _waste(repository: Repository, image: Image) -> Waste:
    with subjects.opened_layers(repository, image) as layers:
        return waste.measure(layers)
