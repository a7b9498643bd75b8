"""What the tests of the layer store share: a store of the test's own, and what it leaves open."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from layerstore.repository import Repository
from tests.support.stores import StoreBuilder
from tests.support.victims import Victims


@pytest.fixture
def store(directory: Path) -> StoreBuilder:
    """What fills the store at `directory / "store"`, which nobody has made yet."""
    return StoreBuilder(directory / "store")


@pytest.fixture
def repository(store: StoreBuilder) -> Iterator[Repository]:
    """That store, open."""
    with store.opened() as opened:
        yield opened


@pytest.fixture(scope="session")
def victims() -> Iterator[Victims]:
    """Runs layerstore many times in a short time, and stops it at any system call."""
    with Victims() as started:
        yield started


@pytest.fixture
def nothing_left_open() -> Iterator[None]:
    """Fails if the test ends with other descriptors than it began with."""
    before = _descriptors()
    yield
    assert _descriptors() == before


def _descriptors() -> dict[str, str]:
    found = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            found[number] = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            # That of the listing itself.
            continue
    return found
