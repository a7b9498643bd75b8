import functools
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from layerstore import digest
from layerstore.digest import VerifyingReader
from layerstore.errors import InvalidContentError, LimitExceededError, StoreError
from layerstore.limits import Limits
from layerstore.oci import platforms
from layerstore.oci.documents import NotAnImageError
from layerstore.oci.images import SourceImage
from layerstore.oci.sources import open_images
from tests.support.archives import (
    CONFIG,
    INDEX,
    LAYER,
    MANIFEST,
    Layout,
    as_json,
    config,
    layer,
    platform,
    sha256,
    tagged,
)

LIMITS = Limits()
A, B, C = layer("a"), layer("b"), layer("c")

Read = Callable[..., list[SourceImage]]


@pytest.fixture(params=["directory", "archive"])
def read(request: pytest.FixtureRequest, tmp_path: Path) -> Read:
    """The images of a layout, which in one run of the test is a directory, then an archive."""

    def images(
        layout: Layout, wanted: str | None = None, reference: str | None = None
    ) -> list[SourceImage]:
        write = layout.write if request.param == "directory" else layout.archive
        source = open_images(write(tmp_path / "source"), spool=tmp_path, limits=LIMITS)
        request.addfinalizer(source.close)
        return source.images(wanted, reference)

    return images


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine that the tests choose for."""
    monkeypatch.setattr("platform.machine", lambda: "x86_64")


def architectures(images: list[SourceImage]) -> list[str]:
    return [platforms.spelled(image.platform).removeprefix("linux/") for image in images]


def content(image: SourceImage) -> list[bytes]:
    """The layers' bytes, checked as the manifest claims them."""
    found = []
    for one in image.layers:
        assert one.digest is not None
        assert one.size is not None
        with one.open() as raw:
            read = functools.partial(VerifyingReader(raw, one.digest, one.size).read, 1000)
            found.append(b"".join(iter(read, b"")))
    return found


# One image


def test_an_image_has_its_documents_and_layers(read: Read) -> None:
    layout = Layout()
    layout.listed = [layout.manifest(A, B, annotations=tagged("1"))]
    (image,) = read(layout)
    assert image.references == ("1",)
    assert image.names == ()
    assert image.config == as_json(config(A, B))
    assert image.manifest is not None
    assert digest.of_bytes(image.manifest) == layout.listed[0]["digest"]
    assert content(image) == [A, B]
    assert [one.diff_id for one in image.layers] == [sha256(A), sha256(B)]
    assert {one.media_type for one in image.layers} == {LAYER}


def test_full_names_are_found_in_the_annotations(read: Read) -> None:
    layout = Layout()
    named = {**tagged("1"), "io.containerd.image.name": "registry.example/app:1"}
    other = tagged("registry.example:5000/tools/app")
    layout.listed = [layout.manifest(A, annotations=named), layout.manifest(B, annotations=other)]
    images = read(layout)
    assert images[0].names == ("registry.example/app:1",)
    assert images[1].names == ("registry.example:5000/tools/app:latest",)


def test_an_image_without_layers_is_one(read: Read) -> None:
    layout = Layout()
    layout.listed = [layout.manifest()]
    assert read(layout)[0].layers == ()


def test_one_image_is_taken_whatever_its_platform(read: Read) -> None:
    layout = Layout()
    layout.listed = [layout.manifest(A, architecture="s390x", platform=platform("s390x"))]
    assert architectures(read(layout)) == ["s390x"]


def test_one_image_for_another_platform_than_asked_for_is_not_taken(read: Read) -> None:
    layout = Layout()
    layout.listed = [layout.manifest(A, architecture="s390x")]
    with pytest.raises(StoreError, match="no image for linux/amd64; there are: linux/s390x"):
        read(layout, "linux/amd64")


# Several images


def test_several_images_are_told_apart_by_their_names(read: Read) -> None:
    layout = Layout()
    layout.listed = [
        layout.manifest(A, annotations=tagged("1")),
        layout.manifest(B, annotations=tagged("2")),
        layout.manifest(A, annotations=tagged("3")),
    ]
    assert [image.references for image in read(layout)] == [("1", "3"), ("2",)]


