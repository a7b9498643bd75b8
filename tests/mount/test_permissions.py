"""Who may do what: decided by the kernel, by the attributes that the mount shows."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import linux
from tests.support.layers import Directory, File, Tree
from tests.support.mounts import Mount, Mounts, three_times
from tests.support.snapshots import tree

LAYER: Tree = {
    "private": File("root's", mode=0o600),
    "group": File("a group's", mode=0o640, gid=2000),
    "public": File("all's", mode=0o644),
    "closed": Directory({"in": File("hidden", mode=0o666)}, mode=0o700),
    "listed": Directory({"in": File("hidden", mode=0o666)}, mode=0o744),
    "passed": Directory({"in": File("reached", mode=0o666)}, mode=0o711),
    "run": File("#!/bin/sh\n", mode=0o744),
}

_REFUSED: dict[str, Callable[[Path], object]] = {
    "reading": lambda root: (root / "private").read_bytes(),
    "reading a group's": lambda root: (root / "group").read_bytes(),
    "writing": lambda root: (root / "public").write_text("x"),
    "truncating": lambda root: os.truncate(root / "public", 0),
    "passing": lambda root: (root / "closed" / "in").read_bytes(),
    "passing what can be listed": lambda root: (root / "listed" / "in").read_bytes(),
    "listing": lambda root: os.listdir(root / "passed"),
    "creating": lambda root: (root / "new").touch(),
    "making a directory": lambda root: (root / "passed" / "new").mkdir(),
    "removing": lambda root: (root / "public").unlink(),
    "renaming": lambda root: os.rename(root / "public", root / "new"),
    "linking": lambda root: os.link(root / "public", root / "new"),
    "running": lambda root: os.execv(root / "run", ["run"]),
}


def test_what_a_user_may_not(both: Mounts[Mount]) -> None:
    mount = both(LAYER)
    before = tree(mount.path)
    for when in three_times(mount):
        for name, act in _REFUSED.items():
            with linux.user(1000), pytest.raises(OSError, match=r".") as caught:
                act(mount.path)
            assert caught.value.errno in (errno.EACCES, errno.EPERM), (name, when)
    assert tree(mount.path) == before
    assert os.listdir(mount.changes) == []


def test_what_a_user_may(both: Mounts[Mount]) -> None:
    mount = both(LAYER)
    for when in three_times(mount):
        with linux.user(1000, groups=(2000,)):
            assert (mount / "public").read_text() == "all's", when
            assert (mount / "group").read_text() == "a group's", when
            assert (mount / "passed" / "in").read_text() == "reached", when
            assert os.listdir(mount / "listed") == ["in"], when
            (mount / "passed" / "in").write_text("reached")
    assert (mount / "passed" / "in").stat().st_uid == 0


def test_attributes_changed_in_the_mount_count_at_once(both: Mounts[Mount]) -> None:
    mount = both(LAYER)
    with linux.user(1000), pytest.raises(PermissionError):
        (mount / "private").read_bytes()
    (mount / "private").chmod(0o604)
    (mount / "closed").chmod(0o701)
    os.chown(mount / "run", 1000, -1)
    for _ in three_times(mount):
        with linux.user(1000):
            assert (mount / "private").read_text() == "root's"
            assert (mount / "closed" / "in").read_text() == "hidden"
            assert os.access(mount / "run", os.X_OK, effective_ids=True)
    (mount / "private").chmod(0o600)
    with linux.user(1000), pytest.raises(PermissionError):
        (mount / "private").read_bytes()
