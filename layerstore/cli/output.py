"""How commands show what they found: lines in columns, sizes for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Final

import click

from unionfs.model import printable

_STEP: Final = 1024
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def as_json(value: object) -> None:
    """Print *value* as JSON. Bytes of names that are no UTF-8 are lone surrogates (PEP 383)."""
    click.echo(json.dumps(value, indent=2))


def table(
    heading: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()
) -> None:
    """Print *rows* below *heading*, in columns; those of the numbers in *right* end together."""
    lines = [list(heading), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = [
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        click.echo("  ".join(cells).rstrip())


def size(number: int) -> str:
    """A number of bytes for people: ``1.5 MiB``."""
    value, unit = float(number), _UNITS[0]
    for unit in _UNITS:
        if value < _STEP or unit == _UNITS[-1]:
            break
        value /= _STEP
    return f"{number} B" if unit == _UNITS[0] else f"{value:.1f} {unit}"


json_option: Final = click.option("--json", "json_", is_flag=True, help="Print JSON.")
"""For every command that lists."""
