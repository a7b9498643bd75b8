"""What every layer has to do, whatever it is made of: the contract of unionfs.layers.base."""

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.layers import (
    FIFO,
    OLD,
    WHITEOUT,
    Directory,
    File,
    HardLink,
    Item,
    Node,
    Symlink,
    as_entry,
    opaque,
    redirect,
)
from tests.unit.errors import raises
from tests.unit.layer_kinds import KINDS, Kind, Opener
from tests.unit.memory import Implied
from unionfs import model
from unionfs.flags import Call
from unionfs.layers.base import Layer
from unionfs.model import Entry, Mark

Build = Callable[[Item], Opener]
Open = Callable[[Item], Layer]


@pytest.fixture(params=KINDS)
def built(request: pytest.FixtureRequest, tmp_path: Path) -> Build:
    """Builds a layer of one kind: `built(tree)` answers what opens it."""
    layers = 0

    def build(tree: Item) -> Opener:
        nonlocal layers
        layers += 1
        root = as_entry(tree)
        assert isinstance(root, Directory)
        kind: Kind = KINDS[request.param]
        return kind.build(tmp_path / f"layer{layers}", root)

    return build


def only(able: Callable[[Kind], bool]) -> pytest.MarkDecorator:
    """The test is for those kinds of layer only."""
    kinds = [name for name, kind in KINDS.items() if able(kind)]
    return pytest.mark.parametrize("built", kinds, indirect=True)


@pytest.fixture
def opened(built: Build) -> Iterator[Open]:
    """Builds and opens a layer of one kind: `opened(tree)`; closes it after the test."""
    with contextlib.ExitStack() as stack:

        def build(tree: Item) -> Layer:
            layer = built(tree)()
            stack.callback(layer.close)
            return layer

        yield build


def at(layer: Layer, path: str) -> Entry:
    """The entry at a path from the root."""
    entry = layer.root()
    for name in filter(None, path.split("/")):
        found = layer.lookup(entry, os.fsencode(name))
        assert isinstance(found, Entry)
        entry = found
    return entry


def said(layer: Layer, path: str) -> Entry | Mark | None:
    """What the layer says of a path's last name."""
    directory, _, name = path.rpartition("/")
    return layer.lookup(at(layer, directory), os.fsencode(name))


def listing(layer: Layer, path: str) -> Mapping[bytes, Entry | Mark]:
    return layer.listing(at(layer, path))


def read(layer: Layer, path: str) -> bytes:
    with open(layer.open(at(layer, path)), "rb") as file:
        return file.read()


def asked_flags(layer: Layer, path: str, call: Call) -> bytes:
    """What the layer tells of flags; zeros from a file system that has none."""
    try:
        return layer.flags(at(layer, path), call)
    except OSError as error:
        if error.errno != errno.ENOTTY:
            raise
        return bytes(call.size)


# Who it is


def test_the_identity_is_the_layers_own_and_stays(built: Build) -> None:
    one, other = built({"file": "one"}), built({"file": "other"})
    with contextlib.ExitStack() as stack:
        layers = [one(), one(), other()]
        for layer in layers:
            stack.callback(layer.close)
        assert layers[0].identity == layers[1].identity != layers[2].identity


def test_the_lineage_begins_with_the_root(opened: Open) -> None:
    layer = opened({})
    attributes = layer.root().attributes
    assert layer.lineage[0] == (attributes.st_dev, attributes.st_ino)


def test_it_has_a_label(opened: Open) -> None:
    assert opened({}).describe()["label"]


def test_it_gives_a_descriptor_for_statfs(opened: Open) -> None:
    layer = opened({})
    assert os.fstatvfs(layer.statfs()).f_bsize > 0
    assert layer.statfs() == layer.statfs()


