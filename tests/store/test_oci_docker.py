import gzip
from collections.abc import Mapping
from pathlib import Path

import pytest

from layerstore.errors import InvalidContentError, LimitExceededError, StoreError
from layerstore.limits import Limits
from layerstore.oci import documents
from layerstore.oci.images import SourceImage
from layerstore.oci.sources import open_images
from tests.support.archives import (
    Layout,
    Link,
    as_json,
    config,
    docker_archive,
    layer,
    platform,
    sha256,
    tar,
    write_files,
)

LIMITS = Limits()
A, B = layer("a"), layer("b")

Files = Mapping[str, bytes | Link | None]


def images(
    tmp_path: Path,
    files: Files,
    wanted: str | None = None,
    reference: str | None = None,
    limits: Limits = LIMITS,
) -> list[tuple[SourceImage, list[bytes]]]:
    """The images in an archive of these files, each with the bytes of its layers."""
    path = tmp_path / "archive"
    path.write_bytes(tar(files))
    with open_images(path, spool=tmp_path, limits=limits) as source:
        found = []
        for image in source.images(wanted, reference):
            layers = []
            for one in image.layers:
                with one.open() as reader:
                    layers.append(reader.read())
            found.append((image, layers))
    return found


def single(layers: list[str], more: Files, names: object = None, **item: object) -> Files:
    """The files of an archive of one image, whose config is of A and B."""
    listed = {"Config": "config.json", "RepoTags": names, "Layers": layers, **item}
    return {"manifest.json": as_json([listed]), "config.json": as_json(config(A, B)), **more}


# What docker and others save


def test_an_archive_may_hold_several_images(tmp_path: Path) -> None:
    files = docker_archive([(["app:1", "app:latest"], [A, B]), (None, [B])])
    (first, layers), (second, others) = images(tmp_path, files)
    assert first.names == ("app:1", "app:latest")
    assert (layers, others) == ([A, B], [B])
    assert second.names == ()
    assert first.manifest is None
    assert first.config == as_json(config(A, B))
    assert [one.diff_id for one in first.layers] == [sha256(A), sha256(B)]
    assert {(one.media_type, one.digest, one.size) for one in first.layers} == {(None, None, None)}


def test_one_image_is_asked_for_by_name(tmp_path: Path) -> None:
    files = docker_archive([(["app:1"], [A]), (["app:latest"], [B])])
    assert [layers for _, layers in images(tmp_path, files, None, "app")] == [[B]]
    with pytest.raises(StoreError, match="no image is called db; there are: app:1, app:latest"):
        images(tmp_path, files, None, "db")


def test_another_platform_than_the_images_is_refused(tmp_path: Path) -> None:
    files = docker_archive([(None, [A])])
    assert len(images(tmp_path, files, "linux/amd64")) == 1
    with pytest.raises(StoreError, match="no image for linux/s390x; there are: linux/amd64"):
        images(tmp_path, files, "linux/s390x")


def test_keys_may_be_in_lower_case_as_jib_writes_them(tmp_path: Path) -> None:
    listed = [{"config": "config.json", "repotags": ["jib:1"], "layers": ["a.tar.gz"]}]
    files = {
        "config.json": as_json(config(A)),
        "a.tar.gz": gzip.compress(A, mtime=0),
        "manifest.json": as_json(listed),
    }
    ((image, layers),) = images(tmp_path, files)
    assert image.names == ("jib:1",)
    assert layers == [gzip.compress(A, mtime=0)]


@pytest.mark.parametrize("link", [Link("../one/layer.tar"), Link("./one/layer.tar", hard=True)])
def test_a_layer_may_be_a_link_to_another(tmp_path: Path, link: Link) -> None:
    more = {"one/": None, "one/layer.tar": A, "two/": None, "two/layer.tar": link}
    files = {**single(["one/layer.tar", "two/layer.tar"], more)}
    files["config.json"] = as_json(config(A, A))
    assert images(tmp_path, files)[0][1] == [A, A]


