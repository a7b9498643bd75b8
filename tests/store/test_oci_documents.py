import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import referencing.jsonschema

from layerstore import digest
from layerstore.errors import InvalidContentError, LimitExceededError
from layerstore.limits import Limits
from layerstore.oci import documents
from layerstore.oci.documents import Descriptor, History, Index, Manifest, NotAnImageError, Platform
from tests.support.archives import CONFIG, INDEX, LAYER, MANIFEST, as_json, config, layer

LIMITS = Limits()
DOCKER = "application/vnd.docker.distribution.manifest"
TAR = layer("a")
A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def descriptor(media_type: str, **more: object) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": A, "size": 3, **more}


def manifest(**more: object) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "config": descriptor(CONFIG),
        "layers": [descriptor(LAYER), descriptor(LAYER + "+gzip", digest=B)],
        **more,
    }


def index(**more: object) -> dict[str, Any]:
    return {"schemaVersion": 2, "manifests": [descriptor(MANIFEST)], **more}


def parse(document: object, media_type: str | None = None) -> Manifest | Index:
    return documents.parse_document(as_json(document), "it", LIMITS, media_type)


def refusal(document: object, media_type: str | None = None) -> str:
    with pytest.raises(InvalidContentError) as refused:
        parse(document, media_type)
    assert "\n" not in str(refused.value)
    return str(refused.value)


# What is accepted


def test_a_manifest_tells_config_and_layers() -> None:
    found = parse(manifest(mediaType=MANIFEST, annotations={"k": "v"}), MANIFEST)
    assert isinstance(found, Manifest)
    assert (found.config.digest, found.config.size) == (A, 3)
    assert [one.digest for one in found.layers] == [A, B]


def test_docker_media_types_mean_the_same() -> None:
    rootfs = "application/vnd.docker.image.rootfs"
    found = parse(
        manifest(
            mediaType=f"{DOCKER}.v2+json",
            config=descriptor("application/vnd.docker.container.image.v1+json"),
            layers=[descriptor(f"{rootfs}.diff.tar.gzip"), descriptor(f"{rootfs}.diff.tar")],
        ),
        f"{DOCKER}.v2+json",
    )
    assert isinstance(found, Manifest)
    assert isinstance(
        parse(index(mediaType=f"{DOCKER}.list.v2+json"), f"{DOCKER}.list.v2+json"), Index
    )


def test_a_descriptor_may_say_oci_of_what_docker_wrote() -> None:
    document = manifest(mediaType=f"{DOCKER}.v2+json")
    assert isinstance(parse(document, MANIFEST), Manifest)


@pytest.mark.parametrize(
    "media_type",
    [
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.v1.tar+zstd",
    ],
)
def test_layers_of_all_kinds_are_accepted(media_type: str) -> None:
    found = parse(manifest(layers=[descriptor(media_type, urls=["https://elsewhere.example/"])]))
    assert isinstance(found, Manifest)
    assert found.layers[0].media_type == media_type


def test_keys_may_have_any_case() -> None:
    text = as_json(manifest(mediaType=MANIFEST)).decode()
    for key in ("schemaVersion", "mediaType", "config", "layers", "digest", "size"):
        text = text.replace(f'"{key}"', f'"{key.upper()}"')
    found = documents.parse_document(text.encode(), "it", LIMITS)
    assert isinstance(found, Manifest)
    assert len(found.layers) == 2


def test_a_key_in_the_right_case_goes_before_others() -> None:
    found = parse({"MEDIATYPE": INDEX, **manifest(mediaType=MANIFEST), "MediaType": INDEX})
    assert isinstance(found, Manifest)
    assert found.media_type == MANIFEST


def test_keys_of_annotations_keep_their_case() -> None:
    found = parse(index(manifests=[descriptor(MANIFEST, annotations={"MediaType": "x"})]))
    assert isinstance(found, Index)
    assert found.manifests[0].annotation("MediaType") == "x"
    assert found.manifests[0].annotation("mediaType") == ""


def test_null_is_as_if_it_were_not_there() -> None:
    found = parse(manifest(annotations=None, mediaType=None, layers=None))
    assert isinstance(found, Manifest)
    assert found.layers == ()
    assert parse(index(manifests=None)) == Index(schema_version=2, manifests=())
    platform = {"os": "linux", "architecture": "arm", "variant": None, "os.features": None}
    found_index = parse(index(manifests=[descriptor(MANIFEST, platform=platform)]))
    assert isinstance(found_index, Index)
    assert found_index.manifests[0].platform == Platform("arm", "linux")


# What is refused


def test_a_document_that_could_be_both_is_refused() -> None:
    both = "it claims to be an index and a manifest at once"
    assert refusal(manifest(manifests=[])).endswith(both)
    assert refusal(manifest(Manifests=None)).endswith(both)
    assert refusal(index(config=descriptor(CONFIG))).endswith(both)


