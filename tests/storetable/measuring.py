"""What a set takes: bytes in every form, and seconds of each program, one after the other."""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.storetable.tools import LAYERSTORE, UNIONMOUNT, Image, run, skopeo_words
from tests.support import disks, linux

# Without what the kernel would write for hours after an ext4 was made.
_DISK = disks.Kind(("mkfs.ext4", "-q"), 32 << 10, "noinit_itable")
_BLOCK = 512  # bytes of what stat(2) counts as one
_CHUNK = 1 << 20


@dataclass
class Result:
    """What was measured of a set.

    layers: of all images together; distinct_layers: those that are different. entries: of the
    distinct layers. Bytes: layer_bytes of all layers' tars, a layer that several images have
    counted for each; source_bytes of the files that were read; stored_bytes and unpacked_bytes on
    disk. The rest are seconds for all images of the set, one for each round.
    """

    images: int
    layers: int = 0
    distinct_layers: int = 0
    entries: int = 0
    layer_bytes: int = 0
    source_bytes: int = 0
    stored_bytes: int = 0
    unpacked_bytes: int = 0
    imported: list[float] = field(default_factory=list)
    imported_again: list[float] = field(default_factory=list)
    mounted: list[float] = field(default_factory=list)
    unpacked: list[float] = field(default_factory=list)
    copied: list[float] = field(default_factory=list)


def measure(
    images: Sequence[Image], rounds: int, scratch: Path, say: Callable[[str], None]
) -> Result:
    """Have each program do its work on all images, in turn, so many times.

    Sources are read before, so that they are in the page cache; what one program has written is on
    disk before the next begins.
    """
    result = Result(len(images))
    sources = {image.files for image in images}
    result.source_bytes = sum(file.stat().st_size for file in _files(sources))
    for number in range(1, rounds + 1):
        for work in (_in_the_store, _by_umoci, _by_skopeo):
            say(f"round {number} of {rounds}, {work.__name__.strip('_').replace('_', ' ')}")
            _read(sources | {image.layout_files for image in images})
            with _empty_disk(scratch) as directory:
                work(images, directory, result)
    return result


@contextlib.contextmanager
def _empty_disk(scratch: Path) -> Iterator[Path]:
    """A file system that nothing was removed from.

    On one where many files were, ext4 takes several times as long to make others, for minutes: it
    looks at each inode that has become free (recently_deleted in fs/ext4/ialloc.c).
    """
    disk, point = scratch / "disk", scratch / "point"
    point.mkdir()
    disks.make(_DISK, disk)
    try:
        with disks.mounted(_DISK, disk, point):
            yield point
    finally:
        disk.unlink()
        point.rmdir()


def _in_the_store(images: Sequence[Image], directory: Path, result: Result) -> None:
    store, root = directory / "store", directory / "root"
    root.mkdir()
    environment = {"LAYERSTORE": str(store)}
    for seconds in (result.imported, result.imported_again):
        seconds.append(
            sum(_seconds(LAYERSTORE, "import", *image.words, **environment) for image in images)
        )
    result.mounted.append(sum(_seconds_to_mount(image.name, root, environment) for image in images))
    result.stored_bytes = _disk_usage(store)
    named = {name: about for about in _listed("images", environment) for name in about["names"]}
    result.layers = sum(len(named[image.name]["layers"]) for image in images)
    result.layer_bytes = sum(named[image.name]["size"] for image in images)
    different = _listed("layers", environment)
    result.distinct_layers = len(different)
    result.entries = sum(layer["entries"] for layer in different)


def _listed(what: str, environment: dict[str, str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(
        run(LAYERSTORE, what, "--json", environment=environment)
    )
    return found


def _by_umoci(images: Sequence[Image], directory: Path, result: Result) -> None:
    seconds, size = 0.0, 0
    for number, image in enumerate(images):
        bundle = directory / f"{number}"
        seconds += _seconds("umoci", "unpack", "--image", image.layout, bundle)
        size += _disk_usage(bundle / "rootfs")
    result.unpacked.append(seconds)
    result.unpacked_bytes = size


def _by_skopeo(images: Sequence[Image], directory: Path, result: Result) -> None:
    target = f"oci:{directory / 'layout'}"
    seconds = 0.0
    for number, image in enumerate(images):
        seconds += _seconds(*skopeo_words(image.source, f"{target}:{number}"))
    result.copied.append(seconds)


def _seconds(*words: str | Path, **environment: str) -> float:
    """How long a command takes, beginning with nothing left to be written to disk."""
    os.sync()
    begin = time.monotonic()
    run(*words, environment=environment)
    return time.monotonic() - begin


def _seconds_to_mount(name: str, root: Path, environment: dict[str, str]) -> float:
    """How long it takes until an image is mounted; it is unmounted afterwards."""
    try:
        seconds = _seconds(UNIONMOUNT, name, root, **environment)
        assert os.listdir(root), f"{name} is mounted, and empty"
    finally:
        for point in linux.mounts_below(root):
            linux.umount(point)
    return seconds


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        yield from (found for found in (path, *path.rglob("*")) if found.is_file())


def _read(paths: Iterable[Path]) -> None:
    for path in _files(paths):
        with path.open("rb") as file:
            while file.read(_CHUNK):
                pass


def _disk_usage(root: Path) -> int:
    """Bytes of the blocks that a tree takes, a file with several names counted once, as du(1)."""
    blocks = {}
    for directory, _, names in os.walk(root):
        for name in (".", *names):
            status = os.lstat(os.path.join(directory, name))
            blocks[status.st_dev, status.st_ino] = status.st_blocks
    return sum(blocks.values()) * _BLOCK
