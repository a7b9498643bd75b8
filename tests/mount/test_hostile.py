"""Layers, processes and users that mean harm: what docs/security.md promises."""

import errno
import fcntl
import json
import os
import re
import stat
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.support import linux
from tests.support.acls import ACCESS as ACL
from tests.support.acls import DEFAULT, acl
from tests.support.command import SECONDS, UNIONMOUNT, Command, has_ended, mounted_below
from tests.support.filesystems import FileSystems
from tests.support.layers import (
    FIFO,
    OPAQUE_NAMESPACES,
    Directory,
    File,
    HardLink,
    Item,
    Symlink,
    Tree,
    build,
    copies,
    redirect,
)
from tests.support.mounts import KernelMount, Mount, Mounts, UnionMount, three_times
from tests.support.snapshots import differences, snapshot, tree
from tests.support.unprivileged import ME, Somebody
from unionfs.driver import mounts

SECRET = "the content of a file outside"


class Outside:
    """A directory that no layer has, whose files must neither change nor show."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "outside"
        (self.path / "dir").mkdir(parents=True)
        for name in ("passwd", "dir/passwd"):
            (self.path / name).write_text(SECRET)
            (self.path / name).chmod(0o640)
        self._before = self._state()

    def _state(self) -> object:
        times = {path: path.lstat().st_ctime_ns for path in self.path.rglob("*")}
        return snapshot(self.path), times, self.path.stat().st_ctime_ns

    def check(self) -> None:
        assert self._state() == self._before

    def check_not_shown(self, mount: Mount) -> None:
        """No file that the mount itself has holds the content (links are not followed)."""
        for directory, _, names in os.walk(mount.path):
            for path in (Path(directory, name) for name in names):
                if stat.S_ISREG(path.lstat().st_mode):
                    with suppress(OSError):
                        assert SECRET.encode() not in path.read_bytes(), path


@pytest.fixture
def outside(directory: Path) -> Iterator[Outside]:
    made = Outside(directory)
    yield made
    made.check()


def _result(act: Callable[[], object]) -> str:
    """What an attempt came to: the name of its error, or what it answered."""
    try:
        return f"done: {act()}"
    except OSError as error:
        return errno.errorcode[error.errno or 0]


# Links


def _links(outside: Path) -> dict[str, Item]:
    above = "../" * 40 + str(outside)[1:]
    return {
        "absolute": Symlink(f"{outside}/passwd"),
        "directory": Symlink(f"{outside}/dir"),
        "above": Symlink(f"{above}/passwd"),
        "descriptor": Symlink("/proc/self/fd/0"),
        "root": Symlink(f"/proc/self/root{outside}/dir"),
        "loop": Symlink("loop"),
        "nowhere": Symlink(f"{outside}/new"),
    }


def _replace_by_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "passwd").write_text("inside")


def test_links_are_changed_and_never_followed(union: Mounts[UnionMount], outside: Outside) -> None:
    links = _links(outside.path)
    changes: dict[str, Callable[[Path], object]] = {
        "times": lambda path: os.utime(path, ns=(1, 1), follow_symlinks=False),
        "owner": lambda path: os.chown(path, 1000, 1000, follow_symlinks=False),
        "attribute": lambda path: os.setxattr(path, "trusted.x", b"", follow_symlinks=False),
        "link": lambda path: os.link(path, path.with_name(f"{path.name}2"), follow_symlinks=False),
        "rename": lambda path: path.rename(path.with_name(f"{path.name}2")),
        "remove": lambda path: path.unlink(),
        "replace": _replace_by_directory,
    }
    mount = union(copies(links, changes), upper=copies(links, ["upper"]))
    for name in links:
        for change, act in {**changes, "upper": changes["times"]}.items():
            act(mount / change / name)
    for when in three_times(mount):
        for change in ("times", "owner", "attribute", "upper"):
            for name, link in links.items():
                assert isinstance(link, Symlink)
                assert os.readlink(mount / change / name) == link.target, (name, when)
        outside.check_not_shown(mount)
    for path in mount.changes.rglob("*"):
        assert path.is_symlink() or not path.is_file() or path.name == "passwd", path


def test_a_link_stands_in_no_directorys_way(union: Mounts[UnionMount], outside: Outside) -> None:
    """As a part of what merges, beside marks, as a marker, and where the union has to make one."""
    link = Symlink(str(outside.path / "dir"))
    mount = union(
        {"above": {"a": "base"}, "below": link, "between": {"b": "base"}, "opaque": {"o": ""}},
        {"between": link, "opaque": {".wh..wh..opq": link}, "gone": {"g": ""}, ".wh.above": link},
        {"above": link, "below": {"c": "top"}, "between": {"d": "top"}, "gone": {".wh.g": link}},
        upper={"opaque": {}, "gone": {}},
    )
    for when in three_times(mount):
        assert tree(mount.path) == {
            "above": f"-> {link.target}",
            "below": {"c": "top"},
            "between": {"d": "top"},
            "gone": {},
            "opaque": {},
        }, when
    (mount / "above").unlink()
    for name in ("above", "below/passwd", "between/passwd", "gone/passwd", "opaque/passwd"):
        path = mount / name
        path.mkdir()
        (path / "passwd").write_text("inside")
    for when in three_times(mount):
        assert tree(mount / "above") == tree(mount / "below/passwd") == {"passwd": "inside"}, when
    outside.check_not_shown(mount)


@contextmanager
def _exchanging(pairs: list[tuple[Path, Path]], position: list[int]) -> Iterator[None]:
    """Have the two of the pair at `position` change their names, over and over."""
    stopped = threading.Event()

    def exchange() -> None:
        while not stopped.is_set():
            linux.renameat2(*pairs[position[0]], linux.RENAME_EXCHANGE)

    thread = threading.Thread(target=exchange)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


@pytest.mark.parametrize("where", ["lower", "upper"])
def test_a_directory_that_becomes_a_link_while_it_is_walked(
    union: Mounts[UnionMount], outside: Outside, where: str
) -> None:
    count = 200
    names = [str(number) for number in range(count)]
    layer: Tree = {
        **{name: {"dir": {"passwd": "inside"}} for name in names},
        **{f"link{name}": Symlink(str(outside.path)) for name in names},
    }
    other: Tree = {"other": ""}
    lower, upper = (layer, other) if where == "lower" else (other, layer)
    mount = union(lower, upper=upper, expected_errors=["."])
    changed = mount.layers[0] if where == "lower" else mount.changes
    pairs = [(changed / name, changed / f"link{name}") for name in names]
    position = [0]
    seen = set()
    with _exchanging(pairs, position):
        for number, name in enumerate(names):
            position[0] = number
            # Not through a link that the mount shows: that one is the caller's to follow.
            with suppress(OSError), linux.opened(mount / name, os.O_DIRECTORY | os.O_NOFOLLOW) as d:
                for _ in range(5):
                    with suppress(OSError), linux.opened_at(d, "dir/passwd") as file:
                        seen.add(os.read(file, 100))
                    with suppress(OSError), linux.opened_at(d, "new", os.O_CREAT | os.O_WRONLY):
                        pass
                    with suppress(OSError):
                        os.chmod("dir/passwd", 0o604, dir_fd=d)
    assert seen == {b"inside"}
    assert (mount / "other").read_text() == ""


@pytest.mark.parametrize("where", ["lower", "upper"])
def test_a_file_that_becomes_a_fifo_holds_nobody_up(union: Mounts[UnionMount], where: str) -> None:
    layer: Tree = {"file": "content", "written": "content", "fine": "fine"}
    layers: list[Tree] = [layer, {}] if where == "lower" else [{}, layer]
    mount = union(layers[0], upper=layers[1])
    changed = mount.layers[0] if where == "lower" else mount.changes
    opened = []
    # By name, the mount may show the FIFO by then, and whoever opens it waits for its other end.
    with (
        linux.opened(mount / "file", os.O_PATH) as file,
        linux.opened(mount / "written", os.O_PATH) as written,
    ):

        def use() -> None:
            opened.append(_result(Path(f"/proc/self/fd/{file}").read_bytes))
            opened.append(_result(lambda: Path(f"/proc/self/fd/{written}").write_text("x")))

        for name in ("file", "written"):
            (changed / name).unlink()
            os.mkfifo(changed / name)
        thread = threading.Thread(target=use)
        thread.start()
        thread.join(SECONDS)
        held_up = thread.is_alive()
    for name in ("file", "written"):
        # Whoever waits for the other end gets it.
        with suppress(OSError), linux.opened(changed / name, os.O_RDWR | os.O_NONBLOCK):
            thread.join(5)
    assert not held_up
    assert not any(result.startswith("done: b") for result in opened)
    assert (mount / "fine").read_text() == "fine"


def test_special_files_that_vanish_while_they_are_listed_hide_nothing(
    union: Mounts[UnionMount],
) -> None:
    count = 60
    fifos: Tree = {f"fifo{number}": FIFO for number in range(100)}
    mount = union({str(number): {**fifos, "stays": ""} for number in range(count)})
    position = [0]
    stopped = threading.Event()

    def remove() -> None:
        while not stopped.is_set():
            directory = mount.layers[0] / str(position[0])
            for number in range(100):
                (directory / f"fifo{number}").unlink(missing_ok=True)

    thread = threading.Thread(target=remove)
    thread.start()
    try:
        for number in range(count):
            position[0] = number
            assert "stays" in os.listdir(mount / str(number))
    finally:
        stopped.set()
        thread.join()


# Marks in layers


def test_redirects_that_loop_or_lead_nowhere_end(
    union: Mounts[UnionMount], kernel: Mounts[KernelMount], outside: Outside
) -> None:
    middle: Tree = {
        "a": redirect({"2": ""}, "/b"),
        "b": redirect({"2": ""}, "/a"),
        "self": redirect({"2": ""}, "self"),
        "into": redirect({"in": redirect({"2": ""}, "/into")}, "/into/in"),
        "up": redirect({"2": ""}, "/self"),
        "tofile": redirect({"2": ""}, "/file"),
        "tolink": redirect({"2": ""}, "/link"),
        "through": redirect({"2": ""}, "/link/dir"),
        "long": redirect({"2": ""}, "/" + "n" * 255),
        # Of no meaning on what is no directory and no metacopy.
        "plain": File("plain", xattrs={"trusted.overlay.redirect": b"/file"}),
        "huge": redirect({"2": ""}, "/" + "a/" * 1500 + "a"),
    }
    bottom: Tree = {
        "file": "file",
        "link": Symlink(str(outside.path)),
        **{name: {"1": ""} for name in ("a", "b", "self")},
        "into": {"1": "", "in": {"1": ""}},
    }
    layers = (bottom, middle, {**middle, "self": redirect({"3": ""}, "self")})
    ours, theirs = union(*layers), kernel(*layers, options=["metacopy=on"])
    expected = tree(theirs.path)
    for when in three_times(ours):
        assert tree(ours.path) == expected, when
        outside.check_not_shown(ours)


_SPOOFED = {
    "origin": b"\0\xfb" + b"\xff" * 40,
    "nlink": b"U-99",
    "impure": b"y",
    "protattr": b"\1\2a",
    "uuid": b"\0" * 16,
    "upper": b"\xff" * 20,
    "unionmount.number": b"1",
    "unionmount.index": b"../../etc/passwd",
    "overlay.opaque": b"y",
    "overlay.redirect": b"/../outside",
    "": b"",
}
_MARKS = {
    f"{namespace}.{mark}": value
    for namespace in OPAQUE_NAMESPACES
    for mark, value in _SPOOFED.items()
}
_OPAQUES = [f"{namespace}.opaque" for namespace in OPAQUE_NAMESPACES]
_ODD_OPAQUES = [b"Y", b"y\0", b"yes", b"", b"\xff" * 1000]


def _work_on(mount: Mount) -> None:
    (mount / "file").write_text("changed")
    (mount / "a").write_text("changed")
    os.link(mount / "b", mount / "c")
    (mount / "gone").unlink()
    os.rename(mount / "dir", mount / "moved")
    (mount / "moved" / "new").mkdir()


def test_marks_spoofed_in_a_layer_change_nothing(union: Mounts[UnionMount]) -> None:
    def layer(marks: dict[str, bytes], odd: list[bytes]) -> Tree:
        opaques = {
            f"dir{number}": Directory({"in": ""}, xattrs=dict.fromkeys(_OPAQUES, value))
            for number, value in enumerate(odd)
        }
        return {
            "file": File("file", mode=0o640, xattrs=marks),
            "a": File("linked", xattrs=marks),
            "b": HardLink("a"),
            "gone": File("gone", xattrs=marks),
            "dir": Directory({"in": File("in", xattrs=marks)}, xattrs=marks),
            **(opaques or {f"dir{number}": {"in": ""} for number in range(len(_ODD_OPAQUES))}),
        }

    hidden: dict[str, Item] = {f"dir{number}": {"base": ""} for number in range(len(_ODD_OPAQUES))}
    base: Tree = {"dir": {"base": ""}, "file": "hidden", **hidden}
    spoofed, plain = union(base, layer(_MARKS, _ODD_OPAQUES)), union(base, layer({}, []))
    expected = snapshot(plain.path)
    assert differences(snapshot(spoofed.path), expected) == []
    for mount in (spoofed, plain):
        _work_on(mount)
    expected = snapshot(plain.path)
    for when in three_times(spoofed):
        assert differences(snapshot(spoofed.path), expected) == [], when


def test_marks_that_an_ordinary_user_can_set_lead_nowhere(both: Mounts[Mount]) -> None:
    """In root's mount: the kernel says it of metacopy in overlayfs.rst."""
    base: Tree = {
        "etc": {"shadow": File(SECRET, mode=0o600)},
        "root": Directory({"notes": SECRET}, mode=0o700),
    }
    to_file = {"user.overlay.metacopy": b"", "user.overlay.redirect": b"/etc/shadow"}
    hers: Tree = {
        "file": File(size=len(SECRET), uid=1000, mode=0o600, xattrs=to_file),
        "dir": Directory({}, uid=1000, xattrs={"user.overlay.redirect": b"/root"}),
        "etc": Directory({"shadow": File(size=9, uid=1000, xattrs=to_file)}, uid=1000),
    }
    mount = both(base, {"home": Directory(hers, uid=1000)})
    with linux.user(1000):
        for name in ("file", "dir/notes", "etc/shadow"):
            assert SECRET not in _result((mount / "home" / name).read_text), name


