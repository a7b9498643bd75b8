"""Files whose attributes lie in one layer and whose data in another: read, and written."""

import contextlib
import errno
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import linux
from tests.support.layers import OLD, WHITEOUT, File, HardLink, Tree, redirect
from tests.support.mounts import KernelMount, Mount, Mounts, UnionMount, three_times
from tests.support.snapshots import differences, snapshot

CONTENT = bytes(range(256)) * 64
BASE: Tree = {"file": CONTENT, "d": {"file": b"deep" * 1000}, "small": "small"}
METACOPY = ["metacopy=on"]


def _metacopy(size: int, to: str = "", mode: int = 0o640, namespace: str = "trusted") -> File:
    xattrs = {f"{namespace}.overlay.metacopy": b"", "user.mine": b"kept"}
    if to:
        xattrs[f"{namespace}.overlay.redirect"] = os.fsencode(to)
    return File(size=size, mode=mode, uid=7, gid=8, mtime=5_000_000_001, xattrs=xattrs)


def _options(mounts: Mounts[Mount]) -> list[str]:
    return METACOPY if mounts.kind is KernelMount else []


def _check(path: Path, content: bytes, when: str) -> None:
    status = path.stat()
    assert path.read_bytes() == content, when
    assert (status.st_size, status.st_uid, status.st_gid) == (len(content), 7, 8), when
    assert stat.S_IMODE(status.st_mode) == 0o640, when
    assert status.st_mtime_ns == 5_000_000_001, when
    assert os.listxattr(path) == ["user.mine"], when
    assert status.st_blocks > 0, when


def test_data_comes_from_the_layer_below(both: Mounts[Mount]) -> None:
    mount = both(BASE, {"file": _metacopy(len(CONTENT))}, options=_options(both))
    for when in three_times(mount):
        _check(mount / "file", CONTENT, when)


def test_data_comes_from_where_the_redirect_says(both: Mounts[Mount]) -> None:
    top: Tree = {"new": _metacopy(len(CONTENT), "/file"), "file": WHITEOUT, "d": {}}
    mount = both(BASE, top, options=_options(both))
    for when in three_times(mount):
        _check(mount / "new", CONTENT, when)
        assert not (mount / "file").exists(), when


def test_data_below_a_redirected_directory(both: Mounts[Mount]) -> None:
    top: Tree = {"new": redirect({"file": _metacopy(4000)}, "/d"), "d": WHITEOUT}
    mount = both(BASE, top, options=_options(both))
    for when in three_times(mount):
        _check(mount / "new" / "file", b"deep" * 1000, when)


def test_metacopies_chain_over_layers(both: Mounts[Mount]) -> None:
    mount = both(
        BASE,
        {"second": _metacopy(len(CONTENT), "/file", mode=0o600), "file": WHITEOUT},
        {"third": _metacopy(len(CONTENT), "/second"), "second": WHITEOUT},
        options=_options(both),
    )
    for when in three_times(mount):
        _check(mount / "third", CONTENT, when)


def test_metacopies_of_users(union: Mounts[UnionMount]) -> None:
    layer: Tree = {"file": _metacopy(len(CONTENT), namespace="user")}
    mount = union(BASE, layer, options=["userxattr"])
    for when in three_times(mount):
        _check(mount / "file", CONTENT, when)


def test_writing_brings_data_and_attributes_together(both: Mounts[Mount]) -> None:
    mount = both(BASE, {"file": _metacopy(len(CONTENT))}, options=_options(both))
    with linux.opened(mount / "file", os.O_RDWR) as descriptor:
        os.pwrite(descriptor, b"changed", 100)
    os.utime(mount / "file", ns=(OLD, 5_000_000_001))
    for when in three_times(mount):
        _check(mount / "file", CONTENT[:100] + b"changed" + CONTENT[107:], when)
    mount.unmount()
    assert "trusted.overlay.metacopy" not in os.listxattr(mount.changes / "file")


