"""Operations that meet, and operations that fail: the filesystem without a mount."""

from __future__ import annotations

import errno
import math
import os
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.layers import File, HardLink, Tree, is_whiteout
from tests.support.snapshots import tree
from tests.unit.errors import fail_with, raises
from tests.unit.unions import ROOT, Union, in_trio
from unionfs import copyup, syscalls
from unionfs.driver.operations import UnionOperations
from unionfs.filesystem import Changes
from unionfs.layers.directory import DirectoryLayer
from unionfs.model import Entry, Mark
from unionfs.ordering import Ordering
from unionfs.owners import Owners
from unionfs.upper import Upper

SECONDS = 30
BIG = "x" * 1_000_000
NEW = "new" + BIG[3:]

Make = Callable[..., Union]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Opens a union: `make(lower, upper)`. Afterwards nothing may be left of what it did."""
    made: list[Union] = []
    before = os.listdir("/proc/self/fd")

    def union(lower: Tree, upper: Tree | None = None, *, metacopy: bool = False) -> Union:
        made.append(Union.build(tmp_path / "union", lower, upper or {}, metacopy=metacopy))
        return made[-1]

    yield union
    for one in made:
        scratch = one.scratch
        one.forget()
        known = one.filesystem.known_nodes
        one.close()
        assert (scratch, known) == ([], 1)
    assert os.listdir("/proc/self/fd") == before


class Gate:
    """Holds every copy of content, in its worker thread, until it is opened."""

    def __init__(self) -> None:
        self._opened = threading.Event()
        self._send, self._receive = trio.open_memory_channel[None](math.inf)
        self._copy = copyup.copy_content
        self.copies = 0

    def copy_content(self, source_fd: int, target_fd: int, size: int, ordering: Ordering) -> None:
        trio.from_thread.run_sync(self._arrive)
        assert self._opened.wait(SECONDS)
        self._copy(source_fd, target_fd, size, ordering)

    async def reached(self, copies: int = 1) -> None:
        """Wait until so many copies are held, and everybody else waits or is done."""
        with trio.fail_after(SECONDS):
            for _ in range(copies):
                await self._receive.receive()
            await wait_all_tasks_blocked()

    def open(self) -> None:
        self._opened.set()

    def _arrive(self) -> None:
        self.copies += 1
        self._send.send_nowait(None)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    gate = Gate()
    monkeypatch.setattr(copyup, "copy_content", gate.copy_content)
    return gate


# While a file is copied


@in_trio
async def test_two_who_write_one_file_share_its_copy(make: Make, gate: Gate) -> None:
    union = make({"file": BIG})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(union.write, "file", "one")
        await gate.reached()
        nursery.start_soon(union.write, "file", "other")
        await wait_all_tasks_blocked()
        gate.open()
    assert gate.copies == 1
    assert not union.filesystem._raising._copying
    assert tree(union.upper) == {"file": "other" + BIG[5:]}


@in_trio
async def test_two_files_are_copied_at_the_same_time(make: Make, gate: Gate) -> None:
    union = make({"a": BIG, "d": {"b": BIG}})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(union.write, "a", "1")
        nursery.start_soon(union.write, "d/b", "2")
        await gate.reached(2)
        gate.open()
    assert await union.read("a") == "1" + BIG[1:]
    assert await union.read("d/b") == "2" + BIG[1:]


@in_trio
async def test_a_wh_file_of_the_upper_does_not_hide_what_is_moved_beside_it(make: Make) -> None:
    union = make(
        {"m": {"low": "m"}, "n": {"low": "n"}}, {".wh.new": "", ".wh.file": "", "file": ""}
    )
    await union.rename("m", "new")
    await union.rename("n", "file", syscalls.RENAME_EXCHANGE)
    union.forget()
    union.reopen()
    assert await union.read("new/low") == "m"
    assert await union.read("file/low") == "n"


def test_a_directory_is_read_once_that_pays(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = DirectoryLayer.listing
    read = []

    def listed(layer: DirectoryLayer, directory: Entry) -> Mapping[bytes, Entry | Mark]:
        read.append(directory)
        return listing(layer, directory)

    union = make({"d": {f"name{number}": "" for number in range(20)}})
    directory = union.number("d")
    monkeypatch.setattr(DirectoryLayer, "listing", listed)

    def look_up(name: str) -> None:
        union.refer(union.filesystem.lookup(directory, os.fsencode(name)))

    for number in range(4):
        look_up(f"name{number}")
        with raises(errno.ENOENT):
            look_up(f"absent{number}")
    look_up("name0")  # known by now
    assert read == []
    look_up("name4")
    with raises(errno.ENOENT):
        look_up("absent4")
    assert len(read) == 1


@in_trio
async def test_everything_else_goes_on(make: Make, gate: Gate) -> None:
    union = make({"big": BIG, "file": "content", "d": {}})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(union.write, "big", "new")
        await gate.reached()
        assert await union.read("big") == BIG
        assert await union.read("file") == "content"
        union.create("d/new", "text")
        await union.unlink("file")
        await union.rename("d", "e")
        assert union.listing(1) == ["big", "e"]
        gate.open()
    assert tree(union.upper) == {
        "big": NEW,
        "d": "c",
        "e": {"new": "text"},
        "file": "c",
    }


@in_trio
async def test_a_descriptor_reads_what_is_written_later(make: Make, gate: Gate) -> None:
    union = make({"d": {"file": BIG}})
    reader = await union.open_file("d/file")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(union.write, "d/file", "new")
        await gate.reached()
        assert union.filesystem.read(reader, 0, 3) == b"xxx"
        gate.open()
    assert union.filesystem.read(reader, 0, 3) == b"new"
    await union.unlink("d/file")
    assert union.filesystem.read(reader, 0, 3) == b"new"
    union.filesystem.release(reader)


@in_trio
async def test_a_file_copied_up_while_its_content_is_verified_is_read_from_the_upper(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    union = make({"file": BIG})
    verified, opened, slow = threading.Event(), DirectoryLayer.open, iter([True])

    def held(layer: DirectoryLayer, entry: Entry) -> int:
        if threading.current_thread() is not threading.main_thread():
            assert verified.wait(SECONDS)
        return opened(layer, entry)

    monkeypatch.setattr(DirectoryLayer, "opens_slowly", lambda *_: next(slow, False))
    monkeypatch.setattr(DirectoryLayer, "open", held)
    readers: list[int] = []

    async def read() -> None:
        readers.append(await union.open_file("file"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        assert readers == []
        await union.write("file", "new")
        verified.set()
    assert union.filesystem.read(readers[0], 0, 3) == b"new"
    union.filesystem.release(readers[0])


@in_trio
async def test_a_file_unlinked_meanwhile_has_a_copy_without_a_name(make: Make, gate: Gate) -> None:
    union = make({"file": BIG})
    node, reader = union.node("file"), await union.open_file("file")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(union.write, "file", "new")
        await gate.reached()
        await union.unlink("file")
        assert union.filesystem.status(node).links == 0
        gate.open()
    assert union.filesystem.read(reader, 0, 3) == b"new"
    assert union.filesystem.status(node).links == 0
    assert tree(union.upper) == {"file": "c"}
    assert union.scratch == []
    union.filesystem.release(reader)


@in_trio
async def test_its_directory_may_go_too(make: Make, gate: Gate) -> None:
    union = make({"d": {"file": BIG}})
    reader = await union.open_file("d/file")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(union.write, "d/file", "new")
        await gate.reached()
        await union.unlink("d/file")
        union.rmdir("d")
        gate.open()
    assert union.filesystem.read(reader, 0, 3) == b"new"
    assert tree(union.upper) == {"d": "c"}
    union.filesystem.release(reader)


@in_trio
async def test_a_new_file_of_the_name_is_not_replaced_by_the_copy(make: Make, gate: Gate) -> None:
    union = make({"file": BIG})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(union.write, "file", "old one")
        await gate.reached()
        await union.unlink("file")
        union.create("file", "new one")
        gate.open()
    assert await union.read("file") == "new one"
    assert tree(union.upper) == {"file": "new one"}


@in_trio
async def test_nor_is_a_file_that_was_renamed_over_it(make: Make, gate: Gate) -> None:
    union = make({"file": BIG}, {"other": "other"})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(union.write, "file", "old one")
        await gate.reached()
        await union.rename("other", "file")
        gate.open()
    assert tree(union.upper) == {"file": "other"}


@in_trio
async def test_its_directory_may_be_renamed(make: Make, gate: Gate) -> None:
    union = make({"a": {"d": {"file": BIG}}, "b": {}})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(union.write, "a/d/file", "new")
        await gate.reached()
        await union.rename("a/d", "b/e")
        await union.rename("a", "c")
        gate.open()
    for _ in range(2):
        assert await union.read("b/e/file") == NEW
        union.reopen()


WAITING: dict[str, tuple[Callable[[Union], Awaitable[object]], dict[str, str]]] = {
    "rename": (
        lambda union: union.rename("file", "d/file"),
        {"/d/file": NEW, "/other": "other"},
    ),
    "exchange": (
        lambda union: union.rename("file", "other", syscalls.RENAME_EXCHANGE),
        {"/file": "other", "/other": NEW},
    ),
    "replace": (
        lambda union: union.rename("file", "other"),
        {"/other": NEW},
    ),
    "link": (
        lambda union: union.link("file", "d/link"),
        {"/file": NEW, "/d/link": NEW, "/other": "other"},
    ),
    "truncate": (
        lambda union: union.filesystem.setattr(union.number("file"), Changes(size=2)),
        {"/file": "ne", "/other": "other"},
    ),
}


@pytest.mark.parametrize(("operation", "expected"), WAITING.values(), ids=WAITING)
@in_trio
async def test_what_needs_the_copy_waits_for_it(
    make: Make,
    gate: Gate,
    operation: Callable[[Union], Awaitable[object]],
    expected: dict[str, str],
) -> None:
    union = make({"file": BIG, "other": "other", "d": {}})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(union.write, "file", "new")
        await gate.reached()
        nursery.start_soon(operation, union)
        await wait_all_tasks_blocked()
        gate.open()
    shown = await union.shown()
    assert {path: has.content for path, has in shown.items() if has.content} == expected
    union.reopen()
    assert await union.shown() == shown


@in_trio
async def test_so_do_attributes(make: Make, gate: Gate) -> None:
    union = make({"file": BIG})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(union.write, "file", "new")
        await gate.reached()
        number, change = union.number("file"), union.filesystem
        nursery.start_soon(change.setattr, number, Changes(mode=0o600, uid=1000))
        nursery.start_soon(change.setxattr, number, b"user.u", b"1", lambda _: True)
        await wait_all_tasks_blocked()
        gate.open()
    shown = (await union.shown())["/file"]
    assert (shown.mode, shown.owner) == ("-rw-------", (1000, 0))
    assert shown.xattrs == ((b"user.u", b"1"),)


@pytest.mark.parametrize("linked", [False, True])
@in_trio
async def test_what_needs_no_content_waits_for_it_too(make: Make, gate: Gate, linked: bool) -> None:
    """Of a metacopy, while it is filled: what is changed must not get lost."""
    union = make({"file": BIG, **({"other": HardLink("file")} if linked else {})}, metacopy=True)
    number = union.number("file")
    await union.filesystem.setattr(number, Changes(uid=1000))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(union.write, "file", "new")
        await gate.reached()
        nursery.start_soon(union.filesystem.setattr, number, Changes(mode=0o600))
        await wait_all_tasks_blocked()
        nursery.start_soon(union.link, "file", "link")
        nursery.start_soon(union.rename, "file", "name")
        await wait_all_tasks_blocked()
        gate.open()
    shown = await union.shown()
    assert (shown["/name"].mode, shown["/name"].owner) == ("-rw-------", (1000, 0))
    assert shown["/name"].content == NEW
    assert shown["/name"] == shown["/link"]
    union.reopen()
    assert await union.shown() == shown


@in_trio
async def test_so_does_another_name_that_is_taken_away(make: Make, gate: Gate) -> None:
    union = make({"one": BIG, "two": HardLink("one"), "d": {"three": HardLink("one")}})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(union.write, "one", "new")
        await gate.reached()
        nursery.start_soon(union.unlink, "two")
        await wait_all_tasks_blocked()
        gate.open()
    shown = await union.shown()
    assert "/two" not in shown
    assert shown["/one"] == shown["/d/three"]
    assert (shown["/one"].content, shown["/one"].links) == (NEW, 2)
    union.reopen()
    assert await union.shown() == shown


@in_trio
async def test_a_name_found_meanwhile_is_of_the_copy_too(make: Make, gate: Gate) -> None:
    union = make({"a": {"one": BIG}, "b": {"two": HardLink("a/one")}})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(union.write, "a/one", "new")
        await gate.reached()
        number = union.number("b/two")
        gate.open()
    assert union.number("a/one") == number
    shown = await union.shown()
    assert shown["/a/one"] == shown["/b/two"]
    assert (shown["/b/two"].content, shown["/b/two"].links) == (NEW, 2)
    union.reopen()
    assert await union.shown() == shown


# Failures


def failing_once(monkeypatch: pytest.MonkeyPatch, target: object, name: str, number: int) -> None:
    """The next call of a function fails; those after it don't."""
    function = getattr(target, name)

    def fail(*args: object, **options: object) -> None:
        monkeypatch.setattr(target, name, function)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(target, name, fail)


