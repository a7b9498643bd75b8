"""The benchmark: unionmount and other unions on the same layers, in turn, in one run."""

import argparse
import fnmatch
import json
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.bench import (
    costs,
    data,
    growth,
    metadata,
    picture,
    programs,
    table,
    view,
    writing,
)
from tests.bench.contenders import CONTENDERS, NOBODY, OURS, Contender, UnableError, adopt_daemons
from tests.bench.measuring import measure
from tests.bench.results import Figure
from tests.bench.rows import ROWS, Kind, Row
from tests.bench.stacks import Stacks
from tests.bench.stand import Workshop, build_worker
from tests.bench.table import Report
from tests.storetable.table import put_into
from tests.support import linux

_TOPICS = [
    module.__name__.rpartition(".")[2]
    for module in (metadata, data, writing, programs, costs, growth)
]
_TRIAL = Row("trial", "", "blank", {"": Kind.COST}, lambda _: [])
_EXAMPLES = """
examples:
  scripts/bench                             everything, which takes about half an hour
  scripts/bench --quick                     a first look, in three minutes
  scripts/bench --rows 'walk*,data' --programs unionmount,fuse-overlayfs,kernel
                                            some rows (names or topics) of some programs
  scripts/bench --json bench.json --markdown docs/performance.md --svg docs/performance.svg
                                            everything, kept

Layers are made once, from a root of Debian that mmdebstrap gets from where this machine's apt
does, which takes some minutes, and kept in --data (12 GB). A row that changes anything works on an
empty ext4 in a file in $TMPDIR (default: /var/tmp), which needs up to 4 GB on a real disk. Root is
needed.
"""


def main() -> int:
    """Measure what the words name; the status is 1 if unionmount failed in a row."""
    words = _parser().parse_args()
    if os.geteuid():
        sys.exit("bench: mounting needs root; run: sudo scripts/bench")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    linux.leave_mount_namespace()
    adopt_daemons()
    os.umask(0o022)
    try:
        report = _report(words)
    except KeyboardInterrupt:
        return 130
    _say("")
    _show(report, words)
    return 1 if any(OURS.name in figure.unable for figure in report.figures) else 0


def _report(words: argparse.Namespace) -> Report:
    with _scratch() as scratch, ExitStack() as stack:
        stacks = Stacks(words.data.resolve(), _say, words.layers, words.scale)
        stacks.data.mkdir(parents=True, exist_ok=True)
        views = {0: stack.enter_context(view.read_only(stacks.data, scratch))}
        workshop = Workshop(scratch, build_worker(scratch), stacks, views)
        absent: dict[str, str] = {}
        if any(CONTENDERS[name].user for name in words.programs):
            try:
                views[NOBODY] = stack.enter_context(view.admitted(stacks.data, scratch))
            except UnableError as error:
                absent |= {n: str(error) for n in words.programs if CONTENDERS[n].user}
        programs = []
        for name in words.programs:
            if name not in absent:
                if reason := _unable(CONTENDERS[name], workshop):
                    absent[name] = reason
                else:
                    programs.append(name)
        figures = _figures(words, [CONTENDERS[name] for name in programs], workshop)
        return Report(figures, programs, absent, _conditions(words))


def _figures(
    words: argparse.Namespace, contenders: Sequence[Contender], workshop: Workshop
) -> list[Figure]:
    found = []
    for number, row in enumerate(words.rows, 1):

        def say(what: str, number: int = number) -> None:
            _say(f"[{number}/{len(words.rows)}] {what}")

        found += measure(row, contenders, words.rounds, words.seconds, workshop, say)
    return found


def _unable(contender: Contender, workshop: Workshop) -> str | None:
    """Why a program can't take part."""
    try:
        with workshop.mounted(contender, _TRIAL) as stand:
            stand.seconds("walk", stand.root)
    except UnableError as error:
        return str(error)
    return None


@contextmanager
def _scratch() -> Iterator[Path]:
    """A directory that goes away with all that is still mounted in it."""
    with tempfile.TemporaryDirectory(prefix="unionmount-bench-") as name:
        scratch = Path(name)
        scratch.chmod(0o711)
        try:
            yield scratch
        finally:
            for point in linux.mounts_below(scratch):
                linux.umount(point, linux.MNT_DETACH)


def _show(report: Report, words: argparse.Namespace) -> None:
    text = table.text(report)
    if words.json:
        words.json.write_text(json.dumps(table.document(report), indent=1) + "\n")
    if words.svg:
        words.svg.write_text(picture.draw(report))
    if words.markdown:
        put_into(words.markdown, text)
    else:
        print(text)


def _say(what: str) -> None:
    if sys.stderr.isatty():
        print(f"\033[K{what}\r", end="", file=sys.stderr, flush=True)


def _conditions(words: argparse.Namespace) -> str:
    kernel = ".".join(platform.release().split(".")[:2])  # without what a machine's builder adds
    size = "" if words.scale == 1 else f", at {words.scale:g} of the full size"
    return (
        f"Made by scripts/bench: medians of up to {words.rounds} rounds, a root in {words.layers}"
        f" layers{size}, {os.cpu_count()} processors, Linux {kernel},"
        f" Python {platform.python_version()}."
    )


def _rows(word: str) -> list[Row]:
    patterns = word.split(",")
    for pattern in patterns:
        if not any(_fits(row, pattern) for row in ROWS):
            raise argparse.ArgumentTypeError(f"no row is called {pattern!r}; --help has them all")
    return [row for row in ROWS if any(_fits(row, pattern) for pattern in patterns)]


def _fits(row: Row, pattern: str) -> bool:
    return row.topic == pattern or fnmatch.fnmatchcase(row.name, pattern)


def _programs(word: str) -> list[str]:
    names = word.split(",")
    if wrong := [name for name in names if name not in CONTENDERS]:
        known = ", ".join(CONTENDERS)
        raise argparse.ArgumentTypeError(f"no program {wrong[0]!r}; there are {known}")
    return names


def _parser() -> argparse.ArgumentParser:
    about = "\n".join(
        f"  {topic}: " + "; ".join(row.name for row in ROWS if row.topic == topic)
        for topic in _TOPICS
    )
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "/var/cache")
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description=f"{__doc__}\n\nrows:\n{about}",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", type=_rows, default=ROWS, metavar="GLOB,...")
    parser.add_argument("--programs", type=_programs, default=list(CONTENDERS), metavar="NAME,...")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--seconds", type=float, default=30.0, metavar="S")
    parser.add_argument("--layers", type=int, default=5, metavar="N")
    parser.add_argument("--scale", type=float, default=1.0, metavar="F")
    parser.add_argument("--data", type=Path, default=cache / "unionmount-bench", metavar="DIR")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--svg", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    return parser


if __name__ == "__main__":
    sys.exit(main())
