"""What a user may write for an image, besides its name: its ID or the beginning of that."""

from __future__ import annotations

import re
from typing import Final

from layerstore.errors import StoreError
from layerstore.oci.names import normalised

_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_DIGITS: Final = re.compile(r"(?:sha256:)?(?P<digits>[0-9a-f]{4,64})")


def require(text: str) -> str:
    """The full form of a name, with its tag. Raises StoreError if it can't be one.

    With a digest behind it, it would say what nobody keeps to.
    """
    name = normalised(text)
    if name is None or "@" in text:
        raise StoreError(f"{text} can't be the name of an image: write it like team/app:1.2")
    return name


def digits(text: str) -> str | None:
    """The hexadecimal digits, four at least, that begin a digest; None if *text* is none."""
    found = _DIGITS.fullmatch(text)
    return found["digits"] if found else None


def digest(text: str) -> str | None:
    """The digest that *text* ends with (``sha256:...``, ``name@sha256:...``), if it does."""
    last = text.rpartition("@")[2]
    return last if _DIGEST.fullmatch(last) else None