STEPS = [
    (copyup, "copy_content", errno.EIO),
    (copyup, "copy_content", errno.ENOSPC),
    (os, "fsync", errno.EIO),
    (os, "setxattr", errno.EDQUOT),
    (syscalls, "renameat2", errno.ENOSPC),
]
FAILING = pytest.mark.parametrize(("target", "name", "number"), STEPS)


@FAILING
@in_trio
async def test_a_copy_that_fails_changes_nothing(
    make: Make, monkeypatch: pytest.MonkeyPatch, target: object, name: str, number: int
) -> None:
    union = make({"d": {"file": File("content", xattrs={"user.u": b"1"})}})
    reader = await union.open_file("d/file")
    before = await union.shown()
    (union.upper / "d").mkdir(exist_ok=True)
    failing_once(monkeypatch, target, name, number)
    with raises(number):
        await union.write("d/file", "new")
    assert union.filesystem.read(reader, 0, 10) == b"content"
    assert await union.shown() == before
    assert union.scratch == []
    assert tree(union.upper) in ({}, {"d": {}})
    await union.write("d/file", "new")
    assert union.filesystem.read(reader, 0, 10) == b"newtent"
    assert await union.read("d/file") == "newtent"
    union.filesystem.release(reader)


@in_trio
async def test_who_waits_for_a_copy_that_fails_makes_another(
    make: Make, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    union = make({"file": "content"})
    failing_once(monkeypatch, gate, "_copy", errno.EIO)
    errors: list[int | None] = []

    async def write(text: str) -> None:
        try:
            await union.write("file", text)
        except OSError as error:
            errors.append(error.errno)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, "new")
        nursery.start_soon(write, "new")
        await gate.reached()
        gate.open()
        await gate.reached()
    assert errors == [errno.EIO]
    assert await union.read("file") == "newtent"


