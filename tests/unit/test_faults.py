"""Whatever happens in the middle of an operation, each name is as it was or as it was to be."""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeAlias

import pytest
import trio

from tests.support.acls import acl
from tests.support.layers import (
    FIFO,
    WHITEOUT,
    Directory,
    File,
    HardLink,
    Symlink,
    Tree,
    build,
    holds_xwhiteouts,
    opaque,
    redirect,
    xwhiteout,
)
from tests.support.snapshots import tree
from tests.unit import faults
from tests.unit.unions import ROOT, Shown, Union, in_trio
from unionfs import syscalls
from unionfs.filesystem import Changes
from unionfs.layers.directory import DirectoryLayer
from unionfs.model import Caller
from unionfs.upper import Upper

USER = Caller(1000, 1000, 0o022)


Operation: TypeAlias = Callable[[Union], Awaitable[object]]


@dataclass(frozen=True)
class Case:
    """An operation and the layers that it meets."""

    operation: Operation
    lower: Tree = field(default_factory=dict)
    upper: Tree = field(default_factory=dict)
    earlier: Operation | None = None  # what an earlier mount did
    metacopy: bool = False


async def make_file(union: Union) -> None:
    file, node = union.filesystem.create(*union.spot("d/new"), 0o644, os.O_RDWR, ROOT)
    union.refer(node)
    union.filesystem.release(file.descriptor)


async def make_directory(union: Union) -> None:
    union.refer(union.filesystem.mkdir(*union.spot("d/new"), 0o755, USER))


async def make_link(union: Union) -> None:
    union.refer(union.filesystem.symlink(*union.spot("d/new"), b"target", ROOT))


async def make_fifo(union: Union) -> None:
    union.refer(union.filesystem.mknod(*union.spot("d/new"), stat.S_IFIFO | 0o644, 0, ROOT))


def opened(path: str, flags: int) -> Operation:
    """Open a file and close it again."""

    async def open_and_close(union: Union) -> None:
        union.filesystem.release(await union.open_file(path, flags))

    return open_and_close


def written(path: str) -> Operation:
    """Write to a file and bring it to the disk."""

    async def write_and_sync(union: Union) -> None:
        handle = await union.open_file(path, os.O_RDWR)
        try:
            union.filesystem.write(handle, 0, b"CON")
            await union.filesystem.fsync(handle, datasync=False)
        finally:
            union.filesystem.release(handle)

    return write_and_sync


async def chmod_and_sync(union: Union) -> None:
    handle = await union.open_file("file")
    try:
        await union.filesystem.setattr(union.number("file"), Changes(mode=0o600), handle)
        await union.filesystem.fsync(handle, datasync=False)
    finally:
        union.filesystem.release(handle)


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
METACOPY = File(size=7, mode=0o4755, xattrs={"trusted.overlay.metacopy": b""})
LINKED: Tree = {"one": "content", "two": HardLink("one"), "d": {"three": HardLink("one")}}
WAS_THERE: Tree = {"d": {"new": "below", "other": ""}}

