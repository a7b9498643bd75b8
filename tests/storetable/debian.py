"""Debian for the sets: roots that mmdebstrap makes, and packages installed on an image."""

from collections.abc import Sequence
from pathlib import Path

from tests.storetable.tools import run, unpacked

# Data to be measured may be older than its archive finds right; so may the clock.
_ANY_AGE = 'Acquire::Check-Valid-Until "false"'
_INSTALL = """
set -e
root=$1
shift
mount -t proc proc "$root/proc"
touch "$root/etc/resolv.conf"
mount --bind /etc/resolv.conf "$root/etc/resolv.conf"
export DEBIAN_FRONTEND=noninteractive
apt() { chroot "$root" apt-get -qq -o Acquire::Check-Valid-Until=false "$@"; }
apt update
apt install --yes --no-install-recommends "$@"
apt clean
rm -rf "$root"/var/lib/apt/lists/*
"""


class NoDebianError(Exception):
    """This machine's apt knows no archive of Debian."""


def release() -> str:
    """The code name of this machine's own release."""
    lines = Path("/etc/os-release").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)["VERSION_CODENAME"]


def mirror() -> str:
    """Where this machine's apt has Debian from. NoDebianError if it has none."""
    form = "$(LABEL) $(CODENAME) $(REPO_URI)"
    for line in run("apt-get", "indextargets", "--format", form).splitlines():
        label, _, rest = line.partition(" ")
        if label == "Debian" and rest.startswith(f"{release()} "):
            return rest.split()[1]
    raise NoDebianError("apt knows no archive of Debian here")


def make_root(tar: Path, suite: str, packages: Sequence[str], scratch: Path, *options: str) -> None:
    """Make the tar of a root: the smallest that has apt, and *packages*.

    options: more of mmdebstrap's.
    """
    include = [f"--include={','.join(packages)}"] if packages else []
    words = ["--quiet", "--variant=minbase", f"--aptopt={_ANY_AGE}", *include, *options]
    run("mmdebstrap", *words, suite, tar, mirror(), environment={"TMPDIR": str(scratch)})


def install(layout: str, tag: str, packages: Sequence[str], scratch: Path) -> None:
    """Make an image, *tag* in the same layout: the other one with packages in one layer more."""
    with unpacked(layout, scratch / "bundle") as root:
        # All that is mounted goes away with the process.
        alone = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        run(*alone, "bash", "-c", _INSTALL, "bash", root, *packages)
        directory = layout.rpartition(":")[0]
        run("umoci", "repack", "--image", f"{directory}:{tag}", scratch / "bundle")
