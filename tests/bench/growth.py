"""Rows that come in several sizes: how time grows with layers, with names, with what is known."""

from collections.abc import Sequence

from tests.bench.rows import Act, Kind, row
from tests.bench.stand import Stand

_LAYERS = (1, 10, 100, 500)
_ROOTS = (1, 5, 20, 100)
_ENTRIES = (10, 100, 1_000, 10_000, 100_000)
_KNOWN = (10, 10_000, 100_000)


def _walk(stand: Stand) -> Sequence[float]:
    return [stand.seconds("walk", stand.tree)]


def _mount(stand: Stand) -> Sequence[float | None]:
    return [stand.mounted.seconds]


def _list(stand: Stand) -> Sequence[float]:
    return [stand.seconds("walk", stand.root / "flat")]


def _create_beside(stand: Stand) -> Sequence[float]:
    return [stand.seconds("fill", stand.root / "flat", "1000")]


def _with_known(stand: Stand) -> Sequence[float]:
    stand.seconds("walk", stand.root / "flat")
    others = [name for name in stand.stack.files if name.startswith("others/")]
    return [stand.seconds("read", stand.root, stand.listed(others))]


def _grow(name: str, stack: str, sizes: Sequence[int], act: Act, kind: Kind) -> None:
    for size in sizes:
        writes = act is _create_beside
        put = row(name.format(size), f"{stack}-{size}", kind, writes=writes, grows=True)
        put(act)


_grow("walk of the root in {} layers", "root", _ROOTS, _walk, Kind.COLD)
_grow("walk of 2000 files in {} layers", "spread", _LAYERS, _walk, Kind.COLD)
_grow("time to mount {} layers", "spread", _LAYERS, _mount, Kind.COST)
_grow("listing of {} names with stat", "flat", _ENTRIES, _list, Kind.COLD)
_grow("1000 new files beside {} names", "flat", _ENTRIES, _create_beside, Kind.WRITE)
_grow("reading 100 files with {} names known", "flat", _KNOWN, _with_known, Kind.COLD)
