"""Rows about many names: in one directory, in a tree, in many layers, one below the other."""

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.load.stand import Measure, Stand
from tests.support import linux
from tests.support.layers import Layer, build
from tests.support.mounts import UnionMount

_ENTRIES = (10_000, 30_000, 100_000)
_FILES, _FILES_IN_A_DIRECTORY, _TREE_LAYERS = 1_000_000, 1000, 4
_LAYERS = (10, 100, 1000)
_LEVELS = 1000
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


# Many entries in one directory


def directory(stand: Stand) -> Iterator[Measure]:
    """100,000 entries in one directory: in the upper, in a lower layer, in two that merge"""
    for work in (_in_the_upper, _in_a_lower, _in_two_lowers):
        yield from _growing(stand, _ENTRIES, work)


def _growing(
    stand: Stand, sizes: Sequence[int], work: Callable[[Stand, int], Iterator[Measure]]
) -> Iterator[Measure]:
    """Do the work in each size; answers the measures of the largest, with how they grew."""
    runs = [list(work(stand, stand.many(size))) for size in sizes]
    for first, *_, last in zip(*runs, strict=True):
        # A clock of the kernel's that ticks too seldom may say that the few took no time.
        last.growth = last.each / first.each if first.each else 1.0
        last.result = f"{last.growth:.2f} times as long for each as with {first.amount:,}"
        yield last


def _in_the_upper(stand: Stand, count: int) -> Iterator[Measure]:
    names = _names(count)
    mount = stand.union({})
    with stand.measured(mount, "created in the upper", count, "entries") as measure:
        _fill(mount / "d", names)
    yield measure
    yield _listed(stand, mount, "listed in the upper", names)
    yield _removed(stand, mount, "removed in the upper", names)
    (mount / "d").rmdir()
    assert os.listdir(mount.changes) == []
    mount.unmount()


