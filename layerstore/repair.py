"""Mending what ``check`` has found, from whatever proves to be right.

A layer is added again: from its own recipe and contents, with equal contents in the place of
damaged ones; from a blob that was kept; or from a source given again. Its diff ID proves that it
is the layer, whatever it was made of. Configs and manifests come from a source; what can't be had
is taken out of the catalog, for nothing can be done with it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from layerstore import damage, digest, layertar, leases, paths
from layerstore.catalog import Catalog
from layerstore.check import Finding, Kind
from layerstore.compression import open_decompressed
from layerstore.errors import DamagedError, InvalidContentError, StoreError
from layerstore.index import Index
from layerstore.ingest import INDEX, RECIPE, Claim, ingest
from layerstore.limits import UNLIMITED, Limits
from layerstore.objects import Key, Objects
from layerstore.oci import platforms, sources
from layerstore.oci.images import SourceImage
from layerstore.oci.sources import Images
from layerstore.pieces import PieceReader, Reader
from layerstore.progress import Nobody, Progress
from layerstore.repository import Repository
from unionfs.model import printable

_CHUNK: Final = 1 << 20


class Outcome(NamedTuple):
    """What was done about a layer (name: its diff ID), an image (its ID) or a name.

    how: a participle, and more: ``repaired from the blob that was kept``.
    """

    name: str
    how: str


class Offer(NamedTuple):
    """A layer that can be read again. claim: with its diff ID."""

    claim: Claim
    open: Callable[[], AbstractContextManager[Reader]]


@dataclass(frozen=True, slots=True)
class Source:
    """What was given to repair from. layers: by diff ID."""

    title: str
    images: Sequence[SourceImage] = ()
    layers: Mapping[str, Offer] = field(default_factory=dict)


def lost_catalog(root: str) -> list[Outcome]:
    """Have an empty catalog in the store at *root*, if it has lost its own.

    Raises StoreError, DamagedError, OSError.
    """
    catalog = paths.opened(root, create=False).catalog
    if os.path.lexists(catalog):
        return []
    Catalog(catalog, create=True).close()
    how = "made anew, empty: import the images again, before layerstore gc removes their layers"
    return [Outcome(os.path.basename(catalog), how)]


@contextlib.contextmanager
def source(repository: Repository, path: Path) -> Iterator[Source]:
    """What is at *path*, to repair from: a layout or an archive of images, or a layer's tar.

    Raises StoreError (InvalidContentError) if it is something else, OSError.
    """
    title = printable(str(path))
    kind = sources.classify(path, repository.limits)
    if kind is sources.Kind.TREE:
        raise StoreError(f"{title} is a tree: to repair from, give an archive, a layout or a tar")
    if kind is sources.Kind.LAYER:
        with open(path, "rb") as file:
            diff_id = _diff_id(file, repository.limits)
        yield Source(title, layers={diff_id: Offer(Claim(diff_id), _opener(path))})
        return
    spool = Path(repository.paths.temporary)
    with sources.open_images(path, spool=spool, limits=repository.limits) as opened:
        images = _images(repository, opened)
        layers: dict[str, Offer] = {
            layer.diff_id: Offer(Claim(layer.diff_id, layer.digest, layer.size), layer.open)
            for image in images
            for layer in image.layers
        }
        yield Source(title, images, layers)


def _opener(path: str | Path) -> Callable[[], AbstractContextManager[Reader]]:
    return lambda: open(path, "rb", buffering=0)


def _diff_id(blob: Reader, limits: Limits) -> str:
    hasher = hashlib.sha256()
    tar = open_decompressed(blob, limits)
    while piece := tar.read(_CHUNK):
        hasher.update(piece)
    return f"sha256:{hasher.hexdigest()}"


def _images(repository: Repository, opened: Images) -> list[SourceImage]:
    """Those of this machine's platform, and of any that an image of the store has."""
    wanted: set[str | None] = {None}
    for row in repository.catalog.configs():
        with contextlib.suppress(InvalidContentError):
            wanted.add(platforms.spelled(damage.config_of(row).platform))
    found = []
    errors = []
    for platform in wanted:
        try:
            found += opened.images(platform)
        except InvalidContentError:
            raise
        except StoreError as error:
            errors.append(error)
    if not found and errors:
        raise errors[0]
    return found


def repair(
    repository: Repository, given: Sequence[Source] = (), progress: Progress | None = None
) -> Iterator[Outcome]:
    """Mend what is known to be damaged, as far as that is possible.

    Raises OSError, DamagedError if the catalog can't be read.
    """
    watcher = progress or Nobody()
    yield from _documents(repository, given)
    left = damage.layers(repository)
    before = None
    # One that was mended may have brought what another needs.
    while left != before:
        before = left
        for diff_id in left:
            with repository.turn(diff_id):
                how = _Layer(repository, diff_id, given, watcher).repair()
            if how is not None:
                yield Outcome(diff_id, f"repaired {how}")
        left = damage.layers(repository)


