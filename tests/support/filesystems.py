"""File systems of their own, made for one test and ended with it."""

import subprocess
from pathlib import Path

from tests.support import linux


class FileSystems:
    """Mounts tmpfs, images of other kinds and bind mounts below a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._made: list[Path] = []

    def _point(self, at: Path | None) -> Path:
        point = at or self._directory / f"filesystem{len(self._made)}"
        point.mkdir(exist_ok=True)
        return point

    def tmpfs(self, at: Path | None = None, options: str = "") -> Path:
        point = self._point(at)
        linux.mount("tmpfs", point, "tmpfs", data=options.encode())
        self._made.append(point)
        return point

    def image(self, kind: str, megabytes: int, at: Path | None = None) -> Path:
        """A file system of a kind that mkfs knows, in a file on a loop device."""
        point = self._point(at)
        image = self._directory / f"{point.name}.img"
        with open(image, "wb") as file:
            file.truncate(megabytes << 20)
        subprocess.run([f"mkfs.{kind}", "-q", str(image)], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["mount", "-o", "loop", str(image), str(point)], check=True)
        self._made.append(point)
        return point

    def bind(self, source: Path, at: Path | None = None) -> Path:
        point = self._point(at)
        linux.mount(str(source), point, "none", linux.MS_BIND)
        self._made.append(point)
        return point

    def close(self) -> None:
        for point in reversed(self._made):
            linux.umount(point)
