"""Images as docker saved them before 1.10: layers with a parent each, no digests (spec v1).

What the layers' tars have as digests has to be found out by reading them, here, once more than
with other formats. Format: docker's image/spec/v1.md; how it becomes a config:
docker's image/v1/imagev1.go.
"""

from __future__ import annotations

import re
from typing import Any, Final

from msgspec import Struct

from layerstore.compression import open_decompressed
from layerstore.digest import Digest, HashingReader
from layerstore.errors import InvalidContentError, LimitExceededError
from layerstore.limits import Limits
from layerstore.oci import documents, lenient, names, platforms
from layerstore.oci.documents import History, Platform
from layerstore.oci.files import Files, read
from layerstore.oci.images import SourceImage, SourceLayer, suited
from layerstore.oci.streams import Content
from layerstore.oci.text import shown

REPOSITORIES: Final = "repositories"

_ID: Final = re.compile(r"[0-9a-f]{64}")
_CHUNK: Final = 1 << 20


class _Run(Struct, frozen=True, rename="pascal"):
    """How the container ran that a layer was made from."""

    cmd: tuple[str, ...] = ()


class _Layer(Struct, frozen=True):
    """The json file of a layer, which describes the image that ends with it."""

    id: str
    parent: str = ""
    created: str = ""
    author: str = ""
    comment: str = ""
    architecture: str = ""
    os: str = ""
    config: dict[str, Any] | None = None
    container_config: _Run | None = None

    @property
    def history(self) -> History:
        command = self.container_config.cmd if self.container_config else ()
        return History(self.created, " ".join(command), self.author, self.comment)

    @property
    def platform(self) -> Platform:
        # Docker ran on nothing else.
        return platforms.normalised(Platform(self.architecture or "amd64", self.os or "linux"))


class LegacyArchive:
    """The images that the file ``repositories`` names."""

    def __init__(self, files: Files, limits: Limits) -> None:
        """Read what is there. Raises InvalidContentError, OSError."""
        self._files: Final = files
        self._limits: Final = limits
        self._diff_ids: Final[dict[str, Digest]] = {}
        self._named: Final = self._read_names()

    def images(self, platform: Platform | None, reference: str | None) -> list[SourceImage]:
        """As :meth:`layerstore.oci.docker.DockerArchive.images`."""
        called: dict[str, list[str]] = {}
        for name, top in self._named.items():
            if reference is None or names.is_among(reference, (name,)):
                called.setdefault(top, []).append(name)
        if not called:
            raise names.unknown(reference or "", self._named)
        images = [self._image(top, tuple(named)) for top, named in called.items()]
        return images if platform is None else suited(images, platform)

    def _read_names(self) -> dict[str, str]:
        """Names with tags, and the topmost layer of each."""
        data = read(self._required(REPOSITORIES), REPOSITORIES, self._limits)
        document = lenient.decode(data, REPOSITORIES, self._limits)
        lenient.keys(document, REPOSITORIES)
        found = {}
        for name, tags in document.items():
            lenient.keys(tags, REPOSITORIES)
            for tag, top in tags.items():
                normal = names.normalised(f"{name}:{tag}")
                if normal is None:
                    raise InvalidContentError(
                        f"{REPOSITORIES}: {shown(f'{name}:{tag}')} is not a name of an image"
                    )
                found[normal] = str(top)
        return found

    def _image(self, top: str, called: tuple[str, ...]) -> SourceImage:
        chain = self._chain(top)
        contents = [self._required(f"{layer.id}/layer.tar") for layer in chain]
        diff_ids = [
            self._diff_id(layer.id, content) for layer, content in zip(chain, contents, strict=True)
        ]
        last = chain[-1]
        config = documents.make_config(
            diff_ids,
            [layer.history for layer in chain],
            last.platform,
            config=last.config,
            created=last.created,
            author=last.author,
        )
        return SourceImage(
            names=called,
            references=called,
            platform=last.platform,
            manifest=None,
            config=config,
            layers=tuple(
                SourceLayer(diff_id, None, None, None, content)
                for diff_id, content in zip(diff_ids, contents, strict=True)
            ),
        )

    def _chain(self, top: str) -> list[_Layer]:
        """The layers of an image, the base first."""
        chain = [self._layer(top)]
        while parent := chain[-1].parent:
            if len(chain) == self._limits.layers:
                raise LimitExceededError(
                    f"{top}: more than {self._limits.layers} layers, or a circle of parents;"
                    " allow more with --limit layers=N"
                )
            chain.append(self._layer(parent))
        return chain[::-1]

    def _layer(self, identity: str) -> _Layer:
        if not _ID.fullmatch(identity):
            raise InvalidContentError(f"{shown(identity)!r} is not the ID of a layer")
        what = f"{identity}/json"
        data = read(self._required(what), what, self._limits)
        layer = lenient.convert(lenient.decode(data, what, self._limits), _Layer, what)
        if layer.id != identity:
            raise InvalidContentError(f"{what}: it is of another layer")
        return layer

    def _diff_id(self, identity: str, content: Content) -> Digest:
        if identity not in self._diff_ids:
            with content.open() as raw:
                reader = HashingReader(open_decompressed(raw, self._limits))
                while reader.read(_CHUNK):
                    pass
            self._diff_ids[identity] = reader.digest
        return self._diff_ids[identity]

    def _required(self, path: str) -> Content:
        content = self._files.find(path)
        if content is None:
            raise InvalidContentError(f"{path} is missing")
        return content
