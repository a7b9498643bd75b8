"""A Debian root on a mount: what the tests of this directory work in.

They run on the union alone, for they take long. With UNIONMOUNT_TEST_REAL=kernel in the environment
they run on the kernel's overlayfs instead, to see whether a test that fails asks too much.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Protocol

import pytest

from tests.real.debian import PACKAGES, debian
from tests.real.manifest import untouched
from tests.real.root import APT_INSTALL, run
from tests.support.launcher import Launcher
from tests.support.mounts import KernelMount, Mount, Mounts, UnionMount

OPTIONS = ("dev", "suid")


class MountAbove(Protocol):
    def __call__(self, *above: Path) -> Mount:
        """A mount of a root with the layers `above` on top and a new upper, until the test ends."""
        ...


@pytest.fixture(scope="session")
def implementation(launcher: Launcher) -> type[Mount]:
    return KernelMount if os.environ.get("UNIONMOUNT_TEST_REAL") == "kernel" else UnionMount


@pytest.fixture(scope="session")
def packed() -> Iterator[list[Path]]:
    """The layers that come from the distribution's archives."""
    if os.geteuid() != 0:
        pytest.skip("a real root needs root, for chroot, owners and devices")
    if not shutil.which("mmdebstrap"):
        pytest.skip("mmdebstrap is not installed, and only it makes a real root")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    made = debian(cache / "unionmount-tests")
    layers = [made.base, made.packages]
    try:
        with untouched(layers, contents=True):
            yield layers
    except AssertionError:
        shutil.rmtree(made.home)  # the next run starts from what was packed
        raise


@pytest.fixture(scope="session")
def installed(
    packed: list[Path],
    implementation: type[Mount],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Path]:
    """The layer that apt-get made on a mount: PACKAGES and all that they depend on."""
    with closing(Mounts(implementation, tmp_path_factory.mktemp("installed"))) as mounts:
        root = mounts(*packed, options=OPTIONS)
        run(root, "apt-get", "update")
        run(root, *APT_INSTALL, *PACKAGES)
        assert run(root, "dpkg", "--verify") == ""
        run(root, "apt-get", "clean")
    with untouched([root.changes], contents=True):
        yield root.changes


@contextmanager
def mounting(below: Sequence[Path], kind: type[Mount], directory: Path) -> Iterator[MountAbove]:
    """Mounts that end with the context, which fails if a lower layer was changed."""
    with ExitStack() as stack:
        stack.enter_context(untouched(below, contents=False))
        mounts = stack.enter_context(closing(Mounts(kind, directory)))

        def mount_above(*above: Path) -> Mount:
            stack.enter_context(untouched(above, contents=True))
            return mounts(*below, *above, options=OPTIONS)

        yield mount_above


@pytest.fixture
def mount(
    packed: list[Path], installed: Path, implementation: type[Mount], directory: Path
) -> Iterator[MountAbove]:
    with mounting([*packed, installed], implementation, directory) as mount_above:
        yield mount_above


@pytest.fixture
def mount_packed(
    packed: list[Path], implementation: type[Mount], directory: Path
) -> Iterator[MountAbove]:
    """As `mount`, without what is installed: half the size, for tests that read all of it."""
    with mounting(packed, implementation, directory) as mount_above:
        yield mount_above


@pytest.fixture
def root(mount: MountAbove) -> Mount:
    return mount()
