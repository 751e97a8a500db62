"""What binds a process that `multiprocessing` has started to the one that started it.

Such a child holds one end of a pipe whose other end nobody but its parent holds. Whatever ends the parent,
SIGKILL as well, ends the pipe, and a thread of the child sees it as soon as it has the interpreter lock. An
id of a process may be another's by now, and the kernel's own signal (PR_SET_PDEATHSIG) comes as soon as the
thread that started the child has ended.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator

PATIENCE_SECONDS = 10.0
"""How much longer than its parent a worker waits before it ends itself, see `ends_after`."""

_LONGEST_SECONDS = 1e8  # more than a timer takes is an error


def begin_worker() -> None:
    """Make this process end with its parent, unless C code holds the interpreter lock then (`ends_after`);
    call it first in a child process.

    Without it, a worker of a killed parent waits for its next task for ever. It also ignores Ctrl-C, which
    goes to the whole process group: the parent decides what becomes of its workers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="end with parent", daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "this process was not started by multiprocessing"
    parent.join()
    os._exit(1)


@contextlib.contextmanager
def ends_after(seconds: float) -> Iterator[None]:
    """End this process by SIGALRM where a block takes longer, for the main thread of a worker.

    A parent that lives ends a slow worker itself. This is for a parent that was killed while C code holds the
    interpreter lock: no thread runs then, so `begin_worker` cannot see it, but the kernel's timer still ends
    the process.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, min(seconds, _LONGEST_SECONDS))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


WORKER_ENVIRONMENT = {
    # One core is one worker: threads inside of it would only fight.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # Every image needs the same few buffers of a megabyte. Left to itself glibc gives them back to
    # the system and takes them again, page fault by page fault: a tenth of the whole time.
    "MALLOC_MMAP_THRESHOLD_": str(256 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(512 << 20),
    "MALLOC_TOP_PAD_": str(64 << 20),
}
"""What a process that decodes images reads at its start."""


def cause_of_end(code: int) -> str:
    """Return how a process ended: "signal SIGSEGV" or "exit code 3".

    Args:
      code: as `multiprocessing` and `subprocess` give it, negative for a signal.
    """
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def parent_lives() -> bool:
    """Return whether the process that started this one is there; True where it was not multiprocessing.

    For a worker that has to tidy up, and must not finish what the next run does again.
    """
    parent = multiprocessing.parent_process()
    return parent is None or parent.is_alive()
