"""What strangers wrote, in a message: on one line, and not long."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from unionfs.model import printable

_LENGTH_MAX: Final = 120
_NUMBER_MAX: Final = 20


def shown(text: str) -> str:
    """*text*, with what would end the line escaped, and its end left out if it is long."""
    return printable(text if len(text) <= _LENGTH_MAX else text[:_LENGTH_MAX] + "...")


def listed(texts: Iterable[str]) -> str:
    """Several of them in order, each once, and not all if there are many."""
    found = sorted(set(texts))
    more = ["..."] if len(found) > _NUMBER_MAX else []
    return ", ".join([*map(shown, found[:_NUMBER_MAX]), *more])
