"""What a word means to those who look: an image of the store, or one of its layers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from layerstore import names
from layerstore.errors import StoreError
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


def find(repository: Repository, word: str) -> Image | str | None:
    """The image that *word* means (:meth:`Repository.find`); or else the diff ID of the layer whose
    digest it is, or begins.

    Raises StoreError if it may be any of several.
    """
    if repository.has(word):
        return repository.find(word)
    digits = names.digits(word)
    if digits is None:
        return None
    found = [name for name in repository.layers() if name.partition(":")[2].startswith(digits)]
    if len(found) > 1:
        raise StoreError(f"{word} may be any of {len(found)} layers; write more of it")
    return found[0] if found else None


@contextlib.contextmanager
def opened(repository: Repository, word: str) -> Iterator[Subject]:
    """The image or layer that *word* means (:func:`find`), open for as long as the block lasts.

    Raises StoreError if there is none, DamagedError.
    """
    found = find(repository, word)
    if found is None:
        raise StoreError(
            f"there is no image and no layer {word} in the store {repository.paths.root};"
            " layerstore images and layerstore layers list those that are"
        )
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
