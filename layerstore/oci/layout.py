"""Images in an OCI image layout (image-spec, image-layout.md), and in what skopeo calls dir:.

Which images there are is a choice of the reader's. Here it is this: what index.json lists under
one name is one image for several platforms, as are manifests without a name when each is for
another platform; everything else is an image of its own. Where there is one manifest only, it is
taken whatever its platform, unless another was asked for.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from layerstore import digest
from layerstore.digest import Digest
from layerstore.errors import InvalidContentError, StoreError, counted
from layerstore.limits import Limits
from layerstore.oci import documents, names, platforms
from layerstore.oci.documents import (
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    NotAnImageError,
    Platform,
)
from layerstore.oci.files import Files, read_verified
from layerstore.oci.images import SourceImage, SourceLayer
from layerstore.oci.streams import Content

INDEX: Final = "index.json"
MARK: Final = "oci-layout"
_NESTING_MAX: Final = 8
_LISTED_MAX: Final = 1 << 16

REFERENCE: Final = "org.opencontainers.image.ref.name"
FULL_NAME: Final = "io.containerd.image.name"
_ATTESTATION: Final = ("vnd.docker.reference.type", "attestation-manifest")


class Blobs(Protocol):
    """Finds blobs by what a descriptor says of them."""

    def find(self, descriptor: Descriptor) -> Content | None:
        """The blob; None if it is not there. Raises OSError, InvalidContentError."""
        ...


class LayoutBlobs:
    """The blobs of an OCI layout."""

    def __init__(self, files: Files) -> None:
        self._files: Final = files

    def find(self, descriptor: Descriptor) -> Content | None:
        """See :class:`Blobs`."""
        name = descriptor.digest
        return self._files.find(f"blobs/{digest.algorithm(name)}/{digest.encoded(name)}")


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A manifest that an index leads to; top: the descriptor in the outermost index."""

    descriptor: Descriptor
    top: Descriptor
    platform: Platform | None

    @property
    def references(self) -> tuple[str, ...]:
        found = (self.top.annotation(FULL_NAME), self.top.annotation(REFERENCE))
        return tuple(dict.fromkeys(text for text in found if text))

    @property
    def names(self) -> tuple[str, ...]:
        # One word alone is a tag; of what, the layout does not say.
        named = (text for text in self.references if ":" in text or "/" in text)
        return tuple(filter(None, map(names.normalised, named)))


