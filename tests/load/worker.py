"""One process's random work on files of its own, every byte of it known beforehand.

    python -m tests.load.worker DIRECTORY SEED OPERATIONS

The directory is empty or one that `lower_layer` made. Every result is compared with a model in
memory, and at the end all is read again. Prints one line of JSON: what was done, and what the
directory holds. The same seed does the same.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.support.maps import Map

_LOWER = 8  # files that a lower layer has
_DIRECTORIES = ("", "one", "two", "two/three")
_SIZE = 128 << 10  # that no file exceeds
_PIECE = 32 << 10  # that is written at once
_NAMES = 24  # in each directory
_OPEN = 6  # descriptors, and as many maps, that stay whatever happens to the names

_WEIGHTS = {
    "create": 4,
    "write": 10,
    "append": 4,
    "read": 8,
    "truncate": 5,
    "rewrite": 2,
    "write_map": 6,
    "keep_map": 2,
    "use_map": 6,
    "keep_open": 2,
    "use_open": 6,
    "rename": 5,
    "rename_directory": 1,
    "link": 3,
    "unlink": 4,
    "make_and_remove": 2,
    "list": 2,
    "status": 5,
    "change_mode": 2,
}

Contents = dict[str, list[str | int]]
"""Of each file: its SHA-1, its size, and how many names it has."""


def lower_layer(directory: Path) -> None:
    """Make, in an empty directory, the files that a worker may find."""
    for name, content in _lower_files().items():
        (directory / name).write_bytes(content)


def contents(root: Path) -> Contents:
    """What the files below a directory hold."""
    found = {}
    for directory, _, names in os.walk(root):
        for name in names:
            path = Path(directory, name)
            found[str(path.relative_to(root))] = _summary(
                path.read_bytes(), path.stat().st_size, path.stat().st_nlink
            )
    return found


def _lower_files() -> dict[str, bytes]:
    return {
        f"lower{number}": random.Random(number).randbytes(1 + number * 9973)
        for number in range(_LOWER)
    }


def _summary(content: bytes | bytearray, size: int, links: int) -> list[str | int]:
    return [hashlib.sha1(content).hexdigest(), size, links]


class _File:
    """What an inode has to hold, and how many names it has to have."""

    def __init__(self, content: bytes = b"") -> None:
        self.content = bytearray(content)
        self.links = 1

    @property
    def size(self) -> int:
        return len(self.content)

    def put(self, offset: int, data: bytes) -> None:
        if offset > self.size:
            self.resize(offset)
        self.content[offset : offset + len(data)] = data

    def resize(self, size: int) -> None:
        del self.content[size:]
        self.content.extend(bytes(size - self.size))


class Worker:
    """Random operations in `root`, by `seed`; each asserts what it sees."""

    def __init__(self, root: Path, seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self.verified = 0  # bytes
        self._root = root
        self._random = random.Random(seed)
        found = _lower_files() if os.listdir(root) else {}
        self._files = {name: _File(content) for name, content in found.items()}
        self._directories = set(_DIRECTORIES)
        self._open: list[tuple[int, _File]] = []
        self._maps: list[tuple[Map, _File]] = []
        for name in _DIRECTORIES[1:]:
            (root / name).mkdir()

    def run(self, operations: int) -> None:
        """Do that many. Raises AssertionError, which says where it was."""
        chosen = self._random.choices(list(_WEIGHTS), list(_WEIGHTS.values()), k=operations)
        for number, operation in enumerate(chosen):
            try:
                getattr(self, operation)()
            except (OSError, AssertionError) as error:
                raise AssertionError(f"operation {number}, {operation}: {error!r}") from error
            self.counts[operation] += 1

    def finish(self) -> Contents:
        """Read everything once more; answers what is there, for those who look later."""
        while self._open:
            self._close()
        while self._maps:
            self._unmap()
        expected = {
            path: _summary(file.content, file.size, file.links)
            for path, file in self._files.items()
        }
        assert contents(self._root) == expected
        self.verified += sum(file.size for file in self._files.values())
        return expected

    # The operations

    def create(self) -> None:
        path = self._free_name()
        with self._descriptor(path, os.O_CREAT | os.O_EXCL | os.O_RDWR) as descriptor:
            self._files[path] = _File()
            self._write_through(descriptor, self._files[path])

    def write(self) -> None:
        path, file = self._some_file()
        with self._descriptor(path, os.O_RDWR) as descriptor:
            self._write_through(descriptor, file)
            if self._random.random() < 0.1:
                os.fsync(descriptor)

    def append(self) -> None:
        path, file = self._some_file()
        data = self._data(_SIZE - file.size)
        with self._descriptor(path, os.O_WRONLY | os.O_APPEND) as descriptor:
            assert os.write(descriptor, data) == len(data)
        file.put(file.size, data)

    def read(self) -> None:
        path, file = self._some_file()
        with self._descriptor(path, os.O_RDONLY) as descriptor:
            self._read_through(descriptor, file)

    def truncate(self) -> None:
        path, file = self._some_file()
        size = self._random.randrange(_SIZE)
        os.truncate(self._root / path, size)
        file.resize(size)

    def rewrite(self) -> None:
        path, file = self._some_file()
        with self._descriptor(path, os.O_WRONLY | os.O_TRUNC) as descriptor:
            file.resize(0)
            self._write_through(descriptor, file)

    def write_map(self) -> None:
        path, file = self._some_file()
        if not file.size:
            return
        with self._descriptor(path, os.O_RDWR) as descriptor:
            view = Map(descriptor, file.size, writable=True)
            with contextlib.closing(view):
                start, end = self._write_mapped(view, file)
                assert os.pread(descriptor, end - start, start) == file.content[start:end]
                if self._random.random() < 0.1:
                    view.sync()

    def keep_map(self) -> None:
        path, file = self._some_file()
        if not file.size:
            return
        if len(self._maps) == _OPEN:
            self._unmap()
        with self._descriptor(path, os.O_RDWR) as descriptor:
            self._maps.append((Map(descriptor, file.size, writable=True), file))

    def use_map(self) -> None:
        if not self._maps:
            return
        view, file = self._random.choice(self._maps)
        size = min(view.size, file.size)
        assert view.read(0, size) == file.content[:size], "a map differs"
        self.verified += size
        if size:
            self._write_mapped(view, file)

    def keep_open(self) -> None:
        path, file = self._some_file()
        if len(self._open) == _OPEN:
            self._close()
        flags = self._random.choice((os.O_RDONLY, os.O_RDWR))
        self._open.append((os.open(self._root / path, flags), file))

    def use_open(self) -> None:
        if not self._open:
            return
        descriptor, file = self._random.choice(self._open)
        status = os.fstat(descriptor)
        assert (status.st_size, status.st_nlink) == (file.size, file.links)
        self._read_through(descriptor, file)

    def rename(self) -> None:
        path, file = self._some_file()
        target = self._some_name()
        replaced = self._files.get(target)
        os.rename(self._root / path, self._root / target)
        if replaced is file:
            return  # rename(2): two names of one file both stay
        if replaced is not None:
            replaced.links -= 1
        self._files[target] = self._files.pop(path)

    def rename_directory(self) -> None:
        old, new = "two/three", "one/moved"
        if old not in self._directories:
            old, new = new, old
        os.rename(self._root / old, self._root / new)
        self._directories = self._directories - {old} | {new}
        self._files = {
            new + path.removeprefix(old) if path.startswith(old) else path: file
            for path, file in self._files.items()
        }

    def link(self) -> None:
        target = self._free_name()
        path, file = self._some_file()
        os.link(self._root / path, self._root / target)
        file.links += 1
        self._files[target] = file

    def unlink(self) -> None:
        path, file = self._some_file()
        os.unlink(self._root / path)
        file.links -= 1
        del self._files[path]

    def make_and_remove(self) -> None:
        path = self._root / self._free_name()
        path.mkdir()
        (path / "inside").touch()
        (path / "inside").unlink()
        path.rmdir()

    def list(self) -> None:
        directory = self._random.choice(sorted(self._directories))
        below = f"{directory}/" if directory else ""
        known = self._files.keys() | self._directories - {directory}
        known = {path.removeprefix(below) for path in known if path.startswith(below)}
        assert set(os.listdir(self._root / directory)) == {p for p in known if "/" not in p} - {""}

    def status(self) -> None:
        path, file = self._some_file()
        status = os.stat(self._root / path)
        assert (status.st_size, status.st_nlink) == (file.size, file.links), path

    def change_mode(self) -> None:
        path, _ = self._some_file()
        mode = self._random.choice((0o600, 0o644, 0o755))
        os.chmod(self._root / path, mode)
        assert stat.S_IMODE(os.stat(self._root / path).st_mode) == mode, path

    # What they are made of

    def _some_file(self) -> tuple[str, _File]:
        if not self._files:
            self.create()
        return self._random.choice(tuple(self._files.items()))

    def _some_name(self) -> str:
        directory = self._random.choice(sorted(self._directories))
        return str(Path(directory, f"file{self._random.randrange(_NAMES)}"))

    def _free_name(self) -> str:
        while (path := self._some_name()) in self._files:
            self.unlink()
        return path

    def _data(self, most: int) -> bytes:
        return self._random.randbytes(min(self._random.randrange(1, _PIECE), most))

    @contextlib.contextmanager
    def _descriptor(self, path: str, flags: int) -> Iterator[int]:
        descriptor = os.open(self._root / path, flags)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _write_through(self, descriptor: int, file: _File) -> None:
        offset = self._random.randrange(_SIZE)
        data = self._data(_SIZE - offset)
        assert os.pwrite(descriptor, data, offset) == len(data)
        file.put(offset, data)

    def _read_through(self, descriptor: int, file: _File) -> None:
        offset, size = self._random.randrange(_SIZE), self._random.randrange(_SIZE)
        if self._random.random() < 0.3:
            # So that it comes from the daemon, not from what the kernel has of it.
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        data = os.pread(descriptor, size, offset)
        assert data == file.content[offset : offset + size], (offset, size)
        self.verified += len(data)

    def _write_mapped(self, view: Map, file: _File) -> tuple[int, int]:
        size = min(view.size, file.size)
        start = self._random.randrange(size)
        data = self._data(size - start)
        view.write(start, data)
        file.put(start, data)
        return start, start + len(data)

    def _close(self) -> None:
        descriptor, file = self._open.pop(0)
        self._read_through(descriptor, file)
        os.close(descriptor)

    def _unmap(self) -> None:
        view, _ = self._maps.pop(0)
        view.close()


def main() -> None:
    """The worker as a process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("seed", type=int)
    parser.add_argument("operations", type=int)
    words = parser.parse_args()
    worker = Worker(words.directory, words.seed)
    worker.run(words.operations)
    done = {"contents": worker.finish(), "counts": worker.counts, "verified": worker.verified}
    print(json.dumps(done))


if __name__ == "__main__":
    main()