# Marks through the mount

_NEARLY = ["overlay", "overlayx.opaque", "Overlay.opaque", "over", "fuseoverlayfs", "fuse"]


@pytest.mark.parametrize("uid", [0, 1000])
def test_no_call_reaches_a_mark(union: Mounts[UnionMount], uid: int) -> None:
    trusted = {name: value for name, value in _MARKS.items() if name.startswith("trusted.")}
    entries: Tree = {
        "file": File("file", uid=1000, xattrs=_MARKS | {"user.overlay": b"kept"}),
        "dir": Directory({"in": ""}, uid=1000, xattrs=_MARKS | {"user.overlay": b"kept"}),
        "link": Symlink("file", uid=1000, xattrs=trusted),
    }
    mount = union({"lower": entries}, upper={"upper": entries})
    names = [*_MARKS, "trusted.overlay.new", "user.overlay.new"]
    before = snapshot(mount.path)
    with linux.user(uid) if uid else nullcontext():
        for where in ("lower", "upper"):
            for name in entries:
                for mark in names:
                    _try_mark(mount / where / name, mark)
    assert snapshot(mount.path) == before
    assert os.listdir(mount.changes) == ["upper"]


def _try_mark(path: Path, mark: str) -> None:
    """By every call, on the entry itself and through a descriptor."""
    targets: list[Path | int] = [path]
    with ExitStack() as stack:
        if not path.is_symlink():
            targets.append(stack.enter_context(linux.opened(path)))
        for target in targets:
            follow = isinstance(target, int)
            assert mark not in os.listxattr(target, follow_symlinks=follow)
            acts: list[Callable[[], object]] = [
                partial(os.getxattr, target, mark, follow_symlinks=follow),
                partial(os.removexattr, target, mark, follow_symlinks=follow),
                *(
                    partial(os.setxattr, target, mark, b"y", flags, follow_symlinks=follow)
                    for flags in (0, linux.XATTR_CREATE, linux.XATTR_REPLACE)
                ),
            ]
            for act in acts:
                assert _result(act) in ("EPERM", "ENODATA"), (path, act)


