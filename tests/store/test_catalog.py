"""The catalog: what is in it after changes, errors, and several at once."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from layerstore.catalog import BlobRow, Catalog
from layerstore.digest import of_bytes
from layerstore.errors import DamagedError, StoreError

A, B = of_bytes(b"a"), of_bytes(b"b")


@pytest.fixture
def path(tmp_path: Path) -> str:
    # Nothing in it means anything to SQLite.
    directory = tmp_path / os.fsdecode(b"\xff %41?mode=memory#")
    directory.mkdir()
    return str(directory / "catalog.sqlite")


@pytest.fixture
def catalog(path: str) -> Iterator[Catalog]:
    with contextlib.closing(Catalog(path, create=True)) as made:
        yield made


@pytest.fixture
def filled(catalog: Catalog) -> Catalog:
    with catalog.changing():
        for image, config in ((A, b"a"), (B, b"b")):
            catalog.add_image(image, config)
            catalog.add_manifest(of_bytes(config + b"m"), image, config + b"m")
        catalog.set_tag("app:1", A)
        catalog.set_tag("app:2", A)
        catalog.set_tag("base:1", B)
    return catalog


def test_an_empty_catalog_knows_nothing(catalog: Catalog) -> None:
    assert (catalog.images(), catalog.tags(), catalog.blobs()) == ([], [], [])
    assert catalog.image(A) is None
    assert catalog.image_of_tag("app:1") is None
    assert catalog.image_of_manifest(A) is None
    assert not catalog.remove_tag("app:1")


def test_what_was_put_in_is_there_for_the_next(filled: Catalog, path: str) -> None:
    filled.close()
    with contextlib.closing(Catalog(path)) as again:
        assert [row.image for row in again.images()] == [A, B]
        assert again.tags() == [("app:1", A), ("app:2", A), ("base:1", B)]
        assert again.manifests(A) == [(of_bytes(b"am"), b"am")]
        assert again.image_of_manifest(of_bytes(b"bm")) == B
        assert again.images_beginning(A[7:12]) == [A]


def test_an_image_that_goes_takes_its_names_and_manifests_along(filled: Catalog) -> None:
    filled.remove_image(A)
    assert [row.image for row in filled.images()] == [B]
    assert filled.tags() == [("base:1", B)]
    assert filled.manifests(A) == []
    assert filled.image_of_manifest(of_bytes(b"am")) is None


def test_an_image_that_is_there_stays_as_it_is(filled: Catalog) -> None:
    before = filled.images()
    filled.add_image(A, b"a")
    assert filled.images() == before
    assert len(filled.tags()) == 3


def test_the_manifest_that_came_first_is_the_first(filled: Catalog) -> None:
    filled.add_manifest(of_bytes(b"another"), A, b"another")
    filled.add_manifest(of_bytes(b"am"), A, b"am")
    assert [content for _, content in filled.manifests(A)] == [b"am", b"another"]


def test_a_name_moves(filled: Catalog) -> None:
    filled.set_tag("app:1", B)
    assert filled.image_of_tag("app:1") == B
    assert filled.remove_tag("app:1")
    assert not filled.remove_tag("app:1")


def test_blobs_are_known_by_what_they_hold(catalog: Catalog) -> None:
    rows = [BlobRow(A, B, "gzip", 5), BlobRow(B, B, "none", 6)]
    for row in rows * 2:
        catalog.add_blob(row)
    assert catalog.blobs_of(B) == catalog.blobs() == sorted(rows)
    catalog.remove_blob(A)
    assert catalog.blobs_of(B) == [rows[1]]


# All or nothing


def test_an_error_takes_all_changes_back(filled: Catalog) -> None:
    def fail() -> None:
        with filled.changing():
            filled.remove_image(A)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert len(filled.images()) == 2
    with filled.changing():
        filled.remove_image(A)
    assert len(filled.images()) == 1


def test_a_name_needs_an_image(filled: Catalog) -> None:
    def name_nothing() -> None:
        with filled.changing():
            filled.set_tag("base:1", A)
            filled.set_tag("app:3", "sha256:none")

    with pytest.raises(StoreError, match="another process has just changed the catalog"):
        name_nothing()
    assert filled.image_of_tag("base:1") == B


def test_changes_of_threads_follow_each_other(catalog: Catalog) -> None:
    begin = threading.Barrier(4)

    def change(number: int) -> None:
        begin.wait()
        for step in range(10):
            config = b"%d-%d" % (number, step)
            with catalog.changing():
                catalog.add_image(of_bytes(config), config)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(change, range(4)))
    assert len(catalog.images()) == 40


def _add(path: str, number: int) -> None:
    with contextlib.closing(Catalog(path, create=True)) as catalog:
        for step in range(10):
            config = b"%d-%d" % (number, step)
            with catalog.changing():
                catalog.add_image(of_bytes(config), config)


def test_processes_make_and_fill_a_catalog_together(path: str) -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(4, mp_context=context) as pool:
        list(pool.map(_add, [path] * 8, range(8)))
    with contextlib.closing(Catalog(path)) as catalog:
        assert len(catalog.images()) == 80


# Damage


@pytest.mark.parametrize("content", [b"x" * 4096, b"SQLite format 3\0" + b"\xff" * 4096])
@pytest.mark.usefixtures("nothing_left_open")
def test_what_is_no_catalog_is_damage(path: str, content: bytes) -> None:
    Path(path).write_bytes(content)
    with pytest.raises(
        DamagedError, match=r"the catalog can't be read: .*; move catalog.sqlite away"
    ):
        Catalog(path)


@pytest.mark.usefixtures("nothing_left_open")
def test_a_catalog_that_is_missing_is_not_made_anew(path: str) -> None:
    with pytest.raises(DamagedError, match=r"is missing; put it back; or have layerstore check"):
        Catalog(path)
    assert not Path(path).exists()


@pytest.mark.usefixtures("nothing_left_open")
@pytest.mark.parametrize("version", [0, 2])
def test_a_catalog_of_another_version_is_not_read(path: str, version: int) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA user_version = {version}")
    with pytest.raises(DamagedError, match=f"has version {version}, and this program knows 1"):
        Catalog(path)


@pytest.mark.usefixtures("nothing_left_open")
def test_a_catalog_that_is_not_reached_is_an_error_of_the_store(path: str) -> None:
    Path(path).mkdir()
    with pytest.raises((StoreError, OSError), match="catalog"):
        Catalog(path)


def test_documents_that_changed_are_damage(filled: Catalog, path: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE image SET config = CAST('c' AS BLOB)")
        database.execute("UPDATE manifest SET content = CAST('c' AS BLOB)")
        database.commit()
    with pytest.raises(DamagedError, match=f"config of image {A} is damaged"):
        filled.image(A)
    with pytest.raises(DamagedError, match=f"manifest {of_bytes(b'am')} is damaged"):
        filled.manifests(A)
    filled.add_image(A, b"a")
    filled.add_manifest(of_bytes(b"am"), A, b"am")
    assert filled.image(A)
    assert filled.manifests(A)
