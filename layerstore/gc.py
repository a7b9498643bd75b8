"""Garbage: what nothing needs, planned and then removed.

Garbage are layers that no image has and nobody uses, objects that no other layer needs, kept blobs
of no layer, what killed processes have left, and what check has set aside once all is mended.

Why nothing is lost that others use at the same time:

- Whoever uses a layer (a mount, an export, an import until its image is in the catalog) has a
  shared lock on its directory. A layer is removed by who has that lock alone, and after that has
  looked into the catalog once more: whoever gave the lock up had an image put there first. The
  directory becomes a temporary at once, so that a layer is whole or not there.
- Whoever adds a layer has links of its contents in a workspace; under the store's lock, shared, the
  contents get their names and the layer its place, and its directory is locked. Layers and objects
  are removed under that lock, alone; objects after a look for layers that have come since the plan.
  It is held for some layers or one part of the objects at a time, so that nobody waits long.
- The removal of layers is on disk before the first of their objects goes.

Whatever came into use after the plan stays; nothing is removed that the plan does not have.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

from layerstore import durable, leases, names, workspace
from layerstore.errors import DamagedError
from layerstore.index import Index
from layerstore.ingest import INDEX
from layerstore.keyset import KeySet
from layerstore.objects import PARTS, Key, Objects
from layerstore.repository import Image, Repository
from layerstore.space import allocated, taken, taken_below

_AT_ONCE: Final = 128


class Item(NamedTuple):
    """Something to be removed. size: bytes on the disk."""

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Amount:
    """How many things, and how many bytes on the disk they take."""

    number: int = 0
    size: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.number + other.number, self.size + other.size)

    @classmethod
    def of(cls, items: Iterable[Item]) -> Amount:
        """The sum of *items*."""
        sizes = [item.size for item in items]
        return cls(len(sizes), sum(sizes))


class Plan:
    """What is to be removed; a context, as long as it is needed.

    images: digests of configs. layers: diff IDs. blobs: digests. temporaries, damaged: names in
    those directories of the store.
    """

    def __init__(self) -> None:
        self.images: list[Item] = []
        self.layers: list[Item] = []
        self.blobs: list[Item] = []
        self.temporaries: list[Item] = []
        self.damaged: list[Item] = []
        self._stack = contextlib.ExitStack()
        self._unneeded = self._stack.enter_context(KeySet())
        self._needed = self._stack.enter_context(KeySet())
        self._seen: dict[str, tuple[int, int]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up what is held."""
        self._stack.close()

    def objects(self) -> Iterator[Item]:
        """The objects, by their names."""
        return (Item(key.name, size) for key, size in self._unneeded)

    def amounts(self) -> dict[str, Amount]:
        """What there is of each kind, in the order in which it is removed."""
        return {
            "images": Amount.of(self.images),
            "layers": Amount.of(self.layers),
            "objects": Amount(*self._unneeded.total()),
            "blobs": Amount.of(self.blobs),
            "damaged": Amount.of(self.damaged),
            "temporaries": Amount.of(self.temporaries),
        }

    def look(self, repository: Repository, diff_ids: Iterable[str]) -> None:
        """See what layers need, as far as that is not known. Raises DamagedError, OSError."""
        for diff_id in diff_ids:
            directory = repository.paths.layer(diff_id)
            try:
                lease = leases.hold(directory)
            except FileNotFoundError:
                continue
            try:
                self._look(diff_id, f"{directory}/{INDEX}")
            except (DamagedError, FileNotFoundError) as error:
                raise DamagedError(
                    f"layer {diff_id} is damaged, so nobody can tell what it needs: run layerstore"
                    " check --repair, import its images again, or remove them"
                ) from error
            finally:
                os.close(lease)

    def _look(self, diff_id: str, path: str) -> None:
        status = os.stat(path)
        state = status.st_ino, status.st_mtime_ns
        if self._seen.get(diff_id) != state:
            with contextlib.closing(Index(path)) as index:
                self._needed.add((content.key, 0) for content in index.contents())
            self._seen[diff_id] = state

    def add_unneeded(self, objects: Objects) -> None:
        """Plan to remove the objects that nothing needs of what was seen."""
        for first in range(PARTS):
            needed = self._needed.part(first)
            self._unneeded.add(
                (key, allocated(status))
                for key in objects.part(first)
                if key not in needed and (status := objects.status(key))
            )

    def unneeded(self, first: int) -> dict[Key, int]:
        """Those that were planned and that nothing needs now, and their sizes."""
        planned = self._unneeded.part(first)
        for key in self._needed.part(first).keys() & planned.keys():
            del planned[key]
        return planned


def plan(repository: Repository, *, untagged: bool = False) -> Plan:
    """Find what nothing needs; nothing is changed.

    untagged: images without a name go, too. Raises DamagedError if it can't be told what an image
    or a layer needs, OSError.
    """
    found = Plan()
    try:
        images = repository.images()
        gone = [image for image in images if untagged and not image.names]
        found.images += (Item(image.id, 0) for image in gone)
        needed = _layers(image for image in images if image not in gone)
        present = repository.layers()
        for diff_id in present:
            if diff_id not in needed and _is_free(repository.paths.layer(diff_id)):
                size = taken_below(repository.paths.layer(diff_id))
                found.layers.append(Item(diff_id, size))
        staying = set(present) - {item.name for item in found.layers}
        found.look(repository, sorted(staying))
        found.add_unneeded(repository.objects)
        found.blobs += _unneeded_blobs(repository, staying)
        found.damaged += _damaged(repository)
        found.temporaries += _temporaries(repository)
    except BaseException:
        found.close()
        raise
    return found


