"""Container images built by buildah, in a storage of their own."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support import linux
from tests.support.command import has_ended
from unionfs.driver import records

_PATIENCE = 300  # seconds that a build may take
_MERGED = ("bin", "sbin", "lib", "lib64")


class Storage:
    """Images and containers below `home`, kept by the overlay driver with these `options`.

    Nothing is read from the configuration of the machine or of the user.
    """

    def __init__(self, home: Path, **options: str) -> None:
        home.mkdir()
        self._home = home
        policy = home / "policy.json"
        policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        self._policy = f"--signature-policy={policy}"
        configuration = {
            "CONTAINERS_CONF": f'[network]\nnetwork_config_dir = "{home}/networks"',
            "CONTAINERS_REGISTRIES_CONF": "",
            "CONTAINERS_STORAGE_CONF": "\n".join(
                [
                    "[storage]",
                    'driver = "overlay"',
                    f'graphroot = "{home}/root"',
                    f'runroot = "{home}/run"',
                    "[storage.options.overlay]",
                    *(f'{name} = "{value}"' for name, value in options.items()),
                ]
            ),
        }
        self._environment = dict(os.environ)
        for name, text in configuration.items():
            file = home / name.lower()
            file.write_text(text)
            self._environment[name] = str(file)
        for name in ("HOME", "TMPDIR", "XDG_RUNTIME_DIR"):
            directory = home / name.lower()
            directory.mkdir(mode=0o700)
            self._environment[name] = str(directory)

    def run(self, *words: str | Path, directory: Path | None = None) -> str:
        """What buildah prints when it is asked to do `words`, in `directory`.

        Raises AssertionError with all that it said when it fails.
        """
        ended = subprocess.run(
            ["buildah", *words],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=self._environment,
            text=True,
            errors="surrogateescape",
            timeout=_PATIENCE,
            check=False,
        )
        assert ended.returncode == 0, f"{words}: {ended.returncode}\n{ended.stdout}{ended.stderr}"
        return ended.stdout

    def build(self, context: Path, name: str, *words: str) -> None:
        """Build the image `name` of `context`."""
        kind = ["--layers", "--force-rm", "--isolation=chroot", "--cap-add=CAP_MKNOD"]
        self.run("build", self._policy, *kind, "--tag", name, *words, context)

    def save(self, name: str) -> Path:
        """Write the image `name` as an OCI layout, and answer where."""
        layout = self._home / f"{name}.oci"
        self.run("push", self._policy, "--disable-compression", name, f"oci:{layout}")
        return layout

    def start(self, image: str | Path) -> str:
        """A new container from `image`, a name here or an OCI layout; answers its name."""
        directory = None
        if isinstance(image, Path):
            # Its path, which becomes the name here, might have letters that a name may not have.
            directory, image = image.parent, f"oci:{image.name}"
        return self.run("from", self._policy, image, directory=directory).strip()

    def mount(self, container: str) -> Path:
        """Mount a container's root, and answer where."""
        return Path(self.run("mount", container).rstrip("\n"))

    def is_mounted(self, container: str) -> bool:
        """Whether the root of a container is mounted."""
        return container in self.run("mount")

    def commit(self, container: str, name: str) -> None:
        """Make the image `name` of a container, which ends with that."""
        self.run("commit", self._policy, "--rm", container, name)

    @contextmanager
    def mounted(self, image: str | Path) -> Iterator[Path]:
        """The root of a new container from `image`, which ends with the context."""
        container = self.start(image)
        try:
            yield self.mount(container)
        finally:
            self.run("umount", container)
            self.run("rm", container)

    def close(self) -> None:
        """End what is mounted; that should have been nothing."""
        ends = [
            os.pidfd_open(union.process)
            for union in records.mounted()
            if union.process and self._home in Path(os.fsdecode(union.point)).parents
        ]
        left = linux.mounts_below(self._home)
        for point in left:
            linux.umount(point, linux.MNT_DETACH)
        ended = [has_ended(end) for end in ends]
        assert all(ended), "a daemon still ran after its mount was gone"
        assert left == []


def make_root(root: Path, programs: Iterable[str]) -> None:
    """A root directory with these programs of the machine and the libraries that they need."""
    for name in _MERGED:
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    files = {which(program) for program in programs}
    needed = subprocess.run(["ldd", *files], capture_output=True, text=True, check=True).stdout
    for file in {*files, *re.findall(r"\s(/\S+) \(0x", needed)}:
        copy = root / file.lstrip("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)


def which(program: str) -> str:
    """The path of a program, which must be there."""
    path = shutil.which(program)
    assert path, f"{program} is not installed"
    return path
