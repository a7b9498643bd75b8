"""One mount's life in the process that serves it: check, mount, answer, end by a signal or by
umount(8).
"""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
import os
import resource
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

import pyfuse3
import trio

from unionfs import syscalls
from unionfs.driver import handshake, log, mounts, notices, plane, preflight, records
from unionfs.driver.operations import UnionOperations
from unionfs.driver.plan import Plan
from unionfs.driver.preflight import Directory
from unionfs.filesystem import Filesystem
from unionfs.layers import markers
from unionfs.model import BusyError, UnionError
from unionfs.options import Driver
from unionfs.owners import Owners
from unionfs.sources import Named, open_layers, problem
from unionfs.upper import Upper
from unionfs.workdir import require_free

if TYPE_CHECKING:
    from unionfs.driver.plane.mirror import PlaneMirror

_log = logging.getLogger(__name__)

_ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# How long a daemon that is on its way out may take to let go of its upper.
_SECONDS_TO_LET_GO: Final = 10
_OVERLAYFS_METACOPY: Final = "/sys/module/overlay/parameters/metacopy"
# Bytes. Larger requests are fewer; what is larger still could not be spliced (files.c).
_READAHEAD: Final = 896 * 1024
_WORK_SUFFIX: Final = b".work"
_PASSED_ON: Final = frozenset(
    ("dev", "suid", "noexec", "sync", "dirsync", "noatime", "allow_other", "allow_root", "debug")
)


def serve(plan: Plan, ready: Callable[[], None] | None = None) -> int:
    """Mount *plan* in this process and serve it until it is unmounted.

    ready: called when the mount answers; without it, what is logged is shown to the user too.
    SIGTERM, SIGINT and SIGHUP unmount it. Answers the exit status: 1 if an exception ended it,
    which then is logged. Raises UnionError, with nothing mounted and nothing left behind.
    """
    log.start(plan.log, plan.verbosity, foreground=ready is None)
    for number in _ENDING:
        # Until the mount is there a signal is an exception, so that what was begun is undone.
        signal.signal(number, signal.default_int_handler)
    os.chdir("/")
    os.umask(0)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    # With it quotas would bind nobody (overlayfs's ovl_fill_super gives it up as well).
    syscalls.give_up_capability(syscalls.CAP_SYS_RESOURCE)
    preflight.require_fuse()
    # Once mounted, the mount may cover any path, and we could not answer ourselves: whatever has
    # a path is opened before.
    with (
        records.directory() as directory,
        contextlib.ExitStack() as last,
        contextlib.ExitStack() as stack,
    ):
        with preflight.claimed_mount_point(plan.point) as notes:
            made = contextlib.ExitStack()
            mirror = _mirror(plan)
            filesystem = stack.enter_context(contextlib.closing(_open(plan, made, mirror)))
            # While we hold the upper: afterwards it may be another's.
            stack.push(made)
            union = _union(plan)
            offer = plane.offer if _may_be_native(plan) else None
            operations = UnionOperations(filesystem, plan.options.owners, offer)
            stack.enter_context(_mounted(plan, operations, mirror))
            made.pop_all()
        # While we hold the upper, the record says so.
        last.enter_context(records.kept(union, directory))
        filesystem.tell_root()
        for note in notes:
            notices.tell(note)
        gc.collect()
        gc.freeze()
        try:
            trio.run(_answer, plan.point, ready)
        except BaseException:
            _log.exception("%s: serving the mount failed", os.fsdecode(plan.point))
            return 1
        return 0


def _union(plan: Plan) -> records.Union:
    upper = None if plan.upper is None else os.path.realpath(plan.upper)
    return records.Union(
        point=plan.point,
        layers=tuple(
            os.path.realpath(word) if os.path.isabs(word) else word for word in plan.layers
        ),
        upper=upper,
        work=None if upper is None else os.path.realpath(plan.work or upper + _WORK_SUFFIX),
        process=os.getpid(),
    )


