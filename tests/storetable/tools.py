"""The programs that make images and are compared with, and images as each of them names them."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_SECONDS_TO_END = 10
_BESIDE_PYTHON = Path(sys.executable)
LAYERSTORE = _BESIDE_PYTHON.with_name("layerstore")
UNIONMOUNT = _BESIDE_PYTHON.with_name("unionmount")

_DOCKER = "docker-archive:"
_OCI = "oci:"


class CommandError(Exception):
    """A program failed; the text has what it said."""


@dataclass(frozen=True)
class Image:
    """One image.

    name: what the store is to call it. source: what is read, in skopeo's words. layout: the same
    image for umoci, which reads OCI layouts of gzip only: ``DIR:TAG``.
    """

    name: str
    source: str
    layout: str

    @classmethod
    def of_layout(cls, name: str, layout: Path, tag: str) -> "Image":
        """An image that everybody can read from the same layout."""
        return cls(name, f"{_OCI}{layout}:{tag}", f"{layout}:{tag}")

    @property
    def files(self) -> Path:
        """The file or directory that it is read from."""
        return self._source[0]

    @property
    def layout_files(self) -> Path:
        """The directory that umoci reads."""
        return Path(self.layout.rpartition(":")[0])

    @property
    def words(self) -> list[str]:
        """What ``layerstore import`` is given."""
        path, reference = self._source
        chosen = ["--reference", reference] if reference else []
        return [str(path), *chosen, "--tag", self.name]

    @property
    def _source(self) -> tuple[Path, str | None]:
        if self.source.startswith(_DOCKER):
            return Path(self.source.removeprefix(_DOCKER)), None
        path, _, tag = self.source.removeprefix(_OCI).rpartition(":")
        return Path(path), tag


def run(*words: str | Path, environment: Mapping[str, str] | None = None) -> str:
    """What a command prints. CommandError if it fails; it ends, with its children, if we do."""
    with subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="backslashreplace",
        env={**os.environ, **(environment or {})},
        start_new_session=True,
    ) as process:
        try:
            out, said = process.communicate()
        except BaseException:
            _end(process)
            raise
    if process.returncode:
        command = " ".join(map(str, words))
        raise CommandError(f"{command}: exit status {process.returncode}\n{out}{said}")
    return out


def _end(process: subprocess.Popen[str]) -> None:
    """End a command and all that it has started; first so that they can clean up."""
    os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_SECONDS_TO_END)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def skopeo_words(source: str, target: str) -> list[str]:
    """To copy an image; nothing of the machine's configuration decides what is trusted."""
    return ["skopeo", "--insecure-policy", "copy", "--quiet", source, target]


def skopeo_copy(source: str, target: str, *options: str) -> None:
    """Copy an image, with options of ``skopeo copy``."""
    run(*skopeo_words(source, target), *options)


def new_layout(directory: Path) -> None:
    """Make an OCI layout without images."""
    run("umoci", "init", "--layout", directory)


def new_image(layout: Path, tag: str, *layers: Path) -> None:
    """Make an image of tars in a layout, with gzip."""
    run("umoci", "new", "--image", f"{layout}:{tag}")
    for layer in layers:
        run("umoci", "raw", "add-layer", "--image", f"{layout}:{tag}", layer)


@contextlib.contextmanager
def unpacked(layout: str, bundle: Path) -> Iterator[Path]:
    """The root of an image, unpacked by umoci into *bundle*, which goes away with the context."""
    try:
        run("umoci", "unpack", "--image", layout, bundle)
        yield bundle / "rootfs"
    finally:
        shutil.rmtree(bundle, ignore_errors=True)
