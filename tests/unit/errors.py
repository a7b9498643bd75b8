"""Expecting an errno."""

import pytest


def raises(*numbers: int) -> pytest.RaisesExc[OSError]:
    """`with raises(errno.ENOENT):` the block raises an OSError with one of these numbers."""
    return pytest.RaisesExc(OSError, check=lambda error: error.errno in numbers)
