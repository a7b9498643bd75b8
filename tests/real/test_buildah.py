"""buildah with unionmount as the mount program of its overlay driver."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.real.containers import Storage, make_root
from tests.support import driver
from tests.support.command import has_ended
from tests.support.mounts import COMMAND
from tests.support.snapshots import NEW, differences, snapshot
from unionfs.driver import mounts, records

PROGRAMS = (
    *("cat", "chmod", "chown", "cp", "id", "ln", "mkdir", "mkfifo", "mknod", "mv", "rm"),
    *("setcap", "setfattr", "sh", "tee", "touch", "truncate"),
)
MAKE = """
mkdir -p below/deep/deeper again/old moved/inner gone/deep replaced sticky
for file in plain rewritten grown shrunk touched moded owned removed marked capable setuid; do
    echo $file >$file
    cp $file below/deep/$file
done
ln plain below/link
ln plain below/deep/link
ln -s nowhere/at/all dangling
ln -s below to-directory
mkfifo fifo
mknod block b 7 200
mknod character c 1 3
truncate -s 1M sparse
echo end >>sparse
chown 12:34 owned setuid fifo
chown -h 12:34 dangling
chmod 4755 setuid
chmod 2775 below
chmod 1777 sticky
setcap cap_net_bind_service=ep capable
setfattr -n user.mark -v before marked
setfattr -n user.mark -v directory below
echo old | tee again/a again/old/b gone/deep/c moved/inner/d replaced/e >moved/f
touch -d '2001-02-03 04:05:06' touched below/deep again moved
cp /usr/bin/id id
chmod 4755 id
"""
CHANGE = """
echo rewritten again >rewritten
echo more >>below/deep/grown
truncate -s 3 shrunk below/deep/shrunk
touch -d '2002-03-04 05:06:07' touched
chmod 640 moded
chmod 700 below/deep/deeper
chown 56:78 owned below/deep
chown -h 56:78 dangling
setfattr -n user.mark -v after marked
setfattr -x user.mark below
setcap -r capable
setcap cap_chown=ep below/deep/capable
chmod 2755 setuid
"""
REMOVE = """
rm removed fifo block sparse to-directory below/deep/removed
rm -r gone again replaced
ln -s elsewhere sparse
mkdir to-directory again again/old
echo new | tee to-directory/file again/new again/old/b >replaced
"""
MOVE = """
mv moved renamed
echo changed >>renamed/f
mv renamed/inner below/inner
mv below/deep .
mv character deep/null
mv deep/rewritten rewritten
"""
LINK = """
echo more >>below/link
mv plain renamed/link
rm deep/link
ln renamed/link linked
"""
AS_A_USER = """
echo mine >sticky/mine
mv sticky/mine sticky/renamed
if echo not mine >>rewritten || rm rewritten; then exit 1; fi
"""
_BEGIN = int(time.time())


def _step(script: str) -> str:
    return "RUN " + json.dumps(["sh", "-ec", script])


CONTAINERFILE = "\n".join(
    [
        "FROM scratch AS base",
        "ADD root.tar /",
        "WORKDIR /srv",
        _step(MAKE),
        "FROM base AS changed",
        *map(_step, [CHANGE, REMOVE, MOVE]),
        "FROM changed",
        "COPY --from=changed /srv /opt",
        "COPY --from=base --chown=12:34 /srv/marked /srv/capable /opt/below/",
        "COPY file /opt/new/file",
        "USER 1234:5678",
        _step(AS_A_USER),
    ]
)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the image is built from."""
    if os.geteuid() != 0:
        pytest.skip("images are built as root here, for owners and devices")
    if not shutil.which("buildah"):
        pytest.skip("buildah is not installed")
    context = tmp_path_factory.mktemp("context")
    root = tmp_path_factory.mktemp("root")
    make_root(root, PROGRAMS)
    subprocess.run(["tar", "-C", root, "-cf", context / "root.tar", "."], check=True)
    (context / "file").write_text("copied\n")
    (context / "Containerfile").write_text(CONTAINERFILE)
    return context


def _built(context: Path, home: Path, **options: str) -> Iterator[Storage]:
    with closing(Storage(home, **options)) as storage:
        storage.build(context, "image")
        yield storage


