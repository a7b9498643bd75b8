"""fusermount3(1), which mounts and unmounts for who may not do it themselves."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
from collections.abc import Sequence
from typing import Final

from unionfs.model import UnionError

_PROGRAM: Final = "fusermount3"
_DESCRIPTOR_GOES_TO: Final = "_FUSE_COMMFD"


def mount(point: bytes, options: Sequence[bytes]) -> int:
    """Mount a filesystem of FUSE on *point*, and answer the descriptor of /dev/fuse that serves it.

    options: as mount(8) has them; ``fsname=`` and ``subtype=`` say what tables of mounts show.
    Raises UnionError.
    """
    # util/fusermount.c of libfuse: the options are split at commas, and a backslash protects one.
    escaped = (option.replace(b"\\", b"\\\\").replace(b",", b"\\,") for option in options)
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours:
        with its:
            number = its.fileno()
            try:
                done = _run(
                    [b"-o", b",".join(escaped), b"--", point],
                    pass_fds=(number,),
                    env={**os.environ, _DESCRIPTOR_GOES_TO: str(number)},
                )
            except FileNotFoundError as error:
                raise UnionError(
                    f"{_PROGRAM}, which mounts for who may not, is not there; install fuse3"
                ) from error
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    if not descriptors:
        raise UnionError(f"mount point {os.fsdecode(point)}: {_reason(done) or 'it fails'}")
    (descriptor,) = descriptors
    os.set_inheritable(descriptor, False)
    return descriptor


def unmount(point: bytes, *, lazy: bool) -> None:
    """Unmount *point*, which we have mounted; *lazy* detaches a mount that is in use.

    Raises OSError; without *lazy* it is EBUSY, with a reason.
    """
    done = _run([b"-u", *([b"-z"] if lazy else []), b"--", point])
    if done.returncode:
        # It tells no number, and being in use is why unmounting what is one's own fails.
        raise OSError(errno.EPERM if lazy else errno.EBUSY, _reason(done), point)


def _run(
    words: Sequence[bytes], pass_fds: Sequence[int] = (), env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [_PROGRAM, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        pass_fds=pass_fds,
        env=env,
    )


def _reason(done: subprocess.CompletedProcess[bytes]) -> str:
    """What it complained of; each line begins with its name."""
    lines = os.fsdecode(done.stderr).splitlines()
    return "; ".join(line.partition(": ")[2] or line for line in lines)
