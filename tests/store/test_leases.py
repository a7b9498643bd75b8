"""Leases and locks: between descriptors, which is how they are between processes, and of those."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from layerstore import leases

pytestmark = pytest.mark.usefixtures("nothing_left_open")

_CHILD = """
import sys
from layerstore import leases
descriptor = getattr(leases, sys.argv[1])(sys.argv[2])
print("none" if descriptor is None else "held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def used(tmp_path: Path) -> Path:
    path = tmp_path / "used"
    path.mkdir()
    return path


@contextlib.contextmanager
def another_process(what: str, path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that calls *what* of leases, and has what it got during the block."""
    with subprocess.Popen(
        [sys.executable, "-c", _CHILD, what, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process


@contextlib.contextmanager
def held(path: Path) -> Iterator[int]:
    descriptor = leases.hold(str(path))
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def taken(path: Path) -> bool:
    """Whether the directory can be had for oneself, which ends at once."""
    descriptor = leases.take(str(path))
    if descriptor is not None:
        os.close(descriptor)
    return descriptor is not None


def test_many_may_use_a_directory_and_nobody_has_it_alone(used: Path) -> None:
    with held(used), held(used):
        assert not taken(used)
    assert taken(used)


def test_who_has_a_directory_alone_shares_it_with_nobody(used: Path) -> None:
    descriptor = leases.take(str(used))
    assert descriptor is not None
    assert not taken(used)
    os.close(descriptor)
    assert taken(used)


def test_a_lease_ends_with_its_process(used: Path) -> None:
    with another_process("hold", used) as process:
        assert not taken(used)
        process.kill()
        process.wait()
        assert taken(used)


def test_a_lease_does_not_pass_to_programs_that_are_started(used: Path) -> None:
    with held(used) as descriptor:
        assert fcntl.fcntl(descriptor, fcntl.F_GETFD) & fcntl.FD_CLOEXEC


def test_what_is_not_there_can_be_neither_held_nor_taken(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        leases.hold(str(tmp_path / "none"))
    assert not taken(tmp_path / "none")


def test_who_waits_for_what_is_taken_away_finds_nothing(used: Path) -> None:
    descriptor = leases.take(str(used))
    assert descriptor is not None
    found: list[object] = []

    def wait() -> None:
        try:
            found.append(leases.hold(str(used)))
        except FileNotFoundError as error:
            found.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    used.rmdir()
    os.close(descriptor)
    thread.join()
    assert isinstance(found[0], FileNotFoundError)


def test_who_waits_for_what_is_replaced_has_what_is_there_then(used: Path) -> None:
    descriptor = leases.take(str(used))
    assert descriptor is not None
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(leases.hold(str(used))))
    thread.start()
    used.rmdir()
    used.mkdir()
    os.close(descriptor)
    thread.join()
    assert os.path.samestat(os.fstat(found[0]), used.stat())
    os.close(found[0])


def may_lock(path: Path, how: int) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def test_a_lock_is_shared_or_for_one(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with leases.locked(str(path), alone=False), leases.locked(str(path), alone=False):
        assert may_lock(path, fcntl.LOCK_SH)
        assert not may_lock(path, fcntl.LOCK_EX)
    with leases.locked(str(path), alone=True):
        assert not may_lock(path, fcntl.LOCK_SH)
    assert may_lock(path, fcntl.LOCK_EX)


def test_who_is_alone_in_a_directory_shares_it_with_nobody(used: Path) -> None:
    with leases.alone_in(str(used)):
        assert not taken(used)
    assert taken(used)


def test_a_lock_ends_with_an_error(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    with pytest.raises(ZeroDivisionError), leases.locked(path, alone=True):
        _ = 1 / 0
    with leases.locked(path, alone=True):
        pass


HIGHEST = (1 << 60) - 1


def may_have_turn(path: Path, number: int) -> bool:
    with path.open("r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except BlockingIOError:
            return False
        return True


def never() -> None:
    pytest.fail("somebody else has it")


@pytest.mark.parametrize("number", [1, HIGHEST])
def test_a_turn_is_of_one_number(tmp_path: Path, number: int) -> None:
    path = tmp_path / "turns"
    with leases.turn(str(path), number, never), leases.turn(str(path), number + 2, never):
        assert [may_have_turn(path, number + more) for more in (-1, 0, 1, 2, 3)] == [
            True,
            False,
            True,
            False,
            True,
        ]
    assert may_have_turn(path, number)
    assert path.stat().st_size == 0


def test_a_turn_is_waited_for(tmp_path: Path) -> None:
    path = str(tmp_path / "turns")
    with contextlib.ExitStack() as other:
        other.enter_context(leases.turn(path, 7, never))
        waited: list[int] = []

        def wait() -> None:
            waited.append(1)
            if len(waited) == 3:
                other.close()

        with leases.turn(path, 7, wait):
            assert len(waited) == 3


def test_what_waiting_raises_ends_it(tmp_path: Path) -> None:
    path = str(tmp_path / "turns")

    def wait() -> None:
        raise KeyboardInterrupt

    with leases.turn(path, 7, never), pytest.raises(KeyboardInterrupt), leases.turn(path, 7, wait):
        pass
    with leases.turn(path, 7, never):
        pass
