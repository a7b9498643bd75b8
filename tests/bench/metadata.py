"""Rows about names and attributes."""

from collections.abc import Sequence

from tests.bench.rows import COLD_AND_WARM, Kind, row
from tests.bench.stand import Stand

_ENDINGS = (".cpython-311-x86_64-linux-gnu.so", ".abi3.so", ".so", ".py", ".pyc")
_MODULES = 300
_IMPORT_PATH = (
    "usr/local/lib",
    "usr/lib/python3",
    "usr/lib/python3/dist-packages",
    "usr/share/perl5",
    "usr/lib/x86_64-linux-gnu",
    "usr/share/perl",
)


@row("walk with stat", "root", COLD_AND_WARM)
def walk(stand: Stand) -> Sequence[float]:
    return stand.cold_and_warm("walk", stand.tree)


@row("ls -R", "root", COLD_AND_WARM)
def list_all(stand: Stand) -> Sequence[float]:
    return stand.cold_and_warm(*stand.run("ls", "-R", stand.tree))


@row("repeated find -printf", "root", Kind.WARM)
def find(stand: Stand) -> Sequence[float]:
    return [stand.warm(*stand.run("find", stand.tree, "-printf", "%p %s %m %T@\n"))]


@row("stat storm", "root", COLD_AND_WARM)
def stat_storm(stand: Stand) -> Sequence[float]:
    return stand.cold_and_warm("stat", stand.root, stand.some(stand.stack.names, 20_000))


@row("names that are absent", "root", COLD_AND_WARM)
def absent(stand: Stand) -> Sequence[float]:
    paths = [
        f"{directory}/module{number}{ending}"
        for number in range(_MODULES)
        for directory in _IMPORT_PATH
        for ending in _ENDINGS
    ]
    return stand.cold_and_warm("absent", stand.root, stand.some(paths))


@row("git status", "checkout", COLD_AND_WARM)
def git_status(stand: Stand) -> Sequence[float]:
    git = ("git", "-c", "safe.directory=*", "status", "--porcelain")
    return stand.cold_and_warm(*stand.run(*git))
