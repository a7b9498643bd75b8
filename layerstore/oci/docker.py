"""Images as ``docker save`` writes them: manifest.json names configs and layers by their paths.

Others write it too, each in its own way: kaniko and crane have compressed layers, Bazel links one
layer to another, Jib has lower-case keys, docker itself has put everything under blobs/ since 25.
Format: docker's image/spec/v1.2.md, "Combined Image JSON + Filesystem Changeset Format".
"""

from __future__ import annotations

import posixpath
import re
from typing import Final

from msgspec import Struct

from layerstore import digest
from layerstore.digest import Digest
from layerstore.errors import InvalidContentError
from layerstore.limits import Limits
from layerstore.oci import documents, lenient, names
from layerstore.oci.documents import Platform
from layerstore.oci.files import Files, read
from layerstore.oci.images import SourceImage, SourceLayer, suited
from layerstore.oci.streams import Content
from layerstore.oci.text import shown

MANIFEST: Final = "manifest.json"

_BLOB: Final = re.compile(r"blobs/(sha256)/([0-9a-f]{64})")
_HEX: Final = re.compile(r"[0-9a-f]{64}")


class Item(Struct, frozen=True, rename="pascal"):
    """One image in manifest.json. config, layers (base first): paths in the archive."""

    config: str
    repo_tags: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()

    @property
    def config_hex(self) -> str:
        """The digest in the config's name; empty if it has none."""
        found = _HEX.search(posixpath.basename(self.config))
        return found[0] if found else ""

    @property
    def names(self) -> tuple[str, ...]:
        """What it is called, as ``name:tag``. Raises InvalidContentError for what is no name."""
        return tuple(_name(tag) for tag in self.repo_tags)


class _Items(Struct, frozen=True):
    items: tuple[Item, ...]


def parse_items(data: bytes, limits: Limits) -> tuple[Item, ...]:
    """Read manifest.json. Raises InvalidContentError with the place in the document."""
    document = lenient.decode(data, MANIFEST, limits)
    if document is None or document == []:
        raise InvalidContentError(f"{MANIFEST}: it lists no image")
    return lenient.convert({"items": document}, _Items, MANIFEST).items


class DockerArchive:
    """The images that manifest.json lists."""

    def __init__(self, items: tuple[Item, ...], files: Files, limits: Limits) -> None:
        self._items: Final = items
        self._files: Final = files
        self._limits: Final = limits

    def images(self, platform: Platform | None, reference: str | None) -> list[SourceImage]:
        """The images for *platform* (None: any), that *reference* names (None: all).

        Raises StoreError if there is none, with what there is instead; InvalidContentError,
        OSError.
        """
        items = self._items
        if reference is not None:
            items = tuple(item for item in items if names.is_among(reference, item.repo_tags))
        if not items:
            known = (name for item in self._items for name in item.repo_tags)
            raise names.unknown(reference or "", known)
        images = [self._image(item) for item in items]
        return images if platform is None else suited(images, platform)

    def _image(self, item: Item) -> SourceImage:
        raw = self._config(item)
        config = documents.parse_config(raw, shown(item.config), self._limits)
        documents.check_layers(len(item.layers), config, f"{MANIFEST}: {shown(item.config)}")
        return SourceImage(
            names=item.names,
            references=item.repo_tags,
            platform=config.platform,
            manifest=None,
            config=raw,
            layers=tuple(
                SourceLayer(diff_id, None, None, None, self._required(path))
                for diff_id, path in zip(config.rootfs.diff_ids, item.layers, strict=True)
            ),
        )

    def _config(self, item: Item) -> bytes:
        data = read(self._required(item.config), shown(item.config), self._limits)
        blob = _BLOB.fullmatch(item.config)
        if blob and digest.of_bytes(data) != Digest(f"{blob[1]}:{blob[2]}"):
            raise InvalidContentError(
                f"{item.config}: it is damaged or forged: its digest is another"
            )
        return data

    def _required(self, path: str) -> Content:
        content = self._files.find(path)
        if content is None:
            raise InvalidContentError(f"{MANIFEST} names {shown(path)}, which is missing")
        return content


def _name(tag: str) -> str:
    name = names.normalised(tag)
    if name is None:
        raise InvalidContentError(f"{MANIFEST}: {shown(tag)} is not a name of an image")
    return name
