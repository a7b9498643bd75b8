"""Records of the unions that are mounted: what the kernel's table of mounts can't say of them.

Each daemon keeps a record of its layers, named after its mount's device number, in a directory
that doesn't outlive the machine's run. It holds a lock on the record, which ends with the process
whatever ends that; a record without a lock is of a daemon that is gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import select
from collections.abc import Container, Iterator, Sequence
from typing import Final, NamedTuple

from unionfs.driver import mounts

_log: Final = logging.getLogger(__name__)

_OF_ROOT: Final = b"/run/unionmount"
_OF_USERS: Final = b"/run/user/*/unionmount"
_SUFFIX: Final = ".json"
_SIZE_MAX: Final = 1 << 24
# Any user may put what they like into a directory of theirs, a FIFO for example.
_READING: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Union(NamedTuple):
    """One union: real paths, layers base first; process: its daemon's, None if that is gone.

    A layer that is no directory is the word that was given for it.
    """

    point: bytes
    layers: Sequence[bytes]
    upper: bytes | None
    work: bytes | None
    process: int | None

    def as_json(self) -> dict[str, object]:
        """For ``json.dumps``; bytes that are no UTF-8 become lone surrogates (PEP 383)."""
        return {
            "mountpoint": os.fsdecode(self.point),
            "layers": [os.fsdecode(layer) for layer in self.layers],
            "upper": None if self.upper is None else os.fsdecode(self.upper),
            "work": None if self.work is None else os.fsdecode(self.work),
            "process": self.process,
        }


@contextlib.contextmanager
def directory() -> Iterator[int | None]:
    """A descriptor of the directory for our records; None where there can't be one.

    Root's are in ``/run/unionmount``, a user's in ``$XDG_RUNTIME_DIR/unionmount``; root of a user
    namespace is a user to the machine. It is opened before the mount, which may cover it.
    """
    for own in _own_directories():
        try:
            os.makedirs(own, 0o755, exist_ok=True)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(own, flags)
        except OSError:
            continue
        try:
            if os.fstat(descriptor).st_uid == os.geteuid() and os.access(own, os.W_OK | os.X_OK):
                yield descriptor
                return
        finally:
            os.close(descriptor)
    yield None


@contextlib.contextmanager
def kept(union: Union, directory: int | None) -> Iterator[None]:
    """Keep the record of *union*, which this process has mounted, as long as the context lasts.

    Without a *directory* to keep it in, or room in that, :func:`mounted` will know only the mount
    point. The mount is worth more than its record.
    """
    mount = mounts.visible_at(union.point)
    if directory is None or mount is None:
        yield
        return
    name = mount.device + _SUFFIX
    record = -1
    try:
        record = os.open(b".", os.O_WRONLY | os.O_CLOEXEC | os.O_TMPFILE, 0o644, dir_fd=directory)
        _write(record, union, directory, name)
    except OSError as error:
        point = os.fsdecode(union.point)
        _log.warning("%s has no record, so --list knows little of it: %s", point, error)
    try:
        yield
    finally:
        if record >= 0:
            _remove_own(name, directory, record)
            os.close(record)


def _write(record: int, union: Union, directory: int, name: str) -> None:
    _sweep(directory)
    os.write(record, json.dumps(union.as_json()).encode("ascii"))
    # Locked before it has a name, so that nobody sees it without its lock.
    fcntl.flock(record, fcntl.LOCK_EX)
    _remove(name, directory)
    # Without a descriptor, os.link calls link(2), which doesn't follow the link in /proc.
    os.link(f"/proc/self/fd/{record}", name, src_dir_fd=record, dst_dir_fd=directory)


def mounted() -> list[Union]:
    """The unions mounted on this machine, as far as this process may see them, by mount point."""
    found = []
    for mount in mounts.table():
        if mount.kind == mounts.TYPE and mount.root == b"/":
            owner = int(mount.options.get(b"user_id", b"0"))
            unions = [union for _, union in _records(mount.device, owner)]
            # The record of a daemon that is gone might be of an earlier mount of that number.
            sure = [union for union in unions if union.process or union.point == mount.point]
            union = sure[0] if sure else Union(mount.point, (), None, None, None)
            found.append(Union(mount.point, union.layers, union.upper, union.work, union.process))
    return sorted(found, key=lambda union: union.point)


def serving(upper: bytes) -> Union | None:
    """The union whose daemon holds the upper or work directory *upper*, as far as is known."""
    for _, union in _records("*", os.geteuid()):
        if union.process and upper in (union.upper, union.work):
            return union
    return None


def wait_for_end(union: Union, seconds: float) -> bool:
    """Whether the daemon of *union* is done with it, having been waited for *seconds* at most.

    A daemon goes on for a moment after its mount is gone, with last writes and locks to give up;
    while its mount is still there it isn't waited for.
    """
    if union.process is None:
        return True
    table = {mount.device for mount in mounts.table()}
    if any(device in table for device, other in _records("*", os.geteuid()) if other == union):
        return False
    try:
        process = os.pidfd_open(union.process)
    except OSError:
        # It is gone.
        return True
    try:
        poll = select.poll()
        poll.register(process, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    finally:
        os.close(process)


def _own_directories() -> list[bytes]:
    """Where our records may be, the best first."""
    runtime = os.environb.get(b"XDG_RUNTIME_DIR")
    of_user = [os.path.join(runtime, b"unionmount")] if runtime else []
    return [_OF_ROOT, *of_user] if os.geteuid() == 0 else of_user


def _records(device: str, owner: int) -> Iterator[tuple[str, Union]]:
    """Device and union of the records of *device*, ``*`` for all, that root or *owner* has made."""
    import glob  # noqa: PLC0415 - a mount does not look for others, and waits for all that is loaded

    directories = {_OF_ROOT, _OF_USERS, *map(glob.escape, _own_directories())}
    pattern = os.fsencode(device + _SUFFIX)
    paths = {path for found in directories for path in glob.glob(os.path.join(found, pattern))}
    for path in sorted(paths):
        union = _read(path, (0, owner))
        if union is not None:
            yield os.fsdecode(os.path.basename(path)).removesuffix(_SUFFIX), union


def _read(path: bytes | str, owners: Container[int], directory: int | None = None) -> Union | None:
    """The union of a record, its process None when that is gone.

    None if it can't be read, or belongs to none of *owners*: users write what they like.
    """
    try:
        with open(os.open(path, _READING, dir_fd=directory), "rb") as record:
            status = os.fstat(record.fileno())
            if status.st_uid not in owners or status.st_size > _SIZE_MAX:
                return None
            try:
                fcntl.flock(record, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                gone = False
            else:
                gone = True
            known = json.load(record)
            return Union(
                point=os.fsencode(known["mountpoint"]),
                layers=[os.fsencode(layer) for layer in known["layers"]],
                upper=None if known["upper"] is None else os.fsencode(known["upper"]),
                work=None if known["work"] is None else os.fsencode(known["work"]),
                process=None if gone else int(known["process"]),
            )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _sweep(directory: int) -> None:
    """Remove the records of daemons that are gone and whose mounts are, too."""
    table = {mount.device for mount in mounts.table()}
    for name in os.listdir(directory):
        if name.endswith(_SUFFIX) and name.removesuffix(_SUFFIX) not in table:
            union = _read(name, (os.geteuid(),), directory)
            if union is None or union.process is None:
                _remove(name, directory)


def _remove_own(name: str, directory: int, record: int) -> None:
    """Remove our record, unless the number, and with it the name, is another mount's by now."""
    with contextlib.suppress(FileNotFoundError):
        there = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if os.path.samestat(there, os.fstat(record)):
            _remove(name, directory)


def _remove(name: str, directory: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)