def test_close_gives_all_descriptors_back(built: Build) -> None:
    opener = built({"a": {"b": {"file": "content"}}, "c": {}})
    before = os.listdir("/proc/self/fd")
    layer = opener()
    for path in ("", "a/b", "c"):
        listing(layer, path)
    layer.statfs()
    layer.close()
    assert os.listdir("/proc/self/fd") == before


# Entries


def test_every_type_has_its_attributes(opened: Open) -> None:
    layer = opened(
        {
            "file": File("content", mode=0o4751, uid=1000, gid=1001, mtime=OLD + 7),
            "directory": Directory({}, mode=0o2770, uid=1000, gid=1001, mtime=OLD + 7),
            "link": Symlink("target", uid=1000, gid=1001, mtime=OLD + 7),
            "char": Node(stat.S_IFCHR, 1, 3, mode=0o666, uid=1000, gid=1001, mtime=OLD + 7),
            "block": Node(stat.S_IFBLK, 7, 0, mode=0o660, uid=1000, gid=1001, mtime=OLD + 7),
            "fifo": Node(stat.S_IFIFO, mode=0o600, uid=1000, gid=1001, mtime=OLD + 7),
        }
    )
    found = {os.fsdecode(name): at(layer, os.fsdecode(name)) for name in listing(layer, "")}
    assert {name: oct(entry.attributes.st_mode) for name, entry in found.items()} == {
        "file": oct(stat.S_IFREG | 0o4751),
        "directory": oct(stat.S_IFDIR | 0o2770),
        "link": oct(stat.S_IFLNK | 0o777),
        "char": oct(stat.S_IFCHR | 0o666),
        "block": oct(stat.S_IFBLK | 0o660),
        "fifo": oct(stat.S_IFIFO | 0o600),
    }
    for entry in found.values():
        attributes = entry.attributes
        owner = (attributes.st_uid, attributes.st_gid, attributes.st_mtime_ns)
        assert owner == (1000, 1001, OLD + 7)
    assert found["char"].attributes.st_rdev == os.makedev(1, 3)
    assert found["block"].attributes.st_rdev == os.makedev(7, 0)
    assert found["file"].attributes.st_size == len("content")
    assert found["directory"].is_directory
    assert not found["file"].is_directory
    assert found["file"].is_regular
    assert not found["link"].is_regular


@only(lambda kind: kind.sockets)
def test_a_socket_has_its_attributes(opened: Open) -> None:
    layer = opened({"socket": Node(stat.S_IFSOCK, mode=0o755, uid=1000, gid=1001, mtime=OLD + 7)})
    attributes = at(layer, "socket").attributes
    assert attributes.st_mode == stat.S_IFSOCK | 0o755
    assert (attributes.st_uid, attributes.st_gid, attributes.st_mtime_ns) == (1000, 1001, OLD + 7)


def test_of_an_absent_name_it_says_nothing(opened: Open) -> None:
    layer = opened({"directory": {}})
    assert said(layer, "absent") is None
    assert said(layer, "directory/absent") is None


def test_names_of_one_inode_are_one(opened: Open) -> None:
    layer = opened({"a": "one", "b": HardLink("a"), "d": {"c": HardLink("a")}, "e": "other"})
    inodes = {path: at(layer, path).attributes for path in ("a", "b", "d/c", "e")}
    assert inodes["a"].st_nlink == inodes["b"].st_nlink == inodes["d/c"].st_nlink == 3
    assert inodes["a"].st_ino == inodes["b"].st_ino == inodes["d/c"].st_ino
    assert inodes["e"].st_nlink == 1
    assert inodes["e"].st_ino != inodes["a"].st_ino
    assert read(layer, "d/c") == b"one"


NAMES = [
    bytes(set(range(1, 256)) - {ord("/")}),
    b"\xff\xfe not utf-8",
    b"new\nline",
    b" ",
    b"-n",
    b"...",
    "Grüße \N{SNOWMAN}".encode(),
    b"n" * 255,
    b"n" * 252,  # with a prefix it would be too long
]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_name_may_have_any_bytes(opened: Open, name: bytes) -> None:
    text = os.fsdecode(name)
    layer = opened({text: {text: "content"}})
    assert list(listing(layer, "")) == [name]
    assert read(layer, f"{text}/{text}") == b"content"


