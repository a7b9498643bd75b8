"""Images out: an OCI layout, an OCI archive, or an archive for ``docker load``.

The same images give the same bytes: a fixed order, no times, no owners. Blobs are checked while
they are written, so that no damage of ours is passed on.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from layerstore import digest, durable
from layerstore.digest import Check, Digest
from layerstore.errors import StoreError
from layerstore.limits import UNLIMITED
from layerstore.oci import docker, documents, lenient, names
from layerstore.oci.documents import Descriptor, Manifest, Platform
from layerstore.oci.layout import FULL_NAME, INDEX, MARK, REFERENCE
from unionfs.model import printable

_MARK: Final = b'{"imageLayoutVersion":"1.0.0"}'


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes to write: chunks begins anew at each call, and gives *size* of them."""

    digest: Digest
    size: int
    chunks: Callable[[], Iterator[bytes]]

    @classmethod
    def of_bytes(cls, data: bytes) -> Blob:
        """A document as a blob."""
        return cls(digest.of_bytes(data), len(data), lambda: iter((data,)))

    def verified(self) -> Iterator[bytes]:
        """The chunks.

        Raises InvalidContentError, at the latest after the last, if they are others.
        """
        check = Check(self.digest, self.size)
        for chunk in self.chunks():
            check.update(chunk)
            yield chunk
        check.finish()


@dataclass(frozen=True, slots=True)
class OutputImage:
    """An image to write. names: as ``name:tag``. layers: those of the manifest, the base first."""

    names: tuple[str, ...]
    manifest: bytes
    config: bytes
    layers: tuple[Blob, ...]


def write_layout(directory: Path, images: Sequence[OutputImage]) -> None:
    """Make an OCI layout in *directory*, which must not exist yet or be empty.

    It is there as a whole or not at all. Raises StoreError, OSError, InvalidContentError.
    """
    if directory.is_symlink() or (directory.exists() and not durable.is_empty_directory(directory)):
        raise StoreError(f"{printable(str(directory))} is in the way: it is not an empty directory")
    target = directory.absolute()
    built = durable.beside(target)
    built.mkdir()
    try:
        for name, blob in _layout_files(images):
            path = built / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                file.writelines(blob.verified())
        durable.sync_filesystem(str(built))
        os.rename(built, target)
    except BaseException:
        shutil.rmtree(built)
        raise
    durable.sync_directory(str(target.parent))


def write_oci_archive(out: BinaryIO, images: Sequence[OutputImage]) -> None:
    """Write an OCI layout as a tar. Raises OSError, InvalidContentError."""
    _write_tar(out, _layout_files(images))


def write_docker_archive(out: BinaryIO, images: Sequence[OutputImage]) -> None:
    """Write what ``docker load`` reads, as a tar. Raises OSError, InvalidContentError.

    The layers are the tars themselves, not compressed; manifests do not count.
    """
    files: dict[str, Blob] = {}
    items = []
    for image in images:
        config = Blob.of_bytes(image.config)
        config_path = f"{digest.encoded(config.digest)}.json"
        paths = tuple(f"{digest.encoded(layer.digest)}.tar" for layer in image.layers)
        items.append(docker.Item(config_path, image.names, paths))
        files |= {config_path: config, **dict(zip(paths, image.layers, strict=True))}
    manifest = Blob.of_bytes(msgspec.json.encode(items))
    _write_tar(out, [(docker.MANIFEST, manifest), *files.items()])


def _layout_files(images: Sequence[OutputImage]) -> Iterator[tuple[str, Blob]]:
    """The files of a layout, each once."""
    yield MARK, Blob.of_bytes(_MARK)
    yield INDEX, Blob.of_bytes(documents.make_index(_listed(images)))
    blobs: dict[Digest, Blob] = {}
    for image in images:
        manifest = Blob.of_bytes(image.manifest)
        config = dataclasses.replace(
            Blob.of_bytes(image.config), digest=_parsed(image.manifest).config.digest
        )
        for blob in (manifest, config, *image.layers):
            blobs.setdefault(blob.digest, blob)
    for name, blob in blobs.items():
        yield f"blobs/{digest.algorithm(name)}/{digest.encoded(name)}", blob


def _listed(images: Sequence[OutputImage]) -> Iterator[Descriptor]:
    tags = Counter(names.tag(name) for image in images for name in image.names)
    for image in images:
        for name in image.names or (None,):
            yield Descriptor(
                _parsed(image.manifest).media_type or documents.OCI_MANIFEST,
                digest.of_bytes(image.manifest),
                len(image.manifest),
                annotations=None if name is None else _annotations(name, tags),
                platform=_platform_of(image.config),
            )


def _annotations(name: str, tags: Counter[str]) -> dict[str, str | None]:
    # skopeo and umoci choose by the tag, containerd reads the name. Where two images have the
    # same tag, only the whole name tells them apart.
    tag = names.tag(name)
    return {FULL_NAME: name, REFERENCE: tag if tags[tag] == 1 else name}


def _parsed(manifest: bytes) -> Manifest:
    found = documents.parse_document(manifest, "manifest", UNLIMITED)
    assert isinstance(found, Manifest)
    return found


def _platform_of(config: bytes) -> Platform | None:
    found = lenient.convert(msgspec.json.decode(config), Platform, "config")
    return found if found.os and found.architecture else None


def _write_tar(out: BinaryIO, files: Iterable[tuple[str, Blob]]) -> None:
    made: set[str] = set()
    for name, blob in files:
        for parent in reversed(Path(name).parents[:-1]):
            if str(parent) not in made:
                made.add(str(parent))
                out.write(_header(str(parent), tarfile.DIRTYPE, 0o755, 0))
        out.write(_header(name, tarfile.REGTYPE, 0o644, blob.size))
        out.writelines(blob.verified())
        out.write(bytes(-blob.size % tarfile.BLOCKSIZE))
    out.write(bytes(2 * tarfile.BLOCKSIZE))


def _header(name: str, kind: bytes, mode: int, size: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.size = kind, mode, size
    # Where a size is too large for ustar, readers agree on this.
    return entry.tobuf(tarfile.PAX_FORMAT)
