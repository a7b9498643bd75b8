"""What goes on when the daemon or the machine ends: operations, each with the layers it meets."""

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.support import linux
from tests.support.acls import acl
from tests.support.layers import (
    FIFO,
    WHITEOUT,
    Directory,
    File,
    HardLink,
    Node,
    Symlink,
    Tree,
    opaque,
    redirect,
)

Operation = Callable[[Path], object]
SYNCED = "synced"


@dataclass(frozen=True)
class Case:
    """An operation and the layers that it meets; `middle` lies between the lower and the upper.

    for_kernel: whether overlayfs knows the marks in these. options: those of the mount.
    fills: whether a metacopy file of several names gets its content, which has to be done in place.

    The operation is one change of the mount, or a generator with a yield after each but its last:
    of SYNCED, if all that was done until then is to be on the disk.
    """

    operation: Operation
    lower: Tree = field(default_factory=dict)
    upper: Tree = field(default_factory=dict)
    middle: Tree = field(default_factory=dict)
    for_kernel: bool = True
    options: tuple[str, ...] = ()
    fills: bool = False


def steps(operation: Operation, root: Path) -> Iterator[object]:
    """Do it, with a stop after each change."""
    result = operation(root)
    if isinstance(result, Iterator):
        yield from result
    yield None


# Programs of several changes


def _write(name: str, flags: int = 0) -> Operation:
    """Open, write and sync. An opening for writing alone changes nothing that is seen."""

    def operation(root: Path) -> Iterator[object]:
        with linux.opened(root / name, os.O_RDWR | flags) as descriptor:
            if flags:
                yield None
            os.pwrite(descriptor, b"changed", 5000)
            yield None
            os.fsync(descriptor)
            yield SYNCED

    return operation


def _chmod_and_sync(name: str) -> Operation:
    """Through a descriptor that is open for reading only."""

    def operation(root: Path) -> Iterator[object]:
        with linux.opened(root / name) as descriptor:
            os.fchmod(descriptor, 0o700)
            yield None
            os.fsync(descriptor)
            yield SYNCED

    return operation


def _chmod_and_write(name: str) -> Operation:
    """Have a metacopy made, and filled."""

    def operation(root: Path) -> Iterator[object]:
        (root / name).chmod(0o700)
        yield None
        with linux.opened(root / name, os.O_RDWR) as descriptor:
            os.pwrite(descriptor, b"changed", 5000)
            yield None
            os.fsync(descriptor)
            yield SYNCED

    return operation


def _chmod_and_cut(root: Path) -> Iterator[object]:
    (root / "d" / "file").chmod(0o700)
    yield None
    os.truncate(root / "d" / "file", 4500)


