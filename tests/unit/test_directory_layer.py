"""What is particular to directories on the host: dialects that meet, and a host that changes."""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import linux
from tests.support.filesystems import FileSystems
from tests.support.layers import (
    WHITEOUT,
    Directory,
    File,
    Symlink,
    Tree,
    build,
    holds_xwhiteouts,
    opaque,
    xwhiteout,
)
from tests.unit.errors import raises
from unionfs import model
from unionfs.layers import places
from unionfs.layers.directory import DirectoryLayer
from unionfs.layers.markers import Dialects
from unionfs.model import Entry, Mark

Make = Callable[..., DirectoryLayer]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Builds and opens a layer: `make(tree)`; it lies at `tmp_path / "layer"`."""
    with contextlib.ExitStack() as stack:

        def layer(tree: Tree, dialects: Dialects = Dialects.AUTO) -> DirectoryLayer:
            made = DirectoryLayer(bytes(build(tmp_path / "layer", tree)), dialects)
            stack.callback(made.close)
            return made

        yield layer


@pytest.fixture(params=["by a private view", "as it is"])
def reached(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer is reached with the privilege for a private view of it, or without."""

    def refused(directory_fd: int) -> int:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    if request.param == "as it is":
        monkeypatch.setattr("unionfs.syscalls.clone_tree", refused)


def at(layer: DirectoryLayer, path: str) -> Entry:
    entry = layer.root()
    for name in filter(None, path.split("/")):
        found = layer.lookup(entry, os.fsencode(name))
        assert isinstance(found, Entry)
        entry = found
    return entry


def said(layer: DirectoryLayer, name: str) -> Entry | Mark | None:
    """What the layer says of a name in its root; its listing says the same."""
    found = layer.lookup(layer.root(), os.fsencode(name))
    listed = layer.listing(layer.root()).get(os.fsencode(name))
    assert (found is None, found is model.WHITEOUT) == (listed is None, listed is model.WHITEOUT)
    return found


# The .wh. dialect


def test_a_wh_file_is_a_whiteout_and_no_name(make: Make) -> None:
    layer = make({".wh.gone": ""})
    assert said(layer, "gone") is model.WHITEOUT
    assert said(layer, ".wh.gone") is None


def test_a_wh_entry_of_any_type_is_a_whiteout(make: Make) -> None:
    layer = make(
        {".wh.directory": {"inside": ""}, ".wh.link": Symlink("x"), ".wh.device": WHITEOUT}
    )
    for name in ("directory", "link", "device"):
        assert said(layer, name) is model.WHITEOUT


@pytest.mark.parametrize("name", [".wh.", ".wh..wh.plnk", ".wh..wh.orph", ".wh..wh.aufs"])
def test_other_reserved_names_are_hidden_and_hide_nothing(make: Make, name: str) -> None:
    layer = make({name: {"inside": ""}, "file": ""})
    assert said(layer, name) is None
    assert list(layer.listing(layer.root())) == [b"file"]


def test_a_name_that_is_too_long_for_a_layer_is_absent_there(make: Make) -> None:
    assert said(make({"file": ""}), "n" * 256) is None


def test_a_file_beside_its_own_whiteout_is_there(make: Make) -> None:
    layer = make({".wh.file": "", "file": "content"})
    found = said(layer, "file")
    assert isinstance(found, Entry)
    assert found.is_regular


def test_a_directory_beside_its_own_whiteout_is_opaque(make: Make) -> None:
    layer = make({".wh.directory": "", "directory": {"file": ""}})
    assert at(layer, "directory").opaque
    layer.listing(layer.root())
    assert at(layer, "directory").opaque


def test_a_whiteout_said_in_two_dialects_is_one(make: Make) -> None:
    layer = make({".wh.gone": "", "gone": WHITEOUT})
    assert said(layer, "gone") is model.WHITEOUT
    assert list(layer.listing(layer.root())) == [b"gone"]


def test_without_the_dialect_its_names_are_names(make: Make) -> None:
    names = [".wh.", ".wh.file", ".wh..wh..opq", ".wh..wh.plnk"]
    layer = make({"file": "", "directory": dict.fromkeys(names, "")}, Dialects.OVERLAY)
    directory = at(layer, "directory")
    assert not directory.opaque
    assert sorted(layer.listing(directory)) == sorted(map(os.fsencode, names))
    for name in names:
        assert isinstance(layer.lookup(directory, os.fsencode(name)), Entry)


