"""``Layer``: what the union asks of a layer. Everything above hangs on this seam.

Glossary. A *layer* is an immutable tree of *entries*. For each name in one of its directories it
either says nothing, or gives an :class:`~unionfs.model.Entry`, or says
:data:`~unionfs.model.WHITEOUT`: whatever lies below under this name is gone. A directory may be
*opaque* (nothing below shows through it) or carry a *redirect* (below, it is called that).

A directory is *implied* where a layer has something in it and no entry of its own for it, as tar
archives may. Such an entry has an inode number like any other, and placeholders for the rest: mode
0755, owner and group 0, times 0, no extended attributes. Opaque as well, it takes away what the
directory below holds and leaves that directory its attributes. Beside a whiteout of its own name it
is opaque and not implied: the directory below is gone, so the placeholders count.

Dialects end inside the layer: ``.wh.`` files, character devices 0:0 and attributes such as
``trusted.overlay.opaque`` are its affair, are never listed, and are never given out.

Life cycle. A layer is open once it is made and holds what it needs until ``close``; every other
method may be called any number of times in between, from one thread. An entry stays valid until
``close``.

Errors. Methods raise OSError with the errno that ``stat(2)``, ``open(2)`` and their like would
give; a layer that changed behind the mount gives ENOENT or ESTALE, never wrong content of
another file, and never a crash.

Every implementation passes ``tests/unit/test_layer_contract.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from unionfs.flags import Call
from unionfs.model import Entry, Mark


class Layer(Protocol):
    """One immutable layer."""

    @property
    def identity(self) -> str:
        """Who this layer is: the same string whenever the same layer is opened."""
        ...

    @property
    def lineage(self) -> Sequence[tuple[int, int]]:
        """(device, inode) of the root and of all that lies above it, up to the host's root.

        A layer that is no directory of the host has its root only, with a device number that is the
        same whenever it is opened, and beyond 32 bits, where Linux has none (its dev_t has 32).

        Layers overlap when the root of one is in the lineage of the other; inode numbers of
        layers that do not overlap may be shared (see :class:`unionfs.nodes.Numbering`).
        """
        ...

    def describe(self) -> Mapping[str, str]:
        """What it can tell of itself: its ``label``, and ``digest`` and ``created_by`` if it can.

        Programs in the mount are told (:meth:`unionfs.filesystem.Filesystem.getxattr`), so it has
        to be text that :func:`os.fsencode` takes.
        """
        ...

    def root(self) -> Entry:
        """The entry of the layer's root directory."""
        ...

    def lookup(self, directory: Entry, name: bytes) -> Entry | Mark | None:
        """What the layer says of *name* in *directory*: an entry, WHITEOUT, or None (nothing)."""
        ...

    def listing(self, directory: Entry) -> Mapping[bytes, Entry | Mark]:
        """All that the layer says of the names in *directory*.

        Where attributes would cost a system call each, the value may be UNREAD: the name is
        there, and ``lookup`` gives its entry.
        """
        ...

    def metacopy(self, entry: Entry) -> bytes | None:
        """None when the regular file *entry* holds its own content.

        Otherwise it has only metadata, and its content is that of the next file below, under the
        name or path given (empty: the same name; see :attr:`Entry.redirect` for the forms).
        """
        ...

    def readlink(self, entry: Entry) -> bytes:
        """The target of a symbolic link."""
        ...

    def listxattr(self, entry: Entry) -> list[bytes]:
        """Names of the extended attributes, the layer's own marks left out."""
        ...

    def getxattr(self, entry: Entry, name: bytes) -> bytes:
        """The value of an extended attribute; ENODATA for marks and for what is not there."""
        ...

    def flags(self, entry: Entry, call: Call) -> bytes:
        """What *call*, one that sets nothing, tells of a regular file or a directory.

        Zeros where a layer has no flags at all; ENOTTY where its file system has none.
        """
        ...

    def protection(self, entry: Entry) -> int:
        """What of :data:`unionfs.flags.PROTECTING` the layer's own inode has."""
        ...

    def open(self, entry: Entry) -> int:
        """A descriptor for reading a regular file; the caller closes it.

        What is known to be other than the layer's content is never given: EIO.
        """
        ...

    def opens_slowly(self, entry: Entry) -> bool:
        """Whether ``open`` would read all of a large file first, to verify it.

        Then ``open`` may be called in another thread, so that nobody else has to wait.
        """
        ...

    def origin(self, entry: Entry) -> bytes | None:
        """A handle of the inode, in overlayfs's format (``struct ovl_fb``), if it has one."""
        ...

    def forget(self, entry: Entry) -> None:
        """*entry* will not be used soon: descriptors and memory kept for it can go."""
        ...

    def statfs(self) -> int:
        """A descriptor for ``fstatvfs(2)``, which stays the layer's."""
        ...

    def close(self) -> None:
        """Give up what is held. Entries of the layer are of no use afterwards."""
        ...


class Catalogued(NamedTuple):
    """All that a layer knows of a name without reading anything else.

    has_attributes: whether it has extended attributes. text: the target of a symbolic link; where
    the content of a regular file is (:meth:`Catalogue.content_path`), if that is known; else None.
    """

    name: bytes
    entry: Entry | Mark
    has_attributes: bool
    text: bytes | None


@runtime_checkable
class Catalogue(Layer, Protocol):
    """A layer whose names are no names of the host, while its contents are files of the host."""

    def contents(self) -> int:
        """A descriptor, which stays the layer's, of the directory that the contents are below."""
        ...

    def catalogue(self, directory: Entry) -> Iterable[Catalogued]:
        """All that the layer says of the names in *directory*, as ``listing`` has them."""
        ...

    def content_path(self, directory: Entry, name: bytes) -> bytes:
        """Where the content of a regular file is, below ``contents``; it is the layer's content.

        Raises OSError: EIO if it is another.
        """
        ...
