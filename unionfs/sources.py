"""From a word on the command line to layers.

A word names a directory, or it names layers that somebody else keeps: an image in a store. Those
who know such names are the entry points of the group ``unionfs.sources``; each is a :data:`Lookup`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from unionfs.layers import places
from unionfs.layers.base import Layer
from unionfs.layers.directory import DirectoryLayer
from unionfs.layers.markers import Dialects
from unionfs.model import UnionError

Lookup = Callable[[str], Sequence[Layer] | None]
"""Opens the layers that a name stands for, base first, one at least; None if it knows no such name.

Raises UnionError for what the user has to mend. It is called in the process that serves the mount,
whose working directory is ``/`` and whose umask is 0; layers are closed at the mount's end.
"""

_GROUP: Final = "unionfs.sources"
_PATHS: Final = (b"/", b"./", b"../")
_REASONS = {
    errno.ENOENT: "there is no such directory",
    errno.ENOTDIR: "it is not a directory",
    errno.EACCES: "permission denied; run as root, or as a user who may read it",
    errno.ENOTCONN: "the filesystem there has lost its daemon; unmount it with umount -l",
    errno.EROFS: "it is on a read-only filesystem",
}


def problem(role: str, path: bytes, error: OSError) -> UnionError:
    """The line for *error* on a directory that was named as *role* (``layer``, ``upper``, ...)."""
    reason = _REASONS.get(error.errno or 0) or error.strerror or str(error)
    return UnionError(f"{role} {os.fsdecode(path)}: {reason}")


class Named(NamedTuple):
    """A layer, and the word that named it; one word may name several."""

    word: bytes
    layer: Layer


def means_directory(word: bytes) -> bool:
    """Whether *word* is a directory's path: it looks like one, or such a directory is there.

    What can't be looked at is taken for one, so that the user is told why.
    """
    if word in (b".", b"..") or word.startswith(_PATHS):
        return True
    try:
        return stat.S_ISDIR(os.stat(word).st_mode)
    except OSError as error:
        return error.errno not in (errno.ENOENT, errno.ENOTDIR)


def open_layers(
    words: Sequence[bytes], dialects: Dialects, namespace: bytes, point: bytes
) -> list[Named]:
    """The layers that *words* name, in the same order.

    words: absolute paths of directories; any other word is a name that the entry points are asked
    for. dialects, namespace: as for :class:`unionfs.layers.directory.DirectoryLayer`.
    point: the mount point. A layer that would show the mount itself, and wait for it, is refused.

    Raises UnionError for the first that can't be opened; then none stays open.
    """
    with contextlib.ExitStack() as opened:
        layers: list[Named] = []
        for word in words:
            try:
                if os.path.isabs(word):
                    found: Sequence[Layer] = [_open_directory(word, dialects, namespace, point)]
                else:
                    found = _look_up(word)
            except OSError as error:
                raise problem("layer", word, error) from error
            for layer in found:
                opened.callback(layer.close)
                layers.append(Named(word, layer))
        opened.pop_all()
        return layers


def _open_directory(
    path: bytes, dialects: Dialects, namespace: bytes, point: bytes
) -> DirectoryLayer:
    layer = DirectoryLayer(path, dialects, namespace=namespace)
    with contextlib.ExitStack() as opened:
        opened.callback(layer.close)
        if not layer.is_private and _is_in(point, layer):
            raise UnionError(
                f"mount point {os.fsdecode(point)} is inside layer {os.fsdecode(path)}:"
                " only root can mount there; name one that is not"
            )
        opened.pop_all()
    return layer


def _look_up(word: bytes) -> Sequence[Layer]:
    name = os.fsdecode(word)
    reason = _REASONS[errno.ENOENT]
    for lookup in _lookups():
        layers = lookup(name)
        if layers is not None:
            return layers
        reason = "there is no such directory, and no image of that name in the store"
    raise UnionError(f"layer {name}: {reason}")


def _lookups() -> Iterator[Lookup]:
    # Reading what is installed takes a library as large as all that a mount of directories needs.
    import importlib.metadata  # noqa: PLC0415 - see above

    for entry_point in importlib.metadata.entry_points(group=_GROUP):
        try:
            yield entry_point.load()
        except (ImportError, AttributeError) as error:
            raise UnionError(
                f"{entry_point.value}, which knows names of layers, can't be loaded: {error}"
            ) from error


def _is_in(point: bytes, layer: Layer) -> bool:
    descriptor = os.open(point, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return layer.lineage[0] in places.lineage(descriptor)
    finally:
        os.close(descriptor)