# Marks that contradict each other


def test_roots_opaque_mark_wins_over_a_users(make: Make) -> None:
    marks = {"trusted.overlay.opaque": b"n", "user.overlay.opaque": b"y"}
    layer = make({"directory": Directory(xattrs=marks)})
    assert not at(layer, "directory").opaque


def test_any_dialect_makes_a_directory_opaque(make: Make) -> None:
    layer = make({"directory": holds_xwhiteouts({".wh..wh..opq": "", "gone": xwhiteout()})})
    directory = at(layer, "directory")
    assert directory.opaque
    assert layer.lookup(directory, b"gone") is model.WHITEOUT


def test_a_directory_that_holds_whiteout_files_is_not_opaque_for_that(make: Make) -> None:
    layer = make({"directory": holds_xwhiteouts({"gone": xwhiteout("user.overlay")})})
    directory = at(layer, "directory")
    assert not directory.opaque
    assert layer.lookup(directory, b"gone") is model.WHITEOUT
    assert layer.listing(directory) == {b"gone": model.WHITEOUT}


def test_a_whiteout_file_counts_only_where_the_directory_says_so(make: Make) -> None:
    layer = make({"plain": {"file": xwhiteout()}, "opaque": opaque({"file": xwhiteout()})})
    for path in ("plain", "opaque"):
        assert isinstance(layer.lookup(at(layer, path), b"file"), Entry)


def test_only_an_empty_file_can_be_a_whiteout(make: Make) -> None:
    full = File("content", xattrs={"trusted.overlay.whiteout": b"y"})
    layer = make({"directory": holds_xwhiteouts({"full": full, "empty": ""})})
    directory = at(layer, "directory")
    for name in (b"full", b"empty"):
        assert isinstance(layer.lookup(directory, name), Entry)
        assert layer.listing(directory)[name] is not model.WHITEOUT


# A host that changes


def test_what_is_gone_is_not_there(make: Make, tmp_path: Path) -> None:
    layer = make({"file": "content", "link": Symlink("x")})
    file, link = at(layer, "file"), at(layer, "link")
    (tmp_path / "layer/file").unlink()
    (tmp_path / "layer/link").unlink()
    with raises(errno.ENOENT):
        layer.open(file)
    with raises(errno.ENOENT):
        layer.readlink(link)
    with raises(errno.ENOENT):
        layer.listxattr(file)
    assert layer.lookup(layer.root(), b"file") is None


@pytest.mark.parametrize("other", [File("other"), Symlink("/etc/passwd"), Directory(), WHITEOUT])
def test_another_file_under_the_name_is_not_taken_for_it(
    make: Make, tmp_path: Path, other: object
) -> None:
    layer = make({"file": "content"})
    entry = at(layer, "file")
    build(tmp_path / "new", {"file": other})  # type: ignore[dict-item]
    (tmp_path / "layer/file").rename(tmp_path / "old")
    (tmp_path / "new/file").rename(tmp_path / "layer/file")
    with raises(errno.ESTALE):
        layer.open(entry)


@pytest.mark.usefixtures("reached")
def test_a_link_in_a_directorys_place_leads_nowhere(make: Make, tmp_path: Path) -> None:
    layer = make({"a": {"b": {"file": "content"}}})
    entries = [at(layer, path) for path in ("a", "a/b", "a/b/file")]
    build(tmp_path / "outside", {"b": {"file": "secret"}})
    shutil.rmtree(tmp_path / "layer/a")
    (tmp_path / "layer/a").symlink_to(tmp_path / "outside")
    for entry in entries:
        layer.forget(entry)
    stale = (errno.ENOENT, errno.ESTALE, errno.ENOTDIR, errno.ELOOP)
    with raises(*stale):
        layer.lookup(entries[0], b"b")
    with raises(*stale):
        layer.listing(entries[1])
    with raises(*stale):
        layer.open(entries[2])


# How it is reached


@pytest.mark.parametrize(("content", "error"), [(None, errno.ENOENT), ("", errno.ENOTDIR)])
def test_what_is_not_a_directory_is_not_a_layer(
    tmp_path: Path, content: str | None, error: int
) -> None:
    if content is not None:
        (tmp_path / "layer").write_text(content)
    with raises(error):
        DirectoryLayer(bytes(tmp_path / "layer"))


