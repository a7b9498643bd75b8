"""A mount's life: background and foreground, signals, records, failures, and running a command."""

import errno
import json
import os
import pty
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import driver, linux, tars
from tests.support.command import (
    SECONDS,
    UNIONMOUNT,
    Command,
    has_ended,
    mounted_below,
    read_until,
    wait_for_table,
)
from tests.support.layers import Tree
from tests.support.mounts import COMMAND, KernelMount, Mounts, UnionMount
from tests.support.snapshots import tree
from tests.support.stores import StoreBuilder
from tests.unit.errors import raises
from unionfs.driver import mounts

_NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
_PROGRAMS = ("sh", "cat", "ls", "readlink", "sleep")

_FAILING = """
import sys
from unionfs.driver import answering
async def fail():
    raise RuntimeError("injected")
answering._serve_requests = fail
from unionfs.cli import main
sys.exit(main())
"""


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with a few programs of this machine in it."""
    root = tmp_path_factory.mktemp("programs")
    for name in _PROGRAMS:
        program = shutil.which(name)
        assert program is not None
        libraries = re.findall(r"/\S+", subprocess.check_output(["ldd", program], text=True))
        for source, target in [(program, f"/bin/{name}"), *zip(libraries, libraries, strict=True)]:
            copy = root / target.lstrip("/")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, copy)
    for name in ("proc", "dev", "sys", "etc", "root"):
        (root / name).mkdir()
    (root / "etc" / "resolv.conf").write_text("of the layer")
    return root


# In the background


def test_it_returns_when_the_mount_answers(unionmount: Command) -> None:
    unionmount.mounts("base", "mount")
    assert (unionmount.directory / "mount" / "file").read_text() == "content"


def test_it_keeps_no_stream_and_no_descriptor_of_its_caller(unionmount: Command) -> None:
    reader, writer = os.pipe()
    # With the pipes of the streams, subprocess waits until nobody holds them.
    unionmount.mounts("base", "mount", pass_fds=(writer,))
    os.close(writer)
    with open(reader, "rb") as pipe:
        assert read_until(pipe, b"") == b""


def test_its_daemon_depends_on_nothing_of_its_caller(unionmount: Command) -> None:
    unionmount.mounts("--upper", "upper", "base", "mount", umask=0o077)
    (union,) = unionmount.unions()
    process = Path(f"/proc/{union.process}")
    status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
    assert os.readlink(process / "cwd") == "/"
    assert union.process is not None
    assert os.getsid(union.process) == union.process
    assert status["Umask"] == "0000"
    assert {os.readlink(process / "fd" / stream) for stream in "012"} == {"/dev/null"}
    soft, hard = resource.prlimit(union.process, resource.RLIMIT_NOFILE)
    assert soft == hard


def test_umount_ends_the_daemon(unionmount: Command) -> None:
    unionmount.mounts("--upper", "upper", "base", "mount")
    end = unionmount.daemon("mount")
    subprocess.run(["umount", unionmount.directory / "mount"], check=True)
    assert has_ended(end)


def test_an_upper_can_be_mounted_again_right_after_umount(unionmount: Command) -> None:
    mount = unionmount.directory / "mount"
    for number in range(5):
        unionmount.mounts("--upper", "upper", "base", "mount")
        (mount / str(number)).write_text("")
        linux.umount(mount)
    assert len(os.listdir(unionmount.directory / "upper")) == 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_unmounts_it(unionmount: Command, number: signal.Signals) -> None:
    unionmount.mounts("base", "mount", "--log", "log")
    end = unionmount.daemon("mount")
    signal.pidfd_send_signal(end, number)
    assert has_ended(end)
    assert mounted_below(unionmount.directory) == []
    assert (unionmount.directory / "log").read_text() == ""


def test_a_busy_unmount_is_a_lazy_one(unionmount: Command) -> None:
    unionmount.mounts("--upper", "upper", "base", "mount", "--log", "log")
    with open(unionmount.directory / "mount" / "file", "r+") as used:
        end = unionmount.daemon("mount")
        signal.pidfd_send_signal(end, signal.SIGTERM)
        assert wait_for_table(lambda: mounted_below(unionmount.directory) == [])
        used.write("changed")
        used.flush()
        os.fsync(used.fileno())
    assert has_ended(end)
    assert (unionmount.directory / "upper" / "file").read_text() == "changed"
    (line,) = (unionmount.directory / "log").read_text().splitlines()
    assert "is in use: it is detached now" in line


def test_the_log_tells_more_when_asked(unionmount: Command) -> None:
    unionmount.mounts("base", "mount", "--log", "log", "-v")
    end = unionmount.daemon("mount")
    linux.umount(unionmount.directory / "mount")
    assert has_ended(end)
    first, last = (unionmount.directory / "log").read_text().splitlines()
    assert first.endswith(f"{unionmount.directory}/mount is mounted")
    assert last.endswith(f"{unionmount.directory}/mount is unmounted")


@pytest.mark.needs_native
def test_what_answers_in_python_is_loaded_when_the_mount_is_there(unionmount: Command) -> None:
    process = unionmount.foreground(
        "-v", "base", "mount", env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"}
    )
    os.getxattr(unionmount.directory / "mount", "user.unionmount.layer")
    process.terminate()
    lines = read_until(process.stderr, b"").splitlines()
    assert process.wait(SECONDS) == 0
    (mounted,) = (at for at, line in enumerate(lines) if line.endswith(b"/mount is mounted"))
    for name in (b"trio", b"pyfuse3"):
        (loaded,) = (at for at, line in enumerate(lines) if line.split()[-1:] == [name])
        assert loaded > mounted, name


def test_nothing_is_loaded_from_what_the_mount_covers(unionmount: Command) -> None:
    (unionmount.directory / "base" / "trio.py").write_text("raise SystemExit")
    point = unionmount.directory / "mount"
    env = {**os.environ, "PYTHONPATH": str(point)}
    process = unionmount.foreground("base", "mount", env=env)
    with raises(errno.ENODATA):
        os.getxattr(point, "user.absent")
    process.terminate()
    assert process.wait(SECONDS) == 0


_PIVOTING = """
import ctypes, os, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
def check(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
check(libc.unshare(0x20000))  # CLONE_NEWNS
check(libc.mount(b"none", b"/", None, 0x4000 | 1 << 18, None))  # MS_REC | MS_PRIVATE
union = subprocess.Popen(sys.argv[1:], env={**os.environ, "PYTHONPATH": "/hostile"})
try:
    while not os.path.ismount("mount"):
        assert union.poll() is None
    os.statvfs("mount")
    os.chdir("mount")
    check(libc.pivot_root(b".", b"old"))
    os.chdir("/")
    print(open("/file").read())
    print(os.getxattr("/", "user.unionmount.layer").decode())  # only Python knows that
finally:
    union.kill()
    union.wait()
"""


@pytest.mark.needs_native
def test_nothing_is_loaded_from_a_mount_that_becomes_the_root(unionmount: Command) -> None:
    """pivot_root(2) makes it the root of all processes in the namespace, of ours too."""
    base = unionmount.directory / "base"
    for name in ("old", "hostile"):
        (base / name).mkdir()
    (base / "hostile" / "trio.py").write_text("raise SystemExit")
    done = subprocess.run(
        [sys.executable, "-c", _PIVOTING, UNIONMOUNT, *driver.words(), "-f", "base", "mount"],
        cwd=unionmount.directory,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert (done.stdout, done.stderr) == (f"content\n{base}\n", "")


_TELLS_WHAT_IS_LOADED = ("env", "PYTHONPROFILEIMPORTTIME=1")
# Nobody may ask for a moment on a busy machine, and then it is loaded.
_ATTEMPTS = 20


def _loads_nothing_for(mount: UnionMount, act: Callable[[Path], object]) -> bool:
    act(mount.path)
    mount.unmount()
    return not re.search(r"\| +trio$", mount.stderr.read_text(), re.MULTILINE)


def _write_first_byte(path: Path) -> None:
    with linux.opened(path, os.O_WRONLY) as descriptor:
        os.write(descriptor, b"!")


_CHANGES: dict[str, Callable[[Path], object]] = {
    "a new file": lambda root: (root / "d/new").write_text("new"),
    "a new directory": lambda root: (root / "d/new").mkdir(),
    "a new link": lambda root: (root / "d/new").symlink_to("file"),
    "another name": lambda root: (root / "d/file").rename(root / "d/new"),
    "a name less": lambda root: (root / "d/file").unlink(),
    "another mode": lambda root: (root / "d/file").chmod(0o600),
    "another content": lambda root: (root / "d/file").write_text("new"),
    "another byte of much": lambda root: _write_first_byte(root / "d/much"),
}


@pytest.mark.needs_native
@pytest.mark.parametrize("change", _CHANGES)
def test_what_the_plane_lacks_it_gets_before_python_is_loaded(
    union: Mounts[UnionMount], kernel: Mounts[KernelMount], change: str
) -> None:
    layer: Tree = {"d": {"file": "x", "much": b"m" * (3 << 20)}}
    expected = kernel(layer, upper=True)
    _CHANGES[change](expected.path)
    for _ in range(_ATTEMPTS):
        mount = union(layer, upper=True, command=(*_TELLS_WHAT_IS_LOADED, *COMMAND))
        if _loads_nothing_for(mount, _CHANGES[change]):
            break
    else:
        pytest.fail("it was loaded")
    mount.mount()
    assert tree(mount.path) == tree(expected.path)


@pytest.mark.needs_native
def test_an_image_is_read_before_python_is_loaded(
    union: Mounts[UnionMount], tmp_path: Path
) -> None:
    store = StoreBuilder(tmp_path / "store")
    store.image("some:1", [tars.tar(tars.directory("d"), tars.file("d/file", b"content"))])
    read: list[str] = []
    for _ in range(_ATTEMPTS):
        mount = union(Path("some:1"), command=(*_TELLS_WHAT_IS_LOADED, *store.command))
        if _loads_nothing_for(mount, lambda root: read.append((root / "d/file").read_text())):
            break
    else:
        pytest.fail("it was loaded")
    assert set(read) == {"content"}


def test_an_unmount_before_python_is_needed_is_the_end(unionmount: Command) -> None:
    process = unionmount.foreground("base", "mount")
    linux.umount(unionmount.directory / "mount")
    assert process.wait(SECONDS) == 0
    assert read_until(process.stderr, b"") == b""


# In the foreground


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_in_the_foreground_a_signal_unmounts_it_with_status_0(
    unionmount: Command, number: signal.Signals
) -> None:
    process = unionmount.foreground("--upper", "upper", "base", "mount")
    process.send_signal(number)
    assert process.wait(SECONDS) == 0
    assert mounted_below(unionmount.directory) == []
    assert read_until(process.stderr, b"") == b""


def test_a_signal_as_soon_as_it_is_mounted_unmounts_it_with_status_0(unionmount: Command) -> None:
    process = unionmount.start("-f", "base", "mount")
    assert wait_for_table(lambda: bool(mounted_below(unionmount.directory)))
    process.send_signal(signal.SIGTERM)
    assert process.wait(SECONDS) == 0
    assert mounted_below(unionmount.directory) == []


def test_in_the_foreground_umount_ends_it_with_status_0(unionmount: Command) -> None:
    process = unionmount.foreground("base", "mount")
    linux.umount(unionmount.directory / "mount")
    assert process.wait(SECONDS) == 0


def test_in_the_foreground_a_busy_unmount_says_so(unionmount: Command) -> None:
    process = unionmount.foreground("base", "mount")
    with open(unionmount.directory / "mount" / "file") as used:
        for _ in range(2):
            process.send_signal(signal.SIGTERM)
            assert b"is in use: it is detached now" in read_until(process.stderr, b"\n")
        assert mounted_below(unionmount.directory) == []
        assert used.read() == "content"
    assert process.wait(SECONDS) == 0


def test_debug_stays_in_the_foreground_and_prints_requests(unionmount: Command) -> None:
    stderr = unionmount.directory / "stderr"
    with open(stderr, "wb") as file:
        process = unionmount.start("-o", "debug", "base", "mount", stderr=file.fileno())
    assert wait_for_table(lambda: bool(mounted_below(unionmount.directory)))
    os.stat(unionmount.directory / "mount" / "file")
    process.terminate()
    assert process.wait(SECONDS) == 0
    assert "opcode: LOOKUP" in stderr.read_text()


def test_a_mount_of_roots_alone_is_for_root_alone(unionmount: Command) -> None:
    """Also where the data plane could answer, and the kernel knows all that it has to."""
    base = unionmount.directory / "base"
    os.chown(base, 65534, 65534)
    base.chmod(0o705)
    unionmount.mounts("-o", "allow_root", "base", "mount")
    for directory in (unionmount.directory, *unionmount.directory.parents):
        assert os.stat(directory).st_mode & stat.S_IXOTH, directory
    for prefix, status in (([], 0), (_NOBODY, 1)):
        done = subprocess.run(
            [*prefix, "cat", "mount/file"],
            cwd=unionmount.directory,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status
    assert os.strerror(errno.EACCES) in done.stderr


# Failures


def _fail(unionmount: Command, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a unionmount that fails as soon as it is to answer requests in Python."""
    return subprocess.run(
        [sys.executable, "-c", _FAILING, *driver.words(), *words],
        cwd=unionmount.directory,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def test_an_exception_that_ends_the_loop_unmounts_with_a_log_record(unionmount: Command) -> None:
    done = _fail(unionmount, "-f", "--upper", "upper", "base", "mount")
    assert done.returncode == 1
    assert "serving the mount failed" in done.stderr
    assert "RuntimeError: injected" in done.stderr
    assert mounted_below(unionmount.directory) == []


@pytest.mark.needs_stock
def test_a_daemon_that_fails_at_once_is_told(unionmount: Command) -> None:
    done = _fail(unionmount, "--log", "log", "base", "mount")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "does not answer" in line
    assert wait_for_table(lambda: mounted_below(unionmount.directory) == [])


@pytest.mark.needs_native
def test_a_daemon_that_fails_later_unmounts_with_a_log_record(unionmount: Command) -> None:
    done = _fail(unionmount, "--log", "log", "base", "mount")
    assert (done.returncode, done.stderr) == (0, "")
    assert wait_for_table(lambda: mounted_below(unionmount.directory) == [])
    assert "RuntimeError: injected" in (unionmount.directory / "log").read_text()


def test_an_aborted_connection_ends_the_daemon_and_its_mount(unionmount: Command) -> None:
    control = unionmount.directory / "control"
    control.mkdir()
    unionmount.mounts("base", "mount")
    end = unionmount.daemon("mount")
    mounted = mounts.visible_at(os.fsencode(unionmount.directory / "mount"))
    assert mounted is not None
    linux.mount("fusectl", control, "fusectl")
    try:
        number = mounted.device.partition(":")[2]
        (control / number / "abort").write_text("1")
    finally:
        linux.umount(control)
    assert has_ended(end)
    assert mounted_below(unionmount.directory) == []


# --list


def test_list_shows_layers_upper_and_process(unionmount: Command) -> None:
    there = unionmount.directory
    os.mkdir(os.fsencode(there) + b"/layer \xff\n")
    unionmount.mounts("--upper", "upper", "base", b"layer \xff\n", "mount")
    (union,) = unionmount.unions()

    shown = json.loads(unionmount("--list", "--json").stdout)
    (ours,) = (union for union in shown if union["mountpoint"] == f"{there}/mount")
    assert ours == {
        "mountpoint": f"{there}/mount",
        "layers": [f"{there}/base", os.fsdecode(os.fsencode(there) + b"/layer \xff\n")],
        "upper": f"{there}/upper",
        "work": f"{there}/upper.work",
        "process": union.process,
    }

    text = unionmount("--list").stdout
    assert (
        f"{there}/mount\n"
        f"  process  {union.process}\n"
        f"  upper    {there}/upper\n"
        f"  work     {there}/upper.work\n"
        f"  layer    {there}/base\n"
        f"  layer    {there}/layer \\xff\\x0a\n"
    ) in text


def test_list_shows_a_mount_whose_daemon_was_killed(unionmount: Command) -> None:
    unionmount.mounts("base", "mount")
    end = unionmount.daemon("mount")
    signal.pidfd_send_signal(end, signal.SIGKILL)
    assert has_ended(end)
    (union,) = unionmount.unions()
    assert union.process is None
    assert union.layers == [os.fsencode(unionmount.directory / "base")]


def test_list_shows_what_moved_where_it_is_now(unionmount: Command) -> None:
    (unionmount.directory / "elsewhere").mkdir()
    unionmount.mounts("base", "mount")
    subprocess.run(["mount", "--bind", "mount", "elsewhere"], cwd=unionmount.directory, check=True)
    linux.umount(unionmount.directory / "mount")
    (union,) = unionmount.unions()
    assert union.point == os.fsencode(unionmount.directory / "elsewhere")
    assert union.layers == [os.fsencode(unionmount.directory / "base")]


def test_records_end_with_their_mounts(unionmount: Command) -> None:
    records = Path("/run/unionmount")
    unionmount.mounts("base", "mount")
    mounted = mounts.visible_at(os.fsencode(unionmount.directory / "mount"))
    assert mounted is not None
    record = records / f"{mounted.device}.json"
    killed = unionmount.daemon("mount")
    signal.pidfd_send_signal(killed, signal.SIGKILL)
    assert has_ended(killed)
    linux.umount(unionmount.directory / "mount")
    assert record.exists()
    # It may be swept, or written anew for the same number.
    unionmount.mounts("base", "mount")
    end = unionmount.daemon("mount")
    linux.umount(unionmount.directory / "mount")
    assert has_ended(end)
    assert not record.exists() or str(unionmount.directory) not in record.read_text()


# A command


@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 128 + 15), ("kill -KILL $$", 128 + 9)],
)
def test_the_exit_status_is_the_commands(
    unionmount: Command, programs: Path, script: str, status: int
) -> None:
    done = unionmount(programs, "mount", "--", "sh", "-c", script)
    assert (done.returncode, done.stderr) == (status, "")
    assert mounted_below(unionmount.directory) == []


