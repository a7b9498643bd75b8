"""Garbage: planned, shown, removed; and nothing that anybody needs."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from layerstore import gc, layertar, leases
from layerstore.catalog import BlobRow
from layerstore.errors import DamagedError
from layerstore.gc import Amount
from layerstore.keyset import KeySet
from layerstore.objects import Key
from tests.support.filesystems import FileSystems
from tests.support.stores import StoreBuilder
from tests.support.tars import directory, file, tar

_BASE = tar(file("both", b"b" * 5000), file("base", b"of the base"))
_TOP = tar(directory("d"), file("d/both", b"b" * 5000), file("d/top", b"of the top"))
_OTHER = tar(file("other", b"of another"))
_BIG = tar(file("big", bytes(range(256)) * 10000))


@pytest.fixture
def store(filesystems: FileSystems) -> StoreBuilder:
    return StoreBuilder(filesystems.tmpfs() / "store")


def collect(store: StoreBuilder, *, untagged: bool = False) -> dict[str, int]:
    """What was removed, by kind; the plan said the same."""
    with store.opened() as repository, gc.plan(repository, untagged=untagged) as planned:
        amounts = planned.amounts()
        assert gc.execute(repository, planned) == amounts
    return numbers(amounts)


def numbers(amounts: dict[str, Amount]) -> dict[str, int]:
    return {kind: amount.number for kind, amount in amounts.items() if amount.number}


def contents(store: StoreBuilder) -> set[bytes]:
    with store.opened() as repository:
        return {Path(repository.objects.path(key)).read_bytes() for key in repository.objects}


def tars(store: StoreBuilder) -> list[bytes]:
    with store.opened() as repository:
        return [b"".join(layertar.tar(repository, layer)) for layer in repository.layers()]


def test_a_store_without_garbage_stays_as_it_is(store: StoreBuilder) -> None:
    store.image("one:1", [_BASE, _TOP], keep_blobs=True)
    before = sorted(store.path.rglob("*"))
    assert collect(store) == {}
    assert sorted(store.path.rglob("*")) == before


def test_a_layer_goes_with_its_last_image_and_its_contents_with_it(store: StoreBuilder) -> None:
    store.image("base:1", [_BASE])
    store.image("top:1", [_BASE, _TOP])
    with store.opened() as repository:
        repository.remove("top:1")
    assert collect(store) == {"layers": 1, "objects": 1}
    assert tars(store) == [_BASE]
    assert contents(store) == {b"b" * 5000, b"of the base"}
    with store.opened() as repository:
        repository.remove("base:1")
    assert collect(store) == {"layers": 1, "objects": 2}
    assert contents(store) == set()


def test_a_layer_of_no_image_goes(store: StoreBuilder) -> None:
    store.layer(_OTHER)
    assert collect(store) == {"layers": 1, "objects": 1}


def test_images_without_a_name_go_only_when_they_are_to(store: StoreBuilder) -> None:
    store.image(None, [_OTHER])
    store.image("one:1", [_BASE])
    assert collect(store) == {}
    assert collect(store, untagged=True) == {"images": 1, "layers": 1, "objects": 1}
    assert tars(store) == [_BASE]


def test_an_image_that_gets_a_name_meanwhile_stays(store: StoreBuilder) -> None:
    image = store.image(None, [_OTHER])
    with store.opened() as repository, gc.plan(repository, untagged=True) as planned:
        assert numbers(planned.amounts()) == {"images": 1, "layers": 1, "objects": 1}
        with repository.catalog.changing():
            repository.catalog.set_tag("late:1", image.id)
        assert numbers(gc.execute(repository, planned)) == {}
    assert tars(store) == [_OTHER]


def test_kept_blobs_go_with_their_layer(store: StoreBuilder) -> None:
    store.image("one:1", [_BASE], keep_blobs=True)
    store.image("two:1", [_OTHER], keep_blobs=True)
    with store.opened() as repository:
        repository.remove("two:1")
    assert collect(store) == {"layers": 1, "objects": 1, "blobs": 1}
    with store.opened() as repository:
        (row,) = repository.catalog.blobs()
        assert os.listdir(repository.paths.blobs) == [row.blob.removeprefix("sha256:")]


def test_a_blob_that_nobody_knows_goes(store: StoreBuilder) -> None:
    store.image("one:1", [_BASE], keep_blobs=True)
    with store.opened() as repository:
        (row,) = repository.catalog.blobs()
        with repository.catalog.changing():
            repository.catalog.remove_blob(row.blob)
    assert collect(store) == {"blobs": 1}
    assert os.listdir(store.path / "blobs") == []


@pytest.mark.parametrize("row", [("sha256:../../victim", None), (None, "sha256:../../victim")])
def test_what_a_damaged_catalog_calls_a_blob_is_not_removed(
    store: StoreBuilder, row: tuple[str | None, str | None]
) -> None:
    diff_id = store.layer(tar(file("a", b"a")))
    victim = store.path.parent / "victim"
    victim.touch()
    with store.opened() as repository:
        blob, of = (name or diff_id for name in row)
        repository.catalog.add_blob(BlobRow(blob, of, "gzip", 1))
        with pytest.raises(DamagedError, match=r"'sha256:../../victim', which is no digest"):
            gc.plan(repository)
    assert victim.exists()
    assert tars(store)


def test_temporaries_of_the_dead_go_and_those_of_the_living_stay(store: StoreBuilder) -> None:
    with store.opened() as repository, repository.workspace() as mine:
        left = Path(repository.paths.temporary) / "left"
        left.mkdir()
        (left / "part").write_bytes(b"x" * 10000)
        with gc.plan(repository) as planned:
            assert [item.name for item in planned.temporaries] == ["left"]
            assert planned.temporaries[0].size >= 10000
            gc.execute(repository, planned)
        assert os.listdir(repository.paths.temporary) == [os.path.basename(mine)]


def test_a_layer_that_is_open_stays_with_its_contents(store: StoreBuilder) -> None:
    store.image("one:1", [_BASE])
    with store.opened() as repository:
        image = repository.find("one:1")
        (layer,) = repository.open_layers(image)
        repository.remove("one:1")
        assert collect(store) == {}
        entry = layer.lookup(layer.root(), b"base")
        os.close(layer.open(entry))  # type: ignore[arg-type]
        layer.close()
    assert collect(store) == {"layers": 1, "objects": 2}


def test_a_layer_that_another_process_has_open_stays(store: StoreBuilder) -> None:
    diff_id = store.layer(_BIG)
    program = (
        "import sys; from layerstore.repository import Repository\n"
        "layer = Repository(sys.argv[1]).open_layer(sys.argv[2])\n"
        "print('open', flush=True); sys.stdin.read()\n"
        "entry = layer.lookup(layer.root(), b'big')\n"
        "print(open(layer.open(entry), 'rb').read()[:4])\n"
    )
    words = [sys.executable, "-c", program, str(store.path), diff_id]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        assert collect(store) == {}
        said, _ = process.communicate()
    assert said == b"b'\\x00\\x01\\x02\\x03'\n"
    assert collect(store) == {"layers": 1, "objects": 1}


def test_a_layer_held_after_the_plan_stays(store: StoreBuilder) -> None:
    """As by an import that found it there, and has its image in the catalog later."""
    diff_id = store.layer(_BASE)
    with store.opened() as repository, gc.plan(repository) as planned:
        lease = repository.hold_layer(diff_id)
        assert lease is not None
        assert numbers(gc.execute(repository, planned)) == {}
        os.close(lease)
    assert tars(store) == [_BASE]


def test_a_layer_that_an_image_got_after_the_plan_stays(store: StoreBuilder) -> None:
    store.layer(_BASE)
    with store.opened() as repository, gc.plan(repository) as planned:
        store.image("one:1", [_BASE])
        assert numbers(gc.execute(repository, planned)) == {}
    assert tars(store) == [_BASE]


def test_contents_that_a_new_layer_needs_after_the_plan_stay(store: StoreBuilder) -> None:
    store.layer(_BASE)
    with store.opened() as repository, gc.plan(repository) as planned:
        store.image("top:1", [_TOP])
        assert numbers(gc.execute(repository, planned)) == {"layers": 1, "objects": 1}
    assert tars(store) == [_TOP]


def test_a_layer_that_is_being_collected_is_waited_for_and_then_not_there(
    store: StoreBuilder,
) -> None:
    diff_id = store.layer(_BASE)
    with store.opened() as repository:
        lease = leases.take(repository.paths.layer(diff_id))
        assert lease is not None
        os.rename(repository.paths.layer(diff_id), store.path / "tmp" / "bin")
        assert repository.hold_layer(diff_id) is None
        os.close(lease)


def test_no_layer_is_taken_from_an_import_between_finding_and_locking_it(
    store: StoreBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which it does under the store's lock."""
    store.layer(_BASE)
    renamed = []

    def rename(source: str, target: str) -> None:
        with open(store.path / "lock", "rb") as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        renamed.append(source)
        os.replace(source, target)

    monkeypatch.setattr("layerstore.gc.os.rename", rename)
    assert collect(store) == {"layers": 1, "objects": 2}
    assert len(renamed) == 1


