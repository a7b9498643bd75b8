"""The files of a layout by their names, whether they lie in a directory or in an archive."""

from __future__ import annotations

import os
import posixpath
from pathlib import Path
from typing import Final, Protocol

from layerstore import tarformat
from layerstore.digest import VerifyingReader
from layerstore.errors import InvalidContentError, LimitExceededError
from layerstore.limits import Limits
from layerstore.oci import lenient, tarscan
from layerstore.oci.documents import Descriptor
from layerstore.oci.streams import Content, Extent, FileContent
from layerstore.oci.text import shown
from layerstore.pieces import Reader

_MEMBERS_MAX: Final = 1 << 17
"""Entries of an archive of images: an image of 1,000 layers, as docker once saved it, has 4,000."""

_CHUNK: Final = 1 << 20
_LINKS_MAX: Final = 40
"""Links to follow for one file, as Linux has it."""


class Files(Protocol):
    """Files by name; open until it is closed."""

    def find(self, name: str) -> Content | None:
        """The file of that name, links followed; None if there is none.

        Raises OSError, InvalidContentError.
        """
        ...

    def close(self) -> None:
        """Give back what it holds open. What it found can't be read any more."""
        ...


class Directory:
    """The files in a directory."""

    def __init__(self, path: Path) -> None:
        """Open it. Raises OSError."""
        self._descriptor: Final = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def find(self, name: str) -> Content | None:
        """See :class:`Files`. A name that leads out of the directory is of no file."""
        inside = _inside(name)
        return None if inside is None else FileContent.find(self._descriptor, inside)

    def close(self) -> None:
        """See :class:`Files`."""
        os.close(self._descriptor)


class Archive:
    """The files in a tar, not compressed, which is an open file."""

    def __init__(self, descriptor: int, limits: Limits) -> None:
        """Take over *descriptor* and find what is where.

        Raises OSError, InvalidContentError; then the descriptor is closed.
        """
        self._descriptor: Final = descriptor
        self._extents: Final[dict[str, Extent]] = {}
        self._links: Final[dict[str, str]] = {}
        try:
            self._scan(limits)
        except BaseException:
            self.close()
            raise

    def _scan(self, limits: Limits) -> None:
        named = 0
        for count, member in enumerate(tarscan.members(tarscan.FileTape(self._descriptor), limits)):
            if count == _MEMBERS_MAX:
                raise InvalidContentError(
                    f"more than {_MEMBERS_MAX} entries: not an archive of images"
                )
            # Files are asked for by names that stand in documents.
            named += len(member.name) + len(member.link)
            if named > limits.document:
                raise LimitExceededError(
                    f"names of more than {limits.document} bytes;"
                    " allow more with --limit document=N"
                )
            name = _inside(_text(member.name))
            if name is None:
                continue
            # Of two entries of one name the later counts, as it would when they were extracted.
            self._extents.pop(name, None)
            self._links.pop(name, None)
            if member.sparse:
                raise InvalidContentError(f"{shown(name)}: a sparse file in an archive of images")
            if member.kind in tarformat.REGULAR:
                self._extents[name] = Extent(self._descriptor, member.offset, member.size)
            elif member.kind == tarformat.SYMLINK:
                self._links[name] = posixpath.join(posixpath.dirname(name), _text(member.link))
            elif member.kind == tarformat.HARD_LINK:
                self._links[name] = _text(member.link)

    def find(self, name: str) -> Content | None:
        """See :class:`Files`. A name that leads out of the archive is of no file."""
        here = _inside(name)
        for _ in range(_LINKS_MAX):
            if here is None or here not in self._links:
                return self._extents.get(here or "")
            here = _inside(self._links[here])
        raise InvalidContentError(f"{shown(name)}: its links lead in a circle")

    def close(self) -> None:
        """See :class:`Files`."""
        os.close(self._descriptor)


def read(content: Content, what: str, limits: Limits) -> bytes:
    """All of a document, called *what* in messages. Raises OSError, InvalidContentError."""
    lenient.check_size(content.size, what, limits)
    with content.open() as reader:
        return _all(reader)


def read_verified(content: Content, descriptor: Descriptor, limits: Limits) -> bytes:
    """All of the document that *descriptor* describes. Raises OSError, InvalidContentError."""
    lenient.check_size(descriptor.size, descriptor.digest, limits)
    with content.open() as reader:
        return _all(VerifyingReader(reader, descriptor.digest, descriptor.size))


def _all(reader: Reader) -> bytes:
    pieces = []
    while piece := reader.read(_CHUNK):
        pieces.append(piece)
    return b"".join(pieces)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _inside(name: str) -> str | None:
    """*name* without detours; None if it leads out or is nothing but the way itself."""
    normal = posixpath.normpath(name)
    outside = normal.startswith(("/", "../")) or normal in ("..", ".")
    return None if outside or "\0" in normal else normal
