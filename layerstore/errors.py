"""What can go wrong that is not an operating-system error: each text is the one line to show."""

from __future__ import annotations

from unionfs.model import UnionError, printable


class StoreError(UnionError):
    """A mistake that the user can mend, or a store that is not as it has to be."""


class InvalidContentError(StoreError):
    """What was read (a tar, a blob, a document) is not what it claims to be, or is hostile."""


class LimitExceededError(InvalidContentError):
    """Within the rules, but more than this store takes; the text names the option for more."""


class DamagedError(StoreError):
    """Something in the store is not what was put there; ``layerstore check`` tells all of it."""


def shown(name: bytes) -> str:
    """A name from an archive on one line, whatever bytes are in it."""
    return printable(name.decode("utf-8", "surrogateescape"))


def counted(number: int, noun: str) -> str:
    """``1 layer``, ``2 layers``."""
    return f"{number} {noun}{'s' * (number != 1)}"