def test_a_collection_that_was_killed_is_in_no_later_one_s_way(store: StoreBuilder) -> None:
    for _ in range(2):
        diff_id = store.layer(_OTHER)
        with store.opened() as repository:
            os.rename(repository.paths.layer(diff_id), store.path / "tmp" / diff_id[7:])
        store.layer(_OTHER)
        assert collect(store) == {"layers": 1, "objects": 1, "temporaries": 1}


def test_variants_of_one_hash_are_told_apart(store: StoreBuilder) -> None:
    store.image("one:1", [_OTHER])
    with store.opened() as repository:
        (key,) = repository.objects
        forged = Path(repository.objects.path(key._replace(variant=1)))
        forged.write_bytes(b"of a forger")
        with gc.plan(repository) as planned:
            assert [item.name for item in planned.objects()] == [f"{key.name}.1"]
            gc.execute(repository, planned)
        assert list(repository.objects) == [key]


def test_what_is_no_object_stays(store: StoreBuilder) -> None:
    store.layer(_OTHER)
    (store.path / "objects" / "00" / "README").touch()
    assert collect(store) == {"layers": 1, "objects": 1}
    assert (store.path / "objects" / "00" / "README").exists()


def test_nothing_is_collected_while_it_is_unknown_what_a_layer_needs(store: StoreBuilder) -> None:
    image = store.image("one:1", [_BASE])
    store.layer(_OTHER)
    with store.opened() as repository:
        index = Path(repository.paths.layer(image.layers[0])) / "index.sqlite"
        index.unlink()
        with pytest.raises(
            DamagedError, match=r"nobody can tell what it needs: run layerstore check"
        ):
            gc.plan(repository)
        repository.remove("one:1")
    assert collect(store) == {"layers": 2, "objects": 3}


