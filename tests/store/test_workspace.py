"""Workspaces: one's own while one is there, gone afterwards, and swept when one was killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from layerstore import leases
from layerstore.workspace import sweep, workspace

pytestmark = pytest.mark.usefixtures("nothing_left_open")

_KILLED = """
import os, signal, sys
from layerstore.workspace import workspace
with workspace(sys.argv[1]) as path:
    open(f"{path}/file", "w").close()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_workspace_is_there_for_its_block_and_for_its_owner(tmp_path: Path) -> None:
    with workspace(str(tmp_path)) as path, workspace(str(tmp_path)) as other:
        assert path != other
        assert os.stat(path).st_mode & 0o777 == 0o700
        Path(path, "tree").mkdir()
        Path(path, "tree", "file").touch()
    assert os.listdir(tmp_path) == []


def test_a_workspace_is_gone_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), workspace(str(tmp_path)):
        _ = 1 / 0
    assert os.listdir(tmp_path) == []


def test_a_workspace_that_is_gone_hides_no_error(tmp_path: Path) -> None:
    def vanish() -> None:
        with workspace(str(tmp_path)) as path:
            os.rmdir(path)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        vanish()


def test_what_is_in_use_is_not_swept(tmp_path: Path) -> None:
    with workspace(str(tmp_path)) as path:
        Path(path, "file").touch()
        sweep(str(tmp_path))
        assert os.listdir(path) == ["file"]


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", _KILLED, tmp_path], check=False)
    (left,) = tmp_path.iterdir()
    assert os.listdir(left) == ["file"]
    sweep(str(tmp_path))
    assert os.listdir(tmp_path) == []


def test_a_sweep_follows_no_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / "link").symlink_to(outside)
    (tmp_path / "tmp" / "left").mkdir()
    (tmp_path / "tmp" / "left" / "link").symlink_to(outside)
    sweep(str(tmp_path / "tmp"))
    assert os.listdir(tmp_path / "tmp") == ["link"]
    assert os.listdir(outside) == ["file"]


def test_who_is_swept_before_the_lock_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold, seen = leases.hold, []

    def swept(path: str) -> int:
        seen.append(path)
        if len(seen) == 1:
            os.rmdir(path)
        return hold(path)

    monkeypatch.setattr(leases, "hold", swept)
    with workspace(str(tmp_path)) as path:
        assert seen[1:] == [path]
        assert os.listdir(tmp_path) == [os.path.basename(path)]