def unmended(repository: Repository, findings: Iterable[Finding]) -> list[Finding]:
    """What of the damage that was found is there now. Raises DamagedError, OSError."""
    catalog = repository.catalog
    layers = set(damage.layers(repository))
    whole = {row.image for row in catalog.configs() if digest.of_bytes(row.config) == row.image}

    def is_mended(finding: Finding) -> bool:
        match finding.kind:
            case Kind.OBJECT | Kind.INDEX | Kind.RECIPE | Kind.LAYER:
                return layers.isdisjoint(finding.layers)
            case Kind.CONFIG:
                return finding.name in whole
            case Kind.MANIFEST:
                return catalog.image_of_manifest(finding.name) is not None
        return False

    return [finding for finding in findings if finding.is_damage and not is_mended(finding)]


def _documents(repository: Repository, given: Sequence[Source]) -> Iterator[Outcome]:
    catalog = repository.catalog
    damaged = {row.image for row in catalog.configs() if digest.of_bytes(row.config) != row.image}
    known = {row.image for row in catalog.configs()}
    for source_ in given:
        for image in source_.images:
            found = digest.of_bytes(image.config)
            if found in known:
                repository.add_image(image.config, image.manifest)
            if found in damaged:
                damaged.remove(found)
                yield Outcome(found, f"repaired from {source_.title}")
    for gone in sorted(damaged):
        with catalog.changing():
            catalog.remove_image(gone)
        yield Outcome(gone, "removed, as its config is lost: import the image again")
    for name, of in catalog.tags():
        if of not in known and catalog.remove_tag(name):
            yield Outcome(name, "removed, as its image is lost")


class _Layer:
    """A layer that is damaged or missing, whose turn the caller has."""

    def __init__(
        self, repository: Repository, diff_id: str, given: Sequence[Source], progress: Progress
    ) -> None:
        self._repository = repository
        self._diff_id = diff_id
        self._given = given
        self._progress = progress
        self._directory = repository.paths.layer(diff_id)

    def repair(self) -> str | None:
        """Add it again; answers from what, None if there is nothing."""
        if self._from_itself():
            return "from its own contents and recipe"
        for row in self._repository.catalog.blobs_of(self._diff_id):
            path = self._repository.paths.blob(row.blob)
            claim = Claim(self._diff_id, row.blob, row.size)
            if os.path.exists(path) and self._add(Offer(claim, _opener(path))):
                return "from the blob that was kept"
        for source_ in self._given:
            offer = source_.layers.get(self._diff_id)
            if offer is not None and self._add(offer):
                return f"from {source_.title}"
        return None

    def _add(self, offer: Offer) -> bool:
        """Whether what is offered is the layer."""
        with offer.open() as reader:
            return self._ingest(reader, offer.claim, self._repository.limits)

    def _ingest(self, reader: Reader, claim: Claim, limits: Limits) -> bool:
        tell = self._progress.begin(digest.short(self._diff_id), None)
        try:
            added = ingest(self._repository.paths, reader, limits, claim, tell, replace=True)
        except (InvalidContentError, DamagedError):
            return False
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return False
        os.close(added.lease)
        return True

    # From itself

    def _from_itself(self) -> bool:
        try:
            lease = leases.hold(self._directory)
        except FileNotFoundError:
            return False
        try:
            indexes = (
                f"{self._directory}/{INDEX}",
                damage.index_set_aside(self._repository, self._diff_id),
            )
            return any(self._from_index(path) for path in indexes if os.path.exists(path))
        finally:
            os.close(lease)

    def _from_index(self, path: str) -> bool:
        """With the contents that an index names, which may be damaged elsewhere."""
        try:
            with contextlib.closing(Index(path)) as index:
                others = _others(self._repository.objects, index)
                # Forged contents apart, there is one candidate for each.
                tries = max((len(candidates) for candidates in others.values()), default=1)
                return any(
                    self._from_contents(
                        index,
                        {key: found[min(n, len(found) - 1)] for key, found in others.items()},
                    )
                    for n in range(tries)
                )
        except DamagedError:
            return False

    def _from_contents(self, index: Index, others: Mapping[Key, Key]) -> bool:
        def opened(number: int) -> int:
            key = index.content(number)
            return self._repository.objects.open(others.get(key, key))

        try:
            with open(f"{self._directory}/{RECIPE}", "rb") as file:
                reader = PieceReader(layertar.pieces(file, opened))
                return self._ingest(reader, Claim(self._diff_id), UNLIMITED)
        except FileNotFoundError:
            return False


def _others(objects: Objects, index: Index) -> dict[Key, list[Key]]:
    """For each content that is not there, objects that may be the same.

    Raises DamagedError if there is none.
    """
    bad = {content.key for content in index.contents() if not _is_there(objects, content.key)}
    found = {key: list(_like(objects, key)) for key in bad}
    if not all(found.values()):
        raise DamagedError("a content is nowhere else")
    return found


def _like(objects: Objects, key: Key) -> Iterator[Key]:
    for other in sorted(objects.part(key.hash[0])):
        if (other.hash, other.size) == (key.hash, key.size) and _is_there(objects, other):
            yield other


def _is_there(objects: Objects, key: Key) -> bool:
    status = objects.status(key)
    return status is not None and status.st_size == key.size
