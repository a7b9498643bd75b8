"""Small disks in files, of which a copy is what a power cut would leave."""

import contextlib
import hashlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support import linux


@dataclass(frozen=True)
class Kind:
    """How a file system is made and mounted.

    None writes by itself what is not synced, as long as a test takes.
    """

    make: tuple[str, ...]
    megabytes: int
    options: str


KINDS = {
    "ext4": Kind(("mkfs.ext4", "-q"), 16, "commit=600"),
    # Of all that ext4 offers it keeps least: neither data before names, nor what replaces a file.
    "ext4-writeback": Kind(("mkfs.ext4", "-q"), 16, "commit=600,data=writeback,noauto_da_alloc"),
    "xfs": Kind(("mkfs.xfs", "-q"), 300, "defaults"),
}


def make(kind: Kind, disk: Path) -> None:
    """Make an empty disk."""
    with open(disk, "wb") as file:
        file.truncate(kind.megabytes << 20)
    subprocess.run([*kind.make, str(disk)], check=True, stdout=subprocess.DEVNULL)
    # The log of zeros that mkfs.xfs writes.
    subprocess.run(["fallocate", "--dig-holes", str(disk)], check=True)


def copy(disk: Path, target: Path) -> str:
    """Copy what has been written to a disk, mounted or not; answers its digest."""
    digest = hashlib.sha1(usedforsecurity=False)
    with linux.opened(disk) as source, open(target, "wb") as copied:
        copied.truncate(os.fstat(source).st_size)
        for start, end in linux.data_extents(disk):
            content = os.pread(source, end - start, start)
            digest.update(content)
            copied.seek(start)
            copied.write(content)
    return digest.hexdigest()


@contextlib.contextmanager
def mounted(kind: Kind, disk: Path, point: Path) -> Iterator[Path]:
    """Mount a disk; what its journal has is done first."""
    subprocess.run(["mount", "-o", f"loop,{kind.options}", str(disk), str(point)], check=True)
    try:
        yield point
    finally:
        linux.umount(point)
