"""New images of images: an upper directory's changes on top (commit), layers made one (squash)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from layerstore import pack
from layerstore.adding import add_layer
from layerstore.digest import Digest
from layerstore.errors import StoreError, counted
from layerstore.ingest import Claim
from layerstore.oci.documents import History, derive_config
from layerstore.pieces import PieceReader
from layerstore.progress import Nobody, Progress
from layerstore.repository import Image, Repository
from unionfs import syscalls
from unionfs.layers import markers
from unionfs.layers.base import Layer
from unionfs.layers.directory import DirectoryLayer
from unionfs.layers.markers import Dialects
from unionfs.workdir import held

_EPOCH: Final = "SOURCE_DATE_EPOCH"
_EPOCH_DIGITS: Final = 11
"""As long as years have four digits."""
_WORK_SUFFIX: Final = b".work"


@dataclass(frozen=True, slots=True)
class Made:
    """An image that was made. left_out: paths of sockets, which no layer can have."""

    image: Image
    left_out: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class About:
    """What the new image says of itself. names: what it is called. created_by: the step that made
    the layer. author, comment: as a person wrote them.
    """

    names: Sequence[str] = ()
    created_by: str = "layerstore commit"
    author: str = ""
    comment: str = ""


def commit(
    repository: Repository,
    upper: Path,
    onto: Image,
    about: About,
    progress: Progress | None = None,
    *,
    work: Path | None = None,
    userxattr: bool = False,
) -> Made:
    """Make an image of *onto* and the changes that an upper directory holds.

    What is the same below is left out, by its content and all its attributes. work: the upper's
    work directory (default: that with ``.work`` behind its name, if there is one). userxattr: its
    marks are ``user.overlay.*``, as with that mount option.

    Raises StoreError for what can't be in a layer, BusyError if the upper is mounted, OSError.
    """
    left_out: list[bytes] = []
    with contextlib.ExitStack() as stack:
        lower = _opened(stack, repository, onto)
        # What is mounted meanwhile would change below us.
        stack.enter_context(held(os.fsencode(upper)))
        changes, index = open_upper(stack, upper, work, userxattr=userxattr)
        pieces = pack.pack_changes(lower, changes, left_out.append, index=index)
        image = _with_layer(repository, onto, len(onto.layers), pieces, about, progress)
    return Made(image, left_out)


def squash(
    repository: Repository,
    image: Image,
    about: About,
    progress: Progress | None = None,
    *,
    keep: int = 0,
) -> Made:
    """Make an image that shows the same, with one layer instead of all but the first *keep*.

    Raises StoreError, OSError.
    """
    if not 0 <= keep < len(image.layers):
        number = counted(len(image.layers), "layer")
        raise StoreError(f"{image.title} has {number}: keep fewer than that, or none")
    left_out: list[bytes] = []
    with contextlib.ExitStack() as stack:
        layers = _opened(stack, repository, image)
        pieces = pack.pack_squash(layers, left_out.append, keep=keep)
        made = _with_layer(repository, image, keep, pieces, about, progress)
    return Made(made, left_out)


def _opened(stack: contextlib.ExitStack, repository: Repository, image: Image) -> Sequence[Layer]:
    layers = repository.open_layers(image)
    for layer in layers:
        stack.callback(layer.close)
    return layers


def open_upper(
    stack: contextlib.ExitStack, upper: Path, work: Path | None = None, *, userxattr: bool = False
) -> tuple[Layer, Layer | None]:
    """An upper directory as a layer, and the index of its work directory as another, if it has one.

    *stack* closes them. work, userxattr: as for :func:`commit`. Raises OSError.
    """
    trusted = syscalls.may_use_trusted_attributes() and not userxattr
    namespace = markers.TRUSTED if trusted else markers.USER

    def opened(path: bytes) -> DirectoryLayer:
        layer = DirectoryLayer(path, Dialects.AUTO, namespace=namespace)
        stack.callback(layer.close)
        return layer

    path = os.fsencode(upper)
    beside = os.path.realpath(path) + _WORK_SUFFIX if work is None else os.fsencode(work)
    if work is not None:
        # What was named has to be there.
        os.stat(beside)
    index = os.path.join(beside, b"index")
    return opened(path), opened(index) if os.path.isdir(index) else None


def _with_layer(
    repository: Repository,
    image: Image,
    keep: int,
    pieces: Iterator[bytes],
    about: About,
    progress: Progress | None,
) -> Image:
    """The image of the first *keep* layers of *image* and one more."""
    created = _now()
    tell = (progress or Nobody()).begin("layer", None)
    added = add_layer(repository, PieceReader(pieces), Claim(), tell)
    try:
        config = _config(image, keep, added.diff_id, about, created)
        return repository.add_image(config, None, about.names)
    finally:
        os.close(added.lease)


def _config(image: Image, keep: int, diff_id: Digest, about: About, created: str) -> bytes:
    step = History(created, about.created_by, about.author, about.comment)
    return derive_config(
        image.raw,
        [*image.config.rootfs.diff_ids[:keep], diff_id],
        [*_history(image, keep), step],
        created=created,
        author=about.author,
    )


def _history(image: Image, keep: int) -> list[History]:
    """The steps of the first *keep* layers; then those that made none, for what they say."""
    if None in image.steps:
        return [History(comment="unknown") for _ in range(keep)]
    kept = []
    for step in image.config.history:
        if not step.empty_layer:
            keep -= 1
        if keep >= 0 or step.empty_layer:
            kept.append(step)
    return kept


def _now() -> str:
    """The time of now, or that of $SOURCE_DATE_EPOCH (reproducible-builds.org), in RFC 3339."""
    epoch = os.environ.get(_EPOCH)
    if not epoch:
        time = datetime.now(UTC)
    elif epoch.isdecimal() and len(epoch) <= _EPOCH_DIGITS:
        time = datetime.fromtimestamp(int(epoch), UTC)
    else:
        raise StoreError(f"${_EPOCH} is {epoch}: make it a number of seconds since 1970")
    return time.isoformat(timespec="seconds").replace("+00:00", "Z")
