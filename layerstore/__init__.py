"""The layer store: keeps images and layers, each file content once, and hands them to `unionfs`.

``layerstore.Store`` has all of it for Python; see :mod:`layerstore.store`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layerstore.store import Store

__all__ = ["Store"]


def __getattr__(name: str) -> Any:
    # Loaded when it is asked for: a mount wants a part of this package only, and at once.
    if name in __all__:
        return getattr(importlib.import_module("layerstore.store"), name)
    raise AttributeError(f"module {__name__} has no attribute {name}")
