"""The bytes of a file in an image: cat."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Final

from layerstore.errors import DamagedError, StoreError
from layerstore.inspection.listing import KINDS
from layerstore.layer import VERIFIED_AT_OPEN, StoredLayer
from layerstore.objects import has_hash
from layerstore.view import View, ViewNode

_CHUNK: Final = 1 << 20


def pieces(view: View, path: bytes) -> Iterator[bytes]:
    """The content of the regular file that *path* leads to; links lead no further than the root.

    It is verified before the first piece. Raises OSError (ENOENT, ENOTDIR, ELOOP, EISDIR, EIO) and
    StoreError for what has no content; DamagedError.
    """
    node = view.find(path, follow=True)
    if node.is_directory:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fsdecode(path))
    if not node.is_regular:
        raise StoreError(f"{os.fsdecode(path)} is a {KINDS[node.kind]}, which has no content")
    descriptor = node.open()
    try:
        _verify(node, descriptor)
        offset = 0
        while piece := os.pread(descriptor, _CHUNK, offset):
            yield piece
            offset += len(piece)
    finally:
        os.close(descriptor)


def _verify(node: ViewNode, descriptor: int) -> None:
    """Check what opening leaves unchecked, for the mount's sake: the biggest contents."""
    _, layer, entry = node.content()
    if not isinstance(layer, StoredLayer) or entry.attributes.st_size <= VERIFIED_AT_OPEN:
        return
    key = layer.index.inode(entry.handle).key
    if key is None or not has_hash(descriptor, key):
        raise DamagedError(
            f"the content of /{os.fsdecode(node.path)} is damaged; see layerstore check"
        )
