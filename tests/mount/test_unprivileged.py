"""Without privileges: an ordinary user with fusermount3, and root of a user namespace.

What the tests' bodies do is done by Somebody; what is on the disk is looked at from outside, where
owners have their true numbers.
"""

import contextlib
import errno
import functools
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import linux
from tests.support.acls import ACCESS, acl, has_acl, set_acl
from tests.support.command import Command, mounted_below
from tests.support.filesystems import FileSystems
from tests.support.layers import (
    Directory,
    File,
    HardLink,
    Node,
    Symlink,
    Tree,
    build,
    is_whiteout,
)
from tests.support.mounts import Mounts, UnionMount
from tests.support.snapshots import differences, snapshot, tree
from tests.support.unprivileged import ME, Somebody, mine

USER: tuple[str, ...] = ()
SINGLE = (f"0 {ME} 1",)
WIDE = (f"0 {ME} 1", "1 100000 65535")
NAMES = {USER: "user", SINGLE: "root of one id", WIDE: "root of 65536 ids"}
STRANGER = 500  # has no number in the namespaces
NOBODY = 165533  # has the number in WIDE that stands for all who have none


def by(*who: tuple[str, ...]) -> pytest.MarkDecorator:
    """Run a test as each of them."""
    params = [pytest.param(one, id=NAMES[one]) for one in who]
    return pytest.mark.parametrize("somebody", params, indirect=True)


@pytest.fixture
def somebody(request: pytest.FixtureRequest, directory: Path) -> Iterator[Somebody]:
    """Who a test is about; its layers are built in a directory beside their home."""
    made = Somebody(directory, request.param)
    yield made
    made.close()


@pytest.fixture
def system(directory: Path, filesystems: FileSystems) -> Path:
    """A layer with the programs of this machine; to be asked for before `somebody`."""
    places: Tree = {"proc": {}, "sys": {}, "dev": {}, "etc": {"resolv.conf": ""}}
    layer = build(directory / "system", mine(places))
    for source in (Path("/", name) for name in ("usr", "bin", "lib", "lib64")):
        if source.is_symlink():
            (layer / source.name).symlink_to(source.readlink())
        elif source.exists():
            filesystems.bind(source, layer / source.name)
    return layer


@dataclass
class UsersMount(UnionMount):
    """One that an ordinary user unmounts."""

    def unmount(self) -> None:
        subprocess.run(["fusermount3", "-u", self.path], check=True)
        self.wait()


@contextlib.contextmanager
def mounting() -> Iterator[Callable[..., UnionMount]]:
    """As the fixture `union`, for whoever runs it, in the working directory."""
    kind = UnionMount if os.geteuid() == 0 else UsersMount
    upper = Directory({}, uid=os.geteuid(), gid=os.getegid())
    with contextlib.closing(Mounts(kind, Path.cwd())) as mounts:
        yield functools.partial(mounts, upper=upper)


@contextlib.contextmanager
def overlayfs(*layers: Path, upper: Path, work: Path) -> Iterator[Path]:
    """The kernel's own, as root of a user namespace may mount it."""
    point = Path("overlay").absolute()
    point.mkdir(exist_ok=True)
    lower = ":".join(map(str, reversed(layers)))
    data = f"userxattr,xino=on,lowerdir={lower},upperdir={upper},workdir={work}"
    linux.mount("overlay", point, "overlay", data=data.encode())
    try:
        yield point
    finally:
        linux.umount(point)


def result_of(act: Callable[[], object]) -> str:
    """What became of it: the name of its error, or nothing."""
    try:
        act()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ""


def append(path: Path) -> None:
    with linux.opened(path, os.O_WRONLY | os.O_APPEND) as descriptor:
        os.write(descriptor, b"more")


def seen(directory: Path) -> dict[str, tuple[int, ...]]:
    """What needs no right to read: mode, link count, owner, size and time of each name."""
    status = {path.name: path.lstat() for path in directory.iterdir()}
    return {
        name: (st.st_mode, st.st_nlink, st.st_uid, st.st_gid, st.st_size, st.st_mtime_ns)
        for name, st in status.items()
    }


# Changes

