"""The image sets of the table: where each comes from, and how what takes minutes is kept."""

import gzip
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.storetable import debian, packages
from tests.storetable.tools import Image, new_image, new_layout, skopeo_copy
from tests.support.kept import Kept

_RELEASES = ("bullseye", "bookworm", "trixie", "forky", "sid")
_TOOLCHAIN = ("build-essential", "cmake", "gdb", "git", "python3-dev", "python3-venv")
_LAYERS = 100
_NODE = ("npm",)
_FAMILY = (
    ("python3-flask",),
    ("python3-django",),
    ("python3-numpy",),
    ("nginx-light",),
    ("redis-server",),
    ("postgresql-client",),
    ("php-cli",),
    ("ruby",),
    ("nodejs",),
    ("default-jre-headless",),
)


class AbsentError(Exception):
    """A set's sources are not there; the text says what is missing."""


@dataclass(frozen=True)
class Shop(Kept):
    """Where sets are made. images: what the user has."""

    images: Path | None
    scratch: Path

    def root(self, suite: str, *wanted: str) -> Path:
        """The tar of a root of Debian with packages. AbsentError if it can't be had."""

        def make(directory: Path) -> None:
            debian.make_root(directory / "root.tar", suite, wanted, self.scratch)

        try:
            return self.once("+".join(("root", suite, *wanted)), make) / "root.tar"
        except debian.NoDebianError as error:
            raise AbsentError(str(error)) from error

    def layout(self, name: str, roots: Sequence[Path]) -> Path:
        """A layout of images, 1, 2, ..., that have one layer each."""

        return self.once(name, lambda made: _layout(made, roots)) / "layout"


def _layout(directory: Path, roots: Sequence[Path]) -> Path:
    layout = directory / "layout"
    new_layout(layout)
    for tag, root in enumerate(roots, 1):
        new_image(layout, f"{tag}", root)
    return layout


def alpine(shop: Shop) -> list[Image]:
    """Alpine's releases, docker archives and tars of roots: `*alpine*.tar.gz` in --images"""
    if shop.images is None:
        raise AbsentError("no --images DIR with Alpine's images")
    files = sorted(shop.images.glob("*alpine*.tar.gz"))
    if not files:
        raise AbsentError("--images DIR has no file *alpine*.tar.gz")
    return [_alpine(shop, file, f"{number}") for number, file in enumerate(files, 1)]


def _alpine(shop: Shop, file: Path, number: str) -> Image:
    name, layout = f"alpine:{number}", shop.scratch / f"alpine-{number}"
    plain = layout.with_suffix(".tar")  # skopeo reads no archive that is compressed as a whole
    with gzip.open(file) as source, plain.open("wb") as target:
        shutil.copyfileobj(source, target)
    with tarfile.open(plain) as tar:
        is_archive = "manifest.json" in tar.getnames()
    if is_archive:
        archive = f"docker-archive:{plain}"
        skopeo_copy(archive, f"oci:{layout}:{number}")
        return Image(name, archive, f"{layout}:{number}")
    new_layout(layout)
    new_image(layout, number, plain)
    return Image.of_layout(name, layout, number)


def releases(shop: Shop) -> list[Image]:
    """Debian's smallest root that has apt, in five releases"""
    layout = shop.layout("releases", [shop.root(suite) for suite in _RELEASES])
    return [
        Image.of_layout(f"debian:{suite}", layout, f"{tag}")
        for tag, suite in enumerate(_RELEASES, 1)
    ]


def layers(shop: Shop) -> list[Image]:
    """the files of toolchain in 100 layers: a base, and package after package, as dpkg installs"""
    root = _toolchain_root(shop)

    def make(directory: Path) -> None:
        new_layout(directory / "layout")
        with tempfile.TemporaryDirectory(dir=shop.scratch) as parts:
            new_image(directory / "layout", "1", *packages.split(root, _LAYERS, Path(parts)))

    return [Image.of_layout("layers:1", shop.once("layers", make) / "layout", "1")]


def toolchain(shop: Shop) -> list[Image]:
    """a Debian with compilers, git and Python in one layer, a docker archive"""
    root = _toolchain_root(shop)

    def make(directory: Path) -> None:
        layout = _layout(directory, [root])
        skopeo_copy(f"oci:{layout}:1", f"docker-archive:{directory}/image.tar:toolchain:1")

    made = shop.once("toolchain", make)
    return [Image("toolchain:1", f"docker-archive:{made}/image.tar", f"{made}/layout:1")]


def _toolchain_root(shop: Shop) -> Path:
    return shop.root(debian.release(), *_TOOLCHAIN)


def small(shop: Shop) -> list[Image]:
    """a Debian with npm: many small files"""
    layout = shop.layout("small", [shop.root(debian.release(), *_NODE)])
    return [Image.of_layout("small:1", layout, "1")]


def family(shop: Shop) -> list[Image]:
    """ten images on one Debian: Flask, Django, NumPy, nginx, Redis, PostgreSQL, PHP, ..."""
    root = shop.root(debian.release())

    def make(directory: Path) -> None:
        layout = directory / "layout"
        new_layout(layout)
        new_image(layout, "base", root)
        for tag, wanted in enumerate(_FAMILY, 1):
            shop.say(f"installing {' '.join(wanted)}")
            debian.install(f"{layout}:base", f"{tag}", wanted, shop.scratch)

    layout = shop.once("family", make) / "layout"
    tags = [f"{tag}" for tag in range(1, len(_FAMILY) + 1)]
    return [Image.of_layout(f"family:{tag}", layout, tag) for tag in tags]


def compressions(shop: Shop) -> list[Image]:
    """one Debian as gzip, as zstd, and not compressed as a docker archive"""
    root = shop.root(debian.release())

    def make(directory: Path) -> None:
        gzipped = f"oci:{_layout(directory, [root])}:1"
        skopeo_copy(gzipped, f"oci:{directory}/zstd:1", "--dest-compress-format", "zstd")
        skopeo_copy(gzipped, f"docker-archive:{directory}/image.tar:compressions:none")

    made = shop.once("compressions", make)
    gzipped = f"{made}/layout:1"
    return [
        Image("compressions:gzip", f"oci:{gzipped}", gzipped),
        Image("compressions:zstd", f"oci:{made}/zstd:1", gzipped),
        Image("compressions:none", f"docker-archive:{made}/image.tar", gzipped),
    ]


SETS: dict[str, Callable[[Shop], list[Image]]] = {
    made.__name__: made
    for made in (alpine, releases, layers, toolchain, small, family, compressions)
}
