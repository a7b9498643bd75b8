"""Whether everything in a store is what was put there.

Objects are what their hashes say, layers what their diff IDs say (:mod:`layerstore.proof`), blobs,
configs and manifests what their digests say; images have their layers, names their images. What is
damaged is set aside (:mod:`layerstore.damage`); :mod:`layerstore.repair` mends what can be mended.

Importing, mounting and collecting may go on meanwhile: what has gone or been replaced since it was
looked at is no finding. Nor is garbage, in whatever state it is.
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import os
import stat
from collections.abc import Callable, Collection, Container, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, NamedTuple

from layerstore import damage, digest, leases, names, proof
from layerstore.catalog import BlobRow, ManifestRow
from layerstore.digest import Digest
from layerstore.errors import DamagedError, InvalidContentError, counted
from layerstore.index import ROOT, Index
from layerstore.ingest import INDEX, RECIPE, Tell
from layerstore.limits import UNLIMITED
from layerstore.objects import PARTS, Key, Objects, key_of
from layerstore.oci.documents import Manifest, parse_document
from layerstore.paths import OF_FILESYSTEM
from layerstore.progress import Nobody, Progress
from layerstore.proof import Fault, Part
from layerstore.repository import Repository

_AT_ONCE: Final = os.cpu_count() or 1
_CHUNK: Final = 1 << 20
_OF_STORE: Final = frozenset(
    ("format", "catalog.sqlite", "catalog.sqlite-journal", "lock", "turns", OF_FILESYSTEM)
)
_OF_LAYER: Final = frozenset((INDEX, RECIPE, "damaged"))


class Kind(enum.Enum):
    """What a finding is about."""

    CATALOG = "catalog"
    CONFIG = "config"
    MANIFEST = "manifest"
    NAME = "name"
    OBJECT = "object"
    LAYER = "layer"
    INDEX = "index"
    RECIPE = "recipe"
    BLOB = "blob"
    FOREIGN = "foreign file"


class Place(NamedTuple):
    """A path in a layer."""

    layer: str
    path: bytes


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be.

    name: of an object, a layer (its diff ID), an image's name, a digest, or a path below the store.
    problem: a sentence about it, without its subject. layers: diff IDs of those that it touches.
    images: what those are called that it touches. paths: where the content stands.
    """

    kind: Kind
    name: str
    problem: str
    layers: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    paths: tuple[Place, ...] = ()

    @property
    def is_damage(self) -> bool:
        """Whether something of the store is damaged; otherwise there is just something else."""
        return self.kind is not Kind.FOREIGN


def check(repository: Repository, progress: Progress | None = None) -> Iterator[Finding]:
    """Look at everything, and set aside what is damaged.

    Raises DamagedError if the catalog can't be read at all, OSError.
    """
    watcher = progress or Nobody()
    catalog = _Catalog(repository)
    yield from catalog.findings()
    yield from _Layers(repository, catalog, watcher).findings()
    yield from catalog.missing_layers()
    yield from _blobs(repository, catalog, watcher)
    yield from _foreign_files(repository)


# The catalog


