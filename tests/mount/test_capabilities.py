"""File capabilities and set-user-ID: kept at copy-up, cleared by a change as Linux does."""

import os
import stat
import struct
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from tests.support import linux
from tests.support.layers import File, Tree
from tests.support.mounts import Mount, Mounts, three_times

NAME = "security.capability"
_READ_ANYTHING = 1 << 2
CAPABILITY = struct.pack("<IIIII", 0x02000001, _READ_ANYTHING, 0, 0, 0)
LAYER: Tree = {
    "file": File("content", mode=0o755, uid=1000, gid=1000, xattrs={NAME: CAPABILITY}),
    "suid": File("content", mode=0o6777, uid=1000, gid=1000),
}


def _write(path: Path, flags: int) -> None:
    with linux.opened(path, os.O_WRONLY | flags) as descriptor:
        os.write(descriptor, b"C")


_KEEPING: dict[str, Callable[[Path], object]] = {
    "chmod": lambda path: path.chmod(0o755),
    "utime": lambda path: os.utime(path, ns=(1, 1)),
    "setxattr": lambda path: os.setxattr(path, "user.x", b""),
    "open": lambda path: os.close(os.open(path, os.O_RDWR)),
    "link": lambda path: os.link(path, path.with_name("linked")),
    "rename": lambda path: path.rename(path.with_name("new")).rename(path),
}
_CLEARING: dict[str, Callable[[Path], object]] = {
    "write": lambda path: _write(path, 0),
    "append": lambda path: _write(path, os.O_APPEND),
    "truncate": lambda path: os.truncate(path, 3),
    "truncating open": lambda path: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC)),
    "chown": lambda path: os.chown(path, 5, -1),
    "chgrp": lambda path: os.chown(path, -1, 5),
}


def test_capabilities_are_kept_at_copy_up(both: Mounts[Mount]) -> None:
    mount = both(dict.fromkeys(_KEEPING, LAYER))
    for change, act in _KEEPING.items():
        act(mount / change / "file")
        assert os.getxattr(mount.changes / change / "file", NAME) == CAPABILITY, change
    for when in three_times(mount):
        for change in _KEEPING:
            assert os.getxattr(mount / change / "file", NAME) == CAPABILITY, (change, when)


@pytest.mark.parametrize("source", ["lower", "upper"])
def test_capabilities_are_cleared_by_a_change(both: Mounts[Mount], source: str) -> None:
    """Of any user, root too."""
    cells: Tree = dict.fromkeys(_CLEARING, LAYER)
    mount = both(cells) if source == "lower" else both({}, upper=cells)
    for change, act in _CLEARING.items():
        act(mount / change / "file")
    for when in three_times(mount):
        for change in _CLEARING:
            assert NAME not in os.listxattr(mount / change / "file"), (change, when)


def test_reading_keeps_capabilities(both: Mounts[Mount]) -> None:
    mount = both(LAYER)
    (mount / "file").read_bytes()
    for when in three_times(mount):
        assert os.getxattr(mount / "file", NAME) == CAPABILITY, when


def _check_modes(mount: Mount, name: str, mode: int, changes: Iterable[str]) -> None:
    for when in three_times(mount):
        for change in changes:
            shown = (mount / change / name).stat().st_mode
            assert stat.S_IMODE(shown) == mode, (change, when)


def test_set_user_id_is_cleared_by_another_users_write(both: Mounts[Mount]) -> None:
    changes = ["write", "append", "truncate", "truncating open"]
    mount = both(dict.fromkeys(changes, LAYER))
    with linux.user(1001):
        for change in changes:
            _CLEARING[change](mount / change / "suid")
    _check_modes(mount, "suid", 0o777, changes)


_CLEARING_BY_HANDLE: dict[str, Callable[[int], object]] = {
    "write": lambda descriptor: os.write(descriptor, b"C"),
    "truncate": lambda descriptor: os.truncate(descriptor, 3),
    "allocate": lambda descriptor: os.posix_fallocate(descriptor, 0, 10),
    "copy": lambda descriptor: os.copy_file_range(descriptor, descriptor, 1, 0, 5),
}


def test_what_a_file_gains_while_it_is_open_is_cleared_too(both: Mounts[Mount]) -> None:
    """Written before, it had nothing to clear, which the kernel may remember."""
    mount = both({change: File("content", mode=0o777) for change in _CLEARING_BY_HANDLE})
    for change, act in _CLEARING_BY_HANDLE.items():
        path = mount / change
        with linux.user(1001):
            descriptor = os.open(path, os.O_RDWR)
        try:
            for _ in range(2):
                path.chmod(0o777)
                with linux.user(1001):
                    os.write(descriptor, b"c")
                os.setxattr(path, NAME, CAPABILITY)
                path.chmod(0o6777)
                with linux.user(1001):
                    act(descriptor)
                assert stat.S_IMODE(path.stat().st_mode) == 0o777, change
                assert NAME not in os.listxattr(path), change
        finally:
            os.close(descriptor)


def test_a_change_of_owner_to_the_same_clears_set_user_id(both: Mounts[Mount]) -> None:
    mount = both(LAYER)
    os.chown(mount / "suid", -1, -1)
    assert stat.S_IMODE((mount / "suid").stat().st_mode) == 0o777


def test_set_user_id_is_kept_by_roots_write(both: Mounts[Mount]) -> None:
    changes = ["write", "append", "truncate", "truncating open"]
    mount = both(dict.fromkeys(changes, LAYER))
    for change in changes:
        _CLEARING[change](mount / change / "suid")
    _check_modes(mount, "suid", 0o6777, changes)


def test_set_user_id_is_cleared_by_chown(both: Mounts[Mount]) -> None:
    changes = ["chown", "chgrp"]
    mount = both(dict.fromkeys(changes, LAYER))
    for change in changes:
        _CLEARING[change](mount / change / "suid")
    _check_modes(mount, "suid", 0o777, changes)


def test_set_user_id_is_kept_at_copy_up(both: Mounts[Mount]) -> None:
    changes = [change for change in _KEEPING if change != "chmod"]
    mount = both(dict.fromkeys(changes, LAYER))
    for change in changes:
        _KEEPING[change](mount / change / "suid")
        status = (mount / change / "suid").stat()
        assert (status.st_uid, status.st_gid) == (1000, 1000), change
    _check_modes(mount, "suid", 0o6777, changes)


def _as_nobody(command: list[str | Path]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command, user=65534, group=65534, extra_groups=[], capture_output=True, check=False
    )


@pytest.mark.parametrize("copied_up", [False, True])
@pytest.mark.parametrize("suid", [False, True])
def test_capabilities_and_set_user_id_work_with_the_option(
    both: Mounts[Mount], suid: bool, copied_up: bool
) -> None:
    layer: Tree = {
        "cat": File(Path("/bin/cat").read_bytes(), mode=0o755, xattrs={NAME: CAPABILITY}),
        "id": File(Path("/usr/bin/id").read_bytes(), mode=0o4755),
        "secret": File("secret", mode=0o600),
    }
    mount = both(layer, options=["suid"] if suid else [])
    if copied_up:
        os.utime(mount / "cat", ns=(1, 1))
        os.utime(mount / "id", ns=(1, 1))
    for when in three_times(mount):
        assert (_as_nobody([mount / "cat", mount / "secret"]).stdout == b"secret") == suid, when
        assert _as_nobody([mount / "id", "-u"]).stdout == (b"0\n" if suid else b"65534\n"), when
