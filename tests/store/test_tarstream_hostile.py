"""Tars that layers may not be are refused by name, and leave the store as it was; odd ones aren't.

Those that are refused go the whole way, into a store: some rules are the index's.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from layerstore import paths
from layerstore.errors import InvalidContentError, LimitExceededError
from layerstore.ingest import Claim, ingest
from layerstore.layer import StoredLayer
from layerstore.limits import Limits
from layerstore.objects import VARIANTS, Objects
from tests.support.forgeries import forged
from tests.support.tarcases import MAP, MAP_SIZE, SAMPLES, recorded
from tests.support.tars import (
    BLOCK,
    END,
    GNU,
    V7,
    block,
    character,
    directory,
    extended,
    fifo,
    file,
    gnu_sparse,
    hardlink,
    header,
    libarchive_xattrs,
    long_link,
    long_name,
    member,
    opaque,
    padded,
    pax,
    pax_sparse,
    symlink,
    tar,
    whiteout,
    xattrs,
)
from unionfs.layers.base import Layer
from unionfs.model import WHITEOUT, Entry


class Store:
    """A store in which there is one layer already."""

    def __init__(self, root: Path) -> None:
        self.paths = paths.opened(str(root))
        self.take(tar(file("before", b"content of before")))

    def take(self, stream: bytes, limits: Limits | None = None) -> str:
        """The diff ID under which the store now has *stream*."""
        taken = ingest(self.paths, io.BytesIO(stream), limits or Limits(), Claim(), lambda _: None)
        os.close(taken.lease)
        return taken.diff_id

    def files(self) -> dict[str, int]:
        """All that there is, and when it was last changed."""
        root = Path(self.paths.root)
        return {str(path): path.lstat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One for all tests: what is refused leaves it as it was."""
    return Store(tmp_path_factory.mktemp("hostile") / "store")


def refuse(store: Store, stream: bytes, match: str, limits: Limits | None = None) -> None:
    before = store.files()
    with pytest.raises(InvalidContentError, match=match) as caught:
        store.take(stream, limits)
    assert "\n" not in str(caught.value)
    assert store.files() == before


# Contents


def test_directories_of_long_paths_count_as_entries(store: Store) -> None:
    deep = ["/".join([name, *"bcdefghij", "f"]) for name in ("a", "x")]
    refuse(store, tar(*map(file, deep)), r"entry 2 \(x/b/.*more than 15 ent", Limits(entries=15))


def test_many_contents_of_one_hash_are_refused_before_all_are_compared(store: Store) -> None:
    files = [file(f"f{number}", forged(number)) for number in range(VARIANTS + 1)]
    refuse(store, tar(*files), r"entry 65 \(f64\): 64 other contents have its hash")
    store.take(tar(*files[:3]))


# Names


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (b"..", "leads out"),
        (b"../a", "leads out"),
        (b"a/../../b", "leads out"),
        (b"a/..", "leads out"),
        (b"/etc/passwd", "absolute"),
        (b"//etc", "absolute"),
        (b"/..", "absolute"),
        (b"", "no name"),
        (b"d/" + b"n" * 256, "255 bytes"),
        (b".wh." + b"n" * 252, "255 bytes"),
    ],
)
def test_a_name_that_no_layer_can_have_is_refused(store: Store, name: bytes, reason: str) -> None:
    refuse(store, tar(file("a"), file(name, b"x")), rf"entry 2.*{reason}")


@pytest.mark.parametrize("name", ["../evil", "/evil", "evil\0name", "d/../evil"])
def test_extended_headers_can_not_smuggle_a_name(store: Store, name: str) -> None:
    refuse(store, tar(pax({"path": name}), file("good")), r"entry 1 \(.*evil")
    if "\0" not in name:
        refuse(store, tar(long_name(name), file("good")), r"entry 1 \(.*evil")
    refuse(store, tar(pax_sparse(name, MAP, MAP_SIZE, "1.0")), r"entry 1 \(.*evil")


