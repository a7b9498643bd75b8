"""Images of umoci, skopeo and buildah in the store, and the store's images in umoci and so on."""

import filecmp
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.real.conftest import OPTIONS
from tests.real.containers import Storage, make_root
from tests.real.images import Store, change_again, made_by_umoci, run, skopeo, unpacked
from tests.real.manifest import manifest
from tests.real.root import run as in_root
from tests.support.mounts import Mounts, UnionMount
from tests.support.snapshots import Snapshot, differences, snapshot

LAYERS = 5
PROGRAMS = ("cat", "chmod", "chown", "ln", "mkdir", "mv", "rm", "setcap", "setfattr", "sh", "touch")
CONTAINERFILE = """
FROM scratch
ADD root.tar /
WORKDIR /srv
RUN ["sh", "-ec", "mkdir -p gone/deep moved opaque; echo x >gone/deep/x >moved/x; echo x >opaque/x"]
RUN ["sh", "-ec", "echo x >capable; setcap cap_chown=ep capable; ln capable link; touch -d @9 link"]
RUN ["sh", "-ec", "rm -r gone opaque; mkdir opaque; mv moved opaque/moved; echo again >file"]
RUN ["sh", "-ec", "setfattr -n user.mark -v x opaque; chown 12:34 link; chmod 4755 /bin/cat"]
USER 1234:5678
"""
# What buildah does otherwise than umoci: its roots have a mode of their own, directories without an
# entry in a layer don't keep what they have below, and files inherit default ACLs.
OTHERWISE = (".", "merged", "merged/deep", "renamed/file")

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="images are made as root here")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image that umoci made, in its words."""
    for tool in ("umoci", "skopeo"):
        if not shutil.which(tool):
            pytest.skip(f"{tool} is not installed")
    return made_by_umoci(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def expected(made: str, tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """What umoci unpacks of it."""
    return snapshot(unpacked(made, tmp_path_factory.mktemp("unpacked") / "root"))


@pytest.fixture
def store(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty store, which is the one that unionmount looks in."""
    store = Store(directory / "store")
    monkeypatch.setenv("LAYERSTORE", str(store.path))
    return store


