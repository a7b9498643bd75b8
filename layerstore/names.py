"""Names of images: what a user may write, and what it means.

The grammar is that of the distribution specification ("Pulling manifests") with an optional host
before the path, as in ``registry.example:5000/team/app:1.2``.
"""

from __future__ import annotations

import re
from typing import Final

from layerstore.errors import StoreError

_COMPONENT: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST: Final = r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]+)?"
_NAME: Final = re.compile(
    rf"(?P<path>(?:{_HOST}/)?{_COMPONENT}(?:/{_COMPONENT})*)(?::(?P<tag>\w[\w.-]{{0,127}}))?",
    re.ASCII,
)
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_DIGITS: Final = re.compile(r"(?:sha256:)?(?P<digits>[0-9a-f]{4,64})")
_LENGTH_MAX: Final = 512
_DEFAULT_TAG: Final = "latest"


def parse(text: str) -> str | None:
    """The full form of an image's name, with its tag; None if it can't be one."""
    found = _NAME.fullmatch(text)
    if not found or len(text) > _LENGTH_MAX:
        return None
    return f"{found['path']}:{found['tag'] or _DEFAULT_TAG}"


def require(text: str) -> str:
    """As ``parse``; raises StoreError if it can't be a name."""
    name = parse(text)
    if name is None:
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
