"""A stored layer's tar, written again bit for bit from its recipe and contents."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from typing import BinaryIO, Final

from layerstore import recipe
from layerstore.errors import DamagedError
from layerstore.ingest import RECIPE
from layerstore.repository import Repository

_CHUNK: Final = 1 << 20


def tar(repository: Repository, diff_id: str) -> Iterator[bytes]:
    """The tar of a layer, in pieces.

    Only after the last piece it is sure that they were right: DamagedError is raised instead of the
    end if their SHA-256 is not the diff ID, or earlier if something is missing. The layer stays in
    the store until then. Raises StoreError if it is not there.
    """
    hasher = hashlib.sha256()
    for piece in _pieces(repository, diff_id):
        hasher.update(piece)
        yield piece
    found = f"sha256:{hasher.hexdigest()}"
    if found != diff_id:
        raise DamagedError(f"layer {diff_id} is damaged: its tar has the digest {found}")


def pieces(file: BinaryIO, opened: Callable[[int], int]) -> Iterator[bytes]:
    """The tar that the recipe in *file* tells, in pieces; they may be wrong.

    opened: gives a descriptor of a content, which is closed here. Raises DamagedError, OSError, and
    what *opened* raises.
    """

    def contents(content: int, offset: int, length: int) -> Iterator[bytes]:
        descriptor = opened(content)
        try:
            end = offset + length
            while offset < end:
                piece = os.pread(descriptor, min(end - offset, _CHUNK), offset)
                if not piece:
                    raise DamagedError("a content is shorter than its recipe says")
                yield piece
                offset += len(piece)
        finally:
            os.close(descriptor)

    return recipe.tar(file, contents)


def _pieces(repository: Repository, diff_id: str) -> Iterator[bytes]:
    with contextlib.closing(repository.open_layer(diff_id)) as layer:
        try:
            with open(f"{repository.paths.layer(diff_id)}/{RECIPE}", "rb") as file:
                yield from pieces(
                    file, lambda content: repository.objects.open(layer.index.content(content))
                )
        except FileNotFoundError:
            raise DamagedError(f"layer {diff_id} is damaged: its recipe is missing") from None
        except DamagedError as error:
            raise DamagedError(f"layer {diff_id} is damaged: {error}") from error
