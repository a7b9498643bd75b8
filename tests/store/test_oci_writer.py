import io
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from layerstore import digest
from layerstore.errors import InvalidContentError, StoreError
from layerstore.limits import Limits
from layerstore.oci import documents, writer
from layerstore.oci.documents import OCI_LAYER, Descriptor, Platform
from layerstore.oci.images import SourceImage
from layerstore.oci.sources import open_images
from layerstore.oci.writer import Blob, OutputImage
from tests.support.archives import layer

LIMITS = Limits()
A, B = layer("a"), layer("b")


def image(*layers: bytes, names: tuple[str, ...] = (), architecture: str = "amd64") -> OutputImage:
    blobs = tuple(map(Blob.of_bytes, layers))
    config = documents.make_config(
        [blob.digest for blob in blobs], [], Platform(architecture, "linux")
    )
    described = [Descriptor(OCI_LAYER, blob.digest, blob.size) for blob in blobs]
    return OutputImage(names, documents.make_manifest(config, described), config, blobs)


TWO = [image(A, B, names=("app:1", "app:latest")), image(B, names=("base:1",))]


def read(path: Path) -> list[tuple[SourceImage, list[bytes]]]:
    found = []
    with open_images(path, spool=path.parent, limits=LIMITS) as source:
        for one in source.images():
            layers = []
            for each in one.layers:
                with each.open() as reader:
                    layers.append(reader.read())
            found.append((one, layers))
    return found


def archive(images: list[OutputImage]) -> bytes:
    out = io.BytesIO()
    writer.write_oci_archive(out, images)
    return out.getvalue()


def docker_archive(images: list[OutputImage]) -> bytes:
    out = io.BytesIO()
    writer.write_docker_archive(out, images)
    return out.getvalue()


@pytest.mark.parametrize("form", ["layout", "archive", "docker"])
def test_what_is_written_is_read_again(tmp_path: Path, form: str) -> None:
    path = tmp_path / "out"
    match form:
        case "layout":
            writer.write_layout(path, TWO)
        case "archive":
            path.write_bytes(archive(TWO))
        case "docker":
            path.write_bytes(docker_archive(TWO))
    found = read(path)
    assert [one.names for one, _ in found] == [one.names for one in TWO]
    assert [one.config for one, _ in found] == [one.config for one in TWO]
    assert [layers for _, layers in found] == [[A, B], [B]]
    if form != "docker":
        assert [one.manifest for one, _ in found] == [one.manifest for one in TWO]


@pytest.mark.parametrize("write", [archive, docker_archive])
def test_two_writes_are_equal_and_tell_nothing_of_when_and_who(
    write: Callable[[list[OutputImage]], bytes],
) -> None:
    data = write(TWO)
    assert write(TWO) == data
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = tar.getmembers()
    assert {(one.mtime, one.uid, one.gid, one.uname, one.gname) for one in members} == {
        (0, 0, 0, "", "")
    }
    names = [one.name for one in members]
    assert len(names) == len(set(names))


def test_an_archive_begins_with_what_tells_that_it_is_one() -> None:
    with tarfile.open(fileobj=io.BytesIO(archive(TWO))) as tar:
        assert tar.getnames()[:4] == ["oci-layout", "index.json", "blobs", "blobs/sha256"]
    with tarfile.open(fileobj=io.BytesIO(docker_archive(TWO))) as tar:
        assert tar.getnames()[0] == "manifest.json"


def references(*images: OutputImage) -> list[tuple[str, str]]:
    with tarfile.open(fileobj=io.BytesIO(archive(list(images)))) as tar:
        file = tar.extractfile("index.json")
        assert file is not None
        index = documents.parse_index(file.read(), "index.json", LIMITS)
    return [
        (
            one.annotation("io.containerd.image.name"),
            one.annotation("org.opencontainers.image.ref.name"),
        )
        for one in index.manifests
    ]


def test_names_are_written_for_all_who_read_them() -> None:
    assert references(image(A, names=("registry.example/app:1", "app:2"))) == [
        ("registry.example/app:1", "1"),
        ("app:2", "2"),
    ]
    assert references(image(A)) == [("", "")]