class Layout:
    """The images that an index leads to."""

    def __init__(self, index: Index, blobs: Blobs, limits: Limits) -> None:
        self._index: Final = index
        self._blobs: Final = blobs
        self._limits: Final = limits
        self._known: Final[dict[Digest, Index]] = {}
        self._platforms: Final[dict[Digest, Platform | None]] = {}

    @property
    def is_empty(self) -> bool:
        """Whether nothing is listed. (docker save wrote such indexes beside its manifest.json.)"""
        return not self._index.manifests

    def images(self, platform: Platform | None, reference: str | None) -> list[SourceImage]:
        """The images for *platform* (None: this machine's), that *reference* names (None: all).

        Raises StoreError if there is none, with what there is instead; InvalidContentError,
        OSError.
        """
        leaves = self._leaves()
        if reference is not None:
            leaves = _called(reference, leaves)
        found: dict[Digest, SourceImage] = {}
        others: list[NotAnImageError] = []
        for choice in _choices(leaves):
            leaf = self._choose(choice, platform)
            if leaf is None:
                continue
            try:
                image = found.get(leaf.descriptor.digest) or self._image(leaf.descriptor)
            except NotAnImageError as error:
                others.append(error)
            else:
                found[leaf.descriptor.digest] = image.named(leaf.names, leaf.references)
        if found:
            return list(found.values())
        if others:
            raise others[0]
        raise self._unsuited(leaves, platform or platforms.host())

    # What is listed

    def _leaves(self) -> list[_Leaf]:
        visits = itertools.count()
        leaves = [
            leaf
            for top in self._index.manifests
            for leaf in self._below(top, top, None, set(), 0, visits)
        ]
        if not leaves:
            raise NotAnImageError("it lists no image")
        return leaves

    def _below(
        self,
        here: Descriptor,
        top: Descriptor,
        above: Platform | None,
        seen: set[str],
        depth: int,
        visits: Iterator[int],
    ) -> Iterator[_Leaf]:
        # Of the same index each name has its own leaves, so what is listed may be far more than
        # what the documents take.
        if next(visits) == _LISTED_MAX:
            raise InvalidContentError(f"more than {_LISTED_MAX} manifests are listed")
        if here.digest in seen or _is_attestation(here):
            return
        seen.add(here.digest)
        platform = here.platform or above
        if here.media_type in documents.MANIFESTS:
            yield _Leaf(here, top, platform)
        elif here.media_type in documents.INDEXES:
            if depth == _NESTING_MAX:
                raise InvalidContentError(
                    f"{here.digest}: indexes are nested more than {depth} deep"
                )
            # Of an index for many platforms not all need to be there.
            if depth and self._blobs.find(here) is None:
                return
            for below in self._index_of(here).manifests:
                yield from self._below(below, top, platform, seen, depth + 1, visits)
        # Anything else is to be ignored (image-spec, image-index.md, "manifests").

    # Which of them

    def _choose(self, choice: Sequence[_Leaf], platform: Platform | None) -> _Leaf | None:
        """The manifest that fits best; None if none does."""
        if platform is None and len(choice) == 1:
            return choice[0]
        best: tuple[int, _Leaf] | None = None
        for leaf in choice:
            offered = self._platform(leaf)
            if offered is None or self._blobs.find(leaf.descriptor) is None:
                continue
            distance = platforms.distance(platform or platforms.host(), offered)
            if distance is not None and (best is None or distance < best[0]):
                best = distance, leaf
        return best[1] if best else None

    def _platform(self, leaf: _Leaf) -> Platform | None:
        """What it runs on, by the index or else by its config; None if nobody says."""
        if leaf.platform is not None:
            return leaf.platform
        known = leaf.descriptor.digest
        if known not in self._platforms:
            self._platforms[known] = self._platform_of_config(leaf.descriptor)
        return self._platforms[known]

    def _platform_of_config(self, descriptor: Descriptor) -> Platform | None:
        if self._blobs.find(descriptor) is None:
            return None
        try:
            manifest = self._manifest(descriptor, self._read(descriptor))
        except NotAnImageError:
            return None
        return self._config(manifest, self._read(manifest.config)).platform

    def _unsuited(self, leaves: Sequence[_Leaf], wanted: Platform) -> StoreError:
        there: set[str] = set()
        absent: set[str] = set()
        for leaf in leaves:
            found = there if self._blobs.find(leaf.descriptor) else absent
            platform = self._platform(leaf)
            if platform is not None:
                found.add(platforms.spelled(platform))
        return platforms.unsuited(wanted, there, absent)

    # What it is

    def _image(self, descriptor: Descriptor) -> SourceImage:
        raw = self._read(descriptor)
        manifest = self._manifest(descriptor, raw)
        raw_config = self._read(manifest.config)
        config = self._config(manifest, raw_config)
        documents.check_layers(len(manifest.layers), config, descriptor.digest)
        return SourceImage(
            names=(),
            references=(),
            platform=config.platform,
            manifest=raw,
            config=raw_config,
            layers=tuple(
                SourceLayer(
                    diff_id, layer.media_type, layer.digest, layer.size, self._required(layer)
                )
                for diff_id, layer in zip(config.rootfs.diff_ids, manifest.layers, strict=True)
            ),
        )

    def _index_of(self, descriptor: Descriptor) -> Index:
        if descriptor.digest not in self._known:
            found = self._document(descriptor, self._read(descriptor))
            if not isinstance(found, Index):
                raise InvalidContentError(f"{descriptor.digest}: a manifest where an index belongs")
            self._known[descriptor.digest] = found
        return self._known[descriptor.digest]

    def _manifest(self, descriptor: Descriptor, raw: bytes) -> Manifest:
        found = self._document(descriptor, raw)
        if not isinstance(found, Manifest):
            raise InvalidContentError(f"{descriptor.digest}: an index where a manifest belongs")
        return found

    def _config(self, manifest: Manifest, raw: bytes) -> ImageConfig:
        return documents.parse_config(raw, manifest.config.digest, self._limits)

    def _document(self, descriptor: Descriptor, raw: bytes) -> Manifest | Index:
        return documents.parse_document(raw, descriptor.digest, self._limits, descriptor.media_type)

    def _read(self, descriptor: Descriptor) -> bytes:
        return read_verified(self._required(descriptor), descriptor, self._limits)

    def _required(self, descriptor: Descriptor) -> Content:
        content = self._blobs.find(descriptor)
        if content is None:
            where = ": it is to be had elsewhere" if descriptor.urls else ""
            raise InvalidContentError(f"the blob {descriptor.digest} is missing{where}")
        if content.size != descriptor.size:
            raise InvalidContentError(
                f"the blob {descriptor.digest} has {counted(content.size, 'byte')},"
                f" not the {descriptor.size} it claims"
            )
        return content


def _is_attestation(descriptor: Descriptor) -> bool:
    key, value = _ATTESTATION
    unknown = descriptor.platform is not None and platforms.is_unknown(descriptor.platform)
    return unknown or descriptor.annotation(key) == value


def _called(reference: str, leaves: Sequence[_Leaf]) -> list[_Leaf]:
    """Those that *reference* names. Raises StoreError if there is none."""
    found = [leaf for leaf in leaves if names.is_among(reference, leaf.references)]
    if not found:
        raise names.unknown(reference, (name for leaf in leaves for name in leaf.references))
    return found


def _choices(leaves: Sequence[_Leaf]) -> list[list[_Leaf]]:
    """Lists of manifests of which one is to be taken."""
    choices: dict[object, list[_Leaf]] = {}
    loose: list[_Leaf] = []
    for leaf in leaves:
        if leaf.references:
            choices.setdefault(leaf.references, []).append(leaf)
        elif leaf.descriptor is leaf.top:
            loose.append(leaf)
        else:
            choices.setdefault(leaf.top.digest, []).append(leaf)
    spelled = {platforms.spelled(leaf.platform) for leaf in loose if leaf.platform is not None}
    if len(spelled) == len(loose) > 0:
        return [*choices.values(), loose]
    return [*choices.values(), *([leaf] for leaf in loose)]
