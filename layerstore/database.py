"""SQLite's errors as those of the store."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator
from typing import Final

from layerstore.errors import DamagedError, StoreError

_ERRNOS: Final = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_PERM: errno.EACCES,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_NOMEM: errno.ENOMEM,
}

TEMPORARY: Final = "a temporary of SQLite"
"""What to call a database without a name: SQLite makes it in $SQLITE_TMPDIR or /var/tmp."""


@contextlib.contextmanager
def system_errors(what: str) -> Iterator[None]:
    """In the block SQLite works on *what* (``the catalog``).

    Raises OSError where the system could not do what was asked: the disk is full, for example.
    """
    try:
        yield
    except sqlite3.DatabaseError as error:
        number = _ERRNOS.get(_code(error))
        if number is None:
            raise
        raise OSError(number, os.strerror(number), what) from error


@contextlib.contextmanager
def errors(what: str, remedy: str = "") -> Iterator[None]:
    """As ``system_errors``, of what was there before.

    Raises StoreError, too, if others were in the way, and DamagedError with the *remedy* if it is
    not what was written.
    """
    try:
        with system_errors(what):
            yield
    except sqlite3.DatabaseError as error:
        code = _code(error)
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise StoreError(f"another process keeps {what} locked; try again later") from error
        if code == sqlite3.SQLITE_CONSTRAINT:
            raise StoreError(f"another process has just changed {what}; try again") from error
        raise DamagedError(f"{what} can't be read: {error}{remedy}") from error


def _code(error: sqlite3.DatabaseError) -> int:
    """The primary result code (sqlite.org/rescode.html)."""
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return code & 0xFF