class _Catalog:
    """Images, and what touches them."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._titles: dict[str, str] = {}
        self._layers: dict[str, tuple[str, ...]] = {}

    def findings(self) -> Iterator[Finding]:
        catalog = self._repository.catalog
        for problem in catalog.problems():
            yield Finding(Kind.CATALOG, "catalog.sqlite", problem)
        tags = catalog.tags()
        named = {image: name for name, image in reversed(tags)}
        for row in catalog.configs():
            title = self._titles[row.image] = named.get(row.image, row.image)
            try:
                self._layers[row.image] = damage.config_of(row).rootfs.diff_ids
            except InvalidContentError as error:
                yield Finding(Kind.CONFIG, row.image, str(error), images=(title,))
        yield from self._manifests()
        for name, image in tags:
            if image not in self._titles and catalog.image_of_tag(name) == image:
                yield Finding(Kind.NAME, name, f"is of image {image}, which is not there")

    def _manifests(self) -> Iterator[Finding]:
        for row in self._repository.catalog.all_manifests():
            try:
                self._check_manifest(row)
            except InvalidContentError as error:
                damage.set_manifest_aside(self._repository, row)
                title = self._titles.get(row.image, row.image)
                yield Finding(Kind.MANIFEST, row.manifest, str(error), images=(title,))

    def _check_manifest(self, row: ManifestRow) -> None:
        damage.check_digest(row.manifest, row.content)
        manifest = parse_document(row.content, damage.NOT_CLEAR, UNLIMITED)
        if not isinstance(manifest, Manifest) or not self._is(row.image, manifest.config.digest):
            raise InvalidContentError("is not of the image that it is kept for")

    def _is(self, image: str, config: Digest) -> bool:
        """Whether the config of an image has a digest, of whatever algorithm."""
        if digest.is_sha256(config):
            return config == image
        if image not in self._layers:
            # It is damaged, a finding of its own, and has no other digests to tell.
            return True
        row = self._repository.catalog.image(image)
        return row is None or digest.of_bytes(row.config, digest.algorithm(config)) == config

    def missing_layers(self) -> Iterator[Finding]:
        """Those that images have and the store has not."""
        wanted = sorted({diff_id for layers in self._layers.values() for diff_id in layers})
        for diff_id in wanted:
            if os.path.lexists(self._repository.paths.layer(diff_id)):
                continue
            # They go after their images do.
            still = {row.image for row in self._repository.catalog.configs()}
            images = self.images_of((diff_id,), still)
            if images:
                yield Finding(Kind.LAYER, diff_id, "is missing", (diff_id,), images)

    def images_of(
        self, layers: Collection[str], among: Container[str] | None = None
    ) -> tuple[str, ...]:
        """What the images are called that have one of these layers."""
        return tuple(
            self._titles[image]
            for image, has in self._layers.items()
            if not set(has).isdisjoint(layers) and (among is None or image in among)
        )


# Layers and their contents


class _Layers:
    """All objects, then all layers."""

    def __init__(self, repository: Repository, catalog: _Catalog, progress: Progress) -> None:
        self._repository = repository
        self._objects = repository.objects
        self._catalog = catalog
        self._progress = progress
        self._tell = progress.begin("layers", None)
        self._bad: dict[Key, str] = {}
        self._places: dict[Key, list[Place]] = {}
        self._users: dict[Key, list[str]] = {}

    def findings(self) -> Iterator[Finding]:
        self._check_objects()
        for diff_id in self._repository.layers():
            try:
                lease = leases.hold(self._repository.paths.layer(diff_id))
            except FileNotFoundError:
                continue
            try:
                yield from self._layer(diff_id)
            finally:
                os.close(lease)
        for key, layers in sorted(self._users.items()):
            problem = self._bad.get(key, "was found damaged before")
            images = self._catalog.images_of(layers)
            places = tuple(self._places[key])
            yield Finding(Kind.OBJECT, key.name, problem, tuple(layers), images, places)

    def _check_objects(self) -> None:
        tell = self._progress.begin("contents", None)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for found in pool.map(lambda first: self._part(first, tell), range(PARTS)):
                self._bad.update(found)
        if self._bad:
            # Garbage, too: nobody knows yet.
            damage.set_objects_aside(self._repository, self._bad)

    def _part(self, first: int, tell: Tell) -> dict[Key, str]:
        found = {}
        for key in self._objects.part(first):
            problem = _object_problem(self._objects, key)
            if problem is not None:
                found[key] = problem
            tell(key.size)
        return found

    def _layer(self, diff_id: str) -> Iterator[Finding]:
        """What is wrong with a layer that is held; the last to know of bad contents is told."""
        seen = damage.state(self._repository, diff_id)
        fault = self._fault(diff_id)
        if isinstance(fault, Fault):
            with_index = fault.part is Part.INDEX
            if damage.mark(self._repository, diff_id, seen, with_index=with_index):
                images = self._catalog.images_of((diff_id,))
                kind = Kind.INDEX if with_index else Kind.RECIPE
                yield Finding(kind, diff_id, fault.problem, (diff_id,), images)
        elif fault:
            if damage.mark(self._repository, diff_id, seen):
                self._note(diff_id, fault)
        elif damage.is_marked(self._repository, diff_id):
            damage.unmark(self._repository, diff_id, seen)

    def _fault(self, diff_id: str) -> Fault | set[Key] | None:
        """A fault of the layer itself, or those of its contents that are not whole."""
        directory = self._repository.paths.layer(diff_id)
        if fault := proof.unreadable(directory):
            return fault
        try:
            with contextlib.closing(Index(f"{directory}/{INDEX}")) as index:
                contents = index.contents()
                bad = {content.key for content in contents if not self._is_there(content.key)}
        except DamagedError as error:
            return Fault(Part.INDEX, f"can't be read: {error}")
        if bad:
            return bad
        with self._repository.workspace() as scratch:
            return proof.fault(directory, diff_id, self._objects, scratch, self._tell)

    def _is_there(self, key: Key) -> bool:
        status = self._objects.status(key)
        if status is None:
            self._bad.setdefault(key, "is missing")
            damage.set_objects_aside(self._repository, (key,))
            return False
        return stat.S_ISREG(status.st_mode) and status.st_size == key.size

    def _note(self, diff_id: str, keys: Collection[Key]) -> None:
        for key in keys:
            self._users.setdefault(key, []).append(diff_id)
            self._places.setdefault(key, [])
        with contextlib.closing(Index(f"{self._repository.paths.layer(diff_id)}/{INDEX}")) as index:
            for path, content in _contents_below(index):
                if content in keys:
                    self._places[content].append(Place(diff_id, path))


def _contents_below(index: Index) -> Iterator[tuple[bytes, Key]]:
    """All files of a layer."""
    directories = [(ROOT, b"")]
    while directories:
        directory, above = directories.pop()
        for name, inode in index.children(directory):
            path = above + b"/" + name
            if stat.S_ISDIR(inode.mode or 0):
                directories.append((inode.inode, path))
            elif inode.key is not None:
                yield path, inode.key


def _object_problem(objects: Objects, key: Key) -> str | None:
    status = objects.status(key)
    if status is None or objects.is_set_aside(key, status):
        return None
    if not stat.S_ISREG(status.st_mode):
        return "is no file"
    if status.st_size != key.size:
        return f"has {counted(status.st_size, 'byte')}"
    try:
        whole = objects.is_whole(key)
    except OSError as error:
        return f"can't be read: {error.strerror}"
    # It may have been collected at this moment.
    return None if whole or objects.status(key) is None else "has another content than it had"


# Blobs


def _blobs(repository: Repository, catalog: _Catalog, progress: Progress) -> Iterator[Finding]:
    tell = progress.begin("blobs", None)
    rows = repository.catalog.blobs()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        problems = pool.map(
            lambda row: _blob_problem(repository.paths.blob(row.blob), row, tell), rows
        )
        for row, problem in zip(rows, problems, strict=True):
            if problem is not None and damage.set_blob_aside(repository, row.blob):
                layers = (row.diff_id,)
                images = catalog.images_of(layers)
                yield Finding(Kind.BLOB, row.blob, problem, layers, images)


def _blob_problem(path: str, row: BlobRow, tell: Tell) -> str | None:
    hasher = hashlib.sha256()
    try:
        with open(path, "rb", buffering=0) as file:
            while chunk := file.read(_CHUNK):
                hasher.update(chunk)
                tell(len(chunk))
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"can't be read: {error.strerror}"
    found = f"sha256:{hasher.hexdigest()}"
    return None if found == row.blob else f"is damaged: its digest is {found}"


# What does not belong there


def _foreign_files(repository: Repository) -> Iterator[Finding]:
    paths = repository.paths
    known = _OF_STORE | {os.path.basename(path) for path in paths.directories}
    yield from _others(paths.root, "", known.__contains__)
    yield from _others(paths.layers, "layers/", _is_sha256)
    for diff_id in repository.layers():
        name = diff_id.partition(":")[2]
        yield from _others(paths.layer(diff_id), f"layers/{name}/", _OF_LAYER.__contains__)
    parts = {f"{first:02x}" for first in range(PARTS)}
    yield from _others(paths.objects, "objects/", parts.__contains__)
    for part in sorted(parts):
        yield from _others(f"{paths.objects}/{part}", f"objects/{part}/", _is_object)
    yield from _others(paths.blobs, "blobs/", _is_sha256)


def _others(directory: str, shown: str, is_known: Callable[[str], bool]) -> Iterator[Finding]:
    with contextlib.suppress(FileNotFoundError):
        for name in sorted(os.listdir(directory)):
            if not is_known(name):
                yield Finding(Kind.FOREIGN, shown + name, "does not belong to the store")


def _is_sha256(name: str) -> bool:
    return names.digest(f"sha256:{name}") is not None


def _is_object(name: str) -> bool:
    return key_of(name) is not None