def test_names_may_begin_with_the_way_to_here(tmp_path: Path) -> None:
    files = single(["./a.tar", "b.tar"], {"./a.tar": A, "./b.tar": B})
    dotted = {"./": None, **{f"./{name.removeprefix('./')}": data for name, data in files.items()}}
    assert images(tmp_path, dotted)[0][1] == [A, B]


@pytest.mark.parametrize("later", [A, Link("c.tar"), Link("c.tar", hard=True)])
@pytest.mark.parametrize("earlier", [B, Link("b.tar")])
def test_of_two_entries_of_one_name_the_later_counts(
    tmp_path: Path, earlier: bytes | Link, later: bytes | Link
) -> None:
    files = single(["a.tar", "b.tar"], {"a.tar": earlier, "b.tar": B, "c.tar": A})
    path = tmp_path / "archive"
    path.write_bytes(tar([*files.items(), ("a.tar", later)]))
    with (
        open_images(path, spool=tmp_path, limits=LIMITS) as source,
        source.images()[0].layers[0].open() as reader,
    ):
        assert reader.read() == A


def test_a_directory_takes_the_place_of_an_earlier_file(tmp_path: Path) -> None:
    files = single(["a.tar", "b.tar"], {"a.tar": A, "b.tar": B})
    path = tmp_path / "archive"
    path.write_bytes(tar([*files.items(), ("a.tar", None)]))
    with (
        open_images(path, spool=tmp_path, limits=LIMITS) as source,
        pytest.raises(InvalidContentError, match=r"names a\.tar, which is missing"),
    ):
        source.images()


def test_an_unpacked_archive_is_read_too(tmp_path: Path) -> None:
    root = write_files(tmp_path / "unpacked", docker_archive([(["app:1"], [A])]))
    with open_images(root, spool=tmp_path, limits=LIMITS) as source:
        assert source.images()[0].names == ("app:1",)


def test_an_unpacked_archive_is_read_only_inside(tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(A)
    for name in ("../outside", str(tmp_path / "outside"), "x" * 300):
        files = single([name, "b"], {"b": B})
        root = write_files(tmp_path / f"unpacked {len(name)}", files)
        with (
            open_images(root, spool=tmp_path, limits=LIMITS) as source,
            pytest.raises(InvalidContentError, match="which is missing"),
        ):
            source.images()


def test_a_config_named_by_its_digest_is_checked(tmp_path: Path) -> None:
    data = as_json(config(A, B))
    name = f"blobs/sha256/{sha256(data)[7:]}"
    good = single(["a", "b"], {name: data, "a": A, "b": B}, Config=name)
    assert images(tmp_path, good)[0][0].config == data
    bad = {**good, name: data.replace(b"linux", b"linus")}
    with pytest.raises(InvalidContentError, match="is damaged or forged"):
        images(tmp_path, bad)


# Both kinds in one archive, as docker has saved since version 25


def test_names_are_docker_s_and_documents_the_layout_s(tmp_path: Path) -> None:
    layout = Layout()
    full = {"io.containerd.image.name": "registry.example/library/app:1"}
    layout.listed = [layout.manifest(A, annotations=full)]
    item = {
        "Config": f"blobs/sha256/{sha256(as_json(config(A)))[7:]}",
        "RepoTags": ["app:1"],
        "Layers": [f"blobs/sha256/{sha256(A)[7:]}"],
    }
    files = {**layout.all_files(), "manifest.json": as_json([item])}
    for reference in (None, "app:1", "registry.example/library/app:1"):
        ((image, layers),) = images(tmp_path, files, None, reference)
        assert image.names == ("app:1",)
        assert sha256(image.manifest or b"") == layout.listed[0]["digest"]
        assert layers == [A]
    with pytest.raises(StoreError, match="no image is called db; there are: app:1"):
        images(tmp_path, files, None, "db")


def test_a_layout_that_lists_nothing_does_not_count(tmp_path: Path) -> None:
    layout = Layout()
    layout.blob(A, "layer")
    data = layout.blob(as_json(config(A)), "config")
    item = {
        "Config": f"blobs/sha256/{data['digest'][7:]}",
        "RepoTags": None,
        "Layers": [f"blobs/sha256/{sha256(A)[7:]}"],
    }
    files = {**layout.all_files(), "manifest.json": as_json([item])}
    files["index.json"] = as_json({"schemaVersion": 2, "manifests": None})
    assert images(tmp_path, files)[0][1] == [A]


# What is wrong


@pytest.mark.parametrize("data", [b"null", b"[]"])
def test_an_archive_of_no_images_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(InvalidContentError, match=r"^manifest\.json: it lists no image$"):
        images(tmp_path, {"manifest.json": data})


def test_an_archive_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidContentError, match="it is no archive of images"):
        images(tmp_path, {"config.json": b"{}", "layer.tar": A})