def test_names_that_only_resemble_marks_are_names(union: Mounts[UnionMount]) -> None:
    mount = union({"file": "", "dir": {}})
    names = [f"{kind}.{rest}" for kind in ("user", "trusted") for rest in _NEARLY]
    for path in (mount / "file", mount / "dir"):
        for name in names:
            os.setxattr(path, name, b"y")
    for when in three_times(mount):
        for path in (mount / "file", mount / "dir"):
            assert {name: os.getxattr(path, name) for name in os.listxattr(path)} == dict.fromkeys(
                names, b"y"
            ), when


# What a user may


@pytest.mark.kernel_differs("it copies up for names of system. that it then refuses")
@pytest.mark.parametrize("name", ["system.new", "system.nfs4_acl"])
def test_an_attribute_that_is_refused_copies_nothing(both: Mounts[Mount], name: str) -> None:
    mount = both({"dir": {"file": File("", mode=0o600), "read": File("", mode=0o644)}})
    with linux.user(1000):
        for file in ("file", "read"):
            with pytest.raises(OSError, match=r"."):
                os.setxattr(mount / "dir" / file, name, b"")
            with pytest.raises(OSError, match=r"."):
                os.removexattr(mount / "dir" / file, name)
    assert os.listdir(mount.changes) == []


_LIST = "u::rwx,u:1000:rwx,g::---,m::rwx,o::---"
_STICKY: Tree = {
    "root": File("root's", mode=0o666),
    "other": File("another's", mode=0o666, uid=1001),
    "own": File("own", uid=ME),
    "fifo": replace(FIFO, mode=0o666, uid=1001),
    "link": Symlink("other", uid=1001),
    "dir": Directory({}, uid=1001, mode=0o777),
    "mine": Directory({}, uid=ME),
}
ACCESS: Tree = {
    "private": File("root's", mode=0o600, xattrs={"user.x": b"1"}),
    "group": File("a group's", mode=0o640, gid=2000),
    "public": File("all's", mode=0o644),
    "shared": File("all's", mode=0o666, xattrs={"user.x": b"1"}),
    "own": File("own", mode=0o600, uid=1000, gid=1000),
    "readonly": File("own", mode=0o444, uid=1000, gid=1000),
    "suid": File("#!/bin/sh\n", mode=0o6777),
    "closed": Directory({"in": File("in", mode=0o666)}, mode=0o700),
    "passed": Directory({"in": File("in", mode=0o666)}, mode=0o711),
    "open": Directory({"in": "in", "dir": Directory({"deep": "deep"}, mode=0o700)}, mode=0o777),
    "setgid": Directory({"in": "in"}, mode=0o2777, gid=2000),
    "sticky": Directory(_STICKY, mode=0o1777),
}


