"""Commands run in the root directory that a mount shows, as its own root user."""

import subprocess

from tests.support.mounts import Mount

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
}
PATIENCE = 120  # seconds that a command may take
APT_INSTALL = ("apt-get", "install", "--yes", "--no-install-recommends", "-oDpkg::Use-Pty=0")
APT_PURGE = ("apt-get", "purge", "--yes", "-oDpkg::Use-Pty=0")


def inside(root: Mount, *command: str) -> list[str]:
    """The words that run `command` in a chroot with processes and mounts of its own."""
    enter = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return [*enter, f"--root={root.path}", "--wd=/root", "--", *command]


def run(root: Mount, *command: str, script: str = "") -> str:
    """What `command` prints in a chroot, given `script` on its standard input.

    Raises AssertionError with all that it printed when it fails.
    """
    ended = subprocess.run(
        inside(root, *command),
        input=script,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=ENVIRONMENT,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ended.returncode == 0, f"{' '.join(command)}: {ended.returncode}\n{ended.stdout}"
    return ended.stdout
