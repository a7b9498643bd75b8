"""From a word on the command line to a layer."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Sequence

from unionfs.layers import places
from unionfs.layers.base import Layer
from unionfs.layers.directory import DirectoryLayer
from unionfs.layers.markers import Dialects
from unionfs.model import UnionError

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


def open_layers(
    words: Sequence[bytes], dialects: Dialects, namespace: bytes, point: bytes
) -> list[Layer]:
    """The layers that *words* name, in the same order; each word is a directory's path.

    dialects, namespace: as for :class:`unionfs.layers.directory.DirectoryLayer`.
    point: the mount point. A layer that would show the mount itself, and wait for it, is refused.

    Raises UnionError for the first that can't be opened; then none stays open.
    """
    with contextlib.ExitStack() as opened:
        layers: list[Layer] = []
        for word in words:
            try:
                layer = DirectoryLayer(word, dialects, namespace=namespace)
            except OSError as error:
                raise problem("layer", word, error) from error
            opened.callback(layer.close)
            if not layer.is_private and _is_in(point, layer):
                raise UnionError(
                    f"mount point {os.fsdecode(point)} is inside layer {os.fsdecode(word)}:"
                    " only root can mount there; name one that is not"
                )
            layers.append(layer)
        opened.pop_all()
        return layers


def _is_in(point: bytes, layer: Layer) -> bool:
    descriptor = os.open(point, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return layer.lineage[0] in places.lineage(descriptor)
    finally:
        os.close(descriptor)