def test_an_entry_stays_valid_until_close(opened: Open) -> None:
    layer = opened({"a": {"b": {"file": "content", "link": Symlink("target")}}})
    entries = {path: at(layer, path) for path in ("", "a", "a/b", "a/b/file", "a/b/link")}
    for _ in range(2):
        for entry in entries.values():
            layer.forget(entry)
        assert set(layer.listing(entries["a/b"])) == {b"file", b"link"}
        assert isinstance(layer.lookup(entries["a"], b"b"), Entry)
        assert layer.readlink(entries["a/b/link"]) == b"target"
        with open(layer.open(entries["a/b/file"]), "rb") as file:
            assert file.read() == b"content"


# Marks


def test_lookup_and_listing_agree(opened: Open) -> None:
    layer = opened(
        {
            "file": "content",
            "empty": "",
            "link": Symlink("gone"),
            "fifo": FIFO,
            "null": Node(stat.S_IFCHR, 1, 3),
            "whiteout": WHITEOUT,
            "directory": {"whiteout": WHITEOUT, "file": "", "other": WHITEOUT},
            "opaque": opaque({"file": ""}),
        }
    )
    for path in ("", "directory", "opaque"):
        for name, listed in listing(layer, path).items():
            found = layer.lookup(at(layer, path), name)
            assert found is not None
            assert (found is model.WHITEOUT) == (listed is model.WHITEOUT)
            if isinstance(listed, Entry) and isinstance(found, Entry):
                assert (listed.opaque, listed.redirect) == (found.opaque, found.redirect)
                assert listed.attributes == found.attributes
    whiteouts = {name for name, listed in listing(layer, "").items() if listed is model.WHITEOUT}
    assert whiteouts == {b"whiteout"}
    assert len(listing(layer, "")) == 8
    assert set(listing(layer, "directory")) == {b"whiteout", b"file", b"other"}
    assert set(listing(layer, "opaque")) == {b"file"}


@pytest.mark.parametrize("listed_before", [False, True])
def test_a_whiteout_is_said_of_its_name_only(opened: Open, listed_before: bool) -> None:
    layer = opened({"gone": WHITEOUT, "d": {"gone": WHITEOUT, "goner": ""}})
    if listed_before:
        listing(layer, "")
        listing(layer, "d")
    assert said(layer, "gone") is model.WHITEOUT
    assert said(layer, "d/gone") is model.WHITEOUT
    assert isinstance(said(layer, "d/goner"), Entry)
    assert said(layer, "d/gon") is None


def test_a_directory_says_whether_it_is_opaque(opened: Open) -> None:
    layer = opened({"plain": {"inner": opaque({})}, "opaque": opaque({"inner": {}})})
    opaqueness = {
        path: at(layer, path).opaque
        for path in ("", "plain", "plain/inner", "opaque", "opaque/inner")
    }
    assert opaqueness == {
        "": False,
        "plain": False,
        "plain/inner": True,
        "opaque": True,
        "opaque/inner": False,
    }


def test_the_root_may_be_opaque(opened: Open) -> None:
    layer = opened(opaque({"file": ""}))
    assert layer.root().opaque
    assert list(layer.listing(layer.root())) == [b"file"]


@only(lambda kind: kind.redirects)
def test_a_directory_says_what_it_is_called_below(opened: Open) -> None:
    layer = opened(
        {
            "plain": {},
            "relative": redirect({"file": ""}, "old"),
            "absolute": redirect({}, "/some where/old\udcff"),
        }
    )
    assert at(layer, "plain").redirect is None
    assert at(layer, "relative").redirect == b"old"
    assert at(layer, "absolute").redirect == b"/some where/old\xff"
    assert at(layer, "relative/file").redirect is None


