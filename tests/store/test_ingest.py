"""A layer into the store: what it is then, and that what is refused changes nothing."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import random
import sqlite3
import stat
from pathlib import Path

import pytest
import xxhash

from layerstore import layertar, leases
from layerstore.adding import add_layer
from layerstore.compression import Compression, compress
from layerstore.errors import InvalidContentError, LimitExceededError
from layerstore.index import ROOT
from layerstore.ingest import Claim, Ingested
from layerstore.layer import StoredLayer
from layerstore.limits import Limits
from layerstore.repository import Repository
from tests.support import tars
from tests.support.archives import sha256
from tests.support.stores import StoreBuilder
from unionfs.model import Attributes, Entry

pytestmark = pytest.mark.usefixtures("nothing_left_open")

LARGE = random.Random(0).randbytes(2_500_000)
TAR = tars.tar(tars.directory("d"), tars.file("d/small", b"content"), tars.file("d/large", LARGE))


class Source:
    """A stream that fails at its end, or gives little at a time."""

    def __init__(self, data: bytes, most: int = 1 << 20, error: Exception | None = None) -> None:
        self._file = io.BytesIO(data)
        self._most = most
        self._error = error

    def read(self, size: int) -> bytes:
        piece = self._file.read(min(size, self._most))
        if not piece and self._error:
            raise self._error
        return piece


NOTHING = Claim()


def add(
    repository: Repository, data: bytes | Source, claim: Claim = NOTHING, *, keep: bool = False
) -> Ingested:
    source = io.BytesIO(data) if isinstance(data, bytes) else data
    added = add_layer(repository, source, claim, lambda _: None, keep_blob=keep)
    os.close(added.lease)
    return added


def everything(path: Path) -> dict[str, tuple[int, bytes]]:
    """All files of a store but those whose content is SQLite's affair, and what was made anew."""
    return {
        str(file.relative_to(path)): (file.stat().st_mode, file.read_bytes())
        for file in path.rglob("*")
        if file.is_file() and not file.name.startswith("catalog") and file.name != "lock"
    }


def has_nothing(repository: Repository) -> bool:
    return not repository.layers() and not list(repository.objects)


# What comes in


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (Compression.NONE, TAR),
        (Compression.GZIP, gzip.compress(TAR, mtime=0)),
        (Compression.ZSTD, b"".join(compress([TAR], Compression.ZSTD))),
        (Compression.XZ, lzma.compress(TAR)),
        (Compression.BZIP2, bz2.compress(TAR)),
    ],
    ids=lambda value: value.value if isinstance(value, Compression) else "",
)
@pytest.mark.parametrize("most", [1 << 20, 777])
def test_a_layer_is_known_by_its_tar_however_it_comes(
    repository: Repository, kind: Compression, data: bytes, most: int
) -> None:
    added = add(repository, Source(data, most))
    assert added.new
    assert (added.diff_id, added.digest, added.size) == (sha256(TAR), sha256(data), len(data))
    assert added.compression is kind
    assert repository.layers() == [sha256(TAR)]
    assert b"".join(layertar.tar(repository, added.diff_id)) == TAR


def test_a_layer_that_is_there_stays(repository: Repository) -> None:
    add(repository, TAR)
    before = everything(Path(repository.paths.root))
    added = add(repository, gzip.compress(TAR, mtime=0))
    assert not added.new
    assert everything(Path(repository.paths.root)) == before


def test_what_layers_share_is_there_once(repository: Repository) -> None:
    add(repository, TAR)
    add(repository, tars.tar(tars.file("x", LARGE), tars.file("y", b"content")))
    assert len(list(repository.objects)) == 2
    add(repository, tars.tar(tars.file("x", LARGE[:-1] + b"x")))
    assert len(list(repository.objects)) == 3