def test_a_link_to_it_names_the_same_layer(make: Make, tmp_path: Path) -> None:
    layer = make({})
    (tmp_path / "link").symlink_to("layer")
    other = DirectoryLayer(bytes(tmp_path / "link"))
    other.close()
    assert (other.identity, other.lineage) == (layer.identity, layer.lineage)


def test_the_lineage_leads_up_to_the_hosts_root(make: Make, tmp_path: Path) -> None:
    layer = make({})
    above = [tmp_path / "layer", *(tmp_path / "layer").parents]
    assert list(layer.lineage) == [(path.stat().st_dev, path.stat().st_ino) for path in above]


@pytest.mark.usefixtures("reached")
def test_reading_leaves_access_times_alone(make: Make, tmp_path: Path) -> None:
    layer = make({"d": {"file": "content"}})
    paths = [tmp_path / "layer" / path for path in (".", "d", "d/file")]
    before = [path.stat().st_atime_ns for path in paths]
    layer.listing(layer.root())
    layer.listing(at(layer, "d"))
    with open(layer.open(at(layer, "d/file")), "rb") as file:
        assert file.read() == b"content"
    assert [path.stat().st_atime_ns for path in paths] == before


def test_in_a_private_view_reading_a_link_does_so_too(make: Make, tmp_path: Path) -> None:
    layer = make({"link": Symlink("target")})
    before = (tmp_path / "layer/link").lstat().st_atime_ns
    assert layer.readlink(at(layer, "link")) == b"target"
    assert (tmp_path / "layer/link").lstat().st_atime_ns == before


def test_a_mount_made_later_is_not_in_it(
    make: Make, tmp_path: Path, filesystems: FileSystems
) -> None:
    (tmp_path / "layer/there").mkdir(parents=True)
    (filesystems.tmpfs(tmp_path / "layer/there") / "file").touch()
    layer = make({"later": {"own": ""}})
    (filesystems.tmpfs(tmp_path / "layer/later") / "file").touch()
    assert list(layer.listing(at(layer, "there"))) == [b"file"]
    assert list(layer.listing(at(layer, "later"))) == [b"own"]
    layer.close()


def test_paths_may_be_longer_than_any_path(make: Make, tmp_path: Path) -> None:
    name = "n" * 200
    layer = make({})
    depth = 40  # two PATH_MAX
    with contextlib.chdir(tmp_path / "layer"):
        for _ in range(depth):
            os.mkdir(name)
            os.chdir(name)
        Path("file").write_text("content")
    try:
        entry = at(layer, "/".join([name] * depth))
        assert list(layer.listing(entry)) == [b"file"]
    finally:
        # rmtree of Python 3.11 goes by path.
        with linux.opened(tmp_path / "layer") as descriptor:
            remove_deep(descriptor, name)


def remove_deep(directory: int, name: str) -> None:
    with linux.opened_at(directory, name) as descriptor:
        if name in os.listdir(descriptor):
            remove_deep(descriptor, name)
        else:
            os.unlink("file", dir_fd=descriptor)
    os.rmdir(name, dir_fd=directory)


def test_descriptors_stay_within_their_budget(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places._descriptors, "_limit", len(places._descriptors._cached) + 8)
    layer = make({f"{i}": {"a": {"b": {"file": str(i)}}} for i in range(20)})
    before = len(os.listdir("/proc/self/fd"))
    entries = [at(layer, f"{i}/a/b") for i in range(20)]
    assert len(os.listdir("/proc/self/fd")) - before <= 8
    for entry in entries:
        assert list(layer.listing(entry)) == [b"file"]
    assert len(os.listdir("/proc/self/fd")) - before <= 8


def test_a_descriptor_in_use_is_not_closed_for_another(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two directories of one operation, each deeper than the budget: neither loses its own."""
    monkeypatch.setattr(places._descriptors, "_limit", len(places._descriptors._cached) + 8)
    path = "/".join("d" * 20)
    layer = make({"a": _chain(20, "one"), "b": _chain(20, "other")})
    one = at(layer, f"a/{path}").handle
    other = at(layer, f"b/{path}").handle
    first, second = places.directory(one), places.directory(other)
    assert os.listdir(f"/proc/self/fd/{first}") == ["one"]
    assert os.listdir(f"/proc/self/fd/{second}") == ["other"]


def _chain(depth: int, name: str) -> Tree:
    tree: Tree = {name: ""}
    for _ in range(depth):
        tree = {"d": tree}
    return tree
