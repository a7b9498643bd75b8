import bz2
import functools
import gzip
import io
import itertools
import json
import lzma
import multiprocessing
import os
import random
import sys
import tarfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from layerstore.errors import InvalidContentError, LimitExceededError, StoreError
from layerstore.limits import Limits
from layerstore.oci.images import SourceLayer
from layerstore.oci.sources import Kind, classify, open_images
from layerstore.oci.streams import Rewindable
from tests.support import tars
from tests.support.archives import (
    Layout,
    Link,
    as_json,
    docker_archive,
    layer,
    platform,
    sha256,
    tagged,
    tar,
    write_files,
)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LIMITS = Limits()
A, B = layer("a"), layer("b")
HEX = "a" * 64

COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "zstd": zstd.compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
}


class Trickle:
    """A stream that gives few bytes at a time, and can't be read twice."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def read(self, size: int) -> bytes:
        return self._file.read(min(size, 100))


def rest(stream: Rewindable) -> bytes:
    pieces = []
    while piece := stream.read(1000):
        pieces.append(piece)
    return b"".join(pieces)


def kind(data: bytes, limits: Limits = LIMITS) -> Kind:
    """What a stream of *data* is; it must be whole afterwards."""
    stream = Rewindable(Trickle(data))
    found = classify(stream, limits)
    assert rest(stream) == data
    return found


def archived() -> bytes:
    layout = Layout()
    layout.listed = [layout.manifest(A, B)]
    return tar(layout.all_files())


# What it is


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_an_archive_of_images_and_a_layer_are_told_apart(compression: str) -> None:
    compress = COMPRESSIONS[compression]
    assert kind(compress(archived())) is Kind.IMAGES
    assert kind(compress(A)) is Kind.LAYER
    # Larger than what is looked at, and than a block of bzip2.
    large = tar({"first": os.urandom(5 << 18)})
    assert kind(compress(large)) is Kind.LAYER


@pytest.mark.parametrize(
    "first",
    [
        "blobs/",
        "blobs/sha256/",
        f"blobs/sha256/{HEX}",
        "oci-layout",
        "index.json",
        "manifest.json",
        "repositories",
        f"{HEX}/",
        f"{HEX}/VERSION",
        f"{HEX}/json",
        f"{HEX}/layer.tar",
        f"{HEX}.json",
        f"{HEX}.tar",
        f"{HEX}.tar.gz",
        f"sha256:{HEX}",
        "./oci-layout",
    ],
)
def test_archives_of_images_begin_in_several_ways(first: str) -> None:
    content = None if first.endswith("/") else b"x"
    assert kind(tar({first: content})) is Kind.IMAGES
    assert kind(tar({"./": None, first: content})) is Kind.IMAGES


@pytest.mark.parametrize(
    "first", ["bin/", "manifest.json.bak", f"{HEX}/file", "a/manifest.json", "blobs/file", "tmp"]
)
def test_anything_else_is_a_layer(first: str) -> None:
    content = None if first.endswith("/") else b"x"
    assert kind(tar({"./": None, first: content})) is Kind.LAYER


def test_an_archive_may_begin_with_directories_that_say_nothing() -> None:
    nothing = [("./", None), ("ingest/", None)]
    assert kind(tar([*nothing, ("oci-layout", b"{}")])) is Kind.IMAGES
    assert kind(tar([*nothing, ("bin/", None)])) is Kind.LAYER
    assert kind(tar([("ingest", b"a file")])) is Kind.LAYER


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"oci-layout": b"{}", "index.json": b"{}"}, Kind.IMAGES),
        ({"./manifest.json": b'[{"Config": "a", "Layers": []}]'}, Kind.IMAGES),
        ({"manifest.json": b'{"name": "an extension"}'}, Kind.LAYER),
        ({"etc/oci-layout": b"{}", "etc/index.json": b"{}"}, Kind.LAYER),
        ({"oci-layout/": None, "index.json": b"{}"}, Kind.LAYER),
    ],
)
def test_a_file_may_begin_with_anything(
    tmp_path: Path, files: dict[str, bytes | Link | None], expected: Kind
) -> None:
    path = tmp_path / "archive"
    path.write_bytes(tar({"README": b"x" * 1000, **files}))
    assert classify(path, LIMITS) is expected


def test_long_names_are_read_from_extended_headers() -> None:
    assert kind(tar({"x" * 300: b"x"})) is Kind.LAYER
    pax = tarfile.TarInfo("short")
    pax.pax_headers = {"path": "oci-layout"}
    assert kind(pax.tobuf(tarfile.PAX_FORMAT) + bytes(1024)) is Kind.IMAGES


def test_a_tar_of_nothing_is_a_layer() -> None:
    assert kind(tar({})) is Kind.LAYER
    assert kind(tar({"./": None})) is Kind.LAYER


def test_a_tar_without_padding_or_end_is_a_layer() -> None:
    assert kind(A[:512] + b"a") is Kind.LAYER


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is empty"),
        (b"PK\3\4" + bytes(600), "checksum"),
        (b"text", "can't be read as a tar"),
        (gzip.compress(b"text", mtime=0), "can't be read as a tar"),
        (gzip.compress(A, mtime=0)[:20], "can't be read as a tar"),
    ],
)
def test_what_is_no_tar_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(InvalidContentError, match=reason):
        kind(data)


def test_a_beginning_without_end_is_not_looked_at_forever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("layerstore.oci.streams._REMEMBERED_MAX", 1 << 16)
    with pytest.raises(InvalidContentError, match="no entry of an archive yet"):
        classify(Rewindable(io.BytesIO(gzip.compress(b"", mtime=0) * (1 << 13))), LIMITS)
    roots = tar([("./", None)] * 100)
    assert kind(roots) is Kind.LAYER
    entry = tarfile.TarInfo("x")
    entry.pax_headers = {"comment": "c" * 5000}
    with pytest.raises(LimitExceededError, match="--limit header=N"):
        kind(entry.tobuf(tarfile.PAX_FORMAT), Limits(header=4000))


def test_a_file_is_what_its_content_is(tmp_path: Path) -> None:
    path = tmp_path / "image.zip"
    path.write_bytes(gzip.compress(archived(), mtime=0))
    assert classify(path, LIMITS) is Kind.IMAGES
    path.write_bytes(A)
    assert classify(path, LIMITS) is Kind.LAYER


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"bin/sh": b"x"}, Kind.TREE),
        ({}, Kind.TREE),
        ({"index.json": b"{}"}, Kind.TREE),
        ({"oci-layout": b"{}", "index.json": b"{}"}, Kind.IMAGES),
        ({"oci-layout/": None, "index.json": b"{}"}, Kind.TREE),
        ({"manifest.json": b'{"name": "an extension"}'}, Kind.TREE),
        ({"manifest.json": b"not JSON"}, Kind.TREE),
        ({"manifest.json": b"[1]"}, Kind.TREE),
        ({"manifest.json": b'[{"config": "a", "Layers": []}]'}, Kind.IMAGES),
        ({"manifest.json": b"{}", "version": b"Directory Transport Version: 1.1\n"}, Kind.IMAGES),
        ({"manifest.json": b"{}", "version": b"7"}, Kind.TREE),
    ],
)
def test_a_directory_is_a_layout_or_a_tree(
    tmp_path: Path, files: dict[str, bytes | Link | None], expected: Kind
) -> None:
    assert classify(write_files(tmp_path / "source", files), LIMITS) is expected


def test_what_is_neither_file_nor_directory_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/null")):
        with pytest.raises(StoreError, match="has to be given on standard input"):
            classify(path, LIMITS)
        with pytest.raises(StoreError, match="has to be given on standard input"):
            open_images(path, spool=tmp_path, limits=LIMITS)
    with pytest.raises(FileNotFoundError):
        classify(tmp_path / "nothing", LIMITS)


def test_a_tree_has_no_images(tmp_path: Path) -> None:
    with pytest.raises(InvalidContentError, match="it is no archive of images"):
        open_images(tmp_path, spool=tmp_path, limits=LIMITS)


# Reading it


def layers_of(source: Path | Rewindable, spool: Path, limits: Limits = LIMITS) -> list[bytes]:
    with open_images(source, spool=spool, limits=limits) as images:
        found = []
        for one in images.images()[0].layers:
            with one.open() as reader:
                found.append(reader.read())
        assert os.listdir(spool) == []
    return found


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    directory = tmp_path / "spool"
    directory.mkdir()
    return directory


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_archives_may_be_compressed_and_come_through_a_pipe(
    tmp_path: Path, spool: Path, compression: str
) -> None:
    data = COMPRESSIONS[compression](archived())
    path = tmp_path / "archive"
    path.write_bytes(data)
    assert layers_of(path, spool) == [A, B]
    stream = Rewindable(Trickle(data))
    assert classify(stream, LIMITS) is Kind.IMAGES
    assert layers_of(stream, spool) == [A, B]


def test_a_plain_file_is_not_copied(tmp_path: Path) -> None:
    path = tmp_path / "archive"
    path.write_bytes(archived())
    nowhere = tmp_path / "nowhere"
    open_images(path, spool=nowhere, limits=LIMITS).close()
    path.write_bytes(gzip.compress(archived(), mtime=0))
    with pytest.raises(FileNotFoundError):
        open_images(path, spool=nowhere, limits=LIMITS)


def test_what_is_spooled_is_limited_and_leaves_nothing(tmp_path: Path, spool: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    bomb = gzip.compress(archived() + bytes(1 << 20), mtime=0)
    with pytest.raises(LimitExceededError, match="--limit bytes=N"):
        open_images(Rewindable(io.BytesIO(bomb)), spool=spool, limits=Limits(bytes=1 << 20))
    with pytest.raises(InvalidContentError, match="cut off"):
        open_images(Rewindable(io.BytesIO(bomb[:-100])), spool=spool, limits=LIMITS)
    assert os.listdir(spool) == []
    assert len(os.listdir("/proc/self/fd")) == before


def test_nothing_stays_open(tmp_path: Path, spool: Path) -> None:
    path = tmp_path / "archive"
    path.write_bytes(archived())
    layout = write_files(tmp_path / "layout", {"oci-layout": b"{}", "index.json": b"{}"})
    before = os.listdir("/proc/self/fd")
    layers_of(path, spool)
    classify(path, LIMITS)
    classify(layout, LIMITS)
    with pytest.raises(InvalidContentError):
        open_images(layout, spool=spool, limits=LIMITS)
    path.write_bytes(A)
    with pytest.raises(InvalidContentError):
        open_images(path, spool=spool, limits=LIMITS)
    path.write_bytes(A[:700])
    with pytest.raises(InvalidContentError):
        open_images(path, spool=spool, limits=LIMITS)
    assert os.listdir("/proc/self/fd") == before


def read_in_turns(one: SourceLayer) -> str:
    with one.open() as reader:
        return sha256(b"".join(iter(lambda: reader.read(1 << 10), b"")))


@pytest.mark.parametrize("compressed", [False, True])
def test_layers_are_read_by_several_at_once(tmp_path: Path, spool: Path, compressed: bool) -> None:
    large = [tar({f"{number}": os.urandom(1 << 20)}) for number in range(4)]
    layout = Layout()
    layout.listed = [layout.manifest(*large)]
    path = layout.archive(tmp_path / "archive")
    if compressed:
        path.write_bytes(gzip.compress(path.read_bytes(), 1, mtime=0))
    expected = [sha256(one) for one in large]
    fork = multiprocessing.get_context("fork")
    with open_images(path, spool=spool, limits=LIMITS) as source:
        found = source.images()[0].layers
        with ThreadPoolExecutor(8) as threads:
            assert list(threads.map(read_in_turns, found * 4)) == expected * 4
        readers = [one.open() for one in found]
        turns = itertools.zip_longest(
            *(iter(functools.partial(one.read, 7000), b"") for one in readers), fillvalue=b""
        )
        assert [sha256(b"".join(one)) for one in zip(*turns, strict=True)] == expected
        for reader in readers:
            reader.close()
        with ProcessPoolExecutor(2, mp_context=fork) as processes:
            assert list(processes.map(read_in_turns, found)) == expected


def test_a_file_that_becomes_shorter_is_noticed(tmp_path: Path, spool: Path) -> None:
    path = tmp_path / "archive"
    path.write_bytes(archived())
    with (
        open_images(path, spool=spool, limits=LIMITS) as source,
        source.images()[0].layers[1].open() as reader,
    ):
        os.truncate(path, 512)
        with pytest.raises(InvalidContentError, match="became shorter while it was read"):
            reader.read()


# Hostile archives


def raw_entry(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.type, entry.size = kind, size
    return entry.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (raw_entry("manifest.json", 1000) + b"x", "manifest.json: the archive ends in the middle"),
        (raw_entry("manifest.json", 1 << 60), "manifest.json: the archive ends in the middle"),
        (raw_entry("manifest.json", -1), "manifest.json: its size is -1"),
        (raw_entry("oci-layout") + b"x" * 512, "checksum"),
        (raw_entry("oci-layout") + b"x" * 100, "checksum"),
        (raw_entry("s", 512, b"S") + bytes(512), "s: a sparse file"),
        (raw_entry("long", 1 << 40, tarfile.GNUTYPE_LONGNAME), "--limit header=N"),
        (raw_entry("long", 1000, tarfile.GNUTYPE_LONGNAME) + b"n", "ends in the middle"),
        (raw_entry("pax", 5, tarfile.XHDTYPE) + b"99 a=".ljust(512, b"\0"), "broken record"),
    ],
)
def test_a_broken_archive_is_refused_with_the_entry(
    tmp_path: Path, data: bytes, reason: str
) -> None:
    path = tmp_path / "archive"
    path.write_bytes(data)
    with pytest.raises(InvalidContentError, match=reason):
        open_images(path, spool=tmp_path, limits=LIMITS)


def test_sizes_of_entries_without_content_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "archive"
    path.write_bytes(raw_entry("blobs", 1 << 40, tarfile.DIRTYPE) + archived())
    assert layers_of(path, _empty(tmp_path)) == [A, B]


def test_the_end_of_the_last_entry_may_be_missing(tmp_path: Path) -> None:
    files = docker_archive([(["app:1"], [A])])
    path = tmp_path / "archive"
    data = tar(files)
    end = data.rindex(b"]") + 1
    path.write_bytes(data[:end])
    assert layers_of(path, _empty(tmp_path)) == [A]


def test_an_archive_of_too_many_entries_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("layerstore.oci.files._MEMBERS_MAX", 1000)
    path = tmp_path / "archive"
    path.write_bytes(raw_entry("manifest.json") * 1001)
    with pytest.raises(InvalidContentError, match="more than 1000 entries"):
        open_images(path, spool=tmp_path, limits=LIMITS)


@pytest.mark.parametrize("entry", ["name", "target"])
def test_names_in_an_archive_are_limited_like_those_in_a_layer(tmp_path: Path, entry: str) -> None:
    path = tmp_path / "archive"

    def refusal(name: str, limits: Limits) -> str:
        files = {name: A} if entry == "name" else {"link": Link(name)}
        path.write_bytes(tar(files) + archived())
        with pytest.raises(LimitExceededError) as refused:
            open_images(path, spool=tmp_path, limits=limits)
        return str(refused.value)

    assert "--limit path=N" in refusal("x" * 300, Limits(path=299))
    assert "--limit depth=N" in refusal("x/" * 20 + "x", Limits(depth=19))


def test_names_in_an_archive_are_no_more_than_documents_could_ask_for(tmp_path: Path) -> None:
    path = tmp_path / "archive"
    path.write_bytes(b"".join(raw_entry(f"{number:0100}") for number in range(11)))
    with pytest.raises(LimitExceededError, match="--limit document=N"):
        open_images(path, spool=tmp_path, limits=Limits(document=1000))


def test_an_extended_header_is_about_one_entry(tmp_path: Path) -> None:
    path = tmp_path / "archive"
    path.write_bytes(tar({"x" * 300: b"x"})[: 4 * 512] + archived())
    assert layers_of(path, _empty(tmp_path)) == [A, B]


@pytest.mark.parametrize(
    "before",
    [
        tars.long_name("manifest.json") + tars.pax({"path": "b"}),
        tars.pax({"path": "b"}) + tars.long_name("manifest.json"),
        tars.pax({"path": "b"}) + tars.pax({"path": "manifest.json"}),
        tars.pax([("path", "manifest.json"), ("comment", ""), ("size", "7"), ("size", "")]),
        tars.pax({"path": "b"}) + tars.extended(b"g", b"") + tars.long_name("manifest.json"),
    ],
)
def test_extended_headers_mean_what_they_mean_in_a_layer(tmp_path: Path, before: bytes) -> None:
    files = docker_archive([(None, [A])])
    manifest = files["manifest.json"]
    assert isinstance(manifest, bytes)
    others = {name: data for name, data in files.items() if name != "manifest.json"}
    path = tmp_path / "archive"
    path.write_bytes(before + tars.file("n", manifest) + tar(others))
    assert layers_of(path, _empty(tmp_path)) == [A]


def test_names_of_any_bytes_are_in_the_way_of_nothing(tmp_path: Path) -> None:
    path = tmp_path / "archive"
    odd = tar({"x": b"x"}).replace(b"x\0", b"\xff\0", 1)
    checksum = f"{sum(odd[:148] + b' ' * 8 + odd[156:512]):06o}\0 ".encode()
    path.write_bytes(odd[:148] + checksum + odd[156:1024] + archived())
    assert layers_of(path, _empty(tmp_path)) == [A, B]


def test_a_mark_of_the_wrong_form_is_refused(tmp_path: Path) -> None:
    files = {"oci-layout": as_json({"imageLayoutVersion": 1}), "index.json": b"{}"}
    root = write_files(tmp_path / "layout", files)
    with pytest.raises(InvalidContentError, match=r"oci-layout: .*imageLayoutVersion"):
        open_images(root, spool=tmp_path, limits=LIMITS)


ODD: list[Any] = [
    None,
    0,
    -1,
    1 << 70,
    1.5,
    "",
    "../x",
    "x" * 5000,
    "\0\n\u0661",
    [],
    {},
    [None],
    True,
]


def changed(value: Any, chance: random.Random) -> Any:
    """A document like *value*, with one thing in it different, absent or repeated."""
    what = chance.random()
    if what < 0.15 or not isinstance(value, dict | list) or not value:
        return chance.choice(ODD)
    if isinstance(value, list):
        at = chance.randrange(len(value))
        middle = [[], [value[at]] * 2, [changed(value[at], chance)]][min(2, int(what * 5))]
        return [*value[:at], *middle, *value[at + 1 :]]
    key = chance.choice(list(value))
    others = {name: item for name, item in value.items() if name != key}
    if what < 0.3:
        return others
    if what < 0.4:
        return {**value, chance.choice(["manifests", "layers", "config"]): chance.choice(ODD)}
    return {**others, key: changed(value[key], chance)}


def consistent(
    files: dict[str, bytes | Link | None], name: str, data: bytes
) -> dict[str, bytes | Link | None]:
    """The files with other bytes in one, and its new digest wherever it is named."""
    old, new = name.rpartition("/")[2].encode(), sha256(data)[7:].encode()
    others = {
        key: value.replace(old, new) if isinstance(value, bytes) else value
        for key, value in files.items()
        if key != name
    }
    return {**others, name.replace(old.decode(), new.decode()): data}


@pytest.mark.parametrize("form", ["layout", "docker"])
def test_whatever_documents_say_the_answer_is_images_or_one_line(tmp_path: Path, form: str) -> None:
    layout = Layout()
    several = [
        layout.manifest(A, architecture="arm64", platform=platform("arm64")),
        layout.manifest(B, platform=platform("amd64")),
    ]
    layout.listed = [layout.index(*several), layout.manifest(A, annotations=tagged("2"))]
    whole = layout.all_files() if form == "layout" else docker_archive([(["a:1"], [A, B])])
    documents = [
        name for name, data in whole.items() if isinstance(data, bytes) and data[0] in b"{["
    ]
    chance = random.Random(form)
    path = tmp_path / "archive"
    lines: list[str] = []
    read = 0
    for _ in range(300):
        name = chance.choice(documents)
        data = as_json(changed(json.loads(whole[name]), chance))  # type: ignore[arg-type]
        path.write_bytes(tar(consistent(whole, name, data)))
        try:
            with open_images(path, spool=tmp_path, limits=LIMITS) as source:
                source.images()
                read += 1
                source.images("linux/arm64")
        except StoreError as error:
            lines.append(str(error))
    assert [line for line in lines if "\n" in line or len(line) > 1000] == []
    assert read > 30
    assert len(set(lines)) > 30


def _empty(tmp_path: Path) -> Path:
    directory = tmp_path / "empty"
    directory.mkdir()
    return directory
