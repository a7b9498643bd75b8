"""What ``unionmount`` asks when a word on its command line is no directory."""

from __future__ import annotations

from collections.abc import Sequence

from layerstore import paths
from layerstore.errors import StoreError
from layerstore.repository import Repository
from unionfs.layers.base import Layer


def layers_of(word: str) -> Sequence[Layer] | None:
    """The layers of the image that *word* means, base first, from the default store.

    None if there is no such image. The layers stay in the store as long as they are open.
    Raises UnionError (StoreError) if the store or the image is not in order.
    """
    root = paths.default()
    if not paths.exists(root):
        return None
    with Repository(root, create=False) as repository:
        if not repository.has(word):
            return None
        image = repository.find(word)
        if not image.layers:
            raise StoreError(f"image {word} has no layers, so it has nothing to show")
        return repository.open_layers(image)
