"""The process that serves a mount, and how the user's process waits for it.

The process that is to serve does everything, from opening the layers on, after its fork: neither
FUSE nor trio would survive one. What it has to say before the mount is up goes through a pipe to
the process that the user waits for.

Only the process that serves imports the session, whose libraries take most of the time to a mount:
the other one is small then, quick to fork and quick to end.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import traceback
from collections.abc import Callable
from typing import Final

from unionfs.driver import mounts, namespaces, notices
from unionfs.driver.loading import there_to_stay
from unionfs.driver.plan import Plan
from unionfs.model import UnionError
from unionfs.sources import problem

_READY: Final = b"+"
_FAILED: Final = b"-"


def serve(plan: Plan, ready: Callable[[], None] | None = None) -> int:
    """As :func:`unionfs.driver.session.serve`, which is imported now and not before."""
    with there_to_stay():
        from unionfs.driver import session  # noqa: PLC0415 - see above

    return session.serve(plan, ready)


def start(plan: Plan, *, bound: bool = False) -> int:
    """Mount *plan* in a process of its own, and return when the mount answers.

    bound: that process is to unmount and end when ours does.

    Answers the process id. Raises UnionError, with nothing mounted and nothing left behind.
    """
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reader)
        _be_daemon(plan, writer, bound=bound)
    os.close(writer)
    try:
        with open(reader, "rb") as pipe:
            word = pipe.read()
    except KeyboardInterrupt:
        os.kill(process, signal.SIGTERM)
        os.waitpid(process, 0)
        raise
    if word.startswith(_FAILED):
        os.waitpid(process, 0)
        raise UnionError(os.fsdecode(word.removeprefix(_FAILED)))
    if word != _READY:
        _, status = os.waitpid(process, 0)
        raise UnionError(
            "the process that was to serve the mount ended with status"
            f" {os.waitstatus_to_exitcode(status)}"
        )
    try:
        os.statvfs(plan.point)
        reason = None if mounts.is_union(plan.point) else "it has ended"
    except OSError as error:
        reason = error.strerror
        with contextlib.suppress(OSError):
            mounts.detach(plan.point)
    if reason is not None:
        raise UnionError(
            f"{os.fsdecode(plan.point)}: mounted, but it does not answer ({reason}); see the log"
        )
    return process


def stop(plan: Plan, process: int) -> None:
    """Unmount *plan*, which the child *process* serves, and wait for its end.

    A mount in use is detached, with a line to say so; then the process ends with its last user.
    """
    try:
        in_use = mounts.unmount(plan.point)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise problem("mount point", plan.point, error) from error
        in_use = False
    if in_use:
        notices.tell(notices.in_use_line(plan.point))
    else:
        os.waitpid(process, 0)


def _be_daemon(plan: Plan, writer: int, *, bound: bool) -> None:
    status = 1
    try:
        os.setsid()
        if bound:
            namespaces.signal_when_parent_ends(signal.SIGTERM)
        _close_all_but(writer)
        status = serve(plan, lambda: _report_ready(writer))
    except UnionError as error:
        os.write(writer, _FAILED + os.fsencode(str(error)))
    except KeyboardInterrupt:
        # A signal before the mount was there; what was begun is undone.
        pass
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _close_all_but(kept: int) -> None:
    """Close what we inherited, so that whoever waits for the end of a pipe of theirs sees it."""
    os.closerange(3, kept)
    os.closerange(kept + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _report_ready(writer: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.close(null)
    os.write(writer, _READY)
    os.close(writer)