def _open(plan: Plan, made: contextlib.ExitStack, mirror: PlaneMirror | None) -> Filesystem:
    """Open what *plan* names; *made* removes what was made for it if it is not mounted after all.

    Raises UnionError.
    """
    with contextlib.ExitStack() as opened:
        named = open_layers(plan.layers, plan.dialects, _namespace(plan), plan.point)
        for _, layer in named:
            opened.callback(layer.close)
        upper = None
        if plan.upper is not None:
            upper = _open_upper(plan, plan.upper, named, made)
            opened.callback(upper.close)
            opened.push(made)
        layers = [layer for _, layer in named]
        filesystem = Filesystem(layers, upper, dialects=plan.dialects, mirror=mirror)
        opened.pop_all()
        return filesystem


def _open_upper(
    plan: Plan, upper: bytes, layers: Sequence[Named], made: contextlib.ExitStack
) -> Upper:
    target = Directory.at("mount point", plan.point)
    others = [Directory("layer", word, layer.lineage) for word, layer in layers]
    if not os.path.lexists(upper):
        # Not made for the user: behind a slip of the pen the changes of before would seem lost.
        name = os.fsdecode(upper)
        raise UnionError(f"upper {name}: there is no such directory; make it with mkdir")
    own = Directory.at("upper", upper)
    preflight.require_own(own, others, target)
    work = plan.work or os.path.realpath(upper) + _WORK_SUFFIX
    while True:
        new = False
        try:
            if plan.work is None:
                require_free(upper)
                new = _make_work(work)
            preflight.require_own(Directory.at("work", work), [*others, own], target)
            opened = Upper(
                upper,
                work,
                volatile="volatile" in plan.options.flags,
                metacopy=_metacopy(plan),
                dialects=plan.dialects,
                namespace=_namespace(plan),
            )
        except BusyError as error:
            # If we have made the work directory, it is another's now.
            _wait_for_user(upper, work, error)
        except (OSError, UnionError) as error:
            if new:
                shutil.rmtree(work, ignore_errors=True)
            if isinstance(error, OSError):
                raise problem("upper", upper, error) from error
            raise
        else:
            if new:
                made.callback(shutil.rmtree, work, ignore_errors=True)
            return opened


def _namespace(plan: Plan) -> bytes:
    """What marks are written in, and believed in: where not everybody can set them, if we may."""
    by_users = "userxattr" in plan.options.flags or not syscalls.may_use_trusted_attributes()
    return markers.USER if by_users else markers.TRUSTED


def _metacopy(plan: Plan) -> bool:
    """Whether copies without content are made: unless the user says it, where overlayfs makes them,
    for it has to be able to mount the upper. Raises UnionError.
    """
    asked = plan.options.metacopy
    if _namespace(plan) == markers.USER:
        if asked:
            raise UnionError("-o metacopy=on needs marks that only root can set: leave it out")
        return False
    if asked is None:
        with contextlib.suppress(FileNotFoundError), open(_OVERLAYFS_METACOPY) as parameter:
            return parameter.read(1) == "Y"
    return bool(asked)


def _make_work(work: bytes) -> bool:
    """Make the work directory that nobody named; answers whether it was not there."""
    try:
        os.mkdir(work, 0o700)
    except FileExistsError:
        return False
    except OSError as error:
        raise UnionError(
            f"work {os.fsdecode(work)}: {error.strerror};"
            " name a directory on the upper's filesystem with --work"
        ) from error
    return True


def _wait_for_user(upper: bytes, work: bytes, error: BusyError) -> None:
    """Wait until the daemon that has *upper* or *work* is done, if it is about to be.

    Raises BusyError otherwise: *error*, or a better one if it is known who that is.
    """
    for role, path in (("upper", upper), ("work", work)):
        union = records.serving(os.path.realpath(path))
        if union is None:
            continue
        if records.wait_for_end(union, _SECONDS_TO_LET_GO):
            return
        raise BusyError(
            f"{role} {os.fsdecode(path)} is in use by the union on {os.fsdecode(union.point)}"
            f" (process {union.process}); unmount that first"
        )
    raise error


