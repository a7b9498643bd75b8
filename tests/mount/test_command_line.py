"""What words on the command line do: mounts, and one clear line for each mistake."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.support import driver, linux
from tests.support.command import SECONDS, UNIONMOUNT, Command, has_ended, mounted_below, read_until
from tests.support.filesystems import FileSystems
from unionfs import __version__

_NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
_WITHOUT_OVERRIDE = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--"]
_OWN_MOUNTS = ["unshare", "--mount", "--propagation=private", "--", "sh", "-ec"]


@pytest.fixture
def unionmount(
    directory: Path,
    filesystems: FileSystems,  # they may be mounted on, so they end after us
) -> Iterator[Command]:
    """The command, run beside two layers, an empty upper and a mount point."""
    command = Command(directory)
    for name in ("base", "app", "upper", "work", "mount"):
        (directory / name).mkdir()
    (directory / "base" / "file").write_text("base\n")
    (directory / "base" / "below").write_text("base")
    (directory / "app" / "file").write_text("app\n")
    yield command
    command.close()


# Runs the command lines that come, a list of them in each line, all at one instant; answers the
# status of each and what it said.
_RACE = """
import json
import os
import sys
import unionfs.driver.session
from unionfs.cli import main

for line in sys.stdin:
    held, begin = os.pipe()
    started = []
    for words in json.loads(line):
        said, stderr = os.pipe()
        process = os.fork()
        if process == 0:
            os.close(begin)
            os.dup2(stderr, 2)
            os.read(held, 1)
            os._exit(main(words))
        os.close(stderr)
        started.append((process, said))
    os.close(begin)
    os.close(held)
    ended = []
    for process, said in started:
        with open(said) as stream:
            text = stream.read()
        ended.append((os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), text))
    print(json.dumps(ended), flush=True)
