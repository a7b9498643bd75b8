import os
from pathlib import Path

import pytest

from tests.support import linux
from unionfs.driver import mounts, records


def test_a_record_goes_with_its_mount_but_not_that_of_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next may have the device number as soon as the mount is gone, before its daemon is."""
    mount = mounts.Mount("0:9", b"/", b"/mnt", mounts.TYPE, {})
    monkeypatch.setattr(mounts, "visible_at", lambda point: mount)
    union = records.Union(b"/mnt", (), None, None, os.getpid())
    record = tmp_path / "0:9.json"
    with linux.opened(tmp_path) as directory:
        with records.kept(union, directory):
            assert record.exists()
        assert not record.exists()
        with records.kept(union, directory):
            record.unlink()
            record.write_text("the next mount's")
        assert record.read_text() == "the next mount's"
