"""Damage of every kind: named, never read as if it were good, and mended.

A store holds two images with a layer in common; then one thing in it is changed behind its back.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from layerstore import check, damage, gc, importing, layertar, repair
from layerstore.check import Finding, Kind, Place
from layerstore.cli.main import main
from layerstore.errors import DamagedError, StoreError
from layerstore.importing import Options
from layerstore.objects import Key
from layerstore.repository import Repository
from tests.support import linux
from tests.support.command import Command
from tests.support.filesystems import FileSystems
from tests.support.stores import StoreBuilder
from tests.support.tars import directory, file, gnu_sparse, hardlink, symlink, tar, whiteout, xattrs
from unionfs.model import Entry, Mark

_SHARED = b"shared by all " * 400
_BASE = tar(
    directory("d", mode=0o750),
    file("d/shared", _SHARED),
    file("d/base", b"of the base"),
    hardlink("d/link", "d/base"),
    symlink("s", "d/base"),
)
_TOP = tar(
    xattrs({"user.a": b"1"}),
    file("again", _SHARED),
    whiteout("d/base"),
    gnu_sparse("sparse", {8192: b"data" * 128}, 20000),
    file("big", bytes(range(256)) * 5000 + bytes(40000) + b"end"),
)
_OTHER = tar(file("other", b"of another"))

Damage = Callable[[Repository], None]


@pytest.fixture(scope="session")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store to be copied, and an archive of its images."""
    place = tmp_path_factory.mktemp("full")
    builder = StoreBuilder(place / "store")
    builder.image("one:1", [_BASE, _TOP], keep_blobs=True)
    builder.image("two:1", [_BASE, _OTHER])
    builder.archive(place / "one.tar", "one:1")
    builder.archive(place / "two.tar", "two:1")
    return place


@pytest.fixture
def store(full: Path, filesystems: FileSystems) -> StoreBuilder:
    place = filesystems.tmpfs() / "store"
    shutil.copytree(full / "store", place)
    return StoreBuilder(place)


@pytest.fixture
def repository(store: StoreBuilder) -> Iterator[Repository]:
    with store.opened() as opened:
        yield opened


def found_in(repository: Repository) -> list[Finding]:
    return list(check.check(repository))


def base(repository: Repository) -> str:
    return repository.find("one:1").layers[0]


def top(repository: Repository) -> str:
    return repository.find("one:1").layers[1]


def key_of(repository: Repository, content: bytes) -> Key:
    paths = repository.objects
    (key,) = (key for key in paths if Path(paths.path(key)).read_bytes() == content)
    return key


def without_blobs(repository: Repository) -> None:
    """As if they had not been kept."""
    with repository.catalog.changing():
        for row in repository.catalog.blobs():
            repository.catalog.remove_blob(row.blob)
            os.unlink(repository.paths.blob(row.blob))


def change(path: str, at: int, by: int = 1) -> None:
    os.chmod(path, 0o600)
    with open(path, "r+b") as changed:
        changed.seek(at)
        byte = changed.read(1)[0]
        changed.seek(at)
        changed.write(bytes([byte ^ by]))


def whole(repository: Repository) -> None:
    """Everything is as it was, and only what is needed is there."""
    assert found_in(repository) == []
    for name, layers in (("one:1", [_BASE, _TOP]), ("two:1", [_BASE, _OTHER])):
        image = repository.find(name)
        assert [b"".join(layertar.tar(repository, layer)) for layer in image.layers] == layers
        for layer in repository.open_layers(image):
            layer.close()
    with gc.plan(repository) as planned:
        gc.execute(repository, planned)
    with gc.plan(repository) as planned:
        assert all(amount.number == 0 for amount in planned.amounts().values())
    assert found_in(repository) == []


def mend(repository: Repository, *sources: Path) -> list[str]:
    """How things were mended."""
    with contextlib.ExitStack() as stack:
        given = [stack.enter_context(repair.source(repository, source)) for source in sources]
        return [outcome.how for outcome in repair.repair(repository, given)]


def again(repository: Repository, full: Path) -> None:
    """Import both images again."""
    for name in ("one", "two"):
        importing.import_path(
            repository, full / f"{name}.tar", Options([f"{name}:1"], keep_blobs=name == "one")
        )


def test_a_store_that_is_whole_has_no_findings(repository: Repository) -> None:
    whole(repository)


# Objects


def flipped(path: str) -> None:
    change(path, 5)


