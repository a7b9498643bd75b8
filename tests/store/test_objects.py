"""Objects: equal bytes are kept once, others never, whatever their hashes say."""

from __future__ import annotations

import itertools
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from layerstore.errors import DamagedError, InvalidContentError
from layerstore.objects import VARIANTS, Key, Objects, Staging, key_of
from tests.support.forgeries import forged

BLOCK = 4096
DATA = bytes(range(1, 256)) * 17
"""More than a block, with no zero in it."""

Add = Callable[[Staging, bytes], Key]


def whole(staging: Staging, content: bytes) -> Key:
    return staging.add(content)


def in_pieces(staging: Staging, content: bytes, size: int = 1000) -> Key:
    writer = staging.writer()
    for at in range(0, len(content), size):
        writer.write(content[at : at + size])
    return writer.close()


both_ways = pytest.mark.parametrize("add", [whole, in_pieces])


class Pool:
    """A pool and its stagings; content: what an object has."""

    def __init__(self, path: Path) -> None:
        Objects.create(str(path / "objects"))
        self.objects = Objects(str(path / "objects"))
        self._path = path
        self._numbers = itertools.count()

    def staging(self) -> Staging:
        directory = self._path / f"staging-{next(self._numbers)}"
        directory.mkdir()
        return Staging(self.objects, str(directory))

    def put(self, *contents: bytes) -> list[Key]:
        staging = self.staging()
        keys = [staging.add(content) for content in contents]
        moved = staging.publish()
        return [moved.get(key, key) for key in keys]

    def content(self, key: Key) -> bytes:
        with open(self.objects.open(key), "rb") as file:
            return file.read()

    def inode(self, key: Key) -> int:
        return os.stat(self.objects.path(key)).st_ino


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    return Pool(tmp_path)


