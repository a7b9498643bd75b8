"""Manifest, index and config: what they mean, checked when they are read; and how we write them.

The OCI image specification (v1) and Docker's image manifest (schema 2) differ in media types
only; both are read, OCI is written. What is written is the same for the same input: keys in a
fixed order, no whitespace.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct, field

from layerstore import digest
from layerstore.digest import Digest
from layerstore.errors import InvalidContentError, LimitExceededError, counted
from layerstore.limits import Limits
from layerstore.oci import lenient
from layerstore.oci.text import shown

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"

MANIFESTS: Final = frozenset({OCI_MANIFEST, "application/vnd.docker.distribution.manifest.v2+json"})
INDEXES: Final = frozenset({OCI_INDEX, "application/vnd.docker.distribution.manifest.list.v2+json"})
CONFIGS: Final = frozenset({OCI_CONFIG, "application/vnd.docker.container.image.v1+json"})
LAYERS: Final = frozenset(
    f"{base}{compression}"
    for base, compressions in (
        (OCI_LAYER, ("", "+gzip", "+zstd")),
        # Not to be distributed, but if the content is there it is a layer like others.
        ("application/vnd.oci.image.layer.nondistributable.v1.tar", ("", "+gzip", "+zstd")),
        ("application/vnd.docker.image.rootfs.diff.tar", ("", ".gzip", ".zstd")),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar", ("", ".gzip", ".zstd")),
    )
    for compression in compressions
)

_STEPS_OF_LAYER: Final = 16
"""Most steps of a history make no layer, but there are not many more of them than layers."""

_Digest = Annotated[Digest, Meta(pattern=digest.PATTERN)]
_DiffID = Annotated[Digest, Meta(pattern=digest.SHA256_PATTERN)]
_Size = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


class NotAnImageError(InvalidContentError):
    """A manifest that is in order, but not of an image: of a chart, a signature, a cache."""


class Platform(Struct, frozen=True, omit_defaults=True):
    """What an image runs on, in Go's words (``amd64``, ``linux``); empty where nothing is said."""

    architecture: str = ""
    os: str = ""
    os_version: str = field(name="os.version", default="")
    os_features: tuple[str, ...] = field(name="os.features", default=())
    variant: str = ""


class Descriptor(Struct, frozen=True, omit_defaults=True, rename="camel"):
    """Says of a blob what it is, its size in bytes, and its digest."""

    media_type: str
    digest: _Digest
    size: _Size
    urls: tuple[str, ...] = ()
    annotations: dict[str, str | None] | None = None
    platform: Platform | None = None

    def annotation(self, key: str) -> str:
        """The annotation *key*; empty where there is none."""
        return (self.annotations or {}).get(key) or ""


