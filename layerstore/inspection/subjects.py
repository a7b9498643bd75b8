"""What a word means to those who look: an image of the store, or one of its layers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from layerstore.layer import StoredLayer
from layerstore.repository import Image, Repository
from layerstore.view import View

_BEFORE_PATH = ":/"


@dataclass(frozen=True, slots=True)
class Subject:
    """An image or a layer that is open. title: what to call it before people."""

    title: str
    layers: Sequence[StoredLayer]

    @property
    def view(self) -> View:
        """What it shows."""
        return View(self.layers)


def split(word: str) -> tuple[str, str | None]:
    """``IMAGE:/PATH`` as image and path; None if there is no path.

    A path begins with a slash, so a tag is never taken for one, and no name has ``:/`` in it.
    """
    image, colon, rest = word.partition(_BEFORE_PATH)
    return image, "/" + rest if colon else None


@contextlib.contextmanager
def opened(repository: Repository, word: str) -> Iterator[Subject]:
    """The image or layer that *word* means (:meth:`Repository.find_any`), open while the block
    lasts.

    Raises StoreError if there is none, DamagedError.
    """
    found = repository.find_any(word)
    if isinstance(found, Image):
        with opened_layers(repository, found) as layers:
            yield Subject(found.title, layers)
    else:
        with contextlib.closing(repository.open_layer(found)) as layer:
            yield Subject(found, [layer])


@contextlib.contextmanager
def opened_layers(repository: Repository, image: Image) -> Iterator[Sequence[StoredLayer]]:
    """The layers of an image, base first, open while the block lasts. Raises StoreError."""
    layers = repository.open_layers(image)
    with contextlib.ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.close)
        yield layers