@pytest.mark.parametrize(
    ("layers", "more", "reason"),
    [
        (["a", "b"], {"a": A}, "names b, which is missing"),
        (["a"], {"a": A}, "1 layer, but its config names 2"),
        (["../a", "b"], {"../a": A, "b": B}, r"names \.\./a, which is missing"),
        (["/a", "b"], {"/a": A, "b": B}, "names /a, which is missing"),
        (["a", "b"], {"a": Link("b"), "b": Link("a")}, "a: its links lead in a circle"),
        (["a", "b"], {"a": Link("../../etc/passwd"), "b": B}, "names a, which is missing"),
        (["a", "b"], {"a": Link("/etc/passwd"), "b": B}, "names a, which is missing"),
        (["a", "b"], {"a": None, "b": B}, "names a, which is missing"),
    ],
)
def test_a_layer_that_is_not_in_the_archive_is_named(
    tmp_path: Path, layers: list[str], more: Files, reason: str
) -> None:
    with pytest.raises(InvalidContentError, match=reason):
        images(tmp_path, single(layers, more))


@pytest.mark.parametrize("name", ["App:1", "a b", "../x", "x:\n", "-", "a:" + "t" * 200])
def test_a_name_that_no_image_can_have_is_refused(tmp_path: Path, name: str) -> None:
    files = single(["a", "b"], {"a": A, "b": B}, [name])
    with pytest.raises(
        InvalidContentError, match=r"^manifest\.json: [^\n]+ is not a name of an image$"
    ):
        images(tmp_path, files)


def test_a_mistake_in_the_manifest_is_named_by_its_place(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidContentError, match=r"manifest\.json: .* at `\$\.items\[0\]\.Layers`"
    ):
        images(tmp_path, single(["a"], {}, Layers="a"))


# Before version 1.10


TOP, BASE = "a" * 64, "b" * 64


def legacy(**top: object) -> dict[str, bytes | Link | None]:
    base = {"id": BASE, "container_config": {"Cmd": ["/bin/sh", "-c", "ADD"]}}
    described = {
        "id": TOP,
        "parent": BASE,
        "created": "2014-01-01T00:00:00Z",
        "author": "somebody",
        "architecture": "x86_64",
        "config": {"Env": ["A=b"], "Cmd": None},
        "container_config": {"Cmd": None},
        "Size": 7,
        **top,
    }
    return {
        f"{BASE}/VERSION": b"1.0",
        f"{BASE}/json": as_json(base),
        f"{BASE}/layer.tar": A,
        f"{TOP}/json": as_json(described),
        f"{TOP}/layer.tar": b"",
        "repositories": as_json({"app": {"1": TOP, "latest": TOP}, "base": {"1": BASE}}),
    }


