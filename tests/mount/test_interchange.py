"""One upper, two implementations: the kernel mounts what we wrote, and we what it wrote."""

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import linux
from tests.support.layers import Directory, File, HardLink, Symlink, Tree
from tests.support.machine import Machine, Pair, run
from tests.support.mounts import KernelMount, Mount, Mounts, UnionMount, three_times
from tests.support.snapshots import Snapshot, differences, snapshot, tree
from tests.support.stacks import stacks

BASE: Tree = {
    "file": File("content", uid=5, gid=6, xattrs={"user.u": b"1"}),
    "gone": "gone",
    "lower": {"a": "lower", "e": {"b": "deep", "c": "deep"}},
    "merged": {"a": "base", "b": "base"},
    "removed": {"a": "", "e": {"b": ""}},
    "again": {"a": "", "e": {"b": ""}},
    "link": Symlink("file"),
    "h1": "linked",
    "h2": HardLink("h1"),
    "d": Directory({"h3": HardLink("h1")}, mode=0o1777),
    "data": {"mode": "data" * 2000, "name": "data" * 2000},
}
TOP: Tree = {"merged": {"b": "top", "c": "top"}}


def _work(root: Path) -> None:
    """A bit of everything that writes to the upper."""
    (root / "file").write_text("changed")
    (root / "gone").unlink()
    for name in ("removed", "again"):
        (root / name / "a").unlink()
        (root / name / "e" / "b").unlink()
        (root / name / "e").rmdir()
        (root / name).rmdir()
    (root / "again").mkdir()
    (root / "again" / "e").mkdir()
    (root / "again" / "new").write_text("new")
    os.rename(root / "lower" / "e", root / "lower" / "f")
    os.rename(root / "lower", root / "d" / "moved")
    (root / "d" / "moved" / "f" / "b").write_text("changed")
    (root / "d" / "moved" / "f" / "c").unlink()
    os.rename(root / "merged", root / "renamed")
    (root / "renamed" / "c").unlink()
    (root / "h2").write_text("linked and changed")
    os.link(root / "d" / "h3", root / "h4")
    (root / "link").unlink()
    (root / "link").symlink_to("elsewhere")
    os.mkfifo(root / "fifo")
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.chown(root / "d", 7, 8)
    os.setxattr(root / "d", "trusted.t", b"\0")
    (root / "data" / "mode").chmod(0o600)
    os.rename(root / "data" / "name", root / "d" / "name")
    os.rename(root / "data", root / "moved")
    os.link(root / "d" / "name", root / "moved" / "link")


def _work_more(root: Path) -> None:
    """What follows in the other implementation."""
    (root / "h1").write_text("once more")
    (root / "d" / "h3").unlink()
    os.rename(root / "d" / "moved", root / "lower")
    os.rename(root / "lower" / "f", root / "lower" / "e")
    (root / "lower" / "a").write_text("back again")
    (root / "again" / "new").unlink()
    (root / "again" / "e").rmdir()
    (root / "again").rmdir()
    (root / "gone").write_text("here again")
    os.rename(root / "renamed", root / "again")
    with linux.opened(root / "moved" / "link", os.O_WRONLY | os.O_APPEND) as descriptor:
        os.write(descriptor, b"more")
    os.rename(root / "moved" / "mode", root / "again" / "mode")
    (root / "d" / "name").chmod(0o640)
    (root / "file").unlink()


def _checked(mount: Mount, expected: Snapshot) -> None:
    for when in three_times(mount):
        assert differences(snapshot(mount.path), expected) == [], when


with_metacopy = pytest.mark.parametrize("options", [["metacopy=off"], ["metacopy=on"]])


@with_metacopy
def test_the_kernel_shows_what_we_wrote(
    union: Mounts[UnionMount], kernel: Mounts[KernelMount], options: list[str]
) -> None:
    oracle = kernel(BASE, TOP, options=options)
    _work(oracle.path)
    expected = snapshot(oracle.path)
    ours = union(*oracle.layers, options=options)
    _work(ours.path)
    _checked(ours, expected)
    ours.unmount()
    theirs = kernel(*oracle.layers, upper=ours.changes, work=ours.work, options=options)
    _checked(theirs, expected)


@with_metacopy
def test_we_show_what_the_kernel_wrote(
    union: Mounts[UnionMount], kernel: Mounts[KernelMount], options: list[str]
) -> None:
    theirs = kernel(BASE, TOP, options=options)
    _work(theirs.path)
    expected = snapshot(theirs.path)
    theirs.unmount()
    ours = union(*theirs.layers, upper=theirs.changes, work=theirs.work, options=options)
    _checked(ours, expected)


