"""SQLite on the mount: many processes, then a crash in the middle of a transaction."""

from pathlib import Path

import pytest

from tests.real import bank
from tests.real.conftest import MountAbove
from tests.real.root import run
from tests.support.mounts import Mount, three_times

PROGRAM = Path(bank.__file__)
DATABASE = "/srv/bank.sqlite"
STATE = "PRAGMA integrity_check; SELECT sum(balance) FROM account; SELECT count(*) FROM transfer"
WRITERS = 4
TRANSFERS = 60


@pytest.fixture(params=["wal", "delete"])
def root(mount: MountAbove, tmp_path: Path, request: pytest.FixtureRequest) -> Mount:
    """A root with a bank in its topmost lower layer."""
    layer = tmp_path / "bank"
    (layer / "srv").mkdir(parents=True)
    bank.create(str(layer / DATABASE.lstrip("/")), request.param)
    return mount(layer)


def state(root: Mount) -> list[str]:
    """What SQLite says of its files, the money in the bank, and the number of transfers."""
    return run(root, "sqlite3", DATABASE, STATE).splitlines()


def test_no_transfer_is_lost_among_many_processes(root: Mount) -> None:
    load = ["load", DATABASE, str(WRITERS), "2", str(TRANSFERS)]
    run(root, "python3", "-", *load, script=PROGRAM.read_text())
    for when in three_times(root):
        money = bank.ACCOUNTS * bank.OPENING_BALANCE
        assert state(root) == ["ok", str(money), str(WRITERS * TRANSFERS)], when


def test_a_transaction_that_was_killed_leaves_no_trace(root: Mount) -> None:
    before = state(root)
    crash = f"python3 - crash {DATABASE} || test $? = 137"  # killed, which pid 1 can't be
    run(root, "sh", "-c", crash, script=PROGRAM.read_text())
    logs = [root.path / f"srv/bank.sqlite-{kind}" for kind in ("journal", "wal")]
    assert any(log.exists() and log.stat().st_size > 0 for log in logs)
    root.remount()
    for when in three_times(root):
        assert state(root) == before, when