def truncated(path: str) -> None:
    os.truncate(path, 3)


def emptied(path: str) -> None:
    os.truncate(path, 0)


def replaced(path: str) -> None:
    os.unlink(path)
    os.mkdir(path)


WAYS = [flipped, truncated, emptied, os.unlink, replaced]


@pytest.mark.parametrize("harm", WAYS)
def test_a_damaged_object_is_named_with_all_that_it_touches(
    repository: Repository, harm: Callable[[str], None]
) -> None:
    key = key_of(repository, _SHARED)
    harm(repository.objects.path(key))
    (finding,) = found_in(repository)
    both = base(repository), top(repository)
    assert (finding.kind, finding.name, finding.is_damage) == (Kind.OBJECT, key.name, True)
    assert set(finding.layers) == set(both)
    assert finding.images == ("one:1", "two:1")
    assert set(finding.paths) == {Place(both[0], b"/d/shared"), Place(both[1], b"/again")}
    (same,) = found_in(repository)
    assert (same.name, set(same.paths)) == (key.name, set(finding.paths))


@pytest.mark.parametrize("harm", WAYS)
@pytest.mark.parametrize("checked", [False, True])
def test_a_damaged_object_is_an_error_to_whoever_reads_it(
    repository: Repository, harm: Callable[[str], None], checked: bool
) -> None:
    harm(repository.objects.path(key_of(repository, _SHARED)))
    if checked:
        found_in(repository)
    with pytest.raises(DamagedError):
        b"".join(layertar.tar(repository, base(repository)))
    layer = repository.open_layer(top(repository))
    entry = layer.lookup(layer.root(), b"again")
    with pytest.raises(OSError, match=r"object") as caught:
        layer.open(entry)  # type: ignore[arg-type]
    assert caught.value.errno == 5
    layer.close()


def test_a_content_that_a_mount_has_verified_is_an_error_once_it_was_found(
    repository: Repository,
) -> None:
    layer = repository.open_layer(top(repository))
    entry = layer.lookup(layer.root(), b"again")
    os.close(layer.open(entry))  # type: ignore[arg-type]
    flipped(repository.objects.path(key_of(repository, _SHARED)))
    os.close(layer.open(entry))  # type: ignore[arg-type]
    found_in(repository)
    with pytest.raises(OSError, match=r"wrong size"):
        layer.open(entry)  # type: ignore[arg-type]
    layer.close()


@pytest.mark.parametrize("harm", WAYS)
def test_an_object_is_mended_from_blobs_and_then_from_what_they_brought(
    repository: Repository, harm: Callable[[str], None]
) -> None:
    harm(repository.objects.path(key_of(repository, _SHARED)))
    found_in(repository)
    assert set(mend(repository)) <= {
        "repaired from the blob that was kept",
        "repaired from its own contents and recipe",
    }
    whole(repository)


def test_one_layer_mended_mends_all_others_with_the_same_content(
    repository: Repository, full: Path
) -> None:
    without_blobs(repository)
    flipped(repository.objects.path(key_of(repository, _SHARED)))
    found_in(repository)
    assert mend(repository) == []
    (full / "base.tar").write_bytes(_BASE)
    assert sorted(mend(repository, full / "base.tar")) == [
        f"repaired from {full}/base.tar",
        "repaired from its own contents and recipe",
    ]
    whole(repository)


@pytest.mark.parametrize("harm", WAYS)
def test_importing_again_mends_objects(
    repository: Repository, full: Path, harm: Callable[[str], None]
) -> None:
    without_blobs(repository)
    harm(repository.objects.path(key_of(repository, _SHARED)))
    found_in(repository)
    again(repository, full)
    whole(repository)


def test_a_forged_content_never_takes_a_damaged_one_s_place(repository: Repository) -> None:
    """Whoever can make two contents of one hash must not get one of them read as the other."""
    without_blobs(repository)
    key = key_of(repository, _SHARED)
    path = Path(repository.objects.path(key))
    forged, good = (Path(f"{path}.{variant}") for variant in (1, 2))
    flipped(str(path))
    found_in(repository)
    forged.write_bytes(b"F" * key.size)
    assert mend(repository) == []
    good.write_bytes(_SHARED)
    assert mend(repository) == ["repaired from its own contents and recipe"] * 2
    forged.unlink()
    whole(repository)