@contextlib.contextmanager
def _mounted(plan: Plan, operations: UnionOperations, mirror: PlaneMirror | None) -> Iterator[None]:
    # From here on signals wait until they are answered by unmounting.
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    known = handshake.fuse_descriptors()
    with _said() as said:
        try:
            pyfuse3.init(operations, os.fsdecode(plan.point), _fuse_options(plan))
        except RuntimeError as error:
            # libfuse tells the reason on standard error only.
            reason = "; ".join(line.partition(": ")[2] or line for line in said())
            raise UnionError(f"mount point {os.fsdecode(plan.point)}: {reason or error}") from error
    try:
        (descriptor,) = handshake.fuse_descriptors() - known
        native = _may_be_native(plan) and plane.usable()
        if plan.options.driver is Driver.NATIVE and not native:
            raise UnionError("-o driver=native is not possible here: the extension was not built")
        agreed = handshake.negotiate(
            descriptor, passthrough=native and syscalls.may_use_trusted_attributes()
        )
        native = native and agreed.opens_directories
        mounts.set_readahead(plan.point, _READAHEAD)
        if native:
            plane.start(
                descriptor,
                writable=plan.upper is not None,
                passthrough=agreed.passthrough,
                sync="volatile" not in plan.options.flags,
                debug="debug" in plan.options.flags,
            )
            operations.answers_calls = True
            if mirror is not None:
                mirror.started = True
        yield
    finally:
        pyfuse3.close(unmount=False)
        # It still is there if serving failed, and answers nobody any more.
        if mounts.is_union(plan.point) and mounts.is_dead(plan.point):
            mounts.detach(plan.point)


def _may_be_native(plan: Plan) -> bool:
    return plan.options.driver is not Driver.STOCK and plane.built()


def _mirror(plan: Plan) -> PlaneMirror | None:
    """What is told to the plane; nothing where owners show as others, for it does not know that."""
    if not _may_be_native(plan) or plan.options.owners != Owners():
        return None
    from unionfs.driver.plane.mirror import PlaneMirror  # noqa: PLC0415 - it needs the extension

    return PlaneMirror()


def _fuse_options(plan: Plan) -> set[str]:
    """What libfuse is asked for: only options that it knows, it ends the process for others."""
    flags = plan.options.flags
    options = {"default_permissions", f"subtype={mounts.SUBTYPE}"} | (flags & _PASSED_ON)
    if os.geteuid() != 0:
        # fusermount3 would pass over it, with a line for each mount.
        options.discard("suid")
    elif "allow_root" not in flags:
        options.add("allow_other")
    if plan.upper is None or "ro" in flags:
        options.add("ro")
    source = plan.options.fsname or mounts.SUBTYPE.encode("ascii")
    # In octal any byte passes, through pyfuse3 (ASCII only) and libfuse (commas).
    return options | {"fsname=" + "".join(f"\\{byte:03o}" for byte in source)}


@contextlib.contextmanager
def _said() -> Iterator[Callable[[], list[str]]]:
    """Keep what C code writes to standard error meanwhile; gives a call that tells its lines."""
    kept = os.dup(2)
    memory = os.memfd_create("stderr")
    os.dup2(memory, 2)

    def lines() -> list[str]:
        return os.fsdecode(os.pread(memory, 4096, 0)).splitlines()

    try:
        yield lines
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(memory)


async def _answer(point: bytes, ready: Callable[[], None] | None) -> None:
    """Serve until the mount is gone; *ready* is called when signals would be heard."""
    with trio.open_signal_receiver(*_ENDING) as signals:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_unmount_on, signals, point)
                _log.info("%s is mounted", os.fsdecode(point))
                if ready is not None:
                    ready()
                await _serve_requests()
                _log.info("%s is unmounted", os.fsdecode(point))
                nursery.cancel_scope.cancel()
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)


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
