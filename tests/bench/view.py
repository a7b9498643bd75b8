"""The layers as programs get them: to be read only, and by another user as that user's own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.bench.contenders import COMMAND, NOBODY, UnableError
from tests.support import linux
from tests.support.unprivileged import bind_idmapped, let_pass


@contextmanager
def read_only(data: Path, scratch: Path) -> Iterator[Path]:
    """*data*, which can't be changed there: mergerfs writes to branches that it is told not to."""
    view = scratch / "layers"
    view.mkdir()
    linux.mount(str(data), view, "none", linux.MS_BIND)
    try:
        _protect(view)
        yield view
    finally:
        linux.umount(view, linux.MNT_DETACH)


def _protect(view: Path) -> None:
    linux.mount("none", view, "none", linux.MS_BIND | linux.MS_REMOUNT | linux.MS_RDONLY)


@contextmanager
def admitted(data: Path, scratch: Path) -> Iterator[Path]:
    """*data* in which root's files show as NOBODY's, who may use /dev/fuse in this namespace.

    UnableError if that can't be had.
    """
    device, theirs, runtime = (scratch / name for name in ("fuse", "theirs", "runtime"))
    theirs.mkdir()
    runtime.mkdir()
    os.chown(runtime, NOBODY, NOBODY)
    os.environ["XDG_RUNTIME_DIR"] = str(runtime)
    with ExitStack() as mounts:
        try:
            os.mknod(device, 0o20666, os.stat("/dev/fuse").st_rdev)
            device.chmod(0o666)
            linux.mount(str(device), Path("/dev/fuse"), "none", linux.MS_BIND)
            mounts.callback(linux.umount, Path("/dev/fuse"))
            namespace = _namespace()
            mounts.callback(os.close, namespace)
            bind_idmapped(data, theirs, namespace)
            mounts.callback(linux.umount, theirs, linux.MNT_DETACH)
            _protect(theirs)
            for point in let_pass(Path(sys.base_prefix), COMMAND.parents[2], data, scratch):
                mounts.callback(linux.umount, point, linux.MNT_DETACH)
        except OSError as error:
            raise UnableError(f"layers can't be made a user's own here: {error}") from error
        yield theirs


def _namespace() -> int:
    """A namespace of users in which root is NOBODY."""
    command = ["unshare", "--user", "cat"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"\n")
        process.stdout.read(1)  # it is in there now
        for kind in ("uid_map", "gid_map"):
            Path(f"/proc/{process.pid}/{kind}").write_text(f"0 {NOBODY} 1")
        return os.open(f"/proc/{process.pid}/ns/user", os.O_RDONLY)
