"""A real root of Debian for the benchmark, and the same root in any number of layers."""

import os
import random
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from math import ceil
from pathlib import Path

from tests.real.debian import make_repository
from tests.storetable import debian, packages

INSTALLED = ("build-essential", "cmake", "git", "npm", "perl", "python3-dev", "python3-venv")
REPOSITORY = Path("srv/packages")
TO_INSTALL = ("bc", "less", "nano", "sqlite3")  # packages that lie in the repository
PROJECT = Path("srv/project")

_SOURCES = 60  # files of the project
_OLDER, _REMOVED, _OPAQUE = 400, 400, 40  # in all layers together, at least
_PROJECT_SOURCE = """\
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "project.h"

int part{number}(int x)
{{
\tchar text[64];

\tsnprintf(text, sizeof(text), "%d", x * {number});
\treturn (int)strlen(text) + {number};
}}
"""
_MAKEFILE = """\
objects := $(patsubst %.c,%.o,$(wildcard *.c))
project: $(objects)
\t$(CC) -o $@ $^
%.o: %.c project.h
\t$(CC) -O1 -c -o $@ $<
"""


def make(directory: Path) -> None:
    """Make *directory* / plain, the root, and root.tar, of which layers are made.

    Everything is root's, and readable by everybody.
    """
    with tempfile.TemporaryDirectory(dir=directory) as name:
        scratch = Path(name)
        packed = scratch / "packed.tar"
        debian.make_root(packed, debian.release(), INSTALLED, scratch, _download())
        root = scratch / "root"
        unpack(packed, root)
        make_repository(root / REPOSITORY)
        (root / "etc/apt/sources.list").write_text(f"deb [trusted=yes] copy:/{REPOSITORY} ./\n")
        _make_project(root / PROJECT)
        readable = ("--owner=0", "--group=0", "--numeric-owner", "--mode=u+rw,a+rX")
        tar = directory / "root.tar"
        _run("tar", "--sort=name", *readable, "-C", root, "-cf", tar, ".")
    unpack(tar, directory / "plain")


def split(root: Path, layers: int, directory: Path) -> None:
    """Make layers, *directory* / 0 and up, of the tar of a root: each as an installation leaves it.

    In those above the first are marks: files that replace older ones, and whiteouts and opaque
    directories, beneath which is what only they hide; all merged they are the root.
    """
    with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
        made = []
        for number, part in enumerate(packages.split(root, layers, Path(scratch), dealt=True)):
            made.append(directory / f"{number}")
            unpack(part, made[-1])
            part.unlink()
    mark(made, random.Random(layers))


def unpack(tar: Path, directory: Path) -> None:
    """Unpack a tar into a new directory."""
    directory.mkdir(parents=True)
    _run("tar", "--numeric-owner", "-C", directory, "-xpf", tar)


def mark(layers: Sequence[Path], chosen: random.Random) -> None:
    """Put what is replaced and hidden into layers, and the marks that hide it above.

    chosen: decides where.
    """
    above = len(layers) - 1
    for number in range(1, len(layers)):
        layer, below = layers[number], layers[chosen.randrange(number)]
        files, directories = _contents(layer)
        own = [path for path in directories if _is_alone(path, layer, layers)]
        opaque = chosen.sample(own, min(len(own), ceil(_OPAQUE / above)))
        for path in opaque:
            for prefix in ("trusted", "user"):  # without privileges only the latter can be read
                os.setxattr(layer / path, f"{prefix}.overlay.opaque", b"y")
            for hidden in range(3):
                _put(below, path / f"hidden{hidden}")
        for path in chosen.sample(files, min(len(files), ceil(_OLDER / above))):
            _put(below, path)
        # The kernel lists a whiteout that has nothing to hide, as in an opaque directory.
        merged = [path for path in directories if path not in opaque]
        for path in chosen.sample(merged, min(len(merged), ceil(_REMOVED / above))):
            removed = path / f"removed{number}"
            _put(below, removed)
            os.mknod(layer / removed, stat.S_IFCHR, os.makedev(0, 0))


def _is_alone(path: Path, layer: Path, layers: Sequence[Path]) -> bool:
    """Whether a directory has no directories in it, and nothing in any other layer."""
    others = [other / path for other in layers if other != layer and (other / path).is_dir()]
    below = [entry for entry in os.scandir(layer / path) if entry.is_dir(follow_symlinks=False)]
    return not below and not any(os.listdir(other) for other in others)


def _contents(layer: Path) -> tuple[list[Path], list[Path]]:
    """Regular files, and the directories that have any, relative to the layer, sorted."""
    files = [
        Path(found, name).relative_to(layer)
        for found, _, names in os.walk(layer)
        for name in names
        if stat.S_ISREG(os.lstat(os.path.join(found, name)).st_mode)
    ]
    return sorted(files), sorted({path.parent for path in files} - {Path()})


def _put(layer: Path, path: Path) -> None:
    """A file where the layer has nothing yet, if a file can be there."""
    target = layer / path
    above = [layer / parent for parent in path.parents]
    if os.path.lexists(target) or any(p.is_symlink() or p.is_file() for p in above):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("older\n")


def _download() -> str:
    """An option of mmdebstrap's that gets the packages of the repository."""
    words = "apt-get --yes --no-install-recommends --download-only"
    target = f'"$1/{REPOSITORY}"'
    return (
        f'--customize-hook=mkdir -p {target} && APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" {words}'
        f" -o Dir::Cache::archives={target} install {' '.join(TO_INSTALL)} >/dev/null"
    )


def _make_project(directory: Path) -> None:
    directory.mkdir(parents=True)
    (directory / "Makefile").write_text(_MAKEFILE)
    numbers = range(_SOURCES)
    (directory / "project.h").write_text("".join(f"int part{n}(int);\n" for n in numbers))
    for number in numbers:
        (directory / f"part{number}.c").write_text(_PROJECT_SOURCE.format(number=number))
    calls = " + ".join(f"part{number}(1)" for number in numbers)
    (directory / "main.c").write_text(
        f'#include "project.h"\nint main(void) {{ return {calls} ? 0 : 1; }}\n'
    )


def _run(*words: str | Path) -> None:
    subprocess.run(words, check=True)
