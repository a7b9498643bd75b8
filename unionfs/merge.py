"""Which layer answers: precedence, whiteouts, opaque directories, redirects.

Pure: it asks layers and keeps nothing. The rules are those of
Documentation/filesystems/overlayfs.rst; docs/semantics.md has each with its reason.

A *stack* is what a directory of the union consists of: its entries in the layers, topmost first.
It ends with the first opaque one. If no layer down to there has more than an implied entry, one
more source may follow that only describes the directory (:func:`described`): no names show through
it. Positions count layers from the base (0) up.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from unionfs.layers.base import Layer
from unionfs.model import WHITEOUT, Entry, Mark


class Source(NamedTuple):
    """One layer's entry, and the layer's position."""

    position: int
    layer: Layer
    entry: Entry


Stack = Sequence[Source]


class _Search:
    """What is looked for in the layers further down: a name in the parent, or a path."""

    __slots__ = ("name", "path")

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.path: bytes | None = None

    def follow(self, redirect: bytes) -> None:
        if _starts_anew(redirect):
            self.path = redirect
        elif self.path is not None:
            self.path = self.path[: self.path.rindex(b"/") + 1] + redirect
        else:
            self.name = redirect


def described(stack: Stack) -> Source:
    """The source whose attributes and extended attributes a directory has.

    It is the topmost that is not implied; the topmost of all if they all are.
    """
    for source in stack:
        if not source.entry.implied:
            return source
    return stack[0]


def roots(layers: Sequence[Layer]) -> list[Source]:
    """The stack of the union's root. Raises OSError of the layers."""
    found: list[Source] = []
    for position in range(len(layers) - 1, -1, -1):
        layer = layers[position]
        if not _merge(found, Source(position, layer, layer.root())):
            break
    return found


def resolve(
    layers: Sequence[Layer], parents: Stack, name: bytes, topmost: int | None = None
) -> list[Source]:
    """What the union has under *name* in the directory that *parents* make up.

    topmost: the position of the topmost layer that says anything of it, if that is known.
    Answers one source for anything but a directory, all that merge for a directory, none if the
    name is not there. Raises OSError of the layers.
    """
    search = _Search(name)
    found: list[Source] = []
    for position, layer, directory in _descend(layers, parents, search, topmost):
        entry, blocked = _look(layer, directory, search)
        if isinstance(entry, Entry):
            if not entry.is_directory:
                return found or [Source(position, layer, entry)]
            if not _merge(found, Source(position, layer, entry)):
                break
            if entry.redirect is not None:
                search.follow(entry.redirect)
                blocked = blocked and not _starts_anew(entry.redirect)
        if blocked or entry is WHITEOUT:
            break
    return found


def content(layers: Sequence[Layer], parents: Stack, name: bytes, top: Source) -> Source:
    """The source that holds the content of the regular file *top*, found under *name*.

    It is *top* itself unless that is a metacopy file. Raises OSError; EIO where a metacopy file
    has nothing below to take its content from.
    """
    search = _Search(name)
    redirect = top.layer.metacopy(top.entry)
    if redirect is None:
        return top
    if redirect:
        search.follow(redirect)
    for position, layer, directory in _descend(layers, parents, search, top.position - 1):
        entry, blocked = _look(layer, directory, search)
        if isinstance(entry, Entry):
            if not entry.is_regular:
                break
            redirect = layer.metacopy(entry)
            if redirect is None:
                return Source(position, layer, entry)
            if redirect:
                search.follow(redirect)
                blocked = blocked and not _starts_anew(redirect)
        if blocked or entry is WHITEOUT:
            break
    raise OSError(errno.EIO, "a metacopy file without the file it is a copy of", top.layer.identity)


def children(stack: Stack) -> dict[bytes, int]:
    """The names in the directory that *stack* makes up, each with the topmost position."""
    names: dict[bytes, int] = {}
    gone: set[bytes] = set()
    for position, layer, directory in stack:
        last = directory.opaque or position == stack[-1].position
        for name, found in layer.listing(directory).items():
            if name in names or name in gone:
                continue
            if found is WHITEOUT:
                if not last:
                    gone.add(name)
            else:
                names[name] = position
        if directory.opaque:
            break
    return names


def _merge(found: list[Source], source: Source) -> bool:
    """Add a directory to the stack *found*; answers whether those below it matter."""
    hidden = bool(found) and found[-1].entry.opaque
    if hidden and source.entry.implied:
        return True
    found.append(source)
    if not source.entry.opaque:
        return not hidden
    return not hidden and all(above.entry.implied for above in found)


def _descend(
    layers: Sequence[Layer], parents: Stack, search: _Search, topmost: int | None
) -> Iterator[tuple[int, Layer, Entry | None]]:
    """The layers to ask, downward: those of the parent, or all once a path is looked for.

    The search may change while it goes on; a redirect only ever leads further down, so that
    none can loop.
    """
    last = len(layers) if topmost is None else topmost + 1
    for position, layer, directory in parents:
        if search.path is not None:
            break
        if position < last:
            last = position
            yield position, layer, directory
        if directory.opaque:
            break
    if search.path is not None:
        for position in range(last - 1, -1, -1):
            yield position, layers[position], None


def _starts_anew(redirect: bytes) -> bool:
    """Whether a redirect leads from the root, whatever is opaque on the way to it.

    (fs/overlayfs/namei.c, ovl_check_redirect, says why.)
    """
    return redirect.startswith(b"/")


def _look(
    layer: Layer, directory: Entry | None, search: _Search
) -> tuple[Entry | Mark | None, bool]:
    if directory is None:
        return _walk(layer, search)
    return layer.lookup(directory, search.name), False


def _walk(layer: Layer, search: _Search) -> tuple[Entry | Mark | None, bool]:
    """Look the path of *search* up in one layer, from its root.

    Answers what is there, and whether a directory on the way says that nothing below counts.
    A redirect on the way changes the path for the layers further down.
    """
    assert search.path is not None
    names = search.path[1:].split(b"/")
    directory = layer.root()
    blocked = False
    below = b""
    for depth, name in enumerate(names):
        entry = layer.lookup(directory, name)
        if not isinstance(entry, Entry) or depth == len(names) - 1:
            search.path = b"/".join([below, *names[depth:]])
            return entry, blocked
        if not entry.is_directory:
            return WHITEOUT, True
        blocked = blocked or entry.opaque
        redirect = entry.redirect
        if redirect is None:
            below += b"/" + name
        elif _starts_anew(redirect):
            below = redirect
            blocked = entry.opaque
        else:
            below += b"/" + redirect
        directory = entry
    raise AssertionError("a path has at least one name")
