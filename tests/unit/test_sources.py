"""From words to layers: directories, and names that entry points know."""

from __future__ import annotations

import errno
import importlib.metadata
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.unit.errors import fail_with
from tests.unit.memory import MemoryLayer
from unionfs.layers.base import Layer
from unionfs.layers.markers import TRUSTED, Dialects
from unionfs.model import UnionError
from unionfs.sources import Lookup, Named, means_directory, open_layers

Closed = list[str]


class Image(MemoryLayer):
    """A layer that tells when it is closed."""

    def __init__(self, identity: str, closed: Closed) -> None:
        super().__init__({}, identity=identity)
        self._closed = closed

    def close(self) -> None:
        super().close()
        self._closed.append(self.identity)


@pytest.fixture
def provide(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have these lookups, or what raises when it is loaded, as the entry points."""

    def provide(*loaders: Callable[[], Lookup]) -> None:
        def entry_points(*, group: str) -> list[SimpleNamespace]:
            assert group == "unionfs.sources"
            return [SimpleNamespace(value="some:thing", load=loader) for loader in loaders]

        monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)

    return provide


@pytest.fixture
def closed(provide: Callable[..., None]) -> Closed:
    """There are images `two:1` and `two@digest`, of two layers each; answers which are closed."""
    closed: Closed = []

    def lookup(word: str) -> Sequence[Layer] | None:
        if word not in ("two:1", "two@digest"):
            return None
        return [Image(f"{word} base", closed), Image(f"{word} top", closed)]

    provide(lambda: lambda word: None, lambda: lookup)
    return closed


def opened(*words: str | Path, point: Path = Path("/")) -> list[Named]:
    layers = open_layers(
        [os.fsencode(word) for word in words], Dialects.AUTO, TRUSTED, bytes(point)
    )
    for _, layer in layers:
        layer.close()
    return layers


def test_an_image_stands_for_its_layers_in_its_place(tmp_path: Path, closed: Closed) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    layers = opened(one, "two:1", other, "two@digest")
    assert [(word, layer.identity) for word, layer in layers] == [
        (bytes(one), str(one)),
        (b"two:1", "two:1 base"),
        (b"two:1", "two:1 top"),
        (bytes(other), str(other)),
        (b"two@digest", "two@digest base"),
        (b"two@digest", "two@digest top"),
    ]


def test_a_name_that_nobody_knows_closes_what_was_opened(closed: Closed) -> None:
    with pytest.raises(UnionError) as raised:
        opened("two:1", "absent:1")
    assert str(raised.value) == (
        "layer absent:1: there is no such directory, and no image of that name in the store"
    )
    assert sorted(closed) == ["two:1 base", "two:1 top"]


def test_without_a_store_there_may_be_directories_only(provide: Callable[..., None]) -> None:
    provide()
    with pytest.raises(UnionError, match=r"^layer absent: there is no such directory$"):
        opened("absent")


def test_an_absolute_path_is_never_an_image(tmp_path: Path, provide: Callable[..., None]) -> None:
    provide(lambda: lambda word: [MemoryLayer({})])
    with pytest.raises(UnionError, match=r"absent:1: there is no such directory$"):
        opened(tmp_path / "absent:1")


def test_what_a_store_says_is_said(provide: Callable[..., None]) -> None:
    def lookup(word: str) -> Sequence[Layer] | None:
        raise UnionError(f"image {word}: two have this name; name one of them")

    provide(lambda: lookup)
    with pytest.raises(UnionError, match=r"^image a: two have this name; name one of them$"):
        opened("a")


def test_an_error_of_the_system_is_a_line(provide: Callable[..., None]) -> None:
    provide(lambda: fail_with(errno.EACCES))
    with pytest.raises(UnionError, match=r"^layer a: permission denied"):
        opened("a")


@pytest.mark.parametrize("error", [ImportError("no module"), AttributeError("no attribute")])
def test_a_broken_entry_point_is_a_line(provide: Callable[..., None], error: Exception) -> None:
    def load() -> Lookup:
        raise error

    provide(load)
    with pytest.raises(UnionError, match=r"^some:thing, which knows .* can't be loaded: no "):
        opened("a")


def test_a_word_means_a_directory_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there:1").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("there:1")
    monkeypatch.chdir(tmp_path)
    words = ["there:1", "link", "./absent", "../absent", ".", "..", "/absent:1", "x" * 256]
    assert [word for word in words if not means_directory(word.encode())] == []
    names = ["absent", "absent:1", "group/absent:1", "file", "file/below", "...", ".absent"]
    assert [name for name in names if means_directory(name.encode())] == []


def test_nobody_is_asked_for_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finding and loading entry points takes longer than a mount of directories."""
    monkeypatch.setattr(importlib.metadata, "entry_points", fail_with(errno.EIO))
    (named,) = opened(tmp_path)
    assert named.word == bytes(tmp_path)
    with pytest.raises(UnionError, match=r"^layer a: Input/output error$"):
        opened("a")