BASE: Tree = {
    "file": File("content", xattrs={"user.u": b"1"}),
    "private": File("secret", mode=0o600),
    "gone": "gone",
    "merged": {"a": "base", "b": "base", "deep": {"c": ""}},
    "removed": {"a": ""},
    "again": {"a": ""},
    "h1": "linked",
    "h2": HardLink("h1"),
    "d": Directory({"h3": HardLink("h1"), "x": ""}, mode=0o1777),
    "link": Symlink("file"),
    "fifo": Node(stat.S_IFIFO),
    "program": File("", mode=0o6755),
}
TOP: Tree = {"merged": {"b": "top", "e": "top"}}


def _work(root: Path) -> None:
    append(root / "file")
    append(root / "private")
    (root / "gone").unlink()
    for name in ("removed", "again"):
        (root / name / "a").unlink()
        (root / name).rmdir()
    (root / "again").mkdir(0o750)
    (root / "again" / "new").write_text("new")
    (root / "merged" / "b").unlink()
    (root / "merged" / "a").chmod(0o640)
    os.utime(root / "link", ns=(1, 2), follow_symlinks=False)
    (root / "fifo").chmod(0o600)
    (root / "program").chmod(0o4711)
    os.setxattr(root / "d", "user.d", b"\0")
    os.symlink("nowhere", root / "broken")
    os.mkfifo(root / "pipe")
    os.truncate(root / "d" / "x", 100_000)
    os.rename(root / "d" / "x", root / "merged" / "e")


def _change(root: Path) -> None:
    """The same, and what the kernel can't do in a user namespace."""
    _work(root)
    append(root / "h2")
    (root / "d" / "h3").unlink()
    os.link(root / "h1", root / "h4")
    os.rename(root / "merged" / "deep", root / "merged" / "renamed")
    os.rename(root / "merged", root / "d" / "moved")
    (root / "d" / "moved" / "renamed" / "c").write_text("changed")
    os.rename(root / "d" / "moved" / "renamed", root / "again" / "deep")


def _work_more(root: Path) -> None:
    (root / "gone").mkdir()
    (root / "again" / "new").unlink()
    (root / "again").rmdir()
    (root / "removed").write_text("a file now")
    append(root / "merged" / "e")
    (root / "broken").unlink()
    os.rename(root / "pipe", root / "again")


def _change_more(root: Path) -> None:
    os.rename(root / "d" / "moved", root / "merged")
    os.rename(root / "again" / "deep", root / "merged" / "deep")
    append(root / "h1")
    (root / "h2").unlink()
    _work_more(root)


@by(USER, SINGLE, WIDE)
def test_changes_are_as_in_a_plain_directory_and_last(somebody: Somebody, directory: Path) -> None:
    layers = [build(directory / "base", mine(BASE)), build(directory / "top", mine(TOP))]
    for entries in (BASE, TOP):
        build(somebody.home / "plain", mine(entries))

    def body() -> None:
        _change(plain := Path("plain"))
        expected = snapshot(plain)
        with mounting() as union:
            mount = union(*layers)
            _change(mount.path)
            assert differences(snapshot(mount.path), expected) == []
            mount.remount()
            assert differences(snapshot(mount.path), expected) == []
            _change_more(mount.path)
            _change_more(plain)
            mount.remount()
            assert differences(snapshot(mount.path), snapshot(plain)) == []

    somebody.run(body)
    assert {name.lstat().st_uid for name in somebody.home.rglob("*")} == {ME}
    assert tree(layers[1]) == TOP


@by(SINGLE, WIDE)
def test_the_kernel_and_the_union_take_turns(somebody: Somebody, directory: Path) -> None:
    layers = [build(directory / "base", mine(BASE)), build(directory / "top", mine(TOP))]

    def body() -> None:
        with mounting() as union:
            mount = union(*layers)
            _work(mount.path)
            expected = snapshot(mount.path)
            mount.unmount()
            with overlayfs(*layers, upper=mount.changes, work=mount.work) as theirs:
                assert differences(snapshot(theirs), expected) == []
                _work_more(theirs)
                expected = snapshot(theirs)
            mount.mount()
            assert differences(snapshot(mount.path), expected) == []
            (mount / "gone").rmdir()
            (mount / "gone").write_text("once more")
            expected = snapshot(mount.path)
            mount.unmount()
            with overlayfs(*layers, upper=mount.changes, work=mount.work) as theirs:
                assert differences(snapshot(theirs), expected) == []

    somebody.run(body)


