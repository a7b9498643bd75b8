"""The process around a command: its streams, its descriptors, and the signals that end it."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Final

_ENDING: Final = (signal.SIGTERM, signal.SIGHUP)


class EndedError(BaseException):
    """A signal asks us to end. Like KeyboardInterrupt it passes by whoever handles errors, so that
    what was begun is undone.

    number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def prepared() -> Iterator[None]:
    """The block has streams to write to, as many descriptors as there may be, and ends by an
    EndedError when a signal asks for it.
    """
    _open_streams()
    _allow_descriptors()
    before = {number: signal.getsignal(number) for number in _ENDING}
    # nohup(1), for one, has them ignored.
    ours = [number for number in _ENDING if before[number] is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])


def _end(number: int, frame: FrameType | None) -> None:
    raise EndedError(number)


def _open_streams() -> None:
    """What is written to a closed stream goes nowhere, and not into a file that got its number."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names are text; an encoding that lacks some of it is no reason to end.
        sys.stdout.reconfigure(errors="backslashreplace")


def _allow_descriptors() -> None:
    """A layer in use is one or two, and an image has up to a thousand."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
