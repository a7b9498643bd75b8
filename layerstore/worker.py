"""A process that reads layers into a store, so that several are read on several cores.

Threads would not do: most of the work is Python's, and two threads were slower than one. A worker
is a program of its own and not a fork, for whoever imports may have threads. Both ends speak JSON
in the packets of a socket pair, and descriptors go along: the layer's file one way, the lease of
the layer that was added the other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, Final, Self

from layerstore.adding import Wanted, add_wanted
from layerstore.compression import Compression
from layerstore.digest import Digest
from layerstore.errors import DamagedError, InvalidContentError, LimitExceededError, StoreError
from layerstore.ingest import Ingested, Tell
from layerstore.limits import Limits
from layerstore.oci.streams import ExtentReader
from layerstore.repository import Repository

_PACKET: Final = 1 << 16
_TEXT_MAX: Final = 1 << 13
_ERRORS: Final = {
    kind.__name__: kind
    for kind in (StoreError, InvalidContentError, LimitExceededError, DamagedError)
}


class Worker:
    """A process that adds layers to *repository*, one at a time; a context, which ends it."""

    def __init__(self, repository: Repository) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                # Whatever lies in the working directory is not to be loaded (-P).
                [sys.executable, "-P", "-m", __name__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                # Ctrl-C is for us: we end it, and it says nothing.
                process_group=0,
            )
        limits = dataclasses.asdict(repository.limits)
        self._send({"store": repository.paths.root, "limits": limits})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, reader: ExtentReader, wanted: Wanted, tell: Tell) -> Ingested:
        """Add what *reader* has left, by that process; the caller closes the lease.

        Raises as :func:`layerstore.adding.add_wanted`; StoreError if the process is gone.
        """
        descriptor, offset, size = reader.left
        job = {"wanted": dataclasses.asdict(wanted), "offset": offset, "length": size}
        self._send(job, descriptor)
        while True:
            answer, descriptors = _receive(self._socket)
            if answer is None:
                raise self._gone()
            if "read" in answer:
                tell(answer["read"])
            elif "error" in answer:
                raise _error(answer["error"])
            else:
                kind = Compression(answer.pop("compression"))
                return Ingested(compression=kind, lease=descriptors[0], **answer)

    def close(self) -> None:
        """End it. If it works on something, that is given up."""
        with contextlib.suppress(OSError):
            # Wakes a thread of ours that waits for an answer.
            self._socket.shutdown(socket.SHUT_RDWR)
        self._process.wait()
        self._socket.close()

    def _send(self, message: dict[str, Any], *descriptors: int) -> None:
        try:
            _send(self._socket, message, *descriptors)
        except (BrokenPipeError, ConnectionResetError):
            raise self._gone() from None

    def _gone(self) -> StoreError:
        return StoreError("a process that was reading layers has ended; import again")


def _send(connection: socket.socket, message: dict[str, Any], *descriptors: int) -> None:
    socket.send_fds(connection, [json.dumps(message).encode("ascii")], descriptors)


def _receive(connection: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """A message and the descriptors that came with it; None at the end."""
    try:
        data, descriptors, _, _ = socket.recv_fds(connection, _PACKET, 1)
    except ConnectionResetError:
        # The other end had not read all when it ended.
        return None, []
    return (json.loads(data) if data else None), descriptors


def _error(told: dict[str, Any]) -> Exception:
    if told["kind"] in _ERRORS:
        return _ERRORS[told["kind"]](told["text"])
    return OSError(told["errno"], told["text"], told["file"])


# The process


def main(words: Sequence[str]) -> int:
    """Add layers until the socket, whose descriptor is the only word, is closed."""
    try:
        with socket.socket(fileno=int(words[0])) as connection:
            start, _ = _receive(connection)
            if start is not None:
                _serve(connection, start["store"], Limits(**start["limits"]))
    except (BrokenPipeError, ConnectionResetError):
        # Nobody waits for it any more.
        return 0
    return 0


def _serve(connection: socket.socket, store: str, limits: Limits) -> None:
    with Repository(store, limits=limits, create=False) as repository:
        while True:
            job, descriptors = _receive(connection)
            if job is None:
                return
            with ExtentReader(descriptors[0], job["offset"], job["length"]) as reader:
                _work(connection, repository, reader, _wanted(job["wanted"]))


def _wanted(told: dict[str, Any]) -> Wanted:
    blob = told["digest"]
    return Wanted(
        Digest(told["diff_id"]),
        None if blob is None else Digest(blob),
        told["size"],
        told["keep_blob"],
    )


def _work(
    connection: socket.socket, repository: Repository, reader: ExtentReader, wanted: Wanted
) -> None:
    try:
        added = add_wanted(
            repository, reader, wanted, lambda count: _send(connection, {"read": count})
        )
    except (BrokenPipeError, ConnectionResetError):
        raise
    except StoreError as error:
        _send(connection, {"error": {"kind": type(error).__name__, "text": str(error)[:_TEXT_MAX]}})
    except OSError as error:
        name = None if error.filename is None else os.fsdecode(error.filename)
        told = {"kind": "OSError", "errno": error.errno, "text": error.strerror, "file": name}
        _send(connection, {"error": told})
    else:
        answer = dataclasses.asdict(added)
        lease = answer.pop("lease")
        try:
            _send(connection, {**answer, "compression": added.compression.value}, lease)
        finally:
            os.close(lease)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
