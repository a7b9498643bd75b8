"""The bytes of a file in an image: cat."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Final

from layerstore.errors import StoreError
from layerstore.inspection.listing import KINDS
from layerstore.view import View

_CHUNK: Final = 1 << 20


def pieces(view: View, path: bytes) -> Iterator[bytes]:
    """The content of the regular file that *path* leads to; links lead no further than the root.

    Raises OSError (ENOENT, ENOTDIR, ELOOP, EISDIR, EIO for what is damaged) and StoreError for what
    has no content.
    """
    node = view.find(path, follow=True)
    if node.is_directory:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fsdecode(path))
    if not node.is_regular:
        raise StoreError(f"{os.fsdecode(path)} is a {KINDS[node.kind]}, which has no content")
    descriptor = node.open()
    try:
        offset = 0
        while piece := os.pread(descriptor, _CHUNK, offset):
            yield piece
            offset += len(piece)
    finally:
        os.close(descriptor)
