"""Which layer, and which step of the history, gave a path; and what that hides: blame."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from layerstore.errors import StoreError, shown
from layerstore.inspection.listing import Item, item_of
from layerstore.view import Said, View
from unionfs.layers.base import Layer
from unionfs.merge import Source
from unionfs.model import Entry

Effect = Literal["shows", "merges", "removes", "hidden"]
"""What comes of it: it is what the image shows; names in this directory show, while a layer above
tells its attributes; it takes away what layers below have; nothing, a layer above hides it."""


@dataclass(frozen=True, slots=True)
class Statement:
    """What one layer says of a path.

    position: of the layer, 0 for the base. created_by: the step that made the layer, if the image
    tells. path: what it speaks of: the path, or a directory above it. item: what it has there;
    None for a whiteout. opaque: it hides what layers below have in this directory.
    """

    position: int
    diff_id: str
    created_by: str | None
    path: bytes
    item: Item | None
    opaque: bool
    effect: Effect


@dataclass(frozen=True, slots=True)
class Blame:
    """path: what was asked for, links on the way to it resolved. statements: topmost first."""

    path: bytes
    statements: Sequence[Statement]

    @property
    def shows(self) -> Statement | None:
        """The one that gives what the image shows; None if that has nothing there."""
        return next((said for said in self.statements if said.effect == "shows"), None)


def blame(layers: Sequence[Layer], path: bytes) -> Blame:
    """What the layers of an image (base first) say of *path*, links on the way to it followed.

    Raises FileNotFoundError if no layer ever had it, StoreError for a directory that none has an
    entry of its own for; OSError.
    """
    view = View(layers)
    where = _resolved(view, path)
    shown_by = _position(view, where)
    history = view.history(where)
    if not history:
        if shown_by is not None:
            raise StoreError(
                f"{shown(path)}: no layer has an entry of its own for this directory, only for"
                " what is in it"
            )
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fsdecode(path))
    return Blame(
        b"/" + where,
        [_statement(layers, said, _effect(said, where, shown_by)) for said in history],
    )


def _resolved(view: View, path: bytes) -> bytes:
    """The path without links on the way to it, as far as the image has that way."""
    names = [name for name in path.split(b"/") if name not in (b"", b".")]
    if names and names[-1] == b"..":
        return view.find(path).path
    for number in range(len(names) - 1, -1, -1):
        try:
            found = view.find(b"/".join(names[:number]), follow=True)
        except (FileNotFoundError, NotADirectoryError):
            continue
        return b"/".join([*filter(None, [found.path]), *names[number:]])
    return b""


def _position(view: View, path: bytes) -> int | None:
    """Of the layer that tells what the view shows there; None if that is nothing."""
    try:
        return view.find(path).source.position
    except (FileNotFoundError, NotADirectoryError):
        return None


def _effect(said: Said, path: bytes, shown_by: int | None) -> Effect:
    entry = said.says if isinstance(said.says, Entry) and said.at == path else None
    # First of all, for a directory may get its attributes from one that is hidden otherwise.
    if entry is not None and said.position == shown_by:
        return "shows"
    if said.hidden:
        return "hidden"
    return "removes" if entry is None or entry.implied else "merges"


def _statement(layers: Sequence[Layer], said: Said, effect: Effect) -> Statement:
    layer, says = layers[said.position], said.says
    return Statement(
        said.position,
        layer.identity,
        layer.describe().get("created_by"),
        b"/" + said.at,
        item_of(said.at, Source(said.position, layer, says)) if isinstance(says, Entry) else None,
        isinstance(says, Entry) and says.opaque,
        effect,
    )
