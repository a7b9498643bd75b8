"""Which tests one process of pytest-xdist takes together (--dist loadgroup).

pytest-xdist's own groups are names that it appends to those of tests, where pytest does not keep
them any more.
"""

from pathlib import PurePath
from typing import Final

from xdist.scheduler import LoadScopeScheduling

_REAL: Final = PurePath("tests/real")
# They have one thing that takes long to make: what apt has installed on a mount.
_INSTALLED: Final = frozenset(
    ("test_apt.py", "test_database.py", "test_programs.py"),
)


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Gives one process all tests of a file in tests/real, or of those with what was installed."""

    def _split_scope(self, nodeid: str) -> str:
        file = PurePath(nodeid.partition("::")[0])
        if _REAL not in file.parents:
            return nodeid
        return "installed" if file.name in _INSTALLED else file.name