def _replace(source: Path, target: Path) -> None:
    _made(source)
    os.rename(source, target)


def _made(path: Path, flags: int = os.O_CREAT | os.O_EXCL, mode: int = 0o6777) -> str:
    """Make a file; answers what it was given."""
    with linux.opened(path, flags | os.O_WRONLY | os.O_NONBLOCK, mode):
        status = path.stat()
    return f"{stat.filemode(status.st_mode)} {status.st_uid} {status.st_gid}"


_ON_FILES: dict[str, Callable[[Path], object]] = {
    "read": Path.read_text,
    "write": lambda path: path.write_text("x"),
    "truncate": lambda path: os.truncate(path, 0),
    "touch": os.utime,
    "times": lambda path: os.utime(path, ns=(1, 1)),
    "chmod": lambda path: path.chmod(0o6755),
    "chown": lambda path: os.chown(path, ME, -1),
    "chgrp": lambda path: os.chown(path, -1, 2000),
    "get attribute": lambda path: os.getxattr(path, "user.x"),
    "set attribute": lambda path: os.setxattr(path, "user.x", b""),
    "set list": lambda path: os.setxattr(path, ACL, acl(_LIST)),
    "link": lambda path: os.link(path, path.parent / "open" / path.name),
    "rename": lambda path: os.rename(path, path.parent / "open" / path.name),
    "remove": Path.unlink,
    "run": lambda path: os.access(path, os.X_OK, effective_ids=True),
}
_IN_DIRECTORIES: dict[str, Callable[[Path], object]] = {
    "list": lambda path: sorted(os.listdir(path)),
    "read in": lambda path: (path / "in").read_text(),
    "write in": lambda path: (path / "in").write_text("x"),
    "create in": lambda path: _made(path / "new"),
    "create set-group-ID in": lambda path: _made(path / "new", mode=0o2770),
    "make directory in": lambda path: (path / "new").mkdir(),
    "make link in": lambda path: (path / "new").symlink_to("in"),
    "make FIFO in": lambda path: os.mkfifo(path / "new"),
    "make device in": lambda path: os.mknod(path / "new", stat.S_IFCHR, os.makedev(1, 3)),
    "remove from": lambda path: (path / "in").unlink(),
    "replace in": lambda path: _replace(path.parent / "open" / f"for {path.name}", path / "in"),
    "set attribute of": lambda path: os.setxattr(path, "user.x", b""),
    "set default list of": lambda path: os.setxattr(path, DEFAULT, acl(_LIST)),
    "remove directory": Path.rmdir,
    "rename directory": lambda path: os.rename(path, path.with_name(f"{path.name}2")),
    "move directory": lambda path: os.rename(path, path.parent / "setgid" / "new"),
}
_IN_STICKY: dict[str, Callable[[Path], object]] = {
    "remove sticky": lambda path: path.rmdir() if path.is_dir() else path.unlink(),
    "rename sticky": lambda path: os.rename(path, path.with_name(f"{path.name}2")),
    "replace sticky": lambda path: _replace(path.with_name(f"for {path.name}"), path),
    "open to create sticky": lambda path: _made(path, os.O_CREAT),
    "link sticky": lambda path: os.link(path, f"{path}2", follow_symlinks=False),
    "set attribute of sticky": lambda path: os.setxattr(path, "user.x", b""),
    "create in sticky": lambda path: _made(path / "new"),
    "read sticky": lambda path: path.is_fifo() or path.read_text(),
}
_ON_EACH = (
    (_ON_FILES, [name for name, entry in ACCESS.items() if isinstance(entry, File)]),
    (_IN_DIRECTORIES, [name for name, entry in ACCESS.items() if isinstance(entry, Directory)]),
    (_IN_STICKY, [f"sticky/{name}" for name in _STICKY]),
)