def test_nobody_may_write_what_is_in_the_store(repository: Repository) -> None:
    add(repository, TAR)
    files = [
        path
        for place in (repository.paths.layers, repository.paths.objects)
        for path in Path(place).rglob("*")
        if path.is_file()
    ]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o400}
    assert sorted(path.name for path in files if "layers" in path.parts) == [
        "index.sqlite",
        "recipe",
    ]
    assert os.listdir(repository.paths.temporary) == []


def test_a_layer_is_held_for_who_added_it(repository: Repository) -> None:
    added = add_layer(repository, io.BytesIO(TAR), Claim(), lambda _: None)
    assert leases.take(repository.paths.layer(added.diff_id)) is None
    os.close(added.lease)


def test_who_watches_is_told_every_byte_that_was_read(repository: Repository) -> None:
    data = gzip.compress(TAR, mtime=0)
    told: list[int] = []
    added = add_layer(repository, io.BytesIO(data), Claim(), told.append)
    os.close(added.lease)
    assert sum(told) == len(data)


def test_a_blob_that_is_to_be_kept_is_kept_as_it_came(repository: Repository) -> None:
    data = gzip.compress(TAR, mtime=0)
    add(repository, data, keep=True)
    (row,) = repository.catalog.blobs()
    assert (row.blob, row.diff_id, row.size) == (sha256(data), sha256(TAR), len(data))
    assert repository.kept_blob(sha256(TAR)) == repository.kept_blob(sha256(TAR), row.blob) == row
    assert repository.kept_blob(sha256(TAR), sha256(b"other")) is None
    assert Path(repository.paths.blob(row.blob)).read_bytes() == data


def test_a_layer_that_is_not_compressed_is_not_kept_twice(repository: Repository) -> None:
    added = add(repository, TAR, keep=True)
    assert repository.catalog.blobs() == []
    assert os.listdir(repository.paths.blobs) == []
    assert b"".join(layertar.tar(repository, added.diff_id)) == TAR


@pytest.mark.parametrize("size", [100, 3_000_000])
def test_holes_stay_holes(repository: Repository, size: int) -> None:
    pieces = {0: b"a", 50: b"b", size: b"c"} if size < 4096 else {0: b"a", size: b"c"}
    tar = tars.tar(tars.gnu_sparse("a", pieces, size + 200_000))
    diff_id = add(repository, tar).diff_id
    (key,) = repository.objects
    content = bytearray(size + 200_000)
    for at, piece in pieces.items():
        content[at : at + len(piece)] = piece
    with open(repository.objects.open(key), "rb") as file:
        assert file.read() == content
        assert os.fstat(file.fileno()).st_blocks <= 16
    with contextlib.closing(repository.open_layer(diff_id)) as layer:
        assert attributes(layer, b"a").st_blocks == (8 if size < 4096 else 16)


def attributes(layer: StoredLayer, name: bytes) -> Attributes:
    entry = layer.lookup(layer.root(), name)
    assert isinstance(entry, Entry)
    return entry.attributes


def test_the_same_file_is_one_object_with_and_without_holes(repository: Repository) -> None:
    dense = tars.tar(tars.file("a", b"a" + bytes(3_000_000)))
    sparse = tars.tar(tars.pax_sparse("a", {0: b"a"}, 3_000_001, "1.0"))
    for tar in (dense, sparse):
        assert b"".join(layertar.tar(repository, add(repository, tar).diff_id)) == tar
    assert len(list(repository.objects)) == 1


# Collisions


