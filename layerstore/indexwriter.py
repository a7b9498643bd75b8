"""A layer's index, written once while its tar is read.

Here whiteouts are understood (image-spec layer.md, "Whiteouts"): they mean the layers below,
wherever they stand in the tar; of several entries with one name the last counts.
"""

from __future__ import annotations

import sqlite3
import stat
from typing import Any, Final

from layerstore.errors import InvalidContentError, shown
from layerstore.index import ROOT, SCHEMA, VERSION
from layerstore.objects import Key
from layerstore.tarstream import TarEntry
from unionfs.layers import markers

_ADD_INODE: Final = "INSERT INTO inode VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_SET_NAME: Final = (
    "INSERT INTO name VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET inode = excluded.inode"
)
_NAMES_BELOW: Final = """
WITH RECURSIVE below (parent, name, inode) AS (
    SELECT parent, name, inode FROM name WHERE parent = ?
    UNION ALL
    SELECT name.parent, name.name, name.inode FROM name JOIN below ON name.parent = below.inode
) SELECT parent, name, inode FROM below
"""
_CACHED: Final = 4096


class IndexWriter:
    """Writes an index to a new file, which is complete after ``finish``."""

    def __init__(self, path: str) -> None:
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._run = self._database.execute
        self._next = ROOT
        self._entries = 0
        self._directories: dict[bytes, int] = {}
        # Directories that aufs kept for itself: what is in them can be linked to, and no more.
        self._unseen: list[tuple[int, bytes]] = []
        try:
            self._begin()
        except BaseException:
            self._database.close()
            raise

    def _begin(self) -> None:
        # A file that was not finished is thrown away as a whole.
        self._run("PRAGMA journal_mode = OFF")
        self._run("PRAGMA synchronous = OFF")
        self._database.executescript(f"PRAGMA user_version = {VERSION}; {SCHEMA}")
        self._run("BEGIN")
        self._add_inode(_placeholder(replaces=False))

    def content(self, key: Key, blocks: int) -> int:
        """Take up a content; answers its number."""
        row = (None, key.hash, key.size, key.variant, blocks)
        number = self._run("INSERT INTO content VALUES (?, ?, ?, ?, ?)", row).lastrowid
        assert number is not None
        return number

    def entry(self, entry: TarEntry, content: int | None) -> None:
        """Take up an entry. content: that of a regular file.

        Raises InvalidContentError if it can't be where it claims to be.
        """
        self._entries += 1
        if not entry.path:
            self._replace_attributes(ROOT, entry)
            return
        above, _, name = entry.path.rpartition(b"/")
        if markers.is_reserved(name):
            self._marker(above, name)
            return
        parent = self._directory(above)
        if parent is None:
            raise InvalidContentError("it lies below something that is no directory in this layer")
        if _is_whiteout(entry):
            self._whiteout(parent, name)
        elif entry.is_hard_link:
            self._link(parent, name, entry)
        else:
            self._put(parent, name, entry, content)

    def move_contents(self, moved: dict[Key, Key]) -> None:
        """Contents have other keys than they were taken up with."""
        rows = [(now.variant, old.hash, old.size, old.variant) for old, now in moved.items()]
        # From the highest down, so that no row is moved twice.
        rows.sort(reverse=True)
        self._database.executemany(
            "UPDATE content SET variant = ? WHERE hash = ? AND size = ? AND variant = ?", rows
        )

    def finish(self, size: int) -> None:
        """Complete the index. size: bytes of the tar. May be followed by ``move_contents``."""
        for parent, name in self._unseen:
            if inode := self._child(parent, name):
                self._remove(parent, name, inode)
        self._run("UPDATE inode SET links = 2 WHERE mode & 61440 = 16384")
        self._run(
            "UPDATE inode SET links = 2 + found.number FROM ("
            " SELECT parent, count(*) AS number FROM name JOIN inode USING (inode)"
            " WHERE mode & 61440 = 16384 GROUP BY parent"
            ") AS found WHERE inode.inode = found.parent"
        )
        self._run("INSERT INTO layer VALUES (?, ?)", (size, self._entries))

    def close(self, *, keep: bool) -> None:
        """End; *keep*: what was finished is to be read."""
        if keep:
            self._run("COMMIT")
        self._database.close()

    # Directories

    def _directory(self, path: bytes) -> int | None:
        """The inode of the directory at *path*, implied if nothing is there; None if no directory
        can be there.
        """
        missing = []
        while path and path not in self._directories:
            path, _, name = path.rpartition(b"/")
            missing.append(name)
        inode = self._directories[path] if path else ROOT
        for name in reversed(missing):
            found = self._child(inode, name)
            if found and not self._is_directory(found):
                return None
            if not found:
                self._require_visible(inode, name)
                found = self._add(inode, name, _placeholder(replaces=found is not None))
            inode = found
            path = path + b"/" + name if path else name
            self._remember(path, inode)
        return inode

    def _require_visible(self, parent: int, name: bytes) -> None:
        """Check that something can lie below a name that the layer has no entry for."""
        if markers.is_aufs(name):
            self._unseen.append((parent, name))
        elif markers.is_reserved(name):
            raise InvalidContentError("it lies below a whiteout")

    def _remember(self, path: bytes, inode: int) -> None:
        if len(self._directories) >= _CACHED:
            self._directories.clear()
        self._directories[path] = inode

    def _child(self, parent: int, name: bytes) -> int | None:
        row = self._run(
            "SELECT inode FROM name WHERE parent = ? AND name = ?", (parent, name)
        ).fetchone()
        return None if row is None else row[0]

    def _is_directory(self, inode: int) -> bool:
        (mode,) = self._run("SELECT mode FROM inode WHERE inode = ?", (inode,)).fetchone()
        return stat.S_ISDIR(mode)

    def _add(self, parent: int, name: bytes, row: tuple[Any, ...]) -> int:
        inode = self._add_inode(row)
        self._set_name(parent, name, inode)
        return inode

    def _add_inode(self, row: tuple[Any, ...]) -> int:
        inode, self._next = self._next, self._next + 1
        self._run(_ADD_INODE, (inode, *row))
        return inode

    def _set_name(self, parent: int, name: bytes, inode: int) -> None:
        self._run(_SET_NAME, (parent, name, inode))

    # Entries

    def _put(self, parent: int, name: bytes, entry: TarEntry, content: int | None) -> None:
        there = self._child(parent, name)
        if entry.kind == stat.S_IFDIR and there and self._is_directory(there):
            self._replace_attributes(there, entry)
            return
        if there:
            self._remove(parent, name, there)
        # A whiteout of a name that the layer has itself is about what is below.
        opaque = there == 0 and entry.kind == stat.S_IFDIR
        inode = self._add(parent, name, _row(entry, content, opaque=opaque))
        self._add_xattrs(inode, entry)

    def _replace_attributes(self, inode: int, entry: TarEntry) -> None:
        self._run(
            "UPDATE inode SET mode = ?, uid = ?, gid = ?, seconds = ?, nanoseconds = ?, implied = 0"
            " WHERE inode = ?",
            (*_row(entry, None)[:5], inode),
        )
        self._run("DELETE FROM xattr WHERE inode = ?", (inode,))
        self._add_xattrs(inode, entry)

    def _add_xattrs(self, inode: int, entry: TarEntry) -> None:
        rows = [
            (inode, name, value)
            for name, value in entry.xattrs.items()
            # In an image they are nobody's marks: they are neither believed nor shown.
            if not markers.is_mark(name)
        ]
        if rows:
            self._database.executemany("INSERT INTO xattr VALUES (?, ?, ?)", rows)

    def _link(self, parent: int, name: bytes, entry: TarEntry) -> None:
        above, _, last = entry.target.rpartition(b"/")
        directory = self._existing(above)
        inode = None if directory is None else self._child(directory, last)
        if not inode or self._is_directory(inode):
            raise InvalidContentError(
                f"a hard link to {shown(entry.target)}, which is no file of this layer"
            )
        there = self._child(parent, name)
        if there == inode:
            return
        if there:
            self._remove(parent, name, there)
        self._set_name(parent, name, inode)
        self._run("UPDATE inode SET links = links + 1 WHERE inode = ?", (inode,))

    def _existing(self, path: bytes) -> int | None:
        inode: int | None = ROOT
        for name in filter(None, path.split(b"/")):
            inode = self._child(inode or 0, name)
        return inode

    def _remove(self, parent: int, name: bytes, inode: int) -> None:
        """Take a name away, and all that nothing else leads to."""
        names = [(parent, name, inode)]
        if self._is_directory(inode):
            self._directories.clear()
            names += self._run(_NAMES_BELOW, (inode,))
        for above, name_there, number in names:
            self._run("DELETE FROM name WHERE parent = ? AND name = ?", (above, name_there))
            self._run("UPDATE inode SET links = links - 1 WHERE inode = ?", (number,))
            if self._run("DELETE FROM inode WHERE inode = ? AND links = 0", (number,)).rowcount:
                self._run("DELETE FROM xattr WHERE inode = ?", (number,))

    # Whiteouts

    def _marker(self, above: bytes, name: bytes) -> None:
        if markers.is_aufs(name):
            return
        if name == markers.WHITEOUT_PREFIX:
            raise InvalidContentError("a whiteout of no name")
        gone = markers.hidden_by(name)
        parent = self._directory(above)
        if parent is None:
            # Below what has become a file there is nothing to hide.
            return
        if name == markers.OPAQUE_NAME:
            self._run("UPDATE inode SET opaque = 1 WHERE inode = ?", (parent,))
        elif gone in (b".", b".."):
            raise InvalidContentError("a whiteout of a name that nothing can have")
        elif gone is not None:
            self._whiteout(parent, gone)

    def _whiteout(self, parent: int, name: bytes) -> None:
        there = self._child(parent, name)
        if there is None:
            self._set_name(parent, name, 0)
        elif there and self._is_directory(there):
            # What is below is gone, so its attributes are as well.
            self._run("UPDATE inode SET opaque = 1, implied = 0 WHERE inode = ?", (there,))


def _is_whiteout(entry: TarEntry) -> bool:
    # Not of layer.md, but what every overlay makes of such a device.
    return entry.kind == stat.S_IFCHR and entry.rdev == 0


def _placeholder(*, replaces: bool) -> tuple[Any, ...]:
    """A directory without an entry: implied, unless it *replaces* what a whiteout hides."""
    return (stat.S_IFDIR | 0o755, 0, 0, 0, 0, 1, 0, None, None, int(replaces), int(not replaces))


def _row(entry: TarEntry, content: int | None, *, opaque: bool = False) -> tuple[Any, ...]:
    mode = entry.kind | (0o777 if entry.kind == stat.S_IFLNK else entry.mode)
    time = divmod(entry.mtime_ns, 10**9)
    target = entry.target or None
    return (mode, entry.uid, entry.gid, *time, 1, entry.rdev, target, content, int(opaque), 0)
