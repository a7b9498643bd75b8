"""Long work on a terminal: a bar for each piece of it on standard error; nothing in a pipe."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Final

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from layerstore import progress
from layerstore.ingest import Tell

_COLUMNS: Final = (
    TextColumn("{task.description}"),
    BarColumn(),
    DownloadColumn(binary_units=True),
    TransferSpeedColumn(),
    TimeRemainingColumn(),
)


@contextlib.contextmanager
def shown() -> Iterator[progress.Progress]:
    """Shows what the block tells, if a person looks."""
    if not sys.stderr.isatty():
        yield progress.Nobody()
        return
    with Progress(*_COLUMNS, console=Console(stderr=True), transient=True) as bars:
        yield _Bars(bars)


class _Bars:
    def __init__(self, bars: Progress) -> None:
        self._bars = bars

    def begin(self, what: str, total: int | None) -> Tell:
        task = self._bars.add_task(what, total=total)
        return lambda count: self._bars.advance(task, count)
