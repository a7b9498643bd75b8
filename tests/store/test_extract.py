"""A view as files of the host: root gets all that it has, a user what a user may have."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from layerstore.errors import StoreError
from layerstore.extract import Extracted, extract
from layerstore.layer import StoredLayer
from layerstore.pack import pack_tree
from layerstore.view import View
from tests.store.trees import shown
from tests.support import linux, tars
from tests.support.acls import ACCESS, DEFAULT, acl, set_acl
from tests.support.filesystems import FileSystems
from tests.support.layers import (
    FIFO,
    OLD,
    WHITEOUT,
    Directory,
    File,
    HardLink,
    Node,
    Symlink,
    Tree,
    build,
    opaque,
)
from tests.support.snapshots import differences, snapshot
from tests.support.stores import StoreBuilder
from tests.support.unprivileged import ME, Somebody
from tests.unit.errors import raises
from tests.unit.memory import Implied, MemoryLayer
from unionfs.layers.base import Layer
from unionfs.layers.directory import DirectoryLayer
from unionfs.layers.markers import Dialects

CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
ODD_NAMES = (b"\xff\xfe", b"line\nbreak", b"-rf", b" ", "\N{SNOWMAN}".encode(), b"x" * 255)
EVERYTHING: Tree = {
    "plain": File("content", uid=12, gid=34),
    "empty": "",
    "setuid": File("x", mode=0o4755, uid=12, gid=34),
    "unreadable": File("secret", mode=0),
    "capable": File("x", mode=0o755, uid=5, xattrs={"security.capability": CAPABILITY}),
    "marked": File("x", xattrs={"user.mark": b"\0\xff", "trusted.mark": b"", "user.empty": b""}),
    "old": File("x", mtime=-1_500_000_001),
    "shared": File("x", mode=0o664, xattrs={ACCESS: acl("u::rw-,u:7:r--,g::r--,m::rw-,o::r--")}),
    "link": Symlink("nowhere/at/all", uid=12, gid=34, xattrs={"trusted.mark": b"on a link"}),
    "dangling": Symlink("/" + "x" * 1000),
    "fifo": Node(stat.S_IFIFO, mode=0o640, uid=1),
    "block": Node(stat.S_IFBLK, 7, 200, mode=0o660, gid=6),
    "character": Node(stat.S_IFCHR, 1, 3, mode=0o666),
    "sub": Directory(
        {
            "plain": HardLink("plain"),
            "link": HardLink("link"),
            "character": HardLink("character"),
            "deeper": Directory({"plain": HardLink("plain"), "setuid": HardLink("setuid")}),
        },
        mode=0o2775,
        gid=34,
    ),
    "closed": Directory({"in": Directory({"file": "x"}, mode=0)}, mode=0o500, uid=12),
    "sticky": Directory({}, mode=0o1777, xattrs={"user.mark": b"directory"}),
    "default": Directory(
        {"file": "x"}, xattrs={DEFAULT: acl("u::rwx,u:7:rwx,g::r-x,m::rwx,o::---")}
    ),
    **{os.fsdecode(name): "odd" for name in ODD_NAMES},
}


@pytest.fixture
def target(directory: Path) -> Path:
    """Where to write to; nothing else is in the directory that it is in."""
    (directory / "place").mkdir()
    return directory / "place" / "target"


@pytest.fixture
def store(directory: Path) -> StoreBuilder:
    return StoreBuilder(directory / "store")


@contextlib.contextmanager
def _directory(path: Path) -> Iterator[DirectoryLayer]:
    with contextlib.closing(DirectoryLayer(bytes(path), Dialects.OVERLAY)) as layer:
        yield layer


@contextlib.contextmanager
def _stored(store: StoreBuilder, tar: bytes) -> Iterator[StoredLayer]:
    diff_id = store.layer(tar)
    with store.opened() as repository, contextlib.closing(repository.open_layer(diff_id)) as layer:
        yield layer


def _extract(target: Path, *layers: Layer) -> None:
    """Extract all of it: nothing may be left out, and nothing left beside the target."""
    done = extract(View(layers), target)
    assert (done.reowned, done.left_out) == (0, [])
    assert os.listdir(target.parent) == [target.name]


# As root


def test_everything_that_a_directory_has_comes_out_of_it(directory: Path, target: Path) -> None:
    source = build(directory / "source", {**EVERYTHING, "socket": Node(stat.S_IFSOCK, mode=0o700)})
    with _directory(source) as layer:
        _extract(target, layer)
    assert differences(snapshot(source), snapshot(target)) == []


def test_everything_that_a_stored_layer_has_comes_out_of_it(
    directory: Path, target: Path, store: StoreBuilder
) -> None:
    root = Directory(EVERYTHING, mode=0o750, uid=3, xattrs={"user.mark": b"root"})
    source = build(directory / "source", lambda path: root.write(path, path))
    with _directory(source) as layer:
        tar = b"".join(pack_tree(layer, lambda path: pytest.fail(f"{path!r} was left out")))
    with _stored(store, tar) as layer:
        done = extract(View([layer]), target)
    found = snapshot(target)
    assert differences(snapshot(source), found) == []
    assert done == Extracted(len(found), 0, [])


def test_what_several_layers_show_together_is_extracted(target: Path) -> None:
    base = MemoryLayer(
        {
            "gone": "x",
            "replaced": {"below": "x"},
            "merged": Directory({"base": "x", "both": "below"}, mode=0o700, uid=9),
            "hidden": {"below": "x"},
            "one": "several names",
            "other": HardLink("one"),
            "third": HardLink("one"),
        }
    )
    top = MemoryLayer(
        Implied(
            {
                "gone": WHITEOUT,
                "replaced": "a file",
                "merged": Implied({"both": "above", "top": "x"}),
                "hidden": opaque({"above": "x"}),
                "other": "a file of its own",
                "implied": Implied({"file": "x"}),
            }
        ),
        identity="top",
        device=2,
    )
    expected = shown([base, top])
    _extract(target, base, top)
    with _directory(target) as layer:
        assert shown([layer]) == expected
    assert (target / "third").samefile(target / "one")
    assert (target / "merged").stat().st_uid == 9


def test_holes_stay_holes(target: Path, store: StoreBuilder) -> None:
    pieces = {0: b"x" * 4096, 1 << 20: b"y" * 8192}
    tar = tars.tar(
        tars.pax_sparse("sparse", pieces, 10 << 20, "1.0"),
        tars.pax_sparse("hole", {}, 1 << 20, "1.0"),
    )
    with _stored(store, tar) as layer:
        _extract(target, layer)
    extents = [(at, at + len(data)) for at, data in pieces.items()]
    assert list(linux.data_extents(target / "sparse")) == extents
    assert (target / "sparse").stat().st_size == 10 << 20
    assert (target / "hole").stat().st_blocks == 0
    with (target / "sparse").open("rb") as file:
        for at, data in pieces.items():
            assert os.pread(file.fileno(), len(data), at) == data


def test_however_many_names_an_inode_has_nothing_remembers_them(target: Path) -> None:
    names = {f"{number:04}": HardLink("file") for number in range(1000)}
    _extract(target, MemoryLayer({"file": "x", **names}))
    assert {name.stat().st_ino for name in target.iterdir()} == {(target / "file").stat().st_ino}
    assert (target / "file").stat().st_nlink == 1001


def test_a_tree_may_be_deeper_than_descriptors_go(target: Path, store: StoreBuilder) -> None:
    deep = "d/" * 300 + "file"
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with _stored(store, tars.tar(tars.file(deep, b"x"))) as layer:
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, limits[1]))
        try:
            _extract(target, layer)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert (target / deep).read_bytes() == b"x"


def test_what_the_place_gives_to_its_files_is_not_what_they_have(
    directory: Path, target: Path
) -> None:
    source = build(directory / "source", {"file": "x", "sub": {"file": "x"}})
    set_acl(target.parent, "u::rwx,u:7:rwx,g::rwx,m::rwx,o::rwx", DEFAULT)
    os.chown(target.parent, 0, 55)
    target.parent.chmod(0o2777)
    with _directory(source) as layer, linux.umask(0o077):
        _extract(target, layer)
    assert differences(snapshot(source), snapshot(target)) == []


def test_an_empty_directory_is_replaced(target: Path) -> None:
    target.mkdir(mode=0o700)
    _extract(target, MemoryLayer(Directory({"file": "x"}, mode=0o751)))
    assert os.listdir(target) == ["file"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o751


@pytest.mark.parametrize(
    "there",
    [
        pytest.param({"target": "a file"}, id="a file"),
        pytest.param({"target": {"file": "x"}}, id="a directory with something in it"),
        pytest.param({"target": Symlink("empty"), "empty": {}}, id="a link to an empty directory"),
        pytest.param({"target": Symlink("nowhere")}, id="a link to nowhere"),
    ],
)
def test_what_is_in_the_way_stays(target: Path, there: Tree) -> None:
    build(target.parent, Directory(there))
    before = snapshot(target.parent)
    with pytest.raises(StoreError, match="target is in the way: it is not an empty directory"):
        extract(View([MemoryLayer({})]), target)
    assert differences(before, snapshot(target.parent)) == []


def test_a_mount_point_can_not_be_replaced(target: Path, filesystems: FileSystems) -> None:
    filesystems.tmpfs(target)
    with pytest.raises(StoreError, match="target is a mount point: name a new directory in it"):
        extract(View([MemoryLayer({})]), target)


def test_a_place_that_is_not_there_is_named(directory: Path) -> None:
    with raises(errno.ENOENT) as caught:
        extract(View([MemoryLayer({})]), directory / "nowhere" / "target")
    assert os.fspath(caught.value.filename) == str(directory / "nowhere")


# What fails


def _fails(number: int, target: Path, at: str, *layers: Layer) -> OSError:
    """It is an error about what is *at* a path, and leaves nothing; answers it."""
    with raises(number) as caught:
        extract(View(layers), target)
    assert os.fsdecode(caught.value.filename) == f"{target}/{at}"
    assert os.listdir(target.parent) == []
    return caught.value


def test_a_full_disk_leaves_nothing_behind(
    target: Path, filesystems: FileSystems, store: StoreBuilder
) -> None:
    filesystems.tmpfs(target.parent, "size=1M")
    tree = tars.tar(
        tars.file("a/first", bytes(range(256)) * 16), tars.file("b/large", os.urandom(2 << 20))
    )
    with _stored(store, tree) as layer:
        _fails(errno.ENOSPC, target, "b/large", layer)


@pytest.mark.parametrize("size", [10, 5 << 20])
def test_what_is_damaged_in_the_store_is_not_given_out(
    target: Path, store: StoreBuilder, size: int
) -> None:
    with _stored(store, tars.tar(tars.file("d/file", bytes(size)))) as layer:
        (damaged,) = (path for path in (store.path / "objects").rglob("*") if path.is_file())
        with damaged.open("r+b") as file:
            file.seek(size - 1)
            file.write(b"x")
        error = _fails(errno.EIO, target, "d/file", layer)
        what = f"layer {layer.identity}: object {damaged.name}"
    assert error.strerror == f"{what} is damaged; see layerstore check"


# Hostile layers


@pytest.mark.parametrize("name", ["../escaped", "/escaped", "..", "."])
@pytest.mark.parametrize("item", ["x", {"file": "x"}, Symlink("x"), FIFO])
def test_a_name_that_leads_elsewhere_is_an_error(
    target: Path, name: str, item: str | Tree | Symlink
) -> None:
    # No layer gives such names; this is about one that is not as it should be.
    with raises(errno.EINVAL):
        extract(View([MemoryLayer({"d": {name: item}})]), target)
    assert os.listdir(target.parent) == []


def test_links_of_an_image_are_not_followed(directory: Path, target: Path) -> None:
    outside = build(directory / "outside", {"file": "x", "sub": {}})
    before = snapshot(outside)
    marks = {"trusted.mark": b"x"}
    links: Tree = {
        "file": Symlink(f"{outside}/file", uid=7, mtime=OLD + 1, xattrs=marks),
        "hard": HardLink("file"),
        "sub": Symlink(str(outside / "sub"), uid=7, xattrs=marks),
        "up": Symlink("../../outside/file", uid=7),
    }
    # The last layer's directory has the name of a link further down.
    layers = [
        MemoryLayer(links),
        MemoryLayer(Implied({"up": {"file": "x"}}), identity="top", device=2),
    ]
    _extract(target, *layers)
    assert differences(before, snapshot(outside)) == []
    assert os.getxattr(target / "hard", "trusted.mark", follow_symlinks=False) == b"x"
    assert os.listdir(target / "up") == ["file"]


# As a user


@pytest.fixture
def somebody(directory: Path) -> Iterator[Somebody]:
    made = Somebody(directory)
    yield made
    made.close()


def test_a_user_gets_what_a_user_may_have_and_is_told_the_rest(somebody: Somebody) -> None:
    tar = tars.tar(
        tars.directory("", mode=0o555),
        tars.directory("closed", mode=0o500),
        tars.directory("closed/in", mode=0),
        tars.file("closed/in/file", b"content", mode=0, uid=12),
        tars.character("null", 1, 3),
        tars.hardlink("null-again", "null"),
        tars.xattrs({"security.capability": CAPABILITY, "trusted.mark": b"x", "user.mark": b"x"}),
        tars.file("ping", mode=0o755),
        tars.fifo("pipe", mode=0o600, uid=ME, gid=ME),
        tars.file("su", mode=0o4755),
        tars.hardlink("su-again", "su"),
        tars.file("mine", mode=0o4755, uid=ME, gid=ME),
        tars.xattrs({ACCESS: acl("u::r--,u:7:r--,g::r--,m::r--,o::---"), "user.mark": b"x"}),
        tars.file("shared", mode=0o440, uid=ME, gid=ME),
        tars.symlink("link", "/nowhere"),
    )

    def body() -> None:
        with _stored(StoreBuilder(Path("store")), tar) as layer:
            done = extract(View([layer]), Path("target"))
        denied = "Operation not permitted"
        assert done.left_out == [
            (b"null", f"a device: {denied}"),
            (b"null-again", f"a device: {denied}"),
            (b"ping", f"security.capability: {denied}"),
            (b"ping", f"trusted.mark: {denied}"),
            (b"su", "set-user-ID and set-group-ID: its owner here is another"),
        ]
        # The root, the two directories, the file in them, what may be changed, and the link.
        assert (done.entries, done.reowned) == (11, 7)

    somebody.run(body)
    found = snapshot(somebody.home / "target")
    assert {entry.uid for entry in found.values()} == {ME}
    assert {name: oct(entry.mode) for name, entry in found.items()} == {
        ".": "0o555",
        "closed": "0o500",
        "closed/in": "0o0",
        "closed/in/file": "0o0",
        "link": "0o777",
        "mine": "0o4755",
        "ping": "0o755",
        "pipe": "0o600",
        "shared": "0o440",
        "su": "0o755",
        "su-again": "0o755",
    }
    assert found["ping"].xattrs == ((b"user.mark", b"x"),)
    assert [name for name, _ in found["shared"].xattrs] == [os.fsencode(ACCESS), b"user.mark"]
    assert found["su"].links == ("su", "su-again")
    assert {entry.mtime for entry in found.values()} == {tars.TIME * 10**9}
    assert (somebody.home / "target/closed/in/file").read_bytes() == b"content"
    assert sorted(os.listdir(somebody.home)) == ["store", "target"]


def test_what_fails_for_a_user_leaves_nothing_behind(somebody: Somebody) -> None:
    layer = MemoryLayer(
        {"a": Directory({"in": Directory({"file": "x"}, mode=0)}, mode=0o500), "b": {"..": "x"}}
    )

    def body() -> None:
        with raises(errno.EINVAL):
            extract(View([layer]), Path("target"))

    somebody.run(body)
    assert os.listdir(somebody.home) == []
