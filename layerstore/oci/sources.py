"""From what a user points at to the images in it.

It is told from its content, never from its name: a directory, an archive of images (a tar, perhaps
compressed as a whole), or the tar of one layer, which is not for this package to read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import itertools
import os
import re
import stat
from collections.abc import Collection
from pathlib import Path
from typing import Final, Protocol, Self

from msgspec import Struct

from layerstore import digest, tarformat
from layerstore.compression import Compression, open_decompressed, sniff
from layerstore.errors import InvalidContentError, StoreError
from layerstore.limits import Limits
from layerstore.oci import docker, documents, legacy, lenient, names, platforms, tarscan
from layerstore.oci.docker import DockerArchive, Item
from layerstore.oci.documents import Descriptor, Index, Platform
from layerstore.oci.files import Archive, Directory, Files, read
from layerstore.oci.images import SourceImage
from layerstore.oci.layout import INDEX, MARK, Layout, LayoutBlobs
from layerstore.oci.legacy import LegacyArchive
from layerstore.oci.streams import Content, Extent, Rewindable, spooled
from layerstore.oci.text import shown
from layerstore.pieces import Reader
from unionfs.model import printable

_VERSION: Final = "version"
_DIRECTORY_TRANSPORT: Final = b"Directory Transport Version: 1."
_SNIFFED: Final = 16
_DIRECTORIES_MAX: Final = 16
_SEARCHED_MAX: Final = 512
"""Entries to look for documents in; there may be more in a layer, where reading them takes time."""

_SAY_NOTHING: Final = frozenset((b".", b"ingest"))
"""Directories that an archive of images may begin with: its root, and one of containerd's."""

# What archives of images begin with: those of skopeo, docker of all versions, kaniko, crane, Bazel.
_OF_IMAGES: Final = re.compile(
    rb"blobs(/sha(256|512)(/[0-9a-f]+)?)?|oci-layout|index\.json|manifest\.json|repositories"
    rb"|(sha256:)?[0-9a-f]{64}(/(VERSION|json|layer\.tar)|\.json|\.tar|\.tar\.gz)?"
)


class Kind(enum.Enum):
    """What a source is."""

    IMAGES = "images"
    """A layout or an archive of images: :func:`open_images` reads it."""
    TREE = "tree"
    """A directory that is the root of a tree."""
    LAYER = "layer"
    """A tar, perhaps compressed, that is one layer."""


class _Reader(Protocol):
    def images(self, platform: Platform | None, reference: str | None) -> list[SourceImage]: ...


class Images:
    """The images of a source; a context, which closes it."""

    def __init__(self, files: Files, limits: Limits) -> None:
        """Take over *files*. Raises InvalidContentError, OSError; then they are closed."""
        self._files: Final = files
        try:
            self._reader: Final = _reader(files, limits)
        except BaseException:
            files.close()
            raise

    def images(
        self, platform: str | None = None, reference: str | None = None
    ) -> list[SourceImage]:
        """The images that are there.

        platform: ``OS/ARCHITECTURE[/VARIANT]``; of an image for several platforms None chooses
        this machine's, of an image for one platform it takes that.
        reference: the one that is called so, by its full name or by what the source calls it.

        Raises StoreError if there is none such, with what there is; InvalidContentError, OSError.
        """
        wanted = None if platform is None else platforms.parse(platform)
        return self._reader.images(wanted, reference)

    def close(self) -> None:
        """Give back what it holds open. Layers of it can't be opened any more."""
        self._files.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def classify(source: Path | Rewindable, limits: Limits) -> Kind:
    """What *source* is, by its content; a stream is at its start again afterwards.

    Of an archive that is compressed, or a stream, no more is read than its first entry; of one
    that is not, the first entries are looked at.
    Raises StoreError for what is none of it; OSError.
    """
    if isinstance(source, Rewindable):
        try:
            return _kind_of_stream(source, limits)
        finally:
            source.rewind()
    if source.is_dir():
        directory = Directory(source)
        try:
            return Kind.IMAGES if _holds_images(directory, limits) else Kind.TREE
        finally:
            directory.close()
    descriptor = _open_file(source)
    try:
        with Extent(descriptor, 0, os.fstat(descriptor).st_size).open() as reader:
            kind = _kind_of_stream(reader, limits)
        if kind is Kind.LAYER and _holds_images(_Documents(descriptor, limits), limits):
            return Kind.IMAGES
        return kind
    finally:
        os.close(descriptor)


