"""What differs between images, layers, or an image and the changes in an upper directory: diff."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from layerstore import changes
from layerstore.changes import Aspect, Kind
from layerstore.committing import open_upper
from layerstore.errors import StoreError
from layerstore.inspection import subjects
from layerstore.repository import Repository
from layerstore.view import View

Letter = Literal["A", "M", "D"]
"""Added, modified, deleted."""

_LETTERS: Final[dict[Kind, Letter]] = {Kind.ADDED: "A", Kind.MODIFIED: "M", Kind.REMOVED: "D"}
_ORDER: Final = get_args(Aspect)


@dataclass(frozen=True, slots=True)
class Difference:
    """One path. what: in what it was modified. size_before, size_after: bytes of content, 0 for
    all but regular files.
    """

    path: bytes
    letter: Letter
    what: tuple[Aspect, ...]
    size_before: int
    size_after: int


def differences(before: View, after: View) -> Iterator[Difference]:
    """All that changed, sorted by path, a directory before what is in it. Raises OSError."""
    for change in changes.compare(before, after):
        yield Difference(
            b"/" + change.path,
            _LETTERS[change.kind],
            tuple(sorted(change.what, key=_ORDER.index)),
            change.size_before,
            change.size_after,
        )


@contextlib.contextmanager
def compared(
    repository: Repository,
    before: str,
    after: str,
    *,
    work: Path | None = None,
    userxattr: bool = False,
) -> Iterator[tuple[View, View]]:
    """The views of two words, open for as long as the block lasts.

    Each is an image or a layer (:meth:`Repository.find_any`). after: may also be an upper
    directory, whose changes then lie on *before*; one that is called like an image has to be
    written as a path (``./name``). work, userxattr: of that directory, see
    :func:`committing.open_upper`.

    Raises StoreError, OSError.
    """
    if _is_path(before):
        raise StoreError(f"{before}: an upper directory comes second: layerstore diff IMAGE UPPER")
    with contextlib.ExitStack() as stack:
        below = stack.enter_context(subjects.opened(repository, before))
        if _is_upper(repository, after):
            upper, index = open_upper(stack, Path(after), work, userxattr=userxattr)
            yield below.view, View([*below.layers, upper], index)
        else:
            yield below.view, stack.enter_context(subjects.opened(repository, after)).view


def _is_upper(repository: Repository, word: str) -> bool:
    if _is_path(word):
        return True
    if not os.path.isdir(word):
        return False
    return not repository.has(word) and repository.find_layer(word) is None


def _is_path(word: str) -> bool:
    return word in (".", "..") or word.startswith(("/", "./", "../"))