def test_layers_with_parents_become_an_image_with_a_config(tmp_path: Path) -> None:
    (top, layers), (base, _) = images(tmp_path, legacy())
    assert top.names == ("app:1", "app:latest")
    assert layers == [A, b""]
    assert base.names == ("base:1",)
    assert [one.diff_id for one in top.layers] == [sha256(A), sha256(b"")]
    described = documents.parse_config(top.config, "config", LIMITS)
    assert described.rootfs.diff_ids == (sha256(A), sha256(b""))
    assert [step.created_by for step in described.history] == ["/bin/sh -c ADD", ""]
    assert described.config == {"Env": ["A=b"], "Cmd": None}
    assert (described.author, described.created) == ("somebody", "2014-01-01T00:00:00Z")
    assert described.platform == documents.Platform("amd64", "linux")
    assert top.config == images(tmp_path, legacy())[0][0].config


def test_old_images_are_asked_for_like_new_ones(tmp_path: Path) -> None:
    ((image, _),) = images(tmp_path, legacy(), "linux/amd64", "base:1")
    assert image.names == ("base:1",)
    with pytest.raises(StoreError, match="there are: app:1, app:latest, base:1"):
        images(tmp_path, legacy(), None, "db")
    with pytest.raises(StoreError, match="no image for linux/arm64; there are: linux/amd64"):
        images(tmp_path, legacy(), "linux/arm64")


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (legacy(parent="../../etc"), "is not the ID of a layer"),
        (legacy(parent="c" * 64), "c{64}/json is missing"),
        (legacy(id=BASE), "it is of another layer"),
        ({**legacy(), "repositories": b"[]"}, "not a JSON object"),
        ({**legacy(), "repositories": b'{"A b": {"1": "x"}}'}, "is not a name of an image"),
        ({**legacy(), "repositories": b'{"app": {"1": 7}}'}, "is not the ID of a layer"),
        ({**legacy(), "repositories": b'{"app": {"1": ""}}'}, "is not the ID of a layer"),
    ],
)
def test_old_images_that_are_wrong_are_refused(tmp_path: Path, files: Files, reason: str) -> None:
    with pytest.raises(InvalidContentError, match=reason):
        images(tmp_path, files)


def test_parents_in_a_circle_end(tmp_path: Path) -> None:
    files = legacy(parent=TOP)
    with pytest.raises(LimitExceededError, match="a circle of parents"):
        images(tmp_path, files)


# What skopeo calls dir:


def directory_transport(layout: Layout, top: dict[str, object]) -> dict[str, bytes | Link | None]:
    blobs = {
        name.rpartition("/")[2]: data
        for name, data in layout.files.items()
        if name.startswith("blobs/")
    }
    manifest = blobs[str(top["digest"])[7:]]
    return {**blobs, "version": b"Directory Transport Version: 1.1\n", "manifest.json": manifest}


def test_a_directory_of_skopeo_s_is_read(tmp_path: Path) -> None:
    layout = Layout()
    top = layout.manifest(A, B)
    root = write_files(tmp_path / "source", directory_transport(layout, top))
    with open_images(root, spool=tmp_path, limits=LIMITS) as source:
        (image,) = source.images()
        assert sha256(image.manifest or b"") == top["digest"]
        assert [one.digest for one in image.layers] == [sha256(A), sha256(B)]


def test_a_directory_of_skopeo_s_may_be_for_several_platforms(tmp_path: Path) -> None:
    layout = Layout()
    other = layout.manifest(A, architecture="s390x", platform=platform("s390x"))
    wanted = layout.manifest(B, architecture="arm64", platform=platform("arm64"))
    files = directory_transport(layout, layout.index(other, wanted))
    files[f"{wanted['digest'][7:]}.manifest.json"] = files.pop(wanted["digest"][7:])
    root = write_files(tmp_path / "source", files)
    with open_images(root, spool=tmp_path, limits=LIMITS) as source:
        (image,) = source.images("linux/arm64")
        assert image.layers[0].digest == sha256(B)
