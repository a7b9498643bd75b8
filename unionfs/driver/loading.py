"""Loading libraries while others wait."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def there_to_stay() -> Iterator[None]:
    """What is made meanwhile is there to stay: to look for garbage in it would be lost time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
