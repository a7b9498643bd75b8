"""Which file systems keep a copy's content before its name without being synced."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import disks, linux
from tests.support.filesystems import FileSystems
from unionfs.ordering import Ordering, ordering_of

_WITHOUT_JOURNAL = ("mkfs.ext4", "-q", "-O", "^has_journal")
_DISKS = {
    "ext4": (disks.KINDS["ext4"], Ordering.WRITTEN),
    "ext4-writeback": (disks.KINDS["ext4-writeback"], Ordering.WRITTEN),
    "ext4 without a journal": (
        replace(disks.KINDS["ext4"], make=_WITHOUT_JOURNAL, options="defaults"),
        Ordering.SYNCED,
    ),
    "xfs": (disks.KINDS["xfs"], Ordering.WRITTEN),
}


@pytest.mark.parametrize("name", _DISKS)
def test_the_journal_decides(tmp_path: Path, name: str) -> None:
    kind, expected = _DISKS[name]
    disk, point = tmp_path / "disk", tmp_path / "point"
    point.mkdir()
    disks.make(kind, disk)
    with disks.mounted(kind, disk, point), linux.opened(point) as descriptor:
        assert ordering_of(descriptor) is expected


def test_what_is_not_known_is_synced(filesystems: FileSystems) -> None:
    with linux.opened(filesystems.tmpfs()) as descriptor:
        assert ordering_of(descriptor) is Ordering.SYNCED
