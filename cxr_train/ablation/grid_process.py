"""Running the runs of a grid, one process at a time: a crash ends one run, and memory is given back."""

import contextlib
import fcntl
import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Iterator
from types import FrameType

from cxr_train.runs.layout import GridLayout

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def locked(directory: pathlib.Path) -> Iterator[int]:
    """Waits until no other process works in `directory`, and keeps others out.

    A run inherits the lock: where its grid was killed, it holds the lock until it has ended too.

    Yields:
      The file descriptor to pass on.
    """
    descriptor = os.open(GridLayout(directory).lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        told = False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    holder = os.pread(descriptor, 1000, 0).decode()
                    print(f"waits for {holder or 'another process'}, at work in {directory}", flush=True)
                told = True
                time.sleep(1)
        yield descriptor
    finally:
        os.close(descriptor)


class Runner:
    """Runs one process after the other, and passes SIGTERM and SIGINT on to the one at work.

    Args:
      lock: what `locked` gave.

    Attributes:
      stopped: whether such a signal came.
    """

    def __init__(self, lock: int) -> None:
        self._lock = lock
        self._process: subprocess.Popen[bytes] | None = None
        self.stopped = False

    @contextlib.contextmanager
    def listening(self) -> Iterator["Runner"]:
        """Listens for signals while the context is open."""
        handlers = {number: signal.signal(number, self._pass_on) for number in _SIGNALS}
        try:
            yield self
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def run(self, command: list[str]) -> int:
        """Runs a command, which writes where this process does, and returns its exit code."""
        # Inherited signal masks aside, a terminal's Ctrl-C reaches both; the run takes two
        # signals within a second for one.
        self._process = subprocess.Popen(command, pass_fds=[self._lock])
        holder = f"process {os.getpid()} or its run, process {self._process.pid}"
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, holder.encode(), 0)
        if self.stopped:
            self._process.terminate()  # the signal came while it was started
        code = self._process.wait()
        self._process = None
        return code

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self.stopped = True
        if self._process is not None:
            self._process.send_signal(number)


def exit_reason(code: int) -> str:
    """What an exit code other than 0 says, as of `subprocess.Popen.wait`."""
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"killed by {name}" + (" (out of memory?)" if -code == signal.SIGKILL else "")
