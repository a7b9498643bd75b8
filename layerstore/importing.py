"""Images into the store: layouts, archives, single layers and directories."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from layerstore import pack
from layerstore.adding import Wanted, add_layer, add_wanted, sha256
from layerstore.compression import Compression, sniff
from layerstore.digest import short
from layerstore.errors import InvalidContentError, StoreError
from layerstore.index import ROOT
from layerstore.ingest import Claim, Ingested, Tell
from layerstore.oci import platforms
from layerstore.oci.documents import History, make_config
from layerstore.oci.images import SourceImage, SourceLayer
from layerstore.oci.sources import Kind, are_of_images, classify, open_images
from layerstore.oci.streams import Rewindable
from layerstore.pieces import PieceReader, Reader
from layerstore.progress import Nobody, Progress
from layerstore.repository import PATIENCE, Image, Repository
from layerstore.worker import Worker
from unionfs.layers.directory import DirectoryLayer

_AT_ONCE: Final = os.cpu_count() or 1
_SNIFFED: Final = 10
_LARGE: Final = 1 << 23
_WAS_STOPPED: Final = "the import was stopped"


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
    sockets, which no layer can have, and of the store itself.
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
    (InvalidContentError), OSError; then no image has been added, and finished layers stay for the
    next try until ``layerstore gc``.
    """
    watcher = progress or Nobody()
    repository.sweep()
    kind = classify(path, repository.limits)
    if kind is Kind.IMAGES:
        return _import_images(repository, path, options, watcher)
    _require_no_choice(options)
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
    _require_no_choice(options)
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
        with _Layers(repository, options, progress) as layers:
            layers.add(layer for image in found for layer in image.layers)
            # Only now, when nothing can be wrong any more.
            return [_add_image(repository, image, options.names, layers) for image in found]


def _add_image(
    repository: Repository, image: SourceImage, names: Sequence[str], layers: _Layers
) -> Imported:
    added = repository.add_image(image.config, image.manifest, names or image.names)
    return Imported(added, len(layers.new.intersection(added.layers)))


class _Layers:
    """Adds layers, several at once, and keeps them in the store until it is closed."""

    def __init__(self, repository: Repository, options: Options, progress: Progress) -> None:
        self._repository = repository
        self._options = options
        self._progress = progress
        self._held = contextlib.ExitStack()
        self._lock = threading.Lock()
        self._here = threading.Lock()
        self._stopped = threading.Event()
        self._workers: list[Worker] = []
        self._idle: list[Worker] = []
        self._has_workers = False
        self.new: set[str] = set()

    def __enter__(self) -> _Layers:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def add(self, layers: Iterable[SourceLayer]) -> None:
        """Have all of them. Raises what the first that fails raises, after all have ended."""
        # What is kept of a layer is kept of each blob; otherwise any blob of it will do.
        wanted = {
            (layer.diff_id, layer.digest if self._options.keep_blobs else None): layer
            for layer in layers
        }
        self._has_workers = _AT_ONCE > 1 and sum(map(_is_large, wanted.values())) > 1
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            try:
                for work in [pool.submit(self._add, layer) for layer in wanted.values()]:
                    work.result()
            except BaseException as error:
                if not isinstance(error, Exception):
                    self._stop()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _add(self, layer: SourceLayer) -> None:
        if self._is_there(layer):
            return
        title = short(layer.diff_id)
        with self._turn(layer, title):
            # Whoever had the turn before may have added it.
            if self._is_there(layer):
                return
            tell = self._progress.begin(title, layer.content.size)
            try:
                added = self._read(layer, tell)
            except InvalidContentError as error:
                raise type(error)(f"layer {title}: {error}") from error
            self._keep(added.lease, [added.diff_id] if added.new else [])

    @contextlib.contextmanager
    def _turn(self, layer: SourceLayer, title: str) -> Iterator[None]:
        """Wait for another import of the layer, unless we are stopped."""
        told: list[Tell] = []

        def wait() -> None:
            if not told:
                what = f"waiting for another import of layer {title}"
                told.append(self._progress.begin(what, layer.content.size))
            if self._stopped.wait(PATIENCE):
                raise StoreError(_WAS_STOPPED)

        with self._repository.turn(layer.diff_id, wait):
            for tell in told:
                tell(layer.content.size)
            yield

    def _read(self, layer: SourceLayer, tell: Tell) -> Ingested:
        keep_blob = self._options.keep_blobs
        wanted = Wanted(layer.diff_id, layer.digest, layer.size, keep_blob)
        with layer.open() as reader:
            if self._has_workers and _is_large(layer):
                with self._worker() as worker:
                    return worker.add(reader, wanted, tell)
            # Two of them in this process would only be in each other's way.
            with self._here:
                source = _Stoppable(reader, self._stopped)
                return add_wanted(self._repository, source, wanted, tell)

    def _stop(self) -> None:
        """Whoever presses Ctrl-C does not want to wait for the layers that have begun."""
        self._stopped.set()
        with self._lock:
            for worker in self._workers:
                worker.close()

    @contextlib.contextmanager
    def _worker(self) -> Iterator[Worker]:
        """A worker that nobody else has."""
        with self._lock:
            _require_going(self._stopped)
            worker = self._idle.pop() if self._idle else self._begin_worker()
        yield worker
        with self._lock:
            self._idle.append(worker)

    def _begin_worker(self) -> Worker:
        worker = self._held.enter_context(Worker(self._repository))
        self._workers.append(worker)
        return worker

    def _is_there(self, layer: SourceLayer) -> bool:
        if self._options.keep_blobs and not self._is_kept(layer):
            return False
        lease = self._repository.hold_layer(layer.diff_id)
        if lease is None:
            return False
        self._keep(lease, [])
        return True

    def _is_kept(self, layer: SourceLayer) -> bool:
        """Whether the blob comes out of the store as it is there."""
        if self._repository.kept_blob(layer.diff_id, sha256(layer.digest)):
            return True
        with layer.open() as reader:
            return sniff(reader.read(_SNIFFED)) is Compression.NONE

    def _keep(self, lease: int, new: Iterable[str]) -> None:
        with self._lock:
            self._held.callback(os.close, lease)
            self.new.update(new)


