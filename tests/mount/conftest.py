"""What the tests of mounts share, beside what all tests do."""

from collections.abc import Iterator

import pytest

from tests.support.launcher import Launcher


@pytest.fixture(scope="session")
def launcher() -> Iterator[Launcher]:
    """Starts unionmount many times in a short time."""
    with Launcher() as launcher:
        yield launcher
