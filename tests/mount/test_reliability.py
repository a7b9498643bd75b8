"""The daemon's sudden end, and what the next mount makes of it."""

import contextlib
import errno
import os
import random
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import linux
from tests.support.layers import Symlink, Tree
from tests.support.mounts import Mounts, UnionMount, three_times
from tests.support.snapshots import tree

BASE: Tree = {"file": "content", "d": {"a": "a", "e": {"b": "b"}}}


# Run in place of the command: what is named in the file of the first argument fails.
_INJECTING = """
import functools
import sys
from pathlib import Path
from unionfs.cli import main
from unionfs.filesystem import Filesystem

named = Path(sys.argv.pop(1))

def failing(name, method):
    @functools.wraps(method)
    def call(*args, **kwargs):
        if named.read_text() == name:
            raise RuntimeError("injected")
        return method(*args, **kwargs)
    return call

for name, method in list(vars(Filesystem).items()):
    if callable(method) and not name.startswith("_"):
        setattr(Filesystem, name, failing(name, method))
sys.exit(main())
"""

_OPERATIONS: dict[str, Callable[[Path], object]] = {
    "lookup": lambda root: (root / "unknown").stat(),
    "create": lambda root: (root / "new").touch(),
    "mknod": lambda root: os.mkfifo(root / "new"),
    "mkdir": lambda root: (root / "new").mkdir(),
    "symlink": lambda root: (root / "new").symlink_to("x"),
    "link": lambda root: os.link(root / "file", root / "new"),
    "unlink": lambda root: (root / "file").unlink(),
    "rmdir": lambda root: (root / "empty").rmdir(),
    "rename": lambda root: os.rename(root / "file", root / "new"),
    "setattr": lambda root: (root / "file").chmod(0o600),
    "readlink": lambda root: os.readlink(root / "link"),
    "setxattr": lambda root: os.setxattr(root / "file", "user.x", b""),
    "getxattr": lambda root: os.getxattr(root / "file", "user.x"),
    "listxattr": lambda root: os.listxattr(root / "file"),
    "removexattr": lambda root: os.removexattr(root / "file", "user.x"),
    "open": lambda root: (root / "file").read_bytes(),
    "read": lambda root: _with_descriptor(root / "file", lambda file: os.read(file, 10)),
    "write": lambda root: _with_descriptor(root / "written", lambda file: os.write(file, b"x")),
    "fsync": lambda root: _with_descriptor(root / "file", os.fsync),
    "readdir": lambda root: os.listdir(root / "d"),
    "fsyncdir": lambda root: _with_descriptor(root / "d", os.fsync, os.O_RDONLY),
    "statfs": os.statvfs,
}


def _with_descriptor(path: Path, act: Callable[[int], object], flags: int = os.O_RDWR) -> None:
    with linux.opened(path, flags) as descriptor:
        act(descriptor)


@pytest.mark.needs_stock
def test_a_failing_handler_is_one_failed_request_and_one_record(
    union: Mounts[UnionMount], directory: Path
) -> None:
    named = directory / "named"
    named.touch()
    mount = union(
        {**BASE, "empty": {}, "link": Symlink("file"), "written": ""},
        command=[sys.executable, "-c", _INJECTING, str(named)],
        expected_errors=["failed for", "^Traceback"],
    )
    for operation, act in _OPERATIONS.items():
        before = mount.log.read_text()
        named.write_text(operation)
        with pytest.raises(OSError, match=r".") as caught:
            act(mount.path)
        named.write_text("")
        assert caught.value.errno == errno.EIO, operation
        written = mount.log.read_text().removeprefix(before)
        # To a read that failed the kernel sends another.
        requests = 2 if operation == "read" else 1
        assert written.count(f"{operation} failed for") == requests, written
        assert written.count("ERROR") == written.count("injected\n") == requests, written
    assert tree(mount.path) == {**BASE, "empty": {}, "link": "-> file", "written": ""}


@pytest.mark.needs_stock
@pytest.mark.parametrize("operation", ["release", "forget"])
def test_a_failing_end_of_use_is_a_record(
    union: Mounts[UnionMount], directory: Path, operation: str
) -> None:
    """Nobody waits for these: there is no request to fail."""
    named = directory / "named"
    named.touch()
    mount = union(
        BASE,
        command=[sys.executable, "-c", _INJECTING, str(named)],
        expected_errors=["failed", "^Traceback"],
    )
    named.write_text(operation)
    with linux.watched(mount.log.parent) as wake:
        (mount / "file").read_bytes()
        os.listdir(mount / "d")
        (mount / "file").unlink()
        assert linux.wait_for(lambda: f"{operation} failed" in mount.log.read_text(), 20, wake=wake)
    named.write_text("")
    assert tree(mount.path) == {"d": BASE["d"]}


