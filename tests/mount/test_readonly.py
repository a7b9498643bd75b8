"""A union without an upper: everything can be read and nothing changed."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import linux
from tests.support.layers import FIFO, Symlink, Tree
from tests.support.mounts import Mount, Mounts, three_times
from tests.support.snapshots import differences, snapshot, tree

LAYER: Tree = {"file": "content", "dir": {"in": ""}, "empty": {}, "link": Symlink("file")}

_REFUSED: dict[str, Callable[[Path], object]] = {
    "create": lambda root: (root / "new").touch(),
    "open for writing": lambda root: os.open(root / "file", os.O_WRONLY),
    "truncating open": lambda root: os.open(root / "file", os.O_RDWR | os.O_TRUNC),
    "truncate": lambda root: os.truncate(root / "file", 0),
    "unlink": lambda root: (root / "file").unlink(),
    "mkdir": lambda root: (root / "new").mkdir(),
    "rmdir": lambda root: (root / "empty").rmdir(),
    "symlink": lambda root: (root / "new").symlink_to("x"),
    "mknod": lambda root: os.mkfifo(root / "new"),
    "link": lambda root: os.link(root / "file", root / "new"),
    "rename": lambda root: os.rename(root / "file", root / "new"),
    "chmod": lambda root: (root / "file").chmod(0o600),
    "chown": lambda root: os.chown(root / "dir", 1, 1),
    "utime": lambda root: os.utime(root / "link", ns=(1, 1), follow_symlinks=False),
    "setxattr": lambda root: os.setxattr(root / "file", "user.x", b""),
    "removexattr": lambda root: os.removexattr(root / "file", "user.x"),
}


def test_nothing_is_changed(both: Mounts[Mount]) -> None:
    mount = both(LAYER, upper=False)
    for name, act in _REFUSED.items():
        with pytest.raises(OSError, match=r".") as caught:
            act(mount.path)
        assert caught.value.errno == errno.EROFS, name


def test_everything_is_read(both: Mounts[Mount]) -> None:
    mount = both(LAYER, {"dir": {"top": "top"}, "fifo": FIFO}, upper=False)
    first = snapshot(mount.path)
    for when in three_times(mount):
        assert differences(snapshot(mount.path), first) == [], when
        assert tree(mount / "dir") == {"in": "", "top": "top"}, when
        assert os.statvfs(mount.path).f_flag & os.ST_RDONLY, when
        assert not os.access(mount / "file", os.W_OK), when


def test_a_fifo_carries_data_all_the_same(both: Mounts[Mount]) -> None:
    mount = both({"fifo": FIFO}, upper=False)
    with (
        linux.opened(mount / "fifo", os.O_RDONLY | os.O_NONBLOCK) as reader,
        linux.opened(mount / "fifo", os.O_WRONLY) as writer,
    ):
        os.write(writer, b"through")
        assert os.read(reader, 10) == b"through"
