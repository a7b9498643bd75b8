"""Importing: what is in the store afterwards, also when something was wrong."""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import io
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from layerstore import adding, importing, leases
from layerstore.errors import InvalidContentError, StoreError
from layerstore.importing import Imported, Options, import_path, import_stream
from layerstore.ingest import Ingested, Tell
from layerstore.oci import platforms
from layerstore.oci.documents import Platform
from layerstore.pieces import Reader
from layerstore.repository import Image, Repository
from tests.support import tars
from tests.support.archives import (
    CONFIG,
    LAYER,
    MANIFEST,
    Document,
    Layout,
    as_json,
    config,
    docker_archive,
    sha256,
    tagged,
    tar,
)
from tests.support.layers import Directory, File, HardLink, Node, Symlink, build
from tests.support.stores import StoreBuilder
from tests.support.threads import waits_for_results
from unionfs.layers.directory import DirectoryLayer
from unionfs.model import Entry

pytestmark = pytest.mark.usefixtures("nothing_left_open")

A, B, C = (tars.tar(tars.file(name, name.encode() * 1000)) for name in "abc")


def gzipped(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def compressed(layout: Layout, *layers: bytes, **more: object) -> Document:
    """Put an image with gzip layers in; answers its manifest's descriptor."""
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": layout.blob(as_json(config(*layers)), CONFIG),
        "layers": [layout.blob(gzipped(one), f"{LAYER}+gzip") for one in layers],
    }
    return layout.blob(as_json(document), MANIFEST, **more)


def layout_of(*images: tuple[str, list[bytes]]) -> Layout:
    layout = Layout()
    for name, layers in images:
        layout.listed.append(compressed(layout, *layers, annotations=tagged(name)))
    return layout


def imported(
    repository: Repository, source: Path, *names: str, keep_blobs: bool = False
) -> list[Imported]:
    return import_path(repository, source, Options(names, keep_blobs=keep_blobs))


# Images


@pytest.mark.parametrize("write", [Layout.write, Layout.archive])
def test_an_image_comes_in_with_its_documents_as_they_are(
    repository: Repository, tmp_path: Path, write: Callable[[Layout, Path], Path]
) -> None:
    layout = layout_of(("app:1", [A, B]))
    (found,) = imported(repository, write(layout, tmp_path / "source"))
    image = found.image
    assert (image.names, list(image.layers), found.new) == (("app:1",), [sha256(A), sha256(B)], 2)
    assert image.raw == as_json(config(A, B))
    ((manifest, content),) = repository.catalog.manifests(image.id)
    assert manifest == layout.listed[0]["digest"] == sha256(content)
    assert repository.find("app:1") == image


def test_layers_that_are_there_are_not_read_again(repository: Repository, tmp_path: Path) -> None:
    imported(repository, layout_of(("a:1", [A, B])).write(tmp_path / "one"))
    layout = layout_of(("a:2", [A, C]))
    layout.files["blobs/sha256/" + sha256(gzipped(A))[7:]] = b"x" * len(gzipped(A))
    (found,) = imported(repository, layout.write(tmp_path / "two"))
    assert found.new == 1
    assert len(repository.layers()) == 3


def test_an_image_may_have_one_layer_twice(repository: Repository, tmp_path: Path) -> None:
    (found,) = imported(repository, layout_of(("a:1", [A, B, A])).write(tmp_path / "source"))
    assert list(found.image.layers) == [sha256(A), sha256(B), sha256(A)]
    assert found.new == 2


def test_an_image_may_have_no_layers(repository: Repository, tmp_path: Path) -> None:
    (found,) = imported(repository, layout_of(("a:1", [])).write(tmp_path / "source"))
    assert (list(found.image.layers), found.new) == ([], 0)


def test_names_are_those_that_were_asked_for(repository: Repository, tmp_path: Path) -> None:
    source = layout_of(("a:1", [A])).write(tmp_path / "source")
    (found,) = imported(repository, source, "b:1", "c:1")
    assert found.image.names == ("b:1", "c:1")


def test_all_images_of_a_source_come_in(repository: Repository, tmp_path: Path) -> None:
    source = layout_of(("a:1", [A, B]), ("b:1", [A, C])).archive(tmp_path / "source")
    found = imported(repository, source)
    assert [item.image.names for item in found] == [("a:1",), ("b:1",)]
    assert len(repository.layers()) == 3