@by(USER, SINGLE, WIDE)
def test_marks_are_in_user_attributes(somebody: Somebody, directory: Path) -> None:
    layer = build(directory / "base", mine({"d": {"a": ""}, "e": {"b": ""}}))

    def body() -> None:
        with mounting() as union:
            mount = union(layer)
            os.rename(mount / "d", mount / "f")
            (mount / "e" / "b").unlink()
            (mount / "e").rmdir()
            (mount / "e").mkdir()
            (mount / "f" / "a").chmod(0o600)

    somebody.run(body)
    (upper,) = somebody.home.glob("*/upper")
    names = {name for path in upper.rglob("*") for name in os.listxattr(path)}
    assert {"user.overlay.redirect", "user.overlay.opaque", "user.overlay.origin"} <= names
    assert all(name.startswith("user.overlay.") for name in names)
    assert is_whiteout(upper / "d")


@by(USER, SINGLE, WIDE)
def test_directories_that_their_owner_may_not_write(somebody: Somebody, directory: Path) -> None:
    locked = Directory({"in": "x", "d": {}}, mode=0o500)
    empty = Directory({}, mode=0o500)
    layer = build(
        directory / "base",
        mine({"a": locked, "b": locked, "gone": "", "c": empty, "e": {"f": {"g": ""}}}),
    )

    def body() -> None:
        with mounting() as union:
            mount = union(layer)
            (mount / "a").chmod(0o700)
            (mount / "a" / "in").write_text("changed")
            append(mount / "b" / "in")
            (mount / "b" / "d").chmod(0o700)
            (mount / "c").rmdir()
            (mount / "e" / "f" / "g").unlink()
            (mount / "e" / "f").chmod(0)
            (mount / "e" / "f").rmdir()
            (mount / "gone").unlink()
            (mount / "gone").mkdir(0o500)
            mount.remount()
            assert tree(mount.path) == {
                "a": {"in": "changed", "d": {}},
                "b": {"in": "xmore", "d": {}},
                "e": {},
                "gone": {},
            }
            for name in ("b", "gone"):
                assert (mount / name).stat().st_mode == 0o40500

    somebody.run(body)
    (work,) = somebody.home.glob("*/work/work")
    assert os.listdir(work) == []


@by(USER, SINGLE, WIDE)
def test_an_empty_directory_that_its_owner_may_read_no_more_can_be_removed(
    somebody: Somebody, directory: Path
) -> None:
    ways: dict[str, Callable[[Path], None]] = {
        "unread": lambda path: path.chmod(0o300),
        "unsearched": lambda path: path.chmod(0o600),
        "acl": lambda path: os.setxattr(path, ACCESS, acl("u::---,g::---,o::---")),
    }
    layer = build(directory / "base", mine({name: {"file": ""} for name in ways}))

    def body() -> None:
        with mounting() as union:
            mount = union(layer)
            for name, lock in ways.items():
                (mount / name / "file").unlink()
                lock(mount / name)
                (mount / name).rmdir()
            assert os.listdir(mount.path) == []

    somebody.run(body)


@by(USER, SINGLE, WIDE)
def test_files_that_their_owner_may_not_write(somebody: Somebody, directory: Path) -> None:
    """As git keeps its objects, with one more name for each clone."""
    read_only = File("x", mode=0o444)
    layer = build(directory / "base", mine({"one": read_only, "two": HardLink("one"), "d": {}}))

    def body() -> None:
        with mounting() as union:
            mount = union(layer)
            (mount / "one").unlink()
            os.rename(mount / "two", mount / "three")
            os.link(mount / "three", mount / "d" / "four")
            for _ in range(2):
                assert (mount / "three").stat().st_mode == 0o100444
                assert (mount / "three").stat().st_nlink == 2
                mount.remount()
            (mount / "three").unlink()
            assert (mount / "d" / "four").stat().st_nlink == 1

    somebody.run(body)


@by(USER, SINGLE, WIDE)
def test_files_whose_acl_takes_the_right_to_write(somebody: Somebody, directory: Path) -> None:
    layer = build(directory / "base", mine(dict.fromkeys("abc", File("x", mode=0o644))))
    for name in "abc":
        set_acl(layer / name, f"u::r--,u:{ME}:r--,g::r--,m::r--,o::r--")

    def body() -> None:
        with mounting() as union:
            mount = union(layer)
            (mount / "a").chmod(0o644)
            os.rename(mount / "b", mount / "d")
            os.link(mount / "c", mount / "e")
            assert sorted(os.listdir(mount.path)) == ["a", "c", "d", "e"]

    somebody.run(body)