def test_damaged_garbage_is_no_finding(store: StoreBuilder, repository: Repository) -> None:
    store.layer(tar(file("garbage", b"of no layer soon")))
    key = key_of(repository, b"of no layer soon")
    flipped(repository.objects.path(key))
    (finding,) = found_in(repository)
    assert (finding.name, finding.images) == (key.name, ())
    with gc.plan(repository) as planned:
        gc.execute(repository, planned)
    whole(repository)


# Indexes and recipes


def sql(statement: str) -> Callable[[str], None]:
    def run(path: str) -> None:
        os.chmod(path, 0o600)
        with contextlib.closing(sqlite3.connect(path)) as database:
            assert database.execute(statement).rowcount > 0
            database.commit()

    return run


INDEX_DAMAGE: dict[str, Callable[[str], None]] = {
    "not a database": lambda path: change(path, 0),
    "truncated": lambda path: os.truncate(path, 5000),
    "empty": emptied,
    "missing": os.unlink,
    "another version": lambda path: change(path, 63),
    "a mode": sql("UPDATE inode SET mode = mode | 2048 WHERE inode = 3"),
    "a time": sql("UPDATE inode SET nanoseconds = 1 WHERE inode = 2"),
    "a target": sql("UPDATE inode SET target = x'2f' WHERE target IS NOT NULL"),
    "a name": sql("UPDATE name SET name = x'6c' WHERE name = x'6c696e6b'"),
    "a name too few": sql("DELETE FROM name WHERE inode = 4 AND name = x'6c696e6b'"),
    "an inode too many": sql("INSERT INTO inode SELECT 99, 16877,0,0,0,0,2,0,NULL,NULL,0,0"),
    "an attribute": sql("INSERT INTO xattr VALUES (3, x'61', x'62')"),
    "blocks": sql("UPDATE content SET blocks = 1"),
    "a content": sql("UPDATE inode SET content = 2 WHERE content = 1"),
    "contents exchanged": sql(
        "UPDATE content SET (hash, size, variant) ="
        " (SELECT hash, size, variant FROM content AS c WHERE c.content = 3 - content.content)"
    ),
    "a content too many": sql(
        "INSERT INTO content SELECT 9, hash, size, variant, 0 FROM content WHERE content = 1"
    ),
    "the size": sql("UPDATE layer SET size = size + 512"),
}


@pytest.mark.parametrize("harm", INDEX_DAMAGE.values(), ids=INDEX_DAMAGE.keys())
def test_a_wrong_index_is_named_and_its_layer_can_t_be_opened(
    repository: Repository, harm: Callable[[str], None]
) -> None:
    diff_id = base(repository)
    harm(f"{repository.paths.layer(diff_id)}/index.sqlite")
    (finding,) = found_in(repository)
    assert (finding.kind, finding.name, finding.layers) == (Kind.INDEX, diff_id, (diff_id,))
    assert finding.images == ("one:1", "two:1")
    with pytest.raises(DamagedError, match=r"is damaged"):
        repository.open_layers(repository.find("one:1"))
    (same,) = found_in(repository)
    assert (same.kind, same.name) == (Kind.INDEX, diff_id)


@pytest.mark.parametrize("harm", INDEX_DAMAGE.values(), ids=INDEX_DAMAGE.keys())
def test_a_wrong_index_is_made_anew(
    repository: Repository, full: Path, harm: Callable[[str], None]
) -> None:
    harm(f"{repository.paths.layer(base(repository))}/index.sqlite")
    found_in(repository)
    assert len(mend(repository, full / "one.tar")) == 1
    whole(repository)


def test_an_index_comes_from_the_layer_itself_if_its_contents_are_known(
    repository: Repository,
) -> None:
    without_blobs(repository)
    INDEX_DAMAGE["a mode"](f"{repository.paths.layer(base(repository))}/index.sqlite")
    found_in(repository)
    assert mend(repository) == ["repaired from its own contents and recipe"]
    whole(repository)


@pytest.mark.parametrize("harm", INDEX_DAMAGE.values(), ids=INDEX_DAMAGE.keys())
def test_importing_again_makes_an_index_anew(
    repository: Repository, full: Path, harm: Callable[[str], None]
) -> None:
    without_blobs(repository)
    harm(f"{repository.paths.layer(base(repository))}/index.sqlite")
    found_in(repository)
    again(repository, full)
    whole(repository)


