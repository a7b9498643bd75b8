"""Words that name images, in the place of directories; and what their files tell of it."""

import errno
import os
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support import tars
from tests.support.command import Command
from tests.support.mounts import Mounts, UnionMount, three_times
from tests.support.stores import StoreBuilder
from tests.unit.errors import raises

_REPOSITORY = Path(__file__).parents[2]
_STORE = """
from pathlib import Path
from tests.unit.memory import Implied, MemoryLayer
from tests.support.layers import Directory, File
from unionfs.model import UnionError

def lookup(word):
    if word == "broken:1":
        raise UnionError("image broken:1: a layer of it is gone; import it again")
    if word != "two:1":
        return None
    base = {"file": "image\\n", "d": Directory({"a": "base"}, mode=0o700, uid=1000)}
    top = Implied({"d": Implied({"b": "top"}), "tool": File("#!/bin/sh", mode=0o755)})
    return [
        MemoryLayer(base, identity="1", device=1 << 40, described={"digest": "sha256:11"}),
        MemoryLayer(
            top,
            identity="2",
            device=2 << 40,
            described={"digest": "sha256:22", "created_by": "COPY b /d/"},
        ),
    ]
"""


@pytest.fixture
def store(directory: Path) -> Mapping[str, str]:
    """An environment in which a program is installed that knows the image `two:1`."""
    installed = directory / "installed"
    information = installed / "store-1.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: store\nVersion: 1\n")
    (information / "entry_points.txt").write_text("[unionfs.sources]\nstore = a_store:lookup\n")
    (installed / "a_store.py").write_text(_STORE)
    # Its bytecode would be something new beside the mount.
    quiet = {"PYTHONDONTWRITEBYTECODE": "1"}
    return {**os.environ, **quiet, "PYTHONPATH": f"{installed}:{_REPOSITORY}"}


def test_an_image_is_mounted_by_its_name(unionmount: Command, store: Mapping[str, str]) -> None:
    unionmount.mounts("two:1", "mount", env=store)
    mount = unionmount.directory / "mount"
    assert sorted(os.listdir(mount)) == ["d", "file", "tool"]
    assert sorted(os.listdir(mount / "d")) == ["a", "b"]
    status = (mount / "d").stat()
    assert (oct(status.st_mode), status.st_uid) == ("0o40700", 1000)
    assert (mount / "d" / "b").read_text() == "top"
    (union,) = unionmount.unions()
    assert union.layers == [b"two:1"]
    assert "  layer    two:1\n" in unionmount("--list").stdout


def test_images_and_directories_mix(unionmount: Command, store: Mapping[str, str]) -> None:
    unionmount.mounts("--upper", "upper", "base", "two:1", "mount", env=store)
    mount = unionmount.directory / "mount"
    assert (mount / "file").read_text() == "image\n"
    (mount / "d" / "b").write_text("changed")
    copied = (unionmount.directory / "upper" / "d").stat()
    assert (oct(copied.st_mode), copied.st_uid) == ("0o40700", 1000)
    (union,) = unionmount.unions()
    assert union.layers == [bytes(unionmount.directory / "base"), b"two:1"]


def test_an_image_may_be_a_lowerdir(unionmount: Command, store: Mapping[str, str]) -> None:
    unionmount.mounts("-o", r"lowerdir=base:two\:1", "mount", env=store)
    mount = unionmount.directory / "mount"
    assert (mount / "file").read_text() == "content"
    assert sorted(os.listdir(mount / "d")) == ["a", "b"]


def test_a_directory_of_that_name_comes_first(
    unionmount: Command, store: Mapping[str, str]
) -> None:
    (unionmount.directory / "two:1").mkdir()
    unionmount.mounts("two:1", "mount", env=store)
    assert os.listdir(unionmount.directory / "mount") == []


@pytest.mark.parametrize("foreground", [[], ["-f"]])
@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (
            ["two:2", "mount"],
            "layer two:2: there is no such directory, and no image of that name in the store",
        ),
        (["./two:1", "mount"], "/./two:1: there is no such directory"),
        (["broken:1", "mount"], "image broken:1: a layer of it is gone; import it again"),
        (
            ["--upper", "base", "two:1", "base", "mount"],
            "is the same directory as layer",
        ),
    ],
)
def test_what_can_not_be_mounted_is_a_line(
    unionmount: Command,
    store: Mapping[str, str],
    foreground: list[str],
    words: list[str],
    reason: str,
) -> None:
    assert reason in unionmount.refuses(*foreground, *words, env=store)