@only(lambda kind: kind.redirects)
def test_a_root_is_called_the_same_everywhere(opened: Open) -> None:
    layer = opened(redirect({"file": ""}, "/elsewhere"))
    assert layer.root().redirect is None


@only(lambda kind: kind.redirects)
@pytest.mark.parametrize(
    "target",
    ["", "/", ".", "..", "../a", "a/b", "a/", "/a/../b", "/a//b", "/a/", "/.", "/..", "a\0b"],
)
def test_a_redirect_that_leads_nowhere_is_an_error(opened: Open, target: str) -> None:
    layer = opened({"hostile": redirect({}, target)})
    with raises(errno.EINVAL):
        said(layer, "hostile")


def test_a_file_holds_its_own_content(opened: Open) -> None:
    layer = opened({"file": "content", "empty": ""})
    assert layer.metacopy(at(layer, "file")) is None
    assert layer.metacopy(at(layer, "empty")) is None


@only(lambda kind: kind.redirects)
def test_a_metacopy_file_says_where_its_content_is(opened: Open) -> None:
    metacopy = {"trusted.overlay.metacopy": b""}
    layer = opened(
        {
            "same": File(size=7, xattrs=metacopy),
            "name": File(size=7, xattrs={**metacopy, "trusted.overlay.redirect": b"old"}),
            "path": File(size=7, xattrs={**metacopy, "trusted.overlay.redirect": b"/a/old"}),
        }
    )
    assert layer.metacopy(at(layer, "same")) == b""
    assert layer.metacopy(at(layer, "name")) == b"old"
    assert layer.metacopy(at(layer, "path")) == b"/a/old"
    assert at(layer, "name").attributes.st_size == 7


@only(lambda kind: kind.implied)
@pytest.mark.parametrize(
    "mark", [{}, {"trusted.overlay.opaque": b"y"}], ids=["transparent", "opaque"]
)
def test_an_implied_directory_has_placeholders(opened: Open, mark: dict[str, bytes]) -> None:
    root = Implied({"d": Implied({"file": "content"}, xattrs=mark), "own": {}}, xattrs=mark)
    layer = opened(root)
    for entry in (layer.root(), at(layer, "d")):
        assert entry.implied
        assert entry.opaque == bool(mark)
        assert layer.listxattr(entry) == []
        attributes = entry.attributes
        assert attributes.st_mode == stat.S_IFDIR | 0o755
        assert (attributes.st_uid, attributes.st_gid, attributes.st_mtime_ns) == (0, 0, 0)
    assert layer.root().attributes.st_ino != at(layer, "d").attributes.st_ino
    assert set(listing(layer, "")) == {b"d", b"own"}
    assert read(layer, "d/file") == b"content"
    assert not at(layer, "own").implied
    assert not at(layer, "d/file").implied


# Attributes, links, content


XATTRS = {
    "user.empty": b"",
    "user.binary": bytes(range(256)),
    os.fsdecode(b"user.not utf-8 \xff"): b"1",
    "trusted.t": b"2",
}


def xattrs_at(layer: Layer, path: str) -> dict[str, bytes]:
    entry = at(layer, path)
    return {os.fsdecode(name): layer.getxattr(entry, name) for name in layer.listxattr(entry)}


def test_extended_attributes_are_those_without_marks(opened: Open) -> None:
    marked = {**XATTRS, "trusted.overlay.opaque": b"y"}
    layer = opened({"file": File(xattrs=XATTRS), "opaque": Directory(xattrs=marked)})
    assert xattrs_at(layer, "file") == XATTRS
    assert xattrs_at(layer, "opaque") == XATTRS


