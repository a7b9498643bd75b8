"""Two layers of Debian, made once and kept between runs: a root, and packages to install in it.

`base` is what mmdebstrap makes from the suite and the archives in this machine's own apt
configuration. `packages` lies on top of it: a repository of PACKAGES with all that they depend on,
so that apt in a chroot needs no network, and marks that take the machine's archives away.
"""

import fcntl
import hashlib
import os
import re
import shlex
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

PACKAGES = ("git", "gcc", "libc6-dev", "python3-venv", "sqlite3")
REPOSITORY = "srv/packages"
COMPONENTS = ("main", "universe")  # Ubuntu has python3-venv in universe


class Debian(NamedTuple):
    """The directories of the two layers, and the directory that holds both."""

    home: Path
    base: Path
    packages: Path


def debian(cache: Path) -> Debian:
    """The layers for this machine's release, from `cache` or made there, which takes a minute.

    Raises subprocess.CalledProcessError with mmdebstrap's own words when they can't be made.
    """
    sources = _sources()
    if not sources:  # apt knows its archives only once it has been there
        subprocess.run(["apt-get", "-qq", "update"], check=True)
        sources = _sources()
    release = _release()
    wanted = hashlib.sha256("\n".join([*sources, *PACKAGES]).encode()).hexdigest()[:12]
    home = cache / f"{release}-{wanted}"
    with _locked(cache):
        if not home.exists():
            _make(home, release, sources)
    return Debian(home, home / "base", home / "packages")


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _release() -> str:
    lines = Path("/etc/os-release").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)["VERSION_CODENAME"]


def _sources() -> list[str]:
    """Lines for sources.list: this machine's archives of its own release, nobody else's."""
    release = _release()
    form = "$(REPO_URI) $(RELEASE) $(COMPONENT)"
    listing = subprocess.run(
        ["apt-get", "indextargets", "--format", form, "Created-By: Packages"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    suites = {release, f"{release}-updates", f"{release}-security"}
    targets = {tuple(line.split()) for line in listing.splitlines()}
    return sorted(
        f"deb {uri} {suite} {component}"
        for uri, suite, component in targets
        if suite in suites and component in COMPONENTS
    )


def _make(home: Path, release: str, sources: list[str]) -> None:
    making = home.with_name("making")
    shutil.rmtree(making, ignore_errors=True)  # one that was interrupted
    downloads = making / "packages" / REPOSITORY
    downloads.mkdir(parents=True)
    listed = making / "sources.list"
    listed.write_text("\n".join(sources) + "\n")
    fetch = (
        'APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get --yes --no-install-recommends --download-only'
        f" -o Dir::Cache::archives={shlex.quote(str(downloads))} install {shlex.join(PACKAGES)}"
    )
    mmdebstrap = ["mmdebstrap", "--quiet", "--variant=apt", f"--customize-hook={fetch}"]
    subprocess.run([*mmdebstrap, release, str(making / "base"), str(listed)], check=True)
    make_repository(downloads)
    _point_apt_at_the_repository(making / "packages")
    making.rename(home)


def make_repository(repository: Path) -> None:
    """Make a directory of downloaded packages into a repository that apt can read."""
    shutil.rmtree(repository / "partial", ignore_errors=True)
    (repository / "lock").unlink(missing_ok=True)
    stanzas = []
    for downloaded in sorted(repository.glob("*.deb")):
        # apt writes an epoch as `_1%3a`, and would read the `%3a` of a name in an index as `:`
        package = downloaded.rename(repository / re.sub(r"_\d+%3a", "_", downloaded.name))
        control = subprocess.run(
            ["dpkg-deb", "--field", str(package)], check=True, capture_output=True, text=True
        ).stdout
        digest = hashlib.sha256(package.read_bytes()).hexdigest()
        stanzas.append(
            f"{control.rstrip()}\nFilename: ./{package.name}\n"
            f"Size: {package.stat().st_size}\nSHA256: {digest}\n"
        )
    (repository / "Packages").write_text("\n".join(stanzas))


def _point_apt_at_the_repository(layer: Path) -> None:
    sources = layer / "etc/apt/sources.list.d"
    sources.mkdir(parents=True)
    os.setxattr(sources, "trusted.overlay.opaque", b"y")
    (sources / "packages.list").write_text(f"deb [trusted=yes] copy:/{REPOSITORY} ./\n")
    log = layer / "var/log"
    log.mkdir(parents=True)
    os.mknod(log / "faillog", stat.S_IFCHR, os.makedev(0, 0))
    subprocess.run(["chmod", "-R", "u=rwX,go=rX", str(layer)], check=True)