@pytest.mark.parametrize("harm", [lambda path: change(path, 40), *WAYS[1:]])
def test_a_damaged_recipe_is_named_and_mended(
    repository: Repository, harm: Callable[[str], None]
) -> None:
    diff_id = base(repository)
    harm(f"{repository.paths.layer(diff_id)}/recipe")
    (finding,) = found_in(repository)
    assert (finding.kind, finding.name) == (Kind.RECIPE, diff_id)
    with pytest.raises((DamagedError, OSError)):
        b"".join(layertar.tar(repository, diff_id))
    # What a mount needs is whole.
    for layer in repository.open_layers(repository.find("one:1")):
        layer.close()
    if harm is replaced:
        os.rmdir(f"{repository.paths.layer(diff_id)}/recipe")
    assert mend(repository) == ["repaired from the blob that was kept"]
    whole(repository)


def test_a_missing_layer_is_named_and_mended(repository: Repository, full: Path) -> None:
    diff_id = base(repository)
    shutil.rmtree(repository.paths.layer(diff_id))
    (finding,) = found_in(repository)
    assert (finding.kind, finding.name, finding.images) == (
        Kind.LAYER,
        diff_id,
        ("one:1", "two:1"),
    )
    without_blobs(repository)
    assert mend(repository) == []
    assert mend(repository, full / "two.tar") == [f"repaired from {full}/two.tar"]
    whole(repository)


# The catalog


def in_catalog(repository: Repository, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(repository.paths.catalog)) as database:
        assert database.execute(statement).rowcount == 1
        database.commit()


_CONFIG = (
    "UPDATE image SET config = CAST(replace(config, 'step 1', 'step 9') AS BLOB) WHERE image = '{}'"
)


def test_a_damaged_config_is_named_and_never_read(repository: Repository, full: Path) -> None:
    image = repository.find("one:1")
    in_catalog(repository, _CONFIG.format(image.id))
    (finding,) = found_in(repository)
    assert (finding.kind, finding.name, finding.images) == (Kind.CONFIG, image.id, ("one:1",))
    for use in (lambda: repository.find("one:1"), repository.images, lambda: gc.plan(repository)):
        with pytest.raises(DamagedError, match=r"config of image sha256:\w+ is damaged"):
            use()
    assert mend(repository, full / "one.tar") == [f"repaired from {full}/one.tar"]
    assert repository.find("one:1") == image
    whole(repository)


def test_importing_again_mends_a_config(repository: Repository, full: Path) -> None:
    in_catalog(repository, _CONFIG.format(repository.find("one:1").id))
    again(repository, full)
    whole(repository)


def test_a_damaged_config_beside_a_damaged_object_hides_nothing(
    store: StoreBuilder, repository: Repository, full: Path
) -> None:
    without_blobs(repository)
    in_catalog(repository, _CONFIG.format(repository.find("one:1").id))
    flipped(repository.objects.path(key_of(repository, _SHARED)))
    findings = found_in(repository)
    assert {finding.kind for finding in findings} == {Kind.CONFIG, Kind.OBJECT}
    assert repair.unmended(repository, findings) == findings
    assert len(mend(repository, full / "one.tar")) == 3
    assert repair.unmended(repository, findings) == []
    whole(repository)


def test_an_object_that_has_come_anew_is_not_set_aside(repository: Repository) -> None:
    """It was damaged garbage, which was collected, when a check looked at it."""
    key = key_of(repository, _SHARED)
    damage.set_objects_aside(repository, [key])
    whole(repository)


def test_an_image_whose_config_is_lost_is_removed_by_a_repair(repository: Repository) -> None:
    image = repository.find("one:1")
    in_catalog(repository, _CONFIG.format(image.id))
    (finding,) = found_in(repository)
    assert mend(repository) == ["removed, as its config is lost: import the image again"]
    assert repair.unmended(repository, [finding]) == [finding]
    assert found_in(repository) == []
    assert [image.names for image in repository.images()] == [("two:1",)]


def test_a_damaged_manifest_is_named_and_set_aside(repository: Repository, full: Path) -> None:
    image = repository.find("two:1")
    ((manifest, content),) = repository.catalog.manifests(image.id)
    in_catalog(
        repository,
        f"UPDATE manifest SET content = CAST(replace(content, 'layers', 'layerz') AS BLOB)"
        f" WHERE manifest = '{manifest}'",
    )
    with pytest.raises(DamagedError, match=r"manifest sha256:\w+ is damaged"):
        repository.catalog.manifests(image.id)
    (finding,) = found_in(repository)
    assert (finding.kind, finding.name, finding.images) == (Kind.MANIFEST, manifest, ("two:1",))
    assert repository.catalog.manifests(image.id) == []
    assert repair.unmended(repository, [finding]) == [finding]
    mend(repository, full / "two.tar")
    assert repository.catalog.manifests(image.id) == [(manifest, content)]
    assert repair.unmended(repository, [finding]) == []
    whole(repository)


