"""The report as a picture: how many times as fast as each other union, on a logarithmic scale."""

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

from tests.bench.contenders import CONTENDERS, Role
from tests.bench.results import Figure
from tests.bench.rows import Kind
from tests.bench.table import Report

_WIDTH: Final = 860
_LABELS: Final = 300  # where the chart begins
_TOP: Final = 80
_BAR: Final = 4
_GAP: Final = 8
_LEAST, _GREATEST = 0.1, 100.0
_TICKS: Final = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
# Read on a light ground and on a dark one.
_COLORS: Final = ("#2f81f7", "#d29922", "#a371f7", "#8b949e")
_STYLE: Final = """\
text { font: 12px system-ui, sans-serif; fill: #6e7781 }
.title { font-size: 15px; font-weight: 600 }
.tick { font-size: 11px; text-anchor: middle }
.label { text-anchor: end }
line { stroke: #8b949e; stroke-opacity: .35 }
.one { stroke-opacity: 1 }
@media (prefers-color-scheme: light) { text { fill: #1f2328 } }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } }"""


def draw(report: Report, subject: str) -> str:
    """An SVG of the first figure of each row, without costs and rows that differ in size."""
    peers = [name for name in report.peers() if CONTENDERS[name].role is not Role.PLAIN]
    figures = list(_chosen(report.figures, subject, peers))
    step = len(peers) * _BAR + _GAP
    height = _TOP + len(figures) * step + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}"'
        f' width="{_WIDTH}" height="{height}" role="img">',
        f"<title>How many times as fast {escape(subject)} is</title>",
        f"<style>{_STYLE}</style>",
        f'<text class="title" x="8" y="20">How many times as fast {escape(subject)} is</text>',
        *_legend(peers),
        *_scale(height),
    ]
    for number, figure in enumerate(figures):
        parts += _bars(figure, subject, peers, _TOP + number * step)
    return "\n".join([*parts, "</svg>", ""])


def _chosen(figures: Sequence[Figure], subject: str, peers: Sequence[str]) -> Iterator[Figure]:
    drawn = set()
    for figure in figures:
        if figure.grows or figure.kind is Kind.COST or figure.row in drawn:
            continue
        if any(figure.ratio(subject, peer) for peer in peers):
            drawn.add(figure.row)
            yield figure


def _legend(peers: Sequence[str]) -> Iterator[str]:
    x = _LABELS
    for peer, color in zip(peers, _COLORS, strict=False):
        yield f'<rect x="{x}" y="32" width="10" height="10" fill="{color}"/>'
        yield f'<text x="{x + 15}" y="42">as {escape(peer)}</text>'
        x += 140


def _scale(height: int) -> Iterator[str]:
    for tick in _TICKS:
        x, kind = _at(tick), "one" if tick == 1 else "other"
        yield f'<text class="tick" x="{x:.1f}" y="{_TOP - 16}">{_times(tick)}</text>'
        yield f'<line class="{kind}" x1="{x:.1f}" y1="{_TOP - 10}" x2="{x:.1f}" y2="{height}"/>'


def _bars(figure: Figure, subject: str, peers: Sequence[str], top: int) -> Iterator[str]:
    middle = top + len(peers) * _BAR / 2 + 4
    yield f'<text class="label" x="{_LABELS - 10}" y="{middle:.1f}">{escape(figure.name)}</text>'
    for number, (peer, color) in enumerate(zip(peers, _COLORS, strict=False)):
        if ratio := figure.ratio(subject, peer):
            ends = sorted((_at(1), _at(1 / ratio.middle)))
            width = max(ends[1] - ends[0], 1.0)
            yield (
                f'<rect x="{ends[0]:.1f}" y="{top + number * _BAR}" width="{width:.1f}"'
                f' height="{_BAR - 1}" fill="{color}"><title>{escape(peer)}:'
                f" {_times(1 / ratio.middle)}</title></rect>"
            )


def _times(number: float) -> str:
    return f"{number:.3g}\N{MULTIPLICATION SIGN}"


def _at(times: float) -> float:
    """Where a ratio is on the scale; one that is off it is at its end."""
    part = math.log(min(max(times, _LEAST), _GREATEST) / _LEAST) / math.log(_GREATEST / _LEAST)
    return _LABELS + part * (_WIDTH - _LABELS - 20)
