"""What proves that a layer was not touched: everything the kernel records of every entry."""

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple


class Facts(NamedTuple):
    """What lstat says of an entry, times in nanoseconds, and a digest of a file's content."""

    inode: int
    mode: int
    uid: int
    gid: int
    links: int
    size: int
    device: int
    modified: int
    changed: int
    accessed: int | None
    content: str | None


Manifest = dict[str, Facts]


def manifest(layer: Path, *, contents: bool) -> Manifest:
    """The facts of all below `layer` by path, with digests where `contents` are asked for.

    Nobody can set a change time, so equal manifests mean that nothing was written, not even back to
    what it was. Looking leaves access times as they are, except those of links, which are left out.
    """
    found: Manifest = {}
    _add(found, ".", os.open(layer, os.O_RDONLY | os.O_NOATIME), contents)
    return found


def _add(found: Manifest, path: str, descriptor: int, contents: bool) -> None:
    try:
        found[path] = _facts(os.fstat(descriptor))
        with os.scandir(descriptor) as entries:
            names = [entry.name for entry in entries]
        for name in names:
            status = os.lstat(name, dir_fd=descriptor)
            below = f"{path}/{name}"
            found[below] = _facts(status)
            if stat.S_ISDIR(status.st_mode):
                _add(found, below, _open(name, descriptor), contents)
            elif stat.S_ISREG(status.st_mode) and contents:
                with os.fdopen(_open(name, descriptor), "rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                found[below] = found[below]._replace(content=digest)
    finally:
        os.close(descriptor)


def _open(name: str, directory: int) -> int:
    return os.open(name, os.O_RDONLY | os.O_NOATIME | os.O_NOFOLLOW, dir_fd=directory)


def _facts(status: os.stat_result) -> Facts:
    return Facts(
        inode=status.st_ino,
        mode=status.st_mode,
        uid=status.st_uid,
        gid=status.st_gid,
        links=status.st_nlink,
        size=status.st_size,
        device=status.st_rdev,
        modified=status.st_mtime_ns,
        changed=status.st_ctime_ns,
        accessed=None if stat.S_ISLNK(status.st_mode) else status.st_atime_ns,
        content=None,
    )


def _changes(before: Manifest, after: Manifest) -> Iterator[str]:
    for path in sorted(before.keys() | after.keys()):
        if path not in after or path not in before:
            yield f"{path!r}: {'new' if path in after else 'gone'}"
        else:
            for field, was, now in zip(Facts._fields, before[path], after[path], strict=True):
                if was != now:
                    yield f"{path!r}: {field} {was} is now {now}"


@contextmanager
def untouched(layers: Sequence[Path], *, contents: bool) -> Iterator[None]:
    """It is an AssertionError if anything in `layers` is different at the end."""
    before = [manifest(layer, contents=contents) for layer in layers]
    yield
    for layer, was in zip(layers, before, strict=True):
        changes = list(_changes(was, manifest(layer, contents=contents)))
        assert not changes, f"{layer} was changed: {changes[:20]}"
