"""Names of images, ``name:tag``, as docker and others write them into what they save."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from layerstore.errors import StoreError
from layerstore.oci.text import listed, shown

_LENGTH_MAX: Final = 512
# github.com/distribution/reference, "Grammar".
_NAME: Final = re.compile(
    r"(?P<name>"
    r"(?:(?:[A-Za-z0-9]+(?:(?:\.|-+)[A-Za-z0-9]+)*|\[[0-9A-Fa-f:]+\])(?::\d+)?/)?"
    r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*"
    r")"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?"
    r"(?:@[A-Za-z0-9+._-]+:[0-9A-Fa-f]{32,})?",
    re.ASCII,
)


def normalised(text: str) -> str | None:
    """*text* as ``name:tag``, with the tag ``latest`` if none is told, and without a digest.

    None if it is no name of an image.
    """
    found = _NAME.fullmatch(text) if len(text) <= _LENGTH_MAX else None
    return f"{found['name']}:{found['tag'] or 'latest'}" if found else None


def tag(name: str) -> str:
    """The tag of a normalised name."""
    return name.rpartition(":")[2]


def is_among(wanted: str, references: Iterable[str]) -> bool:
    """Whether one of *references* is *wanted*, or both are the same name."""
    name = normalised(wanted)
    return any(
        wanted == reference or (name is not None and name == normalised(reference))
        for reference in references
    )


def unknown(wanted: str, references: Iterable[str]) -> StoreError:
    """The error that nothing is called *wanted*."""
    there = listed(references) or "images without a name"
    return StoreError(f"no image is called {shown(wanted)}; there are: {there}")
