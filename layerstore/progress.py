"""Whom long work tells how far it is."""

from __future__ import annotations

from typing import Protocol

from layerstore.ingest import Tell


class Progress(Protocol):
    """Somebody who watches. May be called from several threads."""

    def begin(self, what: str, total: int | None) -> Tell:
        """Work on *what* begins; *total*: bytes to read, None if that is not known.

        Answers what is to be called with the number of bytes read since the last call.
        """
        ...


class Nobody:
    """Watches nothing."""

    def begin(self, what: str, total: int | None) -> Tell:
        """See :class:`Progress`."""
        return _ignore


def _ignore(count: int) -> None:
    pass
