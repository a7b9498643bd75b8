"""File contents, each kept once.

An object is a file named after the xxh3_128 of its content and its length. That hash is fast and
anybody can make two contents that share it, so it only finds candidates: equal bytes decide, and a
different content of the same hash and length becomes the next *variant*, up to a number that only
forged contents exceed: each is compared with all that came before. An object is read-only, and
nobody ever opens one for writing.

A damaged object has nothing left to be compared with, so nothing takes its place: what comes later
becomes another variant, and a layer that needed the damaged one is healed by being added again.

Whoever adds contents does so in a :class:`Staging` directory of their own, which holds a link of
every content that they rely on, found or new. So collecting garbage can't take anything from them,
and contents get their names in the pool all at once (:meth:`Staging.publish`).
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import xxhash

from layerstore.errors import DamagedError, InvalidContentError
from layerstore.pieces import reads_the_same

_CHUNK: Final = 1 << 20
_HOLE: Final = 4096
_ZEROS: Final = bytes(_HOLE)
_NAME: Final = re.compile(r"([0-9a-f]{32})-(0|[1-9][0-9]*)(?:\.([1-9][0-9]*))?")
_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_CREATE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_READ_ONLY: Final = 0o400
VARIANTS: Final = 64
"""How many contents of one hash and length there may be."""
PARTS: Final = 256
"""Into how many directories objects are parted: by the first byte of their hashes."""


class Key(NamedTuple):
    """Which object: hash (16 bytes), size in bytes, and which of those that share both."""

    hash: bytes
    size: int
    variant: int = 0

    @property
    def name(self) -> str:
        """The name of its file."""
        name = f"{self.hash.hex()}-{self.size}"
        return f"{name}.{self.variant}" if self.variant else name


def key_of(name: str) -> Key | None:
    """The key that a file's name stands for; None if it is no object's."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    digits, size, variant = found.groups()
    return Key(bytes.fromhex(digits), int(size), int(variant or 0))


class Objects:
    """The pool below a directory, which has to be there."""

    def __init__(self, root: str) -> None:
        self.root: Final = root

    @classmethod
    def create(cls, root: str) -> None:
        """Make the directories of an empty pool, as far as they are missing. Raises OSError."""
        for first in range(PARTS):
            os.makedirs(f"{root}/{first:02x}", 0o700, exist_ok=True)

    def path(self, key: Key) -> str:
        """Where the object is, if it is there."""
        return f"{self.root}/{self.path_below(key)}"

    def path_below(self, key: Key) -> str:
        """The same below the root."""
        return f"{key.hash[:1].hex()}/{key.name}"

    def open(self, key: Key) -> int:
        """A descriptor for reading, which the caller closes.

        Raises DamagedError if the object is gone or has another size, else OSError.
        """
        try:
            descriptor = os.open(self.path(key), _READ)
        except FileNotFoundError:
            raise DamagedError(f"object {key.name} is missing; see layerstore check") from None
        if os.fstat(descriptor).st_size != key.size:
            os.close(descriptor)
            raise DamagedError(f"object {key.name} has the wrong size; see layerstore check")
        return descriptor

    def is_whole(self, key: Key) -> bool:
        """Whether the object is there and has the content it is named after; reads all of it."""
        try:
            descriptor = self.open(key)
        except DamagedError:
            return False
        try:
            return has_hash(descriptor, key)
        finally:
            os.close(descriptor)

    def __iter__(self) -> Iterator[Key]:
        """All objects, by the first byte of their hashes."""
        for first in range(PARTS):
            yield from self.part(first)

    def part(self, first: int) -> Iterator[Key]:
        """The objects whose hashes have this first byte, in no particular order."""
        with os.scandir(f"{self.root}/{first:02x}") as entries:
            yield from filter(None, (key_of(entry.name) for entry in entries))

    def status(self, key: Key) -> os.stat_result | None:
        """What stat(2) tells of an object; None if it is not there."""
        try:
            return os.lstat(self.path(key))
        except FileNotFoundError:
            return None

    def set_aside(self, key: Key, directory: str, scratch: str) -> None:
        """Have ``open`` fail for a damaged object, and what it held in *directory*.

        scratch: a directory of the caller's own. Its name stays taken; the caller holds the store's
        lock for that. Raises OSError.
        """
        placeholder = f"{scratch}/{key.name}"
        _write(placeholder, _placeholder(key))
        with contextlib.suppress(FileNotFoundError):
            os.rename(self.path(key), f"{directory}/{key.name}")
        os.rename(placeholder, self.path(key))

    def is_set_aside(self, key: Key, status: os.stat_result) -> bool:
        """Whether an object of this status may be what ``set_aside`` leaves."""
        return stat.S_ISREG(status.st_mode) and status.st_size == len(_placeholder(key))


