"""What images carry without showing it: by dive's rules, and as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from layerstore.inspection import listing, subjects, waste
from layerstore.inspection.waste import PathUse, Version, Waste
from layerstore.layer import StoredLayer
from layerstore.view import Identity, View
from tests.support import tars
from tests.support.stores import StoreBuilder


@pytest.fixture
def store(directory: Path) -> StoreBuilder:
    return StoreBuilder(directory / "store")


@contextmanager
def opened(store: StoreBuilder, *layers: bytes) -> Iterator[Sequence[StoredLayer]]:
    store.image("app", layers)
    with store.opened() as repository, subjects.opened(repository, "app") as subject:
        yield subject.layers


def measured(store: StoreBuilder, *layers: bytes) -> Waste:
    with opened(store, *layers) as found:
        return waste.measure(found)


def uses(store: StoreBuilder, *layers: bytes) -> dict[str, PathUse]:
    with opened(store, *layers) as found:
        return {use.path.decode(): use for use in waste.paths(found)}


def file(name: str, size: int) -> bytes:
    return tars.file(name, bytes(size))


def by_layer(found: Waste) -> list[tuple[int, int, int]]:
    return [(layer.size, layer.hidden, layer.wasted) for layer in found.layers]


# By hand: least and sum of the sizes under each path.


def test_an_image_without_waste_is_fully_efficient(store: StoreBuilder) -> None:
    found = measured(store, tars.tar(file("a", 100)), tars.tar(file("b", 50)))

    assert (found.efficiency, found.wasted, found.hidden, found.shown) == (1.0, 0, 0, 150)
    assert by_layer(found) == [(100, 0, 0), (50, 0, 0)]


def test_an_empty_image_is_fully_efficient(store: StoreBuilder) -> None:
    found = measured(store, tars.tar(tars.directory("d")))

    assert (found.efficiency, found.wasted, found.size) == (1.0, 0, 0)


def test_all_versions_of_a_replaced_file_are_wasted_and_the_lower_ones_hidden(
    store: StoreBuilder,
) -> None:
    found = measured(
        store,
        tars.tar(file("a", 100), file("b", 1000)),
        tars.tar(file("a", 300)),
        tars.tar(file("a", 200)),
    )

    # a: least 100 of 600; b: 1000 of 1000.
    assert found.efficiency == 1100 / 1600
    assert (found.wasted, found.hidden, found.shown) == (600, 400, 1200)
    assert by_layer(found) == [(1100, 100, 100), (300, 300, 300), (200, 0, 200)]


def test_a_removed_file_is_wasted_once(store: StoreBuilder) -> None:
    found = measured(store, tars.tar(file("a", 100), file("b", 300)), tars.tar(tars.whiteout("a")))

    # a: least 0 of 100; b: 300 of 300.
    assert found.efficiency == 300 / 400
    assert (found.wasted, found.hidden, found.shown) == (100, 100, 300)
    assert by_layer(found) == [(400, 100, 100), (0, 0, 0)]


def test_the_whiteout_of_a_directory_counts_what_that_held(store: StoreBuilder) -> None:
    base = tars.tar(tars.directory("d"), file("d/a", 100), file("d/e/b", 50), file("c", 10))
    removal = tars.tar(tars.whiteout("d"))
    found = uses(store, base, removal)

    assert found["/d"] == PathUse(b"/d", (Version(1, 150, removes=True, shows=False),))
    measure = measured(store, base, removal)
    # d: 150 of 150; d/a: 100 of 100; d/e/b: 50 of 50; c: 10 of 10. None is there twice.
    assert (measure.efficiency, measure.wasted) == (1.0, 0)
    # In fact:
    assert (measure.hidden, measure.shown) == (150, 10)


def test_a_directory_that_is_removed_twice_is_there_twice(store: StoreBuilder) -> None:
    layer = tars.tar(tars.directory("d"), file("d/a", 100))
    removal = tars.tar(tars.whiteout("d"))
    found = measured(store, layer, removal, layer, removal)

    # d: least 100 of 200; d/a: least 100 of 200.
    assert (found.efficiency, found.wasted, found.hidden) == (0.5, 400, 200)


def test_a_whiteout_counts_what_showed_below_it_and_nothing_that_was_gone(
    store: StoreBuilder,
) -> None:
    found = uses(
        store,
        tars.tar(file("d/a", 100), file("d/b", 10)),
        tars.tar(tars.whiteout("d/a"), file("d/c", 1)),
        tars.tar(tars.whiteout("d")),
    )

    assert [version.size for version in found["/d"].versions] == [11]


def test_a_whiteout_of_what_was_gone_already_counts_nothing(store: StoreBuilder) -> None:
    found = uses(
        store,
        tars.tar(file("d/e/a", 100)),
        tars.tar(tars.whiteout("d")),
        tars.tar(tars.whiteout("d/e")),
    )

    assert [version.size for version in found["/d/e"].versions] == [0]


def test_a_whiteout_does_not_follow_a_link_on_its_way(store: StoreBuilder) -> None:
    found = uses(
        store,
        tars.tar(file("target/e/a", 100), tars.symlink("d", "target")),
        tars.tar(tars.directory("d"), tars.whiteout("d/e")),
    )

    assert [version.size for version in found["/d/e"].versions] == [0]


def test_empty_directories_are_paths_without_bytes(store: StoreBuilder) -> None:
    found = measured(store, tars.tar(file("a", 100)), tars.tar(tars.directory("a")))

    # a: least 0 of 100.
    assert (found.efficiency, found.wasted, found.hidden) == (0.0, 100, 100)


def test_directories_with_something_in_them_are_no_paths(store: StoreBuilder) -> None:
    layer = tars.tar(tars.directory("d"), file("d/a", 1))

    assert list(uses(store, layer, tars.tar(tars.directory("d"), file("d/b", 1)))) == [
        "/d/a",
        "/d/b",
    ]


def test_links_of_one_inode_count_once_in_a_layer(store: StoreBuilder) -> None:
    links = tars.tar(file("a", 100), tars.hardlink("b", "a"), tars.hardlink("c", "a"))

    assert measured(store, links).size == 100
    # a: least 100 of 200.
    found = measured(store, links, tars.tar(file("a", 100)))
    assert (found.efficiency, found.wasted) == (0.5, 200)


# What shows, and what does not


def test_a_file_with_a_name_that_is_left_is_not_hidden(store: StoreBuilder) -> None:
    links = tars.tar(file("a", 100), tars.hardlink("b", "a"))

    assert measured(store, links, tars.tar(tars.whiteout("a"))).hidden == 0
    assert measured(store, links, tars.tar(tars.whiteout("a"), tars.whiteout("b"))).hidden == 100


@pytest.mark.parametrize(
    "above",
    [
        tars.tar(tars.opaque("d")),
        tars.tar(tars.directory("d"), tars.opaque("d"), file("d/n", 1)),
        tars.tar(file("d", 1)),
        tars.tar(tars.whiteout("d")),
    ],
    ids=["opaque", "opaque with more", "a file", "a whiteout"],
)
def test_what_lies_in_a_hidden_directory_is_hidden(store: StoreBuilder, above: bytes) -> None:
    base = tars.tar(file("d/a", 100), file("d/e/b", 10), file("c", 1))

    assert by_layer(measured(store, base, above))[0][:2] == (111, 110)


def test_a_directory_that_comes_again_shows_nothing_of_the_one_that_was_removed(
    store: StoreBuilder,
) -> None:
    layers = tars.tar(file("d/a", 100)), tars.tar(tars.whiteout("d")), tars.tar(file("d/b", 10))

    assert by_layer(measured(store, *layers)) == [(100, 100, 0), (0, 0, 0), (10, 0, 0)]


def test_a_file_below_a_directory_is_hidden_with_all_below_it(store: StoreBuilder) -> None:
    layers = tars.tar(file("d/a", 100)), tars.tar(file("d", 10)), tars.tar(file("d/b", 1))

    found = by_layer(measured(store, *layers))
    assert [(size, hidden) for size, hidden, _ in found] == [(100, 100), (10, 10), (1, 0)]


def test_what_shows_is_what_the_merged_view_has(store: StoreBuilder) -> None:
    layers = [
        tars.tar(file("a", 1), file("d/b", 20), file("d/c", 300), file("e/f", 4000)),
        tars.tar(tars.whiteout("d/b"), file("d/c", 50_000), tars.hardlink("d/g", "d/c")),
        tars.tar(tars.opaque("e"), file("e/h", 600_000), tars.whiteout("a")),
        tars.tar(file("e/f", 7_000_000), tars.symlink("d/c", "g")),
    ]
    with opened(store, *layers) as found:
        sizes = {item.path: item.size for item in listing.items(View(found))}
        assert waste.measure(found).shown == sum(
            sizes[path] for path in (b"/d/g", b"/e/f", b"/e/h")
        )
        assert waste.measure(found).shown == 7_650_000


# A layer's names with a file's size or a mark; LINK: a name more of its first file.
LINK = "link"
STACKS = st.lists(
    st.dictionaries(
        st.sampled_from(["a", "b", "a/a", "a/b", "b/a", "a/a/a", "a/a/b", "b/a/b"]),
        st.integers(1, 99) | st.sampled_from([".wh.", ".wh..wh..opq", LINK]),
        max_size=7,
    ),
    min_size=1,
    max_size=4,
)


def as_tar(said: dict[str, int | str]) -> bytes:
    files = [name for name, what in sorted(said.items()) if isinstance(what, int)]
    above = tuple(f"{name}/" for name in said if said[name] == LINK or name in files)
    members = []
    for name, what in sorted(said.items()):
        if name.startswith(above):
            continue
        if isinstance(what, int):
            members.append(tars.file(name, name.encode() * what))
        elif what == ".wh.":
            members.append(tars.whiteout(name))
        elif what == LINK and files and not files[0].startswith(above):
            members.append(tars.hardlink(name, files[0]))
        elif what == ".wh..wh..opq":
            members.append(tars.opaque(name))
    # A hard link comes after what it links to.
    return tars.tar(*sorted(members, key=lambda member: member[156:157] == b"1"))


def shown(layers: Sequence[StoredLayer]) -> int:
    counted: set[Identity] = set()
    return sum(
        node.attributes.st_size
        for node in View(layers).walk()
        if node.is_regular and listing.is_first_name(node, counted)
    )


def test_what_shows_of_any_layers_is_what_the_merged_view_has(
    store: StoreBuilder, campaign: int
) -> None:
    @settings(max_examples=40 * campaign, deadline=None, database=None)
    @seed(1)
    @given(STACKS)
    def is_the_same(stack: list[dict[str, int | str]]) -> None:
        with opened(store, *map(as_tar, stack)) as layers:
            found = waste.measure(layers)

            assert found.shown == shown(layers)
            assert found.size == sum(shown([layer]) for layer in layers)

    is_the_same()


# Which paths waste


def test_wasteful_paths_come_with_the_most_bytes_first(store: StoreBuilder) -> None:
    layers = [
        tars.tar(file("twice", 100), file("d/gone", 1000), file("fine", 10_000), file("e", 0)),
        tars.tar(file("twice", 50), tars.whiteout("d"), file("e", 0)),
    ]
    with opened(store, *layers) as found:
        wasteful = waste.wasteful(found)

    assert [(use.path, use.total, use.wasted, use.hidden) for use in wasteful] == [
        (b"/d/gone", 1000, 0, 1000),
        (b"/twice", 150, 150, 100),
    ]
    assert wasteful[1].versions == (
        Version(1, 50, removes=False, shows=True),
        Version(0, 100, removes=False, shows=False),
    )


# What dive itself finds in an image that it is tested with (its image_archive_analysis_test.go):
# the same steps, on a base of that size.


def test_dive_finds_the_same_in_its_own_image(store: StoreBuilder) -> None:
    root = "root/example"
    found = measured(
        store,
        tars.tar(file("bin/busybox", 1_154_361)),
        tars.tar(file("somefile.txt", 6405)),
        tars.tar(tars.directory(root), tars.directory(f"{root}/really/nested")),
        tars.tar(file(f"{root}/somefile1.txt", 6405)),
        tars.tar(file(f"{root}/somefile1.txt", 6405)),
        tars.tar(file(f"{root}/somefile2.txt", 6405)),
        tars.tar(file(f"{root}/somefile3.txt", 6405)),
        tars.tar(tars.whiteout(f"{root}/somefile3.txt"), file("root/saved.txt", 6405)),
        tars.tar(file("root/.saved.txt", 6405)),
        tars.tar(tars.whiteout(root)),
        tars.tar(file("root/.data/tag.sh", 917), file("root/.data/test.sh", 1270)),
        tars.tar(file("tmp/saved.again1.txt", 6405)),
        tars.tar(file("root/.data/saved.again2.txt", 6405)),
        tars.tar(file("root/saved.txt", 6405)),
    )

    assert found.efficiency == 0.9844212134184309
    assert found.wasted == 32025
    assert found.size == 1_220_598
    assert found.size - found.layers[0].size == 66237