def test_changing_attributes_keeps_the_data(both: Mounts[Mount]) -> None:
    mount = both(BASE, {"file": _metacopy(len(CONTENT), mode=0o600)}, options=_options(both))
    (mount / "file").chmod(0o640)
    for when in three_times(mount):
        _check(mount / "file", CONTENT, when)


@pytest.mark.parametrize("below", [{}, {"file": WHITEOUT}, {"file": {"a": "directory"}}])
def test_a_metacopy_without_data_is_an_error(union: Mounts[UnionMount], below: Tree) -> None:
    """Never an empty file, and never a file of zeros."""
    mount = union(below, {"file": _metacopy(9), "other": "fine"})
    for when in three_times(mount):
        with pytest.raises(OSError, match=r".") as caught:
            (mount / "file").read_bytes()
        assert caught.value.errno in (errno.EIO, errno.ESTALE), when
        assert (mount / "other").read_text() == "fine", when


@pytest.mark.parametrize("target", ["/../secret", "../secret", "/link", "/d/../../secret"])
def test_no_metacopy_leads_out_of_the_layer(
    union: Mounts[UnionMount], directory: Path, target: str
) -> None:
    secret = directory / "unionmount0" / "secret"

    def layer(root: Path) -> None:
        secret.write_text("secret")
        (root / "d").mkdir()
        (root / "link").symlink_to(secret)

    mount = union(layer, {"file": _metacopy(6, target)})
    with pytest.raises(OSError, match=r"."):
        (mount / "file").read_bytes()
    assert (mount / "d").is_dir()


def test_layers_that_the_kernel_wrote_with_metacopy(
    kernel: Mounts[KernelMount], union: Mounts[UnionMount]
) -> None:
    writer = kernel(BASE, options=METACOPY)
    (writer / "file").chmod(0o600)
    os.rename(writer / "file", writer / "d" / "moved")
    os.rename(writer / "d", writer / "e")
    os.chown(writer / "small", 5, 6)
    os.link(writer / "small", writer / "linked")
    writer.unmount()
    layers = [*writer.layers, writer.changes]
    expected = snapshot(kernel(*layers, upper=False, options=METACOPY).path)
    assert "trusted.overlay.metacopy" in os.listxattr(writer.changes / "e" / "moved")
    mount = union(*layers, upper=False)
    for when in three_times(mount):
        assert differences(snapshot(mount.path), expected) == [], when


def test_filling_a_metacopy_keeps_capabilities_and_mode(
    union: Mounts[UnionMount], kernel: Mounts[KernelMount]
) -> None:
    # struct vfs_cap_data, revision 2: CAP_NET_RAW permitted and effective.
    capabilities = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)
    layer = File("content", mode=0o755, xattrs={"security.capability": capabilities})
    theirs = kernel({"file": layer}, options=METACOPY)
    (theirs / "file").chmod(0o711)
    theirs.unmount()
    assert "trusted.overlay.metacopy" in os.listxattr(theirs.changes / "file")
    ours = union(*theirs.layers, upper=theirs.changes, work=theirs.work)
    os.rename(ours / "file", ours / "moved")
    for when in three_times(ours):
        assert os.getxattr(ours / "moved", "security.capability") == capabilities, when
        assert stat.S_IMODE((ours / "moved").stat().st_mode) == 0o711, when
        assert (ours / "moved").read_text() == "content", when


def test_a_metacopy_without_content_can_be_listed_and_removed(union: Mounts[UnionMount]) -> None:
    mount = union({}, {"d": {"bad": _metacopy(5000), "good": "good"}})
    for when in three_times(mount):
        assert sorted(os.listdir(mount / "d")) == ["bad", "good"], when
        assert (mount / "d" / "bad").stat().st_size == 5000, when
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            (mount / "d" / "bad").read_bytes()
    (mount / "d" / "bad").unlink()
    (mount / "d" / "good").unlink()
    (mount / "d").rmdir()
    for when in three_times(mount):
        assert os.listdir(mount.path) == [], when


