"""Bars on a terminal. Apart from :mod:`layerstore.cli.progress`, as loading rich takes a while."""

from __future__ import annotations

import contextlib
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

from layerstore.ingest import Tell

_COLUMNS: Final = (
    TextColumn("{task.description}"),
    BarColumn(),
    DownloadColumn(binary_units=True),
    TransferSpeedColumn(),
    TimeRemainingColumn(),
)


class Bars:
    """A :class:`layerstore.progress.Progress`: one bar for each piece of work."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars

    def begin(self, what: str, total: int | None) -> Tell:
        """See :class:`layerstore.progress.Progress`."""
        task = self._bars.add_task(what, total=total)
        return lambda count: self._bars.advance(task, count)


@contextlib.contextmanager
def shown() -> Iterator[Bars]:
    """Shows bars on standard error for the block, and takes them away afterwards."""
    with Progress(*_COLUMNS, console=Console(stderr=True), transient=True) as bars:
        yield Bars(bars)
