"""The benchmark: unionmount and other unions on the same layers, in turn, in one run."""

import argparse
import fnmatch
import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.bench import costs, data, growth, metadata, picture, programs, table, writing
from tests.bench.contenders import CONTENDERS, OURS, Role, adopt_daemons
from tests.bench.rows import ROWS, Kind, Row
from tests.bench.running import Wish, run
from tests.bench.table import Report
from tests.storetable.table import BEGIN, END, has_place, put_into
from tests.support import linux

_TOPICS = [
    topic.__name__.rpartition(".")[2]
    for topic in (metadata, data, writing, programs, costs, growth)
]
_ALL = [row for topic in _TOPICS for row in ROWS if row.topic == topic]
_EXAMPLES = """
examples:
  scripts/bench                           everything, which takes more than an hour
  scripts/bench --quick                   a first look, in some minutes
  scripts/bench --rows 'walk*,data' --programs unionmount,fuse-overlayfs,kernel
                                          some rows (names or topics) of some programs
  scripts/bench --json bench.json --markdown docs/performance.md --svg docs/performance.svg
                                          everything, kept
  UNIONMOUNT=elsewhere/.venv/bin/unionmount scripts/bench --rows metadata
                                          another unionmount than that of this checkout

Layers are made once, from a root of Debian that mmdebstrap gets from where this machine's apt
does, which takes some minutes, and kept in --data (12 GB). A row that changes anything works on an
empty ext4 in a file in $TMPDIR (default: /var/tmp), which needs up to 4 GB on a real disk. Root is
needed. docs/benchmark.md says how it is measured.
"""


@dataclass(frozen=True)
class Size:
    """What is measured if nothing else is said."""

    rows: list[Row]
    programs: list[str]
    rounds: int
    scale: float


_FULL = Size(_ALL, list(CONTENDERS), 5, 1.0)
_QUICK = Size(
    [row for row in _ALL if not row.grows and Kind.PROGRAM not in row.figures.values()],
    [name for name, one in CONTENDERS.items() if not one.user and not one.stored],
    1,
    0.05,
)


def main() -> int:
    """Measure what the words name; the status is 1 if something of unionmount's failed."""
    words = _parser().parse_args()
    if os.geteuid():
        sys.exit("bench: mounting needs root; run: sudo scripts/bench")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    linux.leave_mount_namespace()
    adopt_daemons()
    os.umask(0o022)
    os.environ.pop("PYTHONPATH", None)  # it is this program's, not the measured ones'
    try:
        report, went_well = run(_wish(words), _say, lambda report: _keep(report, words))
    except KeyboardInterrupt:
        return 130
    finally:
        _say("")
    if not words.markdown:
        print(table.text(report))
    return 0 if went_well and not _failed(report) else 1


def _wish(words: argparse.Namespace) -> Wish:
    size = _QUICK if words.quick else _FULL
    return Wish(
        rows=words.rows or size.rows,
        programs=words.programs or size.programs,
        rounds=words.rounds or size.rounds,
        seconds=words.seconds,
        layers=words.layers,
        scale=words.scale or size.scale,
        data=words.data.resolve(),
        drop_caches=words.drop_caches,
    )


def _failed(report: Report) -> bool:
    """Whether unionmount could not do what a row asks for."""
    ours = {name for name, contender in CONTENDERS.items() if contender.role is Role.OURS}
    unable = {name for figure in report.figures for name in figure.unable}
    return OURS.name in report.absent or bool(ours & unable)


def _keep(report: Report, words: argparse.Namespace) -> None:
    if words.json:
        words.json.write_text(json.dumps(table.document(report), indent=1) + "\n")
    if words.svg:
        words.svg.write_text(picture.draw(report, OURS.name))
    if words.markdown:
        put_into(words.markdown, table.text(report))


def _say(what: str) -> None:
    if sys.stderr.isatty():
        print(f"\033[K{what}\r", end="", file=sys.stderr, flush=True)


def _rows(word: str) -> list[Row]:
    patterns = word.split(",")
    for pattern in patterns:
        if not any(_fits(row, pattern) for row in _ALL):
            raise argparse.ArgumentTypeError(f"no row is called {pattern!r}; --help has them all")
    return [row for row in _ALL if any(_fits(row, pattern) for pattern in patterns)]


def _fits(row: Row, pattern: str) -> bool:
    return row.topic == pattern or fnmatch.fnmatchcase(row.name, pattern)


def _programs(word: str) -> list[str]:
    names = word.split(",")
    if wrong := [name for name in names if name not in CONTENDERS]:
        known = ", ".join(CONTENDERS)
        raise argparse.ArgumentTypeError(f"no program {wrong[0]!r}; there are {known}")
    return names


def _number(word: str) -> int:
    if not word.isdecimal() or not int(word):
        raise argparse.ArgumentTypeError(f"{word!r} is no number of 1 or more")
    return int(word)


def _scale(word: str) -> float:
    try:
        scale = float(word)
    except ValueError:
        scale = 0.0
    if not 0 < scale <= 1:
        raise argparse.ArgumentTypeError(f"{word!r} is no number above 0 and up to 1")
    return scale


def _document(word: str) -> Path:
    path = Path(word)
    if not path.is_file() or not has_place(path):
        raise argparse.ArgumentTypeError(f"{word} has no place for the table: {BEGIN} and {END}")
    return path


def _parser() -> argparse.ArgumentParser:
    about = "\n".join(
        f"  {topic}: " + "; ".join(row.name for row in _ALL if row.topic == topic)
        for topic in _TOPICS
    )
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "/var/cache")
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description=f"{__doc__}\n\nprograms:\n  {', '.join(CONTENDERS)}\n\nrows:\n{about}",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    say = parser.add_argument
    say("--rows", type=_rows, metavar="GLOB,...", help="which rows: names or topics (default: all)")
    say("--programs", type=_programs, metavar="NAME,...", help="which programs (default: all)")
    say("--quick", action="store_true", help="one round, a twentieth of the size, fewer programs")
    say("--rounds", type=_number, metavar="N", help=f"at most so many (default: {_FULL.rounds})")
    say(
        "--seconds",
        type=float,
        default=20.0,
        metavar="S",
        help="only three rounds of a row that takes longer; one or two, if five times as long"
        " (default: %(default)g)",
    )
    say("--layers", type=_number, default=5, metavar="N", help="of the root (default: %(default)s)")
    say("--scale", type=_scale, metavar="F", help="this part of the full size (default: 1)")
    say(
        "--data",
        type=Path,
        default=cache / "unionmount-bench",
        metavar="DIR",
        help="where layers are kept (default: %(default)s)",
    )
    say(
        "--drop-caches",
        action="store_true",
        help="drop the kernel's caches after each mount, which slows the whole machine down",
    )
    say(
        "--json",
        type=Path,
        metavar="FILE",
        help="write every figure of every round; this and what follows is written after each row",
    )
    say("--svg", type=Path, metavar="FILE", help="draw a picture")
    say("--markdown", type=_document, metavar="FILE", help="put the table between marks in FILE")
    return parser


if __name__ == "__main__":
    sys.exit(main())
