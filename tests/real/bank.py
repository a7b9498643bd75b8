"""A bank in SQLite, by which to see what concurrent transactions and crashes leave.

Run inside the root as `python3 - load DATABASE WRITERS READERS TRANSFERS`, it has readers audit
while writers move money; as `python3 - crash DATABASE`, it dies in the middle of a transaction.
"""

import os
import random
import select
import signal
import sqlite3
import sys
from collections.abc import Callable
from functools import partial

ACCOUNTS = 200
OPENING_BALANCE = 1000
MEMO = 2000  # bytes, so that the accounts fill a few hundred pages


def connect(database: str) -> sqlite3.Connection:
    return sqlite3.connect(database, timeout=60, isolation_level=None)


def create(database: str, journal: str) -> None:
    """Make the bank, in SQLite's journal mode `journal`."""
    bank = connect(database)
    bank.execute(f"PRAGMA journal_mode={journal}")
    bank.execute("BEGIN")
    bank.execute("CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER, memo BLOB)")
    bank.execute("CREATE TABLE transfer (writer INTEGER, amount INTEGER)")
    bank.execute("CREATE INDEX by_amount ON transfer (amount)")
    bank.executemany(
        f"INSERT INTO account VALUES (?, ?, randomblob({MEMO}))",
        [(account, OPENING_BALANCE) for account in range(ACCOUNTS)],
    )
    bank.execute("COMMIT")
    bank.close()


def transfer(database: str, writer: int, transfers: int) -> None:
    chance = random.Random(writer)
    bank = connect(database)
    move = f"UPDATE account SET balance = balance + ?, memo = randomblob({MEMO}) WHERE id = ?"
    for _ in range(transfers):
        source, target = chance.sample(range(ACCOUNTS), 2)
        amount = chance.randrange(OPENING_BALANCE)
        bank.execute("BEGIN IMMEDIATE")
        bank.execute(move, (-amount, source))
        bank.execute(move, (amount, target))
        bank.execute("INSERT INTO transfer VALUES (?, ?)", (writer, amount))
        bank.execute("COMMIT")
    bank.close()


def audit(bank: sqlite3.Connection) -> None:
    (total,) = bank.execute("SELECT sum(balance) FROM account").fetchone()
    assert total == ACCOUNTS * OPENING_BALANCE, total


def audit_until(end: int, database: str, ready: int) -> None:
    """Audit once, close `ready`, and go on until the other end of `end` is closed."""
    bank = connect(database)
    audit(bank)
    os.close(ready)
    while not select.select([end], [], [], 0)[0]:
        audit(bank)
    bank.close()


def spawn(task: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        task()
        os._exit(0)
    return child


def load(database: str, writers: int, readers: int, transfers: int) -> None:
    """Raises AssertionError when one of the processes failed."""
    end, working = os.pipe()
    wait, ready = os.pipe()

    def reader() -> None:
        os.close(working)
        audit_until(end, database, ready)

    children = [spawn(reader) for _ in range(readers)]
    os.close(ready)
    assert os.read(wait, 1) == b""  # every reader has the database open now
    children += [spawn(partial(transfer, database, w, transfers)) for w in range(writers)]
    os.close(working)
    failed = [child for child in children if os.waitpid(child, 0)[1] != 0]
    assert not failed


def crash(database: str) -> None:
    """Change every account, far beyond what the cache holds, and be killed before the commit."""
    bank = connect(database)
    bank.execute("PRAGMA cache_size=10")
    bank.execute("BEGIN IMMEDIATE")
    bank.execute(f"UPDATE account SET balance = 0, memo = randomblob({MEMO})")
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    if sys.argv[1] == "load":
        load(sys.argv[2], *map(int, sys.argv[3:]))
    else:
        crash(sys.argv[2])
