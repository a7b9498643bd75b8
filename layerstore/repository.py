"""The ground of a store: layers by diff ID, images by name, what is in use.

What commands do with them is in the modules above: importing, exporting, inspecting, checking,
collecting. :class:`layerstore.store.Store` has it all in one.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Self

from layerstore import digest, leases, names, paths, workspace
from layerstore.catalog import BlobRow, Catalog, ImageRow
from layerstore.errors import DamagedError, StoreError
from layerstore.layer import StoredLayer
from layerstore.limits import UNLIMITED, Limits
from layerstore.objects import Objects
from layerstore.oci.documents import History, ImageConfig, parse_config
from layerstore.oci.names import normalised

_TURN_DIGITS: Final = 15
PATIENCE: Final = 0.1
"""Seconds to wait before one looks again whether another process has done its work."""


def _wait() -> None:
    time.sleep(PATIENCE)


@dataclass(frozen=True, slots=True)
class Image:
    """An image of a store.

    id: digest of its config. names: with tags, sorted. added: seconds since 1970. raw: the config
    as it came.
    """

    id: str
    names: tuple[str, ...]
    config: ImageConfig
    raw: bytes
    added: int

    @property
    def layers(self) -> Sequence[str]:
        """The diff IDs, base first."""
        return self.config.rootfs.diff_ids

    @property
    def steps(self) -> Sequence[History | None]:
        """For each layer what the history says of it, None where it says nothing."""
        steps = [step for step in self.config.history if not step.empty_layer]
        # A history that does not fit tells nothing of any layer.
        return steps if len(steps) == len(self.layers) else [None] * len(self.layers)

    @property
    def title(self) -> str:
        """What to call it before people."""
        return self.names[0] if self.names else digest.short(self.id)


class Repository:
    """A store that is open, until ``close``; also a context.

    path: None for the default (see :func:`layerstore.paths.default`). create: make it if it is
    not there. Raises StoreError, OSError.
    """

    def __init__(
        self, path: str | None = None, *, limits: Limits | None = None, create: bool = True
    ) -> None:
        self.limits: Final = limits or Limits()
        self.paths: Final = paths.opened(path or paths.default(), create=create)
        self.objects: Final = Objects(self.paths.objects)
        self.catalog: Final = Catalog(self.paths.catalog)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up what is held. Layers that were opened stay open."""
        self.catalog.close()

    # Layers

    def layers(self) -> list[str]:
        """The diff IDs of all layers, sorted, whether an image uses them or not."""
        found = (f"sha256:{name}" for name in os.listdir(self.paths.layers))
        return sorted(filter(names.digest, found))

    def find_layer(self, word: str) -> str | None:
        """The diff ID of the layer whose digest is *word*, or begins so; None if there is none.

        Raises StoreError if there are several.
        """
        digits = names.digits(word)
        if digits is None:
            return None
        beginning = f"sha256:{digits}"
        found = {known for known in self.layers() if known.startswith(beginning)}
        return self._only(word, found, "layers")

    def open_layer(self, diff_id: str, created_by: str | None = None) -> StoredLayer:
        """Open a layer; the caller closes it.

        Raises StoreError if it is not there, DamagedError.
        """
        try:
            return StoredLayer(self.paths.layer(diff_id), diff_id, self.objects, created_by)
        except FileNotFoundError:
            raise StoreError(f"layer {diff_id} is not in the store") from None
        except DamagedError as error:
            raise DamagedError(
                f"layer {diff_id} is damaged: {error}; see layerstore check"
            ) from error

    @contextlib.contextmanager
    def turn(self, diff_id: str, wait: Callable[[], None] = _wait) -> Iterator[None]:
        """Wait until no other process is adding this layer; for *wait* see ``leases.turn``."""
        number = int(diff_id.partition(":")[2][:_TURN_DIGITS], 16)
        with leases.turn(self.paths.turns, number, wait):
            yield

    def hold_layer(self, diff_id: str) -> int | None:
        """A descriptor that keeps a layer there until it is closed; None if it has to be added:
        it is not there, or known to be damaged.
        """
        if os.path.exists(self.paths.mark(diff_id)):
            return None
        try:
            return leases.hold(self.paths.layer(diff_id))
        except FileNotFoundError:
            return None

    def kept_blob(self, diff_id: str, blob: str | None = None) -> BlobRow | None:
        """A blob that was kept for a layer, if there is one (with the digest *blob*)."""
        for row in self.catalog.blobs_of(diff_id):
            if blob in (None, row.blob) and os.path.exists(self.paths.blob(row.blob)):
                return row
        return None

    # Images

    def add_image(
        self, config: bytes, manifest: bytes | None = None, names_: Iterable[str] = ()
    ) -> Image:
        """Have an image whose layers are all there, and held by the caller; names move to it."""
        found = digest.of_bytes(config)
        with self.catalog.changing():
            self.catalog.add_image(found, config)
            if manifest is not None:
                self.catalog.add_manifest(digest.of_bytes(manifest), found, manifest)
            for name in names_:
                self.catalog.set_tag(names.require(name), found)
        return self.image(found)

    def images(self) -> list[Image]:
        """All images, the newest last."""
        known: dict[str, list[str]] = {}
        for name, image in self.catalog.tags():
            known.setdefault(image, []).append(name)
        return [self._image(row, known.get(row.image, ())) for row in self.catalog.images()]

    def image(self, image: str) -> Image:
        """The image of an ID that ``find`` gave. Raises StoreError if it is gone."""
        row = self.catalog.image(image)
        if row is None:
            raise StoreError(f"image {image} is not in the store")
        return self._image(row, [name for name, of in self.catalog.tags() if of == image])

    def names(self) -> dict[str, str]:
        """All names, and the IDs of their images."""
        return dict(self.catalog.tags())

    def find(self, word: str) -> Image:
        """The image that a user means: by name, by its ID or the beginning of that, by a
        manifest's digest, or by the end of a name that only one image has.

        Raises StoreError if there is none, or several.
        """
        found = self._find(word)
        if found is None:
            raise StoreError(
                f"there is no image {word} in the store {self.paths.root};"
                " layerstore images lists those that are"
            )
        return self.image(found)

    def find_any(self, word: str) -> Image | str:
        """The image that a user means (``find``), or else the diff ID of the layer whose digest
        that is (``find_layer``).

        Raises StoreError if there is neither, or it may be any of several.
        """
        if self.has(word):
            return self.find(word)
        layer = self.find_layer(word)
        if layer is None:
            raise StoreError(
                f"there is no image and no layer {word} in the store {self.paths.root};"
                " layerstore images and layerstore layers list those that are"
            )
        return layer

    def has(self, word: str) -> bool:
        """Whether ``find`` would find an image. Raises StoreError if there are several."""
        return self._find(word) is not None

    def _find(self, word: str) -> str | None:
        if whole := names.digest(word):
            return self.catalog.image_of_manifest(whole) or self._only(
                word, {whole} & self._ids(), "images"
            )
        if name := normalised(word):
            if found := self.catalog.image_of_tag(name):
                return found
            ends = {image for known, image in self.catalog.tags() if known.endswith(f"/{name}")}
            if ends:
                return self._only(word, ends, "images")
        if digits := names.digits(word):
            return self._only(word, set(self.catalog.images_beginning(digits)), "images")
        return None

    def _ids(self) -> set[str]:
        return {row.image for row in self.catalog.images()}

    def _only(self, word: str, found: set[str], kind: str) -> str | None:
        if len(found) > 1:
            raise StoreError(f"{word} may be any of {len(found)} {kind}; write more of it")
        return found.pop() if found else None

    def tag(self, word: str, new: Iterable[str]) -> Image:
        """Give an image more names, which others lose; answers it. Raises StoreError; then all
        stay.
        """
        found = self.find(word)
        wanted = [names.require(name) for name in new]
        with self.catalog.changing():
            for name in wanted:
                self.catalog.set_tag(name, found.id)
        return self.image(found.id)

    def untag(self, words: Iterable[str]) -> None:
        """Take names away. Raises StoreError if one is not there; then all stay."""
        with self.catalog.changing():
            for word in words:
                if not self.catalog.remove_tag(names.require(word)):
                    raise StoreError(f"no image in the store {self.paths.root} is called {word}")

    def remove(self, *words: str) -> list[Image]:
        """Remove images with all their names; answers what they were.

        Raises as ``find``; then all stay.
        """
        with self.catalog.changing():
            # One may be meant by several words.
            found = {image.id: image for image in map(self.find, words)}
            for image in found:
                self.catalog.remove_image(image)
        return list(found.values())

    def open_layers(self, image: Image) -> list[StoredLayer]:
        """An image's layers, base first; the caller closes them.

        Raises StoreError, DamagedError.
        """
        with contextlib.ExitStack() as stack:
            opened = []
            for diff_id, step in zip(image.layers, image.steps, strict=True):
                layer = self.open_layer(diff_id, step.created_by if step else None)
                stack.callback(layer.close)
                opened.append(layer)
            stack.pop_all()
            return opened

    def _image(self, row: ImageRow, known: Iterable[str]) -> Image:
        config = parse_config(row.config, f"the config of image {row.image}", UNLIMITED)
        return Image(row.image, tuple(sorted(known)), config, row.config, row.added)

    # Temporaries

    @contextlib.contextmanager
    def workspace(self) -> Iterator[str]:
        """A directory on the store's filesystem for as long as the block lasts."""
        with workspace.workspace(self.paths.temporary) as directory:
            yield directory

    def sweep(self) -> None:
        """Remove what processes that were killed have left. Raises OSError."""
        workspace.sweep(self.paths.temporary)