def execute(repository: Repository, planned: Plan) -> dict[str, Amount]:
    """Remove what was planned, as far as nothing needs it now; answers what was removed.

    May be cut off at any moment. Raises as ``plan``.
    """
    removed = {"images": Amount.of(_remove_images(repository, planned.images))}
    removed["layers"] = Amount.of(_remove_layers(repository, planned.layers))
    removed["objects"] = _remove_objects(repository, planned)
    with leases.locked(repository.paths.lock, alone=True):
        removed["blobs"] = Amount.of(_remove_blobs(repository, planned.blobs))
        removed["damaged"] = Amount.of(_remove_damaged(repository, planned.damaged))
    removed["temporaries"] = Amount.of(_remove_temporaries(repository, planned.temporaries))
    return removed


# Images


def _layers(images: Iterable[Image]) -> set[str]:
    return {diff_id for image in images for diff_id in image.layers}


def _remove_images(repository: Repository, planned: Iterable[Item]) -> list[Item]:
    catalog = repository.catalog
    with catalog.changing():
        named = {image for _, image in catalog.tags()}
        removed = [item for item in planned if item.name not in named]
        for item in removed:
            catalog.remove_image(item.name)
    return removed


# Layers


def _is_free(directory: str) -> bool:
    lease = leases.take(directory)
    if lease is None:
        return False
    os.close(lease)
    return True


def _remove_layers(repository: Repository, planned: Sequence[Item]) -> list[Item]:
    removed: list[Item] = []
    # Each of them is a descriptor.
    for start in range(0, len(planned), _AT_ONCE):
        with contextlib.ExitStack() as stack:
            with leases.locked(repository.paths.lock, alone=True):
                moved = _move_layers(repository, planned[start : start + _AT_ONCE], stack)
            for temporary in moved.values():
                shutil.rmtree(temporary, ignore_errors=True)
        removed += moved
    return removed


def _move_layers(
    repository: Repository, planned: Iterable[Item], stack: contextlib.ExitStack
) -> dict[Item, str]:
    """Make temporaries of the layers that nobody uses; *stack* keeps their locks."""
    taken = []
    for item in planned:
        lease = leases.take(repository.paths.layer(item.name))
        if lease is not None:
            stack.callback(os.close, lease)
            taken.append(item)
    needed = _layers(repository.images())
    moved = {}
    for item in taken:
        if item.name not in needed:
            # A full disk has no room for a new directory; this one is a temporary like others:
            # locked, and swept if this process is killed.
            target = f"{repository.paths.temporary}/{secrets.token_hex(8)}"
            os.rename(repository.paths.layer(item.name), target)
            moved[item] = target
    durable.sync_directory(repository.paths.layers)
    return moved


# Objects


def _remove_objects(repository: Repository, planned: Plan) -> Amount:
    removed = Amount()
    for first in range(PARTS):
        if not planned.unneeded(first):
            continue
        with leases.locked(repository.paths.lock, alone=True):
            planned.look(repository, repository.layers())
            for key, size in planned.unneeded(first).items():
                _remove(repository.objects.path(key))
                removed += Amount(1, size)
    return removed


# Blobs


def _needed_blobs(repository: Repository, layers: Container[str]) -> set[str]:
    return {row.blob for row in repository.catalog.blobs() if row.diff_id in layers}


def _unneeded_blobs(repository: Repository, layers: Container[str]) -> Iterator[Item]:
    """Those that are there, and those that are only told of."""
    needed = _needed_blobs(repository, layers)
    known = {row.blob for row in repository.catalog.blobs()}
    present = {f"sha256:{name}" for name in os.listdir(repository.paths.blobs)}
    for blob in sorted(known | set(filter(names.digest, present))):
        if blob not in needed:
            yield Item(blob, taken(repository.paths.blob(blob)))


def _remove_blobs(repository: Repository, planned: Iterable[Item]) -> list[Item]:
    needed = _needed_blobs(repository, set(repository.layers()))
    removed = [item for item in planned if item.name not in needed]
    with repository.catalog.changing():
        for item in removed:
            repository.catalog.remove_blob(item.name)
    for item in removed:
        _remove(repository.paths.blob(item.name))
    return removed


# What was set aside, and temporaries


def _damaged(repository: Repository) -> list[Item]:
    """All of it, unless it may help to repair a layer."""
    if any(os.path.exists(repository.paths.mark(diff_id)) for diff_id in repository.layers()):
        return []
    with os.scandir(repository.paths.damaged) as entries:
        return sorted(Item(entry.name, taken(entry.path)) for entry in entries)


def _remove_damaged(repository: Repository, planned: Iterable[Item]) -> list[Item]:
    present = {item.name for item in _damaged(repository)}
    removed = [item for item in planned if item.name in present]
    for item in removed:
        _remove(f"{repository.paths.damaged}/{item.name}")
    return removed


def _temporaries(repository: Repository) -> list[Item]:
    with os.scandir(repository.paths.temporary) as entries:
        found = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
    return sorted(
        Item(entry.name, taken_below(entry.path)) for entry in found if _is_free(entry.path)
    )


def _remove_temporaries(repository: Repository, planned: Iterable[Item]) -> list[Item]:
    return [
        item for item in planned if workspace.remove(f"{repository.paths.temporary}/{item.name}")
    ]


def _remove(path: str) -> None:
    """Remove a file that may have gone; or, what only damage can bring, a directory."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except IsADirectoryError:
        shutil.rmtree(path)