@in_trio
async def test_a_source_that_changed_is_stale(make: Make) -> None:
    union = make({"file": "content"})
    union.node("file")
    (union.lower / "new").write_text("another")
    (union.lower / "new").rename(union.lower / "file")
    with raises(errno.ESTALE):
        await union.write("file", "new")
    with raises(errno.ESTALE):
        await union.read("file")
    assert tree(union.upper) == {}


@in_trio
async def test_a_sync_that_fails_is_the_callers_error(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    union = make({"file": "content"})
    handle = await union.open_file("file", os.O_RDWR)
    failing_once(monkeypatch, os, "fsync", errno.EIO)
    with raises(errno.EIO):
        await union.filesystem.fsync(handle, datasync=False)
    await union.filesystem.fsync(handle, datasync=False)
    union.filesystem.release(handle)


@pytest.mark.parametrize("name", ["mknod", "link"])
@pytest.mark.parametrize("path", ["lower", "both"])
@in_trio
async def test_a_whiteout_that_fails_leaves_the_name(
    make: Make, monkeypatch: pytest.MonkeyPatch, name: str, path: str
) -> None:
    union = make({"lower": "1", "both": "1"}, {"both": "2"})
    before = await union.shown()
    failing_once(monkeypatch, os, name, errno.ENOSPC)
    with raises(errno.ENOSPC):
        await union.unlink(path)
    assert await union.shown() == before
    await union.unlink(path)
    assert before.keys() - (await union.shown()).keys() == {f"/{path}"}
    assert is_whiteout(union.upper / path)


@in_trio
async def test_a_directory_that_was_not_replaced_after_all_takes_names(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What hid names in it is gone already; that must be known."""
    union = make({"d": {"x": "below"}, "s": {}}, {"d": {".wh.x": ""}})
    with monkeypatch.context() as patch, raises(errno.ENOSPC):
        patch.setattr(Upper, "move", fail_with(errno.ENOSPC))
        await union.rename("s", "d")
    made = union.filesystem.mknod(*union.spot("d/x"), 0o100644, 0, ROOT)
    union.filesystem.forget(made.number, 1)
    assert os.listdir(union.upper / "d") == ["x"]


def test_who_can_not_be_asked_belongs_to_no_group(make: Make) -> None:
    """A process that the daemon does not see has the number 0."""
    operations = UnionOperations(make({}).filesystem, Owners())
    stranger: Any = SimpleNamespace(uid=1000, gid=1000, pid=0)
    assert operations._groups(stranger)(1000)
    assert not operations._groups(stranger)(500)
