"""The tar of a stored layer: the same bytes again, or an error."""

from __future__ import annotations

import contextlib
import gzip
import os
import random
import tarfile
from pathlib import Path

import pytest

from layerstore import layertar
from layerstore.errors import DamagedError, StoreError
from layerstore.repository import Repository
from tests.support import tars
from tests.support.archives import sha256
from tests.support.stores import StoreBuilder
from tests.support.tars import directory, file, hardlink, symlink

LARGE = random.Random(0).randbytes(1_500_000)
HOLEY = bytes(70_000) + LARGE[:5000] + bytes(2_000_000) + LARGE[:3]
SPARSE = {0: b"a" * 512, 1 << 20: b"b" * 700}
MANY = {number * 1024: b"%d" % number for number in range(200)}

ODD = {
    "nothing": b"",
    "only zeros": bytes(512),
    "no trailer": tars.tar(file("a", b"x"), end=b""),
    "half a trailer": tars.tar(file("a", b"x"), end=bytes(512)),
    "a trailer that is cut off": tars.tar(file("a", b"x"), end=bytes(700)),
    "zeros up to a record": tars.tar(file("a", b"x"), end=bytes(20 * 512 - 1024)),
    "megabytes of zeros": tars.tar(file("a", b"x"), end=bytes(3_000_000)),
    "no padding at the end": tars.tar(file("a", b"x"), end=b"")[:-511],
    "padding that is no zeros": tars.tar(file("a", b"x"))[:513] + b"y" * 511 + tars.END,
    "large files": tars.tar(file("a", LARGE), file("b", LARGE + b"x"), file("c", b"x")),
    "files with zeros in them": tars.tar(file("a", HOLEY), file("b", bytes(2_000_000))),
    "GNU sparse": tars.tar(tars.gnu_sparse("a", SPARSE, 3 << 20), file("b", b"x")),
    "GNU sparse, a long map": tars.tar(tars.gnu_sparse("a", MANY, 1 << 20)),
    **{
        f"PAX sparse {version}": tars.tar(
            tars.pax_sparse("a", SPARSE, 3 << 20, version),
            tars.pax_sparse("b", {9: b""}, 9, version),
        )
        for version in ("0.0", "0.1", "1.0")
    },
    "extended headers": tars.tar(
        tars.extended(b"g", tars.pax_records({"comment": "x"})),
        tars.xattrs({"user.a": bytes(range(256))}),
        tars.long_name("a/" * 100 + "file"),
        tars.long_link("b" * 300),
        symlink("short", "short"),
        tars.pax({"mtime": "1.5", "comment": "nobody knows"}),
        file("ö", b"x", uname=b"somebody", gname=b"\xff"),
    ),
    "headers of all kinds": tars.tar(
        file("gnu", b"x", magic=tars.GNU, uid=1 << 40 & 0xFFFFFFFF, mtime=-1),
        file("v7", b"x", magic=tars.V7),
        file("leading spaces", b"x", mode=b"   644 \0", size=b"         1 \0"),
        file("rest", b"x", rest=b"something"),
        directory("./d/"),
        hardlink("./l", "./gnu", size=0),
        tars.whiteout("gone"),
        tars.opaque("d"),
    ),
    "entries that others replace": tars.tar(
        file("a", b"first"), file("a/../a"[-1], b"second"), directory("a"), file("a/b", LARGE)
    ),
}


def again(repository: Repository, diff_id: str) -> bytes:
    return b"".join(layertar.tar(repository, diff_id))


@pytest.mark.parametrize("name", ODD)
def test_a_tar_comes_out_bit_for_bit(
    store: StoreBuilder, repository: Repository, name: str
) -> None:
    diff_id = store.layer(ODD[name])
    assert diff_id == sha256(ODD[name])
    assert again(repository, diff_id) == ODD[name]