def _placeholder(key: Key) -> bytes:
    """Something of another size."""
    return b"" if key.size else b"damaged"


def has_hash(descriptor: int, key: Key) -> bool:
    """Whether what a descriptor has is of the hash and size of *key*. Raises OSError."""
    if os.fstat(descriptor).st_size != key.size:
        return False
    hasher = xxhash.xxh3_128()
    at = 0
    while chunk := os.pread(descriptor, _CHUNK, at):
        hasher.update(chunk)
        at += len(chunk)
    return hasher.digest() == key.hash


class Staging:
    """Contents on their way into a pool, in a directory of their own on the same filesystem.

    One thread at a time may use it.
    """

    def __init__(self, objects: Objects, directory: str) -> None:
        self._objects = objects
        self._directory = directory
        self._unnamed = f"{directory}/new"

    def add(self, content: bytes) -> Key:
        """Take a content that is in memory; answers its key.

        Raises InvalidContentError if too many have its hash, OSError.
        """
        found = xxhash.xxh3_128_digest(content)
        return self._place(
            Key(found, len(content)),
            lambda descriptor: _equals(descriptor, content),
            lambda path: _write(path, content),
        )

    def writer(self) -> ObjectWriter:
        """Take a content that comes in pieces; one at a time. Raises OSError."""
        return ObjectWriter(os.open(self._unnamed, _CREATE, _READ_ONLY), self._finish)

    def _finish(self, descriptor: int, found: bytes, size: int) -> Key:
        try:
            os.ftruncate(descriptor, size)
            return self._place(
                Key(found, size),
                lambda other: reads_the_same(descriptor, other),
                lambda path: os.link(self._unnamed, path),
            )
        finally:
            os.close(descriptor)
            os.unlink(self._unnamed)

    def _place(self, first: Key, equals: Callable[[int], bool], make: Callable[[str], None]) -> Key:
        """Have a content under the first key that is free or has it already, here and there."""
        for variant in range(VARIANTS):
            key = first._replace(variant=variant)
            here, there = f"{self._directory}/{key.name}", self._objects.path(key)
            with _opened(here) as descriptor:
                if descriptor is not None:
                    if equals(descriptor):
                        return key
                    continue
            with _opened(there) as descriptor:
                if descriptor is not None:
                    if not equals(descriptor):
                        continue
                    if _link(there, here):
                        return key
            make(here)
            return key
        raise _forged(first)

    def publish(self) -> dict[Key, Key]:
        """Give all contents their names in the pool; the caller holds the store's lock.

        Answers the keys that are others now: somebody put another content there meanwhile.
        They are on disk when the filesystem has been synced. Raises as ``add``.
        """
        moved = {}
        with os.scandir(self._directory) as entries:
            for entry in entries:
                key = key_of(entry.name)
                if key is not None and (now := self._publish(entry.path, key)) != key:
                    moved[key] = now
        return moved

    def _publish(self, path: str, key: Key) -> Key:
        for variant in range(key.variant, VARIANTS):
            now = key._replace(variant=variant)
            target = self._objects.path(now)
            try:
                os.link(path, target)
            except FileExistsError:
                if os.stat(path).st_ino == os.stat(target).st_ino:
                    return now
            else:
                return now
            with _opened(path) as ours, _opened(target) as other:
                assert ours is not None
                assert other is not None
                if reads_the_same(ours, other):
                    return now
        raise _forged(key)