@pytest.fixture
def colliding(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hash:
        def update(self, piece: bytes) -> None:
            pass

        def digest(self) -> bytes:
            return bytes(16)

    monkeypatch.setattr(xxhash, "xxh3_128", Hash)
    monkeypatch.setattr(xxhash, "xxh3_128_digest", lambda content: bytes(16))


@pytest.mark.usefixtures("colliding")
@pytest.mark.parametrize("size", [10, 1_500_000])
def test_a_forged_hash_gets_nobody_another_s_content(repository: Repository, size: int) -> None:
    letters = ("a", "b", "c")
    layers = [
        add(repository, tars.tar(*(tars.file(name, name.encode() * size) for name in names)))
        for names in (letters[:1], letters[1:], letters)
    ]
    assert len(list(repository.objects)) == 3
    for added, names in zip(layers, (letters[:1], letters[1:], letters), strict=True):
        with contextlib.closing(repository.open_layer(added.diff_id)) as layer:
            for name in names:
                entry = layer.lookup(layer.root(), name.encode())
                assert isinstance(entry, Entry)
                with open(layer.open(entry), "rb") as file:
                    assert file.read() == name.encode() * size


@pytest.mark.usefixtures("colliding")
def test_a_collision_while_both_are_read_moves_the_later_one(repository: Repository) -> None:
    ours = tars.tar(*(tars.file(name, name.encode()) for name in ("a", "b", "c")))
    theirs = tars.tar(*(tars.file(name, name.encode()) for name in ("x", "b")))

    class Overtaken(io.BytesIO):
        """Another layer comes in after all of ours was read."""

        done = False

        def read(self, size: int | None = -1, /) -> bytes:
            piece = super().read(size)
            if not piece and not self.done:
                self.done = True
                add(repository, theirs)
            return piece

    added = add_layer(repository, Overtaken(ours), Claim(), lambda _: None)
    os.close(added.lease)
    assert b"".join(layertar.tar(repository, added.diff_id)) == ours
    assert b"".join(layertar.tar(repository, sha256(theirs))) == theirs
    assert len(list(repository.objects)) == 4


# What is refused

BAD: dict[str, bytes] = {
    "nothing like a tar": b"x" * 5000,
    "cut off in a header": TAR[:300],
    "cut off in a small file": TAR[:1030],
    "cut off in a large file": TAR[:2_000_000],
    "cut off in gzip": gzip.compress(TAR, mtime=0)[:-100],
    "damaged gzip": gzip.compress(TAR, mtime=0)[:-8] + bytes(8),
    "something after gzip": gzip.compress(TAR, mtime=0) + b"x" * 100,
    "something after the end": TAR + b"x" * 512,
    "an absolute name": tars.tar(tars.file("a", LARGE), tars.file("/etc/passwd", b"x")),
    "a name that leads out": tars.tar(tars.file("a", b"x"), tars.file("../b", LARGE)),
    "a link to nothing": tars.tar(tars.file("a", LARGE), tars.hardlink("b", "none")),
    "below a file": tars.tar(tars.file("a", LARGE), tars.file("a/b", LARGE[1:])),
    "below a whiteout": tars.tar(tars.file(".wh.a/b", LARGE)),
    "a whiteout of nothing": tars.tar(tars.file("a", LARGE), tars.file(".wh.")),
    "a sparse map that does not fit": tars.tar(
        tars.file("a", LARGE), tars.pax_sparse("b", {9: b"xx"}, 5, "0.1")
    ),
    "a broken extended header": tars.tar(tars.file("a", LARGE), tars.extended(b"x", b"5 a=")),
    "a negative size": tars.tar(tars.file("a", LARGE), tars.file("b", size=-1)),
}


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("name", BAD)
def test_what_is_refused_changes_nothing_in_the_store(
    store: StoreBuilder, repository: Repository, name: str, keep: bool
) -> None:
    store.layer(tars.tar(tars.file("there", b"content")))
    before = everything(store.path)
    with pytest.raises(InvalidContentError):
        add(repository, BAD[name], keep=keep)
    assert everything(store.path) == before
    assert os.listdir(repository.paths.temporary) == []
    assert repository.catalog.blobs() == []


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        (Claim(diff_id=sha256(b"")), f"its diff ID is {sha256(TAR)}, and not sha256:e3b0"),
        (Claim(digest=sha256(TAR)), r"its digest is sha256:.*, and not sha256:.* as claimed"),
        (Claim(size=5), r"it has [0-9]+ bytes, and not 5 as claimed"),
        (Claim(size=1 << 40), "and not 1099511627776 as claimed"),
    ],
)
@pytest.mark.parametrize("keep", [False, True])
def test_a_layer_that_is_not_what_was_claimed_is_not_added(
    repository: Repository, claim: Claim, message: str, keep: bool
) -> None:
    with pytest.raises(InvalidContentError, match=message):
        add(repository, gzip.compress(TAR, mtime=0), claim, keep=keep)
    assert has_nothing(repository)
    assert repository.catalog.blobs() == []


