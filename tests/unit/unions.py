"""A union without a mount: a Filesystem, asked by path, as the kernel would ask it."""

from __future__ import annotations

import functools
import os
import stat
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple, ParamSpec, Self

import trio

from tests.support.layers import Tree, build
from unionfs.filesystem import Filesystem
from unionfs.layers.directory import DirectoryLayer
from unionfs.model import Caller
from unionfs.nodes import ROOT_NUMBER, Node
from unionfs.upper import Upper

ROOT: Final = Caller(0, 0, 0o022)
_DIRECTORIES: Final = ("lower", "upper", "work")

_P = ParamSpec("_P")


def in_trio(test: Callable[_P, Awaitable[None]]) -> Callable[_P, None]:
    """Run a test that awaits."""

    @functools.wraps(test)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        trio.run(functools.partial(test, *args, **kwargs))

    return run


class Shown(NamedTuple):
    """What can be seen of one name; group: all names of the same inode."""

    mode: str
    owner: tuple[int, int]
    links: int
    group: tuple[str, ...]
    content: str | None
    xattrs: tuple[tuple[bytes, bytes], ...]


class Union:
    """The lower layer, the upper and the work directory below *directory*, opened."""

    def __init__(self, directory: Path, *, metacopy: bool = False) -> None:
        self.lower, self.upper, self.work = (directory / name for name in _DIRECTORIES)
        self._metacopy = metacopy
        self.open()

    @classmethod
    def build(cls, directory: Path, lower: Tree, upper: Tree, *, metacopy: bool = False) -> Self:
        """Write the layers down, in a new directory, and open them."""
        directory.mkdir()
        for name, tree in zip(_DIRECTORIES, (lower, upper, {}), strict=True):
            build(directory / name, tree)
        return cls(directory, metacopy=metacopy)

    def open(self) -> None:
        """Mount it, so to say."""
        self._references: Counter[int] = Counter()
        layer = DirectoryLayer(bytes(self.lower))
        upper = Upper(bytes(self.upper), bytes(self.work), metacopy=self._metacopy)
        self.filesystem = Filesystem([layer], upper)

    def close(self) -> None:
        self.filesystem.close()

    def reopen(self) -> None:
        """What was only in memory is gone."""
        self.close()
        self.open()

    @property
    def scratch(self) -> list[str]:
        """What is being built in the work directory; whiteouts wait there to be used again."""
        scratch = self.work / "work"
        return [
            name
            for name in os.listdir(scratch)
            if not stat.S_ISCHR((scratch / name).lstat().st_mode)
        ]

    # Names

    def node(self, path: str) -> Node:
        """The node of a path; the kernel has a reference on it, and on those on the way."""
        node = self.filesystem.getattr(ROOT_NUMBER)
        for name in filter(None, path.split("/")):
            node = self.filesystem.lookup(node.number, os.fsencode(name))
            self.refer(node)
        return node

    def number(self, path: str) -> int:
        return self.node(path).number

    def spot(self, path: str) -> tuple[int, bytes]:
        """The number of the directory, and the name in it."""
        directory, _, name = path.rpartition("/")
        return self.number(directory), os.fsencode(name)

    def refer(self, node: Node) -> Node:
        """Note a reference that the kernel got."""
        self._references[node.number] += 1
        return node

    def forget(self) -> None:
        """Give all references back, as the kernel does when it drops its caches."""
        references, self._references = self._references, Counter()
        for number, count in references.items():
            self.filesystem.forget(number, count)

    async def rename(self, old: str, new: str, flags: int = 0) -> None:
        self.node(old)
        self._look_for(new)
        await self.filesystem.rename(*self.spot(old), *self.spot(new), flags)

    async def unlink(self, path: str) -> None:
        self.node(path)
        await self.filesystem.unlink(*self.spot(path))

    def rmdir(self, path: str) -> None:
        self.node(path)
        self.filesystem.rmdir(*self.spot(path))

    def _look_for(self, path: str) -> None:
        with suppress(FileNotFoundError):
            self.node(path)

    async def link(self, path: str, new: str) -> None:
        self.refer(await self.filesystem.link(self.number(path), *self.spot(new)))

    # Content

    async def open_file(self, path: str, flags: int = os.O_RDONLY) -> int:
        """A handle."""
        file = await self.filesystem.open(self.number(path), flags, privileged=True)
        return file.descriptor

    def create(self, path: str, text: str = "") -> None:
        file, node = self.filesystem.create(*self.spot(path), 0o644, os.O_RDWR, ROOT)
        self.refer(node)
        self.filesystem.write(file.descriptor, 0, text.encode())
        self.filesystem.release(file.descriptor)

    async def write(self, path: str, text: str, flags: int = 0) -> None:
        handle = await self.open_file(path, os.O_WRONLY | flags)
        try:
            self.filesystem.write(handle, 0, text.encode())
        finally:
            self.filesystem.release(handle)

    async def read(self, path: str) -> str:
        handle = await self.open_file(path)
        try:
            return self.filesystem.read(handle, 0, 1 << 20).decode()
        finally:
            self.filesystem.release(handle)

    # All of it

    async def shown(self) -> dict[str, Shown]:
        """Every path with what is to be seen of it; the kernel keeps no reference."""
        nodes = dict(self._walk("", self.filesystem.getattr(ROOT_NUMBER)))
        paths: dict[int, list[str]] = {}
        for path, node in nodes.items():
            paths.setdefault(node.number, []).append(path)
        shown = {path: await self._shown(node, paths[node.number]) for path, node in nodes.items()}
        for node in nodes.values():
            if node.number != ROOT_NUMBER:
                self.filesystem.forget(node.number, 1)
        return shown

    def _walk(self, path: str, node: Node) -> Iterator[tuple[str, Node]]:
        yield path, node
        if not node.is_directory:
            return
        for name in self.listing(node.number):
            child = self.filesystem.lookup(node.number, os.fsencode(name))
            yield from self._walk(f"{path}/{name}", child)

    def listing(self, number: int) -> list[str]:
        """The names in a directory; the kernel keeps no reference."""
        names = []
        for name, node, _ in islice(self.filesystem.readdir(number, 0), 2, None):
            self.filesystem.accepted(node, taken=False)
            names.append(os.fsdecode(name))
        return sorted(names)

    async def _shown(self, node: Node, paths: list[str]) -> Shown:
        attributes, links, _ = self.filesystem.status(node)
        content = None
        if node.is_regular:
            file = await self.filesystem.open(node.number, os.O_RDONLY, privileged=True)
            handle = file.descriptor
            content = self.filesystem.read(handle, 0, 1 << 20).decode()
            self.filesystem.release(handle)
        elif stat.S_ISLNK(node.mode):
            content = os.fsdecode(self.filesystem.readlink(node.number))
        names = sorted(self.filesystem.listxattr(node.number, privileged=True))
        return Shown(
            stat.filemode(attributes.st_mode),
            (attributes.st_uid, attributes.st_gid),
            0 if node.is_directory else links,
            tuple(sorted(paths)),
            content,
            tuple((name, self.filesystem.getxattr(node.number, name)) for name in names),
        )
