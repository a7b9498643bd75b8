"""The stacks of layers that rows work on: made once, the same in every run."""

import functools
import itertools
import os
import random
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from tests.bench import debianroot
from tests.support.kept import Kept
from tests.support.stores import StoreBuilder, packed

IMAGE: Final = "stack:1"

_MIB: Final = 1 << 20
_SMALL_FILE: Final = 1 << 16
_IDENTITY: Final = ("-c", "user.name=Nobody", "-c", "user.email=nobody@localhost")
_CHECKED_OUT: Final = ("usr/include", "usr/lib/python3*", "usr/share/cmake*", "usr/share/perl")


@dataclass(frozen=True)
class Stack:
    """Layers, base first, and the directory that has the same tree."""

    layers: list[Path]
    plain: Path

    @functools.cached_property
    def names(self) -> list[str]:
        """All that is in the tree, in no order, but the same each time."""
        return _shuffled(path for path, _ in self._entries)

    @functools.cached_property
    def files(self) -> list[str]:
        """The regular files that are small, in no order, but the same each time."""
        return _shuffled(
            path
            for path, status in self._entries
            if stat.S_ISREG(status.st_mode) and status.st_size <= _SMALL_FILE
        )

    @functools.cached_property
    def directories(self) -> dict[str, int]:
        """How many names are below each directory."""
        found: dict[str, int] = {}
        for path, status in self._entries:
            if stat.S_ISDIR(status.st_mode):
                found.setdefault(path, 0)
            above = path
            while above:
                above = os.path.dirname(above)
                found[above] = found.get(above, 0) + 1
        return found

    @functools.cached_property
    def _entries(self) -> list[tuple[str, os.stat_result]]:
        return [
            (os.path.relpath(path, self.plain), os.lstat(path))
            for directory, below, files in os.walk(self.plain)
            for path in (os.path.join(directory, name) for name in (*below, *files))
        ]


def _shuffled(paths: Iterable[str]) -> list[str]:
    found = sorted(paths)
    random.Random(1).shuffle(found)
    return found


@dataclass(frozen=True)
class Stacks(Kept):
    """Makes stacks and keeps them in `data`.

    layers: how many the root comes in, if nothing else is said. scale: what part of their full
    size large files and many files have.
    """

    layers: int
    scale: float

    def many(self, full: int, least: int = 1) -> int:
        """How many of what there are *full* of at full size."""
        return max(least, round(full * self.scale))

    def __call__(self, name: str) -> Stack:
        """The stack of that name, or ``NAME-NUMBER`` where there are several."""
        kind, _, number = name.partition("-")
        with self.alone():
            return self._stacks[kind](self, int(number or 0))

    def root(self, layers: int) -> Stack:
        """A root of Debian in so many layers."""
        made = self._root()
        layers = layers or self.layers
        if layers == 1:
            return Stack([made / "plain"], made / "plain")

        def make(directory: Path) -> None:
            (directory / "layers").mkdir()
            debianroot.split(made / "root.tar", layers, directory / "layers")

        split = self.once(f"root-{layers}", make) / "layers"
        return Stack([split / f"{number}" for number in range(layers)], made / "plain")

    def checkout(self, _: int) -> Stack:
        """A git checkout of thousands of files, and the same as source.tar beside it."""
        return _one(self.once("checkout", functools.partial(_check_out, self._root() / "plain")))

    def large(self, mebibytes: int) -> Stack:
        """One file, `large`, of 1 GiB or so many MiB."""
        size = self.many(mebibytes or 1 << 10) * _MIB
        return _one(self.once(f"large-{size // _MIB}", functools.partial(_make_large, size)))

    def many_files(self, _: int) -> Stack:
        """10,000 files of up to 8 KiB in 100 directories that five layers have in common."""
        count = self.many(10_000, 100)
        paths = [f"d{number % 100:02}/file{number}" for number in range(count)]
        return self._spread(f"many-{count}", paths, 5, 1 << 13)

    def spread(self, layers: int) -> Stack:
        """2,000 small files in 20 directories that so many layers have in common."""
        paths = [f"d{number // 100:02}/file{number}" for number in range(2000)]
        return self._spread(f"spread-{layers}", paths, layers, 100)

    def flat(self, count: int) -> Stack:
        """One directory, `flat`, of so many empty files, and 100 others; two layers have both."""
        paths = [f"flat/file{number}" for number in range(count)]
        paths += [f"others/file{number}" for number in range(100)]
        return self._spread(f"flat-{count}", paths, 2, 0)

    def blank(self, _: int) -> Stack:
        """An empty directory, `d`."""
        return _one(self.once("blank", lambda made: (made / "plain/d").mkdir(parents=True)))

    def store(self, stack: Stack) -> Path:
        """A store that has a stack as the image IMAGE."""
        name = stack.layers[0].relative_to(self.data).parts[0]
        with self.alone():
            return self.once(f"{name}-store", functools.partial(_import, stack))

    def _root(self) -> Path:
        return self.once("root", debianroot.make)

    def _spread(self, name: str, paths: Iterable[str], layers: int, largest: int) -> Stack:
        def make(directory: Path) -> None:
            chosen = random.Random(name)
            targets = itertools.cycle([directory / "layers" / f"{n}" for n in range(layers)])
            for path, target in zip(paths, targets, strict=False):
                content = chosen.randbytes(chosen.randint(1, largest)) if largest else b""
                for root in (target, directory / "plain"):
                    (root / path).parent.mkdir(parents=True, exist_ok=True)
                    (root / path).write_bytes(content)

        made = self.once(name, make)
        return Stack([made / "layers" / f"{number}" for number in range(layers)], made / "plain")

    _stacks: ClassVar[dict[str, Callable[["Stacks", int], Stack]]] = {
        "root": root,
        "checkout": checkout,
        "large": large,
        "many": many_files,
        "spread": spread,
        "flat": flat,
        "blank": blank,
    }


def _one(made: Path) -> Stack:
    return Stack([made / "plain"], made / "plain")


def _import(stack: Stack, store: Path) -> None:
    # Sockets, if any, are no loss here.
    tars = (packed(layer, lambda _: None) for layer in stack.layers)
    StoreBuilder(store).image(IMAGE, tars)


def _make_large(size: int, directory: Path) -> None:
    (directory / "plain").mkdir()
    chosen = random.Random(size)
    with (directory / "plain/large").open("wb") as file:
        for _ in range(0, size, _MIB):
            file.write(chosen.randbytes(_MIB))


def _check_out(root: Path, directory: Path) -> None:
    tree = directory / "plain"
    for source in _found(root):
        target = tree / source.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target, symlinks=True)
    subprocess.run(
        ["tar", "--sort=name", "-C", tree, "-cf", directory / "source.tar", "."], check=True
    )
    # What another mount shows is the same file, though its inode number is another.
    settings = (("core.checkStat", "minimal"), ("core.trustctime", "false"), ("gc.auto", "0"))
    for words in (
        ("init", "--quiet"),
        *(("config", *setting) for setting in settings),
        ("add", "--force", "."),
        (*_IDENTITY, "commit", "--quiet", "--message=All"),
        ("repack", "-a", "-d", "--quiet"),
    ):
        subprocess.run(["git", "-C", tree, *words], check=True)


def _found(root: Path) -> Iterator[Path]:
    for pattern in _CHECKED_OUT:
        yield from (
            path for path in sorted(root.glob(pattern)) if path.is_dir() and not path.is_symlink()
        )