@with_metacopy
@pytest.mark.parametrize("first", ["union", "kernel"])
def test_each_goes_on_with_the_others_upper(
    union: Mounts[UnionMount], kernel: Mounts[KernelMount], first: str, options: list[str]
) -> None:
    oracle = kernel(BASE, TOP)
    kinds: tuple[Mounts[KernelMount] | Mounts[UnionMount], ...] = (union, kernel)
    one, other = kinds if first == "union" else kinds[::-1]
    mount: Mount = one(*oracle.layers, options=options)
    _work(mount.path)
    _work(oracle.path)
    upper, work = mount.changes, mount.work
    mount.unmount()
    mount = other(*oracle.layers, upper=upper, work=work, options=options)
    _work_more(mount.path)
    _work_more(oracle.path)
    expected = snapshot(oracle.path)
    _checked(mount, expected)
    mount.unmount()
    _checked(one(*oracle.layers, upper=upper, work=work, options=options), expected)


def test_the_upper_has_no_marks_of_another_dialect(union: Mounts[UnionMount]) -> None:
    mount = union(BASE, TOP)
    _work(mount.path)
    mount.unmount()
    for path in mount.changes.rglob("*"):
        assert not path.name.startswith(".wh."), path
        for name in os.listxattr(path, follow_symlinks=False):
            assert name in ("user.u", "trusted.t") or name.startswith("trusted.overlay."), path


@with_metacopy
@pytest.mark.parametrize("writer", ["kernel", "union"])
def test_an_upper_becomes_a_layer(
    union: Mounts[UnionMount], kernel: Mounts[KernelMount], writer: str, options: list[str]
) -> None:
    made: Mounts[KernelMount] | Mounts[UnionMount] = kernel if writer == "kernel" else union
    first: Mount = made(BASE, TOP, options=options)
    _work(first.path)
    first.unmount()
    second = union(*first.layers, first.changes, options=options)
    assert tree(second / "d" / "moved") == {"a": "lower", "f": {"b": "changed"}}
    assert tree(second / "again") == {"e": {}, "new": "new"}
    _work_more(second.path)
    second.unmount()
    layers = [*second.layers, second.changes]
    shown = kernel(*layers, upper=False, options=options).path
    _checked(union(*layers, upper=False), snapshot(shown, lists_whiteouts=True))


def test_an_upper_that_the_kernel_wrote_with_metacopy(
    union: Mounts[UnionMount], kernel: Mounts[KernelMount]
) -> None:
    """Shown whole, or refused with a clear line; never an empty file."""
    theirs = kernel({"file": "content", "d": {"moved": "deep"}}, options=["metacopy=on"])
    (theirs / "file").chmod(0o600)
    (theirs / "d" / "moved").chmod(0o640)
    os.rename(theirs / "d" / "moved", theirs / "moved")
    expected = snapshot(theirs.path)
    theirs.unmount()
    mount = union(*theirs.layers, upper=theirs.changes, work=theirs.work)
    _checked(mount, expected)
    with linux.opened(mount / "file", os.O_WRONLY | os.O_APPEND) as descriptor:
        os.write(descriptor, b" and more")
    os.rename(mount / "moved", mount / "d" / "back")
    for when in three_times(mount):
        shown = {"file": "content and more", "d": {"back": "deep"}}
        assert tree(mount.path) == shown, when


def test_links_are_counted_after_the_kernel_moved_one_over_another(
    union: Mounts[UnionMount], kernel: Mounts[KernelMount]
) -> None:
    layer: Tree = {
        "a": "x",
        "b": HardLink("a"),
        "c": "y",
        "d": HardLink("c"),
        "e": HardLink("c"),
    }
    ours = union(layer)
    for name in "cde":
        (ours / name).stat()
    (ours / "c").chmod(0o600)
    ours.unmount()
    theirs = kernel(*ours.layers, upper=ours.changes, work=ours.work)
    (theirs / "a").unlink()
    os.rename(theirs / "c", theirs / "a")
    theirs.unmount()
    ours.mount()
    assert [(ours / name).stat().st_nlink for name in "ade"] == [3, 3, 3]
    (ours / "d").unlink()
    (ours / "e").unlink()
    for when in three_times(ours):
        assert (ours / "a").stat().st_nlink == 1, when


def test_ten_rounds_take_turns_on_one_upper(directory: Path, campaign: int) -> None:
    """Random work, with metacopy and index in the upper; on an oracle the kernel works alone."""

    class TakingTurns(Machine):
        home = directory
        layers = stacks(mixed=False).map(lambda stack: replace(stack, metacopy=True))
        looks = (Pair.turn,)

    run(TakingTurns, 0, examples=4 * campaign, length=11)
