"""Images into the store: layouts, archives, single layers and directories."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from layerstore import pack
from layerstore.errors import InvalidContent, StoreError
from layerstore.ingest import Claim
from layerstore.oci import platforms
from layerstore.oci.documents import History, make_config
from layerstore.oci.images import SourceImage, SourceLayer
from layerstore.oci.sources import Kind, classify, open_images
from layerstore.oci.streams import Rewindable
from layerstore.pieces import PieceReader
from layerstore.progress import Nobody, Progress
from layerstore.repository import Image, Repository
from layerstore.tarstream import Reader
from unionfs.layers.directory import DirectoryLayer

_AT_ONCE: Final = os.cpu_count() or 1
_SHOWN_DIGITS: Final = 19


@dataclass(frozen=True, slots=True)
class Options:
    """How to import.

    names: for the image; if none, those that the source has. platform: ``OS/ARCH[/VARIANT]``, of
    an image for several; None: this machine's. reference: which of several images. keep_blobs:
    keep compressed layers as they come, too, so that an export has their digests.
    """

    names: Sequence[str] = ()
    platform: str | None = None
    reference: str | None = None
    keep_blobs: bool = False


@dataclass(frozen=True, slots=True)
class Imported:
    """An image that was imported. new: layers that were not in the store. left_out: paths of
    sockets, which no layer can have.
    """

    image: Image
    new: int
    left_out: Sequence[bytes] = ()


def import_path(
    repository: Repository, path: Path, options: Options, progress: Progress | None = None
) -> list[Imported]:
    """Import what is at *path*: an OCI layout or archive, a docker archive, a layer's tar, or the
    directory that is a root.

    Layers that are there are not read again; several are read at once. Raises StoreError
    (InvalidContent), OSError; then no image has been added, and finished layers stay for the next
    try until ``layerstore gc``.
    """
    watcher = progress or Nobody()
    repository.sweep()
    kind = classify(path, repository.limits)
    if kind is Kind.IMAGES:
        return _import_images(repository, path, options, watcher)
    if kind is Kind.TREE:
        return [_import_tree(repository, path, options, watcher)]
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        return [_import_layer(repository, _Unbuffered(file.fileno()), size, options, watcher)]


def import_stream(
    repository: Repository, stream: Reader, options: Options, progress: Progress | None = None
) -> list[Imported]:
    """As ``import_path``, of what comes through a pipe.

    One layer's tar is stored while it comes; an archive of images is written to a temporary first,
    since it tells only at its end which of its parts are layers.
    """
    watcher = progress or Nobody()
    repository.sweep()
    source = Rewindable(stream)
    if classify(source, repository.limits) is Kind.IMAGES:
        return _import_images(repository, source, options, watcher)
    return [_import_layer(repository, source, None, options, watcher)]


class _Unbuffered:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self, size: int, /) -> bytes:
        return os.read(self._descriptor, size)


# Archives and layouts


def _import_images(
    repository: Repository, source: Path | Rewindable, options: Options, progress: Progress
) -> list[Imported]:
    spool = Path(repository.paths.temporary)
    with open_images(source, spool=spool, limits=repository.limits) as images:
        found = images.images(options.platform, options.reference)
        if options.names and len(found) > 1:
            called = ", ".join(sorted(name for image in found for name in image.references))
            raise StoreError(
                f"{len(found)} images are in there ({called}): choose one with --reference"
            )
        return [_import_image(repository, image, options, progress) for image in found]


def _import_image(
    repository: Repository, image: SourceImage, options: Options, progress: Progress
) -> Imported:
    layers = {layer.diff_id: layer for layer in image.layers}
    with _Layers(repository, options, progress) as added:
        added.add(layers.values())
        names = options.names or image.names
        return Imported(repository.add_image(image.config, image.manifest, names), new=added.new)


class _Layers:
    """Adds layers, several at once, and keeps them in the store until it is closed."""

    def __init__(self, repository: Repository, options: Options, progress: Progress) -> None:
        self._repository = repository
        self._options = options
        self._progress = progress
        self._leases = contextlib.ExitStack()
        self._lock = threading.Lock()
        self.new = 0

    def __enter__(self) -> _Layers:
        return self

    def __exit__(self, *_: object) -> None:
        self._leases.close()

    def add(self, layers: Iterable[SourceLayer]) -> None:
        """Have all of them. Raises what the first that fails raises, after all have ended."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            running = [pool.submit(self._add, layer) for layer in layers]
            try:
                for work in running:
                    work.result()
            except BaseException:
                for work in running:
                    work.cancel()
                raise

    def _add(self, layer: SourceLayer) -> None:
        if self._is_there(layer):
            return
        with self._repository.turn(layer.diff_id):
            # Whoever had the turn before may have added it.
            if self._is_there(layer):
                return
            claim = Claim(layer.diff_id, layer.digest, layer.size)
            title = layer.diff_id[:_SHOWN_DIGITS]
            tell = self._progress.begin(title, layer.content.size)
            try:
                with layer.open() as reader:
                    added = self._repository.add_layer(
                        reader, claim, tell, keep_blob=self._options.keep_blobs
                    )
            except InvalidContent as error:
                raise type(error)(f"layer {title}: {error}") from error
            self._keep(added.lease, new=True)

    def _is_there(self, layer: SourceLayer) -> bool:
        if self._options.keep_blobs and not self._repository.kept_blob(layer.diff_id):
            return False
        lease = self._repository.hold_layer(layer.diff_id)
        if lease is None:
            return False
        self._keep(lease, new=False)
        return True

    def _keep(self, lease: int, *, new: bool) -> None:
        with self._lock:
            self._leases.callback(os.close, lease)
            self.new += new


# Single layers


def _import_tree(
    repository: Repository, path: Path, options: Options, progress: Progress
) -> Imported:
    left_out: list[bytes] = []
    with contextlib.closing(DirectoryLayer(os.fsencode(path))) as layer:
        pieces = pack.pack_tree(layer, left_out.append)
        imported = _import_layer(repository, PieceReader(pieces), None, options, progress)
    return Imported(imported.image, imported.new, left_out)


def _import_layer(
    repository: Repository,
    source: Reader,
    size: int | None,
    options: Options,
    progress: Progress,
) -> Imported:
    tell = progress.begin("layer", size)
    added = repository.add_layer(source, Claim(), tell, keep_blob=options.keep_blobs)
    try:
        platform = platforms.parse(options.platform) if options.platform else platforms.host()
        # No time of today in it: the same tar gives the same image, whenever it is imported.
        config = make_config([added.diff_id], [History(created_by="layerstore import")], platform)
        return Imported(repository.add_image(config, None, options.names), new=int(added.new))
    finally:
        os.close(added.lease)
