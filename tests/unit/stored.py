"""Layers that are described in the words of tests.support.layers, imported into a store."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from layerstore.adding import add_layer
from layerstore.ingest import Claim
from layerstore.layer import StoredLayer
from layerstore.repository import Repository
from tests.support import tars
from tests.support.layers import (
    WHITEOUT,
    Directory,
    Entry,
    File,
    HardLink,
    Node,
    Symlink,
    as_entry,
)
from tests.unit.memory import Implied

_OPAQUE = "trusted.overlay.opaque"


def stored(path: Path, root: Directory) -> Callable[[], StoredLayer]:
    """Import *root* into a store at *path*; answers what opens the layer."""
    tar = tars.tar(*_directory(b".", root))
    with Repository(str(path)) as repository:
        added = add_layer(repository, io.BytesIO(tar), Claim(), lambda _: None)
    os.close(added.lease)

    def opened() -> StoredLayer:
        with Repository(str(path), create=False) as repository:
            return repository.open_layer(added.diff_id)

    return opened


def _directory(path: bytes, item: Directory) -> Iterator[bytes]:
    xattrs = dict(item.xattrs)
    opaque = xattrs.pop(_OPAQUE, None)
    if not isinstance(item, Implied):
        yield _about(item, xattrs) + tars.directory(path, **_fields(item))
    if opaque:
        yield tars.opaque(path)
    for name, child in item.entries.items():
        yield from _entry(path + b"/" + os.fsencode(name), as_entry(child))


def _entry(path: bytes, item: Entry) -> Iterator[bytes]:
    if isinstance(item, Directory):
        yield from _directory(path, item)
    elif item == WHITEOUT:
        yield tars.whiteout(path)
    elif isinstance(item, HardLink):
        yield tars.hardlink(path, os.fsencode(item.target))
    else:
        yield _about(item, dict(item.xattrs)) + _other(path, item)


def _other(path: bytes, item: Entry) -> bytes:
    fields = _fields(item)
    match item:
        case File(content=content):
            text = content.encode() if isinstance(content, str) else content
            return tars.file(path, text.ljust(item.size or 0, b"\0"), **fields)
        case Symlink(target=target):
            return tars.symlink(path, os.fsencode(target), **fields)
        case Node(kind=stat.S_IFIFO):
            return tars.fifo(path, **fields)
        case Node(kind=stat.S_IFCHR):
            return tars.character(path, item.major, item.minor, **fields)
        case Node(kind=stat.S_IFBLK):
            return tars.block(path, item.major, item.minor, **fields)
    raise AssertionError(f"no tar can hold {item}")


def _fields(item: Entry) -> dict[str, tars.Field]:
    return {"mode": item.mode, "uid": item.uid, "gid": item.gid}


def _about(item: Entry, xattrs: dict[str, bytes]) -> bytes:
    seconds, rest = divmod(item.mtime, 10**9)
    records: list[tuple[tars.Text, tars.Text]] = [("mtime", f"{seconds}.{rest:09}")]
    records += [(b"SCHILY.xattr." + os.fsencode(name), value) for name, value in xattrs.items()]
    return tars.pax(records)