def _in_a_lower(stand: Stand, count: int) -> Iterator[Measure]:
    names = _names(count)
    first, rest = names[: count // 10], names[count // 10 :]
    mount = stand.union(lambda root: _fill(root / "d", names))
    yield _listed(stand, mount, "listed in a lower layer", names)
    yield _removed(stand, mount, "a tenth removed of a lower layer's", first)
    _expect_in_kernel(stand, mount, rest)
    mount.mount()
    yield _removed(stand, mount, "the rest removed, after a remount", rest)
    (mount / "d").rmdir()
    mount.remount()
    assert os.listdir(mount.path) == []
    mount.unmount()


def _in_two_lowers(stand: Stand, count: int) -> Iterator[Measure]:
    """Each has two thirds of the names."""
    names = _names(count)
    mount = stand.union(
        lambda root: _fill(root / "d", names[: count * 2 // 3]),
        lambda root: _fill(root / "d", names[count // 3 :]),
    )
    yield _listed(stand, mount, "listed in two layers merged", names)
    yield _removed(stand, mount, "removed in two layers merged", names)
    with stand.measured(mount, "created over whiteouts", count, "entries") as measure:
        _fill(mount / "d", names)
    yield measure
    _expect_in_kernel(stand, mount, names)


def _names(count: int) -> list[str]:
    return [f"entry{number}" for number in range(count)]


def _fill(directory: Path, names: Sequence[str]) -> None:
    directory.mkdir(exist_ok=True)
    for name in names:
        os.close(os.open(directory / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY))


def _expect(directory: Path, names: Sequence[str]) -> None:
    """The names are there, no others, and the listing's inode numbers are those of the files."""
    with os.scandir(directory) as entries:
        found = {entry.name: (entry.inode(), entry.stat().st_ino) for entry in entries}
    assert found.keys() == set(names)
    assert all(listed == own for listed, own in found.values())
    assert len(set(found.values())) == len(names)


def _listed(stand: Stand, mount: UnionMount, what: str, names: Sequence[str]) -> Measure:
    with stand.measured(mount, what, len(names), "entries") as measure:
        _expect(mount / "d", names)
    return measure


def _removed(stand: Stand, mount: UnionMount, what: str, names: Sequence[str]) -> Measure:
    with stand.measured(mount, what, len(names), "entries") as measure:
        for name in names:
            os.unlink(mount / "d" / name)
    return measure


def _expect_in_kernel(stand: Stand, mount: UnionMount, names: Sequence[str]) -> None:
    theirs = stand.kernel_mount(mount)
    _expect(theirs / "d", names)
    theirs.close()


# A tree of many files


def tree(stand: Stand) -> Iterator[Measure]:
    """1,000,000 files in a tree of four merged layers, walked with stat"""
    directories = stand.many(_FILES // _FILES_IN_A_DIRECTORY, 2)
    count = directories * _FILES_IN_A_DIRECTORY
    in_a_layer = _FILES_IN_A_DIRECTORY // _TREE_LAYERS

    def layer(number: int) -> Callable[[Path], None]:
        return lambda root: _plant(root, directories, number * in_a_layer, in_a_layer)

    mount = stand.union(*map(layer, range(_TREE_LAYERS)), upper=False)
    for what, between in (
        ("walked, the kernel forgets after each tenth", max(1, directories // 10)),
        ("walked, the kernel forgets afterwards", directories),
        ("walked again, the same", directories),
    ):
        with stand.measured(mount, what, count, "files") as measure:
            _walk(mount, directories, between)
        yield measure
    mount.unmount()


def _plant(root: Path, directories: int, first: int, count: int) -> None:
    """In each directory files whose size is their number."""
    for number in range(directories):
        path = root / f"d{number}"
        path.mkdir()
        with linux.opened(path, _DIRECTORY) as directory_fd:
            for size in range(first, first + count):
                flags = os.O_CREAT | os.O_WRONLY
                descriptor = os.open(f"f{size}", flags, 0o644, dir_fd=directory_fd)
                os.ftruncate(descriptor, size)
                os.close(descriptor)


def _walk(mount: UnionMount, directories: int, between: int) -> None:
    """Look at every file; the kernel forgets between each so many directories."""
    expected = {f"f{size}": size for size in range(_FILES_IN_A_DIRECTORY)}
    assert sorted(os.listdir(mount.path)) == sorted(f"d{n}" for n in range(directories))
    for number in range(directories):
        if number and number % between == 0:
            mount.forget()
        with os.scandir(mount / f"d{number}") as entries:
            assert {entry.name: entry.stat().st_size for entry in entries} == expected


# Many layers


def layers(stand: Stand) -> Iterator[Measure]:
    """1,000 layers, each with a directory of its own or all with the same directory"""
    for work in (_apart, _same):
        yield from _growing(stand, _LAYERS, work)


def _apart(stand: Stand, count: int) -> Iterator[Measure]:
    """Each layer has a directory of its own, and a file that all have."""
    mount, measure = stand.mounted(
        count,
        "layers",
        *_built(stand, "apart", [{f"d{n}": {"file": f"{n}"}, "top": f"{n}"} for n in range(count)]),
    )
    yield measure
    paths = [mount / f"d{number}" / "file" for number in range(count)]
    with stand.measured(mount, "one file of each layer read", count, "layers") as measure:
        assert [path.read_text() for path in paths] == [f"{number}" for number in range(count)]
        assert (mount / "top").read_text() == f"{count - 1}"
    yield measure
    yield _appended(stand, mount, "one file of each layer copied up", paths)
    expected = [f"{number}changed" for number in range(count)]
    assert [path.read_text() for path in paths] == expected
    mount.remount()
    assert [path.read_text() for path in paths] == expected
    mount.unmount()


def _same(stand: Stand, count: int) -> Iterator[Measure]:
    """Each layer has the same directory, with a file of its own in it."""
    mount, measure = stand.mounted(
        count,
        "layers that have the same directory",
        *_built(stand, "same", [{"d": {f"file{n}": f"{n}", "top": f"{n}"}} for n in range(count)]),
    )
    yield measure
    paths = [mount / "d" / f"file{number}" for number in range(count)]
    names = ["top", *(path.name for path in paths)]
    with stand.measured(mount, "the merged directory listed", count, "layers") as measure:
        _expect(mount / "d", names)
    yield measure
    assert (mount / "d" / "top").read_text() == f"{count - 1}"
    yield _appended(stand, mount, "each of its files copied up", paths)
    os.rename(mount / "d", mount / "moved")
    mount.remount()
    moved = [mount / "moved" / path.name for path in paths]
    _expect(mount / "moved", names)
    assert [path.read_text() for path in moved] == [f"{number}changed" for number in range(count)]
    with stand.measured(mount, "each of its files removed", count, "layers") as measure:
        for path in moved:
            path.unlink()
    yield measure
    assert os.listdir(mount / "moved") == ["top"]
    mount.unmount()


def _built(stand: Stand, name: str, contents: Sequence[Layer]) -> list[Path]:
    """The layers, built below the row's directory."""
    root = stand.directory / f"{name}{len(contents)}"
    root.mkdir()
    return [build(root / f"{number}", layer) for number, layer in enumerate(contents)]


def _appended(stand: Stand, mount: UnionMount, what: str, paths: Sequence[Path]) -> Measure:
    with stand.measured(mount, what, len(paths), "layers") as measure:
        for path in paths:
            with open(path, "a") as file:
                file.write("changed")
    return measure


# Deep paths: step by step, for the whole is longer than a path may be


def depth(stand: Stand) -> Iterator[Measure]:
    """Paths of 1,000 levels: made, walked, renamed at the top, copied up at the bottom, removed"""
    levels = stand.many(_LEVELS, 450)  # which is longer than PATH_MAX
    mount = stand.union(lambda root: _dig(root / "lower", levels))
    with contextlib.ExitStack() as stack:
        stack.callback(_remove_trees, *mount.layers, mount.changes)
        stack.callback(mount.close)
        with stand.measured(mount, "made in the upper", levels, "levels") as measure:
            _dig(mount / "upper", levels)
        yield measure
        for name in ("upper", "lower"):
            with stand.measured(mount, f"walked in the {name}", levels, "levels") as measure:
                assert _at_bottom(mount / name, levels) == "bottom"
            yield measure
        with stand.measured(mount, "copied up at the bottom", levels, "levels") as measure:
            _write_at_bottom(mount / "lower", levels, "changed")
        yield measure
        with stand.measured(mount, "renamed at the top", 2, "directories") as measure:
            for name in ("upper", "lower"):
                os.rename(mount / name, mount / f"moved-{name}")
        yield measure
        mount.remount()
        _expect_moved(mount.path, levels)
        theirs = stand.kernel_mount(mount)
        _expect_moved(theirs.path, levels)
        theirs.close()
        mount.mount()
        with stand.measured(mount, "removed", 2 * levels, "levels") as measure:
            for name in ("upper", "lower"):
                _clear(mount / f"moved-{name}", levels)
        yield measure
        mount.remount()
        assert os.listdir(mount.path) == []


def _remove_trees(*trees: Path) -> None:
    # Python's rmtree is not made for such depths.
    subprocess.run(["rm", "-rf", *trees], check=True)


def _level(number: int) -> str:
    return f"level{number:04}"


def _dig(top: Path, levels: int) -> None:
    top.mkdir()
    here = os.open(top, _DIRECTORY)
    for number in range(levels):
        os.mkdir(_level(number), dir_fd=here)
        here = _step(here, _level(number))
    os.close(here)
    _write_at_bottom(top, levels, "bottom")


def _step(here: int, name: str) -> int:
    """From one directory's descriptor to that of another."""
    there = os.open(name, _DIRECTORY, dir_fd=here)
    os.close(here)
    return there


@contextlib.contextmanager
def _bottom(top: Path, levels: int) -> Iterator[int]:
    here = os.open(top, _DIRECTORY)
    for number in range(levels):
        assert os.listdir(here) == [_level(number)]
        here = _step(here, _level(number))
    yield here
    os.close(here)


def _write_at_bottom(top: Path, levels: int, text: str) -> None:
    with (
        _bottom(top, levels) as bottom,
        linux.opened_at(bottom, "file", os.O_CREAT | os.O_WRONLY | os.O_TRUNC) as descriptor,
    ):
        os.write(descriptor, text.encode())


def _at_bottom(top: Path, levels: int) -> str:
    with _bottom(top, levels) as bottom, linux.opened_at(bottom, "file") as descriptor:
        return os.read(descriptor, 100).decode()


def _expect_moved(root: Path, levels: int) -> None:
    assert sorted(os.listdir(root)) == ["moved-lower", "moved-upper"]
    assert _at_bottom(root / "moved-upper", levels) == "bottom"
    assert _at_bottom(root / "moved-lower", levels) == "changed"


def _clear(top: Path, levels: int) -> None:
    with _bottom(top, levels) as bottom:
        os.unlink("file", dir_fd=bottom)
        here = os.dup(bottom)
    for number in reversed(range(levels)):
        here = _step(here, "..")
        os.rmdir(_level(number), dir_fd=here)
    os.close(here)
    top.rmdir()
