"""Random work on both implementations side by side: each answer and each tree must be equal."""

import errno
import os
import random
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import linux
from tests.support.layers import (
    FIFO,
    WHITEOUT,
    Directory,
    File,
    HardLink,
    Item,
    Symlink,
    Tree,
    opaque,
)
from tests.support.mounts import KernelMount, Mounts, UnionMount, three_times
from tests.support.snapshots import Snapshot, differences, snapshot

NAMES = "abcd"
_COUNT = 250


def _layer(dice: random.Random, depth: int = 0) -> Tree:
    entries: dict[str, Item] = {}
    for name in NAMES:
        match dice.randrange(10):
            case 0 | 1 | 2 if depth < 3:
                below = _layer(dice, depth + 1)
                entries[name] = opaque(below) if dice.randrange(5) == 0 else below
            case 3 | 4 | 5:
                entries[name] = File(str(dice.random()), mode=dice.choice([0o600, 0o4755, 0o444]))
            case 6:
                entries[name] = WHITEOUT
            case 7:
                entries[name] = Symlink(dice.choice(NAMES))
            case 8:
                entries[name] = FIFO
    return entries


def _linked(dice: random.Random) -> Tree:
    """A layer with hard links, among them some across directories."""
    layer = dict(_layer(dice))
    layer["l"] = Directory({"1": "linked", "2": HardLink("l/1"), "in": {"3": HardLink("l/1")}})
    layer["m"] = HardLink("l/1")
    return layer


def _shown(mount: KernelMount) -> Snapshot:
    return snapshot(mount.path, lists_whiteouts=True)


def _path(dice: random.Random) -> str:
    if dice.randrange(6) == 0:
        return dice.choice(["l/1", "l/2", "l/in/3", "m", "l/in", "l"])
    return "/".join(dice.choices(NAMES, k=dice.choice([1, 1, 2, 2, 2, 3, 4])))


def _answer(act: Callable[[Path], object], root: Path) -> object:
    try:
        return act(root)
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def _found(directory: Path) -> list[str]:
    return sorted(name for name in os.listdir(directory) if os.path.lexists(directory / name))


def _operation(dice: random.Random) -> tuple[str, Callable[[Path], object]]:
    path, other, text = _path(dice), _path(dice), str(dice.random())
    flags = os.O_CREAT | dice.choice([os.O_RDWR, os.O_WRONLY | os.O_TRUNC, os.O_WRONLY | os.O_EXCL])

    def write(root: Path) -> object:
        with linux.opened(root / path, flags | os.O_NOFOLLOW | os.O_NONBLOCK) as descriptor:
            return os.write(descriptor, text.encode())

    operations: dict[str, Callable[[Path], object]] = {
        "write": write,
        "unlink": lambda root: (root / path).unlink(),
        "rmdir": lambda root: (root / path).rmdir(),
        "mkdir": lambda root: (root / path).mkdir(),
        "symlink": lambda root: (root / path).symlink_to(other),
        "mkfifo": lambda root: os.mkfifo(root / path),
        "rename": lambda root: os.rename(root / path, root / other),
        "exchange": lambda root: linux.renameat2(root / path, root / other, linux.RENAME_EXCHANGE),
        "noreplace": lambda root: linux.renameat2(
            root / path, root / other, linux.RENAME_NOREPLACE
        ),
        "link": lambda root: os.link(root / path, root / other, follow_symlinks=False),
        "chown": lambda root: os.chown(root / path, 5, 6, follow_symlinks=False),
        "utime": lambda root: os.utime(root / path, ns=(1, 2), follow_symlinks=False),
        "setxattr": lambda root: os.setxattr(
            root / path, "trusted.x", text.encode(), follow_symlinks=False
        ),
        "list": lambda root: _found(root / path),
        "stat": lambda root: stat.filemode((root / path).lstat().st_mode),
    }
    name = dice.choice([*operations, "rename", "rename", "unlink", "rmdir", "write"])
    return f"{name} {path} {other}", operations[name]


@pytest.mark.parametrize("seed", range(8))
def test_random_work_gives_the_same_answers_and_trees(
    union: Mounts[UnionMount], kernel: Mounts[KernelMount], seed: int
) -> None:
    dice = random.Random(seed)
    oracle = kernel(_linked(dice), _layer(dice), _layer(dice))
    ours = union(*oracle.layers)
    assert differences(snapshot(ours.path), _shown(oracle)) == []
    done = []
    for number in range(_COUNT):
        label, act = _operation(dice)
        expected, answer = _answer(act, oracle.path), _answer(act, ours.path)
        done.append(f"{label}: {expected}")
        assert answer == expected, done[-10:]
        if number % 100 == 60:
            ours.drop_caches()
            oracle.drop_caches()
        elif number % 100 == 90:
            ours.remount()
            oracle.remount()
    expected_tree = _shown(oracle)
    for when in three_times(ours):
        assert differences(snapshot(ours.path), expected_tree) == [], (when, done)
    ours.unmount()
    theirs = kernel(*oracle.layers, upper=ours.changes, work=ours.work)
    assert differences(_shown(theirs), expected_tree) == [], done