@pytest.mark.parametrize(("command", "status"), [("missing", 127), ("/etc/resolv.conf", 126)])
def test_a_command_that_can_not_be_run(
    unionmount: Command, programs: Path, command: str, status: int
) -> None:
    done = unionmount(programs, "mount", "--", command)
    assert done.returncode == status
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"unionmount: {command}: ")
    assert mounted_below(unionmount.directory) == []


def test_a_command_needs_root(unionmount: Command, programs: Path) -> None:
    line = unionmount.refuses(programs, "mount", "--", "sh", prefix=_NOBODY)
    assert "only root" in line


def test_a_command_works_in_the_union(unionmount: Command, programs: Path) -> None:
    done = unionmount(
        *("--upper", "upper", "base", programs, "mount", "--", "sh", "-c"),
        'cat file; pwd; echo "$HOME $PATH"; echo new > /made; cat > /piped',
        # Replaces the null device that the command gets otherwise.
        prefix=["sh", "-c", 'echo input | "$@"', "sh"],
    )
    assert done.stderr == ""
    assert done.stdout == (
        "content/\n/root /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
    )
    upper = unionmount.directory / "upper"
    assert sorted(os.listdir(upper)) == ["made", "piped"]
    assert (upper / "piped").read_text() == "input\n"


def test_a_command_has_namespaces_of_its_own(unionmount: Command, programs: Path) -> None:
    done = unionmount(
        *(programs, "mount", "--", "sh", "-c"),
        "echo $$; readlink /proc/self/ns/mnt /proc/self/ns/pid /proc/self/ns/ipc"
        " /proc/self/ns/uts; cat /proc/self/mountinfo",
    )
    number, *rest = done.stdout.splitlines()
    assert number == "2"
    for name, namespace in zip(("mnt", "pid", "ipc", "uts"), rest, strict=False):
        assert namespace.startswith(f"{name}:[")
        assert namespace != os.readlink(f"/proc/self/ns/{name}")
    points = {line.split()[4] for line in rest[4:]}
    assert {"/", "/proc", "/sys", "/dev", "/dev/pts", "/dev/shm", "/dev/null"} <= points
    assert str(unionmount.directory / "mount") not in points


