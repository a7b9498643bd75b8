"""The writable layer: whose it is, what it writes, and that each change comes at once."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import linux
from tests.support.acls import acl
from tests.support.filesystems import FileSystems
from tests.support.layers import (
    WHITEOUT,
    Directory,
    File,
    Symlink,
    Tree,
    build,
    is_whiteout,
)
from tests.support.snapshots import tree
from tests.unit.errors import raises
from unionfs import syscalls
from unionfs.layers import markers, places
from unionfs.layers.places import Place
from unionfs.model import BusyError, Caller, UnionError
from unionfs.upper import Upper
from unionfs.workdir import remove_tree

Make = Callable[[Tree], Upper]

ROOT = Caller(0, 0, 0o022)
USER = Caller(1000, 1001, 0o027)


class Directories:
    """An upper directory and its work directory, opened as an Upper as often as one likes."""

    def __init__(self, directory: Path) -> None:
        self.upper = directory / "upper"
        self.work = directory / "work"
        self._stack = contextlib.ExitStack()

    def build(self, content: Tree) -> None:
        build(self.upper, content)
        self.work.mkdir()

    def open(self, *, volatile: bool = False, namespace: bytes = markers.TRUSTED) -> Upper:
        upper, work = bytes(self.upper), bytes(self.work)
        opened = Upper(upper, work, volatile=volatile, namespace=namespace)
        self._stack.callback(opened.close)
        return opened

    def close(self) -> None:
        """Close all that was opened."""
        self._stack.close()

    @property
    def scratch(self) -> list[str]:
        return sorted(os.listdir(self.work / "work"))


@pytest.fixture
def directories(tmp_path: Path) -> Iterator[Directories]:
    made = Directories(tmp_path)
    yield made
    made.close()


@pytest.fixture
def make(directories: Directories) -> Make:
    """Opens an upper with this content: `make(tree)`."""

    def upper(content: Tree) -> Upper:
        directories.build(content)
        return directories.open()

    return upper


def place(upper: Upper, path: str) -> Place:
    found = upper.root
    for name in path.split("/"):
        found = Place(found, os.fsencode(name))
    return found


# Whose it is


def test_one_upper_serves_one_mount(directories: Directories, tmp_path: Path) -> None:
    directories.build({})
    directories.open()
    (tmp_path / "other").mkdir()
    with pytest.raises(BusyError, match=f"^{directories.upper} is in use by another mount: "):
        directories.open()
    with pytest.raises(BusyError, match=f"^{directories.upper} "):
        Upper(bytes(directories.upper), bytes(tmp_path / "other"))
    with pytest.raises(BusyError, match=f"^{directories.work} "):
        Upper(bytes(tmp_path / "other"), bytes(directories.work))
    directories.close()
    directories.open()


def test_both_directories_lie_on_one_filesystem(
    directories: Directories, filesystems: FileSystems
) -> None:
    directories.build({})
    filesystems.tmpfs(directories.work)
    with pytest.raises(UnionError, match="--work"):
        directories.open()


def test_and_on_one_mount_of_it(directories: Directories, filesystems: FileSystems) -> None:
    directories.build({})
    filesystems.bind(directories.work, directories.work)
    with pytest.raises(UnionError, match="--work"):
        directories.open()


def test_a_filesystem_without_attributes_is_refused(
    directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*args: object, **options: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    directories.build({})
    monkeypatch.setattr(os, "setxattr", refused)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(UnionError, match="extended attributes"):
        directories.open()
    assert os.listdir("/proc/self/fd") == before


def test_what_a_killed_mount_left_is_swept(directories: Directories) -> None:
    directories.build({"file": ""})
    leftovers: Tree = {
        "#1": "copy",
        "#2": {"full": {"of": ""}, "link": Symlink("/")},
        "#3": WHITEOUT,
    }
    build(directories.work / "work", leftovers)
    directories.open()
    assert directories.scratch == []
    assert os.listdir(directories.upper) == ["file"]


def test_nothing_is_left_in_the_scratch_directory_at_the_end(directories: Directories) -> None:
    directories.build({})
    upper = directories.open()
    upper.remove(upper.root, b"below", present=False, covers=True)
    assert directories.scratch != []
    directories.close()
    assert directories.scratch == []
    assert is_whiteout(directories.upper / "below")


def test_a_volatile_mount_refuses_every_later_one(directories: Directories) -> None:
    directories.build({})
    directories.open(volatile=True)
    directories.close()
    marker = directories.work / "work/incompat"
    for _ in range(2):
        with pytest.raises(UnionError, match=f"volatile.* or remove {marker} "):
            directories.open()
    (marker / "volatile").rmdir()
    marker.rmdir()
    directories.open()


@pytest.mark.parametrize("name", ["upper", "work"])
def test_a_directory_that_is_missing_is_an_error(directories: Directories, name: str) -> None:
    directories.build({})
    getattr(directories, name).rmdir()
    with raises(errno.ENOENT):
        directories.open()


# Whiteouts


def test_whiteouts_are_links_of_one_inode(make: Make, directories: Directories) -> None:
    upper = make({"d": {}, "file": "content", "directory": {}})
    upper.remove(upper.root, b"a", present=False, covers=True)
    upper.remove(place(upper, "d"), b"b", present=False, covers=True)
    upper.remove(upper.root, b"file", present=True, covers=True)
    upper.remove_directory(place(upper, "directory"), present=True, covers=True)
    upper.remove_directory(place(upper, "c"), present=False, covers=True)
    whiteouts = [directories.upper / name for name in ("a", "d/b", "file", "directory", "c")]
    assert all(map(is_whiteout, whiteouts))
    assert len({path.lstat().st_ino for path in whiteouts}) == 1


def test_an_inode_with_all_the_links_it_may_have_is_followed_by_another(
    make: Make, directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    upper = make({})
    link = os.link

    def full(source: bytes, *args: object, **options: int) -> None:
        if os.stat(source, dir_fd=options["src_dir_fd"]).st_nlink == 3:
            raise OSError(errno.EMLINK, os.strerror(errno.EMLINK))
        link(source, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "link", full)
    for name in "abcde":
        upper.remove(upper.root, name.encode(), present=False, covers=True)
    whiteouts = [directories.upper / name for name in "abcde"]
    assert all(map(is_whiteout, whiteouts))
    assert len({path.lstat().st_ino for path in whiteouts}) == 3


@pytest.mark.parametrize("covers", [False, True])
def test_a_directory_of_whiteouts_is_taken_away_whole(
    make: Make, directories: Directories, covers: bool
) -> None:
    upper = make({"d": {"a": WHITEOUT, "b": WHITEOUT}})
    upper.remove_directory(place(upper, "d"), present=True, covers=covers)
    assert tree(directories.upper) == ({"d": "c"} if covers else {})


def test_only_whiteouts_are_cleared_and_the_directory_becomes_opaque(
    make: Make, directories: Directories
) -> None:
    whiteouts = {"a": WHITEOUT, "b": WHITEOUT}
    upper = make({"d": Directory(whiteouts, mode=0o1770, uid=1000, gid=1001), "empty": {}})
    upper.clear_whiteouts(place(upper, "empty"))
    upper.clear_whiteouts(place(upper, "d"))
    status = (directories.upper / "d").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o1770, 1000, 1001)
    assert os.getxattr(directories.upper / "d", "trusted.overlay.opaque") == b"y"
    assert os.listxattr(directories.upper / "empty") == []
    assert tree(directories.upper) == {"d": {}, "empty": {}}


# Making entries


def makers(upper: Upper, caller: Caller) -> dict[str, Callable[[Place, bytes], object]]:
    """What makes an entry of each type."""

    def file(parent: Place, name: bytes) -> None:
        os.close(upper.create(parent, name, 0o666, os.O_RDWR, caller))

    return {
        "file": file,
        "fifo": lambda parent, name: upper.make_node(parent, name, stat.S_IFIFO | 0o666, 0, caller),
        "device": lambda parent, name: upper.make_node(
            parent, name, stat.S_IFCHR | 0o666, os.makedev(1, 3), caller
        ),
        "directory": lambda parent, name: upper.make_directory(parent, name, 0o777, caller),
        "link": lambda parent, name: upper.make_symlink(parent, name, b"target", caller),
    }


TYPES = ("file", "fifo", "device", "directory", "link")
OVER = pytest.mark.parametrize("over_whiteout", [False, True], ids=["new", "over a whiteout"])


@OVER
@pytest.mark.parametrize("kind", TYPES)
def test_what_is_made_belongs_to_the_caller(
    make: Make, directories: Directories, kind: str, over_whiteout: bool
) -> None:
    upper = make({"name": WHITEOUT} if over_whiteout else {})
    makers(upper, USER)[kind](upper.root, b"name")
    status = (directories.upper / "name").lstat()
    assert (status.st_uid, status.st_gid) == (1000, 1001)
    expected = {"file": 0o640, "fifo": 0o640, "device": 0o640, "directory": 0o750, "link": 0o777}
    assert stat.S_IMODE(status.st_mode) == expected[kind]
    assert (os.geteuid(), os.getegid()) == (0, 0)
    (directories.upper / "roots").touch()
    assert (directories.upper / "roots").stat().st_uid == 0


@OVER
@pytest.mark.parametrize("kind", TYPES)
def test_it_inherits_what_it_would_inherit_in_place(
    make: Make, directories: Directories, kind: str, over_whiteout: bool
) -> None:
    default = acl("u::rwx,u:1234:rwx,g::r-x,m::rwx,o::---")
    parent = Directory(
        {"name": WHITEOUT, "oracle": {}} if over_whiteout else {"oracle": {}},
        mode=0o2775,
        gid=4321,
        xattrs={"system.posix_acl_default": default},
    )
    upper = make({"parent": parent})
    makers(upper, USER)[kind](place(upper, "parent"), b"name")
    makers(upper, USER)[kind](place(upper, "parent"), b"beside")
    made, beside = (directories.upper / "parent" / name for name in ("name", "beside"))
    assert made.lstat().st_gid == 4321
    assert made.lstat().st_mode == beside.lstat().st_mode
    if kind != "link":
        assert os.getxattr(made, "system.posix_acl_access") == os.getxattr(
            beside, "system.posix_acl_access"
        )
    if kind == "directory":
        assert made.stat().st_mode & stat.S_ISGID
        assert os.getxattr(made, "system.posix_acl_default") == default


@pytest.mark.parametrize("kind", TYPES)
def test_making_a_name_that_is_there_fails(make: Make, directories: Directories, kind: str) -> None:
    upper = make({"name": "content"})
    with raises(errno.EEXIST):
        makers(upper, ROOT)[kind](upper.root, b"name")
    assert tree(directories.upper) == {"name": "content"}
    assert directories.scratch == []


def test_a_directory_over_a_whiteout_is_opaque(make: Make, directories: Directories) -> None:
    upper = make({"gone": WHITEOUT})
    upper.make_directory(upper.root, b"gone", 0o755, ROOT)
    upper.make_directory(upper.root, b"new", 0o755, ROOT)
    assert os.getxattr(directories.upper / "gone", "trusted.overlay.opaque") == b"y"
    assert os.listxattr(directories.upper / "new") == []


def test_a_link_replaces_a_whiteout(make: Make, directories: Directories) -> None:
    upper = make({"file": "content", "gone": WHITEOUT})
    upper.link(place(upper, "file"), upper.root, b"gone")
    assert (directories.upper / "gone").samefile(directories.upper / "file")


def test_what_fails_over_a_whiteout_leaves_it(
    make: Make, directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    upper = make({"gone": WHITEOUT})
    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(syscalls, "renameat2", full)
    for kind in TYPES:
        with raises(errno.ENOSPC):
            makers(upper, USER)[kind](upper.root, b"gone")
    assert is_whiteout(directories.upper / "gone")
    assert directories.scratch == []
    assert os.listdir("/proc/self/fd") == before


def test_a_whiteout_cannot_be_made_by_its_device_number(make: Make) -> None:
    upper = make({})
    with raises(errno.EPERM):
        upper.make_node(upper.root, b"name", stat.S_IFCHR | 0o600, 0, ROOT)


def test_a_file_is_open_as_it_was_asked_for(make: Make, directories: Directories) -> None:
    upper = make({"gone": WHITEOUT})
    for name in (b"gone", b"new"):
        descriptor = upper.create(upper.root, name, 0o400, os.O_WRONLY, USER)
        os.write(descriptor, b"content")
        assert not os.get_inheritable(descriptor)
        with raises(errno.EBADF):
            os.read(descriptor, 1)
        os.close(descriptor)
        assert (directories.upper / os.fsdecode(name)).read_text() == "content"


# Replacing and moving


MOVES: dict[str, tuple[Tree, bool, bool, dict[str, object]]] = {
    "a file": ({"old": "1"}, False, False, {"new": "1"}),
    "a file that covers": ({"old": "1"}, False, True, {"old": "c", "new": "1"}),
    "over a file": ({"old": "1", "new": "2"}, False, False, {"new": "1"}),
    "covers over a file": (
        {"old": "1", "new": "2"},
        False,
        True,
        {"old": "c", "new": "1"},
    ),
    "over a whiteout": ({"old": "1", "new": WHITEOUT}, False, False, {"new": "1"}),
    "covers over a whiteout": (
        {"old": "1", "new": WHITEOUT},
        False,
        True,
        {"old": "c", "new": "1"},
    ),
    "a directory": ({"old": {"f": "1"}}, True, False, {"new": {"f": "1"}}),
    "a directory that covers": (
        {"old": {"f": "1"}},
        True,
        True,
        {"old": "c", "new": {"f": "1"}},
    ),
    "a directory over a whiteout": (
        {"old": {"f": "1"}, "new": WHITEOUT},
        True,
        False,
        {"new": {"f": "1"}},
    ),
    "a directory over an empty one": (
        {"old": {"f": "1"}, "new": {}},
        True,
        False,
        {"new": {"f": "1"}},
    ),
    "a directory that covers over an empty one": (
        {"old": {"f": "1"}, "new": {}},
        True,
        True,
        {"old": "c", "new": {"f": "1"}},
    ),
}


@pytest.mark.parametrize(("content", "directory", "covers", "expected"), MOVES.values(), ids=MOVES)
def test_moving(
    make: Make,
    directories: Directories,
    content: Tree,
    directory: bool,
    covers: bool,
    expected: dict[str, object],
) -> None:
    upper = make(content)
    moved = place(upper, "old")
    upper.move(moved, upper.root, b"new", directory=directory, covers=covers)
    assert tree(directories.upper) == expected
    assert (moved.parent, moved.name) == (upper.root, b"new")


def test_exchanging_changes_both_places(make: Make, directories: Directories) -> None:
    upper = make({"a": {"one": "1"}, "b": "2"})
    one, other = place(upper, "a/one"), place(upper, "b")
    upper.exchange(one, other)
    assert tree(directories.upper) == {"a": {"one": "2"}, "b": "1"}
    assert one.name == b"b"
    assert other.name == b"one"


def test_a_copy_in_its_place_leaves_the_directorys_times(
    make: Make, directories: Directories
) -> None:
    upper = make({"d": {}})
    scratch = upper.scratch_name()
    (directories.work / "work" / os.fsdecode(scratch)).write_text("copy")
    before = (directories.upper / "d").stat()
    upper.publish(scratch, place(upper, "d"), b"file")
    after = (directories.upper / "d").stat()
    assert (before.st_atime_ns, before.st_mtime_ns) == (after.st_atime_ns, after.st_mtime_ns)
    assert tree(directories.upper) == {"d": {"file": "copy"}}


def test_a_wh_file_becomes_a_device_before_its_name_is_taken(
    make: Make, directories: Directories
) -> None:
    upper = make({".wh.file": "", ".wh.directory": "", ".wh.other": ""})
    upper.layer.listing(upper.layer.root())
    for kind in ("file", "directory"):
        makers(upper, ROOT)[kind](upper.root, kind.encode())
    assert tree(directories.upper) == {".wh.other": "", "directory": {}, "file": ""}
    assert os.getxattr(directories.upper / "directory", "trusted.overlay.opaque") == b"y"


# Marks


def test_a_mark_is_removed_in_whichever_spelling_it_has(
    make: Make, directories: Directories
) -> None:
    xattrs = {"user.overlay.metacopy": b"", "trusted.overlay.metacopy": b"", "user.u": b"1"}
    upper = make({"file": File(xattrs=xattrs)})
    upper.remove_mark(place(upper, "file"), b"metacopy")
    assert os.listxattr(directories.upper / "file") == ["user.u"]


@pytest.mark.parametrize(
    ("value", "number"),
    [(b"12345", 12345), (b"0", 0), (b"-5", None), (b"", None), (b"x", None), (b"1" * 30, None)],
)
def test_the_number_of_a_copy_is_read_from_its_mark(
    make: Make, value: bytes, number: int | None
) -> None:
    upper = make({"file": File(xattrs={"trusted.overlay.unionmount.number": value}), "other": ""})
    present = places.listxattr(place(upper, "file"))
    assert upper.number(place(upper, "file"), present) == number
    assert upper.number(place(upper, "other"), ()) is None


@pytest.mark.parametrize(
    ("value", "links"),
    [
        (b"U+2", 5),
        (b"U-1", 2),
        (b"L+1", 11),
        (b"L-9", 1),
        (None, 10),
        (b"", 10),
        (b"U", 10),
        (b"X+1", 10),
        (b"U+1 ", 10),
    ],
)
def test_link_counts_are_relative_to_what_their_mark_says(
    make: Make, value: bytes | None, links: int
) -> None:
    xattrs = {} if value is None else {"trusted.overlay.nlink": value}
    upper = make({"file": File(xattrs=xattrs)})
    assert upper.links(place(upper, "file"), upper_links=3, lower_links=10) == links


def test_a_noted_link_count_is_read_back(make: Make) -> None:
    upper = make({"file": ""})
    file = place(upper, "file")
    upper.set_links_by_upper(file, 7)
    assert upper.links(file, upper_links=1, lower_links=99) == 7
    assert upper.links(file, upper_links=2, lower_links=99) == 8
    upper.set_links_by_lower(file, 7, 10)
    assert upper.links(file, upper_links=99, lower_links=10) == 7


def test_marks_are_a_users_if_asked_for(directories: Directories) -> None:
    directories.build({"gone": WHITEOUT})
    upper = directories.open(namespace=markers.USER)
    upper.make_directory(upper.root, b"gone", 0o755, ROOT)
    assert os.listxattr(directories.upper / "gone") == ["user.overlay.opaque"]


def test_a_link_in_a_places_stead_is_never_followed(make: Make, tmp_path: Path) -> None:
    upper = make({"link": Symlink(str(tmp_path / "outside"))})
    (tmp_path / "outside").touch(0o600)
    link = place(upper, "link")
    upper.change_owner(link, 1000, 1000)
    upper.change_times(link, 1, 2)
    with contextlib.suppress(OSError):
        upper.change_mode(link, 0o777)
    status = (tmp_path / "outside").stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (0, 0o600)
    assert (tmp_path / "upper/link").lstat().st_uid == 1000


def test_an_index_entry_whose_last_name_went_is_swept(tmp_path: Path) -> None:
    """The mount was killed between the two; entries that lower names need stay."""
    counts = {b"gone": b"U-1", b"used": b"U+1", b"below": b"L-1", b"unmarked": None}
    (tmp_path / "upper").mkdir()
    index = tmp_path / "work" / "index"
    index.mkdir(parents=True)
    for key, count in counts.items():
        (index / os.fsdecode(key)).write_text("content")
        if count is not None:
            os.setxattr(index / os.fsdecode(key), "trusted.overlay.nlink", count)
    opened = Upper(os.fsencode(tmp_path / "upper"), os.fsencode(tmp_path / "work"))
    assert opened.indexed == {b"used", b"below", b"unmarked"}
    assert sorted(os.listdir(index)) == ["below", "unmarked", "used"]
    opened.close()


def test_a_tree_that_is_moved_while_it_is_removed_leads_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path, {"tree": {"a": {"deep": ""}, "b": {"deep": ""}}, "out": {"a": "", "b": ""}})
    unlink = os.unlink

    def moving(name: bytes, *, dir_fd: int) -> None:
        unlink(name, dir_fd=dir_fd)
        for child in ("a", "b"):
            if not (tmp_path / "tree" / child / "deep").exists():
                os.rename(tmp_path / "tree" / child, tmp_path / "out" / "moved")

    monkeypatch.setattr(os, "unlink", moving)
    with linux.opened(tmp_path) as directory_fd, raises(errno.ESTALE):
        remove_tree(directory_fd, b"tree")
    assert sorted(os.listdir(tmp_path / "out")) == ["a", "b", "moved"]
