"""Exporting: what comes out is what came in, the same bytes each time, whole or not at all."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import stat
import sys
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest

from layerstore.check import check
from layerstore.compression import Compression
from layerstore.errors import DamagedError, StoreError
from layerstore.exporting import Format, export_images, export_layer, export_tree, named
from layerstore.importing import Imported, Options, import_path
from layerstore.repository import Repository
from tests.support import tars
from tests.support.archives import (
    CONFIG,
    LAYER,
    MANIFEST,
    Layout,
    as_json,
    config,
    sha256,
    tagged,
)
from tests.support.stores import StoreBuilder

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

pytestmark = pytest.mark.usefixtures("nothing_left_open")

A, B = (tars.tar(tars.file(name, name.encode() * 5000)) for name in "ab")
ARCHIVES = [Format.OCI_ARCHIVE, Format.DOCKER_ARCHIVE]


def written(
    repository: Repository,
    target: Path,
    *words: str,
    kind: Format = Format.OCI_ARCHIVE,
    compression: Compression | None = None,
) -> tuple[dict[str, bytes], list[str]]:
    """The files of an export, and the layers that were compressed anew."""
    images = [(image, named(image, word)) for word in words for image in [repository.find(word)]]
    done = export_images(repository, images, target, kind, compression)
    return contents(target), list(done.recompressed)


def contents(target: Path) -> dict[str, bytes]:
    if target.is_dir():
        return {
            str(path.relative_to(target)): path.read_bytes()
            for path in target.rglob("*")
            if path.is_file()
        }
    found = {}
    with tarfile.open(target) as archive:
        for member in archive:
            if file := archive.extractfile(member):
                found[member.name] = file.read()
    return found


def document(files: dict[str, bytes], name: str) -> Any:
    return json.loads(files[name])


def blob(files: dict[str, bytes], digest: str) -> bytes:
    return files["blobs/sha256/" + digest[7:]]


def manifests(files: dict[str, bytes]) -> list[dict[str, Any]]:
    return [
        json.loads(blob(files, entry["digest"]))
        for entry in document(files, "index.json")["manifests"]
    ]


def other_store(path: Path, source: Path, *, keep_blobs: bool = False) -> list[Imported]:
    with Repository(str(path)) as repository:
        return import_path(repository, source, Options(keep_blobs=keep_blobs))


# Documents and blobs


@pytest.mark.parametrize("kind", [Format.OCI, Format.OCI_ARCHIVE])
def test_a_layout_has_the_image_and_its_layers(
    store: StoreBuilder, repository: Repository, tmp_path: Path, kind: Format
) -> None:
    image = store.image("app:1", [A, B])
    files, _ = written(repository, tmp_path / "out", "app:1", kind=kind)
    (manifest,) = manifests(files)
    assert document(files, "oci-layout") == {"imageLayoutVersion": "1.0.0"}
    assert manifest["config"]["digest"] == image.id
    assert blob(files, image.id) == image.raw
    assert [blob(files, layer["digest"]) for layer in manifest["layers"]] == [A, B]
    for name, content in files.items():
        if name.startswith("blobs/"):
            assert name == "blobs/sha256/" + sha256(content)[7:]


def test_a_docker_archive_keeps_the_image_s_id(
    store: StoreBuilder, repository: Repository, tmp_path: Path
) -> None:
    image = store.image("app:1", [A, B])
    files, again = written(repository, tmp_path / "out", "app:1", kind=Format.DOCKER_ARCHIVE)
    (item,) = document(files, "manifest.json")
    assert item["RepoTags"] == ["app:1"]
    assert files[item["Config"]] == image.raw
    assert [files[path] for path in item["Layers"]] == [A, B]
    assert again == []
    (found,) = other_store(tmp_path / "other", tmp_path / "out")
    assert (found.image.id, found.image.names) == (image.id, ("app:1",))


@pytest.mark.parametrize("compression", [Compression.NONE, Compression.GZIP, Compression.ZSTD])
def test_layers_are_compressed_as_it_was_asked_for(
    store: StoreBuilder, repository: Repository, tmp_path: Path, compression: Compression
) -> None:
    image = store.image("app:1", [A, B])
    files, _ = written(repository, tmp_path / "out", "app:1", compression=compression)
    (manifest,) = manifests(files)
    suffix = "" if compression is Compression.NONE else f"+{compression.value}"
    for layer in manifest["layers"]:
        assert layer["mediaType"] == f"application/vnd.oci.image.layer.v1.tar{suffix}"
        assert layer["size"] == len(blob(files, layer["digest"]))
    (found,) = other_store(tmp_path / "other", tmp_path / "out")
    assert found.image.id == image.id


def test_a_docker_archive_is_not_compressed(
    store: StoreBuilder, repository: Repository, tmp_path: Path
) -> None:
    store.image("app:1", [A])
    with pytest.raises(StoreError, match="are not compressed"):
        written(
            repository,
            tmp_path / "out",
            "app:1",
            kind=Format.DOCKER_ARCHIVE,
            compression=Compression.GZIP,
        )


def test_blobs_that_were_kept_come_out_with_their_manifest(
    store: StoreBuilder, repository: Repository, tmp_path: Path
) -> None:
    image = store.image("app:1", [A, B], keep_blobs=True)
    files, again = written(repository, tmp_path / "out", "app:1")
    ((manifest, content),) = repository.catalog.manifests(image.id)
    assert again == []
    assert blob(files, manifest) == content
    for diff_id in image.layers:
        row = repository.kept_blob(diff_id)
        assert row is not None
        assert blob(files, row.blob) == Path(repository.paths.blob(row.blob)).read_bytes()


def test_blobs_that_were_not_kept_are_compressed_anew_and_told(
    store: StoreBuilder, repository: Repository, tmp_path: Path
) -> None:
    image = store.image("app:1", [A, B], keep_blobs=True)
    row = repository.kept_blob(image.layers[1])
    assert row is not None
    blob_path = Path(repository.paths.blob(row.blob))
    blob_path.write_bytes(gzip.compress(B, 9, mtime=0))
    blob_path.unlink()
    ((_, content),) = repository.catalog.manifests(image.id)
    with repository.catalog.changing():
        repository.catalog.remove_manifest(sha256(content))
        changed = content.replace(row.blob.encode(), sha256(b"as others compress it").encode())
        repository.catalog.add_manifest(sha256(changed), image.id, changed)
    files, again = written(repository, tmp_path / "out", "app:1")
    assert again == [image.layers[1]]
    (manifest,) = manifests(files)
    assert [gzip.decompress(blob(files, layer["digest"])) for layer in manifest["layers"]] == [A, B]


def test_what_was_compressed_as_here_comes_out_as_it_came_in(
    store: StoreBuilder, repository: Repository, tmp_path: Path
) -> None:
    store.image("app:1", [A, B])
    first, _ = written(repository, tmp_path / "1", "app:1", compression=Compression.GZIP)
    other_store(tmp_path / "other", tmp_path / "1")
    with Repository(str(tmp_path / "other")) as other:
        assert other.catalog.blobs() == []
        assert written(other, tmp_path / "2", "app:1") == (first, [])


def test_an_image_without_a_manifest_is_compressed_with_gzip(
    repository: Repository, tmp_path: Path
) -> None:
    (tmp_path / "layer").write_bytes(A)
    import_path(repository, tmp_path / "layer", Options(["app:1"]))
    files, again = written(repository, tmp_path / "out", "app:1")
    (manifest,) = manifests(files)
    assert [layer["mediaType"][-5:] for layer in manifest["layers"]] == ["+gzip"]
    assert again == []


def test_a_layer_that_comes_twice_is_written_once(
    store: StoreBuilder, repository: Repository, tmp_path: Path
) -> None:
    store.image("app:1", [A, B, A])
    files, _ = written(repository, tmp_path / "out", "app:1", compression=Compression.GZIP)
    (manifest,) = manifests(files)
    assert len(manifest["layers"]) == 3
    assert len([name for name in files if name.startswith("blobs/")]) == 4
    with tarfile.open(tmp_path / "out") as archive:
        assert len(archive.getnames()) == len(set(archive.getnames()))


def test_an_image_may_have_no_layers(
    store: StoreBuilder, repository: Repository, tmp_path: Path
) -> None:
    image = store.image("app:1", [])
    for kind in (*ARCHIVES, Format.OCI):
        written(repository, tmp_path / kind.value, "app:1", kind=kind)
        (found,) = other_store(tmp_path / f"other {kind.value}", tmp_path / kind.value)
        assert found.image.id == image.id


def test_several_images_come_out_together_with_their_names(
    store: StoreBuilder, repository: Repository, tmp_path: Path
) -> None:
    images = [store.image("team/a:1", [A]), store.image("b:1", [A, B])]
    for kind in (*ARCHIVES, Format.OCI):
        written(repository, tmp_path / kind.value, "a:1", "b:1", kind=kind)
        found = other_store(tmp_path / f"other {kind.value}", tmp_path / kind.value)
        assert [item.image.id for item in found] == [image.id for image in images]
        assert [item.image.names for item in found] == [("team/a:1",), ("b:1",)]


def test_an_image_is_called_outside_as_it_was_asked_for(
    store: StoreBuilder, repository: Repository
) -> None:
    image = store.image("registry.example/app:1", [A])
    image = repository.add_image(image.raw, None, ["app:2"])
    assert named(image, "app:1") == ("registry.example/app:1",)
    assert named(image, "app:2") == ("app:2",)
    for word in (image.id, image.id[7:19], f"app@{image.id}"):
        assert named(image, word) == image.names


def in_sha512(*layers: bytes) -> Layout:
    """A layout of an image whose config and layers are known by their sha512 digests."""
    layout = Layout()

    def blob(data: bytes, media_type: str) -> dict[str, object]:
        digits = hashlib.sha512(data).hexdigest()
        layout.files[f"blobs/sha512/{digits}"] = data
        return {"mediaType": media_type, "digest": f"sha512:{digits}", "size": len(data)}

    tars_ = [gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data for data in layers]
    document = {
        "schemaVersion": 2,
        "config": blob(as_json(config(*tars_)), CONFIG),
        "layers": [blob(data, LAYER) for data in layers],
    }
    layout.listed.append(layout.blob(as_json(document), MANIFEST, annotations=tagged("app:1")))
    return layout


def test_what_is_known_by_other_digests_comes_out_as_it_came(
    repository: Repository, tmp_path: Path
) -> None:
    layout = in_sha512(A, gzip.compress(B, 9, mtime=0))
    import_path(repository, layout.write(tmp_path / "in"), Options(keep_blobs=True))
    assert list(check(repository)) == []
    files, again = written(repository, tmp_path / "out", "app:1", kind=Format.OCI)
    assert again == []
    assert {name for name in files if name.startswith("blobs/")} == {
        name for name in layout.files if name.startswith("blobs/")
    }
    (found,) = other_store(tmp_path / "other", tmp_path / "out")
    assert found.image.names == ("app:1",)


# The same bytes


@pytest.mark.parametrize(
    ("kind", "compression"),
    [
        (Format.DOCKER_ARCHIVE, None),
        (Format.OCI_ARCHIVE, None),
        (Format.OCI_ARCHIVE, Compression.GZIP),
        (Format.OCI_ARCHIVE, Compression.ZSTD),
    ],
)
def test_two_exports_are_equal_byte_for_byte_in_another_store_too(
    store: StoreBuilder,
    repository: Repository,
    tmp_path: Path,
    kind: Format,
    compression: Compression | None,
) -> None:
    store.image("app:1", [A, B])
    written(repository, tmp_path / "1", "app:1", kind=kind, compression=compression)
    written(repository, tmp_path / "2", "app:1", kind=kind, compression=compression)
    other_store(tmp_path / "other", tmp_path / "1")
    with Repository(str(tmp_path / "other")) as other:
        written(other, tmp_path / "3", "app:1", kind=kind, compression=compression)
    first = (tmp_path / "1").read_bytes()
    assert (tmp_path / "2").read_bytes() == first
    assert (tmp_path / "3").read_bytes() == first


def test_whichever_manifest_came_first_two_exports_are_equal(
    store: StoreBuilder, tmp_path: Path
) -> None:
    image = store.image("app:1", [A])
    compressed = {"+gzip": gzip.compress(A, 9, mtime=0), "+zstd": zstd.compress(A, 19)}
    exports = []
    for suffix, data in compressed.items():
        layout = Layout()
        document = {
            "schemaVersion": 2,
            "config": layout.blob(image.raw, CONFIG),
            "layers": [layout.blob(data, LAYER + suffix)],
        }
        layout.listed = [layout.blob(as_json(document), MANIFEST, annotations=tagged("app:1"))]
        other_store(tmp_path / suffix, layout.archive(tmp_path / f"in{suffix}"))
        with Repository(str(tmp_path / suffix)) as other:
            exports.append(written(other, tmp_path / f"out{suffix}", "app:1"))
    (first, again), (second, _) = exports
    assert second == first
    assert again == list(image.layers)


def test_a_kept_manifest_goes_through_many_stores(
    store: StoreBuilder, repository: Repository, tmp_path: Path
) -> None:
    store.image("app:1", [A, B], keep_blobs=True)
    first, _ = written(repository, tmp_path / "1", "app:1")
    other_store(tmp_path / "other", tmp_path / "1", keep_blobs=True)
    with Repository(str(tmp_path / "other")) as other:
        assert written(other, tmp_path / "2", "app:1") == (first, [])


# Layers


def test_a_layer_s_tar_comes_out_as_it_was(
    store: StoreBuilder, repository: Repository, tmp_path: Path
) -> None:
    diff_id = store.layer(A)
    export_layer(repository, diff_id, tmp_path / "tar")
    assert (tmp_path / "tar").read_bytes() == A
    export_layer(repository, diff_id, tmp_path / "gz", Compression.GZIP)
    assert gzip.decompress((tmp_path / "gz").read_bytes()) == A
    stream = io.BytesIO()
    export_layer(repository, diff_id, stream)
    assert stream.getvalue() == A


# Trees


def test_a_tree_is_what_the_layers_show(
    store: StoreBuilder, repository: Repository, tmp_path: Path
) -> None:
    image = store.image("app:1", [A, tars.tar(tars.whiteout("a"), tars.file("c", b"x"))])
    export_tree(repository, image, tmp_path / "root")
    assert os.listdir(tmp_path / "root") == ["c"]


# Where it goes


def export_a(repository: Repository, target: Path) -> None:
    export_layer(repository, sha256(A), target)


@pytest.fixture
def with_a(store: StoreBuilder, repository: Repository) -> Repository:
    store.layer(A)
    return repository


def test_a_file_that_is_there_is_replaced_by_a_new_one(with_a: Repository, tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.write_bytes(b"before")
    os.link(target, tmp_path / "other name")
    export_a(with_a, target)
    assert target.read_bytes() == A
    assert (tmp_path / "other name").read_bytes() == b"before"
    assert stat.S_IMODE(target.stat().st_mode) == 0o644


def test_a_link_stays_a_link(with_a: Repository, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere/file")
    for _ in range(2):
        export_a(with_a, tmp_path / "link")
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "elsewhere" / "file").read_bytes() == A
    assert os.listdir(tmp_path / "elsewhere") == ["file"]


def test_a_device_is_written_to_and_stays(with_a: Repository, tmp_path: Path) -> None:
    os.mknod(tmp_path / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    export_a(with_a, tmp_path / "null")
    assert stat.S_ISCHR((tmp_path / "null").stat().st_mode)
    assert sorted(os.listdir(tmp_path)) == ["null", "store"]


def test_a_pipe_is_written_to(with_a: Repository, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_bytes()))
    thread.start()
    export_a(with_a, tmp_path / "pipe")
    thread.join()
    assert got == [A]


@pytest.mark.parametrize("place", ["directory", "none/file", "file/file"])
def test_where_nothing_can_be_written_nothing_is(
    with_a: Repository, tmp_path: Path, place: str
) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=place.partition("/")[0]):
        export_a(with_a, tmp_path / place)
    assert sorted(os.listdir(tmp_path)) == ["directory", "file", "store"]
    assert os.listdir(tmp_path / "directory") == []


def test_a_layout_takes_the_place_of_nothing_but_an_empty_directory(
    store: StoreBuilder, repository: Repository, tmp_path: Path
) -> None:
    store.image("app:1", [A])
    (tmp_path / "empty").mkdir()
    written(repository, tmp_path / "empty", "app:1", kind=Format.OCI)
    for name in ("empty", "file"):
        (tmp_path / "file").touch()
        with pytest.raises(StoreError, match="is in the way"):
            written(repository, tmp_path / name, "app:1", kind=Format.OCI)
    with pytest.raises(StoreError, match="a layout is a directory"):
        export_images(repository, [], io.BytesIO(), Format.OCI)


# Damage


def destroy(repository: Repository) -> None:
    for key in repository.objects:
        os.unlink(repository.objects.path(key))


@pytest.mark.parametrize("kind", [*ARCHIVES, Format.OCI])
def test_damage_is_never_passed_on(
    store: StoreBuilder, repository: Repository, tmp_path: Path, kind: Format
) -> None:
    store.image("app:1", [A, B])
    destroy(repository)
    with pytest.raises(DamagedError, match="see layerstore check"):
        written(repository, tmp_path / "out", "app:1", kind=kind)
    assert os.listdir(tmp_path) == ["store"]
    assert os.listdir(repository.paths.temporary) == []


def test_a_target_stays_as_it_is_when_an_export_fails(with_a: Repository, tmp_path: Path) -> None:
    destroy(with_a)
    (tmp_path / "out").write_bytes(b"before")
    with pytest.raises(DamagedError, match="see layerstore check"):
        export_a(with_a, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"before"
    assert sorted(os.listdir(tmp_path)) == ["out", "store"]


def test_a_damaged_blob_is_never_passed_on(
    store: StoreBuilder, repository: Repository, tmp_path: Path
) -> None:
    image = store.image("app:1", [A], keep_blobs=True)
    row = repository.kept_blob(image.layers[0])
    assert row is not None
    path = Path(repository.paths.blob(row.blob))
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(DamagedError, match=f"{row.blob} is damaged or forged"):
        written(repository, tmp_path / "out", "app:1")
    assert not (tmp_path / "out").exists()


def test_a_layer_that_is_gone_is_told(
    store: StoreBuilder, repository: Repository, tmp_path: Path
) -> None:
    image = store.image("app:1", [A, B])
    os.rename(repository.paths.layer(image.layers[1]), tmp_path / "elsewhere")
    with pytest.raises(StoreError, match=f"layer {image.layers[1]} is not in the store"):
        written(repository, tmp_path / "out", "app:1")


@pytest.mark.parametrize("word", ["none:1", "sha256:" + "0" * 64])
def test_what_is_not_there_is_told(repository: Repository, tmp_path: Path, word: str) -> None:
    with pytest.raises(StoreError, match="there is no image"):
        written(repository, tmp_path / "out", word)


def test_a_reader_who_has_enough_stops_the_export(with_a: Repository) -> None:
    class Full(io.BytesIO):
        def writelines(self, lines: Any, /) -> None:
            next(iter(lines))
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        export_layer(with_a, sha256(A), Full())