@pytest.fixture(scope="module")
def filled(made: str, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with the image that umoci made, as made:1."""
    directory = tmp_path_factory.mktemp("filled")
    store = Store(directory / "store")
    store.imports(_layout(made, directory), "made:1")
    return store


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    """Images and containers of buildah's, on the kernel's overlayfs."""
    if not shutil.which("buildah"):
        pytest.skip("buildah is not installed")
    with closing(Storage(tmp_path_factory.mktemp("buildah") / "storage")) as storage:
        yield storage


def _layout(made: str, directory: Path) -> Path:
    return Path(made.rpartition(":")[0])


def _zstd(made: str, directory: Path) -> Path:
    skopeo("copy", "--dest-compress-format=zstd", f"oci:{made}", f"oci:{directory}/zstd:made")
    return directory / "zstd"


def _oci_archive(made: str, directory: Path) -> Path:
    skopeo("copy", f"oci:{made}", f"oci-archive:{directory}/made.tar:made")
    return directory / "made.tar"


def _docker_archive(made: str, directory: Path) -> Path:
    skopeo("copy", f"oci:{made}", f"docker-archive:{directory}/made.tar:made:1")
    return directory / "made.tar"


def test_the_image_has_every_kind_of_entry_and_of_change(expected: Snapshot) -> None:
    assert {entry.kind for entry in expected.values()} == set("-dlpbc")
    below = {name.partition("/")[2] for name in expected if name.startswith("inserted/")}
    assert below == {"both", "new"}
    assert not {"removed", "gone", "merged/kept", "emptied/file", "default"} & expected.keys()
    assert (expected["replaced"].kind, expected["file"].kind) == ("-", "d")
    assert (expected["merged"].mode, expected["merged/deep"].mode) == (0o700, 0o711)
    assert expected["again/link"].links == ("again/file", "again/link")
    assert expected["marked"].links == ("marked", "names/marked")
    attributes = {name for entry in expected.values() for name, _ in entry.xattrs}
    assert {name.partition(b".")[0] for name in attributes} == {
        b"security",
        b"system",
        b"trusted",
        b"user",
    }


@pytest.mark.parametrize("source", [_layout, _zstd, _oci_archive, _docker_archive])
def test_a_mounted_image_is_what_umoci_unpacks(
    made: str,
    expected: Snapshot,
    store: Store,
    union: Mounts[UnionMount],
    directory: Path,
    source: Callable[[str, Path], Path],
) -> None:
    assert store.imports(source(made, directory), "made:1") == LAYERS
    assert store.layers("made:1") == _inspect(f"oci:{made}", "--config")["rootfs"]["diff_ids"]
    mount = union(Path("made:1"), upper=False)
    assert differences(expected, snapshot(mount.path)) == []


def test_an_image_as_a_directory_is_what_umoci_unpacks(
    filled: Store, expected: Snapshot, directory: Path
) -> None:
    filled("export", "made:1", directory / "root", "--format", "dir")
    assert differences(expected, snapshot(directory / "root")) == []


def _inspect(image: str, *words: str) -> dict[str, Any]:
    found = json.loads(skopeo("inspect", *words, image))
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("oci", ["--compression", "none"]),
        ("oci", ["--compression", "zstd"]),
        ("oci-archive", []),
        ("docker-archive", []),
    ],
)
def test_skopeo_and_umoci_read_what_is_exported(
    filled: Store, expected: Snapshot, directory: Path, kind: str, words: list[str]
) -> None:
    filled("export", "made:1", directory / "exported", "--format", kind, *words)
    tag = "made:1" if kind == "docker-archive" else "1"
    exported = f"{kind}:{directory / 'exported'}:{tag}"
    assert _inspect(exported, "--config")["rootfs"]["diff_ids"] == filled.layers("made:1")
    # umoci takes gzip only.
    back = f"{directory / 'back'}:made"
    skopeo("copy", "--dest-compress-format=gzip", exported, f"oci:{back}")
    assert differences(expected, snapshot(unpacked(back, directory / "root"))) == []


def test_blobs_that_were_kept_are_exported_as_they_came(
    made: str, expected: Snapshot, store: Store, directory: Path
) -> None:
    store.imports(_layout(made, directory), "made:1", "--keep-blobs")
    store("export", "made:1", directory / "exported", "--format", "oci")
    exported = f"{directory / 'exported'}:1"
    before, after = _inspect(f"oci:{made}"), _inspect(f"oci:{exported}")
    assert (after["Digest"], after["Layers"]) == (before["Digest"], before["Layers"])
    assert differences(expected, snapshot(unpacked(exported, directory / "root"))) == []


def test_each_layer_is_exported_as_it_came(filled: Store, directory: Path) -> None:
    for number, diff_id in enumerate(filled.layers("made:1")):
        tar = directory / f"{number}.tar"
        filled("export", diff_id, tar, "--format", "layer")
        assert run("sha256sum", tar).split()[0] == diff_id.removeprefix("sha256:")


def test_the_same_image_from_two_stores_is_the_same_bytes(
    made: str, filled: Store, store: Store, directory: Path
) -> None:
    assert store.imports(_zstd(made, directory), "made:1") == LAYERS
    for kind in ("oci-archive", "docker-archive"):
        exported = [directory / f"{kind}{number}" for number in range(2)]
        for one, target in zip((filled, store), exported, strict=True):
            one("export", "made:1", target, "--format", kind)
        assert filecmp.cmp(exported[0], exported[1], shallow=False)


@pytest.mark.parametrize("metacopy", ["off", "on"])
def test_umoci_unpacks_what_was_committed_as_it_was_mounted(
    made: str, store: Store, union: Mounts[UnionMount], directory: Path, metacopy: str
) -> None:
    store.imports(_layout(made, directory), "made:1")
    mount = union(Path("made:1"), options=[f"metacopy={metacopy}"])
    change_again(mount.path)
    mount.remount()
    changed = snapshot(mount.path)
    mount.unmount()
    without_content = {
        path.name
        for path in mount.changes.rglob("*")
        if path.is_file() and "trusted.overlay.metacopy" in os.listxattr(path)
    }
    assert without_content == ({"capable again", "shared"} if metacopy == "on" else set())
    store("commit", mount.changes, "--work", mount.work, "--onto", "made:1", "--tag", "made:2")
    store("export", "made:2", directory / "exported", "--format", "oci")
    *below, added = store.layers("made:2")
    assert below == store.layers("made:1")
    store("export", added, directory / "added.tar", "--format", "layer")
    names = set(run("tar", "-tf", directory / "added.tar").splitlines())
    assert {"another", "names/merged/"} <= names
    assert not {"closed/", "emptied/"} & names
    root = unpacked(f"{directory / 'exported'}:2", directory / "root")
    assert differences(changed, snapshot(root)) == []
    again = union(Path("made:2"), upper=False)
    assert differences(changed, snapshot(again.path)) == []


def test_buildah_runs_what_is_exported(
    filled: Store, expected: Snapshot, buildah: Storage, directory: Path
) -> None:
    filled("export", "made:1", directory / "made.tar")
    with buildah.mounted(f"oci-archive:{directory / 'made.tar'}") as root:
        found = snapshot(root)
    assert differences(_without(expected, *OTHERWISE), _without(found, *OTHERWISE)) == []


def _without(tree: Snapshot, *names: str) -> Snapshot:
    return {name: entry for name, entry in tree.items() if name not in names}


def test_an_image_that_buildah_built_is_mounted_as_it_is_there(
    buildah: Storage, store: Store, union: Mounts[UnionMount], directory: Path
) -> None:
    (directory / "context").mkdir()
    make_root(directory / "root", PROGRAMS)
    run("tar", "-C", directory / "root", "-cf", directory / "context/root.tar", ".")
    (directory / "context/Containerfile").write_text(CONTAINERFILE)
    buildah.build(directory / "context", "built")
    with buildah.mounted("built") as root:
        expected = snapshot(root)
    store.imports(buildah.save("built"), "built:1")
    mount = union(Path("built:1"), upper=False)
    assert differences(_without(expected, "."), _without(snapshot(mount.path), ".")) == []
    assert run("chroot", mount.path, "cat", "/srv/file") == "again\n"


def test_a_debian_root_goes_through_the_store_unchanged_and_runs(
    packed: list[Path], store: Store, union: Mounts[UnionMount]
) -> None:
    base = packed[0]
    store.imports(base, "debian:directory")
    mount = union(Path("debian:directory"), upper=False)
    assert _facts(mount.path) == _facts(base)
    tar = ("tar", "--xattrs", "--format=posix", "-C", mount.path, "-c", ".")
    store.imports_output("debian:tar", *tar)
    assert store("diff", "debian:directory", "debian:tar") == ""
    root = union(Path("debian:tar"), options=OPTIONS)
    assert in_root(root, "sh", "-ec", "useradd someone; id -u someone") == "1000\n"


def _facts(tree: Path) -> dict[str, tuple[object, ...]]:
    return {
        path: (found.mode, found.uid, found.gid, found.device, found.modified, found.content)
        for path, found in manifest(tree, contents=True).items()
    }