def test_one_of_several_images_is_asked_for_by_name(read: Read) -> None:
    layout = Layout()
    named = {"io.containerd.image.name": "registry.example/app:2"}
    layout.listed = [
        layout.manifest(A, annotations=tagged("1")),
        layout.manifest(B, annotations=named),
    ]
    assert content(read(layout, None, "1")[0]) == [A]


def test_a_name_that_is_not_there_is_answered_with_those_that_are(read: Read) -> None:
    layout = Layout()
    layout.listed = [
        layout.manifest(A, annotations=tagged("1")),
        layout.manifest(B, annotations=tagged("2")),
    ]
    with pytest.raises(StoreError, match="no image is called 3; there are: 1, 2"):
        read(layout, None, "3")


def test_images_without_a_name_for_one_platform_are_all_taken(read: Read) -> None:
    layout = Layout()
    layout.listed = [
        layout.manifest(A, platform=platform("arm64"), architecture="arm64"),
        layout.manifest(B, platform=platform("arm64"), architecture="arm64"),
    ]
    assert [content(image) for image in read(layout)] == [[A], [B]]


# Platforms


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("annotations", [{}, tagged("1")])
def test_of_an_image_for_several_platforms_this_machines_is_taken(
    read: Read, nested: bool, annotations: dict[str, str]
) -> None:
    layout = Layout()
    listed = [
        layout.manifest(
            one,
            architecture=name,
            platform=platform(name),
            annotations={} if nested else annotations,
        )
        for name, one in (("arm64", A), ("amd64", B), ("s390x", C))
    ]
    layout.listed = [layout.index(*listed, annotations=annotations)] if nested else listed
    (image,) = read(layout)
    assert content(image) == [B]
    assert image.references == tuple(annotations.values())


@pytest.mark.parametrize("order", [1, -1])
def test_another_platform_can_be_asked_for_and_the_nearest_is_taken(read: Read, order: int) -> None:
    layout = Layout()
    listed = [
        layout.manifest(A, architecture="amd64", platform=platform("amd64")),
        layout.manifest(B, architecture="arm", platform=platform("arm", "v5")),
        layout.manifest(C, architecture="arm", platform=platform("arm", "v6")),
    ]
    layout.listed = [layout.index(*listed[::order])]
    assert content(read(layout, "linux/arm/v7")[0]) == [C]


def test_a_platform_that_is_not_there_is_answered_with_those_that_are(read: Read) -> None:
    layout = Layout()
    absent = layout.manifest(C, architecture="riscv64", platform=platform("riscv64"))
    layout.listed = [
        layout.index(
            layout.manifest(A, architecture="s390x", platform=platform("s390x")),
            layout.manifest(B, architecture="arm64", platform=platform("arm64")),
            absent,
        )
    ]
    layout.remove(absent)
    with pytest.raises(
        StoreError,
        match=r"^no image for linux/amd64; there are: linux/arm64, linux/s390x;"
        " listed but missing: linux/riscv64$",
    ):
        read(layout)


def test_platforms_may_be_missing(read: Read) -> None:
    layout = Layout()
    absent = layout.manifest(A, architecture="arm64", platform=platform("arm64"))
    absent_index = layout.index(platform=platform("s390x"))
    present = layout.manifest(B, platform=platform("amd64"))
    layout.listed = [layout.index(absent, absent_index, present)]
    layout.remove(absent)
    layout.remove(absent_index)
    assert content(read(layout)[0]) == [B]


def test_a_platform_that_the_index_does_not_tell_is_in_the_config(read: Read) -> None:
    layout = Layout()
    layout.listed = [layout.index(layout.manifest(A, architecture="arm64"), layout.manifest(B))]
    assert content(read(layout)[0]) == [B]


