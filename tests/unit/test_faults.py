"""Whatever happens in the middle of an operation, each name is as it was or as it was to be."""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.support.acls import acl
from tests.support.layers import (
    WHITEOUT,
    Directory,
    File,
    HardLink,
    Symlink,
    Tree,
    opaque,
)
from tests.unit import faults
from tests.unit.unions import ROOT, Shown, Union, in_trio
from unionfs import syscalls
from unionfs.filesystem import Changes
from unionfs.model import Caller

USER = Caller(1000, 1000, 0o022)


@dataclass(frozen=True)
class Case:
    """An operation and the layers that it meets."""

    operation: Callable[[Union], Awaitable[object]]
    lower: Tree = field(default_factory=dict)
    upper: Tree = field(default_factory=dict)


async def make_file(union: Union) -> None:
    union.create("d/new")


async def make_directory(union: Union) -> None:
    union.refer(union.filesystem.mkdir(*union.spot("d/new"), 0o755, USER))


async def make_link(union: Union) -> None:
    union.refer(union.filesystem.symlink(*union.spot("d/new"), b"target", ROOT))


async def make_fifo(union: Union) -> None:
    union.refer(union.filesystem.mknod(*union.spot("d/new"), stat.S_IFIFO | 0o644, 0, ROOT))


async def remove_directory(union: Union) -> None:
    union.rmdir("d")


FILE = File("content", mode=0o4755, uid=1000, xattrs={"user.u": b"1"})
PARENT = Directory({"file": FILE}, mode=0o2755, gid=1000, xattrs={"user.u": b"1"})
INHERITED = Directory(
    {"new": WHITEOUT},
    mode=0o2755,
    gid=1000,
    xattrs={"system.posix_acl_default": acl("u::rwx,u:7:r-x,g::r-x,m::r-x,o::---")},
)
LINKED: Tree = {"one": "content", "two": HardLink("one"), "d": {"three": HardLink("one")}}
WAS_THERE: Tree = {"d": {"new": "below", "other": ""}}