# What can't be made


@by(USER, SINGLE, WIDE)
def test_no_device_can_be_made_or_copied(somebody: Somebody, directory: Path) -> None:
    kinds = {"character": stat.S_IFCHR, "block": stat.S_IFBLK}
    layer = build(
        directory / "base",
        mine({name: Node(kind, 1, 3) for name, kind in kinds.items()} | {"d": {}}),
    )

    def body() -> None:
        with mounting() as union:
            mount = union(layer, options=["dev"])
            before = snapshot(mount.path)
            for name, kind in kinds.items():
                for act in (
                    lambda kind=kind: os.mknod(mount / "new", kind | 0o600, os.makedev(1, 3)),
                    lambda name=name: (mount / name).chmod(0o600),
                    lambda name=name: os.utime(mount / name),
                    lambda name=name: os.rename(mount / name, mount / "d" / name),
                    lambda name=name: os.link(mount / name, mount / "d" / name),
                ):
                    assert result_of(act) == "EPERM"
            assert result_of(lambda: append(mount / "character")) == "EACCES"
            assert differences(snapshot(mount.path), before) == []
            (mount / "block").unlink()
            mount.remount()
            assert sorted(os.listdir(mount.path)) == ["character", "d"]

    somebody.run(body)
    (work,) = somebody.home.glob("*/work/work")
    assert os.listdir(work) == []


_REFUSED = {"EPERM", "EACCES", "EOVERFLOW"}
_WRONG_KIND = {"ENOTDIR", "EISDIR", "ENOENT"}  # such a change of a directory, say
_OWNERS = {
    "strangers": (STRANGER, STRANGER),
    "of_strange_group": (ME, STRANGER),
    "of_stranger_in_our_group": (STRANGER, ME),
    "nobodys_of_strange_group": (NOBODY, STRANGER),
}
_CHANGES: dict[str, Callable[[Path], object]] = {
    "append": append,
    "truncate": lambda path: os.truncate(path, 0),
    "chmod": lambda path: path.chmod(0o700),
    "touch": lambda path: os.utime(path, follow_symlinks=False),
    "chown": lambda path: os.chown(path, os.getuid(), os.getgid(), follow_symlinks=False),
    "chown to none": lambda path: os.chown(path, -1, -1, follow_symlinks=False),
    "attribute": lambda path: os.setxattr(path, "user.new", b"", follow_symlinks=False),
    "link": lambda path: os.link(path, path.with_name("new"), follow_symlinks=False),
    "rename": lambda path: os.rename(path, path.with_name("new")),
    "make in": lambda path: (path / "new").write_text("new"),
    "change in": lambda path: append(path / "file"),
    "remove in": lambda path: (path / "file").unlink(),
}


def _kinds(uid: int, gid: int) -> Tree:
    modes = (0o600, 0o644, 0o664, 0o666, 0o4755)
    files = {f"file{mode:o}": File("x", mode=mode, uid=uid, gid=gid) for mode in modes}
    inside = {"file": File("x", uid=ME, gid=ME, mode=0o666)}
    of_directories = (0o755, 0o777, 0o1777)
    directories = {
        f"d{mode:o}": Directory(inside, mode=mode, uid=uid, gid=gid) for mode in of_directories
    }
    return {**files, **directories, "link": Symlink("x", uid=uid, gid=gid)}


@by(USER, SINGLE, WIDE)
def test_no_owner_that_can_not_be_given_is_ever_changed(
    somebody: Somebody, directory: Path
) -> None:
    """Every change of every kind of file of others: refused, or the owner is what it was."""
    layer = build(
        directory / "base", mine({name: _kinds(*owner) for name, owner in _OWNERS.items()})
    )
    stored = {path.relative_to(layer): path.lstat() for path in layer.rglob("*")}

    def body() -> None:
        with mounting() as union:
            mount = union(layer)
            for path in sorted(mount.path.glob("*/*")):
                before = seen(path.parent)
                for name, change in _CHANGES.items():
                    result = result_of(lambda: change(path))  # noqa: B023
                    assert result in _REFUSED | _WRONG_KIND, (path, name)
                assert seen(path.parent) == before

    somebody.run(body)
    (upper,) = somebody.home.glob("*/upper")
    for path in upper.rglob("*"):
        there = stored[path.relative_to(upper)]
        assert path.lstat()[4:6] == there[4:6], path


