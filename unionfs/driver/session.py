"""One mount's life in the process that serves it: check, mount, answer, end by a signal or by
umount(8).

What answers requests in Python takes longer to load than all the rest. Where the data plane answers
most of them, it is loaded once the mount is there: when a request waits for it, or nobody asks.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import resource
import select
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from unionfs import syscalls
from unionfs.driver import handshake, log, mounting, mounts, notices, plane, preflight, records
from unionfs.driver.loading import as_kept, keep_root, there_to_stay
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
    from types import ModuleType

    from unionfs.driver.plane.mirror import PlaneMirror

_log = logging.getLogger(__name__)

_ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# How long a daemon that is on its way out may take to let go of its upper.
_SECONDS_TO_LET_GO: Final = 10
_OVERLAYFS_METACOPY: Final = "/sys/module/overlay/parameters/metacopy"
# Bytes. Larger requests are fewer; what is larger still could not be spliced (files.c).
_READAHEAD: Final = 896 * 1024
_WORK_SUFFIX: Final = b".work"
# What the kernel is told of the options; it has "no" before some.
_KERNELS: Final = frozenset(("noexec", "sync", "dirsync", "noatime", "allow_other"))

_LOADED_LATER: Final = ("unionfs.driver", "pyfuse3", "trio")
# Python waits to be needed until the plane has had as little to do as that, for as long.
_IDLE_SECONDS: Final = 1
_IDLE_WORK_SECONDS: Final = 0.01
# Not for ever: what is to be loaded may be replaced by another version.
_SECONDS_TO_LOAD: Final = 5


def serve(plan: Plan, ready: Callable[[], None] | None = None) -> int:
    """Mount *plan* in this process and serve it until it is unmounted.

    ready: called when the mount is there; without it, what is logged is shown to the user too.
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
    # Before anything is opened, or taken away.
    os.close(preflight.open_fuse())
    native = _is_native(plan)
    # What is loaded later is what is there now. The mount may cover the way to it, or become our
    # root: a layer would be asked for it.
    root = keep_root(_LOADED_LATER) if native else None
    if root is None:
        _answering()
    # Once mounted, the mount may cover any path, and we could not answer ourselves: whatever has
    # a path is opened before.
    with (
        records.directory() as directory,
        contextlib.ExitStack() as last,
        contextlib.ExitStack() as stack,
    ):
        with preflight.claimed_mount_point(plan.point) as notes:
            made = contextlib.ExitStack()
            mirror = _mirror(plan, native)
            filesystem, named = _open(plan, made, mirror)
            stack.callback(filesystem.close)
            # While we hold the upper: afterwards it may be another's.
            stack.push(made)
            union = _union(plan, named)
            mounted = stack.enter_context(_mounted(plan, native))
            made.pop_all()
        try:
            # While we hold the upper, the record says so.
            last.enter_context(records.kept(union, directory))
            for note in notes:
                notices.tell(note)
            _answer(plan, filesystem, mounted, mirror, root, ready)
        except BaseException:
            _log.exception("%s: serving the mount failed", os.fsdecode(plan.point))
            mounted.detach()
            return 1
        return 0


def _is_native(plan: Plan) -> bool:
    """Whether the data plane is to answer. Raises UnionError if it is said that it must."""
    if plan.options.driver is Driver.STOCK or plane.usable():
        return plan.options.driver is not Driver.STOCK
    if plan.options.driver is Driver.NATIVE:
        raise UnionError("-o driver=native is not possible here: the extension was not built")
    return False


def _answering() -> ModuleType:
    with there_to_stay():
        from unionfs.driver import answering  # noqa: PLC0415 - see the module's description

    return answering


class _Mounted(NamedTuple):
    """A mount that was made.

    point, device: where, and which of the kernel's. kernel: the descriptor that serves it.
    native: whether the data plane is to answer.
    """

    point: bytes
    device: str | None
    kernel: int
    agreed: handshake.Agreed
    native: bool

    def detach(self) -> None:
        """Take it away, if it still is there."""
        there = mounts.visible_at(self.point)
        if there is not None and there.device == self.device:
            with contextlib.suppress(OSError):
                mounts.detach(self.point)


@contextlib.contextmanager
def _mounted(plan: Plan, native: bool) -> Iterator[_Mounted]:
    # From here on signals wait until they are answered by unmounting.
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    source = plan.options.fsname or mounts.SUBTYPE
    kernel = mounting.mount(plan.point, source, _mount_options(plan))
    try:
        there = mounts.visible_at(plan.point)
        device = None if there is None else there.device
        passthrough = native and syscalls.may_use_trusted_attributes()
        agreed = handshake.agree(kernel, passthrough=passthrough)
        native = native and agreed.opens_directories
        mounts.set_readahead(plan.point, _READAHEAD)
    except BaseException:
        # Which ends the connection, so that nobody waits for an answer.
        os.close(kernel)
        mounts.detach(plan.point)
        raise
    try:
        yield _Mounted(plan.point, device, kernel, agreed, native)
    finally:
        # It still is there, and answers nobody any more, if its connection was aborted.
        if mounts.is_union(plan.point) and mounts.is_dead(plan.point):
            mounts.detach(plan.point)