def test_of_two_images_with_the_same_tag_the_whole_name_is_the_reference() -> None:
    assert references(image(A, names=("a:1", "a:2")), image(B, names=("b:1",))) == [
        ("a:1", "a:1"),
        ("a:2", "2"),
        ("b:1", "b:1"),
    ]


def test_images_for_several_platforms_are_chosen_from(tmp_path: Path) -> None:
    path = tmp_path / "out"
    writer.write_layout(path, [image(A, architecture="arm64"), image(B, architecture="s390x")])
    with open_images(path, spool=tmp_path, limits=LIMITS) as source:
        assert source.images("linux/s390x")[0].layers[0].digest == digest.of_bytes(B)


def test_a_manifest_of_docker_s_stays_one(tmp_path: Path) -> None:
    one = image(A)
    docker = "application/vnd.docker.distribution.manifest.v2+json"
    manifest = one.manifest.replace(documents.OCI_MANIFEST.encode(), docker.encode())
    path = tmp_path / "out"
    writer.write_layout(path, [OutputImage((), manifest, one.config, one.layers)])
    assert read(path)[0][0].manifest == manifest


# A layout in a directory


def test_a_layout_goes_into_an_empty_directory_as_well(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    writer.write_layout(target, TWO)
    assert len(read(target)) == 2
    assert os.listdir(tmp_path) == ["out"]


def test_a_layout_is_not_written_over_anything(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "mine").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("out", "file", "link"):
        with pytest.raises(StoreError, match="is in the way"):
            writer.write_layout(tmp_path / name, TWO)
    assert sorted(os.listdir(tmp_path)) == ["file", "link", "out"]


def broken(chunks: list[bytes]) -> OutputImage:
    good = image(A)
    blob = Blob(good.layers[0].digest, good.layers[0].size, lambda: iter(chunks))
    return OutputImage(("app:1",), good.manifest, good.config, (blob,))


@pytest.mark.parametrize("chunks", [[], [A[:-1]], [A, b"x"], [A[:-1], b"x"]])
def test_damage_is_not_passed_on(tmp_path: Path, chunks: list[bytes]) -> None:
    for write in (archive, docker_archive):
        with pytest.raises(InvalidContentError, match=digest.of_bytes(A)):
            write([broken(chunks)])
    with pytest.raises(InvalidContentError, match=digest.of_bytes(A)):
        writer.write_layout(tmp_path / "out", [broken(chunks)])
    assert os.listdir(tmp_path) == []


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def failing() -> Iterator[bytes]:
        yield A[:10]
        raise OSError(28, "No space left on device")

    good = image(A)
    blob = Blob(good.layers[0].digest, good.layers[0].size, failing)
    with pytest.raises(OSError, match="No space left"):
        writer.write_layout(
            tmp_path / "out", [OutputImage((), good.manifest, good.config, (blob,))]
        )
    assert os.listdir(tmp_path) == []


def test_a_layer_of_more_than_8_gib_has_a_header_that_others_read() -> None:
    class Counted(io.RawIOBase):
        """Keeps the beginning only."""

        head = b""

        def writable(self) -> bool:
            return True

        def write(self, data: object) -> int:
            assert isinstance(data, bytes)
            self.head = (self.head + data)[: 1 << 14]
            return len(data)

    size = (8 << 30) + 1
    # The tar is not written to its end: the header comes before the first chunk is asked for.
    huge = Blob(digest.of_bytes(b"huge"), size, lambda: iter([]))
    good = image(A)
    out = Counted()
    with pytest.raises(InvalidContentError, match="ends after 0 of"):
        writer.write_docker_archive(out, [OutputImage((), b"", good.config, (huge,))])  # type: ignore[arg-type]
    with tarfile.open(fileobj=io.BytesIO(out.head), mode="r|") as tar:
        last = [tar.next(), tar.next(), tar.next()][-1]
    assert last is not None
    assert last.size == size
