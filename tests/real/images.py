"""Images for the tests: made by umoci out of every kind of entry and of change."""

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO

from tests.support import tars
from tests.support.acls import ACCESS, DEFAULT, acl
from tests.support.layers import Directory, File, HardLink, Node, Symlink, Tree, build

_LAYERSTORE = str(Path(sys.executable).with_name("layerstore"))
_PATIENCE = 120  # seconds that a command may take
_CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
_NOT_UTF8 = os.fsdecode(b"\xff\xfe\n\x01")
_BASE: Tree = {
    "plain": File("content", uid=12, gid=34, mode=0o640),
    "empty": "",
    "setuid": File("x", mode=0o4755, uid=12),
    "capable": File("x", mode=0o755, xattrs={"security.capability": _CAPABILITY}),
    "marked": File("x", xattrs={"user.mark": b"\0\xff\n", "trusted.mark": b"x"}),
    "shared": File("x", mode=0o664, xattrs={ACCESS: acl("u::rw-,u:7:r--,g::r--,m::rw-,o::r--")}),
    "link": Symlink("nowhere/at/all", uid=12, xattrs={"trusted.mark": b"on a link"}),
    "fifo": Node(stat.S_IFIFO, mode=0o640, uid=1),
    "block": Node(stat.S_IFBLK, 7, 200, mode=0o660, gid=6),
    "disk": Node(stat.S_IFBLK, 8, 1, mode=0o640),
    "character": Node(stat.S_IFCHR, 1, 3, mode=0o666),
    "sparse": File("x", size=5 << 20),
    "names": Directory(
        {
            "a": HardLink("plain"),
            "b": HardLink("link"),
            "c": HardLink("character"),
            "d": HardLink("setuid"),
            _NOT_UTF8: "not UTF-8",
            "x" * 255: {"y" * 255: "a long path"},
            "\N{SNOWMAN}": "more than ASCII",
        },
        mode=0o2775,
        gid=34,
    ),
    "closed": Directory({"in": Directory({"file": "x"}, mode=0)}, mode=0o500, uid=12),
    "sticky": Directory({}, mode=0o1777, xattrs={"user.mark": b"directory"}),
    "default": Directory(
        {"file": "x"}, xattrs={DEFAULT: acl("u::rwx,u:7:rwx,g::r-x,m::rwx,o::---")}
    ),
    "removed": {"deep": {"file": "x"}, "file": "x"},
    "replaced": {"file": "x"},
    "file": "becomes a directory",
    "inserted": {"hidden": "x", "both": "below", "deep": {"hidden": "x"}},
    "gone": {"file": "x"},
    "merged": Directory({"kept": "x", "deep": Directory({"file": "x"}, mode=0o711)}, mode=0o700),
    "emptied": Directory({"file": "x", "deep": {"file": "x"}}, mode=0o750, uid=9),
}
# Directories have no entry of their own, or come after what is in them; so does what hides them.
_LAST = tars.tar(
    tars.pax({"mtime": "1234567890.123456789"}),
    tars.file("merged/deep/new", b"in directories of below"),
    tars.whiteout("merged/kept"),
    tars.file("emptied/new", b"x"),
    tars.opaque("emptied"),
    tars.directory("emptied", mode=0o705, uid=10),
    tars.file("again/file", b"x"),
    tars.directory("again", mode=0o700),
    tars.hardlink("again/link", "again/file"),
    tars.pax_sparse("again/sparse", {1 << 20: b"x" * 512}, 2 << 20, "1.0"),
    tars.xattrs({"user.mark": b"x", "trusted.mark": b"y"}),
    tars.directory("sticky", mode=0o1770),
)


