"""Owners that show as others: uidmapping=, gidmapping=, squash_to_*.

The measure is an idmapped mount of the kernel's (mount_setattr(2)), the same mapping on a plain
directory.
"""

import errno
import functools
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import linux
from tests.support.acls import DEFAULT, has_acl, set_acl
from tests.support.filesystems import FileSystems
from tests.support.layers import Directory, File, HardLink, Node, Symlink, build
from tests.support.mounts import COMMAND, Mounts, UnionMount, three_times
from tests.support.snapshots import differences, snapshot
from tests.support.unprivileged import Somebody, bind_idmapped

MAPPING = "100000:0:1000:5:5000:1"
NUMBERS = ("100000 0 1000", "5 5000 1")
OPTIONS = [f"uidmapping={MAPPING}", f"gidmapping={MAPPING}"]
ROOT, SEVEN, FAR, UNKNOWN = 100_000, 100_007, 5, 42  # as they are stored
OVERFLOW = 65534

LAYER = Directory(
    {
        "all": Directory(
            {
                "sevens": File("x", uid=SEVEN, gid=SEVEN),
                "fars": File("x", uid=FAR, gid=SEVEN, mode=0o664),
                "unknown": File("x", uid=UNKNOWN, gid=UNKNOWN, mode=0o666),
                "of_unknown_group": File("x", uid=SEVEN, gid=UNKNOWN, mode=0o6755),
                "link": Symlink("sevens", uid=FAR, gid=FAR),
                "fifo": Node(stat.S_IFIFO, uid=SEVEN, gid=FAR),
                "null": Node(stat.S_IFCHR, 1, 3, uid=SEVEN, gid=FAR),
                "one": File("linked", uid=SEVEN, gid=FAR),
                "two": HardLink("all/one"),
                "program": File("x", mode=0o6755, uid=SEVEN, gid=FAR),
            },
            mode=0o1777,
            uid=ROOT,
            gid=ROOT,
        ),
        "group": Directory({}, mode=0o2777, uid=FAR, gid=SEVEN),
        "unknowns": Directory({"x": File("", uid=SEVEN)}, mode=0o777, uid=UNKNOWN, gid=UNKNOWN),
        "acl": Directory({"file": File("x", uid=SEVEN, gid=SEVEN)}, uid=ROOT, gid=ROOT, mode=0o777),
    },
    uid=ROOT,
    gid=ROOT,
)
STORED_ACL = f"u::rwx,u:{FAR}:rw-,g::r--,g:{SEVEN}:r-x,m::rwx,o::---"


def _layer(root: Path) -> None:
    build(root, LAYER)
    set_acl(root / "acl" / "file", STORED_ACL)
    set_acl(root / "acl", f"u::rwx,u:{FAR}:rw-,g::r-x,g:{SEVEN}:rwx,m::rwx,o::rwx", DEFAULT)


Step = tuple[str, int, Callable[[Path], object]]


def _append(path: Path) -> None:
    with linux.opened(path, os.O_WRONLY | os.O_APPEND) as descriptor:
        os.write(descriptor, b"more")


def _steps() -> Iterator[Step]:
    """What each user does: a name for it, who they are in the mount, and the call."""
    for user in (0, 7, 999, 5000, 1234, OVERFLOW):
        yield from ((name, user, act) for name, act in _steps_of(f"new{user}"))
        for name in ("sevens", "fars", "unknown", "of_unknown_group", "null", "program"):
            yield from ((step, user, act) for step, act in _changes(Path("all", name)))
        for name, act in _last_steps_of(f"last{user}"):
            yield name, user, act
    yield "own the link", 0, lambda root: os.chown(root / "all/link", 7, 7, follow_symlinks=False)