@pytest.fixture(scope="module")
def union(context: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    """A storage in which the image was built on unionmount."""
    home = tmp_path_factory.mktemp("union") / "storage"
    mountopt = ",".join(["nodev", "fsync=0", *driver.options()])
    options = {"mount_program": COMMAND[0], "mountopt": mountopt}
    yield from _built(context, home, **options)


@pytest.fixture(scope="module")
def overlayfs(context: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    """A storage in which the image was built as without options, on the kernel's overlayfs."""
    home = tmp_path_factory.mktemp("overlayfs") / "storage"
    yield from _built(context, home)


@pytest.fixture(scope="module")
def full_overlayfs(context: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    """The same on an overlayfs that keeps hard links and renames directories.

    That makes storage compare mounts to find a layer's entries, as it does with a mount program.
    """
    home = tmp_path_factory.mktemp("full") / "storage"
    yield from _built(context, home, mountopt="index=on,redirect_dir=on")


class Part(NamedTuple):
    """What a layer's tar says of an entry."""

    name: str
    kind: bytes
    mode: int
    uid: int
    gid: int
    mtime: float | str
    target: str
    device: tuple[int, int]
    attributes: dict[str, str]
    content: str | None


def _layers(layout: Path) -> list[list[Part]]:
    def blob(digest: str) -> Path:
        return layout / "blobs" / digest.replace(":", "/")

    (manifest,) = json.loads((layout / "index.json").read_text())["manifests"]
    layers = json.loads(blob(manifest["digest"]).read_text())["layers"]
    return [_parts(blob(layer["digest"])) for layer in layers]


def _parts(layer: Path) -> list[Part]:
    with tarfile.open(layer) as tar:
        return [_part(tar, info) for info in tar]


def _part(tar: tarfile.TarFile, info: tarfile.TarInfo) -> Part:
    content = tar.extractfile(info) if info.isreg() else None
    return Part(
        name=info.name,
        kind=info.type,
        mode=info.mode,
        uid=info.uid,
        gid=info.gid,
        mtime=NEW if info.mtime >= _BEGIN else info.mtime,
        target=info.linkname,
        device=(info.devmajor, info.devminor),
        attributes={n: v for n, v in info.pax_headers.items() if n.startswith("SCHILY.xattr.")},
        content=hashlib.sha256(content.read()).hexdigest() if content else None,
    )


def test_an_image_is_what_it_is_when_built_on_overlayfs(union: Storage, overlayfs: Storage) -> None:
    with overlayfs.mounted("image") as root:
        expected = snapshot(root)
    with overlayfs.mounted(union.save("image")) as root:
        assert differences(expected, snapshot(root)) == []
    for image in ("image", overlayfs.save("image")):
        with union.mounted(image) as root:
            assert mounts.is_union(os.fsencode(root))
            assert differences(expected, snapshot(root)) == [], image


def test_each_layer_has_the_entries_that_overlayfs_gives_it(
    union: Storage, full_overlayfs: Storage
) -> None:
    layers, expected = (_layers(storage.save("image")) for storage in (union, full_overlayfs))
    for layer, expected_layer in zip(layers, expected, strict=True):
        assert layer == expected_layer


def test_a_container_is_mounted_anew_for_each_command_and_committed_as_on_overlayfs(
    union: Storage, full_overlayfs: Storage, context: Path
) -> None:
    committed = []
    for storage in (union, full_overlayfs):
        storage.build(context, "base", "--target=base")
        container = storage.start("base")
        for script in (CHANGE, REMOVE, MOVE, LINK):
            storage.run("run", "--isolation=chroot", container, "--", "sh", "-ec", script)
            assert not storage.is_mounted(container)
        storage.commit(container, "committed")
        committed.append(_layers(storage.save("committed"))[-1])
    assert committed[0] == committed[1]


@pytest.mark.parametrize("storage", ["overlayfs", "union"])
def test_set_user_id_has_effect_in_a_step(
    request: pytest.FixtureRequest, storage: str, tmp_path: Path
) -> None:
    (tmp_path / "Containerfile").write_text(
        "FROM image\nUSER 1234:5678\n" + _step("test `/srv/id -u` = 0")
    )
    request.getfixturevalue(storage).build(tmp_path, "privileged")


def test_a_container_goes_on_after_its_daemon_was_killed(union: Storage) -> None:
    container = union.start("image")
    root = union.mount(container)
    assert union.is_mounted(container)
    (root / "srv/plain").write_text("changed")
    (served,) = (mount for mount in records.mounted() if mount.point == os.fsencode(root))
    assert served.process
    end = os.pidfd_open(served.process)
    signal.pidfd_send_signal(end, signal.SIGKILL)
    assert has_ended(end)
    union.run("umount", container)
    assert union.run("run", "--isolation=chroot", container, "cat", "/srv/plain") == "changed"
    union.run("rm", container)
