"""A layer's index, written once while its tar is read.

Here whiteouts are understood (image-spec layer.md, "Whiteouts"): they mean the layers below,
wherever they stand in the tar; of several entries with one name the last counts.
"""

from __future__ import annotations

import sqlite3
import stat
from typing import Any, Final

from layerstore.errors import InvalidContentError, LimitExceededError, shown
from layerstore.index import ROOT, SCHEMA, VERSION
from layerstore.objects import Key
from layerstore.tarstream import TarEntry
from unionfs.layers import markers

_ADD_INODE: Final = "INSERT INTO inode VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_SET_NAME: Final = (
    "INSERT INTO name VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET inode = excluded.inode"
)
_NAME_BELOW: Final = """
SELECT name, inode, mode FROM name LEFT JOIN inode USING (inode) WHERE parent = ? LIMIT 1
"""
_NEXT_UNSEEN: Final = """
SELECT parent, name, inode FROM name
WHERE (parent, name) > (?, ?) AND is_aufs(name) ORDER BY parent, name LIMIT 1
"""
_CACHED: Final = 4096


class IndexWriter:
    """Writes an index to a new file, which is complete after ``finish``.

    most: how many entries there may be, directories included that are only implied. What is kept in
    memory does not grow with the layer.
    """

    def __init__(self, path: str, most: int) -> None:
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._run = self._database.execute
        self._next = ROOT
        self._most = most
        self._entries = 0
        self._implied = 0
        # By their parents and names. Most entries are in the directory of the one before.
        self._directories: dict[tuple[int, bytes], int] = {}
        self._last: tuple[bytes, int] = b"", ROOT
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

        Raises InvalidContentError if it can't be where it claims to be, LimitExceededError.
        """
        self._entries += 1
        self._require_room()
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
        self._remove_unseen()
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
        known, inode = self._last
        if path == known:
            return inode
        inode = ROOT
        for name in path.split(b"/") if path else ():
            found = self._directories.get((inode, name)) or self._step(inode, name)
            if found is None:
                return None
            inode = found
        self._last = path, inode
        return inode

    def _step(self, parent: int, name: bytes) -> int | None:
        """The directory of a name, as ``_directory``."""
        inode = self._child(parent, name)
        if inode and not self._is_directory(inode):
            return None
        if not inode:
            self._require_visible(name)
            self._implied += 1
            self._require_room()
            inode = self._add(parent, name, _placeholder(replaces=inode is not None))
        if len(self._directories) >= _CACHED:
            self._directories.clear()
        self._directories[parent, name] = inode
        return inode

    def _forget_directories(self) -> None:
        self._directories.clear()
        self._last = b"", ROOT

    def _require_room(self) -> None:
        if self._entries + self._implied > self._most:
            raise LimitExceededError(
                f"more than {self._most} entries, and directories that have none;"
                " allow more with --limit entries=N"
            )

    def _require_visible(self, name: bytes) -> None:
        """Check that something can lie below a name that the layer has no entry for."""
        if markers.is_reserved(name) and not markers.is_aufs(name):
            raise InvalidContentError("it lies below a whiteout")

    def _remove_unseen(self) -> None:
        """Remove directories that aufs kept for itself: what is in them could be linked to, and no
        more.
        """
        self._database.create_function("is_aufs", 1, markers.is_aufs, deterministic=True)
        parent, name = 0, b""
        while row := self._run(_NEXT_UNSEEN, (parent, name)).fetchone():
            parent, name, inode = row
            self._remove(parent, name, inode)

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
        is_directory = self._is_directory(inode)
        self._unlink(parent, name, inode)
        if not is_directory:
            return
        self._forget_directories()
        # One at a time: there may be millions, but no more in one another than Limits.depth.
        above = [inode]
        while above:
            row = self._run(_NAME_BELOW, (above[-1],)).fetchone()
            if row is None:
                above.pop()
                continue
            name, inode, mode = row
            self._unlink(above[-1], name, inode)
            if mode is not None and stat.S_ISDIR(mode):
                above.append(inode)

    def _unlink(self, parent: int, name: bytes, inode: int) -> None:
        """Take one name away, and its inode if it has no other."""
        self._run("DELETE FROM name WHERE parent = ? AND name = ?", (parent, name))
        self._run("UPDATE inode SET links = links - 1 WHERE inode = ?", (inode,))
        if self._run("DELETE FROM inode WHERE inode = ? AND links = 0", (inode,)).rowcount:
            self._run("DELETE FROM xattr WHERE inode = ?", (inode,))

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