def test_a_layer_that_is_what_was_claimed_is_added(repository: Repository) -> None:
    data = gzip.compress(TAR, mtime=0)
    added = add(repository, data, Claim(sha256(TAR), sha256(data), len(data)))
    assert added.new


@pytest.mark.parametrize("error", [OSError(5, "no more"), KeyError("a bug")])
def test_a_source_that_fails_adds_nothing(repository: Repository, error: Exception) -> None:
    with pytest.raises(type(error)):
        add(repository, Source(TAR[:2_000_000], error=error))
    assert has_nothing(repository)
    assert os.listdir(repository.paths.temporary) == []


@pytest.mark.parametrize(
    ("limits", "tar"),
    [
        (Limits(bytes=100_000), TAR),
        (Limits(entries=2), TAR),
        (Limits(depth=1), TAR),
        (Limits(path=3), TAR),
        (Limits(bytes=100_000), tars.tar(tars.gnu_sparse("a", {}, 100_001))),
        (
            Limits(bytes=100_000),
            tars.tar(*(tars.gnu_sparse(f"{number}", {}, 30_000) for number in range(4))),
        ),
        (Limits(ratio=10), gzip.compress(bytes(80_000_000), mtime=0)),
    ],
    ids=["bytes", "entries", "depth", "path", "a hole", "holes", "ratio"],
)
def test_a_layer_that_asks_for_too_much_is_not_added(
    store: StoreBuilder, limits: Limits, tar: bytes
) -> None:
    with Repository(str(store.path), limits=limits) as repository:
        with pytest.raises(LimitExceededError, match=r"--limit [a-z]+=N"):
            add(repository, tar)
        assert has_nothing(repository)


@pytest.mark.parametrize(
    "step",
    [
        "layerstore.ingest.Staging.add",
        "layerstore.ingest.Staging.writer",
        "layerstore.ingest.Staging.publish",
        "layerstore.ingest.RecipeWriter.content",
        "layerstore.ingest.RecipeWriter.finish",
        "layerstore.ingest.IndexWriter.__init__",
        "layerstore.ingest.IndexWriter.entry",
        "layerstore.ingest.IndexWriter.finish",
        "layerstore.durable.sync_filesystem",
        "os.rename",
    ],
)
@pytest.mark.parametrize("kind", [OSError, sqlite3.OperationalError])
def test_whatever_fails_leaves_no_layer_and_nothing_open(
    repository: Repository,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    kind: type[Exception],
) -> None:
    def error(*_: object, **__: object) -> None:
        failure = kind(28, "No space left on device")
        if isinstance(failure, sqlite3.Error):
            failure.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(step, error)
        with pytest.raises(OSError, match="No space left on device"):
            add(repository, TAR, keep=True)
    assert repository.layers() == []
    assert os.listdir(repository.paths.temporary) == []
    assert add(repository, TAR).new


def test_the_index_of_a_layer_names_the_objects_that_are_there(repository: Repository) -> None:
    diff_id = add(repository, TAR).diff_id
    with contextlib.closing(repository.open_layer(diff_id)) as layer:
        keys = {content.key for content in layer.index.contents()}
        assert keys == set(repository.objects)
        assert layer.index.totals() == (len(TAR), 3)
        assert [name for name, _ in layer.index.children(ROOT)] == [b"d"]
