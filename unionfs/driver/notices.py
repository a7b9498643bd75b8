"""What the user is told that is no error."""

from __future__ import annotations

import os
import sys

from unionfs.model import printable


def tell(line: str) -> None:
    """Show the user a line that is not an error."""
    print(f"unionmount: {printable(line)}", file=sys.stderr)


def in_use_line(point: bytes) -> str:
    """What the user has to know of an unmount that found the mount in use."""
    return f"{os.fsdecode(point)} is in use: it is detached now, and unmounted once nobody uses it"
