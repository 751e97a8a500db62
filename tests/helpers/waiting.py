"""Waiting for what real processes do, never for a time in which they should have done it."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

# Only ends a test that would hang: many times what a slow and busy machine needs.
SECONDS = 600


def wait_until(reached: Callable[[], bool], *processes: subprocess.Popen) -> None:
    """Returns when `reached()`; fails as soon as one of `processes` has ended without it, or time is up."""
    deadline = time.monotonic() + SECONDS
    while not reached():
        ended = [process for process in processes if process.poll() is not None]
        assert not ended or reached(), f"it ended with exit code {ended[0].returncode}: {ended[0].args}"
        assert time.monotonic() < deadline, f"not reached in {SECONDS} s"
        time.sleep(0.005)


def children_of(process: subprocess.Popen) -> list[int]:
    """The process ids of its children."""
    tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
    return [int(pid) for task in tasks for pid in task.read_text().split()]


def is_running(pid: int) -> bool:
    """Whether a process is there and has not ended; one that nobody has waited for has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except FileNotFoundError:
        return False
