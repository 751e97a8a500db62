"""Commands that a command runs in a directory, one process after the other; signals are passed on to them."""

import contextlib
import signal
import subprocess
from collections.abc import Iterator
from types import FrameType
from typing import Self

from cxr_data.core.chatter import unfiltered
from cxr_data.core.folder_lock import name_holder, this_process

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_AWAITED = (*_SIGNALS, signal.SIGCHLD)
_SENT_BY_KERNEL = 0x80  # SI_KERNEL: by the terminal, to all processes in its foreground
# SIGCHLD ends the wait at once, unless a thread of this process was given it.
_SECONDS_BETWEEN_LOOKS = 0.5


class ChildCommands:
    """Runs one process after the other, and passes SIGTERM and SIGINT on to the one at work.

    Ctrl-C on a terminal reaches the child by itself, since it is in the same process group. It is not sent a
    second time.

    Args:
      lock: what `folder_lock.locked` gave.

    Attributes:
      stopped: number of such a signal that came; 0 for none.
    """

    def __init__(self, lock: int) -> None:
        self._lock = lock
        self._process: subprocess.Popen[bytes] | None = None
        self.stopped = 0

    @contextlib.contextmanager
    def listening(self) -> Iterator[Self]:
        """Listen for signals while the context is open."""
        handlers = {number: signal.signal(number, self._pass_on) for number in _SIGNALS}
        try:
            yield self
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def run(self, command: list[str]) -> int:
        """Run a command, which writes where this process does, and return its exit code."""
        process = subprocess.Popen(command, pass_fds=[self._lock], **unfiltered())
        name_holder(self._lock, f"{this_process()} or its run, process {process.pid}")
        # A handler cannot know who sent a signal. Signals that are held back say it when they are fetched.
        # They are held back only now, for the child would inherit that.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
        try:
            if self.stopped:
                process.terminate()  # the signal came while it was started
            self._process = process
            while process.poll() is None:
                came = signal.sigtimedwait(_AWAITED, _SECONDS_BETWEEN_LOOKS)
                if came is not None and came.si_signo in _SIGNALS:
                    self.stopped = came.si_signo
                    if came.si_code != _SENT_BY_KERNEL:
                        process.send_signal(came.si_signo)
        finally:
            self._process = None
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return process.returncode

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal that came between two commands, or to another thread of this process."""
        self.stopped = number
        if self._process is not None:
            self._process.send_signal(number)


def exit_reason(code: int) -> str:
    """Return what an exit code other than 0 says, as of `subprocess.Popen.wait`."""
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"killed by {name}" + (" (out of memory?)" if -code == signal.SIGKILL else "")