def _is_large(layer: SourceLayer) -> bool:
    """Whether reading it takes longer than starting a process."""
    return layer.content.size >= _LARGE


class _Stoppable:
    """A source until somebody says stop; then reading it fails."""

    def __init__(self, source: Reader, stopped: threading.Event) -> None:
        self._source = source
        self._stopped = stopped

    def read(self, size: int, /) -> bytes:
        _require_going(self._stopped)
        return self._source.read(size)


def _require_going(stopped: threading.Event) -> None:
    if stopped.is_set():
        raise StoreError(_WAS_STOPPED)


# Single layers


def _require_no_choice(options: Options) -> None:
    if options.reference is not None:
        raise StoreError("there is nothing to choose from: it is one layer, and has no name")


def _import_tree(
    repository: Repository, path: Path, options: Options, progress: Progress
) -> Imported:
    left_out: list[bytes] = []
    with contextlib.closing(DirectoryLayer(os.fsencode(path))) as layer:
        root = os.stat(repository.paths.root)
        store = (root.st_dev, root.st_ino)
        if store in layer.lineage:
            raise StoreError(f"{path} is in the store itself: name another directory")
        pieces = _named(path, pack.pack_tree(layer, left_out.append, without=store))
        imported = _import_layer(repository, PieceReader(pieces), None, options, progress)
    return Imported(imported.image, imported.new, left_out)


def _named(path: Path, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The pieces of a directory's tar; errors on the way tell which file of the host it was."""
    try:
        yield from pieces
    except OSError as error:
        name = os.path.join(path, os.fsdecode(error.filename or ""))
        raise OSError(error.errno, error.strerror, name) from error


def _import_layer(
    repository: Repository,
    source: Reader,
    size: int | None,
    options: Options,
    progress: Progress,
) -> Imported:
    platform = platforms.parse(options.platform) if options.platform else platforms.host()
    tell = progress.begin("layer", size)
    added = add_layer(repository, source, Claim(), tell, keep_blob=options.keep_blobs)
    try:
        _refuse_images(repository, added.diff_id)
        # No time of today in it: the same tar gives the same image, whenever it is imported.
        config = make_config([added.diff_id], [History(created_by="layerstore import")], platform)
        return Imported(repository.add_image(config, None, options.names), new=int(added.new))
    finally:
        os.close(added.lease)


def _refuse_images(repository: Repository, diff_id: str) -> None:
    """Raise StoreError for a layer that was an archive of images, which nobody could see before."""
    with contextlib.closing(repository.open_layer(diff_id)) as layer:
        top = dict(layer.index.children(ROOT))
        if len(top) == 1:
            # It was packed with the directory that it was in.
            ((_, only),) = top.items()
            top = dict(layer.index.children(only.inode))
    files = [os.fsdecode(name) for name, inode in top.items() if stat.S_ISREG(inode.mode)]
    if are_of_images(files):
        raise StoreError(
            "it looks like an archive of images that does not begin like one:"
            " unpack it, and import the directory"
        )
