"""What the core changes of the process that it runs in is put back after each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from unionfs.syscalls import libc

_PR_GET_SECUREBITS = 27
_PR_SET_SECUREBITS = 28


@pytest.fixture(autouse=True)
def securebits() -> Iterator[None]:
    """A daemon keeps its capabilities over setfsuid(2); tests that come later must not."""
    before = libc.prctl(_PR_GET_SECUREBITS, 0, 0, 0, 0)
    yield
    libc.prctl(_PR_SET_SECUREBITS, before, 0, 0, 0)
