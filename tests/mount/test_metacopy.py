"""Lower files whose attributes lie in one layer and whose data in another."""

import errno
import os
import stat
import struct
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
