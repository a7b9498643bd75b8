"""Results as the table in the documentation: first bytes, then times."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median

from tests.storetable.measuring import Result

BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
_MEGA = 1_000_000
_BYTES = """\
| set | images | layers | different ones | their entries | in | stored | unpacked \
| unpacked / stored |
|---|--:|--:|--:|--:|--:|--:|--:|--:|"""
_TIMES = """\
| set | layers' tars | `layerstore import` | `umoci unpack` | `skopeo copy` | import again | mount \
| unpack / mount |
|---|--:|--:|--:|--:|--:|--:|--:|"""
_LEGEND = """\
In: the files that are read. Stored, unpacked: blocks on disk; the latter of all images' roots as
`umoci unpack` makes them. Speeds are of the tars of all layers of all images, those that images
share counted for each, by the clock, each image by a process of its own; in brackets the slowest
and the fastest round; the factor is how many times as fast the import is. Import again, mount:
seconds for one image; the mount's until `unionmount IMAGE DIR` returns. Its factor is against
`umoci unpack` of the same images. Each program works on an empty ext4 of its own, from sources
that are in the page cache. The import has everything on disk when it ends, the others leave that to
the kernel. skopeo copies the layers of a layout as they are, compressed. umoci reads neither docker
archives nor zstd: it got the same images as gzip."""


def text(
    results: Mapping[str, Result],
    absent: Mapping[str, str],
    about: Mapping[str, str],
    conditions: str,
) -> str:
    """Both parts of the table. absent: sets whose sources were not there, and why. about: sets."""
    why = [f"| {name} | absent: {reason} |" for name, reason in absent.items()]
    parts = (
        conditions,
        "",
        *(f"- {name}: {about[name]}" for name in (*results, *absent)),
        "",
        _BYTES,
        *(_bytes_line(name, result) for name, result in results.items()),
        *why,
        "",
        _TIMES,
        *(_times_line(name, result) for name, result in results.items()),
        *why,
        "",
        _LEGEND,
    )
    return "\n".join(parts)


def has_place(path: Path) -> bool:
    """Whether a document has marks for the table."""
    _, begin, rest = path.read_text().partition(BEGIN)
    return bool(begin) and END in rest


def put_into(path: Path, table: str) -> None:
    """Put the table between the marks of a document that has them."""
    before, begin, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    path.write_text(f"{before}{begin}\n{table}\n{end}{after}")


def _bytes_line(name: str, result: Result) -> str:
    cells = (
        name,
        f"{result.images}",
        f"{result.layers}",
        f"{result.distinct_layers}",
        f"{result.entries:,}",
        _size(result.source_bytes),
        _size(result.stored_bytes),
        _size(result.unpacked_bytes),
        _factor(result.unpacked_bytes / result.stored_bytes),
    )
    return _line(cells)


def _times_line(name: str, result: Result) -> str:
    imported, unpacked = median(result.imported), median(result.unpacked)
    cells = (
        name,
        _size(result.layer_bytes),
        _speed(result.layer_bytes, result.imported),
        f"{_speed(result.layer_bytes, result.unpacked)}: {_factor(unpacked / imported)}",
        f"{_speed(result.layer_bytes, result.copied)}: {_factor(median(result.copied) / imported)}",
        _each(result.imported_again, result.images),
        _each(result.mounted, result.images),
        _factor(unpacked / median(result.mounted)),
    )
    return _line(cells)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _size(size: int) -> str:
    return f"{size / _MEGA:,.1f} MB"


def _factor(number: float) -> str:
    return f"{number:.1f}\N{MULTIPLICATION SIGN}"


def _speed(size: int, seconds: Sequence[float]) -> str:
    middle, slowest, fastest = (
        f"{size / _MEGA / taken:,.0f}" for taken in (median(seconds), max(seconds), min(seconds))
    )
    return f"{middle} MB/s ({slowest} to {fastest})"


def _each(seconds: Sequence[float], images: int) -> str:
    middle, fastest, slowest = (
        f"{taken / images:.2f}" for taken in (median(seconds), min(seconds), max(seconds))
    )
    return f"{middle} s ({fastest} to {slowest})"