"""
Race: TypeAlias = Callable[[list[list[str]]], list[tuple[int, str]]]


@pytest.fixture
def race(unionmount: Command) -> Iterator[Race]:
    """Runs command lines at one instant; answers the status of each and what it said."""
    process = subprocess.Popen(
        [sys.executable, "-c", _RACE],
        cwd=unionmount.directory,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )

    def run(lines: list[list[str]]) -> list[tuple[int, str]]:
        assert process.stdin is not None
        process.stdin.write(
            json.dumps([[*driver.words(), *words] for words in lines]).encode() + b"\n"
        )
        process.stdin.flush()
        ended = json.loads(read_until(process.stdout, b"\n"))
        return [(status, said) for status, said in ended]

    with process:
        yield run


def test_layers_are_given_base_first(unionmount: Command) -> None:
    assert unionmount.mounts("base", "app", "mount") == ""
    mount = unionmount.directory / "mount"
    assert (mount / "file").read_text() == "app\n"
    assert (mount / "below").read_text() == "base"


def test_without_an_upper_the_mount_is_read_only(unionmount: Command) -> None:
    unionmount.mounts("base", "app", "mount")
    with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
        (unionmount.directory / "mount" / "new").write_text("")


def test_an_upper_takes_the_changes(unionmount: Command) -> None:
    unionmount.mounts("--upper", "upper", "base", "app", "mount")
    (unionmount.directory / "mount" / "file").write_text("changed")
    assert (unionmount.directory / "upper" / "file").read_text() == "changed"
    assert (unionmount.directory / "app" / "file").read_text() == "app\n"


def test_the_work_directory_is_made_beside_the_upper(unionmount: Command) -> None:
    unionmount.mounts("--upper", "upper/", "base", "mount")
    assert (unionmount.directory / "upper.work").is_dir()
    assert "upper's name with .work" in " ".join(unionmount("--help").stdout.split())


def test_the_kernel_shows_type_and_source(unionmount: Command) -> None:
    unionmount.mounts("-o", r"fsname=b\,\\é", "base", "app", "mount")
    kind, source, options = _shown(unionmount.directory / "mount")
    assert kind == "fuse.unionmount"
    assert source == "b,\\é"
    assert {"ro", "nosuid", "nodev"} <= options


@pytest.mark.parametrize("option", ["dev", "suid", "noexec", "sync", "dirsync", "noatime"])
def test_options_reach_the_kernel(unionmount: Command, option: str) -> None:
    unionmount.mounts("-o", option, "--upper", "upper", "base", "mount")
    _, _, shown = _shown(unionmount.directory / "mount")
    assert "no" + option not in shown
    assert option in ("dev", "suid") or option in shown


def test_the_driver_is_not_for_the_kernel(unionmount: Command) -> None:
    unionmount.mounts("-o", "driver=stock", "base", "mount")
    _, _, shown = _shown(unionmount.directory / "mount")
    assert not any("driver" in option for option in shown)


def test_ro_makes_a_mount_with_an_upper_read_only(unionmount: Command) -> None:
    (unionmount.directory / "upper" / "earlier").write_text("upper")
    unionmount.mounts("-o", "rw,ro", "--upper", "upper", "base", "mount")
    mount = unionmount.directory / "mount"
    assert (mount / "earlier").read_text() == "upper"
    with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
        (mount / "new").write_text("")


@pytest.mark.parametrize("source", [[], ["any source"]])
def test_options_of_overlayfs_name_the_directories(unionmount: Command, source: list[str]) -> None:
    (unionmount.directory / "a:b,c").mkdir()
    (unionmount.directory / "a:b,c" / "odd").write_text("odd")
    words = r"lowerdir=app:a\:b\,c:base,upperdir=upper,workdir=work,redirect_dir=on"
    unionmount.mounts("-o", words, *source, "mount")
    mount = unionmount.directory / "mount"
    assert sorted(os.listdir(mount)) == ["below", "file", "odd"]
    (mount / "new").write_text("new")
    assert os.listdir(unionmount.directory / "upper") == ["new"]


def test_overlay_whiteouts_leave_the_names_of_the_other_dialect(unionmount: Command) -> None:
    (unionmount.directory / "app" / ".wh.below").write_text("a name like any other")
    unionmount.mounts("--whiteouts=overlay", "base", "app", "mount")
    mount = unionmount.directory / "mount"
    assert sorted(os.listdir(mount)) == [".wh.below", "below", "file"]


def test_volatile_refuses_every_later_mount_until_its_mark_is_removed(unionmount: Command) -> None:
    words = ["--upper", "upper", "base", "mount"]
    unionmount.mounts("-o", "volatile", *words)
    _unmount(unionmount, "mount")
    mark = unionmount.directory / "upper.work" / "work" / "incompat"
    for _ in range(2):
        line = unionmount.refuses(*words)
        assert "the upper was mounted volatile" in line
        assert f"start with an empty one, or remove {mark}" in line
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
            _mount_overlay(unionmount, "mount", "upper.work")
    shutil.rmtree(mark)
    unionmount.mounts(*words)


def test_volatile_of_the_kernel_refuses_too(unionmount: Command) -> None:
    _mount_overlay(unionmount, "mount", "work", ",volatile")
    linux.umount(unionmount.directory / "mount")
    line = unionmount.refuses("--upper", "upper", "--work", "work", "base", "mount")
    assert "the upper was mounted volatile" in line


def test_names_may_have_any_bytes(unionmount: Command) -> None:
    directory = os.fsencode(unionmount.directory)
    for name in (b"layer \xff\n", b"upper \xfe\\", b"mount \x80\t"):
        os.mkdir(os.path.join(directory, name))
    unionmount.mounts("--upper", b"upper \xfe\\", b"layer \xff\n", b"mount \x80\t")
    with open(os.path.join(directory, b"mount \x80\t", b"new"), "w"):
        assert os.listdir(os.path.join(directory, b"upper \xfe\\")) == [b"new"]
    line = unionmount.refuses(b"missing \xff\n", "mount")
    assert r"missing \xff\x0a" in line


def test_dots_and_links_lead_where_they_lead(unionmount: Command) -> None:
    inner = unionmount.directory / "base" / "inner"
    inner.mkdir()
    (unionmount.directory / "link").symlink_to(inner)
    (unionmount.directory / "to mount").symlink_to("mount")
    # The link's own directory has no below; what is above its target has.
    unionmount.mounts("link/..", "to mount/.")
    assert (unionmount.directory / "mount" / "below").exists()


def test_help_shows_examples(unionmount: Command) -> None:
    done = unionmount("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for word in ("unionmount --upper changes base deps app /mnt/root", "lowerdir=", "--list"):
        assert word in done.stdout


def test_version(unionmount: Command) -> None:
    done = unionmount("--version")
    assert (done.returncode, done.stdout) == (0, f"unionmount {__version__}\n")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "LAYER and MOUNTPOINT"),
        (["mount"], "LAYER and MOUNTPOINT"),
        (["--frobnicate", "base", "mount"], "--frobnicate"),
        (["--whiteouts=aufs", "base", "mount"], "aufs"),
        (["-o", "bogus", "base", "mount"], "bogus"),
        (["-o", "redirect_dir=off", "base", "mount"], "redirect_dir"),
        (["-o", "driver=fast", "base", "mount"], "driver=fast"),
        (["-o", "lowerdir=base", "app", "base", "mount"], "lowerdir="),
        (["-o", "lowerdir=base"], "MOUNTPOINT"),
        (["-o", "upperdir=upper", "--upper", "upper", "base", "mount"], "--upper"),
        (["--work", "work", "base", "mount"], "--upper"),
        (["", "mount"], "empty"),
        (["base", ""], "empty"),
        (["--upper", "", "base", "mount"], "empty"),
        (["base", "mount", "--"], "command"),
        (["-f", "base", "mount", "--", "true"], "command"),
        (["--list", "base"], "--list"),
        (["--upp", "upper", "base", "mount"], "--upp"),
    ],
)
def test_a_wrong_command_line_is_status_2(
    unionmount: Command, words: list[str], reason: str
) -> None:
    line = unionmount.refuses(*words, status=2)
    assert reason in line
    assert line.endswith("(see unionmount --help)")


def test_options_for_an_upper_mean_nothing_without_one(unionmount: Command) -> None:
    """containers/storage gives them to all its mounts, and overlayfs passes over them too."""
    unionmount.mounts("-o", "volatile,fsync=0,workdir=missing", "base", "mount")
    assert not (unionmount.directory / "missing").exists()


@pytest.mark.parametrize("foreground", [[], ["-f"]])
@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["missing", "mount"], "layer missing: there is no such directory"),
        (["base", "./missing", "mount"], "layer {}/./missing: there is no such directory"),
        (["./base/file", "mount"], "layer {}/./base/file: it is not a directory"),
        (["base", "missing"], "mount point {}/missing: there is no such directory"),
        (["base", "base/file"], "mount point {}/base/file: it is not a directory"),
        (
            ["--upper", "missing", "base", "mount"],
            "upper {}/missing: there is no such directory; make",
        ),
        (["--upper", "base/file", "base", "mount"], "upper {}/base/file: it is not a dir"),
        (["--upper", "upper", "--work", "missing", "base", "mount"], "work {}/missing: there is"),
        (["--log", "missing/log", "base", "mount"], "log {}/missing/log"),
    ],
)
def test_a_directory_that_is_none(
    unionmount: Command, foreground: list[str], words: list[str], reason: str
) -> None:
    line = unionmount.refuses(*foreground, *words)
    assert reason.format(unionmount.directory) in line


@pytest.mark.parametrize(
    ("words", "one", "other"),
    [
        (["--upper", "base", "base", "mount"], "upper", "layer"),
        (["--upper", "base/in", "base", "mount"], "upper", "layer"),
        (["--upper", "upper", "upper/in", "mount"], "layer", "upper"),
        (["--upper", "upper", "--work", "upper", "base", "mount"], "work", "upper"),
        (["--upper", "upper", "--work", "upper/in", "base", "mount"], "work", "upper"),
        (["--upper", "upper/in", "--work", "upper", "base", "mount"], "upper", "work"),
        (["--upper", "upper", "--work", "base", "base", "mount"], "work", "layer"),
        (["--upper", "upper", "--work", "base/in", "base", "mount"], "work", "layer"),
        (["--upper", "upper", "--work", "work", "work/in", "mount"], "layer", "work"),
        (["--upper", "upper", "base", "upper"], "mount point", "upper"),
        (["--upper", "upper", "base", "upper/in"], "mount point", "upper"),
        (["--upper", "upper", "--work", "work", "base", "work/in"], "mount point", "work"),
        (["--upper", "link", "upper", "mount"], "upper", "layer"),
        (["--upper", "bound", "--work", "bound", "base", "mount"], "upper", "layer"),
    ],
)
def test_directories_in_roles_that_clash(
    unionmount: Command, filesystems: FileSystems, words: list[str], one: str, other: str
) -> None:
    for parent in ("base", "upper", "work"):
        (unionmount.directory / parent / "in").mkdir()
    (unionmount.directory / "link").symlink_to("upper")
    filesystems.bind(unionmount.directory / "base", unionmount.directory / "bound")
    before = [(unionmount.directory / parent).stat().st_mtime_ns for parent in ("base", "upper")]
    line = unionmount.refuses(*words)
    after = [(unionmount.directory / parent).stat().st_mtime_ns for parent in ("base", "upper")]
    assert after == before
    assert f"unionmount: {one} " in line
    assert f" {other} " in line


def test_layers_may_overlap(unionmount: Command) -> None:
    (unionmount.directory / "base" / "inner").mkdir()
    (unionmount.directory / "base" / "inner" / "deep").write_text("deep")
    unionmount.mounts("base", "base/inner", "base", "mount")
    mount = unionmount.directory / "mount"
    assert sorted(os.listdir(mount)) == ["below", "deep", "file", "inner"]


@pytest.mark.parametrize("point", ["base", "base/inner"])
def test_the_mount_point_may_lie_in_a_layer(unionmount: Command, point: str) -> None:
    (unionmount.directory / "base" / "inner").mkdir()
    unionmount.mounts("base", point)
    mount = unionmount.directory / point
    assert (mount / "file").read_text() == "base\n"
    # What the mount covers in the layer is still what the layer has there.
    assert os.listdir(mount / "inner") == []


def test_a_layer_that_may_not_be_read(unionmount: Command) -> None:
    os.chown(unionmount.directory / "app", 1000, 1000)
    (unionmount.directory / "app").chmod(0o700)
    line = unionmount.refuses("base", "app", "mount", prefix=_WITHOUT_OVERRIDE)
    assert f"layer {unionmount.directory}/app: permission denied" in line


def test_an_upper_that_can_not_be_written(unionmount: Command, filesystems: FileSystems) -> None:
    point = filesystems.tmpfs(options="ro")
    line = unionmount.refuses("--upper", point, "--work", point, "base", "mount")
    assert "upper" in line
    line = unionmount.refuses("--upper", point, "--work", "work", "base", "mount")
    assert f"upper {point} can't be written" in line


def test_a_work_directory_on_another_filesystem(
    unionmount: Command, filesystems: FileSystems
) -> None:
    other = filesystems.tmpfs()
    line = unionmount.refuses("--upper", "upper", "--work", other, "base", "mount")
    assert "--work" in line


def test_an_upper_that_is_a_filesystem_needs_a_named_work_directory(
    unionmount: Command, filesystems: FileSystems
) -> None:
    line = unionmount.refuses("--upper", filesystems.tmpfs(), "base", "mount")
    assert "--work" in line


def test_one_upper_can_not_serve_two_mounts(unionmount: Command) -> None:
    (unionmount.directory / "other").mkdir()
    unionmount.mounts("--upper", "upper", "base", "mount")
    for work in ("upper.work", "work"):
        line = unionmount.refuses("--upper", "upper", "--work", work, "base", "other")
        assert f"upper {unionmount.directory}/upper is in use" in line
        assert f"the union on {unionmount.directory}/mount" in line


@pytest.mark.parametrize(("count", "rounds"), [(2, 20), (8, 5)])
def test_of_many_mounts_at_one_instant_one_gets_the_upper(
    unionmount: Command, race: Race, campaign: int, count: int, rounds: int
) -> None:
    points = [f"mount{number}" for number in range(count)]
    uppers = [f"upper{number}" for number in range(rounds * campaign)]
    for name in (*points, *uppers):
        (unionmount.directory / name).mkdir()
    for upper in uppers:
        ended = race([["--upper", upper, "base", point] for point in points])
        (won,) = (point for point, (status, _) in zip(points, ended, strict=True) if status == 0)
        assert mounted_below(unionmount.directory) == [unionmount.directory / won]
        for status, said in ended:
            assert (status, said) == (0, "") or _tells_of_use(status, said), said
        # The work directory is there for it.
        (unionmount.directory / won / "file").unlink()
        (unionmount.directory / won / "file").write_text("new")
        _unmount(unionmount, won)
        assert os.listdir(unionmount.directory / f"{upper}.work" / "work") == []


@pytest.mark.parametrize(("count", "rounds"), [(2, 20), (8, 5)])
def test_of_many_mounts_at_one_instant_one_gets_the_mount_point(
    unionmount: Command, race: Race, campaign: int, count: int, rounds: int
) -> None:
    for _ in range(rounds * campaign):
        ended = race([["base", "app", "mount"]] * count)
        assert [status for status, _ in ended].count(0) == 1
        mount = unionmount.directory / "mount"
        assert mounted_below(mount) == [mount]
        _unmount(unionmount, "mount")


def _tells_of_use(status: int, said: str) -> bool:
    """Whether it is the one line of a mount that is refused because another has its upper."""
    return status == 1 and len(said.splitlines()) == 1 and " is in use by " in said


def test_one_work_directory_can_not_serve_two_mounts(unionmount: Command) -> None:
    for name in ("other", "other upper"):
        (unionmount.directory / name).mkdir()
    unionmount.mounts("--upper", "upper", "--work", "work", "base", "mount")
    line = unionmount.refuses("--upper", "other upper", "--work", "work", "base", "other")
    assert f"work {unionmount.directory}/work is in use" in line


@pytest.mark.parametrize("work", ["work", "upper.work"])
def test_an_upper_that_the_kernel_has_mounted(unionmount: Command, work: str) -> None:
    (unionmount.directory / "other").mkdir()
    (unionmount.directory / "upper.work").mkdir()
    _mount_overlay(unionmount, "other", "work")
    line = unionmount.refuses("--upper", "upper", "--work", work, "base", "mount")
    assert f"in use by the overlay mounted on {unionmount.directory}/other" in line


def test_a_mount_point_with_a_union_on_it(unionmount: Command) -> None:
    unionmount.mounts("base", "mount")
    line = unionmount.refuses("app", "mount")
    assert "a union is mounted on it" in line
    assert sorted(os.listdir(unionmount.directory / "mount")) == ["below", "file"]


def test_a_mount_point_that_is_not_empty_is_mounted_on_with_a_note(unionmount: Command) -> None:
    (unionmount.directory / "mount" / "hidden").write_text("")
    (line,) = unionmount.mounts("base", "mount").splitlines()
    assert "not empty" in line
    assert sorted(os.listdir(unionmount.directory / "mount")) == ["below", "file"]


def test_a_mount_whose_daemon_was_killed_is_replaced(unionmount: Command) -> None:
    words = ["--upper", "upper", "base", "mount"]
    unionmount.mounts(*words)
    mount = unionmount.directory / "mount"
    with open(mount / "kept", "w") as file:
        file.write("synced")
        file.flush()
        os.fsync(file.fileno())
    end = unionmount.daemon("mount")
    signal.pidfd_send_signal(end, signal.SIGKILL)
    assert has_ended(end)
    with pytest.raises(OSError, match=os.strerror(errno.ENOTCONN)):
        os.listdir(mount)
    (line,) = unionmount.mounts(*words).splitlines()
    assert "removed the mount" in line
    assert (mount / "kept").read_text() == "synced"
    assert len(mounted_below(mount)) == 1


def test_a_dead_mount_of_another_kind_is_left(unionmount: Command) -> None:
    mount = unionmount.directory / "mount"
    device = os.open("/dev/fuse", os.O_RDWR)
    data = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
    linux.mount("elsewhere", mount, "fuse.elsewhere", data=data)
    os.close(device)
    line = unionmount("base", "mount")
    assert line.returncode == 1
    assert "a dead mount of type fuse.elsewhere is on it" in line.stderr
    assert mounted_below(mount) == [mount]


def test_a_work_directory_that_was_made_for_a_failure_is_removed(unionmount: Command) -> None:
    # Ours fails after the layers and the upper are open, by libfuse's word.
    line = unionmount.refuses(
        *("--upper", "upper", "base", "mount"),
        prefix=["setpriv", "--bounding-set=-sys_admin", "--"],
    )
    assert f"mount point {unionmount.directory}/mount: " in line


def test_a_working_directory_that_is_gone(unionmount: Command) -> None:
    gone = unionmount.directory / "gone"
    gone.mkdir()
    done = subprocess.run(
        ["sh", "-c", 'rmdir "$PWD"; exec "$@"', "sh", UNIONMOUNT, "base", "mount"],
        cwd=gone,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "unionmount: the working directory is gone; change to one that is there\n"
    )


def test_without_a_fuse_device(unionmount: Command) -> None:
    script = f"""
        mount -t tmpfs tmpfs /dev
        mknod -m 666 /dev/null c 1 3
        exec {UNIONMOUNT} base mount
    """
    done = _in_own_mounts(unionmount.directory, script)
    assert done.returncode == 1
    assert done.stderr.startswith("unionmount: /dev/fuse: ")
    assert "modprobe fuse" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("words", ["base mount", "--list"])
def test_without_proc(unionmount: Command, words: str) -> None:
    done = _in_own_mounts(unionmount.directory, f"umount --lazy /proc; exec {UNIONMOUNT} {words}")
    line = "unionmount: /proc is not there; mount it with mount -t proc proc /proc\n"
    assert (done.returncode, done.stderr) == (1, line)


def test_without_permission_for_fuse(unionmount: Command) -> None:
    script = f"""
        mknod -m 600 device c 10 229
        mount --bind device /dev/fuse
        exec {" ".join(_NOBODY)} {UNIONMOUNT} base mount
    """
    done = _in_own_mounts(unionmount.directory, script)
    assert done.returncode == 1
    assert done.stderr == "unionmount: no permission to open /dev/fuse: mount as root\n"


def test_a_user_mounts_and_unmounts(unionmount: Command) -> None:
    for name in ("upper", "mount"):
        os.chown(unionmount.directory / name, 65534, 65534)
    user = " ".join(_NOBODY)
    script = f"""
        mknod -m 666 device c 10 229
        mount --bind device /dev/fuse
        mkdir own; chown 65534:65534 own
        trap 'umount -l mount 2>/dev/null || true' EXIT
        {user} {UNIONMOUNT} --upper upper --work own base mount || exit
        {user} sh -c 'echo new > mount/new; cat mount/file'
        {user} fusermount3 -u mount
    """
    done = _in_own_mounts(unionmount.directory, script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "base\n", "")
    assert (unionmount.directory / "upper" / "new").read_text() == "new\n"


def test_a_user_is_told_why_a_mount_point_is_refused(unionmount: Command) -> None:
    script = f"""
        mknod -m 666 device c 10 229
        mount --bind device /dev/fuse
        exec {" ".join(_NOBODY)} {UNIONMOUNT} base mount
    """
    done = _in_own_mounts(unionmount.directory, script)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"unionmount: mount point {unionmount.directory}/mount: ")
    assert "no write access" in line


def test_a_user_cannot_mount_inside_a_layer(unionmount: Command) -> None:
    """Without a private view of the layer, the daemon would wait for itself there."""
    (unionmount.directory / "base" / "point").mkdir()
    os.chown(unionmount.directory / "base" / "point", 65534, 65534)
    script = f"""
        mknod -m 666 device c 10 229
        mount --bind device /dev/fuse
        exec {" ".join(_NOBODY)} {UNIONMOUNT} base base/point
    """
    done = _in_own_mounts(unionmount.directory, script)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "base/point is inside layer" in line


def test_an_upper_in_a_union_is_refused(unionmount: Command) -> None:
    """A union takes no marks, which an upper needs."""
    unionmount.mounts("--upper", "upper", "base", "mount")
    for name in ("inner", "other"):
        (unionmount.directory / "mount" / name).mkdir()
    (unionmount.directory / "point").mkdir()
    line = unionmount.refuses("--upper", "mount/inner", "--work", "mount/other", "app", "point")
    assert "takes no extended attributes trusted.overlay.*" in line


def test_mount_8_and_fstab_mount_it(unionmount: Command) -> None:
    for name in ("a layer", "a mount"):
        (unionmount.directory / name).mkdir()
    (unionmount.directory / "a layer" / "spaced").write_text("")
    there = str(unionmount.directory)
    (unionmount.directory / "fstab").write_text(
        rf"{there}/a\040layer {there}/a\040mount fuse.unionmount nofail,x-any.thing,nodev 0 0"
        + "\n"
        + f"union {there}/mount fuse.unionmount _netdev,"
        + f"lowerdir={there}/app:{there}/base,upperdir={there}/upper 0 0\n"
    )
    script = f"""
        trap 'umount -l mount "a mount" 2>/dev/null || true' EXIT
        mount -t tmpfs tmpfs /usr/local/bin
        ln -s {UNIONMOUNT} /usr/local/bin/unionmount
        mount -t fuse.unionmount base mount
        cat mount/file
        umount mount
        mount --fstab fstab --all
        mount --fstab fstab --all
        ls "a mount"
        cat mount/file
        grep -c " {there}/.* fuse.unionmount " /proc/self/mountinfo
        umount "a mount" mount
        mount -t fuse.unionmount -o bogus base mount || echo $?
    """
    done = _in_own_mounts(unionmount.directory, script)
    assert done.stdout.split() == ["base", "spaced", "app", "2", "2"]
    assert done.stderr == "unionmount: -o bogus: unknown option (see unionmount --help)\n"


def test_standard_streams_may_be_closed(unionmount: Command) -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", UNIONMOUNT, "base", "mount"],
        cwd=unionmount.directory,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0
    assert (unionmount.directory / "mount" / "file").read_text() == "base\n"


def _unmount(unionmount: Command, point: str) -> None:
    end = unionmount.daemon(point)
    linux.umount(unionmount.directory / point)
    assert has_ended(end)


def _mount_overlay(unionmount: Command, point: str, work: str, more: str = "") -> None:
    """Have the kernel mount base and upper."""
    there = unionmount.directory
    data = f"lowerdir={there}/base,upperdir={there}/upper,workdir={there}/{work}{more}"
    linux.mount("overlay", there / point, "overlay", data=data.encode())


def _shown(point: Path) -> tuple[str, str, set[str]]:
    words = ["findmnt", "--noheadings", "--json", "-o", "FSTYPE,SOURCE,OPTIONS", str(point)]
    (shown,) = json.loads(subprocess.check_output(words))["filesystems"]
    return shown["fstype"], shown["source"], set(shown["options"].split(","))


def _in_own_mounts(directory: Path, script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*_OWN_MOUNTS, script],
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
