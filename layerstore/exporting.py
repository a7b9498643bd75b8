"""Images out of the store: as a layout, an archive, one layer's tar, or a directory."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from layerstore import digest, durable, layertar
from layerstore.compression import Compression, compress
from layerstore.digest import Digest, HashingReader, short
from layerstore.errors import DamagedError, InvalidContentError, StoreError
from layerstore.extract import Extracted, extract
from layerstore.limits import UNLIMITED
from layerstore.oci import documents, writer
from layerstore.oci.documents import Descriptor, Manifest
from layerstore.oci.names import normalised
from layerstore.oci.writer import Blob, OutputImage
from layerstore.pieces import PieceReader
from layerstore.progress import Nobody, Progress
from layerstore.repository import Image, Repository
from layerstore.view import View

_CHUNK: Final = 1 << 20
_SUFFIXES: Final = {Compression.NONE: "", Compression.GZIP: "+gzip", Compression.ZSTD: "+zstd"}


class Format(enum.Enum):
    """What an image can be written as."""

    OCI = "oci"
    """A directory, by the OCI image layout specification."""
    OCI_ARCHIVE = "oci-archive"
    """Such a directory as a tar."""
    DOCKER_ARCHIVE = "docker-archive"
    """What ``docker load`` reads."""
    LAYER = "layer"
    """The tar of one layer, as it came."""
    DIR = "dir"
    """A directory with all files, as a root."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written. recompressed: layers whose blobs are not those that came in."""

    recompressed: Sequence[str]


def named(image: Image, word: str) -> tuple[str, ...]:
    """What an image is to be called outside if a user asked for *word*: that, if it is a name."""
    name = normalised(word)
    found = [
        known for known in image.names if name and (known == name or known.endswith(f"/{name}"))
    ]
    return tuple(found or image.names)


def only_layer(repository: Repository, word: str) -> str:
    """The layer that a user means, by its digest or that of an image that has only this one.

    Raises StoreError as :meth:`Repository.find_any`, and for an image with several layers, or none.
    """
    image = repository.find_any(word)
    if isinstance(image, str):
        return image
    if not image.layers:
        raise StoreError(f"{image.title} has no layers")
    if len(image.layers) > 1:
        listed = ", ".join(map(short, image.layers))
        raise StoreError(f"{image.title} has {len(image.layers)} layers; name one: {listed}")
    return image.layers[0]