def test_a_type_that_contradicts_the_content_is_refused() -> None:
    assert "is a manifest, but said to be" in refusal(manifest(mediaType=INDEX))
    assert "is an index, but said to be" in refusal(index(mediaType=MANIFEST))
    assert "is a manifest, but said to be" in refusal(manifest(), INDEX)
    assert "is an index, but said to be" in refusal(index(mediaType=INDEX), MANIFEST)


@pytest.mark.parametrize(
    ("layers", "place"),
    [
        ([descriptor(LAYER, size=-1)], "$.layers[0].size"),
        ([descriptor(LAYER), descriptor(LAYER, size=1 << 63)], "$.layers[1].size"),
        ([descriptor(LAYER, size=1.5)], "$.layers[0].size"),
        ([descriptor(LAYER, size="3")], "$.layers[0].size"),
        ([descriptor(LAYER, digest="sha256:../../etc")], "$.layers[0].digest"),
        ([descriptor(LAYER, digest=A + "\n")], "$.layers[0].digest"),
        ([descriptor(LAYER, digest="md5:" + "a" * 32)], "$.layers[0].digest"),
        ([{"mediaType": LAYER, "size": 1}], "$.layers[0]"),
        ([None], "$.layers[0]"),
        ("layers", "$.layers"),
        ([descriptor("application/tar")], "$.layers[0].mediaType"),
        ([descriptor(LAYER + "+gzip+encrypted")], "$.layers[0].mediaType"),
        ([descriptor(LAYER), descriptor(LAYER, size=1 << 40)], "$.layers[1].size"),
    ],
)
def test_a_bad_descriptor_is_named_by_its_place(layers: object, place: str) -> None:
    assert refusal(manifest(layers=layers)).endswith(f"at `{place}`")


def test_reasons_are_told() -> None:
    assert "is encrypted" in refusal(manifest(layers=[descriptor(LAYER + "+encrypted")]))
    old = {"schemaVersion": 1, "name": "a", "fsLayers": [], "history": []}
    assert "schema version 1, which ended" in refusal(old)
    assert "schema version 3" in refusal(manifest(schemaVersion=3))
    assert "neither an index nor an image's manifest" in refusal({"schemaVersion": 2, "blobs": []})


@pytest.mark.parametrize(
    "document",
    [
        manifest(config=descriptor("application/vnd.oci.empty.v1+json")),
        manifest(config=descriptor("application/vnd.cncf.helm.config.v1+json")),
        manifest(mediaType="application/vnd.oci.artifact.manifest.v1+json"),
        {"schemaVersion": 2, "blobs": []},
    ],
)
def test_what_is_in_order_but_no_image_is_told_apart(document: object) -> None:
    with pytest.raises(NotAnImageError):
        parse(document)


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"null", b"{", b"{} {}", b"\xff", b'{"a": NaN}', b"[" * 100_000, b"{}"],
    ids=range(9),
)
def test_what_is_no_document_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidContentError, match=r"^it: [^\n]+$"):
        documents.parse_document(data, "it", LIMITS)


def test_large_documents_are_refused_and_the_option_named() -> None:
    with pytest.raises(LimitExceededError, match="--limit document=N"):
        documents.parse_document(as_json(manifest()), "it", Limits(document=50))
    with pytest.raises(LimitExceededError, match="--limit layers=N"):
        documents.parse_document(as_json(manifest()), "it", Limits(layers=1))


def test_an_index_belongs_where_an_index_belongs() -> None:
    assert len(documents.parse_index(as_json(index()), "it", LIMITS).manifests) == 1
    with pytest.raises(InvalidContentError, match="a manifest where an index belongs"):
        documents.parse_index(as_json(manifest()), "it", LIMITS)


# Configs


def parse_config(document: object) -> documents.ImageConfig:
    return documents.parse_config(as_json(document), "config", LIMITS)


def test_a_config_tells_layers_and_history_and_keeps_the_rest() -> None:
    run = {"Env": ["A=b"], "Labels": {"Os": "x"}, "Unknown": [1, {"b": None}]}
    steps = [{"created_by": "COPY"}, {"created_by": "ENV", "empty_layer": True}]
    found = parse_config(config(TAR, config=run, history=steps, variant="v2"))
    assert found.rootfs.diff_ids == (digest.of_bytes(TAR),)
    assert [step.empty_layer for step in found.history] == [False, True]
    assert found.config == run
    assert found.platform == Platform("amd64", "linux", variant="v2")