def test_control_characters_in_a_refused_name_are_shown_escaped(store: Store) -> None:
    refuse(store, tar(file("../a\n\x1b[2J\xff")), r"entry 1 \(\.\./a\\x0a\\x1b\[2J")


@pytest.mark.parametrize(
    "above", [file("a"), symlink("a", "/etc"), fifo("a"), character("a", 5, 1)]
)
@pytest.mark.parametrize("below", [file("a/b"), directory("a/b/c"), hardlink("a/b", "f")])
def test_nothing_lies_below_what_is_no_directory(store: Store, above: bytes, below: bytes) -> None:
    refuse(store, tar(file("f"), above, below), r"entry 3 \(a/b.*no directory")


@pytest.mark.parametrize("root", [file(".", b"x"), symlink("./", "/etc"), hardlink("/", "f")])
def test_the_root_is_a_directory(store: Store, root: bytes) -> None:
    refuse(store, tar(file("f"), root), "entry 2.*directory")


@pytest.mark.parametrize("name", [".wh.", "d/.wh.", ".wh..", ".wh..."])
def test_a_whiteout_of_nothing_is_refused(store: Store, name: str) -> None:
    refuse(store, tar(directory("d"), file(name)), r"entry 2.*whiteout")


# Links


@pytest.mark.parametrize(
    "target", ["missing", "../f", "d/../../f", "", "/", "d", "self", "later", "f/below", "gone"]
)
def test_a_hard_link_leads_to_a_file_before_it(store: Store, target: str) -> None:
    members = [file("f"), directory("d"), whiteout("gone"), hardlink("self", target), file("later")]
    refuse(store, tar(*members), r"entry 4 \(self\)")


def test_a_hard_link_that_takes_the_place_of_its_target_is_refused(store: Store) -> None:
    refuse(store, tar(directory("d"), file("d/f"), hardlink("d", "d/f")), r"entry 3 \(d\)")


def test_a_hard_link_through_a_symbolic_link_is_refused(store: Store) -> None:
    members = [directory("d"), file("d/f"), symlink("l", "d"), hardlink("h", "l/f")]
    refuse(store, tar(*members), r"entry 4 \(h\)")


def test_extended_headers_can_not_smuggle_a_target(store: Store) -> None:
    refuse(store, tar(file("f"), pax({"linkpath": "../f"}), hardlink("h", "f")), r"entry 2 \(h\)")
    refuse(store, tar(file("f"), long_link("../f"), hardlink("h", "f")), r"entry 2 \(h\)")


@pytest.mark.parametrize("target", [b"", b"\0hidden"])
def test_a_symbolic_link_leads_somewhere(store: Store, target: bytes) -> None:
    refuse(store, tar(symlink("l", target)), r"entry 1 \(l\).*symbolic link")
    refuse(store, tar(pax({"linkpath": b"a\0b"}), symlink("l", "a")), r"entry 1 \(l\)")


# Numbers


@pytest.mark.parametrize(
    "member",
    [
        file("evil", size=-1),
        file("evil", size=-(1 << 80)),
        file("evil", size=1 << 63),
        file("evil", size=1 << 94),
        file("evil", size=b"12x4"),
        file("evil", size=b"-1"),
        file("evil", uid=-1),
        file("evil", uid=(1 << 32) - 1),
        file("evil", gid=1 << 40),
        file("evil", mode=b"rwxr-xr"),
        file("evil", mtime=1 << 63),
        file("evil", mtime=-(1 << 90)),
        file("evil", checksum=0),
        file("evil", checksum=b"garbage"),
        character("evil", 1 << 12, 0),
        block("evil", 0, 1 << 20),
        character("evil", -1, 0),
        pax({"size": "-1"}) + file("evil"),
        pax({"size": "9" * 30}) + file("evil"),
        pax({"size": "1e3"}) + file("evil"),
        pax({"size": "0x10"}) + file("evil"),
        pax({"size": " 1"}) + file("evil"),
        pax({"uid": "-1"}) + file("evil"),
        pax({"gid": "4294967295"}) + file("evil"),
        pax({"mtime": "nan"}) + file("evil"),
        pax({"mtime": "1.2.3"}) + file("evil"),
        pax({"mtime": "9223372036854775808"}) + file("evil"),
        pax({"mtime": "-9223372036854775809"}) + file("evil"),
    ],
)
def test_a_number_that_makes_no_sense_is_refused(store: Store, member: bytes) -> None:
    refuse(store, tar(file("a"), member), "entry 2")