class ObjectWriter:
    """The content of one object, in pieces; blocks of zeros become holes."""

    def __init__(self, descriptor: int, finish: Callable[[int, bytes, int], Key]) -> None:
        self._descriptor = descriptor
        self._finish = finish
        self._hasher = xxhash.xxh3_128()
        self._size = 0
        self._begun = b""
        self.blocks = 0
        """After ``close``: blocks of 512 bytes that hold data, as stat(2) counts them. That tells
        the content alone, not in which pieces it came.
        """

    def write(self, piece: bytes) -> None:
        """The next bytes. Raises OSError."""
        self._hasher.update(piece)
        self._put(piece)

    def skip(self, count: int) -> None:
        """The next *count* bytes are zeros. Raises OSError."""
        left = count
        while left:
            piece = min(left, _CHUNK)
            self._hasher.update(_NOTHING[:piece])
            left -= piece
        first = min(count, -self._size % _HOLE)
        self._put(_ZEROS[:first])
        last = (count - first) % _HOLE
        self._size += count - first - last
        self._put(_ZEROS[:last])

    def close(self) -> Key:
        """That was all; answers its key. Raises as :meth:`Staging.add`."""
        if self._begun.strip(b"\0"):
            self._write_at(memoryview(self._begun), self._size - len(self._begun))
        descriptor, self._descriptor = self._descriptor, -1
        return self._finish(descriptor, self._hasher.digest(), self._size)

    def abandon(self) -> None:
        """Nothing more comes: give up what is held, if it was not closed."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _put(self, piece: bytes) -> None:
        """Write the blocks that are complete."""
        start = 0
        if self._begun:
            start = min(_HOLE - len(self._begun), len(piece))
            block = self._begun + piece[:start]
            if len(block) == _HOLE:
                self._write_blocks(block, 0, _HOLE, self._size - len(self._begun))
                block = b""
            self._begun = block
        end = start + (len(piece) - start) // _HOLE * _HOLE
        self._write_blocks(piece, start, end, self._size)
        if not self._begun:
            self._begun = piece[end:]
        self._size += len(piece)

    def _write_blocks(self, data: bytes, start: int, end: int, offset: int) -> None:
        """Write *data* from *start* to *end*, which stands at *offset*, without its holes."""
        while start < end:
            stop = start
            while stop < end and data[stop : stop + _HOLE] != _ZEROS:
                stop += _HOLE
            if stop > start:
                self._write_at(memoryview(data)[start:stop], offset + start)
            start = stop + _HOLE

    def _write_at(self, data: memoryview, offset: int) -> None:
        self.blocks += -(-len(data) // _HOLE) * (_HOLE // 512)
        while data:
            count = os.pwrite(self._descriptor, data, offset)
            data, offset = data[count:], offset + count


def _forged(key: Key) -> InvalidContentError:
    return InvalidContentError(
        f"{VARIANTS} other contents have its hash ({key.hash.hex()}), which is no accident: some"
        " were forged; if the store has them, remove their images and run layerstore gc"
    )


_NOTHING: Final = memoryview(bytes(_CHUNK))


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int | None]:
    try:
        descriptor = os.open(path, _READ)
    except FileNotFoundError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _link(source: str, target: str) -> bool:
    """Hold a content of the pool by a link; False if it has just been collected."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        return False
    return True


def _equals(descriptor: int, content: bytes) -> bool:
    # One byte more would show.
    return os.pread(descriptor, len(content) + 1, 0) == content


def _write(path: str, content: bytes) -> None:
    descriptor = os.open(path, _CREATE, _READ_ONLY)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    except OSError:
        os.unlink(path)
        raise
    finally:
        os.close(descriptor)
