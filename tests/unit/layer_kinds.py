"""The kinds of layer that the contract is for; a new one is one more line in KINDS.

A kind that can't say everything says so there, and is left out of the tests of the rest. A layer is
described in the words of tests.support.layers, with the marks that overlayfs writes for root; each
kind writes them in its own way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from tests.support.layers import WHITEOUT, Directory, Entry, File, as_entry, build, xwhiteout
from tests.unit.memory import MemoryLayer
from tests.unit.stored import stored
from unionfs.layers import markers
from unionfs.layers.base import Layer
from unionfs.layers.directory import DirectoryLayer
from unionfs.layers.markers import Dialects

Opener = Callable[[], Layer]
"""Opens a layer that was built, as often as one likes."""
Build = Callable[[Path, Directory], Opener]
"""Builds the described layer, at a path of its own if it needs one."""


class Kind(NamedTuple):
    """How layers of a kind are built, and what they may hold.

    redirects: redirects and metacopy files. sockets: those. implied: directories without an entry
    of their own (:class:`tests.unit.memory.Implied`).
    """

    build: Build
    redirects: bool = True
    sockets: bool = True
    implied: bool = False


_OPAQUE: Final = "trusted.overlay.opaque"
_AS_USER: Final = {
    f"trusted.overlay.{mark}": f"user.overlay.{mark}" for mark in ("opaque", "redirect", "metacopy")
}


def _as_they_are(directory: Directory) -> Directory:
    return directory


def _attributes(directory: Directory) -> Directory:
    """Whiteouts as empty files with an attribute, in a directory that says it has such files."""
    if WHITEOUT not in directory.entries.values():
        return directory
    entries = {
        name: xwhiteout("user.overlay") if item == WHITEOUT else item
        for name, item in directory.entries.items()
    }
    assert "user.overlay.opaque" not in directory.xattrs, "it can say one of the two"
    xattrs = {**directory.xattrs, "user.overlay.opaque": b"x"}
    return dataclasses.replace(directory, entries=entries, xattrs=xattrs)


def _oci_files(directory: Directory) -> Directory:
    """What image layers unpack to: `.wh.NAME`, and `.wh..wh..opq` in an opaque directory."""
    entries = {
        f".wh.{name}" if item == WHITEOUT else name: File() if item == WHITEOUT else item
        for name, item in directory.entries.items()
    }
    xattrs = dict(directory.xattrs)
    if xattrs.pop(_OPAQUE, None):
        entries[".wh..wh..opq"] = File()
    return dataclasses.replace(directory, entries=entries, xattrs=xattrs)


def _spelled(
    item: Entry, names: Mapping[str, str], spell: Callable[[Directory], Directory]
) -> Entry:
    """*item* and all in it with its attributes called otherwise and its directories respelled."""
    xattrs = {names.get(name, name): value for name, value in item.xattrs.items()}
    item = dataclasses.replace(item, xattrs=xattrs)
    if not isinstance(item, Directory):
        return item
    entries = {
        name: _spelled(as_entry(child), names, spell) for name, child in item.entries.items()
    }
    return spell(dataclasses.replace(item, entries=entries))


def _directory(
    names: Mapping[str, str],
    spell: Callable[[Directory], Directory] = _as_they_are,
    dialects: Dialects = Dialects.AUTO,
    *,
    namespace: bytes = markers.TRUSTED,
    writable: bool = False,
) -> Build:
    def write(path: Path, root: Directory) -> Opener:
        written = _spelled(root, names, spell)
        assert isinstance(written, Directory)
        build(path, written)
        return lambda: DirectoryLayer(bytes(path), dialects, namespace=namespace, writable=writable)

    return write


def _memory(path: Path, root: Directory) -> Opener:
    return lambda: MemoryLayer(root, identity=str(path))


KINDS: Final[dict[str, Kind]] = {
    "memory": Kind(_memory, implied=True),
    "overlay": Kind(_directory({}, dialects=Dialects.OVERLAY)),
    "upper": Kind(_directory({}, writable=True)),
    "attributes": Kind(_directory(_AS_USER, _attributes, namespace=markers.USER)),
    "oci": Kind(_directory({}, _oci_files)),
    "stored": Kind(stored, redirects=False, sockets=False, implied=True),
    "fuse-overlayfs": Kind(_directory({_OPAQUE: "user.fuseoverlayfs.opaque"})),
}