@pytest.mark.parametrize("written", ["b", "sub/e"])
def test_a_metacopy_in_the_index_stays_one_file(
    union: Mounts[UnionMount], kernel: Mounts[KernelMount], written: str
) -> None:
    layer: Tree = {"a": "old", **dict.fromkeys("bc", HardLink("a")), "sub": {"e": HardLink("a")}}
    theirs = kernel(layer, options=["metacopy=on"])
    (theirs / "a").chmod(0o600)
    (theirs / "a").unlink()
    theirs.unmount()
    mount = union(*theirs.layers, upper=theirs.changes, work=theirs.work)
    with linux.opened(mount / written, os.O_WRONLY | os.O_APPEND) as descriptor:
        os.write(descriptor, b" and new")
    for when in three_times(mount):
        for name in ("b", "c", "sub/e"):
            assert (mount / name).read_text() == "old and new", (name, when)
            assert (mount / name).stat().st_ino == (mount / "b").stat().st_ino, (name, when)
            assert (mount / name).stat().st_nlink == 3, (name, when)


# Written


_NAMED: Tree = {
    "file": File(CONTENT, mode=0o644, xattrs={"user.u": b"1"}),
    "one": CONTENT,
    "two": HardLink("one"),
    "d": {"deep": CONTENT, "three": HardLink("one"), "e": {"deepest": CONTENT}},
    "target": {},
}
_CHANGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "mode": ("file", lambda root: (root / "file").chmod(0o600)),
    "owner": ("file", lambda root: os.chown(root / "file", 7, 8)),
    "times": ("file", lambda root: os.utime(root / "file", ns=(1, 2))),
    "attribute": ("file", lambda root: os.setxattr(root / "file", "user.new", b"new")),
    "no attribute": ("file", lambda root: os.removexattr(root / "file", "user.u")),
    "name": ("new", lambda root: os.rename(root / "file", root / "new")),
    "directory": ("target/new", lambda root: os.rename(root / "file", root / "target" / "new")),
    "link": ("target/new", lambda root: os.link(root / "file", root / "target" / "new")),
    "mode of several names": ("d/three", lambda root: (root / "d" / "three").chmod(0o600)),
    "one of several names": ("new", lambda root: os.rename(root / "one", root / "new")),
    "one of several directories": (
        "target/new",
        lambda root: os.rename(root / "d" / "three", root / "target" / "new"),
    ),
    "one more of several names": ("new", lambda root: os.link(root / "one", root / "new")),
    "exchanged names": (
        "d/deep",
        lambda root: linux.renameat2(root / "file", root / "d" / "deep", linux.RENAME_EXCHANGE),
    ),
}


