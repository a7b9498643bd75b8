"""What the tests of mounts share, beside what all tests do."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import Command

_MARKERS = {
    "needs_native": "what the union does with its data plane only; overlayfs proves the test",
    "needs_stock": "what the union answers without its data plane",
}
# What they ask does not depend on who answers requests.
_OF_NO_DRIVER = frozenset(("test_command_line.py", "test_ordering.py"))


def pytest_configure(config: pytest.Config) -> None:
    for name, meaning in _MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what the union cannot do with the driver that it is tested with.

    What does not depend on the driver is asked with stock: what only the kernel's overlayfs is
    asked, too.
    """
    native = config.getoption("driver") == "native"
    out = "needs_stock" if native else "needs_native"
    left_out = [
        item
        for item in items
        if (native if _is_of_no_driver(item) else item.get_closest_marker(out))
    ]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def _is_of_no_driver(item: pytest.Item) -> bool:
    assert isinstance(item, pytest.Function)
    asks_the_kernel = hasattr(item, "callspec") and item.callspec.params.get("both") == "kernel"
    return asks_the_kernel or item.path.name in _OF_NO_DRIVER


@pytest.fixture
def unionmount(directory: Path) -> Iterator[Command]:
    """The command, run beside a layer, an empty upper and a mount point."""
    command = Command(directory)
    for name in ("base", "upper", "mount"):
        (directory / name).mkdir()
    (directory / "base" / "file").write_text("content")
    yield command
    command.close()
