"""An image as it was found in a layout or an archive: its documents, and where its layers lie."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from layerstore.digest import Digest
from layerstore.oci import platforms
from layerstore.oci.documents import Platform
from layerstore.oci.streams import Content, ExtentReader


@dataclass(frozen=True, slots=True)
class SourceLayer:
    """A layer that can be read.

    diff_id: the digest that its tar should have. media_type, digest, size (bytes): what the
    manifest says of the blob; None where there is no manifest. Nothing of it is checked yet.
    """

    diff_id: Digest
    media_type: str | None
    digest: Digest | None
    size: int | None
    content: Content

    def open(self) -> ExtentReader:
        """A reader of the blob as it is, perhaps compressed; several may be open at a time.

        It works while the source is open, in this process and in those forked from it. Raises
        OSError, InvalidContentError.
        """
        return self.content.open()


@dataclass(frozen=True, slots=True)
class SourceImage:
    """An image that can be read.

    names: as ``name:tag``. references: all that it is called there, as it stands there; an OCI
    layout often has nothing but a tag. manifest: None where the source has none (an archive of
    docker's). Manifest and config have the digests and sizes that are claimed for them.
    """

    names: tuple[str, ...]
    references: tuple[str, ...]
    platform: Platform
    manifest: bytes | None
    config: bytes
    layers: tuple[SourceLayer, ...]

    def named(self, names: Iterable[str], references: Iterable[str]) -> SourceImage:
        """The same image, with these names after those that it has."""
        return replace(
            self,
            names=tuple(dict.fromkeys((*self.names, *names))),
            references=tuple(dict.fromkeys((*self.references, *references))),
        )


def suited(images: Sequence[SourceImage], platform: Platform) -> list[SourceImage]:
    """Those that run on *platform*. Raises StoreError if none does."""
    found = [image for image in images if platforms.distance(platform, image.platform) is not None]
    if not found:
        raise platforms.unsuited(platform, {platforms.spelled(image.platform) for image in images})
    return found