def _steps_of(new: str) -> Iterator[tuple[str, Callable[[Path], object]]]:
    yield f"create {new}", lambda root: (root / "all" / new).write_text("")
    yield f"make {new}", lambda root: (root / "group" / new).mkdir()
    yield f"link {new}", lambda root: os.symlink("x", root / "group" / f"link-{new}")
    yield f"mkfifo {new}", lambda root: os.mkfifo(root / "acl" / f"fifo-{new}")
    yield f"inherit {new}", lambda root: (root / "acl" / new).mkdir()
    for number in (999, 5000, 1234):
        text = f"u::rw-,u:{number}:rw-,g::r--,m::rw-,o::r--"
        yield f"let {number}", functools.partial(_let, text)


def _let(text: str, root: Path) -> None:
    set_acl(root / "acl" / "file", text)


def _changes(path: Path) -> Iterator[tuple[str, Callable[[Path], object]]]:
    yield f"append {path}", lambda root: _append(root / path)
    yield f"chmod {path}", lambda root: (root / path).chmod(0o6755)
    yield f"touch {path}", lambda root: os.utime(root / path, ns=(1, 2))
    for owner in (0, 5000):
        yield f"give {path} to {owner}", functools.partial(_give, path, owner, -1)
        yield f"give {path} to group {owner}", functools.partial(_give, path, -1, owner)


def _give(path: Path, uid: int, gid: int, root: Path) -> None:
    os.chown(root / path, uid, gid)


def _last_steps_of(new: str) -> Iterator[tuple[str, Callable[[Path], object]]]:
    yield "rename", lambda root: os.rename(root / "all" / "fars", root / "all" / "sevens")
    yield "remove", lambda root: (root / "all" / "of_unknown_group").unlink()
    yield "remove in", lambda root: (root / "unknowns" / "x").unlink()
    yield "link two", lambda root: os.link(root / "all" / "two", root / "group" / f"hard-{new}")


def _result(root: Path, user: int, act: Callable[[Path], object]) -> str:
    with linux.user(user):
        try:
            act(root)
        except OSError as error:
            return errno.errorcode[error.errno or 0]
    return ""


def _owners(root: Path) -> dict[str, tuple[int, int]]:
    status = {str(path.relative_to(root)): path.lstat() for path in root.rglob("*")}
    return {name: (st.st_uid, st.st_gid) for name, st in status.items()}


def test_a_mapped_union_is_as_an_idmapped_mount(
    union: Mounts[UnionMount], filesystems: FileSystems, directory: Path
) -> None:
    """What is shown, what is stored, and who may do what, whether the upper has it or not."""
    numbers = Somebody(directory, NUMBERS)
    plain, idmapped = directory / "plain", filesystems.tmpfs()
    plain.mkdir()
    _layer(plain)
    upper = Directory({}, uid=ROOT, gid=ROOT)
    mount = union(_made, upper=upper, options=[*OPTIONS, "dev", "suid"])
    bind_idmapped(plain, idmapped, numbers.namespaces[0])
    try:
        assert differences(snapshot(mount.path), snapshot(idmapped)) == []
        for name, user, act in _steps():
            expected = _result(idmapped, user, act)
            assert (_result(mount.path, user, act), name) == (expected, name), user
        for when in three_times(mount):
            assert differences(snapshot(mount.path), snapshot(idmapped)) == [], when
    finally:
        linux.umount(idmapped)
        numbers.close()
    mount.options = ["dev", "suid"]
    mount.remount()
    assert differences(snapshot(mount.path), snapshot(plain)) == []


def _made(root: Path) -> None:
    root.mkdir(exist_ok=True)
    _layer(root)


def test_root_can_not_give_files_to_who_is_in_no_range(union: Mounts[UnionMount]) -> None:
    mount = union(LAYER, upper=Directory({}, uid=ROOT, gid=ROOT), options=OPTIONS)
    for number in (1234, OVERFLOW):
        for act in (
            functools.partial(_give, Path("all/sevens"), number, -1),
            functools.partial(_give, Path("all/sevens"), -1, number),
        ):
            assert _result(mount.path, 0, act) == "EOVERFLOW"
    assert list(mount.changes.iterdir()) == []


