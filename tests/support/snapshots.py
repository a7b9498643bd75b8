"""What a tree looks like, for comparing two of them."""

import hashlib
import os
import stat
import time
from collections import defaultdict
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

# Two runs of one change never have one time: what changed since the tests began is just new.
NEW = "new"
_BEGIN = time.time_ns() - 1_000_000_000


@dataclass(frozen=True)
class Entry:
    """One name of a tree. What no two implementations agree on is None."""

    kind: str
    mode: int
    uid: int
    gid: int
    mtime: int | str
    size: int | None
    nlink: int | None
    links: tuple[str, ...]
    rdev: int
    content: str | None
    target: str | None
    xattrs: tuple[tuple[bytes, bytes], ...]


Snapshot = dict[str, Entry]


def snapshot(root: Path, *, lists_whiteouts: bool = False) -> Snapshot:
    """Every name below `root`, and "." for itself, with all that a program can see of it.

    `lists_whiteouts`: leave out names that are listed but not found, as the kernel's overlayfs
    lists whiteouts of a directory that only one layer has.
    """
    paths = {".": root, **_walk(root, "")}
    if lists_whiteouts:
        paths = {name: path for name, path in paths.items() if os.path.lexists(path)}
    groups = defaultdict(list)
    for name, path in paths.items():
        status = path.lstat()
        groups[status.st_dev, status.st_ino].append(name)
    return {
        name: _entry(path, groups[path.lstat().st_dev, path.lstat().st_ino])
        for name, path in sorted(paths.items())
    }


def _walk(directory: Path, prefix: str) -> dict[str, Path]:
    found = {}
    with os.scandir(directory) as entries:
        for entry in list(entries):
            found[prefix + entry.name] = Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                found |= _walk(Path(entry.path), f"{prefix}{entry.name}/")
    return found


def _entry(path: Path, group: list[str]) -> Entry:
    status = path.lstat()
    kind = stat.S_IFMT(status.st_mode)
    directory = kind == stat.S_IFDIR
    device = kind in (stat.S_IFCHR, stat.S_IFBLK)
    return Entry(
        kind=stat.filemode(status.st_mode)[0],
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        mtime=NEW if status.st_mtime_ns >= _BEGIN else status.st_mtime_ns,
        size=None if directory else status.st_size,
        nlink=None if directory else status.st_nlink,
        links=tuple(sorted(group)) if len(group) > 1 else (),
        rdev=status.st_rdev if device else 0,
        content=_digest(path) if kind == stat.S_IFREG else None,
        target=os.readlink(path) if kind == stat.S_IFLNK else None,
        xattrs=tuple(sorted(_xattrs(path).items())),
    )


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha1").hexdigest()


def _xattrs(path: Path) -> dict[bytes, bytes]:
    names = map(os.fsencode, os.listxattr(path, follow_symlinks=False))
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}


def differences(one: Snapshot, other: Snapshot) -> list[str]:
    """One line for each thing in which two trees differ; none when they are equal."""
    lines = []
    for name in sorted(one.keys() | other.keys()):
        if name not in other:
            lines.append(f"{name!r}: only in the first")
        elif name not in one:
            lines.append(f"{name!r}: only in the second")
        else:
            for field in fields(Entry):
                left, right = getattr(one[name], field.name), getattr(other[name], field.name)
                if left != right:
                    lines.append(f"{name!r}: {field.name} {left!r} and {right!r}")
    return lines


def tree(root: Path) -> dict[str, Any]:
    """The tree as nested dicts: text for a file, a target after "-> ", a letter for the rest."""
    found: dict[str, Any] = {}
    with os.scandir(root) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            path = Path(entry.path)
            if entry.is_symlink():
                found[entry.name] = f"-> {os.readlink(path)}"
            elif entry.is_dir():
                found[entry.name] = tree(path)
            elif entry.is_file():
                found[entry.name] = path.read_text(errors="surrogateescape")
            else:
                found[entry.name] = stat.filemode(path.lstat().st_mode)[0]
    return found