def test_what_was_set_aside_stays_as_long_as_a_layer_is_damaged(store: StoreBuilder) -> None:
    image = store.image("one:1", [_BASE])
    (store.path / "damaged" / "thing").touch()
    with store.opened() as repository:
        mark = Path(repository.paths.mark(image.layers[0]))
        mark.touch()
        assert collect(store) == {}
        mark.unlink()
    assert collect(store) == {"damaged": 1}
    assert os.listdir(store.path / "damaged") == []


def test_sets_of_keys_larger_than_memory_are_sorted() -> None:
    keys = [(Key(bytes([first]) * 16, size), size) for first in (255, 0, 7) for size in (2, 1)]
    with KeySet() as found:
        found.add(keys)
        found.add([(keys[0][0], 99)])
        assert list(found) == sorted(keys)
        assert found.part(7) == {keys[5][0]: 1, keys[4][0]: 2}
        assert found.total() == (6, 9)


def run(store: StoreBuilder, *words: str) -> str:
    program = str(Path(sys.executable).with_name("layerstore"))
    command = [program, "--store", str(store.path), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_the_command_tells_what_it_would_do_and_does_it(store: StoreBuilder) -> None:
    diff_id = store.layer(_OTHER)
    assert (
        run(store, "gc", "--dry-run", "--verbose").splitlines()[-2].startswith("layers  " + diff_id)
    )
    planned = json.loads(run(store, "gc", "--dry-run", "--json"))
    assert planned["removed"] is None
    assert [item["name"] for item in planned["items"]["layers"]] == [diff_id]
    done = json.loads(run(store, "gc", "--json"))
    assert done["removed"] == done["planned"] == planned["planned"]
    assert run(store, "gc") == "There is nothing to remove.\n"
