"""Long work on a terminal: a bar for each piece of it on standard error; nothing in a pipe."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator

from layerstore import progress


@contextlib.contextmanager
def shown() -> Iterator[progress.Progress]:
    """Shows what the block tells, if a person looks."""
    if not sys.stderr.isatty():
        yield progress.Nobody()
        return
    # Only here, for it takes longer than most commands.
    bars = importlib.import_module("layerstore.cli.bars")
    with bars.shown() as watcher:
        yield watcher