@pytest.mark.parametrize("kind", [b"Z", b"V", b"M", b"D", b"8", b"\xff", b" "])
def test_an_unknown_type_is_refused(store: Store, kind: bytes) -> None:
    refuse(store, tar(member(kind, "evil")), r"entry 1 \(evil\).*type")


# Extended headers


@pytest.mark.parametrize(
    "data",
    [
        b"garbage\n",
        b"10 path=ab",
        b"11 path=abc",
        b"99 path=abc\n",
        b"9 pathabc\n",
        b"5 =a\n",
        b"-5 a=b\n",
        b"0 a=b\n",
        b"1 a=b\n",
        b"6 a=b\n6 a=b",
        b"00000000000000000000000006 a=b\n",
        b"6  a=b\n",
    ],
)
def test_a_broken_extended_header_is_refused(store: Store, data: bytes) -> None:
    refuse(store, tar(extended(b"x", data), file("a")), "entry 1")
    refuse(store, tar(extended(b"g", data), file("a")), "entry 1")


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
def test_an_extended_header_has_a_sensible_size(store: Store, kind: bytes) -> None:
    for size in (-1, 1 << 40, b"?"):
        refuse(store, tar(extended(kind, b"", size=size), file("a")), "entry 1")


@pytest.mark.parametrize(
    "before",
    [pax({"comment": "x"}), xattrs({"user.a": b""}), long_name("n"), long_link("n")],
)
def test_an_extended_header_with_nothing_after_it_is_refused(store: Store, before: bytes) -> None:
    refuse(store, tar(file("a"), before), "truncated")
    refuse(store, tar(file("a"), before, end=b""), "truncated")


@pytest.mark.parametrize(
    "before",
    [
        pax({"SCHILY.xattr.": b"x"}),
        pax({b"SCHILY.xattr.user.\0".decode(): b"x"}),
        xattrs({"user." + "n" * 251: b"x"}),
        xattrs({"user.a": bytes((1 << 16) + 1)}),
        pax({"LIBARCHIVE.xattr.user.a": b"?"}),
        pax({"LIBARCHIVE.xattr.user.%00": b"eA=="}),
    ],
)
def test_an_attribute_that_no_file_can_have_is_refused(store: Store, before: bytes) -> None:
    refuse(store, tar(before, file("a")), "entry 1.*attribute")


# Sparse files


@pytest.mark.parametrize(
    ("pieces", "size"),
    [
        ({4096: b"x", 0: b"y"}, 8192),
        ({0: b"xxxx", 2: b"y"}, 8192),
        ({0: b"x", 4096: b"y"}, 4096),
        ({-1: b"x"}, 8192),
        ({0: b"x"}, -1),
        ({0: b"x"}, 0),
        ({(1 << 63) - 1: b"x"}, 1 << 63),
    ],
)
def test_a_sparse_map_that_does_not_fit_is_refused(
    store: Store, pieces: dict[int, bytes], size: int
) -> None:
    refuse(store, tar(gnu_sparse("evil", pieces, size)), r"entry 1 \(evil\)")
    for version in ("0.0", "0.1", "1.0"):
        refuse(store, tar(pax_sparse("evil", pieces, size, version)), r"entry 1 \(evil\)")


def sparse_1_0(map_: bytes, **records: str) -> bytes:
    told = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "10"}
    return pax({**told, **records}) + file("evil", padded(map_) + b"x")