@pytest.fixture
def collisions(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Contents of one length all have the same hash."""
    hasher = xxhash.xxh3_128

    class Colliding:
        def update(self, piece: bytes) -> None:
            pass

        def digest(self) -> bytes:
            return hasher(b"").digest()

    with monkeypatch.context() as patch:
        patch.setattr(xxhash, "xxh3_128", Colliding)
        patch.setattr(xxhash, "xxh3_128_digest", lambda _: hasher(b"").digest())
        yield


@both_ways
@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, BLOCK, 100_000])
def test_a_content_comes_out_as_it_went_in(pool: Pool, add: Add, size: int) -> None:
    content = (DATA * 100)[:size]
    staging = pool.staging()
    key = add(staging, content)
    assert staging.publish() == {}
    assert key == Key(xxhash.xxh3_128_digest(content), size)
    assert pool.content(key) == content
    assert pool.objects.is_whole(key)


def test_the_same_content_is_one_file_however_it_comes(pool: Pool) -> None:
    first = pool.staging()
    keys = {whole(first, DATA), in_pieces(first, DATA), in_pieces(first, DATA, 5000)}
    first.publish()
    inode = pool.inode(min(keys))
    second = pool.staging()
    keys |= {in_pieces(second, DATA), whole(second, DATA)}
    second.publish()
    assert len(keys) == 1
    assert pool.inode(keys.pop()) == inode
    assert len(list(pool.objects)) == 1


@both_ways
def test_an_object_is_read_only_and_a_file_of_its_own(pool: Pool, add: Add) -> None:
    staging = pool.staging()
    key = add(staging, DATA)
    staging.publish()
    mode = os.stat(pool.objects.path(key)).st_mode
    assert stat.S_ISREG(mode)
    assert stat.S_IMODE(mode) == 0o400


def test_nothing_is_in_the_pool_before_it_is_published(pool: Pool) -> None:
    staging = pool.staging()
    key = staging.add(DATA)
    assert not list(pool.objects)
    staging.publish()
    assert list(pool.objects) == [key]


def test_publishing_twice_changes_nothing(pool: Pool) -> None:
    staging = pool.staging()
    key = staging.add(DATA)
    staging.publish()
    inode = pool.inode(key)
    assert staging.publish() == {}
    assert (list(pool.objects), pool.inode(key)) == ([key], inode)


# Equal hashes


@pytest.mark.usefixtures("collisions")
@both_ways
def test_other_bytes_of_the_same_hash_are_another_variant(pool: Pool, add: Add) -> None:
    contents = [DATA, DATA[::-1], DATA[1:] + b"x"]
    staging = pool.staging()
    keys = [add(staging, content) for content in contents]
    again = [add(staging, content) for content in contents]
    staging.publish()
    assert [key.variant for key in keys] == [0, 1, 2]
    assert again == keys
    assert [pool.content(key) for key in keys] == contents


@pytest.mark.usefixtures("collisions")
@both_ways
def test_a_variant_that_is_there_is_found_again(pool: Pool, add: Add) -> None:
    keys = pool.put(b"aaa", b"bbb", b"ccc")
    staging = pool.staging()
    assert add(staging, b"bbb") == keys[1]
    assert add(staging, b"ddd").variant == 3
    assert staging.publish() == {}
    assert len(list(pool.objects)) == 4


@pytest.mark.usefixtures("collisions")
def test_of_two_who_add_at_once_the_later_gets_the_next_variant(pool: Pool) -> None:
    first, second = pool.staging(), pool.staging()
    key = first.add(b"aaa")
    assert second.add(b"bbb") == key
    assert first.publish() == {}
    (now,) = second.publish().values()
    assert now == key._replace(variant=1)
    assert (pool.content(key), pool.content(now)) == (b"aaa", b"bbb")


@pytest.mark.usefixtures("collisions")
def test_variants_move_past_those_that_others_took(pool: Pool) -> None:
    first, second = pool.staging(), pool.staging()
    taken = [first.add(b"aaa"), first.add(b"bbb")]
    wanted = [second.add(content) for content in (b"ccc", b"bbb", b"ddd")]
    first.publish()
    moved = second.publish()
    now = [moved.get(key, key) for key in wanted]
    assert now[1] == taken[1]
    assert {key.variant for key in now} == {1, 2, 3}
    assert [pool.content(key) for key in now] == [b"ccc", b"bbb", b"ddd"]


@both_ways
def test_there_are_not_more_variants_than_forgers_make(pool: Pool, add: Add) -> None:
    first, second = pool.staging(), pool.staging()
    for number in range(VARIANTS):
        assert add(first, forged(number)).variant == number
    assert add(first, forged(7)).variant == 7
    with pytest.raises(InvalidContentError, match="64 other contents have its hash"):
        add(first, forged(VARIANTS))
    late = add(second, forged(VARIANTS))
    first.publish()
    with pytest.raises(InvalidContentError, match="64 other contents have its hash"):
        second.publish()
    assert pool.content(late) == forged(0)


def test_who_adds_the_same_at_once_shares_it(pool: Pool) -> None:
    first, second = pool.staging(), pool.staging()
    assert first.add(DATA) == in_pieces(second, DATA)
    assert first.publish() == second.publish() == {}
    assert len(list(pool.objects)) == 1


# What is not as it should be


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: os.truncate(path, len(DATA) - 1),
        lambda path: Path(path).write_bytes(DATA[::-1]),
        lambda path: Path(path).write_bytes(DATA + b"x"),
        lambda path: Path(path).write_bytes(b""),
    ],
    ids=["shorter", "changed", "longer", "empty"],
)
@both_ways
def test_a_damaged_object_is_shared_with_nobody(
    pool: Pool, add: Add, damage: Callable[[str], None]
) -> None:
    (key,) = pool.put(DATA)
    damage(pool.objects.path(key))
    assert not pool.objects.is_whole(key)
    staging = pool.staging()
    now = add(staging, DATA)
    now = staging.publish().get(now, now)
    assert pool.content(now) == DATA


def test_a_content_stays_for_who_relies_on_it(pool: Pool) -> None:
    (key,) = pool.put(DATA)
    staging = pool.staging()
    staging.add(DATA)
    os.unlink(pool.objects.path(key))
    staging.publish()
    assert pool.content(key) == DATA


@pytest.mark.usefixtures("nothing_left_open")
def test_a_missing_object_is_damage(pool: Pool) -> None:
    key = Key(bytes(16), 1)
    with pytest.raises(DamagedError, match=f"{'0' * 32}-1 is missing"):
        pool.objects.open(key)
    assert not pool.objects.is_whole(key)


@pytest.mark.usefixtures("nothing_left_open")
def test_an_object_of_another_size_is_damage(pool: Pool) -> None:
    (key,) = pool.put(DATA)
    os.truncate(pool.objects.path(key), 10)
    with pytest.raises(DamagedError, match="wrong size"):
        pool.objects.open(key)


@pytest.mark.usefixtures("nothing_left_open")
def test_a_link_in_the_place_of_an_object_is_not_followed(pool: Pool, tmp_path: Path) -> None:
    (key,) = pool.put(DATA)
    path = pool.objects.path(key)
    os.rename(path, tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", path)
    with pytest.raises(OSError, match="symbolic link"):
        pool.objects.open(key)


@pytest.mark.usefixtures("nothing_left_open")
def test_a_content_that_is_given_up_leaves_nothing_open(pool: Pool) -> None:
    writer = pool.staging().writer()
    writer.write(DATA)
    writer.abandon()
    writer.abandon()
    assert not list(pool.objects)


@pytest.mark.usefixtures("nothing_left_open")
@both_ways
def test_a_content_that_can_not_be_published_leaves_nothing_open(pool: Pool, add: Add) -> None:
    staging = pool.staging()
    os.rmdir(os.path.dirname(pool.objects.path(add(staging, DATA))))
    with pytest.raises(FileNotFoundError):
        staging.publish()


# Names


def test_a_name_tells_its_key() -> None:
    for key in (Key(bytes(range(16)), 0), Key(b"\xff" * 16, 1 << 40, 12)):
        assert key_of(key.name) == key


@pytest.mark.parametrize(
    "name",
    [
        "",
        "new",
        "-",
        "00-1",
        f"{'0' * 32}-",
        f"{'0' * 32}--1",
        f"{'0' * 32}-01",
        f"{'0' * 32}-1.",
        f"{'0' * 32}-1.0",
        f"{'0' * 32}-1.-1",
        f"{'0' * 32}-1.x",
        f"{'A' * 32}-1",
        f"{'0' * 34}-1",
        f"{'0' * 32}-1.1.1",
    ],
)
def test_other_names_are_no_keys(name: str) -> None:
    assert key_of(name) is None


def test_files_that_are_no_objects_are_not_listed(pool: Pool) -> None:
    (key,) = pool.put(DATA)
    Path(pool.objects.root, "00", "core").touch()
    assert list(pool.objects) == [key]


# Holes


def extents(path: str) -> list[tuple[int, int]]:
    """Where the file has data."""
    found = []
    with open(path, "rb") as file:
        end, size = 0, os.fstat(file.fileno()).st_size
        while end < size:
            try:
                start = os.lseek(file.fileno(), end, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            found.append((start, end))
    return found


def test_skipped_bytes_are_a_hole(pool: Pool) -> None:
    staging = pool.staging()
    writer = staging.writer()
    writer.write(DATA[:BLOCK])
    writer.skip(1 << 21)
    writer.write(DATA[:10])
    key = writer.close()
    staging.publish()
    expected = DATA[:BLOCK] + bytes(1 << 21) + DATA[:10]
    assert key == Key(xxhash.xxh3_128_digest(expected), len(expected))
    assert pool.content(key) == expected
    at = BLOCK + (1 << 21)
    assert extents(pool.objects.path(key)) == [(0, BLOCK), (at, at + 10)]
    assert writer.blocks == 16


def test_a_hole_at_the_end_counts_to_the_size(pool: Pool) -> None:
    staging = pool.staging()
    writer = staging.writer()
    writer.skip(10_000)
    key = writer.close()
    staging.publish()
    assert pool.content(key) == bytes(10_000)
    assert extents(pool.objects.path(key)) == []
    assert writer.blocks == 0


def test_blocks_of_zeros_become_holes(pool: Pool) -> None:
    staging = pool.staging()
    writer = staging.writer()
    writer.write(DATA[:BLOCK] + bytes(3 * BLOCK) + DATA[:BLOCK])
    key = writer.close()
    staging.publish()
    path = pool.objects.path(key)
    assert extents(path) == [(0, BLOCK), (4 * BLOCK, 5 * BLOCK)]
    assert writer.blocks


@given(
    st.lists(
        st.tuples(st.sampled_from(["data", "zeros", "skip"]), st.integers(0, 3 * BLOCK)),
        max_size=8,
    )
)
def test_pieces_of_any_size_make_the_same_bytes(parts: list[tuple[str, int]]) -> None:
    expected = b""
    with tempfile.TemporaryDirectory() as directory:
        writer = Staging(Objects(f"{directory}/objects"), directory).writer()
        for kind, size in parts:
            piece = (DATA * 3)[:size] if kind == "data" else bytes(size)
            if kind == "skip":
                writer.skip(size)
            else:
                writer.write(piece)
            expected += piece
        key = writer.close()
        path = Path(directory, key.name)
        assert path.read_bytes() == expected
        assert writer.blocks == 8 * len(
            {number for start, end in extents(str(path)) for number in blocks(start, end)}
        )
    assert key == Key(xxhash.xxh3_128_digest(expected), len(expected))


def blocks(start: int, end: int) -> range:
    return range(start // BLOCK, -(-end // BLOCK))
