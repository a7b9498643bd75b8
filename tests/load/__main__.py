"""The load table: each row mounts a union on data of its own, works on it, and verifies it."""

import argparse
import contextlib
import dataclasses
import inspect
import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.load import files, names
from tests.load.stand import Measure, Stand
from tests.support import linux
from tests.support.mounts import KernelMount, Mounts, UnionMount

_ROWS: dict[str, Callable[[Stand], Iterator[Measure]]] = {
    row.__name__: row
    for row in (
        names.directory,
        names.tree,
        names.layers,
        names.depth,
        files.maps,
        files.work,
        files.fio,
        files.stress,
    )
}
_HEAD = """\
| row | what | how much | result | time | daemon's memory before, peak, after |
|---|---|---|---|---|---|"""
_EXAMPLES = """
examples:
  scripts/load                          all rows in full size, which takes about half an hour
  scripts/load --part 0.01 tree maps    two rows in a hundredth of their size
  scripts/load --json >load.json        the same figures for a program

Data is made in a directory of its own in $TMPDIR, which should lie on the file system that is of
interest, and needs up to 5 GB there. Root is needed.
"""


def main() -> int:
    """Run the rows that the words name; the status is 1 if one of them failed."""
    words = _parser().parse_args()
    if os.geteuid():
        sys.exit("load: mounting needs root; run: sudo scripts/load")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    linux.leave_mount_namespace()
    kept: list[dict[str, object]] = []
    failed = False
    if not words.json:
        print(_HEAD)
    for name in words.rows or _ROWS:
        try:
            with _stand(words.part) as stand:
                for measure in _ROWS[name](stand):
                    kept.append({"row": name, **dataclasses.asdict(measure)})
                    if not words.json:
                        print(_line(name, measure), flush=True)
        except Exception:
            failed = True
            print(f"load: {name} failed:\n{traceback.format_exc()}", file=sys.stderr)
    if words.json:
        print(json.dumps(kept, indent=1))
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    rows = "\n".join(f"  {name:10} {inspect.getdoc(row)}" for name, row in _ROWS.items())
    parser = argparse.ArgumentParser(
        prog="scripts/load",
        description=f"{__doc__}\n\nrows:\n{rows}",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help="rows to run (default: all)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--part", type=float, default=1.0, metavar="X", help="make rows this part of their size"
    )
    return parser


@contextlib.contextmanager
def _stand(part: float) -> Iterator[Stand]:
    """What a row needs, ended and removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="unionmount-load-") as name:
        directory = Path(name)
        union, kernel = Mounts(UnionMount, directory), Mounts(KernelMount, directory)
        with contextlib.ExitStack() as stack:
            stack.callback(union.close)
            stack.callback(kernel.close)
            yield Stand(union, kernel, directory, part)


def _line(name: str, measure: Measure) -> str:
    sizes = (measure.before, measure.peak, measure.after)
    memory = ", ".join(f"{size / (1 << 20):,.0f}" for size in sizes)
    return (
        f"| {name} | {measure.what} | {measure.amount:,} {measure.unit} | {measure.result} "
        f"| {measure.seconds:,.1f} s | {memory} MiB |"
    )


if __name__ == "__main__":
    sys.exit(main())
