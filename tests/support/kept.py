"""What takes minutes to make and is kept for the next run."""

import contextlib
import fcntl
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Kept:
    """A directory of what is kept. say: is told what is being made."""

    data: Path
    say: Callable[[str], None]

    def once(self, name: str, make: Callable[[Path], object]) -> Path:
        """The directory *name* of what is kept; *make* fills it if it is not there."""
        made = self.data / name
        if not made.exists():
            self.say(f"making {name}")
            making = self.data / f"{name}.part"
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir()
            make(making)
            making.rename(made)
        return made

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else makes anything there meanwhile."""
        self.data.mkdir(parents=True, exist_ok=True)
        with (self.data / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
