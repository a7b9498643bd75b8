"""What the union answers without its data plane: what programs know to do without."""

import errno
import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.support import linux
from tests.support.fileops import (
    COLLAPSE_RANGE,
    INSERT_RANGE,
    KEEP_SIZE,
    NODUMP,
    PUNCH_HOLE,
    UNSHARE_RANGE,
    ZERO_RANGE,
    fallocate,
    get_flags,
    get_fsxattr,
    set_flags,
)
from tests.support.layers import Tree
from tests.support.mounts import Mounts, UnionMount, three_times
from tests.support.snapshots import tree

pytestmark = pytest.mark.needs_stock

LAYER: Tree = {"file": "content", "dir": {"in": "in"}}
UNSUPPORTED = os.strerror(errno.EOPNOTSUPP)
NO_SUCH_CALL = os.strerror(errno.ENOTTY)


@pytest.mark.parametrize(
    "mode",
    [
        0,
        KEEP_SIZE,
        PUNCH_HOLE | KEEP_SIZE,
        ZERO_RANGE,
        COLLAPSE_RANGE,
        INSERT_RANGE,
        UNSHARE_RANGE,
    ],
)
def test_nothing_is_allocated(union: Mounts[UnionMount], mode: int) -> None:
    mount = union(LAYER)
    for _ in range(2):  # the kernel asks once, and knows then
        with (
            linux.opened(mount / "file", os.O_RDWR) as descriptor,
            pytest.raises(OSError, match=UNSUPPORTED),
        ):
            fallocate(descriptor, mode, 0, 4096)
    for when in three_times(mount):
        assert tree(mount.path) == LAYER, when


def test_all_is_data(union: Mounts[UnionMount]) -> None:
    def layer(root: Path) -> None:
        with open(root / "file", "wb") as file:
            file.seek(1 << 20)
            file.write(b"data")
            file.truncate(4 << 20)
        (root / "empty").touch()

    mount = union(layer)
    for when in three_times(mount):
        assert linux.data_extents(mount / "file") == [(0, 4 << 20)], when
        assert linux.data_extents(mount / "empty") == [], when


def test_the_kernel_copies_by_itself(union: Mounts[UnionMount]) -> None:
    mount = union(LAYER)
    with (
        linux.opened(mount / "file") as source,
        linux.opened(mount / "copy", os.O_CREAT | os.O_WRONLY) as target,
    ):
        assert os.copy_file_range(source, target, 100) == 7
        assert os.copy_file_range(source, target, 100, 3) == 4
    for when in three_times(mount):
        assert (mount / "copy").read_text() == "contenttent", when


def test_there_are_no_flags(union: Mounts[UnionMount]) -> None:
    mount = union(LAYER)
    for name in ("file", "dir"):
        with pytest.raises(OSError, match=NO_SUCH_CALL):
            get_flags(mount / name)
        with pytest.raises(OSError, match=NO_SUCH_CALL):
            set_flags(mount / name, NODUMP)
        with pytest.raises(OSError, match=NO_SUCH_CALL):
            get_fsxattr(mount / name)
    ran = subprocess.run(
        ["chattr", "+d", mount / "file"], stderr=subprocess.PIPE, text=True, check=False
    )
    assert UNSUPPORTED in ran.stderr
    assert os.listdir(mount.changes) == []


def test_every_file_has_a_name(union: Mounts[UnionMount]) -> None:
    """Programs fall back on a name when O_TMPFILE is not supported, on nothing else."""
    mount = union(LAYER)
    for path in (mount.path, mount / "dir"):
        with pytest.raises(OSError, match=UNSUPPORTED):
            os.open(path, os.O_TMPFILE | os.O_RDWR)
    with tempfile.TemporaryFile(dir=mount / "dir") as file:
        file.write(b"content")
        file.seek(0)
        assert file.read() == b"content"
    for when in three_times(mount):
        assert tree(mount.path) == LAYER, when