@only(lambda kind: kind.redirects)
def test_redirects_and_metacopy_marks_are_no_attributes(opened: Open) -> None:
    layer = opened(
        {
            "redirect": Directory(xattrs={**XATTRS, "trusted.overlay.redirect": b"old"}),
            "metacopy": File(xattrs={**XATTRS, "trusted.overlay.metacopy": b""}),
        }
    )
    assert xattrs_at(layer, "redirect") == XATTRS
    assert xattrs_at(layer, "metacopy") == XATTRS


def test_a_link_may_have_attributes(opened: Open) -> None:
    layer = opened({"link": Symlink("gone", xattrs={"trusted.t": b"value"})})
    assert layer.listxattr(at(layer, "link")) == [b"trusted.t"]
    assert layer.getxattr(at(layer, "link"), b"trusted.t") == b"value"


@pytest.mark.parametrize(
    "name",
    [
        b"user.absent",
        b"trusted.overlay.opaque",
        b"trusted.overlay.origin",
        b"user.overlay.opaque",
        b"user.fuseoverlayfs.opaque",
    ],
)
def test_marks_and_what_is_not_there_have_no_value(opened: Open, name: bytes) -> None:
    layer = opened({"opaque": opaque({})})
    with raises(errno.ENODATA):
        layer.getxattr(at(layer, "opaque"), name)


@pytest.mark.parametrize("target", [b"/etc/passwd", b"../../outside", b"\xff\xfe", b"t" * 4095])
def test_a_link_has_its_target_as_it_is(opened: Open, target: bytes) -> None:
    layer = opened({"link": Symlink(os.fsdecode(target))})
    assert layer.readlink(at(layer, "link")) == target


def test_only_a_link_has_a_target(opened: Open) -> None:
    layer = opened({"file": ""})
    with raises(errno.EINVAL):
        layer.readlink(at(layer, "file"))


@pytest.mark.parametrize("content", [b"", b"text", bytes(range(256)) * 5000])
def test_a_file_has_its_content(opened: Open, content: bytes) -> None:
    layer = opened({"d": {"file": content}})
    assert read(layer, "d/file") == content
    assert at(layer, "d/file").attributes.st_size == len(content)


def test_each_descriptor_is_the_callers_own(opened: Open) -> None:
    layer = opened({"file": "content"})
    entry = at(layer, "file")
    with open(layer.open(entry), "rb") as one, open(layer.open(entry), "rb") as other:
        assert one.read(3) == b"con"
        assert other.read() == b"content"
        assert one.read() == b"tent"
        assert not os.get_inheritable(one.fileno())


def test_content_cannot_be_written(opened: Open) -> None:
    layer = opened({"file": "content"})
    with open(layer.open(at(layer, "file")), "rb") as file, raises(errno.EBADF):
        os.write(file.fileno(), b"x")
    assert read(layer, "file") == b"content"


def test_an_origin_is_of_the_inode_and_stays(built: Build) -> None:
    opener = built({"a": "", "b": HardLink("a"), "c": "", "link": Symlink("a"), "d": {"e": ""}})
    paths = ("a", "b", "c", "link", "d", "d/e")
    origins = []
    for _ in range(2):
        layer = opener()
        origins.append({path: layer.origin(at(layer, path)) for path in paths})
        layer.close()
    assert origins[0] == origins[1]
    first = origins[0]
    assert first["a"] == first["b"]
    distinct = [first[path] for path in ("a", "c", "link", "d", "d/e")]
    assert distinct == [None] * 5 or len(set(distinct)) == 5


# Flags


def test_flags_of_files_and_directories(opened: Open) -> None:
    layer = opened({"file": "content", "dir": {"in": "in"}})
    for path in ("", "file", "dir", "dir/in"):
        for call in (Call.GET_FLAGS, Call.GET_EXTENDED):
            value = asked_flags(layer, path, call)
            assert len(value) == call.size
            assert call.without_protection(value) == (value, 0)
        assert layer.protection(at(layer, path)) == 0