def test_attestations_are_not_images(read: Read) -> None:
    layout = Layout()
    about = {"vnd.docker.reference.type": "attestation-manifest"}
    layout.listed = [
        layout.index(
            layout.manifest(A, architecture="arm64", platform=platform("arm64")),
            layout.manifest(B, platform={"os": "unknown", "architecture": "unknown"}),
            layout.manifest(C, annotations=about),
        )
    ]
    assert content(read(layout)[0]) == [A]


# What is no image


def test_other_things_in_a_layout_are_left_out(read: Read) -> None:
    layout = Layout()
    chart = layout.blob(
        as_json(
            {
                "schemaVersion": 2,
                "config": layout.blob(b"{}", "application/vnd.cncf.helm.config.v1+json"),
                "layers": [],
            }
        ),
        MANIFEST,
    )
    layout.listed = [
        chart,
        layout.blob(b"what", "application/vnd.example"),
        layout.manifest(A),
    ]
    assert [content(image) for image in read(layout)] == [[A]]


def test_a_layout_with_nothing_but_other_things_says_what_they_are(read: Read) -> None:
    layout = Layout()
    chart = "application/vnd.cncf.helm.config.v1+json"
    document = {"schemaVersion": 2, "config": layout.blob(b"{}", chart), "layers": []}
    layout.listed = [layout.blob(as_json(document), MANIFEST)]
    with pytest.raises(NotAnImageError, match=re.escape(chart)):
        read(layout)


def test_a_layout_with_nothing_in_it_is_refused(read: Read) -> None:
    with pytest.raises(NotAnImageError, match="lists no image"):
        read(Layout())


# What is wrong


def test_a_manifest_with_other_bytes_is_refused(read: Read) -> None:
    layout = Layout()
    layout.listed = [layout.manifest(A)]
    data = layout.files["blobs/sha256/" + layout.listed[0]["digest"][7:]]
    assert isinstance(data, bytes)
    layout.replace(layout.listed[0], data.replace(b"schemaVersion", b"schemaversion"))
    with pytest.raises(InvalidContentError, match=r"^sha256:\w+ is damaged or forged"):
        read(layout)


def test_a_config_with_other_bytes_is_refused(read: Read) -> None:
    layout = Layout()
    layout.listed = [layout.manifest(A)]
    changed = as_json(config(A)).replace(b"linux", b"linus")
    layout.replace({"digest": sha256(as_json(config(A)))}, changed)
    with pytest.raises(InvalidContentError, match="is damaged or forged"):
        read(layout)


def test_a_blob_of_another_size_is_refused_before_it_is_read(read: Read) -> None:
    layout = Layout()
    layout.listed = [layout.manifest(A)]
    layout.replace({"digest": sha256(A)}, A + b"more")
    with pytest.raises(
        InvalidContentError, match=f"has {len(A) + 4} bytes, not the {len(A)} it claims"
    ):
        read(layout)


@pytest.mark.parametrize("missing", [as_json(config(A)), A])
def test_a_missing_blob_is_named(read: Read, missing: bytes) -> None:
    layout = Layout()
    layout.listed = [layout.manifest(A)]
    layout.remove({"digest": sha256(missing)})
    with pytest.raises(InvalidContentError, match=f"^the blob {sha256(missing)} is missing$"):
        read(layout)


def test_a_missing_manifest_is_named(read: Read) -> None:
    layout = Layout()
    layout.listed = [layout.manifest(A)]
    layout.remove(layout.listed[0])
    with pytest.raises(InvalidContentError, match="is missing"):
        read(layout)


def test_a_layer_to_be_had_elsewhere_is_told_apart(read: Read) -> None:
    layout = Layout()
    foreign = layout.blob(A, LAYER, urls=["https://elsewhere.example/layer"])
    document = {
        "schemaVersion": 2,
        "config": layout.blob(as_json(config(A)), CONFIG),
        "layers": [foreign],
    }
    layout.listed = [layout.blob(as_json(document), MANIFEST)]
    layout.remove(foreign)
    with pytest.raises(InvalidContentError, match="is to be had elsewhere"):
        read(layout)


