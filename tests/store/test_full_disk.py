"""A disk that gets full: the command says so, the store is what it was, and space can be made.

A store lies on a small disk of its own, on which a file leaves so much room, and so much more,
until what is tried succeeds.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from layerstore import check, gc, importing, layertar
from layerstore.importing import Options
from tests.support.filesystems import FileSystems
from tests.support.stores import StoreBuilder
from tests.support.tars import directory, file, tar

_BASE = tar(directory("d"), *(file(f"d/{n}", b"%d " % n * n * 20) for n in range(100)))
_TOP = tar(file("big", bytes(range(251)) * 8000), file("small", b"of the top"))
_OTHER = tar(file("other", b"of another" * 1000), file("third", b"3" * 300000))

_STEP: Final = 192 << 10
_DISKS: Final = {
    "tmpfs": lambda filesystems: filesystems.tmpfs(options="size=16m"),
    "ext4": lambda filesystems: filesystems.image("ext4", 24),
}


class Disk:
    """A small disk with a store that has an image, and garbage."""

    def __init__(self, place: Path) -> None:
        self._filling = place / "filling"
        self._place = place
        self.store = StoreBuilder(place / "store")
        self.store.image("old:1", [_OTHER], keep_blobs=True)
        self.before = self.state()

    def fill(self, left: int) -> None:
        """Leave so many bytes."""
        with open(self._filling, "wb", buffering=0) as filling:
            with contextlib.suppress(OSError):
                while True:
                    filling.write(bytes(1 << 16))
            os.truncate(self._filling, max(0, filling.tell() - left))
            os.fsync(filling.fileno())

    def empty(self) -> None:
        self._filling.unlink()

    def state(self) -> object:
        """All images, whole; nothing else but layers that are complete."""
        with self.store.opened() as repository:
            assert os.listdir(repository.paths.temporary) == []
            return [
                (
                    image,
                    [b"".join(layertar.tar(repository, layer)) for layer in image.layers],
                    [repository.kept_blob(layer) for layer in image.layers],
                )
                for image in repository.images()
            ]


@pytest.fixture(params=_DISKS)
def disk(request: pytest.FixtureRequest, filesystems: FileSystems) -> Disk:
    return Disk(_DISKS[request.param](filesystems))


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("archive")
    store = StoreBuilder(place / "store")
    store.image("new:1", [_BASE, _TOP], keep_blobs=True)
    return store.archive(place / "new.tar", "new:1")


def tried(disk: Disk, work: Callable[[], object]) -> int:
    """Do it with more and more room until it succeeds; answers how often it did not."""
    for failed in range(100):
        disk.fill(failed * _STEP)
        try:
            work()
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
        else:
            disk.empty()
            return failed
        # Nothing changed, though the disk is still full.
        assert disk.state() == disk.before
    raise AssertionError("there was never room enough")


def whole(disk: Disk) -> None:
    with disk.store.opened() as repository:
        assert list(check.check(repository)) == []


def test_an_import_without_room_changes_nothing_and_works_with_room(
    disk: Disk, archive: Path
) -> None:
    def take_in() -> None:
        with disk.store.opened() as repository:
            importing.import_path(repository, archive, Options(keep_blobs=True))

    assert tried(disk, take_in) >= 10
    whole(disk)
    with disk.store.opened() as repository:
        image = repository.find("new:1")
        tars = [b"".join(layertar.tar(repository, layer)) for layer in image.layers]
    assert tars == [_BASE, _TOP]


def test_an_image_without_room_for_it_in_the_catalog_is_not_there(disk: Disk) -> None:
    """All other room is there already: its layers are."""
    with disk.store.opened() as repository:
        old = repository.find("old:1")
        large = old.raw.replace(b"{", b"{" + b" " * 1000000, 1)

        def add() -> None:
            repository.add_image(large, None, ["large:1"])

        assert tried(disk, add) >= 5
        assert repository.find("large:1").layers == old.layers
    whole(disk)


def test_a_check_without_room_finds_no_damage(disk: Disk) -> None:
    def look() -> None:
        with disk.store.opened() as repository:
            assert list(check.check(repository)) == []

    tried(disk, look)
    whole(disk)


def test_a_disk_without_any_room_can_be_collected(disk: Disk) -> None:
    disk.store.layer(_TOP)
    disk.fill(0)
    with disk.store.opened() as repository:
        repository.remove("old:1")
        with gc.plan(repository) as planned:
            removed = gc.execute(repository, planned)
    assert {kind: amount.number for kind, amount in removed.items()} == {
        "images": 0,
        "layers": 2,
        "objects": 4,
        "blobs": 1,
        "damaged": 0,
        "temporaries": 0,
    }
    assert sum(amount.size for amount in removed.values()) > 2_300_000
    disk.store.layer(_TOP)
    whole(disk)


def test_the_command_says_it_in_one_line(disk: Disk, archive: Path) -> None:
    disk.fill(_STEP)
    program = str(Path(sys.executable).with_name("layerstore"))
    done = subprocess.run(
        [program, "--store", str(disk.store.path), "import", str(archive)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.endswith("No space left on device")
    assert disk.state() == disk.before


def test_no_room_for_one_more_file_is_as_no_room(filesystems: FileSystems, archive: Path) -> None:
    disk = Disk(filesystems.tmpfs(options="nr_inodes=320"))
    with disk.store.opened() as repository:
        with pytest.raises(OSError, match=r"No space left") as caught:
            importing.import_path(repository, archive, Options())
        assert caught.value.errno == errno.ENOSPC
    assert disk.state() == disk.before
    whole(disk)


def test_a_disk_without_room_for_temporaries_is_told(
    filesystems: FileSystems, tmp_path: Path
) -> None:
    store = StoreBuilder(tmp_path / "store")
    contents = [b"%d" % number for number in range(1000)]
    # As many layers with as many contents as SQLite can't keep in memory.
    for layer in range(20):
        store.layer(tar(*(file(f"{layer}/{name.decode()}", name) for name in contents)))
    place = filesystems.tmpfs(options="size=64k")
    done = subprocess.run(
        [sys.executable, "-m", "layerstore.cli.main", "--store", store.path, "du"],
        env={**os.environ, "SQLITE_TMPDIR": str(place)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "layerstore: a temporary of SQLite: No space left on device\n"