def test_a_name_is_for_one_image_only(repository: Repository, tmp_path: Path) -> None:
    source = layout_of(("a:1", [A]), ("b:1", [B])).archive(tmp_path / "source")
    with pytest.raises(StoreError, match=r"2 images are in there \(a:1, b:1\): choose one with"):
        imported(repository, source, "c:1")
    assert repository.layers() == []
    (found,) = import_path(repository, source, Options(["c:1"], reference="b:1"))
    assert list(found.image.layers) == [sha256(B)]
    assert found.image.names == ("c:1",)


def test_an_image_that_is_there_gets_more_names(repository: Repository, tmp_path: Path) -> None:
    source = layout_of(("a:1", [A])).write(tmp_path / "source")
    (first,) = imported(repository, source)
    (second,) = imported(repository, source, "b:1")
    assert second.image.id == first.image.id
    assert second.image.names == ("a:1", "b:1")
    assert second.new == 0


def test_a_name_moves_to_what_is_imported(repository: Repository, tmp_path: Path) -> None:
    (old,) = imported(repository, layout_of(("a:1", [A])).write(tmp_path / "old"))
    (new,) = imported(repository, layout_of(("a:1", [B])).write(tmp_path / "new"))
    assert repository.find("a:1").id == new.image.id
    assert repository.image(old.image.id).names == ()


def test_what_docker_saved_comes_in(repository: Repository, tmp_path: Path) -> None:
    source = tmp_path / "saved.tar"
    source.write_bytes(tar(docker_archive([(["a:1"], [A, B]), (["b:1"], [B])])))
    found = imported(repository, source)
    assert [list(item.image.layers) for item in found] == [[sha256(A), sha256(B)], [sha256(B)]]
    assert repository.catalog.manifests(found[0].image.id) == []


# What is wrong


@pytest.mark.parametrize("keep_blobs", [False, True])
def test_of_an_image_with_a_wrong_layer_nothing_is_added_but_finished_layers(
    repository: Repository, tmp_path: Path, keep_blobs: bool
) -> None:
    layout = layout_of(("a:1", [A, B]))
    blob = gzipped(B)
    layout.files["blobs/sha256/" + sha256(blob)[7:]] = gzipped(C)[: len(blob)].ljust(
        len(blob), b"\0"
    )
    with pytest.raises(InvalidContentError, match=f"layer {sha256(B)[:19]}: "):
        imported(repository, layout.write(tmp_path / "source"), keep_blobs=keep_blobs)
    assert repository.images() == []
    assert set(repository.layers()) <= {sha256(A)}
    assert os.listdir(repository.paths.temporary) == []


def test_a_diff_id_that_is_not_its_layer_s_is_refused(
    repository: Repository, tmp_path: Path
) -> None:
    layout = Layout()
    document = {
        "schemaVersion": 2,
        "config": layout.blob(as_json(config(A)), CONFIG),
        "layers": [layout.blob(B, LAYER)],
    }
    layout.listed.append(layout.blob(as_json(document), MANIFEST))
    with pytest.raises(
        InvalidContentError, match=f"its diff ID is {sha256(B)}, and not {sha256(A)}"
    ):
        imported(repository, layout.write(tmp_path / "source"))
    assert repository.layers() == []


def test_of_several_images_all_come_in_or_none(repository: Repository, tmp_path: Path) -> None:
    layout = layout_of(("a:1", [A]), ("b:1", [B]))
    layout.replace({"digest": sha256(gzipped(B))}, b"x" * len(gzipped(B)))
    with pytest.raises(InvalidContentError, match=f"layer {sha256(B)[:19]}"):
        imported(repository, layout.archive(tmp_path / "source"))
    assert repository.images() == []


