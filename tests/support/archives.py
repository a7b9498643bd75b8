"""Image layouts and archives for tests, made by hand so that anything in them can be wrong."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OCI = "application/vnd.oci.image"
MANIFEST = f"{OCI}.manifest.v1+json"
INDEX = f"{OCI}.index.v1+json"
CONFIG = f"{OCI}.config.v1+json"
LAYER = f"{OCI}.layer.v1.tar"

Document = dict[str, Any]


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def as_json(document: object) -> bytes:
    return json.dumps(document).encode()


@dataclass(frozen=True)
class Link:
    """An entry of a tar that is a link to *target*."""

    target: str
    hard: bool = False


def tar(
    entries: Mapping[str, bytes | Link | None] | Sequence[tuple[str, bytes | Link | None]],
) -> bytes:
    """A tar of these entries, in this order; None is a directory."""
    out = io.BytesIO()
    pairs = entries.items() if isinstance(entries, Mapping) else entries
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in pairs:
            entry = tarfile.TarInfo(name)
            if isinstance(content, Link):
                entry.type = tarfile.LNKTYPE if content.hard else tarfile.SYMTYPE
                entry.linkname = content.target
            elif content is None:
                entry.type = tarfile.DIRTYPE
            else:
                entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content) if isinstance(content, bytes) else None)
    return out.getvalue()


def layer(text: str) -> bytes:
    """A layer's tar with one small file, which *text* makes different from others."""
    return tar({"file": text.encode()})


def config(*layers: bytes, architecture: str = "amd64", **more: object) -> Document:
    """The config of an image of these tars."""
    return {
        "architecture": architecture,
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [sha256(one) for one in layers]},
        **more,
    }


@dataclass
class Layout:
    """An OCI layout while it is made: *files* by their paths, all but index.json."""

    files: dict[str, bytes | Link | None] = field(
        default_factory=lambda: {"oci-layout": as_json({"imageLayoutVersion": "1.0.0"})}
    )
    listed: list[Document] = field(default_factory=list)

    def blob(self, data: bytes, media_type: str, **more: object) -> Document:
        """Put a blob in; answers its descriptor."""
        self.files["blobs/sha256/" + sha256(data)[7:]] = data
        return {"mediaType": media_type, "digest": sha256(data), "size": len(data), **more}

    def manifest(self, *layers: bytes, architecture: str = "amd64", **more: object) -> Document:
        """Put an image in; answers its manifest's descriptor."""
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.blob(as_json(config(*layers, architecture=architecture)), CONFIG),
            "layers": [self.blob(one, LAYER) for one in layers],
        }
        return self.blob(as_json(document), MANIFEST, **more)

    def index(self, *manifests: Document, **more: object) -> Document:
        """Put an index in; answers its descriptor."""
        document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}
        return self.blob(as_json(document), INDEX, **more)

    def remove(self, descriptor: Document) -> None:
        """Take a blob out."""
        del self.files["blobs/sha256/" + descriptor["digest"][7:]]

    def replace(self, descriptor: Document, data: bytes) -> None:
        """Put other bytes where a blob belongs."""
        self.files["blobs/sha256/" + descriptor["digest"][7:]] = data

    def all_files(self) -> dict[str, bytes | Link | None]:
        """The files, with index.json."""
        index = as_json({"schemaVersion": 2, "manifests": self.listed})
        return {**self.files, "index.json": index}

    def write(self, directory: Path) -> Path:
        """Write it out as a directory."""
        return write_files(directory, self.all_files())

    def archive(self, path: Path) -> Path:
        """Write it out as a tar."""
        path.write_bytes(tar(self.all_files()))
        return path


def write_files(directory: Path, files: Mapping[str, bytes | Link | None]) -> Path:
    """Make files in a directory, which is made too."""
    directory.mkdir()
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Link):
            path.symlink_to(content.target)
        elif content is None:
            path.mkdir(exist_ok=True)
        else:
            path.write_bytes(content)
    return directory


def platform(architecture: str, variant: str = "") -> Document:
    """A platform as an index has it."""
    return {
        "os": "linux",
        "architecture": architecture,
        **({"variant": variant} if variant else {}),
    }


def tagged(tag: str) -> Document:
    """Annotations of a descriptor in index.json."""
    return {"org.opencontainers.image.ref.name": tag}


def docker_archive(
    images: Sequence[tuple[list[str] | None, Sequence[bytes]]],
) -> dict[str, bytes | Link | None]:
    """The files of what docker saved: images of names and layers."""
    files: dict[str, bytes | Link | None] = {}
    items = []
    for names, layers in images:
        data = as_json(config(*layers))
        name = f"{sha256(data)[7:]}.json"
        paths = [f"{sha256(one)[7:]}/layer.tar" for one in layers]
        files |= {name: data, **dict(zip(paths, layers, strict=True))}
        items.append({"Config": name, "RepoTags": names, "Layers": paths})
    files["manifest.json"] = as_json(items)
    return files
