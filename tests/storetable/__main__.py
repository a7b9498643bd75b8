"""The store's table: sets of real images imported, mounted, and given to other programs in turn."""

import argparse
import dataclasses
import inspect
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
import traceback
from pathlib import Path

from tests.storetable import table
from tests.storetable.measuring import Result, measure
from tests.storetable.sets import SETS, AbsentError, Shop
from tests.storetable.tools import run
from tests.support import linux

_DATA = "layerstore-table"
_EXAMPLES = """
examples:
  scripts/store-table --images images --into docs/layerstore.md
                                            all sets; the table goes to its place
  scripts/store-table --sets small --rounds 1   one set, once
  scripts/store-table --rounds 0            only make what is missing
  scripts/store-table --json >table.json    every figure of every round

Roots and images are made once, by mmdebstrap from the archive of Debian that apt knows, which takes
about half an hour, and kept in --data. Each program works on an empty ext4 of its own, in a file in
$TMPDIR (default: /var/tmp), which needs up to 5 GB on a real disk. Root is needed.
"""


def main() -> int:
    """Measure the sets that the words name; the status is 1 if one of them failed."""
    words = _parser().parse_args()
    if os.geteuid():
        sys.exit("store-table: mounting and unpacking need root; run: sudo scripts/store-table")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    linux.leave_mount_namespace()
    with tempfile.TemporaryDirectory(prefix="layerstore-table-") as scratch:
        # What a program that was ended has left goes, too.
        os.environ["TMPDIR"] = scratch
        results, absent, failed = _all_measured(words, Path(scratch))
    if words.json:
        found = {name: dataclasses.asdict(result) for name, result in results.items()}
        print(json.dumps({"sets": found, "absent": absent}, indent=1))
    elif words.rounds:
        made = table.text(results, absent, _about(), _conditions(words.rounds))
        _show(made, words.into, failed=failed)
    return 1 if failed else 0


def _all_measured(
    words: argparse.Namespace, scratch: Path
) -> tuple[dict[str, Result], dict[str, str], bool]:
    """What was measured; why sets are absent; whether one failed."""
    results, absent, failed = {}, {}, False
    for name in words.sets:
        directory = scratch / name
        directory.mkdir()
        try:
            if measured := _measured(name, words, directory):
                results[name] = measured
        except AbsentError as error:
            absent[name] = str(error)
        except Exception:
            failed = True
            print(f"store-table: {name} failed:\n{traceback.format_exc()}", file=sys.stderr)
        shutil.rmtree(directory)
    _say("")
    return results, absent, failed


def _measured(name: str, words: argparse.Namespace, scratch: Path) -> Result | None:
    def say(what: str) -> None:
        _say(f"{name}: {what}")

    shop = Shop(words.data, say, words.images, scratch)
    with shop.alone():
        images = SETS[name](shop)
    return measure(images, words.rounds, scratch, say) if words.rounds else None


def _show(text: str, into: Path | None, *, failed: bool) -> None:
    if into is None:
        print(text)
    elif failed:
        print(f"store-table: {into} stays as it is, since something failed", file=sys.stderr)
    else:
        table.put_into(into, text)


def _say(what: str) -> None:
    if sys.stderr.isatty():
        print(f"\033[K{what}\r", end="", file=sys.stderr, flush=True)


def _conditions(rounds: int) -> str:
    versions = ", ".join(run(name, "--version").splitlines()[0] for name in ("umoci", "skopeo"))
    return (
        f"Made by scripts/store-table: medians of {rounds} round{'s' * (rounds != 1)},"
        f" {os.cpu_count()} processors, Linux {_kernel()},"
        f" Python {platform.python_version()}, {versions.replace(' version', '')}."
    )


def _about() -> dict[str, str]:
    return {name: inspect.getdoc(made) or "" for name, made in SETS.items()}


def _sets(word: str) -> list[str]:
    names = word.split(",")
    if wrong := [name for name in names if name not in SETS]:
        raise argparse.ArgumentTypeError(f"no set {wrong[0]!r}; there are {', '.join(SETS)}")
    return names


def _rounds(word: str) -> int:
    if not word.isdecimal():
        raise argparse.ArgumentTypeError(f"{word!r} is no number of rounds")
    return int(word)


def _document(word: str) -> Path:
    path = Path(word)
    if not path.is_file() or not table.has_place(path):
        marks = f"{table.BEGIN} and {table.END}"
        raise argparse.ArgumentTypeError(f"{word} has no place for the table: {marks}")
    return path


def _parser() -> argparse.ArgumentParser:
    about = "\n".join(f"  {name:13} {what}" for name, what in _about().items())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser = argparse.ArgumentParser(
        prog="scripts/store-table",
        description=f"{__doc__}\n\nsets:\n{about}",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--sets",
        type=_sets,
        default=list(SETS),
        metavar="SET,...",
        help="which sets (default: all)",
    )
    parser.add_argument(
        "--rounds",
        type=_rounds,
        default=5,
        metavar="N",
        help="how often (default: 5); 0: only prepare",
    )
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="where Alpine's images are, *alpine*.tar.gz"
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=cache / _DATA,
        metavar="DIR",
        help="where what is made is kept (default: %(default)s)",
    )
    parser.add_argument(
        "--into", type=_document, metavar="FILE", help="put the table between the marks in FILE"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


def _kernel() -> str:
    """Its version, without what a machine's builder adds."""
    return ".".join(platform.release().split(".")[:2])


if __name__ == "__main__":
    sys.exit(main())
