"""What all tests share: mounts that end with the test, and nothing left when they are done."""

import os
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from xdist.remote import Producer

from tests.support import driver, linux
from tests.support.filesystems import FileSystems
from tests.support.launcher import Launcher
from tests.support.mounts import KernelMount, Mount, Mounts, UnionMount
from tests.support.scheduling import Scheduling

_BASE = pytest.StashKey[Path]()
_RECORDS = Path("/run/unionmount")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--campaign",
        type=int,
        default=1,
        metavar="N",
        help="make the long campaigns (random work, crashes, faults, load) N times as long",
    )
    parser.addoption(
        "--driver",
        choices=("stock", "native"),
        default="stock",
        help="the driver of all unions (default: %(default)s)",
    )


@pytest.fixture(scope="session")
def campaign(pytestconfig: pytest.Config) -> int:
    """How many times its short form a campaign should be."""
    factor: int = pytestconfig.getoption("campaign")
    return factor


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "kernel_differs(reason): a rule that the kernel's overlayfs doesn't keep; fails if it does",
    )
    driver.chosen = config.option.driver
    os.umask(0o022)
    # A shell, or nohup, starts what runs in the background with these ignored, and commands would
    # inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    # Another process that copies the machine's mounts would keep those of a test in use. Records
    # of mounts go with them: to another namespace a dead mount's would be a leftover.
    linux.leave_mount_namespace()
    _RECORDS.mkdir(exist_ok=True)
    linux.mount("tmpfs", _RECORDS, "tmpfs")
    # With several workers, the first process makes the directory and gives each a part of it.
    if not hasattr(config, "workerinput") and not config.option.basetemp:
        base = Path(tempfile.mkdtemp(prefix="unionmount-test-"))
        # Other users' way to the mounts; their names can't be guessed.
        base.chmod(0o711)
        config.stash[_BASE] = base
        config.option.basetemp = base / "tests"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling | None:
    """Who gives the processes of pytest-xdist their tests."""
    return Scheduling(config, log) if config.getoption("dist") == "loadgroup" else None


def pytest_unconfigure(config: pytest.Config) -> None:
    base = config.stash.get(_BASE, None)
    if base is None:
        return
    for point in linux.mounts_below(base):
        linux.umount(point, linux.MNT_DETACH)
    shutil.rmtree(base)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell what the campaigns came to: their tests note figures by `record_property`."""
    figures: Counter[str] = Counter()
    for report in terminalreporter.getreports("passed"):
        figures.update(dict(report.user_properties))
    for name, number in figures.items():
        terminalreporter.write_line(f"{name}: {number}")


def _fail_if_skipped(report: pytest.CollectReport | pytest.TestReport) -> None:
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, but with CI set every test must run: {report.longrepr}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _fail_if_skipped(report)
    return report


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory of the test's own that other users can pass through."""
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_mode & 0o711 == 0o711:
            break
        path.chmod(0o711)
    return tmp_path


@pytest.fixture
def filesystems(directory: Path) -> Iterator[FileSystems]:
    """Makes file systems that end with the test, after the mounts on them."""
    made = FileSystems(directory)
    yield made
    made.close()


@pytest.fixture(scope="session")
def launcher() -> Iterator[Launcher]:
    """Starts unionmount many times in a short time."""
    with Launcher() as launcher:
        UnionMount.launcher = launcher
        yield launcher
        UnionMount.launcher = None


@pytest.fixture
def union(
    directory: Path, filesystems: FileSystems, launcher: Launcher
) -> Iterator[Mounts[UnionMount]]:
    """Mounts unions with unionmount: `union(base, *layers, upper=True)`."""
    # They lie on `filesystems`, so they end before these.
    mounts = Mounts(UnionMount, directory)
    yield mounts
    mounts.close()


@pytest.fixture
def kernel(directory: Path, filesystems: FileSystems) -> Iterator[Mounts[KernelMount]]:
    """Mounts unions with the kernel's overlayfs, in the way of `union`."""
    mounts = Mounts(KernelMount, directory)
    yield mounts
    mounts.close()


@pytest.fixture(params=["kernel", "union"])
def both(request: pytest.FixtureRequest) -> Mounts[Mount]:
    """`kernel` in one run of the test and `union` in another: the test proves itself first."""
    differs = request.node.get_closest_marker("kernel_differs")
    if differs and request.param == "kernel":
        request.applymarker(pytest.mark.xfail(reason=differs.args[0], strict=True))
    mounts: Mounts[Mount] = request.getfixturevalue(request.param)
    return mounts
