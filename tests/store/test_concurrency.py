"""Several processes at once in one store: all is stored once, nobody takes from another."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from layerstore import check, gc, layertar
from layerstore.repository import Repository
from tests.support.filesystems import FileSystems
from tests.support.stores import StoreBuilder
from tests.support.tars import directory, file, tar

_PROCESSES: Final = 8
_ROUNDS: Final = 3  # times --campaign

_BASE = tar(directory("d"), *(file(f"d/{n}", b"%d " % n * (n * 37)) for n in range(150)))
_TOP = tar(
    file("big", bytes(range(251)) * 20000), *(file(f"{n}", b"top %d" % n) for n in range(50))
)

# Each process says that it is ready and begins when all are.
_PROGRAM: Final = """
import json, sys
from pathlib import Path
from layerstore import check, gc, importing
from layerstore.repository import Repository
store, archive, number, rounds = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])

def take_in(repository):
    options = importing.Options([f"name:{number}"], keep_blobs=True)
    (done,) = importing.import_path(repository, archive, options)
    return done.new

def collect(repository):
    with gc.plan(repository, untagged=True) as planned:
        gc.execute(repository, planned)

def look(repository):
    return [str(finding) for finding in check.check(repository)]

print("ready", flush=True)
sys.stdin.readline()
said = []
for round in range(rounds):
    with Repository(store) as repository:
        for step in sys.argv[5:]:
            match step:
                case "import":
                    said.append(take_in(repository))
                case "remove":
                    repository.untag([f"name:{number}"])
                case "gc":
                    collect(repository)
                case "check":
                    said += look(repository)
                case "read":
                    for layer in repository.open_layers(repository.find(f"name:{number}")):
                        for name, entry in layer.listing(layer.root()).items():
                            if not entry.is_directory:
                                with open(layer.open(entry), "rb") as content:
                                    content.read()
                        layer.close()
print(json.dumps(said), flush=True)
"""


@pytest.fixture
def place(filesystems: FileSystems) -> Path:
    """Where there is an archive of an image."""
    point = filesystems.tmpfs()
    source = StoreBuilder(point / "source")
    source.image("one:1", [_BASE, _TOP], keep_blobs=True)
    source.archive(point / "one.tar", "one:1")
    shutil.rmtree(source.path)
    return point


def at_once(place: Path, rounds: int, *work: tuple[str, ...]) -> list[list[Any]]:
    """What each process says that does its part of the work; all begin at the same moment."""
    running = []
    for number, steps in enumerate(work):
        words = [sys.executable, "-c", _PROGRAM, str(place / "store"), str(place / "one.tar")]
        process = subprocess.Popen(
            [*words, str(number), str(rounds), *steps],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        running.append(process)
    try:
        for process in running:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in running:
            assert process.stdin is not None
            process.stdin.write("\n")
        said = [process.communicate()[0] for process in running]
        assert [process.returncode for process in running] == [0] * len(running)
        return [json.loads(line) for line in said]
    finally:
        for process in running:
            process.kill()
            process.communicate()


def whole(place: Path, names: set[str]) -> None:
    """The image is there with these names, and nothing else."""
    with Repository(str(place / "store")) as repository:
        assert list(check.check(repository)) == []
        (image,) = repository.images()
        assert set(image.names) == names
        assert [b"".join(layertar.tar(repository, layer)) for layer in image.layers] == [
            _BASE,
            _TOP,
        ]
        assert os.listdir(repository.paths.temporary) == []
        with gc.plan(repository) as planned:
            assert all(amount.number == 0 for amount in planned.amounts().values())


def test_eight_imports_at_once_make_a_store_and_store_the_image_once(place: Path) -> None:
    said = at_once(place, 1, *[("import",)] * _PROCESSES)
    assert sum(new for (new,) in said) == 2
    whole(place, {f"name:{number}" for number in range(_PROCESSES)})


def test_eight_imports_of_one_layer_s_tar_at_once_store_it_once(place: Path) -> None:
    """Nobody knows before the end that they are the same."""
    (place / "one.tar").write_bytes(_TOP)
    said = at_once(place, 1, *[("import",)] * _PROCESSES)
    assert sum(new for (new,) in said) == 1
    with Repository(str(place / "store")) as repository:
        assert list(check.check(repository)) == []
        (image,) = repository.images()
        assert len(image.names) == _PROCESSES
        assert b"".join(layertar.tar(repository, image.layers[0])) == _TOP
        contents = {Path(repository.objects.path(key)).read_bytes() for key in repository.objects}
        assert len(contents) == len(list(repository.objects)) == 51


def test_imports_collections_and_checks_at_once_lose_nothing(place: Path, campaign: int) -> None:
    importer = ("import", "read", "remove", "gc")
    work = [importer] * 4 + [("gc",)] * 3 + [("check",)]
    said = at_once(place, _ROUNDS * campaign, *work)
    assert said[-1] == []
    at_once(place, 1, ("import",))
    whole(place, {"name:0"})