CASES = {
    "make a file": Case(make_file, {"d": {}}),
    "make a file over a whiteout": Case(make_file, WAS_THERE, {"d": INHERITED}),
    "make a directory over a whiteout": Case(make_directory, WAS_THERE, {"d": INHERITED}),
    "make a link over a whiteout": Case(make_link, WAS_THERE, {"d": {"new": WHITEOUT}}),
    "make a fifo over a whiteout": Case(make_fifo, WAS_THERE, {"d": {"new": WHITEOUT}}),
    "make a file over a .wh. file": Case(make_file, WAS_THERE, {"d": {".wh.new": ""}}),
    "make a directory over a .wh. file": Case(make_directory, WAS_THERE, {"d": {".wh.new": ""}}),
    "give a lower file a name": Case(
        lambda union: union.link("file", "d/new"), {"file": FILE, "d": {}}
    ),
    "give a file a name over a whiteout": Case(
        lambda union: union.link("file", "d/new"),
        {"d": {"new": "below"}},
        {"file": "content", "d": {"new": WHITEOUT}},
    ),
    "give a linked file a name": Case(lambda union: union.link("one", "new"), LINKED),
    "bring a file up": Case(lambda union: union.open_file("d/file", os.O_RDWR), {"d": PARENT}),
    "bring a linked file up": Case(lambda union: union.open_file("one", os.O_RDWR), LINKED),
    "empty a lower file": Case(
        lambda union: union.open_file("d/file", os.O_WRONLY | os.O_TRUNC), {"d": PARENT}
    ),
    "change a lower file's mode": Case(
        lambda union: union.filesystem.setattr(union.number("d/file"), Changes(mode=0o600)),
        {"d": PARENT},
    ),
    "change a lower link's owner": Case(
        lambda union: union.filesystem.setattr(union.number("link"), Changes(uid=5)),
        {"link": Symlink("target")},
    ),
    "set an attribute of a lower file": Case(
        lambda union: union.filesystem.setxattr(
            union.number("d/file"), b"user.new", b"1", lambda _: True
        ),
        {"d": PARENT},
    ),
    "remove a lower file": Case(lambda union: union.unlink("d/file"), {"d": PARENT}),
    "remove an upper file": Case(lambda union: union.unlink("file"), {}, {"file": "content"}),
    "remove a file of both": Case(lambda union: union.unlink("file"), {"file": "1"}, {"file": "2"}),
    "remove one of a lower file's names": Case(lambda union: union.unlink("one"), LINKED),
    "remove a lower directory": Case(remove_directory, {"d": {}}),
    "remove an upper directory": Case(remove_directory, {}, {"d": {}}),
    "remove a directory of whiteouts": Case(
        remove_directory, {"d": {"a": "", "b": ""}}, {"d": {"a": WHITEOUT, "b": WHITEOUT}}
    ),
    "remove an opaque directory": Case(remove_directory, {"d": {"a": ""}}, {"d": opaque({})}),
    "rename a lower file": Case(lambda union: union.rename("d/file", "new"), {"d": PARENT}),
    "rename an upper file over a lower one": Case(
        lambda union: union.rename("file", "d/file"), {"d": PARENT}, {"file": "new"}
    ),
    "rename a lower file over an upper one": Case(
        lambda union: union.rename("d/file", "file"), {"d": PARENT}, {"file": "old"}
    ),
    "rename a file over a whiteout": Case(
        lambda union: union.rename("file", "d/new"),
        WAS_THERE,
        {"file": "new", "d": {"new": WHITEOUT}},
    ),
    "rename one of a lower file's names": Case(lambda union: union.rename("one", "d/new"), LINKED),
    "rename over one of a lower file's names": Case(
        lambda union: union.rename("file", "one"), {**LINKED, "file": "other"}
    ),
    "rename a lower directory": Case(
        lambda union: union.rename("a", "b/new"), {"a": {"file": FILE, "sub": {}}, "b": {}}
    ),
    "rename a directory beside itself": Case(
        lambda union: union.rename("a/b", "a/new"), {"a": {"b": {"file": FILE}}}
    ),
    "rename an upper directory into a merged one": Case(
        lambda union: union.rename("a", "d/new"),
        WAS_THERE,
        {"a": {"file": ""}, "d": {"new": WHITEOUT}},
    ),
    "rename a directory over one of whiteouts": Case(
        lambda union: union.rename("a", "d"),
        {"a": {"file": ""}, "d": {"x": "", "y": ""}},
        {"d": Directory({"x": WHITEOUT, "y": WHITEOUT}, mode=0o700, uid=1000)},
    ),
    "exchange a lower file and a lower directory": Case(
        lambda union: union.rename("file", "b/d", syscalls.RENAME_EXCHANGE),
        {"file": FILE, "b": {"d": {"inside": ""}}},
    ),
    "exchange two directories": Case(
        lambda union: union.rename("a/one", "b/two", syscalls.RENAME_EXCHANGE),
        {"a": {"one": {"inside": "1"}}, "b": {"two": {"inside": "2"}}},
        {"b": {"two": {"upper": "3"}}},
    ),
}
EACH = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


async def states(case: Case, directory: Path) -> tuple[dict[str, Shown], dict[str, Shown]]:
    """What shows before the operation, and what after it and after a remount."""
    union = Union.build(directory, case.lower, case.upper)
    before = await union.shown()
    await case.operation(union)
    after = await union.shown()
    union.reopen()
    assert await union.shown() == after
    union.close()
    return before, after


@EACH
@in_trio
async def test_an_error_leaves_what_was_or_what_was_to_be(case: Case, tmp_path: Path) -> None:
    before, after = await states(case, tmp_path / "union")
    for number in itertools.count():
        union = Union.build(tmp_path / f"{number}", case.lower, case.upper)
        with faults.disk_full_at(number) as calls:
            await case.operation(union)
        failed = calls[number:][:1]
        where = f"{failed} failed among {calls}"
        now = await union.shown()
        assert now in (before, after), where
        # What can't be tidied up now is swept later.
        assert union.scratch == [] or failed in (["rmdir"], ["unlink"]), where
        if now == before != after:
            await case.operation(union)
            assert await union.shown() == after, where
        union.reopen()
        assert await union.shown() == after, where
        union.close()
        if not failed:
            break


@EACH
def test_a_crash_leaves_what_was_or_what_was_to_be(case: Case, tmp_path: Path) -> None:
    before, after = trio.run(states, case, tmp_path / "union")

    def operate(directory: Path) -> None:
        trio.run(case.operation, Union(directory))

    for number in itertools.count():
        here = tmp_path / f"{number}"
        Union.build(here, case.lower, case.upper).close()
        killed = faults.killed_before_call(number, partial(operate, here))
        union = Union(here)
        assert trio.run(union.shown) in (before, after), f"before call {number}"
        assert union.scratch == []
        union.close()
        if not killed:
            break