@pytest.mark.parametrize(
    "member",
    [
        sparse_1_0(b"1\n0\n"),
        sparse_1_0(b"2\n0\n1\n"),
        sparse_1_0(b"-1\n0\n1\n"),
        sparse_1_0(b"\n0\n1\n"),
        sparse_1_0(b"x\n0\n1\n"),
        sparse_1_0(b"1\n0\nx\n"),
        sparse_1_0(b"1 0 1"),
        sparse_1_0(b"99999999999999999999\n0\n1\n"),
        sparse_1_0(b"1\n0\n1\n", **{"GNU.sparse.realsize": "?"}),
        sparse_1_0(b"1\n0\n1\n", **{"GNU.sparse.major": "2"}),
        sparse_1_0(b"1\n0\n1\n", **{"GNU.sparse.minor": ""}),
        pax({"GNU.sparse.size": "9", "GNU.sparse.map": "0"}) + file("evil", b"x"),
        pax({"GNU.sparse.size": "9", "GNU.sparse.map": "0,1,"}) + file("evil", b"xx"),
        pax({"GNU.sparse.size": "9", "GNU.sparse.map": "0;1"}) + file("evil", b"x"),
        pax([("GNU.sparse.size", "9"), ("GNU.sparse.offset", "0")]) + file("evil", b"x"),
        pax({"GNU.sparse.size": "9"}) + file("evil"),
        pax({"GNU.sparse.map": "0,1"}) + file("evil", b"x"),
        pax({"GNU.sparse.name": "evil"}) + file("good"),
        pax({"GNU.sparse.name": "evil", "GNU.sparse.size": "9"}) + symlink("l", "good"),
        pax({"GNU.sparse.size": "9"}) + gnu_sparse("evil", {0: b"x"}, 9),
    ],
)
def test_a_broken_sparse_map_is_refused(store: Store, member: bytes) -> None:
    refuse(store, tar(member), r"entry 1 \(evil\)")


def test_lengths_before_their_offsets_are_refused(store: Store) -> None:
    told = [("GNU.sparse.numbytes", "0"), ("GNU.sparse.offset", "1"), ("GNU.sparse.size", "9")]
    refuse(store, tar(pax(told), file("a")), "entry 1.*out of order")


def test_a_sparse_map_counts_as_a_header(store: Store) -> None:
    pieces = {at * 2: b"x" for at in range(10_000)}
    for sparse in (gnu_sparse("evil", pieces, 1 << 20), pax_sparse("evil", pieces, 1 << 20, "1.0")):
        recorded(tar(sparse))
        with pytest.raises(LimitExceededError, match="--limit header=N"):
            store.take(tar(sparse), Limits(header=1 << 14))


# Ends


def test_a_tar_cut_off_is_a_shorter_tar_or_refused(store: Store) -> None:
    whole = tar(pax({"mtime": "1.5"}), file("a", b"x" * 600), symlink("b", "a"))
    # After the content of the first, its padding, the second, and in the zeros of the end.
    content = 3 * BLOCK + 600
    right = {0, *range(content, 5 * BLOCK + 1), *range(6 * BLOCK, len(whole) + 1)}
    assert 6 * BLOCK + len(END) == len(whole)
    for length in range(len(whole) + 1):
        if length in right:
            recorded(whole[:length])
        else:
            with pytest.raises(InvalidContentError, match="truncated"):
                recorded(whole[:length])
    refuse(store, whole[: content - 1], r"entry 1 \(a\).*truncated")


@pytest.mark.parametrize(
    "after",
    [
        b"\1",
        END + b"\1",
        bytes(BLOCK) + file("b"),
        END + tar(file("b")),
        bytes(1 << 21) + b"x" * BLOCK,
    ],
)
def test_what_follows_the_end_is_refused(store: Store, after: bytes) -> None:
    refuse(store, tar(file("a"), end=bytes(BLOCK)) + after, "after the end")


def test_nothing_but_estargz_s_table_of_contents_follows_the_end(store: Store) -> None:
    table = file("stargz.index.json", b"{}")
    stream = tar(file("a")) + tar(table)
    read = recorded(stream)
    assert bytes(read.stream) == stream
    assert read.only.path == b"a"
    refuse(store, stream + b"\1", "after the end")
    refuse(store, tar(file("a")) + table[: BLOCK + 1], "truncated")
    refuse(store, tar(file("a")) + file("stargz.index.json", size=-1), "size")


