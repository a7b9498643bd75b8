"""What words mean to the commands that look into images."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerstore import exporting
from layerstore.errors import StoreError
from layerstore.inspection import subjects
from tests.support import tars
from tests.support.stores import StoreBuilder


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("alpine", ("alpine", None)),
        ("alpine:3.20", ("alpine:3.20", None)),
        ("alpine:/etc", ("alpine", "/etc")),
        ("alpine:3.20:/", ("alpine:3.20", "/")),
        ("alpine:3.20:/etc/a:/b", ("alpine:3.20", "/etc/a:/b")),
        ("registry.example:5000/team/app", ("registry.example:5000/team/app", None)),
        ("registry.example:5000/app:1:/d", ("registry.example:5000/app:1", "/d")),
        ("app@sha256:00:/d", ("app@sha256:00", "/d")),
    ],
)
def test_a_path_begins_with_a_slash_so_no_tag_is_taken_for_one(
    word: str, expected: tuple[str, str | None]
) -> None:
    assert subjects.split(word) == expected


@pytest.fixture
def store(directory: Path) -> StoreBuilder:
    return StoreBuilder(directory / "store")


def opened(store: StoreBuilder, word: str) -> tuple[str, list[str]]:
    with store.opened() as repository, subjects.opened(repository, word) as subject:
        return subject.title, [layer.identity for layer in subject.layers]


def test_images_are_known_by_name_and_id_and_layers_by_digest(store: StoreBuilder) -> None:
    image = store.image("team/app:1", [tars.tar(tars.file("a")), tars.tar(tars.file("b"))])
    layers = list(image.layers)

    for word in ("team/app:1", image.id, image.id[7:19]):
        assert opened(store, word) == ("team/app:1", layers)
    for word in (layers[1], layers[1][7:], layers[1][:19], layers[1][7:15]):
        assert opened(store, word) == (layers[1], [layers[1]])


def test_an_image_comes_before_a_layer(store: StoreBuilder) -> None:
    layer = store.layer(tars.tar(tars.file("a")))
    name = layer.removeprefix("sha256:")[:12]
    image = store.image(name, [tars.tar(tars.file("b"))])

    assert opened(store, name) == (f"{name}:latest", list(image.layers))
    with store.opened() as repository:
        assert exporting.only_layer(repository, name) == image.layers[0]


def test_what_may_be_several_layers_is_refused(store: StoreBuilder) -> None:
    # The digests of these two happen to begin with the same four digits.
    one, other = (store.layer(tars.tar(tars.file(name))) for name in ("f33", "f119"))
    word = one.removeprefix("sha256:")[:4]
    assert other.removeprefix("sha256:").startswith(word)

    with pytest.raises(StoreError, match=f"{word} may be any of 2 layers; write more of it"):
        opened(store, word)


def test_what_is_nothing_is_refused(store: StoreBuilder) -> None:
    for word in ("nothing", "abcd", "sha256:" + 64 * "0", "No Name", ""):
        with pytest.raises(StoreError, match=f"there is no image and no layer {word}"):
            opened(store, word)
