"""Copies of a whole root, out of a mount and into it, by the tools that people use."""

import os
import shutil
import stat
import struct
import subprocess
from pathlib import Path

import pytest

from tests.real.conftest import MountAbove
from tests.real.trees import RSYNC, differences, listing, usage
from tests.support.mounts import Mount, three_times

# uid 12 may read and write what its group may not: user::rw-, user:12:rw-, group::---, mask, other
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *entry)
    for entry in [
        (0x01, 6, 0xFFFFFFFF),
        (0x02, 6, 12),
        (0x04, 0, 0xFFFFFFFF),
        (0x10, 6, 0xFFFFFFFF),
        (0x20, 0, 0xFFFFFFFF),
    ]
)
CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)  # cap_net_bind_service=ep


def make_one_of_each_kind(directory: Path) -> None:
    """Everything that a copy may lose."""
    directory.mkdir(parents=True)
    os.setxattr(directory, "system.posix_acl_default", ACL)
    files = {name: directory / name for name in ("plain", "acl", "capable", "marked", "setuid")}
    for file in files.values():
        file.write_bytes(file.name.encode() * 1000)
        os.chown(file, 12, 34)
        file.chmod(0o640)
    os.setxattr(files["acl"], "system.posix_acl_access", ACL)
    os.setxattr(files["capable"], "security.capability", CAPABILITY)
    os.setxattr(files["marked"], b"user.\xff", b"\0\xff")
    files["setuid"].chmod(0o4755)
    (directory / "second name").hardlink_to(files["plain"])
    (directory / "line\nbreak").symlink_to("no\nwhere")
    (directory / os.fsdecode(b"not utf-8 \xff")).mkdir(mode=0o1777)
    with (directory / "sparse").open("wb") as sparse:
        sparse.seek(1 << 20)
        sparse.write(b"end")
        sparse.truncate(1 << 24)
    special = directory / "special"
    special.mkdir()
    os.mkfifo(special / "fifo")
    os.mknod(special / "block", stat.S_IFBLK | 0o600, os.makedev(7, 200))
    os.mknod(special / "character", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    for entry in directory.rglob("*"):
        os.utime(entry, ns=(1_000_000_001, 1_234_567_890_123_456_789), follow_symlinks=False)


def change_everything(root: Mount) -> None:
    """Leave every kind of mark in the upper: a tree that lies in all layers."""
    usr = root.path / "usr"
    make_one_of_each_kind(root.path / "srv/above")
    below = root.path / "srv/below"
    (below / "plain").chmod(0o600)
    with (below / "sparse").open("r+b") as sparse:
        sparse.write(b"start")
    (below / "acl").rename(below / "moved")
    (below / "special/fifo").rename(below / "special/pipe")
    shutil.rmtree(usr / "share/bash-completion")
    shutil.rmtree(usr / "share/common-licenses")
    (usr / "share/common-licenses").mkdir()
    (usr / "share/common-licenses/new").write_text("new\n")
    (usr / "lib/apt").rename(usr / "lib/moved")
    (root.path / "etc/hostname").unlink(missing_ok=True)
    (root.path / "etc/hostname").mkdir()


@pytest.fixture
def root(mount_packed: MountAbove, tmp_path: Path) -> Mount:
    layer = tmp_path / "kinds"
    make_one_of_each_kind(layer / "srv/below")
    root = mount_packed(layer)
    change_everything(root)
    return root


def diff(tree: Path, other: Path, *options: str) -> str:
    """What diff -r finds, who can compare anything but devices and FIFOs."""
    compare = ["diff", "-r", "--no-dereference", "--exclude=special", "--exclude=dev", *options]
    compared = subprocess.run(
        [*compare, str(tree), str(other)], capture_output=True, text=True, check=False
    )
    return compared.stdout + compared.stderr


def tar(tree: Path, copy: Path) -> None:
    """Copy what is below `tree` into the new directory `copy`, by way of a tar."""
    copy.mkdir()
    everything = ["tar", "--acls", "--xattrs", "--xattrs-include=*", "--numeric-owner", "--sparse"]
    with subprocess.Popen(
        [*everything, "-C", str(tree), "-cf", "-", "."], stdout=subprocess.PIPE
    ) as packing:
        unpack = [*everything, "-C", str(copy), "-xf", "-"]
        subprocess.run(unpack, stdin=packing.stdout, check=True)
    assert packing.returncode == 0


def test_tar_takes_a_root_out_and_brings_it_back(root: Mount, tmp_path: Path) -> None:
    out, back = tmp_path / "out", root.path / "srv/brought-back"
    before = listing(root.path)
    tar(root.path, out)
    tar(out, back)
    assert listing(out) == before
    root.remount()
    assert differences(out, back) == ""
    assert diff(out, back) == ""
    assert diff(out, root.path, f"--exclude={back.name}") == ""


def test_rsync_copies_a_root_out_and_deploys_a_changed_one(root: Mount, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    subprocess.run([*RSYNC, f"{root.path}/", f"{copy}/"], check=True)
    root.remount()
    assert differences(root.path, copy, checksum=True) == ""
    shutil.rmtree(copy / "usr/share/doc")
    (copy / "usr/lib/moved").rename(copy / "usr/lib/apt")
    for file in (copy / "etc").glob("*.conf"):
        file.write_text("changed\n")
    make_one_of_each_kind(copy / "opt/kinds")
    subprocess.run([*RSYNC, "--delete", f"{copy}/", f"{root.path}/"], check=True)
    assert differences(copy, root.path) == ""
    root.remount()
    assert differences(copy, root.path, checksum=True) == ""


def test_find_and_du_say_the_same_of_a_root_and_its_copy(root: Mount, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-a", str(root.path), str(copy)], check=True)
    found, used = listing(copy), usage(copy / "usr")
    for when in three_times(root):
        assert listing(root.path) == found, when
        assert usage(root.path / "usr") == used, when
