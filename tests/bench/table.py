"""Figures as text: a table in Markdown, means, misses."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tests.bench.contenders import CONTENDERS, OURS, Role
from tests.bench.results import Figure, Miss, Ratio, mean, misses
from tests.bench.rows import Unit

_ABSENT = "-"


@dataclass(frozen=True)
class Report:
    """A run. programs: those that took part, in order. absent: why others did not.

    conditions: on what it ran, in a line.
    """

    figures: Sequence[Figure]
    programs: Sequence[str]
    absent: Mapping[str, str]
    conditions: str

    def subjects(self) -> list[str]:
        """The ways to run unionmount that took part."""
        return [name for name in self.programs if CONTENDERS[name].role is Role.OURS]

    def peers(self) -> list[str]:
        """What they are compared with."""
        return [name for name in self.programs if CONTENDERS[name].role is not Role.OURS]

    def misses(self, subject: str) -> list[Miss]:
        """Where a subject takes longer than it is meant to."""
        by_role = {role: [n for n in self.peers() if CONTENDERS[n].role is role] for role in Role}
        kernel = by_role[Role.KERNEL] or [""]
        return misses(self.figures, subject, by_role[Role.FUSE], kernel[0])


def text(report: Report) -> str:
    """The report in Markdown."""
    parts = [report.conditions, *(f"Left out: {n}: {why}" for n, why in report.absent.items())]
    for subject in report.subjects():
        parts += ["", *_ratios(report, subject)]
    parts += ["", *_medians(report), "", *_means(report)]
    for subject in report.subjects():
        parts += ["", *_misses(report.misses(subject), subject)]
    if unable := _unable(report.figures):
        parts += ["", "What programs could not do:", "", *unable]
    return "\n".join(parts)


def document(report: Report) -> dict[str, object]:
    """The report with every sample, for JSON."""
    return {
        "conditions": report.conditions,
        "programs": list(report.programs),
        "absent": dict(report.absent),
        "figures": [
            {
                "name": figure.name,
                "row": figure.row,
                "topic": figure.topic,
                "kind": figure.kind.value,
                "unit": figure.unit.value,
                "grows": figure.grows,
                "samples": figure.samples,
                "unable": figure.unable,
            }
            for figure in report.figures
        ],
        "means": {
            subject: {peer: mean(report.figures, subject, peer) for peer in report.peers()}
            for subject in report.subjects()
        },
    }


def _ratios(report: Report, subject: str) -> list[str]:
    peers = report.peers()
    return [
        f"Time of {subject} in parts of each one's (less than 1: {OURS.name} is faster); in"
        " brackets the least and the greatest of all rounds.",
        "",
        _line(["row", "kind", subject, *peers]),
        "|---|---|" + "--:|" * (1 + len(peers)),
        *(
            _line(
                [
                    figure.name,
                    figure.kind.value,
                    amount(figure.median(subject), figure.unit),
                    *(_ratio(figure.ratio(subject, peer)) for peer in peers),
                ]
            )
            for figure in report.figures
        ),
    ]


def _medians(report: Report) -> list[str]:
    return [
        "The medians themselves.",
        "",
        _line(["row", *report.programs]),
        "|---|" + "--:|" * len(report.programs),
        *(
            _line(
                [
                    figure.name,
                    *(amount(figure.median(name), figure.unit) for name in report.programs),
                ]
            )
            for figure in report.figures
        ),
    ]


def _means(report: Report) -> list[str]:
    peers = report.peers()
    return [
        "Geometric means of the ratios of times, rows that differ only in size left out.",
        "",
        _line(["", *peers]),
        "|---|" + "--:|" * len(peers),
        *(
            _line([name, *(_number(mean(report.figures, name, peer)) for peer in peers)])
            for name in report.subjects()
        ),
    ]


def _misses(found: Sequence[Miss], subject: str) -> list[str]:
    if not found:
        return [f"{subject} misses its aim in no row."]
    by_figure: dict[str, list[Miss]] = {}
    for miss in found:
        by_figure.setdefault(miss.figure, []).append(miss)
    return [
        f"Where {subject} misses its aim, {len(by_figure)} rows, those furthest off first:",
        "",
        *(
            f"- {name} ({some[0].kind.value}): "
            + "; ".join(f"{_number(m.ratio.middle)} of {m.peer} (aim: {m.limit:g})" for m in some)
            for name, some in by_figure.items()
        ),
    ]


def _unable(figures: Iterable[Figure]) -> list[str]:
    lines = [f"- {n}: {f.row}: {why}" for f in figures for n, why in f.unable.items()]
    return list(dict.fromkeys(lines))  # a row's figures have the same reason


def amount(value: float | None, unit: Unit) -> str:
    """A figure with a unit that suits its size."""
    if value is None:
        return _ABSENT
    if unit is Unit.BYTES:
        return f"{value / (1 << 20):,.1f} MiB"
    for size, name in ((1, "s"), (1e-3, "ms")):
        if value >= size:
            return f"{_number(value / size)} {name}"
    return f"{_number(value / 1e-6)} µs"


def _ratio(ratio: Ratio | None) -> str:
    if ratio is None:
        return _ABSENT
    return f"{_number(ratio.middle)} ({_number(ratio.least)} to {_number(ratio.greatest)})"


def _number(value: float | None) -> str:
    """With three digits, or all that are before the point."""
    if value is None:
        return _ABSENT
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