class Manifest(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """One image for one platform. layers: the base first."""

    schema_version: int
    media_type: str = ""
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: dict[str, str | None] | None = None


class Index(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """Manifests, and other indexes: one image for several platforms, or several images."""

    schema_version: int
    media_type: str = ""
    manifests: tuple[Descriptor, ...]
    annotations: dict[str, str | None] | None = None


class History(Struct, frozen=True, omit_defaults=True):
    """One step that made an image. created: RFC 3339. empty_layer: it made no layer."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class RootFS(Struct, frozen=True):
    """The layers' tars by the digests of their bytes, not compressed, the base first."""

    type: str = "layers"
    diff_ids: tuple[_DiffID, ...] = ()


class ImageConfig(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a manifest's config blob says of an image.

    config: how to run it, as it stands there (``Env``, ``Cmd``, ``Labels`` and so on).
    """

    created: str = ""
    author: str = ""
    architecture: str = ""
    variant: str = ""
    os: str = ""
    os_version: str = field(name="os.version", default="")
    os_features: tuple[str, ...] = field(name="os.features", default=())
    config: dict[str, Any] | None = None
    rootfs: RootFS
    history: tuple[History, ...] = ()

    @property
    def platform(self) -> Platform:
        """What the image runs on."""
        return Platform(self.architecture, self.os, self.os_version, self.os_features, self.variant)


def parse_document(
    data: bytes, what: str, limits: Limits, media_type: str | None = None
) -> Manifest | Index:
    """Read a manifest or an index, called *what* in messages.

    media_type: what the descriptor that led here says it is. Raises InvalidContentError with the
    place in the document (LimitExceededError for its size or its number of layers,
    NotAnImageError). A document that can be taken for both, or is not of the type it is said to be,
    is refused: two programs could read two different images in it (CVE-2021-41190).
    """
    document = lenient.decode(data, what, limits)
    keys = lenient.keys(document, what)
    _refuse_other_formats(keys, what)
    if "manifests" in keys:
        index = lenient.convert(_with_list(document, "manifests"), Index, what)
        _check_type(index.media_type, media_type, INDEXES, "an index", what)
        _check_version(index.schema_version, what)
        return index
    manifest = lenient.convert(_with_list(document, "layers"), Manifest, what)
    _check_type(manifest.media_type, media_type, MANIFESTS, "a manifest", what)
    _check_version(manifest.schema_version, what)
    _check_image(manifest, what, limits)
    return manifest


def parse_index(data: bytes, what: str, limits: Limits) -> Index:
    """As parse_document, of an index."""
    found = parse_document(data, what, limits)
    if not isinstance(found, Index):
        raise InvalidContentError(f"{what}: a manifest where an index belongs")
    return found


def parse_config(data: bytes, what: str, limits: Limits) -> ImageConfig:
    """Read a config, called *what* in messages.

    Raises InvalidContentError (LimitExceededError for its size, its layers or its history).
    """
    document = lenient.decode(data, what, limits)
    if "rootfs" not in lenient.keys(document, what):
        raise InvalidContentError(
            f"{what}: no rootfs: it is the config of something else than an image"
        )
    _check_history(document, what, limits)
    config = lenient.convert(document, ImageConfig, what)
    if config.rootfs.type not in ("layers", ""):
        raise InvalidContentError(f"{what}: a rootfs of another type than layers")
    _check_number_of_layers(len(config.rootfs.diff_ids), what, limits)
    return config


def check_layers(layers: int, config: ImageConfig, what: str) -> None:
    """Raise InvalidContentError unless the config names as many layers as there are."""
    named = len(config.rootfs.diff_ids)
    if named != layers:
        number = counted(layers, "layer")
        raise InvalidContentError(f"{what}: {number}, but its config names {named}")


def make_config(
    diff_ids: Iterable[Digest],
    history: Iterable[History],
    platform: Platform,
    *,
    config: Mapping[str, Any] | None = None,
    created: str = "",
    author: str = "",
) -> bytes:
    """The config of an image of these layers (base first), for a platform with os and architecture.

    config: how to run it. created: RFC 3339; left out where empty.
    """
    return _encoded(
        ImageConfig(
            created=created,
            author=author,
            architecture=platform.architecture,
            variant=platform.variant,
            os=platform.os,
            os_version=platform.os_version,
            os_features=platform.os_features,
            config=None if config is None else dict(config),
            rootfs=RootFS(diff_ids=tuple(diff_ids)),
            history=tuple(history),
        )
    )


def derive_config(
    config: bytes,
    diff_ids: Iterable[Digest],
    history: Iterable[History],
    *,
    created: str,
    author: str = "",
) -> bytes:
    """The config of an image of these layers that is otherwise the one of *config*.

    What is not known here stays as well. author: the old one where empty.
    """
    new: dict[str, object] = {
        "created": created,
        "rootfs": RootFS(diff_ids=tuple(diff_ids)),
        "history": tuple(history),
    }
    if author:
        new["author"] = author
    # Go takes a key in any case.
    kept = {
        key: value
        for key, value in msgspec.json.decode(config).items()
        if key.casefold() not in new
    }
    return msgspec.json.encode(kept | new, order="deterministic")


def make_manifest(config: bytes, layers: Iterable[Descriptor]) -> bytes:
    """The manifest of the image with this config and these layers (base first)."""
    return _encoded(
        Manifest(
            schema_version=2,
            media_type=OCI_MANIFEST,
            config=Descriptor(OCI_CONFIG, digest.of_bytes(config), len(config)),
            layers=tuple(layers),
        )
    )


def make_index(manifests: Iterable[Descriptor]) -> bytes:
    """The index of these manifests, in this order."""
    return _encoded(Index(schema_version=2, media_type=OCI_INDEX, manifests=tuple(manifests)))


def _encoded(document: Struct) -> bytes:
    return msgspec.json.encode(document, order="deterministic")


def _refuse_other_formats(keys: frozenset[str], what: str) -> None:
    if "fslayers" in keys:
        raise InvalidContentError(
            f"{what}: a manifest of schema version 1, which ended in 2017;"
            " convert it, for example with skopeo copy --format oci"
        )
    if "manifests" in keys and keys & {"layers", "config"}:
        raise InvalidContentError(f"{what}: it claims to be an index and a manifest at once")
    if not keys & {"manifests", "layers"}:
        raise NotAnImageError(f"{what}: neither an index nor an image's manifest")


def _with_list(document: dict[str, object], name: str) -> dict[str, object]:
    """*document* with an empty list for a null one: Go writes that for no manifests at all."""
    return {
        key: [] if value is None and key.casefold() == name else value
        for key, value in document.items()
    }


def _check_type(
    told: str, expected: str | None, accepted: frozenset[str], kind: str, what: str
) -> None:
    for media_type in (told, expected):
        if not media_type or media_type in accepted:
            continue
        if media_type in MANIFESTS | INDEXES:
            raise InvalidContentError(f"{what}: it is {kind}, but said to be {media_type}")
        raise NotAnImageError(f"{what}: {shown(media_type)!r} is not the type of an image")


def _check_version(version: int, what: str) -> None:
    if version != 2:
        raise InvalidContentError(f"{what}: schema version {version}, where only 2 is known")


def _check_image(manifest: Manifest, what: str, limits: Limits) -> None:
    if manifest.config.media_type not in CONFIGS:
        raise NotAnImageError(
            f"{what}: not of an image: its config is {shown(manifest.config.media_type)!r}"
        )
    _check_number_of_layers(len(manifest.layers), what, limits)
    for number, layer in enumerate(manifest.layers):
        if layer.media_type not in LAYERS:
            kind = "is encrypted" if layer.media_type.endswith("+encrypted") else "is not a layer"
            raise InvalidContentError(
                f"{what}: {shown(layer.media_type)!r} {kind} - at `$.layers[{number}].mediaType`"
            )
        if layer.size > limits.bytes:
            raise LimitExceededError(
                f"{what}: a layer of {layer.size} bytes; allow more with --limit bytes=N"
                f" - at `$.layers[{number}].size`"
            )


def _check_number_of_layers(number: int, what: str, limits: Limits) -> None:
    if number > limits.layers:
        raise LimitExceededError(
            f"{what}: {number} layers are more than {limits.layers};"
            " allow more with --limit layers=N"
        )


def _check_history(document: dict[str, object], what: str, limits: Limits) -> None:
    # Before it is converted: a step of two bytes takes a hundred times as much in memory.
    most = _STEPS_OF_LAYER * limits.layers
    for key, value in document.items():
        if key.casefold() == "history" and isinstance(value, list) and len(value) > most:
            raise LimitExceededError(
                f"{what}: a history of {len(value)} steps, where {most} are allowed;"
                " allow more with --limit layers=N"
            )