def test_a_damaged_content_is_never_shown(union: Mounts[UnionMount], tmp_path: Path) -> None:
    tar = tars.tar(tars.file("bad", b"content"), tars.file("good", b"another"))
    store = StoreBuilder(tmp_path / "store")
    store.image("some:1", [tar])
    (damaged,) = [path for path in store.path.rglob("*-7") if path.read_text() == "content"]
    damaged.write_text("tnetnoc")
    mount = union(
        Path("some:1"),
        command=store.command,
        expected_errors=["object .* is damaged; see layerstore check"],
    )
    for when in three_times(mount):
        for _ in range(2):
            with raises(errno.EIO):
                (mount / "bad").read_text()
            assert (mount / "good").read_text() == "another", when


def test_what_has_no_content_can_be_changed(union: Mounts[UnionMount], tmp_path: Path) -> None:
    tar = tars.tar(tars.directory("d"), tars.fifo("fifo"), tars.symlink("link", "d"))
    store = StoreBuilder(tmp_path / "store")
    store.image("some:1", [tar])
    mount = union(Path("some:1"), command=store.command)
    for name in ("d", "fifo", "link"):
        os.utime(mount / name, ns=(1, 2), follow_symlinks=False)
    for name in ("d", "fifo", "link"):
        assert (mount / name).lstat().st_mtime_ns == 2
        os.rename(mount / name, mount / f"{name} again")
    assert sorted(os.listdir(mount.path)) == ["d again", "fifo again", "link again"]


def test_what_is_not_plain_in_an_image_is_as_in_directories(
    union: Mounts[UnionMount], tmp_path: Path
) -> None:
    """What has another name, or hides what is below, or is implied; the rest is answered in C."""
    base = tars.tar(
        tars.directory("hidden"),
        tars.file("hidden/below", b"below"),
        tars.directory("implied", mode=0o700),
        tars.file("one", b"content"),
        tars.hardlink("two", "one"),
    )
    above = tars.tar(
        tars.directory("hidden"), tars.opaque("hidden"), tars.file("implied/file", b"above")
    )
    store = StoreBuilder(tmp_path / "store")
    store.image("some:1", [base, above])
    mount = union(Path("some:1"), command=store.command)
    (mount / "one").write_text("changed")  # nobody has asked for its other name yet
    assert os.listdir(mount / "hidden") == []
    assert stat.S_IMODE((mount / "implied").stat().st_mode) == 0o700
    one, two = ((mount / name).stat() for name in ("one", "two"))
    assert (one.st_ino, one.st_nlink) == (two.st_ino, 2)
    for when in three_times(mount):
        assert (mount / "two").read_text() == "changed", when


def test_a_content_that_is_set_aside_is_not_shown(
    union: Mounts[UnionMount], tmp_path: Path
) -> None:
    """Not even where it was verified: what stands in its place is another file."""
    store = StoreBuilder(tmp_path / "store")
    store.image("some:1", [tars.tar(tars.file("file", b"content"))])
    mount = union(
        Path("some:1"),
        command=store.command,
        expected_errors=["object .* has the wrong size; see layerstore check"],
    )
    assert (mount / "file").read_text() == "content"
    (kept,) = [path for path in store.path.rglob("*-7") if path.is_file()]
    kept.write_text("set aside")
    with raises(errno.EIO):
        (mount / "file").read_text()


def _getfattr(path: Path, *words: str) -> str:
    return subprocess.check_output(["getfattr", "--absolute-names", *words, path], text=True)


def test_each_entry_tells_its_layer(unionmount: Command, store: Mapping[str, str]) -> None:
    (unionmount.directory / "base" / "plain").touch()
    unionmount.mounts("--upper", "upper", "base", "two:1", "mount", env=store)
    mount = unionmount.directory / "mount"

    def told(name: str) -> str:
        return _getfattr(mount / name, "--only-values", "-n", "user.unionmount.layer")

    assert {name: told(name) for name in ("plain", "file", "tool", "d", "d/a", "d/b", "")} == {
        "plain": str(unionmount.directory / "base"),
        "file": "sha256:11",
        "tool": "sha256:22",
        "d": "sha256:11",
        "d/a": "sha256:11",
        "d/b": "sha256:22",
        "": "upper",
    }
    made_by = "user.unionmount.created_by"
    assert _getfattr(mount / "tool", "--only-values", "-n", made_by) == "COPY b /d/"
    with raises(errno.ENODATA):
        os.getxattr(mount / "file", made_by)
    assert _getfattr(mount / "tool", "-d", "-m", "-") == ""
    with raises(errno.EPERM):
        os.setxattr(mount / "tool", "user.unionmount.layer", b"mine")
    with raises(errno.EPERM):
        os.removexattr(mount / "tool", "user.unionmount.layer")
    assert not list((unionmount.directory / "upper").iterdir())
    (mount / "d" / "b").write_text("changed")
    assert (told("d"), told("d/a"), told("d/b")) == ("upper", "sha256:11", "upper")