def are_of_images(names: Collection[str]) -> bool:
    """Whether the files at the top of something show that it was to be an archive of images."""
    return {MARK, INDEX} <= set(names) or {docker.MANIFEST, legacy.REPOSITORIES} <= set(names)


def open_images(source: Path | Rewindable, *, spool: Path, limits: Limits) -> Images:
    """Open a layout or an archive of images; the caller closes it.

    A stream, or an archive that is compressed as a whole, is put decompressed into a file without
    a name in the directory *spool*. Raises InvalidContentError, StoreError, OSError.
    """
    if isinstance(source, Path) and source.is_dir():
        return Images(Directory(source), limits)
    return Images(Archive(_plain_archive(source, spool, limits), limits), limits)


def _plain_archive(source: Path | Rewindable, spool: Path, limits: Limits) -> int:
    """A descriptor of the tar, not compressed."""
    if isinstance(source, Rewindable):
        return spooled(source, spool, limits)
    descriptor = _open_file(source)
    try:
        if sniff(os.pread(descriptor, _SNIFFED, 0)) is Compression.NONE:
            return os.dup(descriptor)
        with Extent(descriptor, 0, os.fstat(descriptor).st_size).open() as reader:
            return spooled(reader, spool, limits)
    finally:
        os.close(descriptor)