def _union(plan: Plan, named: Sequence[Named]) -> records.Union:
    upper = None if plan.upper is None else os.path.realpath(plan.upper)
    real = {word: os.fsencode(layer.identity) for word, layer in named if os.path.isabs(word)}
    return records.Union(
        point=plan.point,
        layers=tuple(real.get(word, word) for word in plan.layers),
        upper=upper,
        work=None if upper is None else os.path.realpath(plan.work or upper + _WORK_SUFFIX),
        process=os.getpid(),
    )


def _open(
    plan: Plan, made: contextlib.ExitStack, mirror: PlaneMirror | None
) -> tuple[Filesystem, Sequence[Named]]:
    """Open what *plan* names; *made* removes what was made for it if it is not mounted after all.

    Answers the filesystem, which closes them, and its layers. Raises UnionError.
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
        return filesystem, named


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
                _remove_work(work)
            if isinstance(error, OSError):
                raise problem("upper", upper, error) from error
            raise
        else:
            if new:
                made.callback(_remove_work, work)
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


def _remove_work(work: bytes) -> None:
    import shutil  # noqa: PLC0415 - only a failure needs it, and a mount waits for all that is loaded

    shutil.rmtree(work, ignore_errors=True)


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


def _mirror(plan: Plan, native: bool) -> PlaneMirror | None:
    """What is told to the plane; nothing where owners show as others, for it does not know that."""
    if not native or plan.options.owners != Owners():
        return None
    from unionfs.driver.plane.mirror import PlaneMirror  # noqa: PLC0415 - it needs the extension

    return PlaneMirror()


def _mount_options(plan: Plan) -> set[str]:
    flags = plan.options.flags
    options = {"default_permissions"} | (flags & _KERNELS)
    # For users fusermount3 would pass over it, with a line for each mount.
    if "suid" not in flags or os.geteuid() != 0:
        options.add("nosuid")
    if "dev" not in flags:
        options.add("nodev")
    if os.geteuid() == 0 or "allow_root" in flags:
        # With allow_root libfuse refuses all but root and us.
        options.add("allow_other")
    if plan.upper is None or "ro" in flags:
        options.add("ro")
    return options


def _answer(
    plan: Plan,
    filesystem: Filesystem,
    mounted: _Mounted,
    mirror: PlaneMirror | None,
    root: int | None,
    ready: Callable[[], None] | None,
) -> None:
    flags = plan.options.flags
    if mounted.native:
        if mirror is not None:
            mirror.started = True
            # Before anybody asks.
            filesystem.tell_root()
        waiting = plane.start(
            mounted.kernel,
            mounted.agreed.request,
            writable=plan.upper is not None,
            passthrough=mounted.agreed.passthrough,
            sync="volatile" not in flags,
            only_ours="allow_root" in flags,
            debug="debug" in flags,
        )
    _log.info("%s is mounted", os.fsdecode(plan.point))
    gc.collect()
    gc.freeze()
    if ready is not None:
        ready()
    if mounted.native:
        _help_the_plane(filesystem, waiting)
    if not (mounted.native and plane.ended()):
        with contextlib.nullcontext() if root is None else as_kept(root):
            answering = _answering()
        if root is not None:
            os.close(root)
        kernel = None if mounted.native else mounted.kernel
        answering.serve(plan, filesystem, _ENDING, kernel, mounted.agreed.request)
    _log.info("%s is unmounted", os.fsdecode(plan.point))


def _help_the_plane(filesystem: Filesystem, waiting: int) -> None:
    """Do what the plane lacks for requests, *waiting* when they are there, as long as that will do.

    It ends when one has to be answered in Python, at a signal, or when nobody asks for anything.
    """
    signals = syscalls.signal_descriptor(_ENDING)
    poll = select.poll()
    poll.register(waiting, select.POLLIN)
    poll.register(signals, select.POLLIN)
    end = time.monotonic() + _SECONDS_TO_LOAD
    worked = time.process_time()
    while time.monotonic() < end:
        there = [descriptor for descriptor, _ in poll.poll(_IDLE_SECONDS * 1000)]
        if signals in there or (there and not plane.help_first(filesystem.prepare)):
            break
        before, worked = worked, time.process_time()
        if not there and worked - before < _IDLE_WORK_SECONDS:
            break
    os.close(signals)
