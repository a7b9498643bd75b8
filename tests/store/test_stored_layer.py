"""A stored layer when something is wrong; what a layer does otherwise, the contract tests."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from layerstore.errors import DamagedError, StoreError
from layerstore.layer import StoredLayer
from layerstore.repository import Repository
from tests.support import tars
from tests.support.stores import StoreBuilder
from tests.unit.errors import raises
from unionfs.model import Entry

LARGE = b"x" * (5 << 20)
TAR = tars.tar(
    tars.directory("d"),
    tars.xattrs({"user.a": b"1"}),
    tars.file("d/small", b"content"),
    tars.file("d/other", b"content"),
    tars.symlink("link", "d"),
    tars.whiteout("gone"),
)


class Place:
    """A layer in a store, and the files it is made of."""

    def __init__(self, repository: Repository, diff_id: str) -> None:
        self.index = Path(repository.paths.layer(diff_id), "index.sqlite")
        self._repository = repository
        self._diff_id = diff_id

    def opened(self) -> contextlib.closing[StoredLayer]:
        return contextlib.closing(self._repository.open_layer(self._diff_id))

    def object(self, layer: StoredLayer, *path: bytes) -> Path:
        key = layer.index.inode(entry(layer, *path).handle).key
        assert key is not None
        return Path(layer._objects.path(key))


@pytest.fixture
def place(store: StoreBuilder, repository: Repository) -> Place:
    return Place(repository, store.layer(TAR))


def entry(layer: StoredLayer, *path: bytes) -> Entry:
    here = layer.root()
    for name in path:
        found = layer.lookup(here, name)
        assert isinstance(found, Entry)
        here = found
    return here


def read(layer: StoredLayer, *path: bytes) -> bytes:
    with open(layer.open(entry(layer, *path)), "rb") as file:
        return file.read()


@contextlib.contextmanager
def input_output_error() -> Iterator[None]:
    with pytest.raises(OSError, match="see layerstore check") as raised:
        yield
    assert raised.value.errno == errno.EIO


# The catalogue


def test_a_catalogue_tells_what_a_listing_tells_and_more(place: Place) -> None:
    with place.opened() as layer:
        root = layer.root()
        told = {name.name: name for name in layer.catalogue(root)}
        assert {name: each.entry for name, each in told.items()} == layer.listing(root)
        texts = {name: each.text for name, each in told.items()}
        assert texts == {b"d": None, b"gone": None, b"link": b"d"}
        within = layer.catalogue(entry(layer, b"d"))
        assert {name.name: name.has_attributes for name in within} == {
            b"other": False,
            b"small": True,
        }


def test_where_a_content_is_it_tells_once_that_was_verified(place: Place) -> None:
    def told(layer: StoredLayer) -> dict[bytes, bytes | None]:
        return {name.name: name.text for name in layer.catalogue(entry(layer, b"d"))}

    with place.opened() as layer:
        assert told(layer) == {b"other": None, b"small": None}
        path = layer.content_path(entry(layer, b"d"), b"small")
        assert told(layer) == {b"other": None, b"small": path}
        with open(os.open(path, os.O_RDONLY, dir_fd=layer.contents()), "rb") as file:
            assert file.read() == b"content"


def test_a_damaged_content_is_nowhere(place: Place) -> None:
    with place.opened() as layer:
        place.object(layer, b"d", b"small").write_bytes(b"tnetnoc")
        for _ in range(2):
            with input_output_error():
                layer.content_path(entry(layer, b"d"), b"small")


@pytest.mark.parametrize("name", [b"d", b"link", b"gone", b"none"])
def test_only_regular_files_have_a_content(place: Place, name: bytes) -> None:
    with place.opened() as layer, raises(errno.EINVAL):
        layer.content_path(layer.root(), name)


# Contents


@pytest.mark.parametrize(
    "damage",
    [
        os.unlink,
        lambda path: os.truncate(path, 3),
        lambda path: path.write_bytes(b"tnetnoc"),
    ],
    ids=["missing", "short", "changed"],
)
@pytest.mark.usefixtures("nothing_left_open")
def test_a_damaged_content_is_never_served(place: Place, damage: Callable[[Path], None]) -> None:
    with place.opened() as layer:
        damage(place.object(layer, b"d", b"small"))
        for _ in range(2):
            with input_output_error():
                read(layer, b"d", b"small")


def test_a_content_is_verified_when_it_is_first_opened_and_not_again(place: Place) -> None:
    with place.opened() as layer:
        path = place.object(layer, b"d", b"small")
        assert read(layer, b"d", b"small") == b"content"
        path.write_bytes(b"tnetnoc")
        assert read(layer, b"d", b"small") == b"tnetnoc"
        # The same object under another inode is another first time.
        with input_output_error():
            read(layer, b"d", b"other")


def test_a_large_content_is_verified_and_may_be_in_another_thread(
    store: StoreBuilder, repository: Repository
) -> None:
    place = Place(repository, store.layer(tars.tar(tars.file("large", LARGE), tars.file("small"))))
    with place.opened() as layer:
        large, small = entry(layer, b"large"), entry(layer, b"small")
        assert (layer.opens_slowly(large), layer.opens_slowly(small)) == (True, False)
        path = place.object(layer, b"large")
        path.write_bytes(LARGE[:-1] + b"?")
        with input_output_error():
            read(layer, b"large")
        path.write_bytes(LARGE)
        assert read(layer, b"large") == LARGE
        assert not layer.opens_slowly(large)


@pytest.mark.parametrize("path", [(), (b"d",), (b"link",)])
@pytest.mark.usefixtures("nothing_left_open")
def test_only_regular_files_can_be_opened(place: Place, path: tuple[bytes, ...]) -> None:
    with place.opened() as layer, pytest.raises(OSError, match="Invalid argument"):
        layer.open(entry(layer, *path))


def test_only_links_can_be_read_as_such(place: Place) -> None:
    with place.opened() as layer, pytest.raises(OSError, match="Invalid argument"):
        layer.readlink(entry(layer, b"d"))


def test_a_descriptor_is_for_reading_only(place: Place) -> None:
    with place.opened() as layer:
        descriptor = layer.open(entry(layer, b"d", b"small"))
        with contextlib.closing(open(descriptor, "rb")):
            flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
            assert flags & os.O_ACCMODE == os.O_RDONLY
            assert fcntl.fcntl(descriptor, fcntl.F_GETFD) & fcntl.FD_CLOEXEC


# Listings


def test_what_was_listed_is_remembered_until_it_is_forgotten(place: Place) -> None:
    with place.opened() as layer:
        directory = entry(layer, b"d")
        listed = layer.listing(directory)
        assert sorted(listed) == [b"other", b"small"]
        assert layer.lookup(directory, b"small") is listed[b"small"]
        assert layer.lookup(directory, b"none") is None
        layer.forget(directory)
        assert layer.lookup(directory, b"small") == listed[b"small"]
        assert layer.lookup(directory, b"small") is not listed[b"small"]


def test_few_listings_are_remembered(store: StoreBuilder, repository: Repository) -> None:
    names = [f"{number}" for number in range(100)]
    tar = tars.tar(*(tars.file(f"{name}/file") for name in names))
    with Place(repository, store.layer(tar)).opened() as layer:
        for name in names:
            layer.listing(entry(layer, name.encode()))
        assert len(layer._listings) < 10


# The index


def change(path: Path, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute(statement)
        database.commit()


@pytest.mark.parametrize(
    "ask",
    [
        lambda layer: layer.listing(layer.root()),
        lambda layer: layer.lookup(layer.root(), b"d"),
    ],
    ids=["listing", "lookup"],
)
def test_a_name_that_leads_nowhere_is_an_input_output_error(
    place: Place, ask: Callable[[StoredLayer], object]
) -> None:
    change(place.index, "DELETE FROM inode WHERE mode & 61440 = 16384 AND inode > 1")
    with place.opened() as layer:
        with pytest.raises(OSError, match="a name without an inode") as raised:
            ask(layer)
        assert raised.value.errno == errno.EIO


@pytest.mark.parametrize("name", [b"", b".", b"..", b"../link", b"li\0nk"])
def test_what_can_not_be_a_name_is_an_input_output_error(place: Place, name: bytes) -> None:
    change(place.index, f"UPDATE name SET name = X'{name.hex()}' WHERE name = X'{b'link'.hex()}'")
    with place.opened() as layer:
        for ask in (layer.listing, lambda root: list(layer.catalogue(root))):
            with pytest.raises(OSError, match="its index has a name") as raised:
                ask(layer.root())
            assert raised.value.errno == errno.EIO


@pytest.mark.parametrize(
    "ask",
    [
        lambda layer, file: layer.root(),
        lambda layer, file: layer.listing(file),
        lambda layer, file: layer.lookup(file, b"a"),
        lambda layer, file: layer.readlink(file),
        lambda layer, file: layer.listxattr(file),
        lambda layer, file: layer.getxattr(file, b"user.a"),
        lambda layer, file: layer.open(file),
        lambda layer, file: layer.content_key(file),
        lambda layer, file: list(layer.catalogue(file)),
        lambda layer, file: layer.content_path(layer.root(), b"link"),
    ],
)
def test_whatever_a_damaged_index_is_asked_is_an_input_output_error(
    place: Place, ask: Callable[[StoredLayer, Entry], object]
) -> None:
    with place.opened() as layer:
        file = entry(layer, b"d", b"small")
        size = place.index.stat().st_size
        with place.index.open("r+b") as index:
            index.seek(4096)
            index.write(b"\xff" * (size - 4096))
        # What SQLite has in memory is still good.
        layer.index._database.execute("PRAGMA shrink_memory")
        with pytest.raises(OSError, match="its index") as raised:
            ask(layer, file)
        assert raised.value.errno == errno.EIO


@pytest.mark.parametrize(
    "damage",
    [
        os.unlink,
        lambda path: os.truncate(path, 0),
        lambda path: os.truncate(path, 5000),
        lambda path: path.write_bytes(b"x" * 9000),
        lambda path: path.write_bytes(path.read_bytes()[:4096] + b"\xff" * 4096 * 8),
    ],
    ids=["missing", "empty", "cut off", "something else", "no table"],
)
@pytest.mark.usefixtures("nothing_left_open")
def test_a_layer_without_a_whole_index_does_not_open(
    place: Place, damage: Callable[[Path], None]
) -> None:
    place.index.chmod(0o600)
    damage(place.index)
    with pytest.raises(DamagedError, match=r"layer sha256:[0-9a-f]{64} is damaged: its index"):
        place.opened()


@pytest.mark.usefixtures("nothing_left_open")
def test_whatever_bits_of_an_index_are_wrong_a_layer_says_so_or_says_something(
    place: Place,
) -> None:
    content = place.index.read_bytes()
    place.index.chmod(0o600)
    chance = random.Random(1)
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(3):
            damaged[chance.randrange(100, len(content))] ^= 1 << chance.randrange(8)
        place.index.write_bytes(damaged)
        with contextlib.suppress(OSError, DamagedError), place.opened() as layer:
            everything(layer, layer.root(), 4)


def everything(layer: StoredLayer, here: Entry, depth: int) -> None:
    for ask in (layer.listxattr, layer.content_key, layer.readlink, layer.forget):
        with contextlib.suppress(OSError):
            ask(here)
    with contextlib.suppress(OSError):
        os.close(layer.open(here))
    with contextlib.suppress(OSError):
        for found in layer.listing(here).values():
            if isinstance(found, Entry) and depth:
                everything(layer, found, depth - 1)


# Being there


@pytest.mark.usefixtures("nothing_left_open")
def test_a_layer_that_is_not_there_does_not_open(repository: Repository) -> None:
    with pytest.raises(StoreError, match=r"layer sha256:0+ is not in the store"):
        repository.open_layer("sha256:" + "0" * 64)


def test_a_layer_tells_the_step_that_made_it_only_if_there_is_one(
    place: Place, repository: Repository
) -> None:
    with place.opened() as layer:
        assert set(layer.describe()) == {"label", "digest"}
        with contextlib.closing(repository.open_layer(layer.identity, "RUN x")) as other:
            assert other.describe() == {**layer.describe(), "created_by": "RUN x"}
            assert other.lineage == layer.lineage