def test_a_killed_daemon_leaves_a_mount_that_the_next_one_replaces(
    union: Mounts[UnionMount],
) -> None:
    mount = union(BASE)
    (mount / "file").write_text("changed")
    mount.kill()
    with pytest.raises(OSError, match="Transport endpoint is not connected"):
        os.listdir(mount.path)
    mount.mount()
    for when in three_times(mount):
        assert (mount / "file").read_text() == "changed", when
    assert linux.mounts_below(mount.path) == [mount.path]


def test_what_was_synced_outlives_the_daemon(union: Mounts[UnionMount]) -> None:
    content = random.Random(9).randbytes(3 << 20)
    mount = union(BASE)
    descriptors = []
    for name in ("file", "new", "d/e/b"):
        descriptors.append(os.open(mount / name, os.O_CREAT | os.O_RDWR))
        os.write(descriptors[-1], content)
        os.fsync(descriptors[-1])
    os.rename(mount / "d", mount / "moved")
    (mount / "moved" / "a").unlink()
    mount.kill()
    for descriptor in descriptors:
        with pytest.raises(OSError, match="Transport endpoint is not connected"):
            os.close(descriptor)
    mount.mount()
    for when in three_times(mount):
        assert sorted(os.listdir(mount.path)) == ["file", "moved", "new"], when
        assert os.listdir(mount / "moved") == ["e"], when
        for name in ("file", "new", "moved/e/b"):
            assert (mount / name).read_bytes() == content, when


def test_a_copy_up_that_was_cut_short_leaves_the_file_as_it_was(
    union: Mounts[UnionMount],
) -> None:
    content = os.urandom(1 << 20) * 400
    mount = union({"file": content, "other": "other"})

    def copy_up() -> None:
        with contextlib.suppress(OSError):
            os.close(os.open(mount / "file", os.O_RDWR))

    def copies() -> bool:
        return any(not path.is_dir() for path in mount.work.rglob("*"))

    thread = threading.Thread(target=copy_up)
    below = [path for path in mount.work.rglob("*") if path.is_dir()]
    with linux.watched(mount.work, *below) as wake:
        thread.start()
        begun = linux.wait_for(copies, 20, wake=wake)
    mount.kill()
    thread.join()
    assert begun
    mount.mount()
    left = [path for path in mount.work.rglob("*") if not path.is_dir()]
    assert sum(path.lstat().st_size for path in left) < 1 << 20
    with open(mount / "file", "rb") as file:
        while piece := file.read(1 << 20):
            assert piece == content[: 1 << 20]
        assert file.tell() == len(content)
    for when in three_times(mount):
        assert (mount / "other").read_text() == "other", when


def _replace(path: Path) -> None:
    temporary = path.with_name(f"temporary{path.name}")
    temporary.write_text("after")
    os.rename(temporary, path)


# Each with what a name and its moved name may hold before it is done, and what they hold then.
_WORK: list[tuple[Callable[[Path], object], set[tuple[str | None, str | None]]]] = [
    # Opened with O_TRUNC, then written: the program's own two steps.
    (lambda path: path.write_text("after"), {("before", None), ("", None), ("after", None)}),
    (Path.unlink, {("before", None), (None, None)}),
    (
        lambda path: path.rename(path.with_name(f"moved{path.name}")),
        {("before", None), (None, "before")},
    ),
    (_replace, {("before", None), ("after", None)}),
]
_DONE = [("after", None), (None, None), (None, "before"), ("after", None)]


@pytest.mark.parametrize("seed", range(4))
def test_the_end_may_come_at_any_time(union: Mounts[UnionMount], seed: int) -> None:
    """Each name is as it was or as it was to be, whatever went on when the daemon ended."""
    count = 200
    mount = union({"d": {str(number): "before" for number in range(count)}})
    begun = threading.Event()
    ends = random.Random(seed).randrange(10, 150)

    def work() -> None:
        with contextlib.suppress(OSError):
            for number in range(count):
                _WORK[number % 4][0](mount / "d" / str(number))
                if number == ends:
                    begun.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(20)
    mount.kill()
    thread.join()
    mount.mount()
    for when in three_times(mount):
        shown = tree(mount / "d")
        for number in range(count):
            found = (shown.get(str(number)), shown.get(f"moved{number}"))
            allowed = {_DONE[number % 4]} if number <= ends else _WORK[number % 4][1]
            assert found in allowed, (number, ends, when)
