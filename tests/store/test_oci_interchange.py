"""What umoci, skopeo and buildah make is read, and they read what we write."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from layerstore import digest
from layerstore.compression import Compression, open_decompressed
from layerstore.digest import HashingReader, VerifyingReader
from layerstore.limits import Limits
from layerstore.oci import documents, writer
from layerstore.oci.documents import OCI_LAYER, Descriptor, History, Platform
from layerstore.oci.images import SourceImage, SourceLayer
from layerstore.oci.sources import Kind, classify, open_images
from layerstore.oci.writer import Blob, OutputImage
from tests.support.archives import tar

LIMITS = Limits()
SECONDS = 60


def run(*words: str | Path, directory: Path) -> str:
    """Run a command to its end; answers what it said."""
    done = subprocess.run(
        words, cwd=directory, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout


def skopeo(source: str, target: str, *options: str, directory: Path) -> None:
    run("skopeo", "copy", "--insecure-policy", *options, source, target, directory=directory)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A directory in which umoci has made a layout `made`: the image `1` of two layers."""
    for name in ("one", "two"):
        (tmp_path / "files" / name).mkdir(parents=True)
        (tmp_path / "files" / name / "text").write_text(name * 1000)

    def umoci(*words: str) -> None:
        run("umoci", *words, directory=tmp_path)

    umoci("init", "--layout", "made")
    umoci("new", "--image", "made:1")
    umoci("insert", "--image", "made:1", "files/one", "/one")
    umoci("insert", "--image", "made:1", "--history.created_by", "the second", "files/two", "/two")
    umoci("config", "--image", "made:1", "--config.cmd", "sh", "--architecture", "arm64")
    return tmp_path


def checked(one: SourceLayer) -> Compression:
    """Read a layer to its end: blob and tar must have the digests that they should have."""
    with one.open() as raw:
        blob = raw if one.digest is None else VerifyingReader(raw, one.digest, one.size or 0)
        opened = open_decompressed(blob, LIMITS)
        reader = HashingReader(opened)
        while reader.read(1 << 16):
            pass
    assert reader.digest == one.diff_id
    return opened.compression


def read(source: Path, reference: str | None = None) -> tuple[SourceImage, set[Compression]]:
    """The only image of a source, and how its layers are compressed."""
    assert classify(source, LIMITS) is Kind.IMAGES
    with open_images(source, spool=source.parent, limits=LIMITS) as images:
        (image,) = images.images(reference=reference)
        return image, {checked(one) for one in image.layers}


# Theirs


def test_a_layout_of_umoci_s(made: Path) -> None:
    image, compressions = read(made / "made")
    assert image.references == ("1",)
    assert len(image.layers) == 2
    assert compressions == {Compression.GZIP}
    config = documents.parse_config(image.config, "config", LIMITS)
    assert config.platform.architecture == "arm64"
    assert [step.created_by for step in config.history if not step.empty_layer][1] == "the second"
    assert config.config == {"Cmd": ["sh"]}


@pytest.mark.parametrize(
    ("target", "options", "compressions", "names"),
    [
        ("oci:out:x", (), {Compression.GZIP}, ()),
        ("oci:out:x", ("--dest-compress-format", "zstd"), {Compression.ZSTD}, ()),
        ("oci-archive:out:app:1", (), {Compression.GZIP}, ("app:1",)),
        ("dir:out", (), {Compression.GZIP}, ()),
        ("dir:out", ("--dest-decompress",), {Compression.NONE}, ()),
        ("dir:out", ("--format", "v2s2"), {Compression.GZIP}, ()),
        (
            "docker-archive:out:registry.example/app:1",
            (),
            {Compression.NONE},
            ("registry.example/app:1",),
        ),
    ],
)
def test_copies_of_skopeo_s(
    made: Path,
    target: str,
    options: tuple[str, ...],
    compressions: set[Compression],
    names: tuple[str, ...],
) -> None:
    compress = ("--dest-compress",) if "zstd" in options else ()
    skopeo("oci:made:1", target, *options, *compress, directory=made)
    expected, _ = read(made / "made")
    image, found = read(made / "out")
    assert [one.diff_id for one in image.layers] == [one.diff_id for one in expected.layers]
    assert found == compressions
    assert image.names == names


def test_a_layout_of_two_images(made: Path) -> None:
    run("umoci", "tag", "--image", "made:1", "2", directory=made)
    run("umoci", "insert", "--image", "made:2", "files/one", "/three", directory=made)
    assert len(read(made / "made", "1")[0].layers) == 2
    assert len(read(made / "made", "2")[0].layers) == 3


