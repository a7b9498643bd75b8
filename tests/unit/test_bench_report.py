"""The benchmark's report: ratios, means, misses, the table and the picture."""

import xml.etree.ElementTree as ET

import pytest

from tests.bench import picture, table
from tests.bench.results import Figure, Ratio, mean, misses
from tests.bench.rows import Kind, Unit
from tests.bench.table import Report

_SVG = "{http://www.w3.org/2000/svg}"


def _figure(name: str, kind: Kind, /, **samples: list[float]) -> Figure:
    named = {program.replace("_", "-"): found for program, found in samples.items()}
    return Figure(name, name.partition(",")[0], "topic", kind, samples=named)


WALK = _figure(
    "walk, cold",
    Kind.COLD,
    unionmount=[0.4, 0.2, 0.3],
    fuse_overlayfs=[0.4, 0.4, 0.4],
    mergerfs=[0.2, 0.2, 0.2],
    kernel=[0.1, 0.1, 0.1],
)
READ = _figure("read", Kind.DATA, unionmount=[2.0], fuse_overlayfs=[8.0], kernel=[1.0], plain=[0.5])


def test_a_ratio_is_taken_round_by_round() -> None:
    ratio = WALK.ratio("unionmount", "fuse-overlayfs")
    assert ratio == pytest.approx(Ratio(0.75, 0.5, 1.0))


def test_there_is_no_ratio_to_what_was_not_measured() -> None:
    assert WALK.ratio("unionmount", "plain") is None
    assert READ.ratio("mergerfs", "unionmount") is None


def test_the_mean_is_geometric() -> None:
    assert mean([WALK, READ], "unionmount", "fuse-overlayfs") == pytest.approx((0.75 / 4) ** 0.5)


def test_the_mean_is_of_times_in_one_size_only() -> None:
    grown = _figure("grown", Kind.COLD, unionmount=[9.0], kernel=[1.0])
    grown.grows = True
    memory = _figure("memory", Kind.COST, unionmount=[9.0], kernel=[1.0])
    memory.unit = Unit.BYTES
    assert mean([READ, grown, memory], "unionmount", "kernel") == 2
    assert mean([grown], "unionmount", "kernel") is None


def test_misses_begin_with_the_one_furthest_off() -> None:
    found = misses([WALK, READ], "unionmount", ["fuse-overlayfs", "mergerfs"], "kernel")
    assert [(miss.figure, miss.peer, miss.limit) for miss in found] == [
        ("read", "kernel", 1.2),
        ("walk, cold", "mergerfs", 1.0),
    ]


@pytest.mark.parametrize(
    ("kind", "least"),
    [(Kind.DATA, 1.3), (Kind.WARM, 1.3), (Kind.COLD, 3.1), (Kind.WRITE, None), (Kind.COST, None)],
)
def test_how_far_from_the_kernel_is_a_matter_of_kind(kind: Kind, least: float | None) -> None:
    def missed(ratio: float) -> bool:
        figure = _figure("row", kind, unionmount=[ratio], kernel=[1.0])
        return bool(misses([figure], "unionmount", [], "kernel"))

    assert not missed(1.2 if kind is not Kind.COLD else 3.0)
    assert missed(100.0) == (least is not None)
    assert least is None or missed(least)


@pytest.fixture
def report() -> Report:
    READ.unable = {"mergerfs": "Read-only file system"}
    programs = ["unionmount", "fuse-overlayfs", "mergerfs", "kernel", "plain"]
    return Report([WALK, READ], programs, {"unionfs-fuse": "not installed"}, "On a <machine>.")


def test_the_table_has_each_ratio_with_its_spread(report: Report) -> None:
    lines = table.text(report).splitlines()
    ratios = [
        "| walk, cold | cold metadata | 300 ms | 0.75 (0.50 to 1.00) | 1.50 (1.00 to 2.00)"
        " | 3.00 (2.00 to 4.00) | - |",
        "| read | data | 2.00 s | 0.25 (0.25 to 0.25) | - | 2.00 (2.00 to 2.00)"
        " | 4.00 (4.00 to 4.00) |",
    ]
    medians = [
        "| walk, cold | 300 ms | 400 ms | 200 ms | 100 ms | - |",
        "| read | 2.00 s | 8.00 s | - | 1.00 s | 500 ms |",
    ]
    assert [line for line in lines if line.startswith(("| walk", "| read"))] == ratios + medians
    assert "| unionmount | 0.43 | 1.50 | 2.45 | 4.00 |" in lines


def test_the_table_tells_what_is_missed_and_what_is_left_out(report: Report) -> None:
    lines = table.text(report).splitlines()
    assert "Left out: unionfs-fuse: not installed" in lines
    assert "- mergerfs: read: Read-only file system" in lines
    misses = [line for line in lines if "(aim:" in line]
    assert misses == [
        "- read (data): 2.00 of kernel (aim: 1.2)",
        "- walk, cold (cold metadata): 1.50 of mergerfs (aim: 1)",
    ]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (None, Unit.SECONDS, "-"),
        (12.345, Unit.SECONDS, "12.3 s"),
        (0.0123, Unit.SECONDS, "12.3 ms"),
        (0.0000123, Unit.SECONDS, "12.3 µs"),
        (5 << 19, Unit.BYTES, "2.5 MiB"),
    ],
)
def test_amounts(value: float | None, unit: Unit, text: str) -> None:
    assert table.amount(value, unit) == text


def test_the_picture_has_a_bar_for_each_ratio(report: Report) -> None:
    root = ET.fromstring(picture.draw(report, "unionmount"))
    titles = [(title.text or "")[:-1] for title in root.iterfind(f"{_SVG}rect/{_SVG}title")]
    # None for the plain directory, which is no union.
    assert titles == [
        "fuse-overlayfs: 1.33",
        "mergerfs: 0.667",
        "kernel: 0.333",
        "fuse-overlayfs: 4",
        "kernel: 0.5",
    ]
    labels = [text.text for text in root.iterfind(f"{_SVG}text[@class='label']")]
    assert labels == ["walk, cold", "read"]


def test_bars_begin_at_one_and_end_at_the_ratio(report: Report) -> None:
    root = ET.fromstring(picture.draw(report, "unionmount"))
    (one,) = (float(line.attrib["x1"]) for line in root.iterfind(f"{_SVG}line[@class='one']"))
    bars = [bar for bar in root.iterfind(f"{_SVG}rect") if bar.find(f"{_SVG}title") is not None]
    begins = [float(bar.attrib["x"]) for bar in bars]
    ends = [begin + float(bar.attrib["width"]) for begin, bar in zip(begins, bars, strict=True)]
    faster = [begins[index] for index in (0, 3)]
    slower = [ends[index] for index in (1, 2, 4)]
    assert faster + slower == pytest.approx([one] * 5, abs=0.2)


def test_only_the_first_figure_of_a_row_is_drawn(report: Report) -> None:
    warm = _figure("walk, warm", Kind.WARM, unionmount=[1.0], kernel=[1.0])
    drawn = picture.draw(Report([WALK, warm], report.programs, {}, ""), "unionmount")
    assert "walk, cold" in drawn
    assert "walk, warm" not in drawn