def _attempts(root: Path) -> dict[str, Callable[[], object]]:
    """What may be allowed or not; each kind has a copy of the tree in `root`."""
    return {
        f"{kind}: {name}": partial(act, root / kind / name)
        for acts, names in _ON_EACH
        for kind, act in acts.items()
        for name in names
    }


_Attempts: TypeAlias = Callable[[Path], dict[str, Callable[[], object]]]


class _Subjects:
    """Who tries: a user, one who is in a group, and root of a user namespace of theirs."""

    def __init__(self, directory: Path) -> None:
        self._namespace = Somebody(directory, ids=[f"0 {ME} 1"])

    def outcomes(self, subject: str, mount: Mount, attempts: _Attempts) -> dict[str, str]:
        """What each of the attempts came to."""
        file = self._namespace.home / "outcomes"

        def make() -> None:
            outcomes = {label: _result(act) for label, act in attempts(mount.path).items()}
            file.write_text(json.dumps(outcomes))

        if subject == "root of a user namespace":
            self._namespace.run(make)
        else:
            with linux.user(ME, groups=(2000,) if subject == "member" else ()):
                make()
        made: dict[str, str] = json.loads(file.read_text())
        file.unlink()
        return made

    def close(self) -> None:
        self._namespace.close()


@pytest.fixture
def subjects(directory: Path) -> Iterator[Callable[[], _Subjects]]:
    """Call it when all is mounted that they should see."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(closing(_Subjects(directory)))


@pytest.mark.parametrize("subject", ["user", "member", "root of a user namespace"])
def test_every_access_is_decided_as_by_the_kernel(
    union: Mounts[UnionMount],
    kernel: Mounts[KernelMount],
    subjects: Callable[[], _Subjects],
    subject: str,
) -> None:
    layer = copies(ACCESS, [kind for acts, _ in _ON_EACH for kind in acts])
    mount, oracle = union(layer), kernel(layer)
    who = subjects()
    ours = who.outcomes(subject, mount, _attempts)
    theirs = who.outcomes(subject, oracle, _attempts)
    assert {
        label: (ours[label], theirs[label]) for label in theirs if ours[label] != theirs[label]
    } == {}
    done = sum(outcome.startswith("done") for outcome in ours.values())
    assert min(done, len(ours) - done) > 60
    shown = snapshot(oracle.path, lists_whiteouts=True)
    assert differences(snapshot(mount.path, lists_whiteouts=True), shown) == []


@pytest.mark.parametrize("lower", [True, False])
def test_capabilities_set_in_a_user_namespace_count_only_there(
    both: Mounts[Mount], subjects: Callable[[], _Subjects], lower: bool
) -> None:
    """CVE-2021-3493: who is root of a user namespace made programs privileged outside of it."""
    own: Tree = {"own": File("program", uid=1000, gid=1000, mode=0o755)}
    mount = both(own if lower else {}, upper={} if lower else own)
    permitted = struct.pack("<IIIII", 0x02000001, 1 << 21, 0, 0, 0)

    def grant(root: Path) -> dict[str, Callable[[], object]]:
        return {"": lambda: os.setxattr(root / "own", "security.capability", permitted)}

    who = subjects()
    assert who.outcomes("user", mount, grant) == {"": "EPERM"}
    assert who.outcomes("root of a user namespace", mount, grant) == {"": "done: None"}
    # struct vfs_ns_cap_data: revision 3, and the user whom it takes for root.
    bound = struct.pack("<IIIIII", 0x03000001, 1 << 21, 0, 0, 0, 1000)
    for path in (mount / "own", mount.changes / "own"):
        assert os.getxattr(path, "security.capability") == bound


def test_the_daemon_and_its_scratch_are_closed_to_users(union: Mounts[UnionMount]) -> None:
    mount = union({"file": File("secret", mode=0o600)})
    with linux.opened(mount / "file", os.O_RDWR), linux.user(1000):
        for path in (mount.work / "work", mount.work / "index", f"/proc/{mount.pid}/fd"):
            assert _result(partial(os.listdir, path)) == "EACCES", path
        for name in ("root", "cwd", "exe"):
            assert _result(partial(os.readlink, f"/proc/{mount.pid}/{name}")) == "EACCES", name


# Odd files


def test_a_file_as_large_as_can_be(both: Mounts[Mount], filesystems: FileSystems) -> None:
    size = (1 << 63) - 1 - (1 << 12)
    lower = filesystems.tmpfs()
    (lower / "file").write_bytes(b"begin")
    os.truncate(lower / "file", size)
    mount = both(lower)
    changes: dict[str, Callable[[], object]] = {
        "chmod": lambda: (mount / "file").chmod(0o600),
        "open": lambda: os.close(os.open(mount / "file", os.O_RDWR)),
        "rename": lambda: os.rename(mount / "file", mount / "renamed"),
    }
    assert {label: _result(act) for label, act in changes.items()} == dict.fromkeys(
        changes, "EFBIG"
    )
    assert (mount / "file").stat().st_size == size
    with linux.opened(mount / "file") as descriptor:
        assert os.pread(descriptor, 10, 0) == b"begin" + bytes(5)
        assert os.pread(descriptor, 10, size - 5) == bytes(5)
    (mount / "file").write_bytes(b"whole")
    for when in three_times(mount):
        assert (mount / "file").read_bytes() == b"whole", when


def test_an_attribute_that_the_upper_has_no_room_for(
    both: Mounts[Mount], filesystems: FileSystems
) -> None:
    lower = filesystems.tmpfs()
    (lower / "file").write_text("content")
    os.setxattr(lower / "file", "trusted.big", b"x" * 60_000)
    mount = both(lower)
    with pytest.raises(OSError, match=r"No space left|Argument list too long"):
        (mount / "file").chmod(0o600)
    for when in three_times(mount):
        assert (mount / "file").read_text() == "content", when
        assert os.getxattr(mount / "file", "trusted.big") == b"x" * 60_000, when


@pytest.mark.parametrize("seconds", [10**18, -(10**18)])
def test_times_far_from_now(both: Mounts[Mount], filesystems: FileSystems, seconds: int) -> None:
    lower = filesystems.tmpfs()
    (lower / "file").write_text("content")
    (lower / "other").write_text("other")
    os.utime(lower / "file", ns=(seconds * 10**9, seconds * 10**9))
    mtime = (lower / "file").stat().st_mtime
    mount = both(lower)
    assert (mount / "file").stat().st_mtime == mtime
    (mount / "file").chmod(0o600)
    for when in three_times(mount):
        assert tree(mount.path) == {"file": "content", "other": "other"}, when


def test_users_may_use_layers_without_access_lists(
    union: Mounts[UnionMount], directory: Path
) -> None:
    lower = directory / "lower"
    lower.mkdir()
    linux.mount("ramfs", lower, "ramfs", data=b"mode=755")
    try:
        build(lower, {"file": "content", "private": File("root's", mode=0o600), "dir": {"in": ""}})
        mount = union(lower)
    finally:
        # The union has a view of its own.
        linux.umount(lower)
    with linux.user(1000):
        assert (mount / "file").read_text() == "content"
        assert os.listdir(mount / "dir") == ["in"]
        with pytest.raises(PermissionError):
            (mount / "private").read_text()


# What somebody hands over as upper or work directory


def test_an_acl_on_the_work_directory_gives_nothing_to_anyone(
    both: Mounts[Mount], directory: Path
) -> None:
    work = directory / "work"
    work.mkdir()
    os.setxattr(work, DEFAULT, acl("u::rwx,u:1000:rwx,g::r-x,m::rwx,o::r-x"))
    secret = File("secret", mode=0o640, gid=42)
    mount = both(
        {"dir": {"secret": secret, "linked": HardLink("dir/secret")}, "gone": ""}, work=work
    )
    os.utime(mount / "dir" / "secret", ns=(1, 1))
    (mount / "gone").unlink()
    (mount / "gone").mkdir(0o750)
    for when in three_times(mount):
        with linux.user(1000):
            assert _result((mount / "dir" / "secret").read_text) == "EACCES", when
            assert _result(partial(os.listdir, mount / "gone")) == "EACCES", when
        for name in ("dir", "dir/secret", "gone"):
            assert os.listxattr(mount / name) == [], (name, when)


def test_set_group_id_on_the_work_directory_gives_no_group(
    both: Mounts[Mount], directory: Path
) -> None:
    work = directory / "work"
    work.mkdir()
    os.chown(work, 0, 2000)
    work.chmod(0o2775)
    layer: Tree = {"file": "", "dir": {}, "copied": {"in": ""}}
    mount = both({"open": Directory(layer, mode=0o777)}, work=work)
    with linux.user(1000):
        (mount / "open" / "file").unlink()
        (mount / "open" / "file").touch()
        (mount / "open" / "dir").rmdir()
        (mount / "open" / "dir").mkdir()
    (mount / "open" / "copied" / "in").write_text("")
    for when in three_times(mount):
        for name, (mode, gid) in {
            "file": (0o644, 1000),
            "dir": (0o755, 1000),
            "copied": (0o755, 0),
            "copied/in": (0o644, 0),
        }.items():
            status = (mount / "open" / name).stat()
            assert (stat.S_IMODE(status.st_mode), status.st_gid) == (mode, gid), (name, when)


def _plant(path: Path, uid: int) -> None:
    path.mkdir()
    path.chmod(0o777)
    os.chown(path, uid, uid)


@pytest.mark.parametrize("planted", ["work", "index"])
def test_a_work_directory_of_somebody_else_is_refused(unionmount: Command, planted: str) -> None:
    """They could put another file in place of a copy that is being made."""
    work = unionmount.directory / "upper.work"
    for path in (work, work / planted):
        _plant(path, 1000)
    done = unionmount("--upper", "upper", "base", "mount")
    assert done.returncode == 1
    assert f"{work / planted} belongs to user 1000" in done.stderr
    assert mounted_below(unionmount.directory) == []


@pytest.mark.parametrize("planted", ["", "work", "index", "work/incompat"])
def test_a_work_directory_that_is_a_link_is_refused(
    unionmount: Command, outside: Outside, planted: str
) -> None:
    link = unionmount.directory / "upper.work" / planted
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(outside.path)
    for options in ([], ["-o", "volatile"]):
        done = unionmount(*options, "--upper", "upper", "base", "mount")
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert mounted_below(unionmount.directory) == []


def test_the_owner_of_the_upper_may_own_the_work_directory(unionmount: Command) -> None:
    for name in ("upper.work", "upper.work/work", "upper.work/index"):
        _plant(unionmount.directory / name, 1000)
    os.chown(unionmount.directory / "upper", 1000, 1000)
    unionmount.mounts("--upper", "upper", "base", "mount")
    (unionmount.directory / "mount" / "file").write_text("changed")
    for name in ("work", "index"):
        mode = (unionmount.directory / "upper.work" / name).stat().st_mode
        assert stat.S_IMODE(mode) & 0o077 == 0, name


def test_a_work_directory_deeper_than_any_stack_is_swept(unionmount: Command) -> None:
    work = unionmount.directory / "upper.work" / "work"
    work.mkdir(parents=True)
    with linux.opened(work) as top:
        descriptor = os.dup(top)
        for _ in range(1500):
            os.mkdir("below", dir_fd=descriptor)
            with linux.opened_at(descriptor, "below") as below:
                os.dup2(below, descriptor)
        os.close(descriptor)
    unionmount.mounts("--upper", "upper", "base", "mount")
    assert os.listdir(work) == []


def _indexed(union: Mounts[UnionMount], filesystems: FileSystems) -> tuple[UnionMount, Path]:
    """A union, unmounted, with a hard-linked file in its upper; and that file's index entry."""
    # On a file system with room for any value of an attribute.
    place = filesystems.tmpfs()
    (place / "upper").mkdir()
    mount = union(
        {"a": "linked", "b": HardLink("a"), "c": "plain"},
        upper=place / "upper",
        work=place / "work",
    )
    (mount / "a").write_text("changed")
    assert (mount / "b").read_text() == "changed"
    mount.unmount()
    (entry,) = (mount.work / "index").iterdir()
    return mount, entry


