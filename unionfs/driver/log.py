"""Where the log goes."""

from __future__ import annotations

import errno
import logging
import os
import syslog

from unionfs.model import printable
from unionfs.sources import problem


def start(path: bytes | None, verbosity: int, *, foreground: bool) -> None:
    """Send the log to the file at *path*; without one, errors to the system's log.

    foreground: standard error gets all of it, too. verbosity: 0 for warnings, 1 to tell what
    happens, 2 for all. Raises UnionError if the file can't be opened.
    """
    handlers: list[logging.Handler] = []
    if foreground:
        handlers.append(_with_format(logging.StreamHandler(), "unionmount: %(message)s"))
    if path is not None:
        try:
            file = logging.FileHandler(os.fsdecode(path), errors="backslashreplace")
        except OSError as error:
            raise problem("log", path, error) from error
        handlers.append(_with_format(file, "%(asctime)s %(levelname)s %(name)s: %(message)s"))
    elif not foreground and os.path.exists("/dev/log"):
        handlers.append(_with_format(_SystemLog(), "%(message)s"))
    logging.basicConfig(handlers=handlers or [logging.NullHandler()], force=True)
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbosity, 2)]
    logging.getLogger("unionfs").setLevel(level)
    logging.getLogger("pyfuse3").addFilter(_tells_something)


class _SystemLog(logging.Handler):
    """Errors to the system's log. (That of logging.handlers has much loaded that nobody needs.)"""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        # At once, while no mount covers the way there.
        syslog.openlog("unionmount", syslog.LOG_PID | syslog.LOG_NDELAY)

    def emit(self, record: logging.LogRecord) -> None:
        """Send it."""
        try:
            # A traceback may have names in it that are no UTF-8.
            text = self.format(record).encode("utf-8", "backslashreplace").decode("utf-8")
            syslog.syslog(syslog.LOG_ERR, text)
        except Exception:
            self.handleError(record)


def _tells_something(record: logging.LogRecord) -> bool:
    """Not so a reply that the kernel no longer wanted: an unmount does not wait for releases."""
    return not record.getMessage().endswith(os.strerror(errno.ENOENT))


class _OneLine(logging.Formatter):
    """Whatever names are in a message, it is one line; a traceback stays as it is."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        return printable(super().formatMessage(record))


def _with_format(handler: logging.Handler, text: str) -> logging.Handler:
    handler.setFormatter(_OneLine(text))
    return handler