@pytest.mark.parametrize("form", ["oci", "docker"])
@pytest.mark.parametrize("transport", ["oci", "oci-archive", "docker-archive"])
def test_what_buildah_commits(made: Path, form: str, transport: str) -> None:
    def buildah(*words: str) -> str:
        stores = ("--storage-driver", "vfs", "--root", "store", "--runroot", "run")
        return run("buildah", *stores, *words, directory=made).strip()

    container = buildah("from", "scratch")
    buildah("add", container, "files", "/")
    buildah("config", "--label", "a=b", container)
    buildah("commit", "--format", form, container, f"{transport}:out:app:1")
    image, _ = read(made / "out")
    config = documents.parse_config(image.config, "config", LIMITS)
    assert (config.config or {})["Labels"]["a"] == "b"
    assert len(image.layers) == 1


# Ours


def ours(name: str = "registry.example/app:1") -> OutputImage:
    layers = [
        Blob.of_bytes(tar({"etc/": None, "etc/one": b"1"})),
        Blob.of_bytes(tar({"two": b"22"})),
    ]
    config = documents.make_config(
        [one.digest for one in layers],
        [History("2024-01-01T00:00:00Z", f"COPY {number}") for number in range(2)],
        Platform("amd64", "linux"),
        config={"Env": ["A=b"], "Labels": {"k": "v"}},
        created="2024-01-01T00:00:00Z",
    )
    described = [Descriptor(OCI_LAYER, one.digest, one.size) for one in layers]
    manifest = documents.make_manifest(config, described)
    return OutputImage((name,), manifest, config, tuple(layers))


def write_layout(path: Path, images: list[OutputImage]) -> None:
    writer.write_layout(path, images)


def write_archive(path: Path, images: list[OutputImage]) -> None:
    with path.open("wb") as file:
        writer.write_oci_archive(file, images)


def write_docker(path: Path, images: list[OutputImage]) -> None:
    with path.open("wb") as file:
        writer.write_docker_archive(file, images)


FORMS = pytest.mark.parametrize(
    ("write", "address"),
    [
        (write_layout, "oci:out:1"),
        (write_archive, "oci-archive:out:1"),
        (write_archive, "oci-archive:out"),
        (write_docker, "docker-archive:out:registry.example/app:1"),
        (write_docker, "docker-archive:out"),
    ],
)

Write = Callable[[Path, list[OutputImage]], None]


@FORMS
def test_skopeo_reads_ours(tmp_path: Path, write: Write, address: str) -> None:
    image = ours()
    write(tmp_path / "out", [image])
    told = json.loads(run("skopeo", "inspect", address, directory=tmp_path))
    assert told["Layers"] == [one.digest for one in image.layers]
    assert told["Labels"] == {"k": "v"}
    if "docker" not in address:
        assert told["Digest"] == digest.of_bytes(image.manifest)
    config = run("skopeo", "inspect", "--raw", "--config", address, directory=tmp_path)
    assert config.strip().encode() == image.config


@FORMS
def test_skopeo_copies_ours_and_we_read_that(tmp_path: Path, write: Write, address: str) -> None:
    write(tmp_path / "out", [ours()])
    skopeo(address, "oci:copy:2", directory=tmp_path)
    image, compressions = read(tmp_path / "copy")
    assert [one.diff_id for one in image.layers] == [one.digest for one in ours().layers]
    assert image.config == ours().config
    # An archive of docker's says nothing of compression, and skopeo compresses what is not.
    assert len(compressions) == 1


@FORMS
def test_buildah_pulls_ours(tmp_path: Path, write: Write, address: str) -> None:
    write(tmp_path / "out", [ours()])
    stores = ("--storage-driver", "vfs", "--root", "store", "--runroot", "run")
    image = run("buildah", *stores, "pull", address, directory=tmp_path).strip()
    assert image == digest.encoded(digest.of_bytes(ours().config))


def test_umoci_unpacks_ours(tmp_path: Path) -> None:
    write_layout(tmp_path / "out", [ours()])
    assert run("umoci", "ls", "--layout", "out", directory=tmp_path).split() == ["1"]
    run("umoci", "raw", "unpack", "--image", "out:1", "root", directory=tmp_path)
    root = tmp_path / "root"
    assert (root / "etc/one").read_text() == "1"
    assert (root / "two").read_text() == "22"
    assert sorted(os.listdir(root)) == ["etc", "two"]


def test_images_with_the_same_tag_are_told_apart_by_others(tmp_path: Path) -> None:
    write_layout(tmp_path / "out", [ours("a:1"), ours("b:1"), ours("c:2")])
    listed = run("umoci", "ls", "--layout", "out", directory=tmp_path).split()
    assert sorted(listed) == ["2", "a:1", "b:1"]
    for reference in listed:
        run("skopeo", "inspect", f"oci:out:{reference}", directory=tmp_path)


def test_umoci_writes_on_in_our_layout(tmp_path: Path) -> None:
    write_layout(tmp_path / "out", [ours()])
    (tmp_path / "file").write_text("new")
    run("umoci", "insert", "--image", "out:1", "file", "/file", directory=tmp_path)
    assert len(read(tmp_path / "out")[0].layers) == 3
