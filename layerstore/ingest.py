"""A layer's stream into the store: decompressed, hashed, parsed and kept while it is read once.

The order that makes a crash harmless: contents, index and recipe are written in a workspace; under
the store's lock contents get their names; one syncfs(2) has all of it on disk; one rename(2) makes
the layer be there; its directory is synced. What a crash leaves before the rename is either in the
workspace or content that no layer needs; of the latter nothing is believed (see ``objects``).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, Final

from layerstore import database, durable, leases, tarstream
from layerstore.catalog import BlobRow
from layerstore.compression import Compression, open_decompressed
from layerstore.digest import Digest
from layerstore.errors import InvalidContentError, counted
from layerstore.indexwriter import IndexWriter
from layerstore.limits import Limits
from layerstore.objects import Key, Objects, Staging
from layerstore.paths import Paths
from layerstore.pieces import Reader
from layerstore.readahead import ReadAhead
from layerstore.recipe import RecipeWriter
from layerstore.tarstream import TarEntry
from layerstore.workspace import workspace

_SMALL: Final = 1 << 20
_BLOCK: Final = 4096
INDEX: Final = "index.sqlite"
RECIPE: Final = "recipe"
_LAYER: Final = "layer"
_STAGED: Final = "objects"
_BLOB: Final = "blob"
_THE_INDEX: Final = "a new index"

Tell = Callable[[int], None]
"""Is told how many bytes of the source were read since the last time."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What somebody says of a layer before it is read; None: nothing.

    diff_id: the digest of its tar. digest, size: of the blob, as it comes.
    """

    diff_id: str | None = None
    digest: str | None = None
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Ingested:
    """A layer that is in the store. lease: a descriptor that keeps it there; the caller closes it.

    digest, size, compression: of the blob as it came. new: it was not there before.
    """

    diff_id: Digest
    digest: Digest
    size: int
    compression: Compression
    new: bool
    lease: int


def ingest(
    paths: Paths,
    source: Reader,
    limits: Limits,
    claim: Claim,
    tell: Tell,
    *,
    keep: Callable[[BlobRow], None] | None = None,
    replace: bool = False,
) -> Ingested:
    """Read a layer, compressed or not, into the store.

    keep: keep the blob as it comes, too, if it is compressed (otherwise the store has it as it is
    anyway); is told of it once it is there, under the store's lock.
    replace: if the layer is there already, put this in its place; otherwise what is there stays,
    unless it is known to be damaged.

    Raises InvalidContentError (LimitExceededError) if it is not what *claim* says or a layer can't
    be so, and OSError; then the store is as it was.
    """
    with (
        workspace(paths.temporary) as directory,
        database.system_errors(_THE_INDEX),
        contextlib.ExitStack() as stack,
    ):
        kept = stack.enter_context(open(f"{directory}/{_BLOB}", "xb")) if keep else None
        blob = _Blob(source, tell, kept)
        content = open_decompressed(blob, limits)
        compressed = content.compression is not Compression.NONE
        if not compressed:
            kept = blob.keep = None
        build = stack.enter_context(_Build(paths, directory, limits))
        hasher = hashlib.sha256()

        def seen(chunk: bytes) -> None:
            # What is not compressed has been hashed as it came.
            if compressed:
                hasher.update(chunk)

        with ReadAhead(content, seen) as reader:
            tarstream.read(reader, build, limits)
        blob.check(claim)
        diff_id = Digest(f"sha256:{hasher.hexdigest()}") if compressed else blob.digest
        if claim.diff_id not in (None, diff_id):
            raise InvalidContentError(
                f"its diff ID is {diff_id}, and not {claim.diff_id} as claimed"
            )
        with leases.locked(paths.lock, alone=False):
            build.finish()
            if kept is not None:
                kept.close()
            durable.sync_filesystem(paths.root)
            if keep is not None and kept is not None:
                os.rename(f"{directory}/{_BLOB}", paths.blob(blob.digest))
                durable.sync_directory(paths.blobs)
                # Until here it is garbage.
                keep(BlobRow(blob.digest, diff_id, content.compression.value, blob.size))
            new = _publish(paths, f"{directory}/{_LAYER}", diff_id, replace=replace)
            lease = leases.hold(paths.layer(diff_id))
        return Ingested(diff_id, blob.digest, blob.size, content.compression, new, lease)


def is_small(size: int) -> bool:
    """Whether a content of so many bytes is kept in memory while it comes; then zeros that stand in
    the tar are no holes.
    """
    return size <= _SMALL


def blocks_of(size: int) -> int:
    """Blocks of 512 bytes that so many bytes without a hole take, as stat(2) counts them."""
    return -(-size // _BLOCK) * (_BLOCK // 512)


def _publish(paths: Paths, built: str, diff_id: str, *, replace: bool) -> bool:
    """Put a layer in its place; whether there was none."""
    target = paths.layer(diff_id)
    try:
        os.rename(built, target)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        if replace or os.path.exists(paths.mark(diff_id)):
            _replace(built, target, paths.mark(diff_id))
        return False
    durable.sync_directory(paths.layers)
    return True


def _replace(built: str, target: str, mark: str) -> None:
    """Put files in the place of others, in the directory that users of the layer have locked.

    Of one tar each index fits each recipe, so any moment between is as good as before.
    """
    for name in (INDEX, RECIPE):
        os.rename(f"{built}/{name}", f"{target}/{name}")
    durable.sync_directory(target)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(mark)


class _Blob:
    """The source as it comes, hashed and counted; in *keep* if that is a file."""

    def __init__(self, source: Reader, tell: Tell, keep: BinaryIO | None) -> None:
        self._source = source
        self._tell = tell
        self.keep = keep
        self._hasher = hashlib.sha256()
        self.size = 0

    @property
    def digest(self) -> Digest:
        return Digest(f"sha256:{self._hasher.hexdigest()}")

    def read(self, size: int) -> bytes:
        chunk = self._source.read(size)
        self._hasher.update(chunk)
        self.size += len(chunk)
        if self.keep is not None:
            self.keep.write(chunk)
        self._tell(len(chunk))
        return chunk

    def check(self, claim: Claim) -> None:
        while self.read(_SMALL):
            pass
        if claim.size not in (None, self.size):
            size = counted(self.size, "byte")
            raise InvalidContentError(f"it has {size}, and not {claim.size} as claimed")
        if claim.digest not in (None, self.digest):
            raise InvalidContentError(
                f"its digest is {self.digest}, and not {claim.digest} as claimed"
            )


class _Build:
    """The layer that a tar is turned into, as a context that gives up what is held."""

    def __init__(self, paths: Paths, directory: str, limits: Limits) -> None:
        os.mkdir(f"{directory}/{_LAYER}", 0o700)
        os.mkdir(f"{directory}/{_STAGED}", 0o700)
        self._staging = Staging(Objects(paths.objects), f"{directory}/{_STAGED}")
        self._path = f"{directory}/{_LAYER}"
        self._index = IndexWriter(f"{self._path}/{INDEX}", limits.entries)
        self._file = open(f"{self._path}/{RECIPE}", "xb")  # noqa: SIM115
        self._recipe = RecipeWriter(self._file)
        self._size = 0
        self._current: _Content | None = None
        self._content: int | None = None
        self._complete = False

    def __enter__(self) -> _Build:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._complete:
            self._index.close(keep=False)
        if self._current is not None:
            self._current.abandon()
        # Last, as it may fail: it writes what it has in memory.
        self._file.close()

    def literal(self, piece: bytes) -> None:
        self._size += len(piece)
        self._recipe.literal(piece)

    def content(self, entry: TarEntry) -> _Content:
        self._current = _Content(self, self._staging, entry.size)
        return self._current

    def entry(self, entry: TarEntry) -> None:
        content = self._content if entry.kind == stat.S_IFREG else None
        self._index.entry(entry, content)

    def take(self, key: Key, blocks: int, parts: list[tuple[int, int]]) -> None:
        """A content is complete; *parts* of it (offset, length) stand in the tar."""
        self._content = self._index.content(key, blocks)
        for offset, length in parts:
            self._size += length
            self._recipe.content(self._content, offset, length)

    def finish(self) -> None:
        """Complete all files; contents get their names."""
        self._recipe.finish()
        self._file.close()
        self._index.finish(self._size)
        self._index.move_contents(self._staging.publish())
        self._index.close(keep=True)
        self._complete = True
        for name in (INDEX, RECIPE):
            os.chmod(f"{self._path}/{name}", 0o400)


class _Content:
    """One file's content: kept in memory if it is small."""

    def __init__(self, build: _Build, staging: Staging, size: int) -> None:
        self._build = build
        self._staging = staging
        self._writer = None if is_small(size) else staging.writer()
        self._pieces: list[bytes] = []
        self._parts: list[tuple[int, int]] = []
        self._at = 0
        self._has_holes = False

    def write(self, piece: bytes) -> None:
        if self._parts and sum(self._parts[-1]) == self._at:
            self._parts[-1] = (self._parts[-1][0], self._parts[-1][1] + len(piece))
        else:
            self._parts.append((self._at, len(piece)))
        self._at += len(piece)
        if self._writer is None:
            self._pieces.append(piece)
        else:
            self._writer.write(piece)

    def skip(self, count: int) -> None:
        self._at += count
        if self._writer is None:
            self._pieces.append(bytes(count))
            self._has_holes = True
        else:
            self._writer.skip(count)

    def close(self) -> None:
        writer = self._writer
        if writer is None:
            content = b"".join(self._pieces)
            if not self._has_holes:
                blocks = blocks_of(len(content))
                self._build.take(self._staging.add(content), blocks, self._parts)
                return
            writer = self._writer = self._staging.writer()
            writer.write(content)
        key = writer.close()
        self._build.take(key, writer.blocks, self._parts)

    def abandon(self) -> None:
        """Nothing more comes; it may be complete."""
        if self._writer is not None:
            self._writer.abandon()
