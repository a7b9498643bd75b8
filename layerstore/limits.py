"""How much a layer or an archive may ask of the store.

Layers come from strangers; what they claim to need is bounded before it is spent. The defaults are
far above what images in use have; ``--limit NAME=VALUE`` changes one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Limits:
    """bytes: a layer's tar, decompressed. ratio: decompressed bytes for each compressed one, once
    RATIO_FREE bytes have come out. entries: entries of one layer, and directories above them that
    have none. depth: directories above an entry. path: bytes of a path or a link's target. header:
    bytes of the extended headers of one entry. document: bytes of a manifest, config or index.
    layers: layers of one image.
    """

    bytes: int = 1 << 38
    ratio: int = 2000
    entries: int = 1 << 23
    depth: int = 1024
    path: int = 1 << 16
    header: int = 1 << 22
    document: int = 1 << 23
    layers: int = 1000


RATIO_FREE: Final = 1 << 26
"""Bytes that may come out of a stream before its ratio counts: small files may be very regular."""

UNLIMITED: Final = Limits(*[1 << 62] * 8)
"""For what is in the store: it was let in by limits that nobody remembers."""
