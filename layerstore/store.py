"""``Store``: all that the command ``layerstore`` does, for Python.

The examples below are run by tests/store/test_store.py, in a store with an image ``app:1`` whose
two layers have ``/etc/motd``, and a second version of it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Self

from layerstore import check, committing, exporting, gc, importing, names, repair
from layerstore.check import Finding
from layerstore.committing import About, Made
from layerstore.compression import Compression
from layerstore.exporting import Exported, Format
from layerstore.extract import Extracted
from layerstore.gc import Amount
from layerstore.importing import Imported, Options
from layerstore.inspection import blame, content, difference, listing, subjects, usage, waste
from layerstore.inspection.blame import Blame
from layerstore.inspection.difference import Difference
from layerstore.inspection.listing import Branch, Item, Listing
from layerstore.inspection.usage import Usage
from layerstore.inspection.waste import PathUse
from layerstore.layer import StoredLayer
from layerstore.limits import Limits
from layerstore.oci.documents import History
from layerstore.pieces import Reader
from layerstore.progress import Progress
from layerstore.repair import Outcome
from layerstore.repository import Image, Repository

StrPath = str | os.PathLike[str]


class Store:
    """A store of layers and images; a context, which closes it.

    path: its directory, made if it is not there; None: $LAYERSTORE, or the user's own. limits: what
    images may ask for. progress: whom long work tells how far it is.

    A *word* means an image or, where that makes sense, a layer, as on the command line: by name, by
    digest or the beginning of it. All methods raise :class:`~layerstore.errors.StoreError` for what
    a user can mend (``InvalidContentError`` for what comes in and is not as it claims to be,
    ``DamagedError`` for what is not as it was stored), and OSError.

    >>> from layerstore import Store
    >>> with Store(path) as store:
    ...     [image.names for image in store.images()]
    [('app:1',)]
    """

    def __init__(
        self,
        path: StrPath | None = None,
        *,
        limits: Limits | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.repository = Repository(None if path is None else os.fspath(path), limits=limits)
        self._progress = progress

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up what is held.

        >>> store = Store(path)
        >>> store.close()
        """
        self.repository.close()

    # Images in and out

    def import_(
        self,
        source: StrPath | Reader,
        *,
        tags: Sequence[str] = (),
        platform: str | None = None,
        reference: str | None = None,
        keep_blobs: bool = False,
    ) -> list[Imported]:
        """Bring images in: from an archive, a layout, a layer's tar, a directory, or a stream.

        See :class:`layerstore.importing.Options` for the rest.

        >>> (imported,) = store.import_("root.tar", tags=["base:1"])
        >>> imported.image.names, imported.new
        (('base:1',), 1)
        """
        options = Options([names.require(tag) for tag in tags], platform, reference, keep_blobs)
        if isinstance(source, str | os.PathLike):
            return importing.import_path(self.repository, Path(source), options, self._progress)
        return importing.import_stream(self.repository, source, options, self._progress)

    def export(
        self,
        words: str | Iterable[str],
        target: StrPath | BinaryIO,
        format: Format = Format.OCI_ARCHIVE,  # noqa: A002
        compression: Compression | None = None,
    ) -> Exported:
        """Write images as an OCI layout, an OCI archive or a docker archive.

        >>> store.export("app:1", "app.tar", Format.DOCKER_ARCHIVE)
        Exported(recompressed=[])
        """
        wanted = [words] if isinstance(words, str) else words
        found = [
            (image, exporting.named(image, word))
            for word in wanted
            for image in [self.repository.find(word)]
        ]
        return exporting.export_images(
            self.repository, found, _target(target), format, compression, self._progress
        )

    def export_layer(
        self,
        word: str,
        target: StrPath | BinaryIO,
        compression: Compression = Compression.NONE,
    ) -> None:
        """Write a layer's tar, bit for bit as it came unless it is compressed.

        >>> store.export_layer(store.image("app:1").layers[0], "layer.tar")
        """
        layer = exporting.only_layer(self.repository, word)
        exporting.export_layer(self.repository, layer, _target(target), compression)

    def export_tree(self, word: str, target: StrPath) -> Extracted:
        """Write all files of an image into a new directory.

        >>> store.export_tree("app:1", "root").entries
        3
        """
        image = self.repository.find(word)
        return exporting.export_tree(self.repository, image, Path(target), self._progress)

    # Images and their names

    def images(self) -> list[Image]:
        """All images, the newest last.

        >>> [len(image.layers) for image in store.images()]
        [2]
        """
        return self.repository.images()

    def image(self, word: str) -> Image:
        """The image that a word means.

        >>> store.image("app:1").names
        ('app:1',)
        """
        return self.repository.find(word)

    def layers(self) -> list[str]:
        """The diff IDs of all layers, sorted.

        >>> set(store.layers()) == set(store.image("app:1").layers)
        True
        """
        return self.repository.layers()

    def history(self, word: str) -> Sequence[History]:
        """The steps that made an image, the first one first.

        >>> [step.created_by for step in store.history("app:1")]
        ['COPY motd /etc', 'RUN greet']
        """
        return self.repository.find(word).config.history

    def tag(self, word: str, *tags: str) -> None:
        """Give an image more names. A name that another image has moves to this one.

        >>> store.tag("app:1", "app:stable")
        >>> store.image("app:stable").names
        ('app:1', 'app:stable')
        """
        self.repository.tag(word, tags)

    def untag(self, *tags: str) -> None:
        """Take names away; the images stay.

        >>> store.untag("app:1")
        >>> [image.names for image in store.images()]
        [()]
        """
        self.repository.untag(tags)

    def rm(self, word: str) -> Image:
        """Remove an image with all its names; answers what it was.

        >>> store.rm("app:1").names, store.images()
        (('app:1',), [])
        """
        (image,) = self.repository.remove(word)
        return image

    # Images from images

    def commit(
        self,
        upper: StrPath,
        onto: str,
        about: About | None = None,
        *,
        work: StrPath | None = None,
        userxattr: bool = False,
    ) -> Made:
        """Make an image of another and the changes in an upper directory.

        >>> made = store.commit("upper", "app:1", About(["app:2"]))
        >>> store.cat("app:2", "/etc/motd")
        b'changed'
        """
        return committing.commit(
            self.repository,
            Path(upper),
            self.repository.find(onto),
            about or About(),
            self._progress,
            work=None if work is None else Path(work),
            userxattr=userxattr,
        )

    def squash(self, word: str, about: About | None = None, *, keep: int = 0) -> Made:
        """Make an image that shows the same, with one layer for all but the first *keep*.

        >>> len(store.squash("app:1").image.layers)
        1
        """
        wanted = about or About(created_by="layerstore squash")
        image = self.repository.find(word)
        return committing.squash(self.repository, image, wanted, self._progress, keep=keep)

    # Looking

    @contextlib.contextmanager
    def open(self, word: str) -> Iterator[Sequence[StoredLayer]]:
        """The layers of an image, base first, or one layer, open for as long as the block lasts.

        They are what :mod:`unionfs` mounts.

        >>> with store.open("app:1") as layers:
        ...     [len(layer.listing(layer.root())) for layer in layers]
        [1, 1]
        """
        with subjects.opened(self.repository, word) as subject:
            yield subject.layers

    def ls(self, word: str, path: str = "/", *, recursive: bool = False) -> Iterator[Listing]:
        """What is in a directory of an image; of all below it as well if *recursive*.

        >>> [(item.path, item.size) for at in store.ls("app:1", "/etc") for item in at.items]
        [(b'/etc/motd', 5)]
        """
        with subjects.opened(self.repository, word) as subject:
            view = subject.view
            start = view.find(os.fsencode(path), follow=True)
            yield from listing.listings(view, start, recursive=recursive)

    def tree(self, word: str, path: str = "/", *, depth: int | None = None) -> Iterator[Branch]:
        """A directory and all below it, down to *depth*, with sizes.

        >>> [(branch.item.path, branch.size) for branch in store.tree("app:1")]
        [(b'/', 5), (b'/etc', 5), (b'/etc/motd', 5)]
        """
        with subjects.opened(self.repository, word) as subject:
            view = subject.view
            yield from listing.tree(view, view.find(os.fsencode(path), follow=True), depth)

    def cat(self, word: str, path: str) -> bytes:
        """The content of a file of an image; links are followed inside it.

        >>> store.cat("app:1", "/etc/motd")
        b'hello'
        """
        with subjects.opened(self.repository, word) as subject:
            return b"".join(content.pieces(subject.view, os.fsencode(path)))

    def diff(
        self,
        before: str,
        after: str,
        *,
        work: StrPath | None = None,
        userxattr: bool = False,
    ) -> Iterator[Difference]:
        """What differs between two images or layers; *after* may be an upper directory's path.

        work, userxattr: of that directory, as for :meth:`commit`.

        >>> *_, change = store.diff("app:1", "./upper")
        >>> change.letter, change.path
        ('M', b'/etc/motd')
        """
        with difference.compared(
            self.repository,
            before,
            after,
            work=None if work is None else Path(work),
            userxattr=userxattr,
        ) as views:
            yield from difference.differences(*views)

    def blame(self, word: str, path: str) -> Blame:
        """Which layer and step gave a path, and what it hides.

        >>> [said.created_by for said in store.blame("app:1", "/etc/motd").statements]
        ['RUN greet', 'COPY motd /etc']
        """
        with subjects.opened(self.repository, word) as subject:
            return blame.blame(subject.layers, os.fsencode(path))

    def du(self, *words: str) -> Usage:
        """What images take (none named: all), and what sharing and waste come to.

        >>> [image.unique for image in store.du("app:1").images]
        [8192]
        """
        found = [self.repository.find(word) for word in words]
        return usage.measure(self.repository, found or None)

    def files(self, word: str) -> Iterator[tuple[str, Item]]:
        """All paths of an image, each with the digest of the layer that it is from.

        >>> app = store.image("app:1")
        >>> [(app.layers.index(layer), item.path) for layer, item in store.files("app:1")]
        [(1, b'/etc'), (1, b'/etc/motd')]
        """
        with subjects.opened(self.repository, word) as subject:
            for item in listing.items(subject.view):
                yield subject.layers[item.position].identity, item

    def wasted_files(self, word: str) -> list[PathUse]:
        """The paths that waste space in an image, those with the most bytes first.

        >>> [(use.path, use.wasted) for use in store.wasted_files("app:1")]
        [(b'/etc/motd', 8)]
        """
        with subjects.opened(self.repository, word) as subject:
            return waste.wasteful(subject.layers)

    # Keeping it in order

    def gc(self, *, dry_run: bool = False, untagged: bool = False) -> dict[str, Amount]:
        """Remove what no image needs and nobody uses; answers how much of what.

        >>> _ = store.rm("app:1")
        >>> store.gc()["layers"].number
        2
        """
        with gc.plan(self.repository, untagged=untagged) as planned:
            return planned.amounts() if dry_run else gc.execute(self.repository, planned)

    def check(self) -> list[Finding]:
        """Verify everything; what is damaged is set aside.

        >>> store.check()
        []
        """
        return list(check.check(self.repository, self._progress))

    def repair(self, *sources: StrPath) -> list[Outcome]:
        """Mend what ``check`` has found, from what is in the store, and from *sources*.

        >>> store.repair()
        []
        """
        with contextlib.ExitStack() as stack:
            given = [
                stack.enter_context(repair.source(self.repository, Path(source)))
                for source in sources
            ]
            return list(repair.repair(self.repository, given, self._progress))


def _target(target: StrPath | BinaryIO) -> Path | BinaryIO:
    return Path(target) if isinstance(target, str | os.PathLike) else target
