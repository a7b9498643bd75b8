"""Tars as others read them: Python's tarfile, GNU tar, and our own reader."""

from __future__ import annotations

import errno
import io
import os
import stat
import subprocess
import tarfile
from collections.abc import Callable, Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from layerstore import tarstream
from layerstore.errors import InvalidContentError, StoreError
from layerstore.limits import Limits
from layerstore.tarstream import TarEntry
from layerstore.tarwriter import Member, write
from tests.support.layers import OLD

BLOCK = 512
MEBIBYTE = 1 << 20
SECOND = 10**9


def pack(*members: Member) -> bytes:
    return b"".join(write(members))


def read(tar: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        return archive.getmembers()


class Entries:
    """What our own reader finds: entries, each with its content."""

    def __init__(self, tar: bytes) -> None:
        self.found: dict[bytes, tuple[TarEntry, bytes]] = {}
        self._content = bytearray()
        tarstream.read(io.BytesIO(tar), self, Limits())

    def literal(self, piece: bytes) -> None:
        pass

    def content(self, entry: TarEntry) -> Entries:
        return self

    def write(self, piece: bytes) -> None:
        self._content += piece

    def skip(self, count: int) -> None:
        self._content += bytes(count)

    def close(self) -> None:
        pass

    def entry(self, entry: TarEntry) -> None:
        self.found[entry.path] = entry, bytes(self._content)
        self._content.clear()


def opener(content: bytes) -> Callable[[], int]:
    def opened() -> int:
        writable = os.memfd_create("content")
        os.write(writable, content)
        return writable

    return opened


def file(name: bytes, content: bytes = b"", **values: Any) -> Member:
    mode = stat.S_IFREG | values.pop("mode", 0o644)
    return Member(name=name, mode=mode, size=len(content), open=opener(content), **values)


def directory(name: bytes, **values: Any) -> Member:
    return Member(name=name, mode=stat.S_IFDIR | 0o755, **values)


def of_file(path: Path) -> Member:
    return Member(
        name=os.fsencode(path.name),
        mode=stat.S_IFREG | 0o644,
        size=path.stat().st_size,
        open=lambda: os.open(path, os.O_RDONLY),
    )


# The bytes


def test_what_fits_takes_one_block_and_its_content() -> None:
    tar = pack(file(b"name", b"text", mtime_ns=5 * SECOND))

    assert len(tar) == BLOCK + BLOCK + 2 * BLOCK
    assert tar[:5] == b"name\0"
    assert tar[257:265] == b"ustar\00000"
    assert tar[BLOCK : BLOCK + 5] == b"text\0"
    assert tar[2 * BLOCK :] == bytes(2 * BLOCK)


def test_an_archive_of_nothing_is_its_trailer() -> None:
    assert pack() == bytes(2 * BLOCK)


def test_content_of_whole_blocks_gets_no_padding() -> None:
    assert len(pack(file(b"name", b"x" * BLOCK))) == BLOCK + BLOCK + 2 * BLOCK


def test_the_same_members_give_the_same_bytes_in_whatever_order_attributes_come() -> None:
    attributes = {b"user.a": b"1", b"user.b": b"2"}
    one = file(b"name", b"text", mtime_ns=OLD, xattrs=attributes)
    other = file(b"name", b"text", mtime_ns=OLD, xattrs=dict(reversed(attributes.items())))

    assert pack(one) == pack(other)


def test_big_content_comes_in_pieces() -> None:
    content = os.urandom(5 * MEBIBYTE // 2)

    pieces = list(write([file(b"big", content)]))

    assert max(map(len, pieces)) == MEBIBYTE
    assert b"".join(pieces)[BLOCK : BLOCK + len(content)] == content


# What others read


def test_every_kind_of_entry_is_read_back() -> None:
    owner: dict[str, Any] = {"uid": 1000, "gid": 1001, "mtime_ns": 7 * SECOND}
    tar = pack(
        directory(b".", **owner),
        directory(b"d", **owner),
        file(b"d/file", b"text", mode=0o4755, **owner),
        Member(name=b"d/link", mode=stat.S_IFREG, link=b"d/file", **owner),
        Member(name=b"symlink", mode=stat.S_IFLNK | 0o777, target=b"d/file", **owner),
        Member(name=b"char", mode=stat.S_IFCHR | 0o600, device=os.makedev(1, 3), **owner),
        Member(name=b"block", mode=stat.S_IFBLK | 0o600, device=os.makedev(259, 1 << 19), **owner),
        Member(name=b"fifo", mode=stat.S_IFIFO | 0o600, **owner),
    )

    found = {member.name: member for member in read(tar)}
    assert {name: member.type for name, member in found.items()} == {
        ".": tarfile.DIRTYPE,
        "d": tarfile.DIRTYPE,
        "d/file": tarfile.REGTYPE,
        "d/link": tarfile.LNKTYPE,
        "symlink": tarfile.SYMTYPE,
        "char": tarfile.CHRTYPE,
        "block": tarfile.BLKTYPE,
        "fifo": tarfile.FIFOTYPE,
    }
    assert found["d/file"].mode == 0o4755
    assert (found["d/link"].linkname, found["symlink"].linkname) == ("d/file", "d/file")
    assert (found["char"].devmajor, found["char"].devminor) == (1, 3)
    assert (found["block"].devmajor, found["block"].devminor) == (259, 1 << 19)
    assert {(member.uid, member.gid, member.mtime) for member in found.values()} == {
        (1000, 1001, 7)
    }
    assert {(member.uname, member.gname) for member in found.values()} == {("", "")}


@pytest.mark.parametrize(
    "name",
    [
        b"n" * 100,
        b"n" * 101,
        b"d" * 155 + b"/" + b"n" * 100,
        b"d" * 156 + b"/" + b"n" * 100,
        b"d" * 100 + b"/" + b"e" * 100 + b"/" + b"n",
        b"/".join([b"deep"] * 300),
        b"\xff\xfe",
        b"\xff" * 200,
        "ü".encode() * 100,
        b"new\nline",
        b"-x=y z",
    ],
)
def test_any_name_is_read_back(name: bytes) -> None:
    tar = pack(
        directory(name),
        file(name + b"f", b"text"),
        Member(name=b"link", mode=stat.S_IFREG, link=name + b"f"),
        Member(name=b"symlink", mode=stat.S_IFLNK, target=name),
    )

    made, plain, link, symlink = read(tar)
    assert (made.isdir(), plain.isreg()) == (True, True)
    assert os.fsencode(made.name) == name
    assert os.fsencode(plain.name) == name + b"f"
    assert os.fsencode(link.linkname) == name + b"f"
    assert os.fsencode(symlink.linkname) == name


def test_our_own_reader_takes_any_name_too() -> None:
    name = b"\xff" * 120 + b"/" + b"n" * 120

    entry, content = Entries(pack(file(name, b"text"))).found[name]

    assert (entry.kind, content) == (stat.S_IFREG, b"text")


def test_a_name_that_ustar_can_split_needs_no_extended_header() -> None:
    assert len(pack(file(b"d" * 155 + b"/" + b"n" * 100))) == BLOCK + 2 * BLOCK


@pytest.mark.parametrize(
    "time",
    [
        OLD,
        1,
        -1,
        -SECOND,
        -1_500_000_000,
        (1 << 33) * SECOND - 1,
        (1 << 33) * SECOND,
        100_000_000_000 * SECOND + 10,
    ],
)
def test_times_are_kept_in_nanoseconds(time: int) -> None:
    tar = pack(file(b"file", mtime_ns=time))

    (member,) = read(tar)
    text = member.pax_headers.get("mtime", str(member.mtime))
    assert int(Decimal(text) * SECOND) == time
    assert Entries(tar).found[b"file"][0].mtime_ns == time


def test_big_owners_are_kept() -> None:
    big, most = (1 << 21) - 1, (1 << 32) - 2

    fits, too_big = read(pack(file(b"a", uid=big, gid=big), file(b"b", uid=most, gid=most)))

    assert (fits.uid, fits.gid, fits.pax_headers) == (big, big, {})
    assert (too_big.uid, too_big.gid) == (most, most)


def test_extended_attributes_are_raw_bytes() -> None:
    attributes = {b"user.\xff": b"\0\n=\xff", b"security.capability": bytes(range(256)), b"e": b""}

    entry, _ = Entries(pack(file(b"file", xattrs=attributes))).found[b"file"]

    assert entry.xattrs == attributes


@pytest.mark.parametrize("size", [70, 80, 90, 970, 985, 9960, 9990])
def test_the_length_of_a_record_counts_its_own_digits(size: int) -> None:
    for more in range(16):
        value = b"v" * (size + more)
        entry, _ = Entries(pack(file(b"f", xattrs={b"user.a": value}))).found[b"f"]
        assert entry.xattrs == {b"user.a": value}


def test_gnu_tar_makes_what_was_packed(tmp_path: Path) -> None:
    long = b"d" * 200
    tar = pack(
        directory(b".", mtime_ns=OLD),
        directory(long, mtime_ns=OLD),
        file(long + b"/\xff", b"text", mode=0o4711, uid=7, gid=8, xattrs={b"user.a": b"1\0"}),
        Member(name=b"link", mode=stat.S_IFREG, link=long + b"/\xff", uid=7, gid=8, mtime_ns=OLD),
        Member(name=b"symlink", mode=stat.S_IFLNK, target=b"t" * 300, mtime_ns=OLD),
        Member(name=b"char", mode=stat.S_IFCHR | 0o600, device=os.makedev(1, 3), mtime_ns=-1),
    )

    command = ["tar", "--extract", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-p"]
    subprocess.run([*command, "-C", tmp_path], input=tar, check=True)

    root = bytes(tmp_path)
    first = root + b"/" + long + b"/\xff"
    status = os.stat(first)
    assert (status.st_mode, status.st_uid, status.st_gid) == (stat.S_IFREG | 0o4711, 7, 8)
    assert os.getxattr(first, "user.a") == b"1\0"
    assert os.path.samefile(first, root + b"/link")
    assert os.readlink(root + b"/symlink") == b"t" * 300
    assert os.stat(root + b"/char").st_rdev == os.makedev(1, 3)
    assert os.stat(root + b"/char").st_mtime_ns == -1
    assert os.stat(root + b"/" + long).st_mtime_ns == OLD


# Holes

HOLES: dict[str, tuple[int, Iterable[tuple[int, bytes]]]] = {
    "in the middle": (MEBIBYTE, [(0, b"begin"), (MEBIBYTE - 5, b"ended")]),
    "at the beginning": (MEBIBYTE, [(MEBIBYTE - 7777, b"x" * 7777)]),
    "at the end": (MEBIBYTE + 123, [(0, b"x" * 5000)]),
    "before an odd end": (MEBIBYTE + 5, [(MEBIBYTE, b"ended")]),
    "only": (MEBIBYTE + 1, []),
    "many": (64 * 65536, [(number * 65536, b"%d" % number) for number in range(64)]),
}


@pytest.fixture(params=HOLES)
def holes(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file with holes."""
    size, pieces = HOLES[request.param]
    path = tmp_path / "holes"
    with path.open("wb") as target:
        target.truncate(size)
        for offset, piece in pieces:
            target.seek(offset)
            target.write(piece)
    return path


def test_holes_are_not_stored_and_read_back_as_zeros(holes: Path) -> None:
    tar = pack(of_file(holes), file(b"next", b"text"))

    assert len(tar) < holes.stat().st_size // 2
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        member, following = archive.getmembers()
        content = archive.extractfile(member)
        assert content is not None
        assert content.read() == holes.read_bytes()
    assert (member.name, following.name) == ("holes", "next")


def test_our_own_reader_reads_holes_back(holes: Path) -> None:
    entry, content = Entries(pack(of_file(holes))).found[b"holes"]

    assert (entry.size, content) == (holes.stat().st_size, holes.read_bytes())


def test_gnu_tar_makes_the_holes_again(holes: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()

    subprocess.run(["tar", "-x", "-C", target], input=pack(of_file(holes)), check=True)

    made = target / "holes"
    assert made.read_bytes() == holes.read_bytes()
    assert made.stat().st_blocks * BLOCK < made.stat().st_size


def test_holes_that_are_not_of_whole_blocks_are_rounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GNU tar pads each piece, so that it would read the next one from the wrong place."""
    path = tmp_path / "holes"
    pieces = [(100, 300), (400, 600), (1200, 1300), (5000, 5600), (9999, 10000)]
    with path.open("wb") as holes:
        holes.truncate(100_000)
        for start, end in pieces:
            holes.seek(start)
            holes.write(b"x" * (end - start))

    def lseek(_: int, offset: int, whence: int) -> int:
        for start, end in pieces:
            if offset < end:
                return max(offset, start) if whence == os.SEEK_DATA else end
        raise OSError(errno.ENXIO, "no more data")

    with monkeypatch.context() as patch:
        patch.setattr(os, "lseek", lseek)
        tar = pack(of_file(path))

    target = tmp_path / "target"
    target.mkdir()
    subprocess.run(["tar", "-x", "-C", target], input=tar, check=True)
    assert (target / "holes").read_bytes() == path.read_bytes()
    assert tar[3 * BLOCK :].startswith(b"4\n0\n1536\n4608\n1024\n9728\n512\n100000\n0\n\0")


def test_a_long_name_of_a_file_with_holes_is_kept(tmp_path: Path) -> None:
    path = tmp_path / ("h" * 200)
    with path.open("wb") as target:
        target.truncate(MEBIBYTE)

    (member,) = read(pack(of_file(path)))

    assert (member.name, member.size) == (path.name, MEBIBYTE)


def test_a_hole_that_would_cost_more_than_it_saves_is_written_out(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb") as target:
        target.truncate(1000)

    tar = pack(of_file(path))

    assert len(tar) == BLOCK + 2 * BLOCK + 2 * BLOCK
    assert read(tar)[0].pax_headers == {}


# What can't be


@pytest.mark.parametrize("size", [10, 3 * MEBIBYTE])
def test_a_file_that_has_another_size_than_it_had_is_an_error_that_names_it(
    tmp_path: Path, size: int
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * size)
    member = of_file(path)
    path.write_bytes(b"x" * (size + 1))

    with pytest.raises(StoreError, match=r"^file: changed while it was read"):
        pack(member)


@pytest.mark.parametrize("size", [2 * MEBIBYTE, 4 * MEBIBYTE])
def test_a_file_that_shrinks_or_grows_while_it_is_read_is_an_error_that_names_it(
    tmp_path: Path, size: int
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 3 * MEBIBYTE)
    pieces = write([of_file(path)])
    _header, _first = next(pieces), next(pieces)

    os.truncate(path, size)

    with pytest.raises(StoreError, match=r"^file: changed while it was read"):
        list(pieces)


def test_a_file_that_is_written_to_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 3 * MEBIBYTE)
    os.utime(path, ns=(OLD, OLD))
    pieces = write([of_file(path)])
    _header, _first = next(pieces), next(pieces)

    with path.open("rb+") as target:
        target.write(b"y")

    with pytest.raises(StoreError, match=r"^file: changed while it was read"):
        list(pieces)


def test_nothing_stays_open_when_the_reader_leaves(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 3 * MEBIBYTE)
    before = os.listdir("/proc/self/fd")
    pieces = write([of_file(path)])
    next(pieces)

    del pieces

    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize(
    ("member", "text"),
    [
        (Member(name=b"a\n", mode=stat.S_IFSOCK), r"a\x0a: a socket can't be in a tar"),
        (
            Member(name=b"c", mode=stat.S_IFCHR, device=os.makedev(1, 1 << 22)),
            "c: a device number that no tar has room for",
        ),
        (
            file(b"f", xattrs={b"user.a=b": b""}),
            "f: the attribute user.a=b can't be in a tar, as its name has an equals sign",
        ),
    ],
)
def test_what_no_tar_can_say_is_an_error_that_names_it(member: Member, text: str) -> None:
    with pytest.raises(InvalidContentError) as raised:
        pack(member)
    assert str(raised.value) == text


def test_errors_of_opening_are_passed_on() -> None:
    def refused() -> int:
        raise PermissionError(13, "no")

    with pytest.raises(PermissionError):
        pack(Member(name=b"f", mode=stat.S_IFREG, size=1, open=refused))


def test_what_is_empty_is_never_opened() -> None:
    assert read(pack(Member(name=b"f", mode=stat.S_IFREG)))[0].size == 0