def test_a_name_of_no_image_is_named_and_removed(repository: Repository) -> None:
    in_catalog(repository, "INSERT INTO tag VALUES ('lost:1', 'sha256:lost')")
    findings = found_in(repository)
    assert (Kind.NAME, "lost:1") in [(finding.kind, finding.name) for finding in findings]
    assert mend(repository) == ["removed, as its image is lost"]
    whole(repository)


def test_a_catalog_that_is_no_database_is_one_line(store: StoreBuilder) -> None:
    change(str(store.path / "catalog.sqlite"), 0)
    with pytest.raises(
        DamagedError, match=r"the catalog can't be read: .*; move catalog.sqlite away"
    ):
        store.opened()


def test_a_store_without_its_catalog_loses_nothing(
    store: StoreBuilder, full: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (store.path / "catalog.sqlite").unlink()
    for words in (["gc"], ["images"], ["check"], ["import", str(full / "one.tar")]):
        assert main(["--store", str(store.path), *words]) == 1
        assert "catalog.sqlite is missing" in capsys.readouterr().err
    assert main(["--store", str(store.path), "check", "--repair"]) == 0
    assert "catalog.sqlite: made anew, empty" in capsys.readouterr().out
    with store.opened() as repository:
        again(repository, full)
        whole(repository)


# Blobs, and what does not belong there


@pytest.mark.parametrize("harm", [flipped, truncated, os.unlink])
def test_a_damaged_blob_is_named_and_forgotten(
    repository: Repository, full: Path, harm: Callable[[str], None]
) -> None:
    row = repository.catalog.blobs()[0]
    harm(repository.paths.blob(row.blob))
    (finding,) = found_in(repository)
    assert (finding.kind, finding.name, finding.layers) == (Kind.BLOB, row.blob, (row.diff_id,))
    assert "one:1" in finding.images
    assert repository.kept_blob(row.diff_id) is None
    whole(repository)
    again(repository, full)
    assert repository.kept_blob(row.diff_id) == row
    whole(repository)


@pytest.mark.parametrize(
    "name", ["file", "layers/file", "objects/file", "objects/00/file", "blobs/file"]
)
def test_a_foreign_file_is_named_and_no_damage(store: StoreBuilder, name: str) -> None:
    (store.path / name).touch()
    with store.opened() as repository:
        (finding,) = found_in(repository)
        assert (finding.kind, finding.name, finding.is_damage) == (Kind.FOREIGN, name, False)
        assert repository.layers()
    assert (store.path / name).exists()


def test_leftovers_are_no_findings(repository: Repository) -> None:
    os.mkdir(f"{repository.paths.temporary}/left")
    Path(repository.paths.blobs, "0" * 64).touch()
    assert found_in(repository) == []


# Any byte


def names_in(repository: Repository) -> object:
    return [(image.id, image.names) for image in repository.images()]


def readable(repository: Repository) -> dict[str, object]:
    """All that the store gives without an error: layers as tars and as trees, documents."""
    given: dict[str, object] = {}
    for name in ("one:1", "two:1"):
        with contextlib.suppress(StoreError):
            image = repository.find(name)
            given[f"image {name}"] = (image.id, image.raw)
            for digest, content in repository.catalog.manifests(image.id):
                given[f"manifest of {name} {digest}"] = content
    for diff_id in repository.layers():
        with contextlib.suppress(StoreError, OSError):
            given[f"tar {diff_id}"] = b"".join(layertar.tar(repository, diff_id))
        with contextlib.suppress(StoreError, OSError):
            given.update(tree(repository, diff_id))
    return given


def tree(repository: Repository, diff_id: str) -> dict[str, object]:
    given: dict[str, object] = {}
    with contextlib.closing(repository.open_layer(diff_id)) as layer:
        for name, entry in layer.listing(layer.root()).items():
            at = f"entry {diff_id} {name!r}"
            given[at] = None if isinstance(entry, Mark) else status(entry)
            with contextlib.suppress(OSError), open(layer.open(entry), "rb") as content:  # type: ignore[arg-type]
                given[f"{at} content"] = content.read()
    return given


def status(entry: Entry) -> object:
    about = entry.attributes
    return [getattr(about, name) for name in dir(about) if name.startswith("st_")], entry.opaque


def test_whatever_byte_is_changed_nothing_wrong_is_read_after_a_check(
    store: StoreBuilder, campaign: int, record_property: Callable[[str, object], None]
) -> None:
    """Not even if it changed nothing that is ever looked at, and so is no finding."""
    chance = random.Random(9)
    with store.opened() as repository:
        good, names = readable(repository), names_in(repository)
    copy = store.path.with_name("copy")
    reported = 0
    rounds = 40 * campaign
    for _ in range(rounds):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(store.path, copy)
        files = [path for path in sorted(copy.rglob("*")) if path.is_file() and path.stat().st_size]
        path = chance.choice([path for path in files if path.name != "format"])
        change(str(path), chance.randrange(path.stat().st_size), 1 << chance.randrange(8))
        try:
            with StoreBuilder(copy).opened() as repository:
                damaged = any(finding.is_damage for finding in check.check(repository))
                reported += damaged
                now = readable(repository)
                assert damaged or names_in(repository) == names, path
        except DamagedError:
            reported += 1
            continue
        assert now.items() <= good.items(), path
    assert reported > rounds // 3
    record_property("check: bytes changed", rounds)
    record_property("check: of those, damage reported", reported)


# The command


def run(store: StoreBuilder, *words: str) -> tuple[int, str]:
    program = str(Path(sys.executable).with_name("layerstore"))
    done = subprocess.run(
        [program, "--store", str(store.path), "check", *words],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.stderr == "" or done.returncode == 2
    return done.returncode, done.stdout


def test_the_command_says_what_is_damaged_and_mends_it(store: StoreBuilder, full: Path) -> None:
    with store.opened() as repository:
        without_blobs(repository)
        key = key_of(repository, b"of another")
        flipped(repository.objects.path(key))
        layer = repository.find("two:1").layers[1]
    assert run(store) == (
        1,
        f"object {key.name} has another content than it had\n"
        f"    /other in layer {layer[:19]}\n"
        "    image two:1\n"
        "Repair with layerstore check --repair, or import the images again.\n",
    )
    status, said = run(store, "--json", "--repair")
    assert status == 1
    ((finding,), outcomes) = json.loads(said).values()
    assert outcomes == []
    assert finding["paths"] == [{"layer": layer, "path": "/other"}]
    assert finding["damaged"] is True
    status, said = run(store, "--repair", "--from", str(full / "two.tar"))
    assert status == 0
    assert said.endswith(f"{layer}: repaired from {full}/two.tar\nEverything is repaired.\n")
    assert run(store) == (0, "Everything is as it should be.\n")


def test_the_command_tells_that_a_foreign_file_is_no_damage(store: StoreBuilder) -> None:
    (store.path / "objects" / "mine").touch()
    told = "foreign file objects/mine does not belong to the store\nNothing is damaged.\n"
    assert run(store) == (0, told)


def test_a_source_without_repair_is_a_mistake(store: StoreBuilder, full: Path) -> None:
    assert run(store, "--from", str(full / "two.tar"))[0] == 2


def test_a_tree_is_no_source(repository: Repository, full: Path) -> None:
    with pytest.raises(StoreError, match=r"is a tree: to repair from, give an archive"):
        mend(repository, full)


# In a mount


@pytest.fixture
def unionmount(directory: Path) -> Iterator[Command]:
    command = Command(directory)
    (directory / "mount").mkdir()
    yield command
    command.close()


def test_a_mount_answers_eio_for_what_was_found_damaged(
    store: StoreBuilder, unionmount: Command, full: Path
) -> None:
    environment = {**os.environ, "LAYERSTORE": str(store.path)}
    mount = unionmount.directory / "mount"
    with store.opened() as repository:
        without_blobs(repository)
        flipped(repository.objects.path(key_of(repository, _SHARED)))
        unionmount.mounts("one:1", str(mount), env=environment)
        found_in(repository)
        for path in (mount / "again", mount / "d" / "shared"):
            with pytest.raises(OSError, match=r"Input/output error"):
                path.read_bytes()
        assert (mount / "big").read_bytes().endswith(b"end")
        again(repository, full)
        linux.umount(mount)
        unionmount.mounts("one:1", str(mount), env=environment)
        assert (mount / "again").read_bytes() == (mount / "d" / "shared").read_bytes() == _SHARED
        linux.umount(mount)
        whole(repository)
