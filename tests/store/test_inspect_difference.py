"""What differs between images, layers, and an image under an upper directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from layerstore.errors import StoreError
from layerstore.inspection import subjects
from layerstore.inspection.difference import Difference, compared, differences
from tests.support import tars
from tests.support.layers import OLD, WHITEOUT, Directory, File, build, opaque
from tests.support.stores import StoreBuilder
from unionfs import copyup

SECONDS, REST = divmod(OLD, 10**9)
AT = tars.pax({"mtime": f"{SECONDS}.{REST:09}"})
BASE = tars.tar(
    AT + tars.directory("."),
    AT + tars.directory("d"),
    AT + tars.file("d/changed", b"before"),
    AT + tars.file("d/gone", b"123"),
    AT + tars.file("kept"),
)


@pytest.fixture
def store(directory: Path) -> StoreBuilder:
    made = StoreBuilder(directory / "store")
    made.image("base", [BASE])
    return made


def found(store: StoreBuilder, before: str, after: str) -> list[Difference]:
    with store.opened() as repository, compared(repository, before, after) as views:
        return list(differences(*views))


def test_images_differ_in_what_was_added_modified_and_deleted(store: StoreBuilder) -> None:
    change = tars.tar(
        AT + tars.file("d/changed", b"afterwards", mode=0o600),
        tars.whiteout("d/gone"),
        AT + tars.file("new", b"1"),
    )
    store.image("above", [BASE, change])

    assert found(store, "base", "above") == [
        Difference(b"/d/changed", "M", ("mode", "content"), 6, 10),
        Difference(b"/d/gone", "D", (), 3, 0),
        Difference(b"/new", "A", (), 0, 1),
    ]
    assert [(item.letter, item.path) for item in found(store, "above", "base")] == [
        ("M", b"/d/changed"),
        ("A", b"/d/gone"),
        ("D", b"/new"),
    ]


def test_an_image_does_not_differ_from_itself(store: StoreBuilder) -> None:
    assert found(store, "base", "base") == []


def test_layers_are_compared_by_their_digest_or_its_beginning(store: StoreBuilder) -> None:
    one = store.layer(tars.tar(tars.file("f", b"1"), tars.file("one")))
    other = store.layer(tars.tar(tars.file("f", b"2")))

    expected = [
        Difference(b"/f", "M", ("content",), 1, 1),
        Difference(b"/one", "D", (), 0, 0),
    ]
    assert found(store, one, other) == expected
    assert found(store, one.removeprefix("sha256:")[:12], other[:19]) == expected


def test_an_upper_directory_changes_the_image(store: StoreBuilder, directory: Path) -> None:
    upper = build(
        directory / "upper",
        Directory(
            {
                "d": Directory({"changed": File("differs"), "gone": WHITEOUT, "new": ""}),
                "kept": "",
            }
        ),
    )

    assert found(store, "base", str(upper)) == [
        Difference(b"/d/changed", "M", ("content",), 6, 7),
        Difference(b"/d/gone", "D", (), 3, 0),
        Difference(b"/d/new", "A", (), 0, 0),
    ]


def test_an_opaque_directory_of_an_upper_deletes_what_it_hides(
    store: StoreBuilder, directory: Path
) -> None:
    upper = build(directory / "upper", Directory({"d": opaque({})}))

    assert [(item.letter, item.path) for item in found(store, "base", str(upper))] == [
        ("D", b"/d/changed"),
        ("D", b"/d/gone"),
    ]


def test_an_upper_directory_may_lie_on_a_layer(store: StoreBuilder, directory: Path) -> None:
    layer = store.layer(BASE)
    upper = build(directory / "upper", Directory({"kept": WHITEOUT}))

    assert found(store, layer, str(upper)) == [Difference(b"/kept", "D", (), 0, 0)]


def test_a_directory_that_is_called_like_an_image_has_to_be_written_as_a_path(
    store: StoreBuilder, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(directory)
    build(directory / "base", Directory({"kept": WHITEOUT}))
    build(directory / "upper", Directory({"kept": WHITEOUT}))

    deleted = [Difference(b"/kept", "D", (), 0, 0)]
    assert found(store, "base", "base") == []
    assert found(store, "base", "./base") == deleted
    assert found(store, "base", "upper") == deleted


def test_the_index_beside_an_upper_directory_counts(store: StoreBuilder, directory: Path) -> None:
    links = AT + tars.file("a", b"1"), AT + tars.hardlink("b", "a")
    store.image("linked", [tars.tar(AT + tars.directory("."), *links)])
    upper = build(directory / "upper", Directory({"a": File("changed")}))
    index = directory / "upper.work" / "index"
    index.mkdir(parents=True)
    with store.opened() as repository, subjects.opened(repository, "linked") as subject:
        source = subject.view.find(b"a").source
        name = copyup.index_key(source, source.layer.origin(source.entry))
    (index / os.fsdecode(name)).hardlink_to(upper / "a")

    assert [(item.letter, item.path) for item in found(store, "linked", str(upper))] == [
        ("M", b"/a"),
        ("M", b"/b"),
    ]


def test_an_upper_directory_comes_second(store: StoreBuilder, directory: Path) -> None:
    with pytest.raises(StoreError, match="an upper directory comes second"):
        found(store, str(directory), "base")


def test_what_is_neither_image_layer_nor_directory_is_refused(store: StoreBuilder) -> None:
    with pytest.raises(StoreError, match="there is no image and no layer nothing"):
        found(store, "base", "nothing")
    with pytest.raises(FileNotFoundError) as caught:
        found(store, "base", "./nothing")
    assert os.fsdecode(caught.value.filename) == "nothing"