def _replace(root: Path) -> Iterator[object]:
    """As an editor saves a file."""
    temporary, name = root / "d" / "file.tmp", root / "d" / "file"
    with linux.opened(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as descriptor:
        yield None
        os.write(descriptor, b"saved")
        yield None
        os.fsync(descriptor)
        yield SYNCED
    os.rename(temporary, name)
    yield None
    _sync_directory(root / "d")
    yield SYNCED


def _make_and_sync(root: Path) -> Iterator[object]:
    (root / "d" / "new").mkdir()
    yield None
    (root / "d" / "new" / "link").symlink_to("target")
    yield None
    _sync_directory(root / "d" / "new")
    yield SYNCED
    (root / "d" / "other").unlink()
    yield None
    _sync_directory(root / "d")
    yield SYNCED


def _remove_all_names(root: Path) -> Iterator[object]:
    # When the kernel forgets a file that nobody holds is chance, and so is what the daemon does.
    with linux.opened(root / "one", os.O_PATH):
        for name in ("two", "d/three"):
            (root / name).unlink()
            yield None
        (root / "one").unlink()


def _sync_directory(path: Path) -> None:
    with linux.opened(path, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
        os.fsync(descriptor)


def _remove_tree(root: Path) -> Iterator[object]:
    for name in ("d/sub/deep", "d/file"):
        (root / name).unlink()
        yield None
    (root / "d" / "sub").rmdir()
    yield None
    (root / "d").rmdir()
    yield None
    (root / "d").mkdir()


# One change each


def _rename(old: str, new: str, flags: int = 0) -> Operation:
    return lambda root: linux.renameat2(root / old, root / new, flags)


def _exchange(one: str, other: str) -> Operation:
    return _rename(one, other, linux.RENAME_EXCHANGE)


def _link(old: str, new: str) -> Operation:
    return lambda root: linux.linkat(os.fsencode(root / old), root / new, 0)


def _unlink(name: str) -> Operation:
    return lambda root: (root / name).unlink()


def _rmdir(name: str) -> Operation:
    return lambda root: (root / name).rmdir()


def _mkdir(name: str) -> Operation:
    return lambda root: (root / name).mkdir()


def _mknod(name: str, kind: int = stat.S_IFIFO, device: int = 0) -> Operation:
    return lambda root: os.mknod(root / name, kind | 0o640, device)


def _symlink(name: str) -> Operation:
    return lambda root: (root / name).symlink_to("target")


def _create(root: Path) -> None:
    with linux.opened(root / "d" / "new", os.O_CREAT | os.O_EXCL | os.O_WRONLY):
        pass


def _empty(root: Path) -> None:
    with linux.opened(root / "d" / "file", os.O_WRONLY | os.O_TRUNC):
        pass


def _truncate(size: int) -> Operation:
    return lambda root: os.truncate(root / "d" / "file", size)


def _chmod(name: str) -> Operation:
    return lambda root: (root / name).chmod(0o700)


def _chown(name: str) -> Operation:
    return lambda root: os.chown(root / name, 7, 8, follow_symlinks=False)


def _utime(name: str) -> Operation:
    return lambda root: os.utime(root / name, ns=(1, 2_000_000_003), follow_symlinks=False)


def _setxattr(name: str) -> Operation:
    return lambda root: os.setxattr(root / name, "user.new", b"value")


WITHOUT_CONTENT = ("metacopy=on",)
CONTENT = b"0123456\n" * 1500
FILE = File(CONTENT, mode=0o640, uid=1000, gid=1000, xattrs={"user.u": b"1", "trusted.t": b"2"})
CAPABLE = {"security.capability": b"\x01\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0"}
RESTRICTED = {"system.posix_acl_access": acl("u::rwx,u:7:r-x,g::r-x,m::r-x,o::---")}
PRIVILEGED = File(CONTENT, mode=0o4755, uid=1000, xattrs={**CAPABLE, **RESTRICTED})
METACOPY = File(
    size=len(CONTENT),
    mode=0o4750,
    uid=5,
    xattrs={"trusted.overlay.metacopy": b"", "user.x": b"y", **CAPABLE},
)
MOVED = {"trusted.overlay.metacopy": b"", "trusted.overlay.redirect": b"/file"}
PARENT = Directory({"file": FILE, "other": ""}, mode=0o2755, gid=1000, xattrs={"user.u": b"1"})
INHERITED = Directory(
    {"new": WHITEOUT},
    mode=0o2755,
    gid=1000,
    xattrs={"system.posix_acl_default": acl("u::rwx,u:7:r-x,g::r-x,m::r-x,o::---")},
)
LINKED: Tree = {"one": FILE, "two": HardLink("one"), "d": {"three": HardLink("one")}}
WAS_THERE: Tree = {"d": {"new": "below", "other": ""}}
DEEP: Tree = {"d": {"file": FILE, "sub": {"deep": "deep", "e": {}}}, "b": {}}
MIDDLE: Tree = {"d": Directory({"more": "more", "sub": {"m": ""}}, uid=3, xattrs={"user.m": b""})}
FULL = Directory({"x": WHITEOUT, "y": WHITEOUT}, mode=0o1770, uid=7, xattrs={"user.u": b"1"})
WITH_ACL = Directory({"x": WHITEOUT}, mode=0o770, xattrs=RESTRICTED)
NULL = Node(stat.S_IFCHR, 1, 3, mode=0o666, uid=4)

CASES = {
    # Copy-up
    "write a lower file": Case(_write("d/file"), {"d": PARENT}),
    "write a lower file of several names": Case(_write("two"), LINKED),
    "change a metacopy file's times": Case(_utime("file"), {"file": CONTENT}, {"file": METACOPY}),
    "write a renamed metacopy file": Case(
        _write("new"),
        {"file": CONTENT},
        {"file": WHITEOUT, "new": replace(METACOPY, xattrs=MOVED)},
    ),
    "write a file of a middle layer": Case(
        _write("d/file"), {"d": {"file": "base"}}, middle={"d": PARENT}
    ),
    "empty a lower file": Case(_empty, {"d": PARENT}),
    "empty and write a lower file": Case(_write("d/file", os.O_TRUNC), {"d": PARENT}),
    "shorten a lower file": Case(_truncate(4500), {"d": PARENT}),
    "lengthen a lower file": Case(_truncate(20000), {"d": PARENT}),
    "change a lower file's mode": Case(_chmod("a/b/c/file"), {"a": {"b": {"c": {"file": FILE}}}}),
    "change a lower file's owner": Case(_chown("d/file"), {"d": PARENT}),
    "change a privileged file's times": Case(_utime("file"), {"file": PRIVILEGED}),
    "set an attribute of a privileged file": Case(_setxattr("file"), {"file": PRIVILEGED}),
    "remove an attribute of a lower file": Case(
        lambda root: os.removexattr(root / "d" / "file", "user.u"), {"d": PARENT}
    ),
    "change the mode of a file of several names": Case(_chmod("d/three"), LINKED),
    "change a lower directory's mode": Case(_chmod("d/sub"), DEEP),
    "change a merged directory's owner": Case(_chown("d"), DEEP, middle=MIDDLE),
    "change a lower link's owner": Case(_chown("link"), {"link": Symlink("target")}),
    "change a lower link's times": Case(
        _utime("one"), {"one": Symlink("target"), "two": HardLink("one")}
    ),
    "change a lower fifo's mode": Case(_chmod("fifo"), {"fifo": FIFO}),
    "change a lower device's owner": Case(_chown("null"), {"null": NULL}),
    # Metacopies
    "change a file's mode and sync it": Case(
        _chmod_and_sync("d/file"), {"d": PARENT}, options=WITHOUT_CONTENT
    ),
    "change a privileged file's times, without its content": Case(
        _utime("file"), {"file": PRIVILEGED}, options=WITHOUT_CONTENT
    ),
    "change a file's mode and write": Case(
        _chmod_and_write("d/file"), {"d": PARENT}, options=WITHOUT_CONTENT
    ),
    "change a file of several names and write": Case(
        _chmod_and_write("d/three"), LINKED, options=WITHOUT_CONTENT, fills=True
    ),
    "change a file's mode and shorten it": Case(
        _chmod_and_cut, {"d": PARENT}, options=WITHOUT_CONTENT
    ),
    "rename a lower file without its content": Case(
        _rename("d/file", "new"), {"d": PARENT}, options=WITHOUT_CONTENT
    ),
    "rename one of a file's names, without its content": Case(
        _rename("one", "d/new"), LINKED, options=WITHOUT_CONTENT
    ),
    "give a lower file a name, without its content": Case(
        _link("d/file", "new"), {"d": PARENT}, options=WITHOUT_CONTENT
    ),
    "give a file of several names another, without its content": Case(
        _link("one", "new"), LINKED, options=WITHOUT_CONTENT
    ),
    "exchange two lower files without their content": Case(
        _exchange("d/file", "file"), {"d": PARENT, "file": "2"}, options=WITHOUT_CONTENT
    ),
    "remove one of a file's names, without its content": Case(
        _unlink("one"), LINKED, options=WITHOUT_CONTENT
    ),
    # New names
    "make a file": Case(_create, {"d": {}}),
    "make a file over a whiteout": Case(_create, WAS_THERE, {"d": INHERITED}),
    "make a file over a .wh. file": Case(
        _create, WAS_THERE, {"d": {".wh.new": ""}}, for_kernel=False
    ),
    "make a directory": Case(_mkdir("d/new"), {"d": PARENT}),
    "make a directory over a whiteout": Case(_mkdir("d/new"), WAS_THERE, {"d": INHERITED}),
    "make a directory over a removed one": Case(_mkdir("d"), DEEP, {"d": WHITEOUT}),
    "make a directory over a .wh. file": Case(_mkdir("d"), DEEP, {".wh.d": ""}, for_kernel=False),
    "make a link": Case(_symlink("d/new"), {"d": {}}),
    "make a link over a whiteout": Case(_symlink("d/new"), WAS_THERE, {"d": INHERITED}),
    "make a fifo": Case(_mknod("d/new"), {"d": {}}),
    "make a device over a whiteout": Case(
        _mknod("d/new", stat.S_IFBLK, os.makedev(7, 200)), WAS_THERE, {"d": INHERITED}
    ),
    "give a lower file a name": Case(_link("d/file", "new"), {"d": PARENT}),
    "give a lower link a name": Case(_link("link", "new"), {"link": Symlink("target")}),
    "give a file a name over a whiteout": Case(
        _link("file", "d/new"), WAS_THERE, {"file": FILE, "d": INHERITED}
    ),
    "give a file of several names another": Case(_link("one", "new"), LINKED),
    "give a file of several names one over a whiteout": Case(
        _link("one", "d/new"),
        {**LINKED, "d": {"new": "below", "three": HardLink("one")}},
        {"d": {"new": WHITEOUT}},
    ),
    # Programs
    "save a file as an editor does": Case(_replace, {"d": PARENT}),
    "make and remove names, and sync them": Case(_make_and_sync, WAS_THERE, {"d": INHERITED}),
    "remove a tree and make its root anew": Case(
        _remove_tree, {"d": {"file": FILE, "sub": {"deep": "deep"}}}, {"d": {"sub": {"deep": "2"}}}
    ),
    # Names taken away
    "remove a lower file": Case(_unlink("d/file"), {"d": PARENT}),
    "remove an upper file": Case(_unlink("file"), {}, {"file": FILE}),
    "remove a file of both": Case(_unlink("file"), {"file": "1"}, {"file": FILE}),
    "remove a file of both, beside its .wh. file": Case(
        _unlink("file"), {"file": "1"}, {"file": FILE, ".wh.file": ""}, for_kernel=False
    ),
    "remove a lower link": Case(_unlink("link"), {"link": Symlink("target")}),
    "remove a lower fifo": Case(_unlink("d/fifo"), {"d": {"fifo": FIFO}}),
    "remove one of a file's names": Case(_unlink("one"), LINKED),
    "remove all of a file's names": Case(_remove_all_names, LINKED),
    "remove a lower directory": Case(_rmdir("d/sub/e"), DEEP),
    "remove an upper directory": Case(_rmdir("d"), {}, {"d": {}}),
    "remove a directory of both": Case(_rmdir("d"), {"d": {}}, {"d": Directory(uid=5)}),
    "remove a directory of whiteouts": Case(
        _rmdir("d"), {"d": {"x": "", "y": ""}}, {"d": FULL}, {"d": {"y": "middle"}}
    ),
    "remove an opaque directory": Case(_rmdir("d"), {"d": {"a": ""}}, {"d": opaque({})}),
    "remove an upper directory of whiteouts": Case(_rmdir("d"), {}, {"d": FULL}),
    # Files moved
    "rename a lower file": Case(_rename("d/file", "new"), {"d": PARENT}),
    "rename a privileged file beside itself": Case(_rename("one", "new"), {"one": PRIVILEGED}),
    "rename an upper file": Case(_rename("file", "d/new"), {"d": {}}, {"file": FILE}),
    "rename a file of both": Case(_rename("file", "d/new"), {"file": "1", "d": {}}, {"file": FILE}),
    "rename an upper file over a lower one": Case(
        _rename("file", "d/file"), {"d": PARENT}, {"file": "new"}
    ),
    "rename a lower file over an upper one": Case(
        _rename("d/file", "file"), {"d": PARENT}, {"file": "old"}
    ),
    "rename a lower file over a lower one": Case(
        _rename("d/file", "file"), {"d": PARENT, "file": "old"}
    ),
    "rename an upper file over a whiteout": Case(
        _rename("file", "d/new"), WAS_THERE, {"file": FILE, "d": INHERITED}
    ),
    "rename a lower file over a whiteout": Case(
        _rename("file", "d/new"), {**WAS_THERE, "file": FILE}, {"d": INHERITED}
    ),
    "rename a file over a .wh. file": Case(
        _rename("file", "d/new"),
        {**WAS_THERE, "file": FILE},
        {"d": {".wh.new": ""}},
        for_kernel=False,
    ),
    "rename a lower file to a free name": Case(
        _rename("d/file", "new", linux.RENAME_NOREPLACE), {"d": PARENT}
    ),
    "rename one of a file's names": Case(_rename("one", "d/new"), LINKED),
    "rename over one of a file's names": Case(_rename("file", "one"), {**LINKED, "file": "other"}),
    "rename one of a file's names over another's": Case(
        _rename("one", "other"), {**LINKED, "other": "other", "again": HardLink("other")}
    ),
    "rename a link over a fifo": Case(
        _rename("link", "fifo"), {"link": Symlink("target"), "fifo": FIFO}
    ),
    # Directories moved
    "rename a lower directory": Case(_rename("d", "b/new"), DEEP),
    "rename a directory beside itself": Case(_rename("d/sub", "d/new"), DEEP),
    "rename a merged directory": Case(_rename("d", "b/new"), DEEP, {"d": PARENT}, MIDDLE),
    "rename a renamed directory": Case(
        _rename("b/new", "new"), DEEP, {"d": WHITEOUT, "b": {"new": redirect({}, "/d")}}
    ),
    "rename a renamed directory back": Case(
        _rename("b/new", "d"), DEEP, {"d": WHITEOUT, "b": {"new": redirect({}, "/d")}}
    ),
    "rename an upper directory": Case(_rename("a", "b"), {}, {"a": {"file": FILE}}),
    "rename an upper directory into a merged one": Case(
        _rename("a", "d/new"), WAS_THERE, {"a": {"file": FILE}, "d": INHERITED}
    ),
    "rename an upper directory over a whiteout": Case(
        _rename("a", "d"), DEEP, {"a": {"file": FILE}, "d": WHITEOUT}
    ),
    "rename a lower directory over a whiteout": Case(_rename("d", "b"), DEEP, {"b": WHITEOUT}),
    "rename a directory over an empty lower one": Case(_rename("d", "b"), DEEP),
    "rename a directory over an empty upper one": Case(_rename("d", "new"), DEEP, {"new": {}}),
    "rename a directory over one of whiteouts": Case(
        _rename("a", "d"), {"a": {"file": ""}, "d": {"x": "", "y": ""}}, {"d": FULL}
    ),
    "rename a directory over one with an ACL": Case(
        _rename("a", "d"), {"d": {"x": ""}}, {"a": {"file": ""}, "d": WITH_ACL}
    ),
    "rename a directory over an opaque one": Case(
        _rename("a", "d"), {"a": {"file": ""}, "d": {"x": ""}}, {"d": opaque({})}
    ),
    # Names exchanged
    "exchange two lower files": Case(_exchange("d/file", "file"), {"d": PARENT, "file": "2"}),
    "exchange files of several names": Case(
        _exchange("one", "other"), {**LINKED, "other": "other", "again": HardLink("other")}
    ),
    "exchange an upper file and a lower link": Case(
        _exchange("file", "d/link"), {"d": {"link": Symlink("target")}}, {"file": FILE}
    ),
    "exchange a lower file and a lower directory": Case(
        _exchange("file", "b/d"), {"file": FILE, "b": {"d": {"inside": ""}}}
    ),
    "exchange two directories": Case(
        _exchange("a/one", "b/two"),
        {"a": {"one": {"inside": "1"}}, "b": {"two": {"inside": "2"}}},
        {"b": {"two": {"upper": "3"}}},
    ),
    "exchange a lower and an upper directory": Case(
        _exchange("d", "new"), DEEP, {"new": {"inside": FILE}}
    ),
}
