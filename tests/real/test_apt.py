"""Debian's own tools on the mount: apt-get and dpkg."""

import subprocess
from pathlib import Path

from tests.real.debian import PACKAGES
from tests.real.root import APT_INSTALL, APT_PURGE, run
from tests.real.trees import listing
from tests.support.mounts import Mount, three_times


def test_apt_get_installs_packages_and_what_they_depend_on(root: Mount, installed: Path) -> None:
    states = run(root, "dpkg-query", "--show", "--showformat", "${db:Status-Abbrev}\n", *PACKAGES)
    assert states.split() == ["ii"] * len(PACKAGES)
    assert run(root, "dpkg", "--audit") == ""
    assert run(root, "git", "--version").startswith("git version")
    assert (installed / "usr/bin/git").is_file()


def test_dpkg_finds_every_file_as_it_was_packed(root: Mount) -> None:
    listing(root.path)
    root.drop_caches()
    assert run(root, "dpkg", "--verify") == ""


def test_a_purged_package_is_gone_until_it_is_installed_again(root: Mount) -> None:
    assert (root.path / "usr/lib/git-core").is_dir()
    run(root, *APT_PURGE, "git")
    for when in three_times(root):
        assert not (root.path / "usr/bin/git").exists(), when
        assert not (root.path / "usr/lib/git-core").exists(), when
    run(root, *APT_INSTALL, "git")
    for when in three_times(root):
        assert run(root, "git", "--version").startswith("git version"), when
    assert run(root, "dpkg", "--verify") == ""


def test_the_kernel_shows_what_apt_wrote_as_the_mount_does(root: Mount, tmp_path: Path) -> None:
    run(root, *APT_PURGE, "git", "sqlite3")
    run(root, "mv", "/usr/lib/python3.11", "/usr/lib/python")
    shown = listing(root.path)
    root.unmount()
    kernel = tmp_path / "kernel"
    kernel.mkdir()
    lower = ":".join(str(layer) for layer in reversed([*root.layers, root.changes]))
    options = f"lowerdir={lower},redirect_dir=follow"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, str(kernel)], check=True)
    try:
        assert listing(kernel) == shown
    finally:
        subprocess.run(["umount", str(kernel)], check=True)
