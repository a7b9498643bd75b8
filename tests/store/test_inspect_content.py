"""Bytes of files in images: nothing from outside, nothing damaged."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from layerstore.errors import StoreError
from layerstore.inspection import content, subjects
from layerstore.view import View
from tests.support import tars
from tests.support.stores import StoreBuilder
from tests.unit.errors import raises

BIG = 17 << 20


@pytest.fixture
def store(directory: Path) -> StoreBuilder:
    return StoreBuilder(directory / "store")


@contextmanager
def view_of(store: StoreBuilder, *layers: bytes) -> Iterator[View]:
    store.image("app", layers)
    with store.opened() as repository, subjects.opened(repository, "app") as subject:
        yield subject.view


def read(view: View, path: bytes) -> bytes:
    return b"".join(content.pieces(view, path))


def test_the_topmost_content_counts(store: StoreBuilder) -> None:
    layers = tars.tar(tars.file("d/f", b"below"), tars.file("g")), tars.tar(tars.file("d/f", b"up"))
    with view_of(store, *layers) as view:
        assert read(view, b"/d/f") == b"up"
        assert read(view, b"/g") == b""


def test_a_big_content_comes_in_pieces(store: StoreBuilder) -> None:
    with view_of(store, tars.tar(tars.gnu_sparse("f", {BIG - 3: b"end"}, BIG))) as view:
        pieces = list(content.pieces(view, b"/f"))

    assert max(map(len, pieces)) < BIG
    assert b"".join(pieces) == bytes(BIG - 3) + b"end"


@pytest.mark.parametrize("target", ["/d/f", "d/f", "../../d/f", "/../d/../d/f", "/once"])
def test_links_lead_no_further_than_the_root(store: StoreBuilder, target: str) -> None:
    tar = tars.tar(
        tars.file("d/f", b"inside"), tars.symlink("link", target), tars.symlink("once", "d/f")
    )
    with view_of(store, tar) as view:
        assert read(view, b"/link") == b"inside"


def test_a_link_to_a_file_of_the_host_leads_nowhere(store: StoreBuilder, directory: Path) -> None:
    secret = directory / "secret"
    secret.write_text("secret")
    up = "../" * 20
    tar = tars.tar(tars.symlink("a", str(secret)), tars.symlink("b", f"{up}{secret}"))
    with view_of(store, tar) as view:
        for path in (b"/a", b"/b", bytes(secret), os.fsencode(f"{up}{secret}")):
            with raises(errno.ENOENT):
                read(view, path)


@pytest.mark.parametrize(
    ("path", "number"),
    [
        (b"/nothing", errno.ENOENT),
        (b"/d", errno.EISDIR),
        (b"/", errno.EISDIR),
        (b"/f/g", errno.ENOTDIR),
        (b"/f/", errno.ENOTDIR),
        (b"/loop", errno.ELOOP),
    ],
)
def test_what_is_no_file_is_an_error(store: StoreBuilder, path: bytes, number: int) -> None:
    tar = tars.tar(tars.directory("d"), tars.file("f"), tars.symlink("loop", "loop"))
    with view_of(store, tar) as view, raises(number):
        read(view, path)


def test_devices_and_pipes_have_no_content(store: StoreBuilder) -> None:
    tar = tars.tar(tars.character("null", 1, 3), tars.fifo("pipe"))
    with view_of(store, tar) as view:
        with pytest.raises(StoreError, match="/null is a character device"):
            read(view, b"/null")
        with pytest.raises(StoreError, match="/pipe is a fifo"):
            read(view, b"/pipe")


def damage(store: StoreBuilder, size: int) -> None:
    (path,) = (store.path / "objects").glob(f"*/*-{size}")
    with path.open("r+b") as file:
        file.seek(size - 1)
        file.write(b"?")


@pytest.mark.parametrize("size", [100, BIG])
def test_nothing_of_a_damaged_content_is_given(store: StoreBuilder, size: int) -> None:
    with view_of(store, tars.tar(tars.gnu_sparse("f", {size - 3: b"end"}, size))) as view:
        damage(store, size)

        with pytest.raises(OSError, match="damaged; see layerstore check"):
            next(content.pieces(view, b"/f"))