@by(WIDE)
def test_what_is_really_nobodys_can_be_changed(somebody: Somebody, directory: Path) -> None:
    layer = build(directory / "base", mine({"file": File("x", uid=NOBODY, gid=NOBODY)}))

    def body() -> None:
        with mounting() as union:
            append(union(layer) / "file")

    somebody.run(body)
    (copy,) = somebody.home.glob("*/upper/file")
    assert copy.lstat()[4:6] == (NOBODY, NOBODY)


@by(USER, SINGLE, WIDE)
def test_owners_are_given_as_far_as_they_have_numbers(somebody: Somebody, directory: Path) -> None:
    layer = build(directory / "base", mine({"file": "x", "all": Directory({}, mode=0o1777)}))
    outside = {USER: "EPERM"}.get(tuple(somebody.ids), "EINVAL")
    inside = {USER: "EPERM", SINGLE: "EINVAL", WIDE: ""}[tuple(somebody.ids)]

    def body() -> None:
        with mounting() as union:
            mount = union(layer)
            before = seen(mount.path)
            for number in (70_000, 1 << 31):
                assert result_of(lambda: os.chown(mount / "file", number, -1)) == outside  # noqa: B023
                assert result_of(lambda: os.chown(mount / "file", -1, number)) == outside  # noqa: B023
            assert seen(mount.path) == before
            assert result_of(lambda: os.chown(mount / "file", 7, 8)) == inside
            if inside == "":
                with linux.user(33, 34):
                    (mount / "all" / "new").mkdir()
                    os.symlink("x", mount / "all" / "link")
                mount.remount()
                assert (mount / "file").stat()[4:6] == (7, 8)
                assert (mount / "all" / "link").lstat()[4:6] == (33, 34)

    somebody.run(body)
    if inside == "":
        (upper,) = somebody.home.glob("*/upper")
        assert (upper / "file").stat()[4:6] == (100_006, 100_007)
        for name in ("new", "link"):
            assert (upper / "all" / name).lstat()[4:6] == (100_032, 100_033)


@by(USER, SINGLE, WIDE)
def test_attributes_that_only_root_of_the_machine_has(somebody: Somebody, directory: Path) -> None:
    layer = build(
        directory / "base", mine({"file": File("x", xattrs={"trusted.t": b"", "user.u": b""})})
    )

    def body() -> None:
        with mounting() as union:
            mount = union(layer)
            for name in ("trusted.t", "trusted.new", "security.new", "user.overlay.opaque"):
                assert result_of(lambda: os.setxattr(mount / "file", name, b"")) == "EPERM", name  # noqa: B023
            append(mount / "file")
            mount.remount()
            assert os.listxattr(mount / "file") == ["user.u"]

    somebody.run(body)


CAPABILITIES = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw+ep


@by(USER, SINGLE, WIDE)
def test_capabilities_are_kept_or_refused(somebody: Somebody, directory: Path) -> None:
    program = File("x", mode=0o755)
    layer = build(directory / "base", mine({"program": program, "other": program}))
    os.setxattr(layer / "program", "security.capability", CAPABILITIES)
    result = "EPERM" if tuple(somebody.ids) == USER else ""

    def body() -> None:
        with mounting() as union:
            mount = union(layer)
            assert result_of(lambda: (mount / "program").chmod(0o700)) == result
            assert result_of(lambda: _give_capabilities(mount / "other")) == result
            mount.remount()
            assert os.getxattr(mount / "program", "security.capability") == CAPABILITIES
            if not result:
                assert os.getxattr(mount / "other", "security.capability") == CAPABILITIES
                append(mount / "other")
                assert "security.capability" not in os.listxattr(mount / "other")

    somebody.run(body)


def _give_capabilities(path: Path) -> None:
    os.setxattr(path, "security.capability", CAPABILITIES)


@by(SINGLE, WIDE)
def test_an_acl_that_can_not_be_given_is_not_lost(somebody: Somebody, directory: Path) -> None:
    layer = build(directory / "base", mine({"file": "x", "known": "x"}))
    set_acl(layer / "file", f"u::rw-,u:{STRANGER}:---,g::r--,m::r--,o::r--")
    known = f"u::rw-,u:{ME}:r--,g::r--,m::r--,o::r--"
    set_acl(layer / "known", known)

    def body() -> None:
        with mounting() as union:
            mount = union(layer)
            assert (mount / "file").read_text() == "x"
            assert result_of(lambda: append(mount / "file")) != ""
            append(mount / "known")

    somebody.run(body)
    (upper,) = somebody.home.glob("*/upper")
    assert [path.name for path in upper.iterdir()] == ["known"]
    assert has_acl(upper / "known", known)