def test_an_acl_keeps_who_is_in_no_range(union: Mounts[UnionMount]) -> None:
    mount = union(LAYER, upper=Directory({}, uid=ROOT, gid=ROOT), options=OPTIONS)
    strange = f"u::rw-,u:{UNKNOWN}:rw-,g::r--,m::rw-,o::r--"
    set_acl(mount.layers[0] / "all" / "sevens", strange)
    for user in (UNKNOWN, OVERFLOW, 999):
        assert _result(mount.path, user, lambda root: _append(root / "all" / "sevens")) == "EACCES"
    _append(mount / "all" / "sevens")
    assert has_acl(mount.changes / "all" / "sevens", strange)


@pytest.mark.parametrize(
    ("options", "uid", "gid"),
    [
        (["squash_to_root"], 0, 0),
        (["squash_to_uid=7", "squash_to_gid=8"], 7, 8),
        (["squash_to_root", "squash_to_gid=8"], 0, 8),
        (["squash_to_gid=8", "squash_to_root"], 0, 8),
        ([*OPTIONS, "squash_to_root"], 0, 0),
    ],
)
def test_squashed_owners_show_as_one_and_stay(
    union: Mounts[UnionMount], options: list[str], uid: int, gid: int
) -> None:
    mount = union(LAYER, upper=Directory({}, uid=ROOT, gid=ROOT), options=options)
    stored = _owners(mount.layers[0])
    (mount / "all" / "by_root").write_text("")
    assert _result(mount.path, 7, lambda root: (root / "all" / "by_seven").mkdir()) == ""
    for path in (mount / "all" / "unknown", mount / "all" / "link", mount / "group"):
        os.chown(path, uid, gid, follow_symlinks=False)
        for other in ((uid + 1, -1), (-1, gid + 1), (uid, gid + 1)):
            with pytest.raises(PermissionError):
                os.chown(path, *other, follow_symlinks=False)
        os.utime(path, follow_symlinks=False)
    for when in three_times(mount):
        assert set(_owners(mount.path).values()) == {(uid, gid)}, when
    ids = {7: SEVEN, 0: ROOT} if set(OPTIONS) < set(options) else {7: 7, 0: 0}
    stored |= {f"all/by_{name}": (ids[n], ids[n]) for name, n in (("root", 0), ("seven", 7))}
    assert _owners(mount.changes).items() <= stored.items()
    assert {"all/unknown", "all/link", "group", "all/by_seven"} <= _owners(mount.changes).keys()


def test_a_user_owns_what_is_squashed_to_them(union: Mounts[UnionMount]) -> None:
    """The kernel checks permissions by the owners that show."""
    layer = {"file": File("x", mode=0o600, uid=UNKNOWN, gid=UNKNOWN), "d": Directory({}, uid=FAR)}
    mount = union(layer, options=["squash_to_uid=7", "squash_to_gid=7"])
    for user, result in ((8, "EACCES"), (7, "")):
        assert _result(mount.path, user, lambda root: _append(root / "file")) == result
        assert _result(mount.path, user, lambda root: (root / "d" / "new").mkdir()) == result
    assert _owners(mount.changes) == {"file": (UNKNOWN, UNKNOWN), "d": (FAR, 0), "d/new": (7, 7)}


def test_mounting_looks_at_nothing_but_the_roots(union: Mounts[UnionMount], tmp_path: Path) -> None:
    """However large the layers are: owners are translated when they are asked for."""
    calls = tmp_path / "calls"
    strace = ("strace", "-f", "-qq", "-s", "256", "-e", "trace=%file,%desc", "-o", str(calls))
    mount = union({"in the layer": {"file": ""}}, options=OPTIONS, command=(*strace, *COMMAND))
    assert "in the layer" not in calls.read_text()
    (mount / "in the layer" / "file").stat()
    assert "in the layer" in calls.read_text()
