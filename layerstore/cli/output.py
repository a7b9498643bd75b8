"""How commands show what they found: lines in columns, sizes for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import click

from layerstore.digest import short
from layerstore.errors import shown
from layerstore.repository import Image
from unionfs.model import printable

_STEP: Final = 1024
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def as_json(value: object) -> None:
    """Print *value* as JSON. Bytes of names that are no UTF-8 are lone surrogates (PEP 383)."""
    click.echo(json.dumps(value, indent=2))


def as_json_list(values: Iterable[object]) -> None:
    """Print *values* as a JSON array, each on a line of its own as soon as it comes."""
    out = sys.stdout
    separator = "[\n"
    for value in values:
        out.write(separator + json.dumps(value))
        separator = ",\n"
    out.write("[]\n" if separator == "[\n" else "\n]\n")


def text(name: bytes) -> str:
    """A name for JSON; see :func:`as_json`."""
    return name.decode("utf-8", "surrogateescape")


def lines(texts: Iterable[str]) -> None:
    """Print lines as they come, without waiting for a terminal or pipe after each."""
    for line in texts:
        sys.stdout.write(f"{line}\n")


def time(nanoseconds: int, *, exact: bool = False) -> str:
    """A time since 1970 in UTC (RFC 3339), *exact*: with nanoseconds.

    One beyond the years that have four digits is its number of seconds, ``@-99999999999``.
    """
    seconds, rest = divmod(nanoseconds, 10**9)
    try:
        whole = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    except (ValueError, OverflowError, OSError):
        # gmtime(3): EOVERFLOW if the year is no int.
        return f"@{seconds}"
    return f"{whole}.{rest:09}Z" if exact else f"{whole}Z"


def table(
    heading: Sequence[str], rows: Iterable[Sequence[str]], *, right: Collection[int] = ()
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


def warn(line: str) -> None:
    """Tell what is no error on standard error."""
    click.echo(f"layerstore: {printable(line)}", err=True)


def warn_left_out(paths: Iterable[bytes]) -> None:
    """Tell what was left out of a layer."""
    for path in paths:
        warn(f"left out: {shown(b'/' + path)} (no layer has a socket, or the store itself, in it)")


def warn_moved(before: Mapping[str, str], image: Image) -> None:
    """Tell of the names of *image* that were others'. before: images by their names."""
    for name in image.names:
        was = before.get(name, image.id)
        if was != image.id:
            warn(f"{name} was {short(was)} before")
