"""What files take on the disk."""

from __future__ import annotations

import contextlib
import os
from typing import Final

SECTOR: Final = 512
"""Bytes of the blocks that stat(2) counts in."""


def taken(path: str) -> int:
    """The bytes that a file takes; 0 if it has gone. Raises OSError."""
    try:
        return allocated(os.lstat(path))
    except FileNotFoundError:
        return 0


def taken_below(directory: str) -> int:
    """The bytes that the files in a directory take, those aside that have other names elsewhere:
    a content in the store does not become free. Raises OSError.
    """
    total = 0
    for path, _, files in os.walk(directory):
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                status = os.lstat(f"{path}/{name}")
                total += allocated(status) if status.st_nlink == 1 else 0
    return total


def allocated(status: os.stat_result) -> int:
    """The bytes that a file takes whose status this is."""
    return status.st_blocks * SECTOR