@by(USER)
@pytest.mark.parametrize("number", [0, ME])
def test_a_user_squashes_owners(somebody: Somebody, directory: Path, number: int) -> None:
    files: Tree = {"mine": "x", "strangers": File("x", uid=STRANGER, gid=STRANGER)}
    layer = build(directory / "base", mine(files))

    def body() -> None:
        with mounting() as union:
            mount = union(layer, options=[f"squash_to_uid={number}", f"squash_to_gid={number}"])
            assert {path.stat()[4:6] for path in mount.path.iterdir()} == {(number, number)}
            mine_now = number == ME
            assert result_of(lambda: append(mount / "mine")) == ("" if mine_now else "EACCES")
            refused = "EPERM" if mine_now else "EACCES"
            assert result_of(lambda: append(mount / "strangers")) == refused
            assert result_of(lambda: os.chown(mount / "mine", number, number)) == (
                "" if mine_now else "EPERM"
            )

    somebody.run(body)


@by(WIDE)
def test_set_user_id_counts_in_the_namespace(somebody: Somebody, directory: Path) -> None:
    layer = build(directory / "base", mine({"id": File(Path("/usr/bin/id").read_bytes())}))

    def body() -> None:
        with mounting() as union:
            mount = union(layer, options=["suid"])
            (mount / "id").chmod(0o4755)
            mount.remount()
            for options, shown in ((["suid"], b"0\n"), ([], b"7\n")):
                mount.options = options
                mount.remount()
                asked = subprocess.run(
                    [mount / "id", "-u"],
                    user=7,
                    group=7,
                    extra_groups=[],
                    stdout=subprocess.PIPE,
                    check=True,
                )
                assert asked.stdout == shown

    somebody.run(body)


# What is not ours to list, or to use


@by(USER, SINGLE, WIDE)
def test_a_directory_that_can_only_be_passed_through(somebody: Somebody, directory: Path) -> None:
    passage = Directory({"known": "x", "link": Symlink("known")}, mode=0o711, uid=STRANGER)
    layer = build(directory / "base", mine({"passage": passage}))

    def body() -> None:
        with mounting() as union:
            mount = union(layer)
            for _ in range(2):
                assert result_of(lambda: os.listdir(mount / "passage")) == "EACCES"
                assert (mount / "passage" / "link").read_text() == "x"
                assert not (mount / "passage" / "missing").exists()
                mount.remount()

    somebody.run(body)


@by(USER, SINGLE, WIDE)
def test_layers_beneath_what_only_others_may_list(somebody: Somebody, directory: Path) -> None:
    """A home as it should be: who knows the way gets through."""
    (directory / "others").mkdir()
    (directory / "others").chmod(0o711)
    layer = build(directory / "others" / "base", mine({"file": "x"}))

    def body() -> None:
        with mounting() as union:
            append(union(layer) / "file")

    somebody.run(body)


@by(USER)
@pytest.mark.parametrize(
    ("option", "root", "other"),
    [
        ("default_permissions", "EACCES", "EACCES"),
        ("allow_root", "", "EACCES"),
        ("allow_other", "", ""),
    ],
)
def test_who_may_use_a_users_mount(
    somebody: Somebody, directory: Path, option: str, root: str, other: str
) -> None:
    layer = build(directory / "base", mine({"file": "x", "private": File("x", mode=0o600)}))

    def reads(of_file: str, of_private: str) -> Callable[[], None]:
        def body() -> None:
            assert result_of(Path("mount/file").read_text) == of_file
            assert result_of(Path("mount/private").read_text) == of_private

        return body

    somebody.run(lambda: _mount_in_background("-o", option, str(layer)))
    somebody.run(reads("", ""))
    somebody.run(reads(root, root), number=0)
    somebody.run(reads(other, "EACCES"), number=STRANGER)


def _mount_in_background(*words: str) -> None:
    Path("mount").mkdir(exist_ok=True)
    assert Command(Path.cwd()).mounts(*words, "mount") == ""


