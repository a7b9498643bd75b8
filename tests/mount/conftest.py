"""What the tests of mounts share, beside what all tests do."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import Command
from tests.support.launcher import Launcher


@pytest.fixture(scope="session")
def launcher() -> Iterator[Launcher]:
    """Starts unionmount many times in a short time."""
    with Launcher() as launcher:
        yield launcher


@pytest.fixture
def unionmount(directory: Path) -> Iterator[Command]:
    """The command, run beside a layer, an empty upper and a mount point."""
    command = Command(directory)
    for name in ("base", "upper", "mount"):
        (directory / name).mkdir()
    (directory / "base" / "file").write_text("content")
    yield command
    command.close()