def _open_file(path: Path) -> int:
    """A descriptor of a regular file. Raises StoreError, OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise StoreError(
            f"{printable(str(path))} is neither a file nor a directory;"
            " what comes through a pipe has to be given on standard input"
        )
    return descriptor


def _kind_of_stream(stream: Reader, limits: Limits) -> Kind:
    tape = tarscan.StreamTape(open_decompressed(stream, limits))
    try:
        for count, member in enumerate(tarscan.members(tape, limits)):
            name = os.path.normpath(member.name)
            says = name not in _SAY_NOTHING or member.kind != tarformat.DIRECTORY
            if says or count == _DIRECTORIES_MAX:
                return Kind.IMAGES if _OF_IMAGES.fullmatch(name) else Kind.LAYER
    except InvalidContentError as error:
        raise type(error)(f"it can't be read as a tar: {error}") from error
    if not tape.at:
        raise InvalidContentError("it is empty")
    return Kind.LAYER


class _Documents:
    """The files at the top of a tar, as far as they are among its first."""

    def __init__(self, descriptor: int, limits: Limits) -> None:
        tape = tarscan.FileTape(descriptor)
        self._found: Final[dict[bytes, Content]] = {}
        # What is wrong with a layer is for those to say who read it.
        with contextlib.suppress(InvalidContentError):
            for member in itertools.islice(tarscan.members(tape, limits), _SEARCHED_MAX):
                if member.kind in tarformat.REGULAR:
                    name = os.path.normpath(member.name)
                    self._found[name] = Extent(descriptor, member.offset, member.size)

    def find(self, name: str) -> Content | None:
        return self._found.get(os.fsencode(name))

    def close(self) -> None:
        self._found.clear()


def _holds_images(files: Files, limits: Limits) -> bool:
    if files.find(MARK) and files.find(INDEX):
        return True
    manifest = files.find(docker.MANIFEST)
    if manifest is None:
        return False
    if _is_directory_transport(files, limits):
        return True
    # Many a tree has a manifest.json of its own.
    try:
        document = lenient.decode(read(manifest, docker.MANIFEST, limits), docker.MANIFEST, limits)
    except InvalidContentError:
        return False
    return isinstance(document, list) and all(
        isinstance(item, dict) and {"config", "layers"} <= lenient.keys(item, docker.MANIFEST)
        for item in document
    )


def _is_directory_transport(files: Files, limits: Limits) -> bool:
    version = files.find(_VERSION)
    return version is not None and read(version, _VERSION, limits).startswith(_DIRECTORY_TRANSPORT)


def _reader(files: Files, limits: Limits) -> _Reader:
    """What reads the format that these files are in. Raises InvalidContentError, OSError."""
    manifest = files.find(docker.MANIFEST)
    layout = _layout(files, limits)
    if manifest is None:
        if layout is not None:
            return layout
        if files.find(legacy.REPOSITORIES):
            return LegacyArchive(files, limits)
        raise InvalidContentError(
            f"neither {INDEX} nor {docker.MANIFEST} is in it: it is no archive of images"
        )
    data = read(manifest, docker.MANIFEST, limits)
    if layout is None and _is_directory_transport(files, limits):
        return _directory_transport(data, files, limits)
    items = docker.parse_items(data, limits)
    if layout is None or layout.is_empty:
        return DockerArchive(items, files, limits)
    return _NamedLayout(layout, items)


class _LayoutFile(Struct, rename="camel"):
    image_layout_version: str


def _layout(files: Files, limits: Limits) -> Layout | None:
    mark, index = files.find(MARK), files.find(INDEX)
    if mark is None or index is None:
        return None
    document = lenient.decode(read(mark, MARK, limits), MARK, limits)
    version = lenient.convert(document, _LayoutFile, MARK).image_layout_version
    if not version.startswith("1."):
        raise InvalidContentError(f"{MARK}: version {shown(version)}, where only 1 is known")
    parsed = documents.parse_index(read(index, INDEX, limits), INDEX, limits)
    return Layout(parsed, LayoutBlobs(files), limits)


class _NamedLayout:
    """A layout that docker save has put a manifest.json into, which knows names of its images."""

    def __init__(self, layout: Layout, items: tuple[Item, ...]) -> None:
        self._layout: Final = layout
        self._names: Final = {item.config_hex: item.names for item in items}

    def images(self, platform: Platform | None, reference: str | None) -> list[SourceImage]:
        images = [self._named(image) for image in self._layout.images(platform, None)]
        if reference is None:
            return images
        found = [
            image
            for image in images
            if names.is_among(reference, (*image.names, *image.references))
        ]
        if not found:
            raise names.unknown(reference, (name for image in images for name in image.names))
        return found

    def _named(self, image: SourceImage) -> SourceImage:
        known = self._names.get(digest.encoded(digest.of_bytes(image.config)))
        return dataclasses.replace(image, names=known) if known else image


class _DirectoryBlobs:
    """The blobs of what skopeo calls dir: each is called by the digits of its digest."""

    def __init__(self, top: Descriptor, manifest: Content, files: Files) -> None:
        self._top: Final = top
        self._manifest: Final = manifest
        self._files: Final = files

    def find(self, descriptor: Descriptor) -> Content | None:
        if descriptor.digest == self._top.digest:
            return self._manifest
        name = digest.encoded(descriptor.digest)
        return self._files.find(name) or self._files.find(f"{name}.manifest.json")


def _directory_transport(data: bytes, files: Files, limits: Limits) -> Layout:
    found = documents.parse_document(data, docker.MANIFEST, limits)
    kind = documents.OCI_INDEX if isinstance(found, Index) else documents.OCI_MANIFEST
    top = Descriptor(kind, digest.of_bytes(data), len(data))
    manifest = files.find(docker.MANIFEST)
    assert manifest is not None
    index = Index(schema_version=2, manifests=(top,))
    return Layout(index, _DirectoryBlobs(top, manifest, files), limits)
