"""Stores with small images in them, and archives of such images to import."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from layerstore import exporting
from layerstore.adding import add_layer
from layerstore.compression import Compression, compress
from layerstore.digest import Digest
from layerstore.exporting import Format
from layerstore.ingest import Claim
from layerstore.oci.documents import (
    OCI_LAYER,
    Descriptor,
    History,
    Platform,
    make_config,
    make_manifest,
)
from layerstore.pack import pack_tree
from layerstore.pieces import PieceReader
from layerstore.repository import Image, Repository
from tests.support.mounts import COMMAND
from unionfs.layers.directory import DirectoryLayer
from unionfs.layers.markers import Dialects

_PLATFORM = Platform("amd64", "linux")


def packed(layer: Path, left_out: Callable[[bytes], None]) -> Iterator[bytes]:
    """The tar of a directory that is a layer of overlayfs. left_out: gets what no tar can have."""
    with contextlib.closing(DirectoryLayer(os.fsencode(layer), Dialects.OVERLAY)) as opened:
        yield from pack_tree(opened, left_out)


class StoreBuilder:
    """Fills the store at a path, which is made if it is not there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def command(self) -> tuple[str, ...]:
        """unionmount, with this as its store."""
        return ("env", f"LAYERSTORE={self.path}", *COMMAND)

    def opened(self) -> Repository:
        return Repository(str(self.path))

    def layer(self, tar: bytes | Iterator[bytes], *, keep_blob: bool = False) -> str:
        """A layer that no image has; answers its diff ID.

        tar: all of it, or its pieces. keep_blob: of what comes with gzip.
        """
        pieces = iter([tar]) if isinstance(tar, bytes) else tar
        if keep_blob:
            pieces = compress(pieces, Compression.GZIP)
        with self.opened() as repository:
            added = add_layer(
                repository, PieceReader(pieces), Claim(), lambda _: None, keep_blob=keep_blob
            )
            os.close(added.lease)
        return added.diff_id

    def image(
        self,
        name: str | None,
        tars: Iterable[bytes | Iterator[bytes]],
        history: Iterable[History] | None = None,
        *,
        keep_blobs: bool = False,
    ) -> Image:
        """An image of these layers, base first, with a manifest.

        history: by default one step for each layer: ``step 1`` and so on.
        """
        diff_ids = [Digest(self.layer(tar, keep_blob=keep_blobs)) for tar in tars]
        if history is None:
            history = [History(created_by=f"step {n}") for n, _ in enumerate(diff_ids, 1)]
        config = make_config(diff_ids, history, _PLATFORM)
        with self.opened() as repository:
            layers = [_descriptor(repository, diff_id) for diff_id in diff_ids]
            manifest = make_manifest(config, layers)
            return repository.add_image(config, manifest, [] if name is None else [name])

    def archive(self, target: Path, *names: str, kind: Format = Format.OCI_ARCHIVE) -> Path:
        """Write images of the store to a file that can be imported."""
        with self.opened() as repository:
            images = [(repository.find(name), (name,)) for name in names]
            exporting.export_images(repository, images, target, kind)
        return target


def _descriptor(repository: Repository, diff_id: Digest) -> Descriptor:
    kept = repository.kept_blob(diff_id)
    if kept is not None:
        return Descriptor(f"{OCI_LAYER}+gzip", Digest(kept.blob), kept.size)
    layer = repository.open_layer(diff_id)
    try:
        size, _ = layer.index.totals()
    finally:
        layer.close()
    return Descriptor(OCI_LAYER, diff_id, size)
