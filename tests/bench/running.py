"""One run: layers at hand, programs that can take part, row after row."""

import compileall
import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import layerstore
import unionfs
from tests.bench import view
from tests.bench.contenders import CONTENDERS, NOBODY, Contender, UnableError
from tests.bench.measuring import measure
from tests.bench.results import Figure
from tests.bench.rows import Kind, Row
from tests.bench.stacks import Stacks
from tests.bench.stand import Workshop, build_worker
from tests.bench.table import Report
from tests.support import linux

_TRIAL = Row("trial", "", "blank", {"": Kind.COST}, lambda _: [])


@dataclass(frozen=True)
class Wish:
    """What is to be measured. programs: their names. rounds, seconds: as `measuring.measure` has
    them. layers, scale: as `stacks.Stacks` has them. data: where stacks are kept. drop_caches:
    whether everything comes from the disk after each mount.
    """

    rows: Sequence[Row]
    programs: Sequence[str]
    rounds: int
    seconds: float
    layers: int
    scale: float
    data: Path
    drop_caches: bool

    @property
    def conditions(self) -> str:
        """On what it runs, in a line."""
        kernel = ".".join(
            platform.release().split(".")[:2]
        )  # without what a machine's builder adds
        size = "" if self.scale == 1 else f", at {self.scale:g} of the full size"
        caches = ", caches dropped after each mount" if self.drop_caches else ""
        return (
            f"Made by scripts/bench: medians of up to {self.rounds} rounds, a root in {self.layers}"
            f" layers{size}{caches}, {os.cpu_count()} processors, Linux {kernel},"
            f" Python {platform.python_version()}."
        )


def run(
    wish: Wish, say: Callable[[str], None], keep: Callable[[Report], None]
) -> tuple[Report, bool]:
    """Measure everything; answers also whether it went as it should.

    A row that fails is told of on standard error. say: is told what is being done. keep: is given
    what there is after each row, since a run takes long and may be ended before it is through.
    """
    _compile()
    with _scratch() as scratch, ExitStack() as stack:
        stacks = Stacks(wish.data, say, wish.layers, wish.scale)
        stacks.data.mkdir(parents=True, exist_ok=True)
        absent: dict[str, str] = {}
        views = {0: stack.enter_context(view.read_only(stacks.data, scratch))}
        if any(CONTENDERS[name].user for name in wish.programs):
            try:
                views[NOBODY] = stack.enter_context(view.admitted(stacks.data, scratch))
            except UnableError as error:
                absent |= {name: str(error) for name in wish.programs if CONTENDERS[name].user}
        workshop = Workshop(scratch, build_worker(scratch), stacks, views, wish.drop_caches)
        contenders = []
        for name in wish.programs:
            if name not in absent:
                if reason := _reason_to_leave_out(CONTENDERS[name], workshop):
                    absent[name] = reason
                else:
                    contenders.append(CONTENDERS[name])
        programs = [contender.name for contender in contenders]
        found: list[Figure] = []
        report = Report(found, programs, absent, wish.conditions)
        went_well = True
        for figures in _figures(wish, contenders, workshop, say):
            found += figures
            went_well &= bool(figures)
            keep(report)
    return report, went_well


def _compile() -> None:
    """As pip does with what it installs: a start must not compile what was edited since the last,
    where the environment keeps Python from writing that down.
    """
    for package in (unionfs, layerstore):
        for path in package.__path__:
            compileall.compile_dir(path, quiet=1)


def _figures(
    wish: Wish, contenders: Sequence[Contender], workshop: Workshop, say: Callable[[str], None]
) -> Iterator[list[Figure]]:
    """Those of each row; none of one that failed."""
    for number, row in enumerate(wish.rows, 1):

        def say_of_row(what: str, number: int = number) -> None:
            say(f"[{number}/{len(wish.rows)}] {what}")

        try:
            yield measure(row, contenders, wish.rounds, wish.seconds, workshop, say_of_row)
        except Exception:
            print(f"bench: {row.name} failed:\n{traceback.format_exc()}", file=sys.stderr)
            yield []


def _reason_to_leave_out(contender: Contender, workshop: Workshop) -> str | None:
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
        scratch.chmod(0o711)  # other users mount in it, too
        try:
            yield scratch
        finally:
            for point in linux.mounts_below(scratch):
                linux.umount(point, linux.MNT_DETACH)
