"""Answering in Python what the data plane does not, or without one everything: pyfuse3, on trio."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Collection
from typing import Final

import pyfuse3
import trio

from unionfs.driver import (
    fusermount,  # noqa: F401 - which mounts would load when it needs it: see session.py
    mounts,
    notices,
    plane,
)
from unionfs.driver.operations import UnionOperations
from unionfs.driver.plan import Plan
from unionfs.filesystem import Filesystem

_log: Final = logging.getLogger(__name__)

_LIBFUSES: Final = frozenset(("allow_root", "debug"))
_REPLY_SIZE_MAX: Final = 1 << 12


def serve(
    plan: Plan,
    filesystem: Filesystem,
    ending: Collection[signal.Signals],
    kernel: int | None,
    request: bytes,
) -> None:
    """Answer for *filesystem*, which *plan* has mounted, until it is unmounted.

    ending: signals that unmount it; they are blocked when this is called, and when it returns.
    kernel: the descriptor of /dev/fuse, which becomes libfuse's; None where the plane has it.
    request: the FUSE_INIT for libfuse (:mod:`unionfs.driver.handshake`).
    """
    options = set(plan.options.flags & _LIBFUSES)
    if kernel is None:
        operations = UnionOperations(filesystem, plan.options.owners, plane.offer)
        operations.answers_calls = True
        pyfuse3.init(operations, os.fsdecode(plan.point), options)
    else:
        operations = UnionOperations(filesystem, plan.options.owners)
        _begin(operations, options, kernel, request)
    try:
        trio.run(_answer, plan.point, ending)
    finally:
        pyfuse3.close(unmount=False)


def _begin(operations: UnionOperations, options: set[str], kernel: int, request: bytes) -> None:
    """Let libfuse serve *kernel*; what it answers to *request* was answered before."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        descriptor = its.detach()
        # libfuse takes what is mounted already by the number of its descriptor.
        pyfuse3.init(operations, f"/dev/fd/{descriptor}", options)
        ours.send(request)
        trio.run(_discard_reply, ours)
        os.dup2(kernel, descriptor, inheritable=False)
    os.close(kernel)


async def _discard_reply(ours: socket.socket) -> None:
    """Let pyfuse3 answer the one request that it finds."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pyfuse3.main)
        await trio.lowlevel.wait_readable(ours)
        ours.recv(_REPLY_SIZE_MAX)
        nursery.cancel_scope.cancel()


async def _answer(point: bytes, ending: Collection[signal.Signals]) -> None:
    with trio.open_signal_receiver(*ending) as signals:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ending)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_unmount_on, signals, point)
                await _serve_requests()
                nursery.cancel_scope.cancel()
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, ending)


async def _serve_requests() -> None:
    """Answer until the mount is gone, or its connection was aborted (umount -f, fusectl)."""
    try:
        await pyfuse3.main()
    except* ConnectionAbortedError:
        _log.info("the connection to the kernel was aborted")


async def _unmount_on(signals: AsyncIterator[int], point: bytes) -> None:
    async for _ in signals:
        # Unmounting may have to write back first, and it is we who are to answer that.
        try:
            in_use = await trio.to_thread.run_sync(mounts.unmount, point)
        except OSError as error:
            # A mount that was detached before is no mount point any more.
            in_use = error.errno == errno.EINVAL
            if not in_use:
                _log.warning("%s can't be unmounted: %s", os.fsdecode(point), error.strerror)
        if in_use:
            _log.warning(notices.in_use_line(point))