@pytest.mark.parametrize("stream", [b"\x7fELF" + bytes(600), b"no tar" * 200, b"PK\3\4" * 128])
def test_what_is_no_tar_is_refused(store: Store, stream: bytes) -> None:
    refuse(store, stream, "entry 1.*no tar")


def test_a_symbolic_link_that_linux_can_not_have_is_refused(store: Store) -> None:
    assert recorded(tar(symlink("s", "t" * 4095))).entries[0].target == b"t" * 4095
    refuse(store, tar(symlink("s", "t" * 4096)), r"entry 1 \(s\): a symbolic link to 4096 bytes")


# Limits


@pytest.mark.parametrize(
    ("stream", "limits", "name"),
    [
        (tar(file("a"), file("b"), file("c")), Limits(entries=2), "entries"),
        (tar(file("a/b/c/d")), Limits(depth=3), "depth"),
        (tar(file("a" * 60 + "/b")), Limits(path=61), "path"),
        (tar(symlink("a", "b" * 62)), Limits(path=61), "path"),
        (tar(file("f"), hardlink("a", "./" * 31 + "f")), Limits(path=61), "path"),
        (tar(pax({"comment": "c" * 100}), file("a")), Limits(header=100), "header"),
        (tar(pax({"a": "c" * 60}) * 2, file("a")), Limits(header=100), "header"),
        (tar(long_name("c" * 100), file("a")), Limits(header=100), "header"),
        (tar(extended(b"g", b"") * 3, file("a", size=1 << 20)), Limits(bytes=1 << 19), "bytes"),
        (tar(gnu_sparse("a", {}, 1 << 20)), Limits(bytes=1 << 19), "bytes"),
    ],
)
def test_too_much_is_refused_by_the_limit_s_name(
    store: Store, stream: bytes, limits: Limits, name: str
) -> None:
    refuse(store, stream, rf"entry.*--limit {name}=N", limits)


def test_a_limit_that_is_just_kept_is_kept() -> None:
    stream = tar(pax({"comment": "c" * 84}), file("a/b/cccccccccccccc"), file("b"))
    kept = Limits(entries=2, depth=3, path=18, header=100)
    assert len(recorded(stream, kept).entries) == 2


# What is odd, and right


@pytest.mark.parametrize("name", SAMPLES)
def test_every_byte_comes_out_as_it_went_in(name: str) -> None:
    assert bytes(recorded(SAMPLES[name]).stream) == SAMPLES[name]


@dataclass
class Read:
    """What a member is read as."""

    member: bytes
    kind: int = stat.S_IFREG
    path: bytes = b"a"
    content: bytes = b""


@pytest.mark.parametrize(
    "case",
    [
        Read(file("./a//b/./c/", b"x"), path=b"a/b/c", content=b"x"),
        Read(directory("./"), stat.S_IFDIR, b""),
        Read(directory("/"), stat.S_IFDIR, b""),
        Read(member(b"5", "a"), stat.S_IFDIR),
        Read(member(b"\0", "a/", magic=V7), stat.S_IFDIR),
        Read(directory("a", size=1000), stat.S_IFDIR),
        Read(symlink("a", "b", size=1000), stat.S_IFLNK),
        Read(fifo("a", size=1000), stat.S_IFIFO),
        Read(member(b"7", "a", b"x"), content=b"x"),
        Read(member(b"\0", "a", b"x", magic=V7), content=b"x"),
        Read(file("a", b"x", size=b"     000001 "), content=b"x"),
        Read(file("a", b"x", magic=GNU, prefix=b"no prefix"), content=b"x"),
        Read(file("b", prefix=b"a"), path=b"a/b"),
        Read(long_name("a") + pax({"path": "b"}) + file("c")),
        Read(pax({"path": "b"}) + long_name("a") + file("c")),
        Read(pax({"path": "b"}) + pax({"comment": "takes the place"}) + file("a")),
        Read(pax([("path", "b"), ("path", "")]) + file("a")),
        Read(pax({"path": "b"}) + extended(b"g", b"") + file("a")),
        Read(hardlink("a", "a", size=1000), 0),
        Read(file("n" * 255), path=b"n" * 255),
        Read(file(b"\xff\n\x01"), path=b"\xff\n\x01"),
    ],
)
def test_odd_members_are_read_as_go_reads_them(case: Read) -> None:
    read = recorded(tar(case.member, file("next")))
    assert (read.entries[0].kind, read.entries[0].path) == (case.kind, case.path)
    assert (read.contents[0].whole if 0 in read.contents else b"") == case.content
    assert [entry.path for entry in read.entries[1:]] == [b"next"]


