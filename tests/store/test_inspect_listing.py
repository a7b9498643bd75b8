"""What directories of images hold: ls and tree."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from layerstore.exporting import Format
from layerstore.inspection import listing, subjects
from layerstore.inspection.listing import Branch, Item
from layerstore.view import View
from tests.support import tars
from tests.support.stores import StoreBuilder

EVERYTHING = tars.tar(
    tars.directory("d", mode=0o1750, uid=1, gid=2),
    tars.file("d/f", b"content", mode=0o4711, uid=1000, gid=1001, mtime=1_234_567_890),
    tars.hardlink("d/g", "d/f"),
    tars.symlink("d/l", "../elsewhere", uid=3),
    tars.character("d/c", 1, 3, mode=0o666),
    tars.block("d/b", 8, 17, mode=0o600),
    tars.fifo("d/p", mode=0o640),
    tars.file(b"d/\xff\n", b"odd"),
)


@pytest.fixture
def store(directory: Path) -> StoreBuilder:
    return StoreBuilder(directory / "store")


@contextmanager
def view_of(store: StoreBuilder, *layers: bytes) -> Iterator[View]:
    store.image("app", layers)
    with store.opened() as repository, subjects.opened(repository, "app") as subject:
        yield subject.view


def test_an_item_has_what_the_tar_says(store: StoreBuilder) -> None:
    with view_of(store, EVERYTHING) as view:
        (found,) = listing.listings(view, view.find(b"d"))

    assert found.path == b"/d"
    assert found.items == [
        Item(b"/d/b", stat.S_IFBLK | 0o600, 0, 0, 1, 0, tars.TIME * 10**9, (8, 17), None, 0),
        Item(b"/d/c", stat.S_IFCHR | 0o666, 0, 0, 1, 0, tars.TIME * 10**9, (1, 3), None, 0),
        Item(
            b"/d/f", stat.S_IFREG | 0o4711, 1000, 1001, 2, 7, 1_234_567_890 * 10**9, None, None, 0
        ),
        Item(
            b"/d/g", stat.S_IFREG | 0o4711, 1000, 1001, 2, 7, 1_234_567_890 * 10**9, None, None, 0
        ),
        Item(
            b"/d/l", stat.S_IFLNK | 0o777, 3, 0, 1, 12, tars.TIME * 10**9, None, b"../elsewhere", 0
        ),
        Item(b"/d/p", stat.S_IFIFO | 0o640, 0, 0, 1, 0, tars.TIME * 10**9, None, None, 0),
        Item(b"/d/\xff\n", stat.S_IFREG | 0o644, 0, 0, 1, 3, tars.TIME * 10**9, None, None, 0),
    ]


def test_items_tell_the_layer_that_gives_them(store: StoreBuilder) -> None:
    base = tars.tar(tars.directory("d"), tars.file("d/kept"), tars.file("d/gone"), tars.file("f"))
    above = tars.tar(tars.whiteout("d/gone"), tars.file("d/new"), tars.file("f"))
    with view_of(store, base, above) as view:
        found = [(item.path, item.position) for item in listing.items(view)]

    assert found == [(b"/d", 0), (b"/d/kept", 0), (b"/d/new", 1), (b"/f", 1)]


def test_a_directory_is_listed_before_those_in_it_and_these_in_order(store: StoreBuilder) -> None:
    tar = tars.tar(*(tars.file(name) for name in ("b/y/1", "b/x/2", "a/3", "4")))
    with view_of(store, tar) as view:
        found = listing.listings(view, view.root(), recursive=True)

        assert [(part.path, [item.name for item in part.items]) for part in found] == [
            (b"/", [b"4", b"a", b"b"]),
            (b"/a", [b"3"]),
            (b"/b", [b"x", b"y"]),
            (b"/b/x", [b"2"]),
            (b"/b/y", [b"1"]),
        ]


def test_a_listing_of_a_file_is_refused(store: StoreBuilder) -> None:
    with view_of(store, tars.tar(tars.file("f"))) as view, pytest.raises(NotADirectoryError):
        list(listing.listings(view, view.find(b"f")))


def told(path: Path) -> dict[bytes, tuple[object, ...]]:
    """All names below a directory of the host, as `as_told` has them."""
    found: dict[bytes, tuple[object, ...]] = {}
    for above, directories, files in os.walk(bytes(path)):
        for name in (*directories, *files):
            at = os.path.join(above, name)
            status = os.lstat(at)
            is_directory = stat.S_ISDIR(status.st_mode)
            found[at.removeprefix(bytes(path))] = (
                status.st_mode,
                status.st_uid,
                status.st_gid,
                1 if is_directory else status.st_nlink,
                0 if is_directory else status.st_size,
                status.st_mtime_ns,
                (os.major(status.st_rdev), os.minor(status.st_rdev)) if status.st_rdev else None,
                os.readlink(at) if stat.S_ISLNK(status.st_mode) else None,
            )
    return found


def as_told(item: Item) -> tuple[object, ...]:
    owner = (item.uid, item.gid)
    return (item.mode, *owner, item.links, item.size, item.mtime, item.device, item.target)


def test_items_are_what_tar_extracts(store: StoreBuilder, directory: Path) -> None:
    root = directory / "root"
    root.mkdir()
    tar = ["tar", "-x", "--numeric-owner", "--same-owner", "-p", "-C", str(root)]
    subprocess.run(tar, input=EVERYTHING, check=True)

    with view_of(store, EVERYTHING) as view:
        assert {item.path: as_told(item) for item in listing.items(view)} == told(root)


@pytest.mark.skipif(not shutil.which("umoci"), reason="needs umoci")
def test_items_of_several_layers_are_what_umoci_unpacks(
    store: StoreBuilder, directory: Path
) -> None:
    changes = tars.tar(
        tars.whiteout("d/p"),
        tars.file("d/l", b"a file now"),
        tars.file("d/deep/er/new"),
        tars.directory("d/deep", mode=0o711),
        tars.directory("d/deep/er"),
        tars.fifo("d/c"),
        # Last, for umoci sets a directory's time when it comes to it.
        tars.directory("d", mode=0o700, uid=7),
    )
    store.image("app", [EVERYTHING, changes])
    layout, root = directory / "layout", directory / "root"
    store.archive(layout, "app", kind=Format.OCI)
    subprocess.run(["umoci", "raw", "unpack", "--image", f"{layout}:app", root], check=True)

    with store.opened() as repository, subjects.opened(repository, "app") as subject:
        found = {item.path: as_told(item) for item in listing.items(subject.view)}

    assert found == told(root)


# tree


def branches(view: View, path: bytes = b"", depth: int | None = None) -> list[Branch]:
    return list(listing.tree(view, view.find(path), depth))


TREE = tars.tar(
    tars.file("a/b/f", bytes(100)),
    tars.hardlink("a/b/g", "a/b/f"),
    tars.file("a/h", bytes(10)),
    tars.symlink("a/z", "b/f"),
    tars.file("e", bytes(1)),
)


def test_directories_in_a_tree_have_the_size_of_all_below_them(store: StoreBuilder) -> None:
    with view_of(store, TREE) as view:
        found = [(branch.item.path, branch.size) for branch in branches(view)]

    assert found == [
        (b"/", 111),
        (b"/a", 110),
        (b"/a/b", 100),
        (b"/a/b/f", 100),
        (b"/a/b/g", 100),
        (b"/a/h", 10),
        (b"/a/z", 3),
        (b"/e", 1),
    ]


def test_branches_tell_where_directories_end(store: StoreBuilder) -> None:
    with view_of(store, TREE) as view:
        found = {branch.item.path: branch.ends for branch in branches(view)}

    assert found == {
        b"/": (),
        b"/a": (False,),
        b"/a/b": (False, False),
        b"/a/b/f": (False, False, False),
        b"/a/b/g": (False, False, True),
        b"/a/h": (False, False),
        b"/a/z": (False, True),
        b"/e": (True,),
    }


@pytest.mark.parametrize(
    ("depth", "expected"),
    [
        (0, [(b"/", 111)]),
        (1, [(b"/", 111), (b"/a", 110), (b"/e", 1)]),
        (2, [(b"/", 111), (b"/a", 110), (b"/a/b", 100), (b"/a/h", 10), (b"/a/z", 3), (b"/e", 1)]),
    ],
)
def test_what_lies_deeper_counts_in_the_sizes(
    store: StoreBuilder, depth: int, expected: list[tuple[bytes, int]]
) -> None:
    with view_of(store, TREE) as view:
        found = [(branch.item.path, branch.size) for branch in branches(view, depth=depth)]

    assert found == expected


def test_a_tree_may_begin_anywhere(store: StoreBuilder) -> None:
    with view_of(store, TREE) as view:
        assert [(branch.item.path, branch.size) for branch in branches(view, b"a/b")] == [
            (b"/a/b", 100),
            (b"/a/b/f", 100),
            (b"/a/b/g", 100),
        ]
        assert [branch.size for branch in branches(view, b"a/h")] == [10]
