"""A small run of the benchmark, on layers that need no network."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

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
