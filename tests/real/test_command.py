"""A root for the time of one command: `unionmount ... -- COMMAND`."""

import subprocess
from pathlib import Path

from tests.real.manifest import untouched
from tests.real.root import APT_INSTALL, PATIENCE
from tests.support import driver, linux
from tests.support.mounts import COMMAND

INSTALL = f"set -e; apt-get update; {' '.join(APT_INSTALL)} sqlite3; sqlite3 -version; exit 7"


def test_a_command_installs_a_package_and_leaves_its_changes(
    packed: list[Path], directory: Path
) -> None:
    upper, point = directory / "changes", directory / "root"
    for made in (upper, point):
        made.mkdir()
    layers = [str(layer) for layer in packed]
    command = ["--", "sh", "-c", INSTALL]
    words = [*COMMAND, *driver.words(), "--upper", str(upper), *layers, str(point), *command]
    with untouched(packed, contents=False):
        ended = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE,
            text=True,
            check=False,
        )
    assert ended.returncode == 7, ended.stdout
    assert linux.mounts_below(point) == []
    assert (upper / "usr/bin/sqlite3").is_file()
    assert not (upper / "etc/resolv.conf").exists()
