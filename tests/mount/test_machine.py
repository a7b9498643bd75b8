"""Random work on the union and on the kernel's overlayfs side by side; all must stay equal.

Every answer, what each step touched, and after some steps the whole tree: live, after the kernel
dropped its caches, after a remount, after the other implementation took the upper over, and after
the upper became a layer. A failure is shrunk to the steps that make it.

Each seed is a test of its own: some 350 steps as root, or 80 with marks of users. `--campaign=N`
makes N times as many seeds; this does 100,000 steps and tells how many each seed did:

    pytest -n 2 tests/mount/test_machine.py --campaign=42 -rP
"""

from pathlib import Path

import pytest

from tests.support.machine import Machine, Pair, run
from tests.support.stacks import stacks

_SEEDS = 6


pytestmark = pytest.mark.usefixtures("launcher")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    seeds = range(_SEEDS * metafunc.config.getoption("campaign"))
    metafunc.parametrize("number", seeds)


def test_random_work_as_root(directory: Path, number: int) -> None:
    class AsRoot(Machine):
        home = directory

    run(AsRoot, number, examples=4, length=12)


def test_random_work_on_images(directory: Path, number: int) -> None:
    class OnImages(Machine):
        home = directory
        layers = stacks(stored=True)

    run(OnImages, number, examples=2, length=8)


def test_random_work_with_marks_of_users(directory: Path, number: int) -> None:
    """As mounts without privileges have them. The kernel has no redirects then."""

    class WithMarksOfUsers(Machine):
        home = directory
        layers = stacks(mixed=False, userxattr=True)
        looks = (*[Pair.compare] * 3, Pair.forget, Pair.remount, Pair.turn)

    run(WithMarksOfUsers, number, examples=2, length=8)