def _numbers(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_blocks


def _marks(upper: Path) -> dict[str, dict[str, bytes]]:
    """What overlayfs has to know of metacopies, by path."""
    found = {}
    for path in sorted(upper.rglob("*")):
        if path.is_file():
            present = os.listxattr(path)
            found[str(path.relative_to(upper))] = {
                mark: os.getxattr(path, f"trusted.overlay.{mark}")
                for mark in ("metacopy", "redirect")
                if f"trusted.overlay.{mark}" in present
            }
    return found


@pytest.mark.parametrize("change", _CHANGES)
def test_a_change_of_attributes_or_names_copies_no_data(both: Mounts[Mount], change: str) -> None:
    name, operation = _CHANGES[change]
    mount = both(_NAMED, options=METACOPY)
    number = _numbers(mount / "file")
    numbers = {_numbers(mount / known) for known in ("file", "one", "d/deep")}
    operation(mount.path)
    for when in three_times(mount):
        assert (mount / name).read_bytes() == CONTENT, when
        assert _numbers(mount / name) in numbers, when
        assert number in {_numbers(path) for path in mount.path.rglob("*")}, when
    assert linux.data_extents(mount.changes / name) == []
    assert (mount.changes / name).stat().st_size == len(CONTENT)
    assert _marks(mount.changes)[name]["metacopy"] == b""


@pytest.mark.parametrize("change", _CHANGES)
def test_metacopies_are_marked_as_the_kernel_marks_them(
    union: Mounts[UnionMount], kernel: Mounts[KernelMount], change: str
) -> None:
    _, operation = _CHANGES[change]
    ours, theirs = union(_NAMED, options=METACOPY), kernel(_NAMED, options=METACOPY)
    for mount in (ours, theirs):
        for name in ("one", "two", "d/three"):
            (mount / name).stat()
        operation(mount.path)
        os.rename(mount / "d" / "e" / "deepest", mount / "d" / "e" / "found")
        os.rename(mount / "d" / "e", mount / "target" / "e")
        os.rename(mount / "d", mount / "moved")
        os.rename(mount / "target" / "e" / "found", mount / "found")
        mount.unmount()
    wanted = _marks(theirs.changes)
    found = _marks(ours.changes)
    # We give all known names of a copied file to it at once.
    assert {name: found[name] for name in wanted} == wanted


def test_what_is_written_to_gets_its_data(both: Mounts[Mount]) -> None:
    mount = both(_NAMED, options=METACOPY)
    for name in ("file", "one", "d/deep"):
        (mount / name).chmod(0o600)
    os.rename(mount / "file", mount / "new")
    number = _numbers(mount / "new")[0]
    with linux.opened(mount / "new", os.O_WRONLY | os.O_APPEND) as descriptor:
        os.write(descriptor, b"more")
    with linux.opened(mount / "two", os.O_RDWR) as descriptor:
        os.pwrite(descriptor, b"changed", 100)
    os.truncate(mount / "d" / "deep", 5000)
    for when in three_times(mount):
        assert (mount / "new").read_bytes() == CONTENT + b"more", when
        for name in ("one", "two", "d/three"):
            changed = CONTENT[:100] + b"changed" + CONTENT[107:]
            assert (mount / name).read_bytes() == changed, when
        assert (mount / "d" / "deep").read_bytes() == CONTENT[:5000], when
        assert stat.S_IMODE((mount / "d" / "deep").stat().st_mode) == 0o600, when
        assert _numbers(mount / "new")[0] == number, when
    assert not any("metacopy" in marks for marks in _marks(mount.changes).values())


def test_an_emptied_file_needs_no_data(both: Mounts[Mount]) -> None:
    mount = both(_NAMED, options=METACOPY)
    (mount / "file").chmod(0o600)
    with linux.opened(mount / "file", os.O_WRONLY | os.O_TRUNC) as descriptor:
        os.write(descriptor, b"new")
    for when in three_times(mount):
        assert (mount / "file").read_bytes() == b"new", when
        assert stat.S_IMODE((mount / "file").stat().st_mode) == 0o600, when


def test_who_has_it_open_sees_what_is_written_later(both: Mounts[Mount]) -> None:
    mount = both(_NAMED, options=METACOPY)
    with linux.opened(mount / "file") as before:
        assert os.pread(before, 9, 0) == CONTENT[:9]
        (mount / "file").chmod(0o600)
        with linux.opened(mount / "file") as between:
            mount.drop_caches()
            assert os.pread(before, 9, 4096) == os.pread(between, 9, 4096) == CONTENT[:9]
            with linux.opened(mount / "file", os.O_WRONLY) as writer:
                os.pwrite(writer, b"new", 4096)
            mount.drop_caches()
            assert os.pread(between, 9, 4096) == b"new" + CONTENT[3:9]
            if isinstance(mount, UnionMount):
                assert os.pread(before, 9, 4096) == b"new" + CONTENT[3:9]
        os.fsync(before)


def test_a_removed_metacopy_keeps_its_data_for_who_has_it(both: Mounts[Mount]) -> None:
    mount = both(_NAMED, options=METACOPY)
    for name in ("file", "d/deep"):
        (mount / name).chmod(0o600)
    mount.remount()
    with (
        linux.opened(mount / "file", os.O_PATH) as held,
        linux.opened(mount / "d" / "deep") as opened,
    ):
        (mount / "file").unlink()
        os.rename(mount / "one", mount / "d" / "deep")
        mount.drop_caches()
        assert Path(f"/proc/self/fd/{held}").read_bytes() == CONTENT
        assert os.pread(opened, len(CONTENT), 0) == CONTENT
        os.fchmod(opened, 0o640)
        with linux.opened(f"/proc/self/fd/{opened}", os.O_RDWR) as writer:
            os.pwrite(writer, b"new", 0)
            assert os.pread(writer, 9, 0) == b"new" + CONTENT[3:9]
    for when in three_times(mount):
        assert (mount / "d" / "deep").read_bytes() == CONTENT, when


def test_an_empty_file_is_whole(union: Mounts[UnionMount]) -> None:
    mount = union({"file": ""}, options=METACOPY)
    (mount / "file").chmod(0o600)
    assert _marks(mount.changes) == {"file": {}}


def test_without_a_word_it_is_as_for_overlayfs_here(union: Mounts[UnionMount]) -> None:
    """So that a mount by the kernel can read what we wrote."""
    mount = union(_NAMED)
    (mount / "file").chmod(0o600)
    parameter = Path("/sys/module/overlay/parameters/metacopy").read_text()
    assert ("metacopy" in _marks(mount.changes)["file"]) == (parameter == "Y\n")


@pytest.mark.parametrize("options", [["metacopy=off"], ["userxattr"]])
def test_a_copy_may_have_to_be_whole(union: Mounts[UnionMount], options: list[str]) -> None:
    mount = union(_NAMED, options=options)
    (mount / "file").chmod(0o600)
    os.rename(mount / "one", mount / "new")
    mount.unmount()
    for name in ("file", "new"):
        assert (mount.changes / name).read_bytes() == CONTENT
        assert not {"trusted.overlay.metacopy", "user.overlay.metacopy"} & {
            *os.listxattr(mount.changes / name)
        }


def test_a_path_too_long_for_a_redirect_is_no_error(union: Mounts[UnionMount]) -> None:
    depth, name = 20, "d" * 250

    def deep(root: Path) -> None:
        with contextlib.chdir(root):
            for _ in range(depth):
                os.mkdir(name)
                os.chdir(name)
            Path("file").write_bytes(CONTENT)

    mount = union(deep, {}, options=METACOPY)
    with contextlib.chdir(mount.path):
        for _ in range(depth):
            os.chdir(name)
        os.rename("file", mount / "new")
    for when in three_times(mount):
        assert (mount / "new").read_bytes() == CONTENT, when
    assert "trusted.overlay.metacopy" not in os.listxattr(mount.changes / "new")


@pytest.mark.parametrize("first", ["union", "kernel"])
def test_each_fills_the_others_metacopies(
    union: Mounts[UnionMount], kernel: Mounts[KernelMount], first: str
) -> None:
    mounts: list[Mounts[UnionMount] | Mounts[KernelMount]] = [union, kernel]
    one, other = mounts if first == "union" else mounts[::-1]
    writer: Mount = one(_NAMED, options=METACOPY)
    for _, operation in list(_CHANGES.values())[:5]:
        operation(writer.path)
    os.rename(writer / "file", writer / "d" / "new")
    os.rename(writer / "d" / "three", writer / "target" / "new")
    os.rename(writer / "d", writer / "target" / "d")
    expected = snapshot(writer.path)
    numbers = _numbers(writer / "target" / "new")[1:]
    writer.unmount()
    reader: Mount = other(*writer.layers, upper=writer.changes, work=writer.work, options=METACOPY)
    for when in three_times(reader):
        assert differences(snapshot(reader.path), expected) == [], when
        assert _numbers(reader / "target" / "new")[1:] == numbers, when
    for name in ("target/d/new", "two"):
        with linux.opened(reader / name, os.O_WRONLY | os.O_APPEND) as descriptor:
            os.write(descriptor, b"more")
    expected = snapshot(reader.path)
    assert (reader / "target" / "new").read_bytes() == CONTENT + b"more"
    reader.unmount()
    again: Mount = one(*writer.layers, upper=writer.changes, work=writer.work, options=METACOPY)
    for when in three_times(again):
        assert differences(snapshot(again.path), expected) == [], when
