"""Making and expecting an errno."""

import os
from collections.abc import Callable
from typing import Any

import pytest


def raises(*numbers: int) -> pytest.RaisesExc[OSError]:
    """`with raises(errno.ENOENT):` the block raises an OSError with one of these numbers."""
    return pytest.RaisesExc(OSError, check=lambda error: error.errno in numbers)


def fail_with(number: int) -> Callable[..., Any]:
    """What to put in the place of a call that is to fail so."""

    def fail(*args: object, **options: object) -> Any:
        raise OSError(number, os.strerror(number))

    return fail