def test_a_layer_is_read_once_for_all_images(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    added: list[str] = []

    def counted(*words: Any) -> Ingested:
        found = adding.add_wanted(*words)
        added.append(found.diff_id)
        return found

    monkeypatch.setattr(importing, "add_wanted", counted)
    imported(repository, layout_of(("a:1", [A, B]), ("b:1", [B, C])).write(tmp_path / "source"))
    assert sorted(added) == sorted(map(sha256, (A, B, C)))


def test_a_blob_may_be_known_by_another_digest_than_sha256(
    repository: Repository, tmp_path: Path
) -> None:
    layout = Layout()
    blob = gzipped(A)
    digits = hashlib.sha512(blob).hexdigest()
    layout.files[f"blobs/sha512/{digits}"] = blob
    layer = {"mediaType": f"{LAYER}+gzip", "digest": f"sha512:{digits}", "size": len(blob)}
    document = {
        "schemaVersion": 2,
        "config": layout.blob(as_json(config(A)), CONFIG),
        "layers": [layer],
    }
    layout.listed.append(layout.blob(as_json(document), MANIFEST))
    (found,) = imported(repository, layout.write(tmp_path / "source"), "a:1")
    assert list(found.image.layers) == [sha256(A)]


def test_a_wrong_digest_of_another_kind_is_refused(repository: Repository, tmp_path: Path) -> None:
    layout = Layout()
    blob = gzipped(A)
    layout.files[f"blobs/sha512/{'0' * 128}"] = blob
    layer = {"mediaType": f"{LAYER}+gzip", "digest": f"sha512:{'0' * 128}", "size": len(blob)}
    document = {
        "schemaVersion": 2,
        "config": layout.blob(as_json(config(A)), CONFIG),
        "layers": [layer],
    }
    layout.listed.append(layout.blob(as_json(document), MANIFEST))
    with pytest.raises(InvalidContentError, match="sha512:0000"):
        imported(repository, layout.write(tmp_path / "source"))
    assert repository.layers() == []


# Blobs


def test_blobs_are_kept_if_asked_for(repository: Repository, tmp_path: Path) -> None:
    source = layout_of(("a:1", [A, B])).write(tmp_path / "source")
    imported(repository, source)
    assert repository.catalog.blobs() == []
    imported(repository, source, keep_blobs=True)
    assert {row.blob for row in repository.catalog.blobs()} == {
        sha256(gzipped(A)),
        sha256(gzipped(B)),
    }


def test_each_blob_of_a_layer_is_kept(repository: Repository, tmp_path: Path) -> None:
    imported(repository, layout_of(("a:1", [A])).write(tmp_path / "one"), keep_blobs=True)
    layout = Layout()
    other = gzipped(A) + gzipped(b"")
    document = {
        "schemaVersion": 2,
        "config": layout.blob(as_json(config(A)), CONFIG),
        "layers": [layout.blob(other, f"{LAYER}+gzip")],
    }
    layout.listed.append(layout.blob(as_json(document), MANIFEST))
    imported(repository, layout.write(tmp_path / "two"), keep_blobs=True)
    assert {row.blob for row in repository.catalog.blobs()} == {
        sha256(gzipped(A)),
        sha256(other),
    }


def test_a_kept_blob_that_is_gone_is_kept_again(repository: Repository, tmp_path: Path) -> None:
    source = layout_of(("a:1", [A])).write(tmp_path / "source")
    imported(repository, source, keep_blobs=True)
    path = Path(repository.paths.blob(sha256(gzipped(A))))
    path.unlink()
    imported(repository, source, keep_blobs=True)
    assert path.read_bytes() == gzipped(A)


@pytest.mark.parametrize("kind", ["layout", "docker archive"])
def test_layers_that_are_not_compressed_are_neither_kept_twice_nor_read_twice(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    layout = Layout()
    layout.listed.append(layout.manifest(A, B))
    if kind == "layout":
        source = layout.write(tmp_path / "source")
    else:
        source = tmp_path / "source"
        source.write_bytes(tar(docker_archive([(["a:1"], [A, B])])))
    imported(repository, source, keep_blobs=True)
    assert os.listdir(repository.paths.blobs) == []
    monkeypatch.delattr(importing, "add_wanted")
    (found,) = imported(repository, source, keep_blobs=True)
    assert found.new == 0


# Layers and trees


@pytest.mark.parametrize("pack", [bytes, gzipped], ids=["plain", "gzip"])
def test_a_tar_becomes_an_image_of_one_layer(
    repository: Repository, tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    (tmp_path / "layer").write_bytes(pack(A))
    (found,) = imported(repository, tmp_path / "layer", "a:1")
    image = found.image
    assert (list(image.layers), image.names, found.new) == ([sha256(A)], ("a:1",), 1)
    assert image.config.platform == platforms.host()
    assert [step and step.created_by for step in image.steps] == ["layerstore import"]


def test_the_same_tar_is_the_same_image_whenever_it_comes(
    repository: Repository, tmp_path: Path
) -> None:
    (tmp_path / "layer").write_bytes(A)
    (first,) = imported(repository, tmp_path / "layer")
    (tmp_path / "layer").write_bytes(gzipped(A))
    (second,) = imported(repository, tmp_path / "layer")
    assert first.image.id == second.image.id
    assert second.new == 0


def test_a_tar_is_for_the_platform_that_was_told(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "layer").write_bytes(A)
    (found,) = import_path(repository, tmp_path / "layer", Options(platform="linux/arm/v7"))
    assert found.image.config.platform == Platform("arm", "linux", variant="v7")


def test_a_platform_that_is_none_is_told_before_anything_is_read(
    repository: Repository, tmp_path: Path
) -> None:
    (tmp_path / "layer").write_bytes(A)
    with pytest.raises(StoreError, match="nonsense"):
        import_path(repository, tmp_path / "layer", Options(platform="nonsense"))
    assert repository.layers() == []


def test_a_directory_becomes_an_image(repository: Repository, tmp_path: Path) -> None:
    tree = Directory(
        {
            "file": File("content", mode=0o4755, uid=5, xattrs={"user.a": b"1"}),
            "link": Symlink("file"),
            "again": HardLink("file"),
            "socket": Node(0o140000),
        }
    )
    build(tmp_path / "root", tree)
    (found,) = imported(repository, tmp_path / "root", "root:1")
    assert list(found.left_out) == [b"socket"]
    (layer,) = repository.open_layers(found.image)
    listed = layer.listing(layer.root())
    assert sorted(listed) == [b"again", b"file", b"link"]
    file = listed[b"file"]
    assert isinstance(file, Entry)
    assert (file.attributes.st_nlink, file.attributes.st_uid) == (2, 5)
    assert layer.listxattr(file) == [b"user.a"]
    layer.close()
    (again,) = imported(repository, tmp_path / "root")
    assert again.image.id == found.image.id


def test_a_directory_comes_in_without_the_store_that_is_in_it(
    repository: Repository, directory: Path
) -> None:
    (directory / "file").write_bytes(b"content")
    (found,) = imported(repository, directory, "root:1")
    assert found.left_out == [b"store"]
    (layer,) = repository.open_layers(found.image)
    assert list(layer.listing(layer.root())) == [b"file"]
    layer.close()


@pytest.mark.parametrize(
    ("layer", "method", "path"),
    [
        (DirectoryLayer, "lookup", "d"),
        (DirectoryLayer, "listing", "."),
        (DirectoryLayer, "metacopy", "d/file"),
        (DirectoryLayer, "listxattr", "."),
        (DirectoryLayer, "readlink", "d/link"),
        (DirectoryLayer, "open", "d/file"),
        (os, "pread", "d/file"),
    ],
)
def test_what_of_a_directory_can_not_be_read_is_told(
    repository: Repository,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    layer: Any,
    method: str,
    path: str,
) -> None:
    build(tmp_path / "root", {"d": {"file": "content", "link": Symlink("file")}})

    def failing(*words: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", b".wh.x")

    monkeypatch.setattr(layer, method, failing)
    with pytest.raises(PermissionError) as error:
        imported(repository, tmp_path / "root")
    assert error.value.filename == f"{tmp_path}/root/{path}"


@pytest.mark.parametrize("inside", ["", "objects"])
def test_no_part_of_the_store_comes_in(repository: Repository, inside: str) -> None:
    with pytest.raises(StoreError, match="is in the store itself"):
        imported(repository, Path(repository.paths.root, inside))
    assert repository.images() == []


@pytest.mark.parametrize("below", ["", "image/"])
@pytest.mark.parametrize(
    "files",
    [
        {"oci-layout": b"{}", "index.json": b"{}"},
        {"manifest.json": b"[]", "repositories": b"{}"},
    ],
)
def test_an_archive_of_images_does_not_become_a_layer_unseen(
    repository: Repository, tmp_path: Path, below: str, files: dict[str, bytes]
) -> None:
    entries = {f"{below}README": b"x", **{below + name: data for name, data in files.items()}}
    (tmp_path / "source").write_bytes(gzip.compress(tar(entries), mtime=0))
    with pytest.raises(StoreError, match="looks like an archive of images"):
        imported(repository, tmp_path / "source")
    assert repository.images() == []


def test_from_one_layer_nothing_is_chosen(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "layer").write_bytes(A)
    (tmp_path / "tree").mkdir()
    for source in (tmp_path / "layer", tmp_path / "tree"):
        with pytest.raises(StoreError, match="there is nothing to choose from"):
            import_path(repository, source, Options(reference="a:1"))
    with pytest.raises(StoreError, match="there is nothing to choose from"):
        import_stream(repository, io.BytesIO(A), Options(reference="a:1"))
    assert repository.layers() == []


@pytest.mark.parametrize("name", ["nothing", "fifo"])
def test_what_is_no_source_is_refused(repository: Repository, tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises((StoreError, FileNotFoundError), match=name):
        imported(repository, tmp_path / name)


# Streams


@pytest.mark.parametrize("pack", [bytes, gzipped], ids=["plain", "gzip"])
@pytest.mark.parametrize("kind", ["layer", "layout", "docker archive"])
def test_a_stream_may_be_anything_that_a_file_may(
    repository: Repository, tmp_path: Path, kind: str, pack: Callable[[bytes], bytes]
) -> None:
    data = {
        "layer": A,
        "layout": layout_of(("a:1", [A])).archive(tmp_path / "archive").read_bytes(),
        "docker archive": tar(docker_archive([(["a:1"], [A])])),
    }[kind]
    (found,) = import_stream(repository, io.BytesIO(pack(data)), Options(["b:1"]))
    assert list(found.image.layers) == [sha256(A)]
    assert found.image.names == ("b:1",)
    assert os.listdir(repository.paths.temporary) == []


@pytest.mark.parametrize("data", [b"", b"nonsense", gzipped(b""), A[:100]])
def test_a_stream_of_something_else_is_refused(repository: Repository, data: bytes) -> None:
    with pytest.raises(InvalidContentError):
        import_stream(repository, io.BytesIO(data), Options())
    assert repository.images() == []


# What others do meanwhile


def test_layers_are_held_until_their_image_is_there(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_image = Repository.add_image
    free: list[int | None] = []

    def checked(self: Repository, *words: Any) -> Image:
        free.extend(leases.take(self.paths.layer(diff_id)) for diff_id in self.layers())
        return add_image(self, *words)

    monkeypatch.setattr(Repository, "add_image", checked)
    (tmp_path / "layer").write_bytes(A)
    imported(repository, tmp_path / "layer")
    imported(repository, layout_of(("a:1", [A, B])).write(tmp_path / "source"))
    assert free == [None] * 3


def test_a_layer_that_another_process_adds_meanwhile_is_not_read(
    repository: Repository, store: StoreBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = Repository.turn

    def overtaken(
        self: Repository, diff_id: str, wait: Callable[[], None]
    ) -> contextlib.AbstractContextManager[None]:
        store.layer(A)
        return turn(self, diff_id, wait)

    monkeypatch.setattr(Repository, "turn", overtaken)
    (found,) = imported(repository, layout_of(("a:1", [A])).write(tmp_path / "source"))
    assert found.new == 0


def test_what_a_killed_import_left_is_swept(repository: Repository, tmp_path: Path) -> None:
    left = Path(repository.paths.temporary, "left")
    left.mkdir()
    (left / "objects").touch()
    (tmp_path / "layer").write_bytes(A)
    imported(repository, tmp_path / "layer")
    assert not left.exists()


def test_who_interrupts_an_import_does_not_wait_for_its_layers(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[Exception] = []

    def endless(there: Repository, source: Reader, *words: Any) -> Ingested:
        while not waits_for_results(threading.main_thread()):
            os.sched_yield()
        os.kill(os.getpid(), signal.SIGINT)
        try:
            for _ in range(10_000_000):
                source.read(1)
        except StoreError as error:
            stopped.append(error)
        raise NotImplementedError

    monkeypatch.setattr(importing, "add_wanted", endless)
    with pytest.raises(KeyboardInterrupt):
        imported(repository, layout_of(("a:1", [A])).write(tmp_path / "source"))
    assert len(stopped) == 1


class Watcher:
    """Is told what is waited for, and does something then."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act
        self.begun: list[str] = []

    def begin(self, what: str, total: int | None) -> Tell:
        self.begun.append(what)
        if what.startswith("waiting"):
            self._act()
        return lambda count: None


def test_who_waits_for_another_import_is_told_so(repository: Repository, tmp_path: Path) -> None:
    source = layout_of(("a:1", [A])).write(tmp_path / "source")
    title = sha256(A)[:19]
    with contextlib.ExitStack() as other:
        other.enter_context(repository.turn(sha256(A)))
        watcher = Watcher(other.close)
        (found,) = import_path(repository, source, Options(), watcher)
    assert watcher.begun == [f"waiting for another import of layer {title}", title]
    assert found.new == 1


def test_who_waits_for_another_import_can_interrupt(repository: Repository, tmp_path: Path) -> None:
    source = layout_of(("a:1", [A])).write(tmp_path / "source")

    def interrupt() -> None:
        while not waits_for_results(threading.main_thread()):
            os.sched_yield()
        os.kill(os.getpid(), signal.SIGINT)

    with repository.turn(sha256(A)), pytest.raises(KeyboardInterrupt):
        import_path(repository, source, Options(), Watcher(interrupt))
    assert repository.layers() == []
