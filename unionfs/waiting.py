"""What operations wait for: a lock, or what is done in a thread.

Both are trio's, which takes longer to load than all else that a mount needs: so it is not loaded
here before somebody waits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

if TYPE_CHECKING:
    import trio

_T = TypeVar("_T")
_Words = TypeVarTuple("_Words")


def new_lock() -> trio.Lock:
    """A lock for tasks, which are let in in the order in which they came."""
    import trio  # noqa: PLC0415 - see above

    return trio.Lock()


async def in_thread(function: Callable[[*_Words], _T], *words: *_Words) -> _T:
    """What *function* answers in another thread; other tasks go on meanwhile."""
    import trio  # noqa: PLC0415 - see above

    return await trio.to_thread.run_sync(function, *words)
