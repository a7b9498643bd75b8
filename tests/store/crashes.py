"""Commands that do not come to their end, and what has to be there then."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from layerstore import check, layertar
from layerstore.errors import StoreError
from layerstore.repository import Repository
from tests.support.injector import Call
from tests.support.stores import StoreBuilder
from tests.support.tars import directory, file, tar, whiteout
from tests.support.victims import Victims

_BASE = tar(directory("d"), file("d/shared", b"shared " * 100), file("base", b"of the base"))
_TOP = tar(file("again", b"shared " * 100), whiteout("base"), file("big", os.urandom(1) * 1500000))
_OTHER = tar(file("other", b"of another"))


@dataclass(frozen=True)
class Case:
    """begin: fills a store, and what else the command reads, in a directory. words: the command.

    damaged: the store is, to begin with.
    """

    begin: Callable[[StoreBuilder, Path], None]
    words: tuple[str, ...]
    damaged: bool = False


def nothing(store: StoreBuilder, place: Path) -> None:
    """An archive, and no store."""
    source = StoreBuilder(place / "source")
    source.image("one:1", [_BASE, _TOP], keep_blobs=True)
    source.archive(place / "one.tar", "one:1")
    shutil.rmtree(source.path)


def some(store: StoreBuilder, place: Path) -> None:
    nothing(store, place)
    store.image("two:1", [_BASE, _OTHER], keep_blobs=True)


def garbage(store: StoreBuilder, place: Path) -> None:
    some(store, place)
    store.layer(_TOP, keep_blob=True)
    store.image(None, [tar(file("nameless", b"of no name"))])
    (store.path / "tmp" / "left" / "objects").mkdir(parents=True)
    (store.path / "tmp" / "left" / "objects" / "file").write_bytes(b"x" * 1000)
    (store.path / "damaged" / "thing").write_bytes(b"x")


def harm_object(store: StoreBuilder, place: Path) -> None:
    """One that layers of both images have."""
    nothing(store, place)
    store.image("two:1", [_BASE, _OTHER], keep_blobs=True)
    store.image("one:1", [_BASE, _TOP])
    with store.opened() as repository:
        (key,) = (key for key in repository.objects if key.size == 700)
        os.chmod(repository.objects.path(key), 0o600)
        Path(repository.objects.path(key)).write_bytes(b"shaded " * 100)


def harm(store: StoreBuilder, place: Path) -> None:
    """An index, too, of a layer whose blob was kept."""
    harm_object(store, place)
    with store.opened() as repository:
        index = f"{repository.paths.layer(repository.find('two:1').layers[1])}/index.sqlite"
        os.truncate(index, 5000)


def checked(begin: Callable[[StoreBuilder, Path], None]) -> Callable[[StoreBuilder, Path], None]:
    def both(store: StoreBuilder, place: Path) -> None:
        begin(store, place)
        with store.opened() as repository:
            assert list(check.check(repository))

    return both


def upper(store: StoreBuilder, place: Path) -> None:
    some(store, place)
    (place / "upper" / "d").mkdir(parents=True)
    (place / "upper" / "d" / "new").write_bytes(b"new")
    (place / "upper" / "base").write_bytes(b"changed")


CASES: Final = {
    "import into no store": Case(nothing, ("import", "one.tar")),
    "import": Case(some, ("import", "one.tar", "--keep-blobs")),
    "import again what is damaged": Case(checked(harm_object), ("import", "one.tar"), damaged=True),
    "commit": Case(upper, ("commit", "upper", "--onto", "two:1", "--tag", "mine:1")),
    "gc": Case(garbage, ("gc", "--untagged")),
    "check": Case(some, ("check",)),
    "check of what is damaged": Case(harm, ("check",), damaged=True),
    "check and repair": Case(harm, ("check", "--repair", "--from", "one.tar"), damaged=True),
    "repair": Case(checked(harm), ("check", "--repair", "--from", "one.tar"), damaged=True),
    "remove": Case(some, ("rm", "two:1")),
}


class Stage:
    """A case's beginning, and a directory for copies of it, in which the command is run."""

    def __init__(self, victims: Victims, case: Case, place: Path, copy: Path) -> None:
        self._victims = victims
        self._case = case
        self._template = place / "template"
        self._template.mkdir()
        case.begin(StoreBuilder(self._template / "store"), self._template)
        self._copy = copy
        self.store = StoreBuilder(copy / "store")
        self.begin()
        before = {} if case.damaged else images(self.store)
        self.calls: list[Call] = []
        self.run(lambda _, call: self.calls.append(call))
        self._after, self._files = self._collected()
        stay = before.keys() & self._after.keys()
        self._stays = {image: before[image] for image in stay}

    def _words(self) -> list[str | Path]:
        name, *rest = self._case.words
        paths = [self._copy / word if (self._template / word).exists() else word for word in rest]
        return ["--store", self.store.path, name, *paths]

    def begin(self) -> None:
        """Have everything as it was before the command."""
        self._copy.mkdir(exist_ok=True)
        for name in {"store", *os.listdir(self._template)}:
            path = self._copy / name
            if path.exists():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(self._template, self._copy, dirs_exist_ok=True)

    def run(self, before: Callable[[int, Call], None]) -> None:
        """Run the command; `before` gets its process and each change that is to come."""
        self._victims.stopped(before, *self._words())

    def kill(self, number: int) -> bool:
        """Kill the command before its change of this number; whether there was such a one."""
        self.begin()
        return self._victims.killed(number, *self._words())

    def look(self, *, power: bool = True) -> None:
        """At what is left, and what comes of it.

        power: whether only the process has ended, and not the machine.
        """
        if not self._case.damaged and self.store.path.exists():
            with self.store.opened() as repository:
                assert list(check.check(repository)) == []
        assert self._stays.items() <= images(self.store).items()
        assert self._victims.run(*self._words()) in self._may_end_with()
        after, files = self._collected()
        assert after == self._after
        assert files == self._files or not power

    def _may_end_with(self) -> tuple[int, ...]:
        # It may have been done, or find the damage that it is to find.
        return (0, 1) if self._case.words[0] in ("rm", "check") else (0,)

    def _collected(self) -> tuple[dict[str, object], list[Path]]:
        """The images that are there after a collection, and all files."""
        if self._case.words == ("check",) and self._case.damaged:
            # Nobody can tell what a layer needs whose index is damaged.
            return images(self.store), []
        for _ in range(2):
            assert self._victims.run("--store", self.store.path, "gc") == 0
        with self.store.opened() as repository:
            assert list(check.check(repository)) == []
        names = sorted(path.relative_to(self.store.path) for path in self.store.path.rglob("*"))
        known = [name for name in names if not name.name.startswith(("catalog", "turns"))]
        return images(self.store), known


def images(store: StoreBuilder) -> dict[str, object]:
    """All images: documents and layers, as far as they can be read."""
    if not store.path.exists():
        return {}
    with store.opened() as repository:
        return {image.id: whole(repository, image.id) for image in repository.images()}


def whole(repository: Repository, of: str) -> object:
    image = repository.image(of)
    blobs = [repository.kept_blob(diff_id) for diff_id in image.layers]
    manifests = repository.catalog.manifests(image.id)
    tars = []
    for diff_id in image.layers:
        with contextlib.suppress(StoreError):
            tars.append(b"".join(layertar.tar(repository, diff_id)))
    return image.names, image.raw, manifests, blobs, tars
