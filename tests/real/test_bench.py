"""A small run of the benchmark, on layers that need no network."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench import debianroot
from tests.support.mounts import KernelMount, Mounts

_CHECKOUT = Path(__file__).parents[2]
_ROWS = ["small files", "chmod of 10000 lower files", "time to mount 1 layers"]
_PROGRAMS = ["unionmount", "kernel", "plain"]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


def _start(directory: Path, *words: str) -> subprocess.Popen[str]:
    chosen = ["--rows", ",".join(_ROWS), "--programs", ",".join(_PROGRAMS), "--scale", "0.01"]
    kept = ["--data", str(directory / "data")]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "tests.bench", *chosen, *kept, *words],
        env={**os.environ, "PYTHONPATH": str(_CHECKOUT), "TMPDIR": str(directory)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_small_run(tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    process = _start(tmp_path, "--rounds", "1", "--json", str(found))
    said, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert "| small files, remove | write |" in said
    document = json.loads(found.read_text())
    measured = {figure["name"]: set(figure["samples"]) for figure in document["figures"]}
    assert measured == {
        "small files, create and write": set(_PROGRAMS),
        "small files, remove": set(_PROGRAMS),
        "chmod of 10000 lower files": set(_PROGRAMS),
        "time to mount 1 layers": {"unionmount", "kernel"},
    }
    assert sorted(os.listdir(tmp_path)) == ["data", "found.json"]


def test_marks_hide_all_that_is_put_beneath_them(
    tmp_path: Path, kernel: Mounts[KernelMount]
) -> None:
    layers = [tmp_path / f"{number}" for number in range(4)]
    for number in range(400):
        path = layers[number % 4] / f"d{number % 12}" / f"{number % 7}" / f"file{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number}")
    whole = kernel(*layers, upper=False)
    before = _contents(whole.path)
    whole.close()
    debianroot.mark(layers, random.Random(1))
    marks = {path.name for layer in layers for path in layer.rglob("*") if path.is_char_device()}
    assert {name.rstrip("0123456789") for name in marks} == {"removed"}
    assert any("trusted.overlay.opaque" in os.listxattr(path) for path in layers[3].rglob("*"))
    assert _contents(kernel(*layers, upper=False).path) == before


def _contents(root: Path) -> dict[str, str | None]:
    return {
        str(path.relative_to(root)): path.read_text() if path.is_file() else None
        for path in root.rglob("*")
    }


def test_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    process = _start(tmp_path, "--rounds", "1000", "--seconds", "1000")
    assert process.stderr is not None
    # It has begun when its layers are there.
    while not (tmp_path / "data" / "blank").exists():
        assert process.poll() is None, process.stderr.read()
        os.sched_yield()
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=60)
    assert (process.returncode, said, errors) == (130, "", "")
    assert os.listdir(tmp_path) == ["data"]
