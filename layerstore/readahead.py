"""Reads a source in a thread of its own, so that what it costs runs beside what is done with it."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from typing import Final, Self

from layerstore.pieces import Reader

_CHUNK: Final = 1 << 20
_AHEAD: Final = 8
_SECONDS_TO_END: Final = 1
_SECONDS_TO_LOOK: Final = 0.01


class ReadAhead:
    """A :class:`Reader` of what *source* gives; a context, which ends the thread.

    If the block ends early while the source gives nothing (a pipe), the thread is left waiting.
    seen: is called with each chunk, in that thread: for hashing. What goes wrong there is raised
    by ``read``.
    """

    def __init__(self, source: Reader, seen: Callable[[bytes], None]) -> None:
        self._source = source
        self._seen = seen
        self._queue: queue.Queue[bytes | BaseException] = queue.Queue(_AHEAD)
        self._stopped = False
        self._rest = b""
        self._ended = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        end = time.monotonic() + _SECONDS_TO_END
        # It may wait for room in the queue; or for a pipe, and then nobody waits for it.
        while self._thread.is_alive() and time.monotonic() < end:
            with contextlib.suppress(queue.Empty):
                self._queue.get(timeout=_SECONDS_TO_LOOK)

    def read(self, size: int) -> bytes:
        """Up to *size* bytes; none at the end. Raises what reading the source raised."""
        if not self._rest and not self._ended:
            item = self._queue.get()
            if isinstance(item, BaseException):
                self._ended = True
                raise item
            self._rest, self._ended = item, not item
        found, self._rest = self._rest[:size], self._rest[size:]
        return found

    def _run(self) -> None:
        try:
            while not self._stopped:
                chunk = self._source.read(_CHUNK)
                self._seen(chunk)
                self._queue.put(chunk)
                if not chunk:
                    return
        except BaseException as error:
            self._queue.put(error)
