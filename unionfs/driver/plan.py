"""What is to be mounted, and how."""

from __future__ import annotations

from typing import NamedTuple

from unionfs.layers.markers import Dialects
from unionfs.options import Options


class Plan(NamedTuple):
    """One mount to be made; all paths are absolute.

    layers: base first, each a path or another word that :func:`unionfs.sources.open_layers` knows.
    point: a real path. upper: None for a read-only mount. work: None for the
    default beside the upper. log: a file for the log. verbosity: 0 for warnings, 1 to tell what
    happens, 2 for all.
    """

    layers: tuple[bytes, ...]
    point: bytes
    upper: bytes | None = None
    work: bytes | None = None
    dialects: Dialects = Dialects.AUTO
    options: Options = Options()
    log: bytes | None = None
    verbosity: int = 0