def change(root: Path) -> None:
    """Change what is in a root of the image in many ways."""
    shutil.rmtree(root / "removed")
    shutil.rmtree(root / "replaced")
    (root / "replaced").write_text("a file now")
    (root / "file").unlink()
    (root / "file").mkdir()
    (root / "file/below").write_text("x")
    (root / "setuid").chmod(0o755)
    os.chown(root / "empty", 77, 88)
    with (root / "plain").open("a") as file:
        file.write("more")  # of each of its names
    os.link(root / "marked", root / "names/marked")
    (root / "names/d").unlink()
    os.setxattr(root / "capable", "user.added", b"x")
    os.removexattr(root / "sticky", "user.mark")
    os.rename(root / "default", root / "renamed")
    (root / "block").unlink()
    (root / "block").symlink_to("fifo")
    os.mknod(root / "made", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    os.utime(root / "fifo", ns=(0, 123_456_789_000_000_000))


def change_again(root: Path) -> None:
    """Change what is in the root of the whole image, as an upper sees it."""
    shutil.rmtree(root / "inserted")
    (root / "inserted").mkdir()
    (root / "inserted/new").write_text("in an opaque directory")
    os.rename(root / "merged", root / "names/merged")
    (root / "names/merged/deep/new").write_text("in a renamed directory")
    (root / "again/link").unlink()
    with (root / "names/marked").open("a") as file:
        file.write("more")  # of both names
    os.link(root / "link", root / "one more")
    os.setxattr(root / "shared", "user.new", b"x")
    os.chown(root / "capable", 5, 6)
    os.rename(root / "capable", root / "capable again")
    os.mkfifo(root / "another", 0o600)
    os.truncate(root / "sparse", 3 << 20)
    os.utime(root / "file", ns=(0, 123_456_789_012_345_678))
    # What is the same in the end is no change.
    (root / "closed").chmod(0o700)
    (root / "closed").chmod(0o500)
    os.rename(root / "emptied", root / "elsewhere")
    os.rename(root / "elsewhere", root / "emptied")


def run(*words: str | Path, stdin: int | IO[bytes] | None = subprocess.DEVNULL) -> str:
    """What a command prints; AssertionError with all that it said when it fails."""
    ended = subprocess.run(
        words,
        stdin=stdin,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=_PATIENCE,
        check=False,
    )
    assert ended.returncode == 0, f"{words}: {ended.returncode}\n{ended.stdout}{ended.stderr}"
    return ended.stdout


def skopeo(*words: str) -> str:
    """What skopeo prints; nothing of the machine's configuration decides what it trusts."""
    return run("skopeo", "--insecure-policy", *words)


def made_by_umoci(directory: Path) -> str:
    """An image of five layers in a new layout in *directory*, in umoci's words: PATH:TAG."""
    image = f"{directory / 'layout'}:made"
    run("umoci", "init", "--layout", directory / "layout")
    run("umoci", "new", "--image", image)
    _repack(image, directory / "first", lambda root: Directory(_BASE).write(root, root))
    _repack(image, directory / "second", change)
    inserted = build(directory / "inserted", {"both": "above", "new": "x"})
    run("umoci", "insert", "--image", image, "--opaque", inserted, "/inserted")
    run("umoci", "insert", "--image", image, "--whiteout", "/gone")
    (directory / "last.tar").write_bytes(_LAST)
    run("umoci", "raw", "add-layer", "--image", image, directory / "last.tar")
    return image


def _repack(image: str, bundle: Path, make: Callable[[Path], None]) -> None:
    """Add what *make* does to the root of the image as a layer."""
    run("umoci", "unpack", "--image", image, bundle)
    make(bundle / "rootfs")
    run("umoci", "repack", "--image", image, bundle)


def unpacked(image: str, target: Path) -> Path:
    """What umoci unpacks of an image in a layout, in a new directory."""
    run("umoci", "raw", "unpack", "--image", image, target)
    return target


class Store:
    """A store, and the commands that work on it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, *words: str | Path) -> str:
        """What layerstore prints."""
        return run(_LAYERSTORE, "--store", self.path, *words)

    def imports(self, source: Path, name: str, *words: str | Path) -> int:
        """Import an image; answers how many of its layers are new."""
        (imported,) = json.loads(self("import", source, "--tag", name, "--json", *words))
        new: int = imported["new_layers"]
        return new

    def imports_output(self, name: str, *words: str | Path) -> None:
        """Import what a command writes to its standard output."""
        with subprocess.Popen(words, stdout=subprocess.PIPE) as command:
            importing = (_LAYERSTORE, "--store", self.path, "import", "-", "--tag", name)
            run(*importing, stdin=command.stdout)
        assert command.returncode == 0

    def layers(self, name: str) -> list[str]:
        """The diff IDs of an image, base first."""
        found = json.loads(self("history", name, "--json"))
        return [step["layer"] for step in found if step["layer"]]