@by(USER)
@pytest.mark.parametrize("option", ["allow_root", "allow_other"])
def test_others_need_the_leave_of_fuse_conf(
    somebody: Somebody, directory: Path, option: str
) -> None:
    layer = build(directory / "base", mine({}))
    somebody.conf.write_text("")

    def body() -> None:
        Path("mount").mkdir()
        line = Command(Path.cwd()).refuses("-o", option, str(layer), "mount")
        assert "user_allow_other" in line

    somebody.run(body)


# Life


@by(USER, SINGLE, WIDE)
@pytest.mark.parametrize("runtime", [True, False], ids=["XDG_RUNTIME_DIR", "no XDG_RUNTIME_DIR"])
def test_mounts_are_listed(somebody: Somebody, directory: Path, runtime: bool) -> None:
    layer = build(directory / "base", mine({}))

    def body() -> None:
        for name in ("up", "run", "other"):
            Path(name).mkdir()
        os.environ.pop("XDG_RUNTIME_DIR", None)
        if runtime:
            os.environ["XDG_RUNTIME_DIR"] = str(Path("run").absolute())
        _mount_in_background("--upper", "up", str(layer))
        command = Command(Path.cwd())
        line = command.refuses("--upper", "up", str(layer), "other")
        if runtime:
            (union,) = command.unions()
            assert union.process is not None
            assert f"is in use by the union on {union.point.decode()}" in line
            assert command("--list").stdout.count(f"layer    {layer}\n") == 1
        else:
            assert "is in use by another mount" in line
            assert f"{Path.cwd()}/mount\n" in command("--list").stdout

    somebody.run(body)
    assert list(Path("/run/unionmount").iterdir()) == []


@by(USER, SINGLE, WIDE)
def test_a_mount_whose_daemon_was_killed_is_replaced(somebody: Somebody, directory: Path) -> None:
    layer = build(directory / "base", mine({"file": "x"}))

    def body() -> None:
        with mounting() as union:
            mount = union(layer)
            append(mount / "file")
            mount.kill()
            assert result_of(lambda: os.stat(mount / "file")) == "ENOTCONN"
            mount.mount()
            assert (mount / "file").read_text() == "xmore"

    somebody.run(body)


@by(USER)
def test_a_user_goes_on_with_what_the_kernel_wrote(somebody: Somebody, directory: Path) -> None:
    layer = build(directory / "base", mine({"file": "x", "gone": ""}))
    (directory / "namespace").mkdir()
    root = Somebody(directory / "namespace", SINGLE)
    for name in ("upper", "work"):
        (somebody.home / name).mkdir()
        os.chown(somebody.home / name, ME, ME)

    def theirs() -> None:
        with overlayfs(layer, upper=somebody.home / "upper", work=somebody.home / "work") as mount:
            append(mount / "file")
            (mount / "gone").unlink()

    def body() -> None:
        with mounting() as union:
            mount = union(layer, upper=Path("upper").absolute(), work=Path("work").absolute())
            assert tree(mount.path) == {"file": "xmore"}
            append(mount / "file")

    with contextlib.closing(root):
        root.run(theirs)
        somebody.run(body)
    assert (somebody.home / "upper" / "file").read_text() == "xmoremore"


@by(SINGLE, WIDE)
def test_root_of_a_namespace_mounts_inside_a_layer(somebody: Somebody, directory: Path) -> None:
    layer = build(directory / "base", mine({"file": "x", "point": {}}))

    def body() -> None:
        with mounting() as union:
            mount = union(layer, at=layer / "point")
            assert tree(mount.path) == {"file": "x", "point": {}}

    somebody.run(body)


@by(SINGLE, WIDE)
def test_root_of_a_namespace_runs_a_command(system: Path, somebody: Somebody) -> None:
    script = (
        "echo lost > /dev/null; id -u; cat /proc/self/uid_map; ls /sys > /made;"
        " head -c 1 /dev/zero > /dev/shm/zero; exec 3<> /dev/ptmx; exit 7"
    )

    def body() -> None:
        for name in ("up", "mount"):
            Path(name).mkdir()
        done = Command(Path.cwd())("--upper", "up", system, "mount", "--", "sh", "-c", script)
        assert done.stderr == ""
        assert done.returncode == 7
        shown = [line.split() for line in done.stdout.splitlines()]
        assert shown == [["0"], *(line.split() for line in somebody.ids)]
        assert "kernel" in Path("up/made").read_text().split()
        assert mounted_below(Path.cwd()) == []

    somebody.run(body)