def test_a_checksum_of_signed_bytes_is_right() -> None:
    name = b"\xff\xfe"
    block = header(b"0", name)
    told = sum(block[:148] + block[156:]) + 8 * 32
    assert recorded(tar(file(name, checksum=told - 512))).only.path == name
    with pytest.raises(InvalidContentError, match="checksum"):
        recorded(tar(file(name, checksum=told - 256)))


@pytest.mark.parametrize(
    ("time", "nanoseconds"),
    [
        ("0", 0),
        ("1.5", 1_500_000_000),
        ("-1.5", -1_500_000_000),
        ("-0.25", -250_000_000),
        ("1.", 1_000_000_000),
        ("1.0123456789", 1_012_345_678),
        ("9223372036854775807.999999999", 9223372036854775807999999999),
        ("-9223372036854775808", -9223372036854775808000000000),
    ],
)
def test_times_keep_their_nanoseconds(time: str, nanoseconds: int) -> None:
    assert recorded(tar(pax({"mtime": time}), file("a"))).only.mtime_ns == nanoseconds


@pytest.mark.parametrize("mtime", [-(1 << 63), -1, 0, 8**11, (1 << 63) - 1])
def test_times_may_be_long_ago_and_far_off(mtime: int) -> None:
    assert recorded(tar(file("a", mtime=mtime))).only.mtime_ns == mtime * 10**9


def test_the_type_that_old_tars_have_in_the_mode_does_not_count() -> None:
    assert recorded(tar(file("a", mode=0o104755))).only.mode == 0o4755


def test_owners_may_have_any_number_but_the_one_for_nobody() -> None:
    highest = (1 << 32) - 2
    for member_ in (file("a", uid=highest, gid=0), pax({"uid": str(highest)}) + file("a")):
        entry = recorded(tar(member_)).only
        assert (entry.uid, entry.gid) == (highest, 0)


def test_attributes_come_as_bytes_in_both_spellings() -> None:
    values = {"user.a": b"a=b\n\0\xff", "user.empty": b"", "user.%41 ": b"x"}
    expected = {name.encode(): value for name, value in values.items()}
    assert recorded(tar(xattrs(values), file("a"))).only.xattrs == expected
    assert recorded(tar(libarchive_xattrs(values), file("a"))).only.xattrs == expected


def test_what_is_said_of_one_member_is_not_said_of_the_next() -> None:
    told = pax({"mtime": "7", "path": "other", "uid": "7", "SCHILY.xattr.user.a": "x"})
    first, second = recorded(tar(told, file("a"), file("b", mtime=8))).entries
    assert (first.path, first.mtime_ns, first.uid, len(first.xattrs)) == (b"other", 7 * 10**9, 7, 1)
    assert (second.path, second.mtime_ns, second.uid, second.xattrs) == (b"b", 8 * 10**9, 0, {})


def test_a_global_header_describes_no_entry() -> None:
    told = pax({"mtime": "7", "path": "other"})[BLOCK:]
    entry = recorded(tar(extended(b"g", told.rstrip(b"\0")), file("a"))).only
    assert (entry.path, entry.mtime_ns) == (b"a", 10**18)


@pytest.mark.parametrize(
    "sparse",
    [
        gnu_sparse("a", MAP, MAP_SIZE),
        *(pax_sparse("a", MAP, MAP_SIZE, version) for version in ("0.0", "0.1", "1.0")),
    ],
)
def test_a_sparse_file_keeps_its_holes(sparse: bytes) -> None:
    read = recorded(tar(sparse, file("next")))
    assert (read.entries[0].path, read.entries[0].size) == (b"a", MAP_SIZE)
    assert read.contents[0].pieces == MAP
    assert read.entries[1].path == b"next"


