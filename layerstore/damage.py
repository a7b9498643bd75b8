"""What is done about damage: it is set aside, so that nobody takes it for good.

An object leaves a file of another size in its place: to open it is an error (EIO in a mount), and
no other content can get its name. An index leaves nothing: its layer can't be opened. Layers that
need one of them get a mark, which makes an import read them again; a layer added again gets a new
index, with contents that were compared with what came in, and loses the mark.

What was set aside lies in the store's directory ``damaged``, as long as it may help to repair.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple, TypeAlias

from layerstore import digest, durable, leases
from layerstore.catalog import ImageRow, ManifestRow
from layerstore.errors import InvalidContentError
from layerstore.ingest import INDEX, RECIPE
from layerstore.limits import UNLIMITED
from layerstore.objects import Key, Objects
from layerstore.oci.documents import ImageConfig, parse_config
from layerstore.repository import Repository

NOT_CLEAR: Final = "can't be understood"
"""What to call a document in messages of which it is the subject."""


class FileState(NamedTuple):
    """Which file it is, and when it was written."""

    inode: int
    mtime_ns: int


State: TypeAlias = tuple[FileState | None, ...]
"""Of a layer's files: another one if they have been replaced."""


def state(repository: Repository, diff_id: str) -> State:
    """The state of a layer."""
    directory = repository.paths.layer(diff_id)
    return tuple(_state_of(f"{directory}/{name}") for name in (INDEX, RECIPE))


def _state_of(path: str) -> FileState | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return FileState(status.st_ino, status.st_mtime_ns)


def index_set_aside(repository: Repository, diff_id: str) -> str:
    """Where the index of a layer is if it was set aside."""
    return f"{repository.paths.damaged}/index-{diff_id.partition(':')[2]}"


@contextlib.contextmanager
def _alone(repository: Repository) -> Iterator[None]:
    with leases.locked(repository.paths.lock, alone=True):
        yield


def set_objects_aside(repository: Repository, keys: Iterable[Key]) -> None:
    """Have nobody read these objects, which are damaged or missing. Raises OSError."""
    with repository.workspace() as scratch, _alone(repository):
        for key in keys:
            # It may have been collected since it was looked at, and come anew.
            if not _is_whole(repository.objects, key):
                repository.objects.set_aside(key, repository.paths.damaged, scratch)


def _is_whole(objects: Objects, key: Key) -> bool:
    try:
        return objects.is_whole(key)
    except OSError:
        return False


def set_manifest_aside(repository: Repository, row: ManifestRow) -> None:
    """Forget a manifest. Raises OSError, StoreError."""
    name = digest.encoded(digest.of_bytes(row.content))
    durable.write_file(f"{repository.paths.damaged}/manifest-{name}", row.content)
    with repository.catalog.changing():
        repository.catalog.remove_manifest(row.manifest)


def set_blob_aside(repository: Repository, blob: str) -> bool:
    """Forget a kept blob; False if it was forgotten already. Raises OSError, StoreError."""
    with _alone(repository):
        if all(row.blob != blob for row in repository.catalog.blobs()):
            return False
        with repository.catalog.changing():
            repository.catalog.remove_blob(blob)
        target = f"{repository.paths.damaged}/blob-{blob.partition(':')[2]}"
        with contextlib.suppress(FileNotFoundError):
            os.rename(repository.paths.blob(blob), target)
        return True


def mark(repository: Repository, diff_id: str, seen: State, *, with_index: bool = False) -> bool:
    """Note that a layer, which the caller holds, is damaged.

    seen: its state when that was found; if it has another now, it has been added again, and the
    answer is False. with_index: set its index aside. Raises OSError.
    """
    directory = repository.paths.layer(diff_id)
    with _alone(repository):
        if state(repository, diff_id) != seen:
            return False
        with open(repository.paths.mark(diff_id), "ab"):
            pass
        if with_index:
            with contextlib.suppress(FileNotFoundError):
                os.rename(f"{directory}/{INDEX}", index_set_aside(repository, diff_id))
        durable.sync_directory(directory)
        return True


def unmark(repository: Repository, diff_id: str, seen: State) -> None:
    """A layer was found whole in the state *seen*. Raises OSError."""
    with _alone(repository), contextlib.suppress(FileNotFoundError):
        if state(repository, diff_id) == seen:
            os.unlink(repository.paths.mark(diff_id))


def is_marked(repository: Repository, diff_id: str) -> bool:
    """Whether a layer is known to be damaged."""
    return os.path.exists(repository.paths.mark(diff_id))


def layers(repository: Repository) -> list[str]:
    """The layers that are known to be damaged, and those that images have and the store has not.

    What an image needs whose config is damaged, nobody knows. Raises DamagedError, OSError.
    """
    present = set(repository.layers())
    marked = {diff_id for diff_id in present if is_marked(repository, diff_id)}
    wanted: set[str] = set()
    for row in repository.catalog.configs():
        with contextlib.suppress(InvalidContentError):
            wanted.update(config_of(row).rootfs.diff_ids)
    return sorted(marked | (wanted - present))


def config_of(row: ImageRow) -> ImageConfig:
    """The config of an image. Raises InvalidContentError, a sentence without its subject."""
    check_digest(row.image, row.config)
    return parse_config(row.config, NOT_CLEAR, UNLIMITED)


def check_digest(wanted: str, content: bytes) -> None:
    """Raise InvalidContentError, a sentence without its subject, unless a document has this
    digest.
    """
    found = digest.of_bytes(content)
    if found != wanted:
        raise InvalidContentError(f"is damaged: its digest is {found}")
