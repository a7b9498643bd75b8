"""What other threads are doing."""

from __future__ import annotations

import sys
import threading
import traceback
from pathlib import Path


def waits_for_results(thread: threading.Thread) -> bool:
    """Whether it waits for the result of a thread pool's work, so that a signal wakes it."""
    frame = sys._current_frames()[thread.ident or 0]
    if "result" not in {call.name for call in traceback.extract_stack(frame)}:
        return False
    # A signal that comes just before it sleeps in the kernel would not wake it.
    status = Path(f"/proc/self/task/{thread.native_id}/stat").read_text()
    return status.rpartition(") ")[2].startswith("S")
