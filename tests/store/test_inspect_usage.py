"""What images take in the store, and what sharing saves."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerstore.inspection import usage
from layerstore.inspection.usage import Usage
from tests.support import tars
from tests.support.stores import StoreBuilder

COMMON = tars.tar(tars.file("common", b"c" * 1000))
BLOCK = 4096


@pytest.fixture
def store(directory: Path) -> StoreBuilder:
    return StoreBuilder(directory / "store")


def measured(store: StoreBuilder, *words: str) -> Usage:
    with store.opened() as repository:
        images = [repository.find(word) for word in words] if words else None
        return usage.measure(repository, images)


def by_name(found: Usage) -> dict[str, tuple[int, int, int]]:
    return {item.image.title: (item.unique, item.shared, item.waste.shown) for item in found.images}


def test_an_empty_store_takes_nothing(store: StoreBuilder) -> None:
    assert measured(store) == Usage([], 0, 0, 0, 0, 0, 0)


def test_what_one_image_alone_has_is_unique(store: StoreBuilder) -> None:
    store.image("app", [COMMON, tars.tar(tars.file("f", b"f" * 20))])

    assert by_name(measured(store)) == {"app:latest": (2 * BLOCK, 0, 1020)}


def test_a_layer_in_two_images_is_shared_and_saved_once(store: StoreBuilder) -> None:
    store.image("one", [COMMON, tars.tar(tars.file("f", b"f" * 20))])
    store.image("two", [COMMON, tars.tar(tars.file("g", b"g" * 3))])
    found = measured(store)

    assert by_name(found) == {
        "one:latest": (BLOCK, BLOCK, 1020),
        "two:latest": (BLOCK, BLOCK, 1003),
    }
    assert (found.objects, found.saved_by_layers, found.saved_by_files) == (3 * BLOCK, BLOCK, 0)


def test_a_content_in_different_layers_is_shared_by_its_bytes(store: StoreBuilder) -> None:
    store.image("one", [COMMON])
    store.image("two", [tars.tar(tars.file("other/name", b"c" * 1000), tars.file("g", b"g"))])
    found = measured(store)

    assert by_name(found) == {"one:latest": (0, BLOCK, 1000), "two:latest": (BLOCK, BLOCK, 1001)}
    assert (found.objects, found.saved_by_layers, found.saved_by_files) == (2 * BLOCK, 0, BLOCK)


def test_a_content_that_is_several_times_in_an_image_is_unique_to_it(store: StoreBuilder) -> None:
    twice = tars.tar(tars.file("a", b"c" * 1000), tars.file("b", b"c" * 1000))
    store.image("app", [COMMON, twice])
    found = measured(store)

    assert by_name(found) == {"app:latest": (BLOCK, 0, 3000)}
    assert (found.objects, found.saved_by_layers, found.saved_by_files) == (BLOCK, 0, 2 * BLOCK)


def test_images_of_the_same_layers_share_all_of_them(store: StoreBuilder) -> None:
    store.image("one", [COMMON])
    store.image("two", [COMMON], [])

    assert by_name(measured(store)) == {
        "one:latest": (0, BLOCK, 1000),
        "two:latest": (0, BLOCK, 1000),
    }


def test_a_layer_that_an_image_has_twice_counts_once(store: StoreBuilder) -> None:
    store.image("app", [COMMON, tars.tar(tars.whiteout("common")), COMMON])
    found = measured(store)

    assert by_name(found) == {"app:latest": (BLOCK, 0, 1000)}
    assert (found.saved_by_layers, found.saved_by_files) == (0, 0)


def test_what_no_image_has_is_unused(store: StoreBuilder) -> None:
    store.image("app", [COMMON])
    store.layer(tars.tar(tars.file("x", b"c" * 1000), tars.file("y", b"y" * 7)))
    found = measured(store)

    # The common content is in use; as no image has it twice, nothing is saved.
    assert (found.objects, found.unused) == (2 * BLOCK, BLOCK)
    assert (found.saved_by_layers, found.saved_by_files) == (0, 0)


def test_images_that_are_asked_for_are_measured_beside_all_others(store: StoreBuilder) -> None:
    store.image("one", [COMMON])
    store.image("two", [COMMON, tars.tar(tars.file("g", b"g"))])

    assert by_name(measured(store, "two")) == {"two:latest": (BLOCK, BLOCK, 1001)}
    assert measured(store, "two").objects == 2 * BLOCK


def test_contents_that_a_later_entry_replaced_are_stored_too(store: StoreBuilder) -> None:
    store.image("app", [tars.tar(tars.file("f", b"1" * 100), tars.file("f", b"2" * 10))])

    assert by_name(measured(store)) == {"app:latest": (2 * BLOCK, 0, 10)}


def test_the_smallest_content_takes_a_block_of_the_disk(store: StoreBuilder) -> None:
    store.image("app", [tars.tar(*(tars.file(f"{n}", b"%d" % n) for n in range(100)))])
    found = measured(store)
    on_disk = sum(path.stat().st_blocks for path in (store.path / "objects").rglob("*/*")) * 512

    assert by_name(found) == {"app:latest": (100 * BLOCK, 0, 190)}
    assert found.objects == on_disk == 100 * BLOCK


def test_holes_take_nothing(store: StoreBuilder) -> None:
    store.image("app", [tars.tar(tars.gnu_sparse("f", {1 << 20: bytes(4095) + b"x"}, 2 << 20))])
    found = measured(store)

    assert by_name(found) == {"app:latest": (BLOCK, 0, 2 << 20)}
    assert found.objects == BLOCK


def test_all_that_the_store_takes_is_told(store: StoreBuilder) -> None:
    store.image("app", [COMMON], keep_blobs=True)
    found = measured(store)

    def size(where: str) -> int:
        files = (store.path / where).rglob("*")
        return sum(path.stat().st_blocks * 512 for path in files if path.is_file())

    assert (found.objects, found.indexes, found.blobs) == (BLOCK, size("layers"), size("blobs"))
    assert found.blobs > 0
    assert found.stored == BLOCK + size("layers") + size("blobs")


def test_each_layer_is_told_with_its_step(store: StoreBuilder) -> None:
    image = store.image("app", [COMMON, tars.tar(tars.file("common", b"1"))])
    (found,) = measured(store).images

    assert [(layer.diff_id, layer.created_by) for layer in found.waste.layers] == [
        (image.layers[0], "step 1"),
        (image.layers[1], "step 2"),
    ]
    assert [(layer.size, layer.hidden, layer.wasted) for layer in found.waste.layers] == [
        (1000, 1000, 1000),
        (1, 0, 1),
    ]
