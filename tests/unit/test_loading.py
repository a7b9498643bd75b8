"""The view of the root that libraries are loaded from."""

import subprocess
import sys

# In a process of its own, whose root it changes.
_SCRIPT = """
import os, threading
from unionfs.driver.loading import as_kept, keep_root

asked, answered, seen = threading.Event(), threading.Event(), []

def other():
    asked.wait()
    seen.append(os.path.exists("/proc/self"))
    answered.set()

thread = threading.Thread(target=other)
thread.start()
root = keep_root(["unionfs"])
assert root is not None
with as_kept(root):
    seen.append(os.path.exists("/proc/self"))
    asked.set()
    answered.wait()
thread.join()
seen.append(os.path.exists("/proc/self"))
print(seen)
"""


def test_it_is_for_the_thread_that_loads_alone() -> None:
    """What is mounted in the root is not in it, and other threads need /proc meanwhile."""
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("[False, True, True]\n", "")