def test_a_config_may_have_nulls() -> None:
    found = parse_config(config(TAR, config=None, history=None, created=None, author=None))
    assert (found.config, found.history, found.created) == (None, (), "")


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({}, "no rootfs"),
        ({"rootfs": {"type": "layers+base", "diff_ids": []}}, "another type than layers"),
        ({"rootfs": {"diff_ids": ["sha256:zz"]}}, "`$.rootfs.diff_ids[0]`"),
        ({"rootfs": {"diff_ids": ["sha512:" + "a" * 128]}}, "`$.rootfs.diff_ids[0]`"),
        (config(config="sh"), "`$.config`"),
        (config(history=[{"created_by": 7}]), "`$.history[0].created_by`"),
    ],
)
def test_a_config_that_is_none_is_refused(document: object, reason: str) -> None:
    with pytest.raises(InvalidContentError) as refused:
        parse_config(document)
    assert reason in str(refused.value)


def test_a_config_names_as_many_layers_as_there_are() -> None:
    found = parse_config(config(TAR, TAR))
    documents.check_layers(2, found, "it")
    with pytest.raises(InvalidContentError, match="3 layers, but its config names 2"):
        documents.check_layers(3, found, "it")
    with pytest.raises(LimitExceededError):
        documents.parse_config(as_json(config(TAR, TAR)), "it", Limits(layers=1))


@pytest.mark.parametrize("key", ["history", "History"])
def test_a_history_may_be_longer_than_the_layers_but_not_endless(key: str) -> None:
    def steps(number: int) -> bytes:
        return as_json({**config(), key: [{}] * number})

    limits = Limits(layers=2)
    assert len(documents.parse_config(steps(32), "it", limits).history) == 32
    with pytest.raises(LimitExceededError, match="33 steps, where 32 are allowed"):
        documents.parse_config(steps(33), "it", limits)


# What we write


def written() -> dict[str, bytes]:
    image = documents.make_config(
        [digest.of_bytes(TAR)],
        [
            History("2024-01-01T00:00:00Z", "COPY . /"),
            History(created_by="CMD sh", empty_layer=True),
        ],
        Platform("arm64", "linux", variant="v8"),
        config={"Env": ["A=b"], "Cmd": ["sh"], "Labels": {"b": "1", "a": "2"}},
        created="2024-01-01T00:00:00Z",
    )
    blob = Descriptor(LAYER, digest.of_bytes(TAR), len(TAR))
    manifest = documents.make_manifest(image, [blob])
    listed = Descriptor(
        MANIFEST,
        digest.of_bytes(manifest),
        len(manifest),
        annotations={"org.opencontainers.image.ref.name": "1"},
        platform=Platform("arm64", "linux"),
    )
    bare = documents.make_config([digest.of_bytes(TAR)], [], Platform("amd64", "linux"))
    index = documents.make_index([listed])
    return {"config": image, "bare config": bare, "manifest": manifest, "index": index}


def test_what_we_write_we_read() -> None:
    documents_ = written()
    found = documents.parse_document(documents_["manifest"], "it", LIMITS, MANIFEST)
    assert isinstance(found, Manifest)
    assert found.config.digest == digest.of_bytes(documents_["config"])
    read = documents.parse_config(documents_["config"], "it", LIMITS)
    assert read.platform == Platform("arm64", "linux", variant="v8")
    assert [step.created_by for step in read.history] == ["COPY . /", "CMD sh"]
    documents.check_layers(len(found.layers), read, "it")
    index = documents.parse_document(documents_["index"], "it", LIMITS, INDEX)
    assert isinstance(index, Index)
    assert index.manifests[0].platform == Platform("arm64", "linux")


def test_the_same_content_is_written_the_same() -> None:
    def labelled(labels: dict[str, str]) -> bytes:
        return documents.make_config([], [], Platform("a", "b"), config={"Labels": labels})

    assert labelled({"a": "1", "b": "2"}) == labelled({"b": "2", "a": "1"})
    assert written()["bare config"] == (
        b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["'
        + digest.of_bytes(TAR).encode()
        + b'"]},"history":[]}'
    ).replace(b',"history":[]', b"")


# The schemas of the specification are not part of this repository: where they are not beside it,
# there is no such test.
SCHEMAS = Path(__file__).parents[3] / "shared/images/opencontainers_image-spec__schema"
if SCHEMAS.is_dir():

    def schema(address: str) -> referencing.Resource[Any]:
        contents = json.loads((SCHEMAS / address.rpartition("/")[2]).read_text())
        return referencing.Resource.from_contents(contents, referencing.jsonschema.DRAFT4)

    @pytest.mark.parametrize(
        ("name", "kind"),
        [
            ("config", "config"),
            ("bare config", "config"),
            ("manifest", "image-manifest"),
            ("index", "image-index"),
        ],
    )
    def test_the_specification_accepts_what_we_write(name: str, kind: str) -> None:
        validator = jsonschema.Draft4Validator(
            schema(f"{kind}-schema.json").contents,
            registry=referencing.Registry(retrieve=schema),  # type: ignore[call-arg]
        )
        document = json.loads(written()[name])
        validator.validate(document)
        with pytest.raises(jsonschema.ValidationError):
            validator.validate({**document, "schemaVersion": 1, "rootfs": []})