def export_images(
    repository: Repository,
    images: Iterable[tuple[Image, tuple[str, ...]]],
    target: Path | BinaryIO,
    kind: Format,
    compression: Compression | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Write images, each with the names it is to have, as *kind*: OCI, OCI_ARCHIVE, DOCKER_ARCHIVE.

    compression: of the layers; None: as they came if a manifest came whose blobs can be written
    bit for bit (then it is written, too), else gzip. Two exports of an image are equal byte for
    byte, from any store that has the same such manifest, or none.

    The target is there as a whole or not at all, unless it is a stream. Raises StoreError,
    DamagedError if something in the store is not as it came, OSError.
    """
    if kind is Format.DOCKER_ARCHIVE and compression not in (None, Compression.NONE):
        raise StoreError("the layers of a docker-archive are not compressed: leave that out")
    with _Blobs(repository, compression, progress or Nobody()) as blobs:
        if kind is Format.DOCKER_ARCHIVE:
            found = [blobs.plain(image, names) for image, names in images]
        else:
            found = [blobs.compressed(image, names) for image, names in images]
        try:
            _write(found, target, kind)
        except InvalidContentError as error:
            raise DamagedError(f"the store is damaged: {error}; see layerstore check") from error
        return Exported(blobs.recompressed)


def export_layer(
    repository: Repository,
    diff_id: str,
    target: Path | BinaryIO,
    compression: Compression = Compression.NONE,
) -> None:
    """Write one layer's tar. Raises as ``export_images``."""
    pieces = compress(layertar.tar(repository, diff_id), compression)
    with _written(target) as out:
        out.writelines(pieces)


def export_tree(
    repository: Repository, image: Image, target: Path, progress: Progress | None = None
) -> Extracted:
    """Write all files of an image into a new directory. Raises as :func:`extract.extract`."""
    with contextlib.ExitStack() as stack:
        layers = repository.open_layers(image)
        for layer in layers:
            stack.callback(layer.close)
        return extract(View(layers), target, progress)


def _write(images: Sequence[OutputImage], target: Path | BinaryIO, kind: Format) -> None:
    if kind is Format.OCI:
        if not isinstance(target, Path):
            raise StoreError("a layout is a directory: name one, or use the format oci-archive")
        writer.write_layout(target, images)
        return
    write = (
        writer.write_docker_archive if kind is Format.DOCKER_ARCHIVE else writer.write_oci_archive
    )
    with _written(target) as out:
        write(out, images)


@contextlib.contextmanager
def _written(target: Path | BinaryIO) -> Iterator[BinaryIO]:
    """A file that replaces what is at a path once it is complete; a stream as it is."""
    if not isinstance(target, Path):
        yield target
        return
    if target.exists() and not target.is_file():
        # A device or a pipe is written to; nothing may take its place.
        with target.open("wb") as file:
            yield file
        return
    target = Path(os.path.realpath(target))
    temporary = durable.beside(target)
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    durable.sync_directory(str(target.parent))


class _Blobs:
    """Layers as blobs, in temporaries where they have to be compressed; a context.

    All layers that were asked for stay in the store until its end.
    """

    def __init__(
        self, repository: Repository, compression: Compression | None, progress: Progress
    ) -> None:
        self._repository = repository
        self._compression = compression
        self._progress = progress
        self._stack = contextlib.ExitStack()
        self._made: dict[tuple[str, Compression], Blob] = {}
        self.recompressed: list[str] = []

    def __enter__(self) -> _Blobs:
        self._directory = self._stack.enter_context(self._repository.workspace())
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def plain(self, image: Image, names: tuple[str, ...]) -> OutputImage:
        """An image with the tars of its layers."""
        self._hold(image)
        layers = tuple(self._tar(diff_id) for diff_id in image.layers)
        return OutputImage(names, self._manifest(image, layers), image.raw, layers)

    def compressed(self, image: Image, names: tuple[str, ...]) -> OutputImage:
        """An image as it came, or else with its layers compressed anew."""
        self._hold(image)
        known = self._known_manifests(image)
        if self._compression is None:
            for content, manifest in known:
                layers = self._as_they_came(image, manifest)
                if layers is not None:
                    return OutputImage(names, content, image.raw, layers)
        # Not as it came: of one image different manifests may have come first into two stores.
        kind = self._compression or Compression.GZIP
        layers = tuple(self._blob(diff_id, kind) for diff_id in image.layers)
        came = [tuple(layer.digest for layer in manifest.layers) for _, manifest in known]
        made = tuple(layer.digest for layer in layers)
        if made in came:
            # It was compressed as we do it.
            return OutputImage(names, known[came.index(made)][0], image.raw, layers)
        if known:
            self.recompressed += [
                diff_id
                for diff_id, now, before in zip(image.layers, made, came[0], strict=True)
                if now != before
            ]
        return OutputImage(names, self._manifest(image, layers, kind), image.raw, layers)

    def _hold(self, image: Image) -> None:
        for layer in self._repository.open_layers(image):
            self._stack.callback(layer.close)

    def _known_manifests(self, image: Image) -> list[tuple[bytes, Manifest]]:
        found = []
        for name, content in self._repository.catalog.manifests(image.id):
            manifest = documents.parse_document(content, f"manifest {name}", UNLIMITED)
            if isinstance(manifest, Manifest):
                found.append((content, manifest))
        return found

    def _as_they_came(self, image: Image, manifest: Manifest) -> tuple[Blob, ...] | None:
        """The blobs of a manifest; None if one of them was not kept."""
        blobs = []
        for diff_id, layer in zip(image.layers, manifest.layers, strict=True):
            for blob in (self._tar(diff_id), *self._kept(diff_id)):
                if _is(blob, layer):
                    blobs.append(dataclasses.replace(blob, digest=layer.digest))
                    break
            else:
                return None
        return tuple(blobs)

    def _kept(self, diff_id: str) -> Iterator[Blob]:
        for row in self._repository.catalog.blobs_of(diff_id):
            path = Path(self._repository.paths.blob(row.blob))
            if path.exists():
                yield Blob(Digest(row.blob), row.size, functools.partial(_pieces, path))

    def _manifest(
        self, image: Image, layers: Sequence[Blob], kind: Compression = Compression.NONE
    ) -> bytes:
        media_type = documents.OCI_LAYER + _SUFFIXES[kind]
        return documents.make_manifest(
            image.raw, [Descriptor(media_type, layer.digest, layer.size) for layer in layers]
        )

    def _tar(self, diff_id: str) -> Blob:
        with contextlib.closing(self._repository.open_layer(diff_id)) as layer:
            size, _ = layer.index.totals()
        return Blob(
            Digest(diff_id), size, functools.partial(layertar.tar, self._repository, diff_id)
        )

    def _blob(self, diff_id: str, kind: Compression) -> Blob:
        if kind is Compression.NONE:
            return self._tar(diff_id)
        made = self._made.get((diff_id, kind))
        if made is None:
            made = self._made[diff_id, kind] = self._compress(diff_id, kind)
        return made

    def _compress(self, diff_id: str, kind: Compression) -> Blob:
        path = Path(self._directory) / f"{len(self._made)}"
        tar = self._tar(diff_id)
        tell = self._progress.begin(short(diff_id), tar.size)
        reader = HashingReader(PieceReader(compress(_told(tar.chunks(), tell), kind)))
        with path.open("xb") as file:
            while piece := reader.read(_CHUNK):
                file.write(piece)
        return Blob(reader.digest, path.stat().st_size, functools.partial(_pieces, path))


def _is(blob: Blob, layer: Descriptor) -> bool:
    """Whether a blob is that of the manifest."""
    if digest.is_sha256(layer.digest):
        return blob.digest == layer.digest
    # A store knows no other digests of what it has.
    return blob.size == layer.size and (
        digest.of_pieces(blob.chunks(), digest.algorithm(layer.digest)) == layer.digest
    )


def _told(pieces: Iterable[bytes], tell: Callable[[int], None]) -> Iterator[bytes]:
    for piece in pieces:
        tell(len(piece))
        yield piece


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            yield piece
