"""Devices, FIFOs and sockets: they work, and still do when the kernel forgot them."""

import errno
import os
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import linux
from tests.support.layers import FIFO, Node, Tree
from tests.support.mounts import Mount, Mounts, three_times

LAYER: Tree = {
    "zero": Node(stat.S_IFCHR, 1, 5),
    "fifo": FIFO,
    "socket": Node(stat.S_IFSOCK),
    "block": Node(stat.S_IFBLK, 7, 300),
}
KINDS = {
    "zero": (stat.S_IFCHR, os.makedev(1, 5)),
    "fifo": (stat.S_IFIFO, 0),
    "socket": (stat.S_IFSOCK, 0),
    "block": (stat.S_IFBLK, os.makedev(7, 300)),
}


def _check_kinds(directory: Path, when: str) -> None:
    for name, (kind, rdev) in KINDS.items():
        status = (directory / name).lstat()
        assert (stat.S_IFMT(status.st_mode), status.st_rdev) == (kind, rdev), (name, when)
        assert status.st_size == 0, (name, when)


def _make(directory: Path) -> None:
    for name, (kind, rdev) in KINDS.items():
        os.mknod(directory / name, kind | 0o600, rdev)


def test_special_files_of_a_layer(both: Mounts[Mount]) -> None:
    mount = both(LAYER)
    for when in three_times(mount):
        _check_kinds(mount.path, when)


def test_special_files_made_in_the_mount(both: Mounts[Mount]) -> None:
    mount = both({})
    _make(mount.path)
    for when in three_times(mount):
        _check_kinds(mount.path, when)
    _check_kinds(mount.changes, "in the upper")


def test_special_files_stay_what_they_are_at_copy_up(both: Mounts[Mount]) -> None:
    mount = both(LAYER)
    for name in KINDS:
        os.chown(mount / name, 5, 6)
        (mount / name).chmod(0o640)
        os.utime(mount / name, ns=(1, 2))
    for when in three_times(mount):
        _check_kinds(mount.path, when)
        for name in KINDS:
            status = (mount / name).lstat()
            assert (status.st_uid, status.st_gid) == (5, 6), when
            assert (status.st_mode & 0o777, status.st_mtime_ns) == (0o640, 2), when
    _check_kinds(mount.changes, "in the upper")


def test_special_files_are_renamed_linked_and_removed(both: Mounts[Mount]) -> None:
    mount = both(LAYER)
    (mount / "d").mkdir()
    for name in KINDS:
        os.link(mount / name, mount / "d" / name)
        os.rename(mount / name, mount / f"{name}.new")
        (mount / f"{name}.new").unlink()
    for when in three_times(mount):
        _check_kinds(mount / "d", when)
        assert os.listdir(mount.path) == ["d"], when


@pytest.mark.parametrize("made", ["layer", "mount", "copied up"])
def test_a_character_device_works(both: Mounts[Mount], made: str) -> None:
    mount = both({} if made == "mount" else LAYER, options=["dev"])
    if made == "mount":
        _make(mount.path)
    elif made == "copied up":
        os.chown(mount / "zero", 5, 6)
    for when in three_times(mount):
        with linux.opened(mount / "zero", os.O_RDWR) as device:
            assert os.read(device, 10) == bytes(10), when
            assert os.write(device, b"gone") == 4, when
            mount.drop_caches()
            assert os.read(device, 10) == bytes(10), when


@contextmanager
def _loop_device(image: Path) -> Iterator[str]:
    command = ["losetup", "--find", "--show", str(image)]
    device = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


@pytest.mark.parametrize("made", ["layer", "mount", "copied up"])
def test_a_block_device_works(both: Mounts[Mount], directory: Path, made: str) -> None:
    image = directory / "image"
    image.write_bytes(b"on the device".ljust(8192, b"\0"))
    with _loop_device(image) as device:
        number = os.stat(device).st_rdev
        node = Node(stat.S_IFBLK, os.major(number), os.minor(number))
        mount = both({} if made == "mount" else {"block": node}, options=["dev"])
        if made == "mount":
            os.mknod(mount / "block", stat.S_IFBLK | 0o600, number)
        elif made == "copied up":
            os.chown(mount / "block", 5, 6)
        for when in three_times(mount):
            with linux.opened(mount / "block") as block:
                assert os.read(block, 13) == b"on the device", when
        mount.unmount()


@pytest.mark.parametrize("name", ["zero", "block"])
def test_devices_are_closed_without_the_option(both: Mounts[Mount], name: str) -> None:
    mount = both(LAYER)
    with pytest.raises(PermissionError):
        os.open(mount / name, os.O_RDONLY)


@pytest.mark.parametrize("made", ["layer", "mount", "copied up"])
def test_a_fifo_works(both: Mounts[Mount], made: str) -> None:
    mount = both({} if made == "mount" else LAYER)
    if made == "mount":
        os.mkfifo(mount / "fifo")
    elif made == "copied up":
        os.chown(mount / "fifo", 5, 6)
    for when in three_times(mount):
        with linux.opened(mount / "fifo", os.O_RDONLY | os.O_NONBLOCK) as reader:
            with linux.opened(mount / "fifo", os.O_WRONLY) as writer:
                os.write(writer, b"through")
                assert os.read(reader, 10) == b"through", when
            mount.drop_caches()
            with linux.opened(mount / "fifo", os.O_WRONLY | os.O_NONBLOCK) as writer:
                os.write(writer, b"again")
                assert os.read(reader, 10) == b"again", when
            os.chown(mount / "fifo", 1, 2)
            with linux.opened(mount / "fifo", os.O_WRONLY | os.O_NONBLOCK) as writer:
                os.write(writer, b"after chown")
                assert os.read(reader, 20) == b"after chown", when


def _address(path: Path, descriptor: int) -> str:
    """A short name of a path: a socket's may have 107 bytes."""
    return f"/proc/self/fd/{descriptor}/{path.name}"


def test_a_socket_works(both: Mounts[Mount]) -> None:
    mount = both({})
    with (
        linux.opened(mount.path, os.O_PATH) as directory,
        socket.socket(socket.AF_UNIX) as server,
    ):
        address = _address(mount / "s", directory)
        server.bind(address)
        server.listen()
        for change in ("none", "drop_caches", "chown", "rename"):
            match change:
                case "drop_caches":
                    mount.drop_caches()
                case "chown":
                    os.chown(mount / "s", 5, 6)
                case "rename":
                    os.rename(mount / "s", mount / "t")
                    address = _address(mount / "t", directory)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(address)
                accepted, _ = server.accept()
                with accepted:
                    client.send(b"hello")
                    assert accepted.recv(10) == b"hello", change
    assert stat.S_ISSOCK((mount / "t").lstat().st_mode)
    mount.remount()
    assert stat.S_ISSOCK((mount / "t").lstat().st_mode)


@pytest.mark.parametrize("copied_up", [False, True])
def test_a_socket_of_a_layer_has_no_server(both: Mounts[Mount], copied_up: bool) -> None:
    mount = both(LAYER)
    if copied_up:
        os.chown(mount / "socket", 5, 6)
    for when in three_times(mount):
        with (
            linux.opened(mount.path, os.O_PATH) as directory,
            socket.socket(socket.AF_UNIX) as client,
        ):
            with pytest.raises(ConnectionRefusedError):
                client.connect(_address(mount / "socket", directory))
            with pytest.raises(OSError, match=r".") as caught:
                os.open(mount / "socket", os.O_RDONLY)
            assert caught.value.errno == errno.ENXIO, when
