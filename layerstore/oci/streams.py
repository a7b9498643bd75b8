"""Where the bytes of an image lie: parts of open files, and streams that are looked at first.

Whoever reads an :class:`Extent` has a position of its own, so that the layers of one archive can
be read at the same time.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, Self

from layerstore.compression import open_decompressed
from layerstore.errors import InvalidContentError
from layerstore.limits import Limits
from layerstore.oci.text import shown
from layerstore.pieces import Reader

_CHUNK: Final = 1 << 20
_REMEMBERED_MAX: Final = 1 << 23
"""Far more than what the first entry of a tar takes, whatever compressed it."""


class Content(Protocol):
    """Bytes of a known number that can be read more than once."""

    @property
    def size(self) -> int:
        """How many bytes."""
        ...

    def open(self) -> ExtentReader:
        """A reader at their start; the caller closes it. Raises OSError, InvalidContentError."""
        ...


class ExtentReader:
    """Reads a part of a file, through a descriptor of its own; a context, which closes it."""

    def __init__(self, descriptor: int, offset: int, size: int) -> None:
        """Take over *descriptor*, and read *size* bytes from *offset* on."""
        self._descriptor = descriptor
        self._at = offset
        self._end: Final = offset + size

    def read(self, size: int = -1, /) -> bytes:
        """Up to *size* bytes, or all that are left; none at the end.

        Raises OSError; InvalidContentError if the file has become shorter.
        """
        left = self._end - self._at
        wanted = left if size < 0 else min(size, left)
        piece = os.pread(self._descriptor, wanted, self._at)
        if wanted and not piece:
            raise InvalidContentError("the file became shorter while it was read")
        self._at += len(piece)
        return piece

    @property
    def left(self) -> tuple[int, int, int]:
        """Descriptor, offset and size of what is still to be read, for another process."""
        return self._descriptor, self._at, self._end - self._at

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Extent:
    """*size* bytes from *offset* on of an open file.

    It is good as long as the file is open, in this process and in those forked from it.
    """

    descriptor: int
    offset: int
    size: int

    def open(self) -> ExtentReader:
        """A reader at the start. Raises OSError."""
        return ExtentReader(os.dup(self.descriptor), self.offset, self.size)


@dataclass(frozen=True, slots=True)
class FileContent:
    """A regular file of *size* bytes, by its path from an open directory; as good as that is."""

    directory: int
    path: str
    size: int

    @classmethod
    def find(cls, directory: int, path: str) -> Self | None:
        """The regular file that is there now; None if none is. Raises OSError.

        Links are followed (Bazel's layouts have links to their blobs), also out of the directory:
        whoever wants the file knows its digest.
        """
        try:
            status = os.stat(path, dir_fd=directory)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
                return None
            raise
        return cls(directory, path, status.st_size) if stat.S_ISREG(status.st_mode) else None

    def open(self) -> ExtentReader:
        """A reader at the start. Raises OSError, InvalidContentError."""
        # It may have become a FIFO, and opening one waits for a writer.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(self.path, flags, dir_fd=self.directory)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise InvalidContentError(f"{shown(self.path)} is not a regular file any more")
        return ExtentReader(descriptor, 0, self.size)


class Rewindable:
    """A stream whose beginning can be read twice: to see what it is, and then in earnest."""

    def __init__(self, raw: Reader) -> None:
        self._raw: Final = raw
        self._beginning = io.BytesIO()
        self._remembers = True

    def read(self, size: int, /) -> bytes:
        """Up to *size* bytes; none at the end.

        Raises InvalidContentError where the beginning that is looked at does not end.
        """
        if not self._remembers:
            return self._beginning.read(size) or self._raw.read(size)
        piece = self._raw.read(size)
        if self._beginning.tell() + len(piece) > _REMEMBERED_MAX:
            raise InvalidContentError(f"{_REMEMBERED_MAX} bytes, and no entry of an archive yet")
        self._beginning.write(piece)
        return piece

    def rewind(self) -> None:
        """Begin anew. From now on nothing is remembered."""
        self._beginning.seek(0)
        self._remembers = False


def spooled(raw: Reader, directory: Path, limits: Limits) -> int:
    """A descriptor of a file without a name in *directory* that has all of *raw*, decompressed.

    Raises OSError, and what decompression raises; then nothing is left.
    """
    reader = open_decompressed(raw, limits)
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        while piece := reader.read(_CHUNK):
            view = memoryview(piece)
            while view:
                view = view[file.write(view) :]
        return os.dup(file.fileno())