@pytest.mark.parametrize(
    "value", [b"U+99999999999999999999", b"U-99", b"U+" + b"9" * 4500, b"L-99", b"U+", b"", b"\xff"]
)
def test_a_spoofed_link_count_hides_nothing(
    union: Mounts[UnionMount], filesystems: FileSystems, value: bytes
) -> None:
    mount, entry = _indexed(union, filesystems)
    os.setxattr(entry, "trusted.overlay.nlink", value)
    mount.mount()
    assert tree(mount.path) == {"a": "changed", "b": "changed", "c": "plain"}
    assert (mount / "c").stat().st_nlink == 1
    for name in "abc":
        (mount / name).unlink()
    mount.remount()
    assert os.listdir(mount.path) == []


@pytest.mark.parametrize("kind", [stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_an_index_entry_of_another_kind_hides_nothing(
    union: Mounts[UnionMount], filesystems: FileSystems, outside: Outside, kind: int
) -> None:
    mount, entry = _indexed(union, filesystems)
    for path in (entry, mount.changes / "a", mount.changes / "b"):
        path.unlink(missing_ok=True)
    if kind == stat.S_IFDIR:
        entry.mkdir()
    elif kind == stat.S_IFLNK:
        entry.symlink_to(outside.path / "passwd")
    else:
        os.mknod(entry, kind | 0o666, os.makedev(1, 5))
    mount.mount()
    for name in "ab":
        for act in (
            lambda path: os.utime(path, follow_symlinks=False),
            lambda path: os.chown(path, 1, 1, follow_symlinks=False),
            lambda path: os.rename(path, f"{path}2"),
        ):
            _result(partial(act, mount / name))
    outside.check_not_shown(mount)
    assert "c" in os.listdir(mount.path)
    assert (mount / "c").read_text() == "plain"


def test_spoofed_numbers_hide_nothing(union: Mounts[UnionMount]) -> None:
    numbers = [1 << 64, (1 << 64) - 1, (1 << 64) - 1, 1 << 63, 1 << 63, 2, 1, 0, *[77] * 1000]
    upper = {
        str(place): File(str(number), xattrs={"trusted.overlay.unionmount.number": b"%d" % number})
        for place, number in enumerate(numbers)
    }
    mount = union({"base": ""}, upper=upper)
    found = {os.fsencode(path.name): path.stat().st_ino for path in mount.path.iterdir()}
    assert len(found) == len(set(found.values())) == len(numbers) + 1
    listed = {entry.name: entry.ino for entry in linux.list_directory(mount.path)}
    assert {name: listed[name] for name in found} == found


def test_a_whiteout_directory_of_an_upper_gives_way(union: Mounts[UnionMount]) -> None:
    mount = union(
        {"file": "base", "dir": {"base": ""}},
        upper={".wh.file": {"in": {"below": ""}}, ".wh.dir": {}},
    )
    (mount / "file").write_text("new")
    (mount / "dir").mkdir()
    for when in three_times(mount):
        assert tree(mount.path) == {"file": "new", "dir": {}}, when


# The command, its records and its log


def test_a_name_is_one_line_wherever_it_is_told(unionmount: Command) -> None:
    name = "a\n2001-02-03 ERROR forged \x1b[31m\udcff"
    point = unionmount.directory / name
    point.mkdir()
    (point / "covered").touch()
    (unionmount.directory / "base" / name).mkdir()
    os.setxattr(unionmount.directory / "base" / name, "trusted.overlay.redirect", b"a\n/b")
    said = unionmount.mounts("-v", "--log", "log", "base", name)
    listed = unionmount("--list").stdout
    assert os.listdir(point) == ["file"]
    ended = unionmount.daemon(name)
    linux.umount(point)
    assert has_ended(ended)
    log = (unionmount.directory / "log").read_bytes().decode()
    assert "is left out of a listing" in log
    for text in (said, listed, log):
        assert "forged" in text
        assert not re.search(r"^2001|[\x00-\x09\x0b-\x1f\x7f\ud800-\udfff]", text, re.MULTILINE)


def test_a_record_of_another_user_harms_nobody(
    unionmount: Command, filesystems: FileSystems
) -> None:
    users = filesystems.tmpfs(Path("/run/user"))
    unionmount.mounts("base", "mount")
    union = mounts.visible_at(os.fsencode(unionmount.directory / "mount"))
    assert union is not None
    upper = str(unionmount.directory / "upper")
    forged = {
        "mountpoint": "/",
        "layers": ["/forged"],
        "upper": upper,
        "work": upper,
        "process": -1,
    }
    files: list[tuple[int, Callable[[Path], object]]] = [
        (1000, lambda path: path.write_text(json.dumps(forged))),
        (1001, lambda path: path.write_text(json.dumps({**forged, "process": 1 << 70}))),
        # What the one who mounted may have put there.
        (0, lambda path: path.write_text("[" * 200_000)),
        (0, lambda path: File(size=1 << 40).make(path, users)),
        (0, os.mkfifo),
        (0, lambda path: path.symlink_to("/dev/zero")),
        (0, lambda path: path.mkdir()),
    ]
    with ExitStack() as locks:
        for number, (uid, make) in enumerate(files):
            path = users / str(number) / "unionmount" / f"{union.device}.json"
            path.parent.mkdir(parents=True)
            make(path)
            os.chown(path, uid, uid, follow_symlinks=False)
            if not path.is_symlink():
                locked = locks.enter_context(linux.opened(path, os.O_RDONLY | os.O_NONBLOCK))
                fcntl.flock(locked, fcntl.LOCK_EX)
        listed = unionmount("--list")
        assert (listed.returncode, listed.stderr) == (0, "")
        assert f"layer    {unionmount.directory / 'base'}\n" in listed.stdout
        assert "forged" not in listed.stdout
        (unionmount.directory / "other").mkdir()
        fcntl.flock(locks.enter_context(linux.opened(upper)), fcntl.LOCK_EX)
        line = unionmount.refuses("--upper", "upper", "base", "other")
        assert "in use by another mount" in line


def test_records_are_kept_in_no_directory_of_somebody_else(directory: Path) -> None:
    user = Somebody(directory)
    (directory / "base").mkdir()

    def mount_and_unmount() -> None:
        for name in ("run", "precious", "mount"):
            Path(name).mkdir()
        Path("precious/file").write_text("precious")
        Path("precious/0:1.json").write_text("precious")
        Path("run/unionmount").symlink_to("../precious")
        environment = {**os.environ, "XDG_RUNTIME_DIR": str(Path("run").absolute())}
        for command in ([UNIONMOUNT, "../base", "mount"], ["fusermount3", "-u", "mount"]):
            subprocess.run(command, env=environment, check=True, timeout=SECONDS)
        assert tree(Path("precious")) == {"file": "precious", "0:1.json": "precious"}

    try:
        user.run(mount_and_unmount)
    finally:
        user.close()