CHANGES = {
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
    "bring a file up": Case(opened("d/file", os.O_RDWR), {"d": PARENT}),
    "bring a linked file up": Case(opened("one", os.O_RDWR), LINKED),
    "empty a lower file": Case(opened("d/file", os.O_WRONLY | os.O_TRUNC), {"d": PARENT}),
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
    "write to a lower file": Case(written("d/file"), {"d": PARENT}),
    "cut a lower file": Case(
        lambda union: union.filesystem.setattr(union.number("d/file"), Changes(size=3)),
        {"d": PARENT},
    ),
    "fill a metacopy": Case(opened("file", os.O_RDWR), {"file": "content"}, {"file": METACOPY}),
    "change a lower file's mode without its content": Case(
        lambda union: union.filesystem.setattr(union.number("d/file"), Changes(mode=0o600)),
        {"d": PARENT},
        metacopy=True,
    ),
    "write to a file of which only the mode was changed": Case(
        written("d/file"),
        {"d": PARENT},
        earlier=lambda union: union.filesystem.setattr(union.number("d/file"), Changes(mode=0o600)),
        metacopy=True,
    ),
    "cut a file of which only the mode was changed": Case(
        lambda union: union.filesystem.setattr(union.number("d/file"), Changes(size=3)),
        {"d": PARENT},
        earlier=lambda union: union.filesystem.setattr(union.number("d/file"), Changes(mode=0o600)),
        metacopy=True,
    ),
    "rename a lower file without its content": Case(
        lambda union: union.rename("d/file", "new"), {"d": PARENT}, metacopy=True
    ),
    "rename one of a file's names without its content": Case(
        lambda union: union.rename("one", "d/new"), LINKED, metacopy=True
    ),
    "give a file a name without its content": Case(
        lambda union: union.link("file", "d/new"), {"file": FILE, "d": {}}, metacopy=True
    ),
    "sync a file of which only the mode was changed": Case(
        chmod_and_sync, {"file": FILE}, metacopy=True
    ),
    "bring another name of a linked file up": Case(
        opened("two", os.O_RDWR), LINKED, earlier=opened("one", os.O_RDWR)
    ),
    "take an attribute of a lower file away": Case(
        lambda union: union.filesystem.removexattr(union.number("d/file"), b"user.u"),
        {"d": PARENT},
    ),
    "remove a lower file": Case(lambda union: union.unlink("d/file"), {"d": PARENT}),
    "remove an upper file": Case(lambda union: union.unlink("file"), {}, {"file": "content"}),
    "remove a file of both": Case(lambda union: union.unlink("file"), {"file": "1"}, {"file": "2"}),
    "remove one of a lower file's names": Case(lambda union: union.unlink("one"), LINKED),
    "remove the last of a lower file's names": Case(
        lambda union: union.unlink("two"),
        {"one": "content", "two": HardLink("one")},
        earlier=lambda union: union.unlink("one"),
    ),
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
TIDYING = {"fstat", "listdir", "open", "rmdir", "unlink"}


async def find(union: Union, path: str) -> tuple[object, ...] | None:
    """The number and the attributes of what has a name, and whether it may have content."""
    try:
        node = union.node(path)
    except FileNotFoundError:
        return None
    attributes, links, blocks = union.filesystem.status(node)
    return node.number, attributes, links, blocks > 0


def found(path: str) -> Operation:
    return partial(find, path=path)


async def list_directory(union: Union) -> list[str]:
    return union.listing(union.number("d"))


async def sync_directory(union: Union) -> None:
    await union.filesystem.fsyncdir(union.number("d"))


async def read_attributes(union: Union) -> list[bytes]:
    number = union.number("d/file")
    names = union.filesystem.listxattr(number, privileged=True)
    return [union.filesystem.getxattr(number, name) for name in names]


async def read_link(union: Union) -> bytes:
    return union.filesystem.readlink(union.number("link"))


async def ask_for_space(union: Union) -> int:
    return union.filesystem.statfs().f_bsize


MIXED: Tree = {"a": "", "gone": "", "hidden": "", "sub": {"x": ""}, "socket": FIFO}

READS = {
    "find a file": Case(found("d/file"), {"d": PARENT}, {"d": {}}),
    "find a directory of both": Case(found("d"), {"d": PARENT}, {"d": PARENT}),
    "find no file": Case(found("d/absent"), {"d": PARENT}, {"d": {}}),
    "find no file below a whiteout": Case(found("d/new"), WAS_THERE, {"d": {"new": WHITEOUT}}),
    "find no file below a .wh. file": Case(found("d/new"), WAS_THERE, {"d": {".wh.new": ""}}),
    "find a file in a directory that moved": Case(
        found("new/file"), {"d": PARENT}, {"d": WHITEOUT, "new": redirect({}, "/d")}
    ),
    "find a metacopy": Case(found("file"), {"file": "content"}, {"file": METACOPY}),
    "find another name of a copied file": Case(
        found("two"), LINKED, earlier=opened("one", os.O_RDWR)
    ),
    "list a directory of both": Case(
        list_directory,
        {"d": MIXED},
        {"d": {"new": "", "gone": WHITEOUT, ".wh.hidden": "", "sub": opaque({})}},
    ),
    "list whiteouts by attribute": Case(
        list_directory, {"d": holds_xwhiteouts({"a": "", "b": "b", "gone": xwhiteout()})}
    ),
    "read a lower file": Case(lambda union: union.read("d/file"), {"d": PARENT}),
    "read an upper file": Case(lambda union: union.read("d/file"), {}, {"d": PARENT}),
    "read a metacopy": Case(
        lambda union: union.read("file"), {"file": "content"}, {"file": METACOPY}
    ),
    "read the attributes of a lower file": Case(read_attributes, {"d": PARENT}),
    "read the attributes of an upper file": Case(read_attributes, {}, {"d": PARENT}),
    "read a link": Case(read_link, {"link": Symlink("target")}),
    "sync a directory": Case(sync_directory, {}, {"d": {}}),
    "ask for space": Case(ask_for_space),
}

EACH_CHANGE = pytest.mark.parametrize("case", CHANGES.values(), ids=CHANGES)
EACH_READ = pytest.mark.parametrize("case", READS.values(), ids=READS)


async def built(case: Case, directory: Path) -> Union:
    """The union that an operation meets, and of which nobody has asked anything yet."""
    union = Union.build(directory, case.lower, case.upper, metacopy=case.metacopy)
    if case.earlier is not None:
        await case.earlier(union)
        union.reopen()
    return union


@dataclass(frozen=True)
class Run:
    """What an operation that nothing disturbs does: what shows before and after, and its calls."""

    before: dict[str, Shown]
    after: dict[str, Shown]
    calls: list[str]


async def attempt(operation: Operation, union: Union, number: int, code: int) -> tuple[int, object]:
    """Do it while a call fails; answers its errno, 0 if it succeeded, and what it answered."""
    with faults.failing(number, code):
        try:
            return 0, await operation(union)
        except OSError as error:
            return error.errno or 0, None


async def run(case: Case, directory: Path) -> Run:
    union = await built(case, directory)
    before = await union.shown()
    # As a kernel would ask that knows nothing yet.
    union.reopen()
    with faults.recorded() as calls:
        await case.operation(union)
    after = await union.shown()
    union.reopen()
    assert await union.shown() == after
    union.close()
    return Run(before, after, calls)


def injections(calls: list[str], campaign: int) -> Iterator[tuple[int, int]]:
    """Each call with two of the errors it can give, in turn; with all from a campaign of 4 on."""
    for number, name in enumerate(calls):
        codes = faults.errors_of(name)
        for turn in range(min(2 * campaign, len(codes))):
            yield number, codes[(number + turn) % len(codes)]


@EACH_CHANGE
@in_trio
async def test_an_error_leaves_what_was_or_what_was_to_be(
    case: Case, tmp_path: Path, campaign: int
) -> None:
    plain = await run(case, tmp_path / "union")
    descriptors = faults.open_descriptors()
    plan = list(injections(plain.calls, campaign))
    for count, (number, code) in enumerate(plan):
        call = plain.calls[number]
        where = f"{call}, number {number}, {errno.errorcode[code]}"
        union = await built(case, tmp_path / f"{count}")
        error, _ = await attempt(case.operation, union, number, code)
        assert error in (0, code), where
        now = await union.shown()
        assert now in ((plain.before, plain.after) if error else (plain.after,)), where
        # Only tidying up may fail in silence; what is left is swept by the next mount.
        assert union.scratch == [] or (not error and call in TIDYING), where
        if now == plain.before:
            await case.operation(union)
            assert await union.shown() == plain.after, where
        union.forget()
        assert union.filesystem.known_nodes == 1, where
        union.reopen()
        assert union.scratch == [], where
        assert await union.shown() == plain.after, where
        union.close()
        assert faults.open_descriptors() == descriptors, where
    print(f"{len(plan)} injections")


@EACH_READ
@in_trio
async def test_an_error_in_reading_is_told_and_passes(
    case: Case, tmp_path: Path, campaign: int
) -> None:
    union = await built(case, tmp_path / "union")
    with faults.recorded() as calls:
        answer = await case.operation(union)
    union.close()
    descriptors = faults.open_descriptors()
    plan = list(injections(calls, campaign))
    for number, code in plan:
        where = f"{calls[number]}, number {number}, {errno.errorcode[code]}"
        union.open()
        error, got = await attempt(case.operation, union, number, code)
        assert (error, got) in ((0, answer), (code, None)), where
        assert await case.operation(union) == answer, where
        union.forget()
        assert union.filesystem.known_nodes == 1, where
        union.close()
        assert faults.open_descriptors() == descriptors, where
    print(f"{len(plan)} injections")


@pytest.mark.parametrize("upper", [{}, {"file": METACOPY}], ids=["lower file", "metacopy"])
@in_trio
async def test_after_an_error_a_reader_still_sees_what_is_written(
    upper: Tree, tmp_path: Path, campaign: int
) -> None:
    case = Case(written("file"), {"file": FILE}, upper)

    async def opened_before(directory: Path) -> tuple[Union, int]:
        union = await built(case, directory)
        return union, await union.open_file("file")

    union, _ = await opened_before(tmp_path / "union")
    with faults.recorded() as calls:
        await case.operation(union)
    union.close()
    for count, (number, code) in enumerate(injections(calls, campaign)):
        union, reader = await opened_before(tmp_path / f"{count}")
        error, _ = await attempt(case.operation, union, number, code)
        if error:
            await case.operation(union)
        where = f"{calls[number]}, number {number}, {errno.errorcode[code]}"
        assert union.filesystem.read(reader, 0, 7) == b"CONtent", where
        union.close()


LEFT_BEHIND: Tree = {
    "lower": {"file": "content"},
    "upper": {},
    "work": {
        "work": {"#1": {"file": ""}},
        "index": {"00": File(xattrs={"trusted.overlay.nlink": b"U-1"})},
    },
}
"""The directories of a union, with what a killed mount leaves."""


def mount_and_unmount(directory: Path) -> None:
    with closing(DirectoryLayer(bytes(directory / "lower"))) as layer:
        assert layer.is_private
        Upper(bytes(directory / "upper"), bytes(directory / "work")).close()


def test_an_error_in_mounting_or_unmounting_is_told_and_passes(
    tmp_path: Path, campaign: int
) -> None:
    descriptors = faults.open_descriptors()
    with faults.recorded() as calls:
        mount_and_unmount(build(tmp_path / "union", LEFT_BEHIND))
    for count, (number, code) in enumerate(injections(calls, campaign)):
        directory = build(tmp_path / f"{count}", LEFT_BEHIND)
        error = 0
        with faults.failing(number, code):
            try:
                mount_and_unmount(directory)
            except OSError as caught:
                error = caught.errno or 0
        where = f"{calls[number]}, number {number}, {errno.errorcode[code]}"
        assert error in (0, code), where
        assert faults.open_descriptors() == descriptors, where
        mount_and_unmount(directory)
        assert tree(directory / "work") == {"work": {}, "index": {}}, where


@EACH_CHANGE
def test_a_crash_leaves_what_was_or_what_was_to_be(case: Case, tmp_path: Path) -> None:
    plain = trio.run(run, case, tmp_path / "union")

    def operate(directory: Path) -> None:
        trio.run(case.operation, Union(directory, metacopy=case.metacopy))

    for number in itertools.count():
        here = tmp_path / f"{number}"
        trio.run(built, case, here).close()
        killed = faults.killed_before_call(number, partial(operate, here))
        union = Union(here, metacopy=case.metacopy)
        assert trio.run(union.shown) in (plain.before, plain.after), f"before call {number}"
        assert union.scratch == []
        union.close()
        if not killed:
            break
