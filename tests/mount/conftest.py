"""What the tests of mounts share, beside what all tests do."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import Command

_MARKERS = {
    "needs_native": "what the union does with its data plane only; overlayfs proves the test",
    "needs_stock": "what the union answers without its data plane",
}


def pytest_configure(config: pytest.Config) -> None:
    for name, meaning in _MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what the union cannot do with the driver that it is tested with."""
    out = "needs_stock" if config.getoption("driver") == "native" else "needs_native"
    left_out = [item for item in items if item.get_closest_marker(out) and _mounts_union(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def _mounts_union(item: pytest.Item) -> bool:
    assert isinstance(item, pytest.Function)
    both = item.callspec.params.get("both") if hasattr(item, "callspec") else None
    return both != "kernel"


@pytest.fixture
def unionmount(directory: Path) -> Iterator[Command]:
    """The command, run beside a layer, an empty upper and a mount point."""
    command = Command(directory)
    for name in ("base", "upper", "mount"):
        (directory / name).mkdir()
    (directory / "base" / "file").write_text("content")
    yield command
    command.close()