def test_a_config_with_another_number_of_layers_is_refused(read: Read) -> None:
    layout = Layout()
    document = {
        "schemaVersion": 2,
        "config": layout.blob(as_json(config(A, B)), CONFIG),
        "layers": [layout.blob(A, LAYER)],
    }
    layout.listed = [layout.blob(as_json(document), MANIFEST)]
    with pytest.raises(InvalidContentError, match="1 layer, but its config names 2"):
        read(layout)


def test_an_index_called_a_manifest_is_refused(read: Read) -> None:
    layout = Layout()
    layout.listed = [{**layout.index(layout.manifest(A)), "mediaType": MANIFEST}]
    with pytest.raises(InvalidContentError, match="is an index, but said to be"):
        read(layout)


def test_a_manifest_called_an_index_is_refused(read: Read) -> None:
    layout = Layout()
    layout.listed = [{**layout.manifest(A), "mediaType": INDEX}]
    with pytest.raises(InvalidContentError, match="is a manifest, but said to be"):
        read(layout)


def test_indexes_are_nested_only_so_deep(read: Read) -> None:
    layout = Layout()
    here = layout.manifest(A)
    for _ in range(8):
        here = layout.index(here)
    layout.listed = [here]
    assert content(read(layout)[0]) == [A]


def test_indexes_that_are_nested_too_deep_are_refused(read: Read) -> None:
    layout = Layout()
    here = layout.manifest(A)
    for _ in range(10):
        here = layout.index(here)
    layout.listed = [here]
    with pytest.raises(InvalidContentError, match="nested more than 8 deep"):
        read(layout)


def test_an_index_that_is_listed_again_and_again_is_followed_once(read: Read) -> None:
    layout = Layout()
    here = layout.manifest(A)
    for _ in range(7):
        here = layout.index(*[here] * 50)
    layout.listed = [here]
    assert content(read(layout)[0]) == [A]


@pytest.mark.parametrize("media_type", [MANIFEST, "application/x-ignored"])
def test_what_an_index_lists_under_many_names_is_bounded(read: Read, media_type: str) -> None:
    layout = Layout()
    leaves = [
        {"mediaType": media_type, "digest": f"sha256:{number:064}", "size": 1}
        for number in range(400)
    ]
    here = layout.index(*leaves)
    layout.listed = [{**here, "annotations": tagged(str(number))} for number in range(200)]
    with pytest.raises(InvalidContentError, match="more than 65536 manifests are listed"):
        read(layout)


def test_a_huge_manifest_is_not_read(read: Read) -> None:
    layout = Layout()
    layout.listed = [layout.blob(bytes(LIMITS.document + 1), MANIFEST)]
    with pytest.raises(LimitExceededError, match="--limit document=N"):
        read(layout)


def test_a_layout_of_another_version_is_refused(read: Read) -> None:
    layout = Layout()
    layout.listed = [layout.manifest(A)]
    layout.files["oci-layout"] = as_json({"imageLayoutVersion": "2.0.0"})
    with pytest.raises(InvalidContentError, match=r"oci-layout: version 2\.0\.0"):
        read(layout)


# Directories only


def test_blobs_may_be_links(tmp_path: Path) -> None:
    layout = Layout()
    layout.listed = [layout.manifest(A)]
    root = layout.write(tmp_path / "layout")
    (root / "blobs").rename(tmp_path / "cache")
    (root / "blobs").symlink_to("../cache")
    with open_images(root, spool=tmp_path, limits=LIMITS) as source:
        assert content(source.images()[0]) == [A]


def test_a_fifo_for_a_blob_is_no_blob(tmp_path: Path) -> None:
    layout = Layout()
    layout.listed = [layout.manifest(A)]
    root = layout.write(tmp_path / "layout")
    blob = root / "blobs/sha256" / sha256(A)[7:]
    with open_images(root, spool=tmp_path, limits=LIMITS) as source:
        (image,) = source.images()
        blob.unlink()
        os.mkfifo(blob)
        with pytest.raises(InvalidContentError, match="is not a regular file any more"):
            image.layers[0].open()
        with pytest.raises(InvalidContentError, match="is missing"):
            source.images()