def test_gnu_tar_ends_a_sparse_map_with_an_empty_piece() -> None:
    for sparse in (
        gnu_sparse("a", {4096: b"x", 8192: b""}, 8192),
        *(pax_sparse("a", {4096: b"x", 8192: b""}, 8192, version) for version in ("0.1", "1.0")),
    ):
        assert recorded(tar(sparse)).contents[0].whole == bytes(4096) + b"x" + bytes(4095)


@pytest.mark.parametrize("rest", [b"", bytes(1), bytes(BLOCK), bytes(700), bytes(1 << 21)])
def test_the_end_may_have_any_number_of_zeros(rest: bytes) -> None:
    stream = tar(file("a", b"x" * 512), end=rest)
    read = recorded(stream)
    assert bytes(read.stream) == stream
    assert read.only.path == b"a"


# What a layer then is


@dataclass
class Tree:
    """A stored layer, by paths."""

    layer: Layer

    def __getitem__(self, path: str) -> object:
        entry: object = self.layer.root()
        for name in path.encode().split(b"/"):
            assert isinstance(entry, Entry)
            entry = self.layer.lookup(entry, name)
        return entry

    def content(self, path: str) -> bytes:
        entry = self[path]
        assert isinstance(entry, Entry)
        with open(self.layer.open(entry), "rb") as opened:
            return opened.read()


Stored = Callable[..., Tree]


@pytest.fixture
def stored(store: Store) -> Iterator[Stored]:
    """Puts members into the store as a layer, and opens it."""
    with contextlib.ExitStack() as opened:

        def put(*members: bytes) -> Tree:
            diff_id = store.take(tar(*members))
            objects = Objects(store.paths.objects)
            layer = StoredLayer(store.paths.layer(diff_id), diff_id, objects)
            opened.callback(layer.close)
            return Tree(layer)

        yield put


def test_of_two_entries_the_last_wins(stored: Stored) -> None:
    tree = stored(
        file("a", b"first"),
        hardlink("b", "a"),
        file("a", b"second", mode=0o600),
        directory("d"),
        file("d/f"),
        symlink("d", "elsewhere"),
    )
    assert (tree.content("a"), tree.content("b")) == (b"second", b"first")
    link = tree["d"]
    assert isinstance(link, Entry)
    assert tree.layer.readlink(link) == b"elsewhere"


def test_the_slash_before_a_hard_link_s_target_is_the_layer_s_root(stored: Stored) -> None:
    assert stored(file("d/f", b"x"), hardlink("h", "/d/f")).content("h") == b"x"


def test_a_hard_link_may_name_a_symbolic_link(stored: Stored) -> None:
    tree = stored(symlink("l", "nowhere"), hardlink("h", "l"))
    link = tree["h"]
    assert isinstance(link, Entry)
    assert tree.layer.readlink(link) == b"nowhere"


def test_a_whiteout_below_a_file_is_ignored(stored: Stored) -> None:
    assert stored(file("a", b"x"), whiteout("a/b"), opaque("a")).content("a") == b"x"


def test_a_whiteout_hides_nothing_of_its_own_layer(stored: Stored) -> None:
    tree = stored(whiteout("a"), file("a", b"x"), file("b", b"y"), whiteout("b"))
    assert (tree.content("a"), tree.content("b")) == (b"x", b"y")
    assert stored(whiteout("a"))["a"] is WHITEOUT


def test_marks_of_overlayfs_are_neither_believed_nor_shown(stored: Stored) -> None:
    marks = {"trusted.overlay.opaque": b"y", "user.overlay.redirect": b"/etc", "user.a": b"x"}
    entry = stored(xattrs(marks), directory("d"))["d"]
    assert isinstance(entry, Entry)
    assert not entry.opaque
    assert entry.redirect is None