def test_a_compressed_layer_comes_out_as_its_tar(
    store: StoreBuilder, repository: Repository
) -> None:
    tar = ODD["large files"]
    diff_id = store.layer(gzip.compress(tar, mtime=0))
    assert diff_id == sha256(tar)
    assert again(repository, diff_id) == tar


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_a_tar_that_python_wrote_comes_out_bit_for_bit(
    store: StoreBuilder, repository: Repository, tmp_path: Path, kind: int
) -> None:
    (tmp_path / "tree" / ("d" * 90)).mkdir(parents=True)
    (tmp_path / "tree" / ("d" * 90) / ("f" * 90)).write_bytes(LARGE)
    os.mkfifo(tmp_path / "tree" / "fifo")
    os.symlink("x" * 90, tmp_path / "tree" / "link")
    with tarfile.open(tmp_path / "tar", "w", format=kind) as archive:
        archive.add(tmp_path / "tree", ".")
    tar = (tmp_path / "tar").read_bytes()
    assert again(repository, store.layer(tar)) == tar


# Damage

TAR = tars.tar(tars.pax({"mtime": "1.5"}), file("a", b"content"), file("b", LARGE), directory("c"))


@pytest.fixture
def diff_id(store: StoreBuilder) -> str:
    return store.layer(TAR)


def objects(repository: Repository) -> list[str]:
    return [repository.objects.path(key) for key in repository.objects]


@pytest.mark.usefixtures("nothing_left_open")
@pytest.mark.parametrize("size", [7, len(LARGE)])
@pytest.mark.parametrize("damage", [os.unlink, lambda path: os.truncate(path, 3), "bit"])
def test_a_damaged_content_is_told(
    repository: Repository, diff_id: str, size: int, damage: object
) -> None:
    (path,) = (path for path in objects(repository) if os.stat(path).st_size == size)
    if callable(damage):
        damage(path)
    else:
        with open(path, "r+b") as content:
            content.write(b"?")
    with pytest.raises(DamagedError, match=f"layer {diff_id} is damaged: ") as raised:
        again(repository, diff_id)
    assert str(raised.value).count("is damaged") == 1


def test_whichever_byte_of_a_recipe_is_wrong_the_tar_is_right_or_an_error(
    repository: Repository, diff_id: str
) -> None:
    path = Path(repository.paths.layer(diff_id), "recipe")
    recipe = path.read_bytes()
    path.chmod(0o600)
    for at in range(len(recipe)):
        path.write_bytes(recipe[:at] + bytes([recipe[at] ^ 0xFF]) + recipe[at + 1 :])
        with contextlib.suppress(DamagedError):
            assert again(repository, diff_id) == TAR


@pytest.mark.usefixtures("nothing_left_open")
def test_a_missing_recipe_is_told(repository: Repository, diff_id: str) -> None:
    os.unlink(f"{repository.paths.layer(diff_id)}/recipe")
    with pytest.raises(DamagedError, match=f"layer {diff_id} is damaged: its recipe is missing"):
        again(repository, diff_id)


@pytest.mark.usefixtures("nothing_left_open")
def test_the_recipe_of_another_layer_is_told(
    store: StoreBuilder, repository: Repository, diff_id: str
) -> None:
    other = store.layer(tars.tar(file("a", b"content")))
    os.replace(
        f"{repository.paths.layer(other)}/recipe", f"{repository.paths.layer(diff_id)}/recipe"
    )
    with pytest.raises(DamagedError, match="its tar has the digest sha256:"):
        again(repository, diff_id)


@pytest.mark.usefixtures("nothing_left_open")
def test_who_stops_in_the_middle_leaves_nothing_open(repository: Repository, diff_id: str) -> None:
    pieces = layertar.tar(repository, diff_id)
    assert next(pieces) == TAR[: 512 * 3]
    assert next(pieces) == b"content"
    del pieces


def test_a_layer_that_is_not_there_has_no_tar(repository: Repository) -> None:
    with pytest.raises(StoreError, match="is not in the store"):
        again(repository, "sha256:" + "0" * 64)