def test_a_command_has_devices(unionmount: Command, programs: Path) -> None:
    done = unionmount(
        *(programs, "mount", "--", "sh", "-ec"),
        "echo x > /dev/null; ls /dev; : < /dev/zero; : < /dev/urandom; cat < /dev/stdin"
        "; echo y > /dev/shm/file; cat /dev/fd/3 3< /etc/resolv.conf > /dev/null",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert {"full", "null", "ptmx", "pts", "random", "shm", "stdout", "tty", "urandom", "zero"} < (
        set(done.stdout.split())
    )


def test_a_command_sees_sys_read_only(unionmount: Command, programs: Path) -> None:
    done = unionmount(
        programs, "mount", "--", "sh", "-c", "ls /sys; echo 1 > /sys/kernel/profiling"
    )
    assert "kernel" in done.stdout.split()
    assert os.strerror(errno.EROFS) in done.stderr or "cannot create" in done.stderr


def test_a_command_resolves_names_as_the_host_does(unionmount: Command, programs: Path) -> None:
    done = unionmount(
        *("--upper", "upper", programs, "mount", "--", "sh", "-c"),
        "cat /etc/resolv.conf; echo overwritten > /etc/resolv.conf",
    )
    assert done.stdout == Path("/etc/resolv.conf").read_text()
    assert done.returncode != 0
    assert os.listdir(unionmount.directory / "upper") == []


def test_a_root_without_a_resolver_file_gets_it_for_the_time(
    unionmount: Command, programs: Path
) -> None:
    without = unionmount.directory / "without"
    shutil.copytree(programs, without, symlinks=True)
    (without / "etc" / "resolv.conf").unlink()
    os.utime(without / "etc", ns=(1_000_000_001, 2_000_000_002))
    done = unionmount("--upper", "upper", without, "mount", "--", "cat", "/etc/resolv.conf")
    assert (done.stdout, done.stderr) == (Path("/etc/resolv.conf").read_text(), "")
    etc = unionmount.directory / "upper" / "etc"
    assert os.listdir(etc) == []
    assert etc.stat().st_mtime_ns == 2_000_000_002


def test_a_link_of_the_root_never_leads_the_set_up_out_of_it(
    unionmount: Command, programs: Path
) -> None:
    victim = unionmount.directory / "victim"
    victim.write_text("of the host")
    layer = unionmount.directory / "layer"
    (layer / "etc").mkdir(parents=True)
    (layer / "etc" / "resolv.conf").symlink_to(victim)
    (layer / "dev").symlink_to("/" + "../" * 20 + str(unionmount.directory / "base"))
    (layer / "sys").symlink_to(unionmount.directory / "base")
    done = unionmount(
        *("--upper", "upper", programs, layer, "mount", "--", "sh", "-c"),
        "ls /dev/ /sys/; cat /etc/resolv.conf",
    )
    assert done.stdout == ""
    assert victim.read_text() == "of the host"
    assert os.listdir(unionmount.directory / "base") == ["file"]
    assert os.listdir(unionmount.directory / "upper") == []


def test_a_root_without_places_to_mount_on_does_without(
    unionmount: Command, programs: Path
) -> None:
    bare = unionmount.directory / "bare"
    shutil.copytree(programs, bare, symlinks=True)
    for name in ("proc", "dev", "sys", "root"):
        (bare / name).rmdir()
    shutil.rmtree(bare / "etc")
    done = unionmount("--upper", "upper", bare, "mount", "--", "ls", "/")
    assert done.stderr == ""
    assert sorted(done.stdout.split()) == sorted(os.listdir(bare))
    assert os.listdir(unionmount.directory / "upper") == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_go_to_the_command(
    unionmount: Command, programs: Path, number: signal.Signals
) -> None:
    name = number.name.removeprefix("SIG")
    script = f'trap "echo got; exit 9" {name}; sleep 1000 & echo ready; wait'
    process = unionmount.start(programs, "mount", "--", "sh", "-c", script, stdout=subprocess.PIPE)
    assert read_until(process.stdout, b"\n") == b"ready\n"
    process.send_signal(number)
    # What the command left running would keep the pipe open.
    assert read_until(process.stdout, b"") == b"got\n"
    assert process.wait(SECONDS) == 9
    assert mounted_below(unionmount.directory) == []


def test_an_interrupt_key_ends_the_command_and_all_is_tidied_up(
    unionmount: Command, programs: Path
) -> None:
    script = 'trap "readlink /dev/fd/0; exit 5" INT; sleep 1000 & echo ready; wait'
    ours, theirs = pty.openpty()
    process = unionmount.start(
        *(programs, "mount", "--", "sh", "-c", script),
        prefix=["setsid", "--ctty"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    with open(ours, "r+b", buffering=0) as terminal:
        read_until(terminal, b"ready")
        terminal.write(b"\x03")
        read_until(terminal, b"/dev")
        assert process.wait(SECONDS) == 5
    assert mounted_below(unionmount.directory) == []


def test_all_ends_when_the_waiting_process_is_killed(unionmount: Command, programs: Path) -> None:
    process = unionmount.start(
        *("--upper", "upper", programs, "mount", "--", "sh", "-c", "echo ready; sleep 1000"),
        stdout=subprocess.PIPE,
    )
    read_until(process.stdout, b"ready\n")
    end = unionmount.daemon("mount")
    process.kill()
    process.wait(SECONDS)
    assert read_until(process.stdout, b"") == b""
    assert has_ended(end)
    assert mounted_below(unionmount.directory) == []


def test_a_mount_that_somebody_else_uses_is_detached_after_the_command(
    unionmount: Command, programs: Path
) -> None:
    process = unionmount.start(
        *(programs, "mount", "--", "sh", "-c", "echo ready; cat"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    read_until(process.stdout, b"ready\n")
    end = unionmount.daemon("mount")
    with open(unionmount.directory / "mount" / "etc" / "resolv.conf") as used:
        process.stdin.close()
        assert process.wait(SECONDS) == 0
        assert b"is in use: it is detached now" in read_until(process.stderr, b"")
        assert mounted_below(unionmount.directory) == []
        assert used.read() == "of the layer"
    assert has_ended(end)
