"""Stopping on request: a signal asks, the loop answers between two host calls.

While TensorFlow compiles or computes, the main thread is not in Python and runs no signal
handler, sometimes for minutes. So the signal is passed on through a file descriptor, which the
C half of Python's handler writes to at once, to a thread that waits for it.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)

# `timeout` signals its child and then the child's whole process group; a shell may too.
_SAME_REQUEST_SECONDS = 1.0


class Stopped(Exception):
    """A run that was asked to stop has come to a place where it can."""


class StopRequest:
    """Whether SIGTERM or SIGINT came.

    A second one, a second or more after the first, ends the process at once with exit code 1.

    Args:
      last_words: what is said then: where the last saved state is.
      agree: makes one answer of those of all workers of a cluster, which must stop at the same place.
    """

    def __init__(
        self,
        last_words: Callable[[], str] = lambda: "ended at once",
        agree: Callable[[bool], bool] = lambda asked: asked,
    ) -> None:
        self._last_words = last_words
        self._agree = agree
        self._asked = 0.0
        self.signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def check(self) -> None:
        """Raise Stopped if a stop was asked for, of any worker; all of them must ask at the same point."""
        if self._agree(bool(self)):
            raise Stopped

    @contextlib.contextmanager
    def listening(self) -> Iterator["StopRequest"]:
        """Listen while the context is open, and restores the handlers found."""
        heard, sender = socket.socketpair()
        sender.setblocking(False)
        listener = threading.Thread(target=self._listen, args=(heard,), daemon=True)
        listener.start()
        handlers = {number: signal.signal(number, _ignore) for number in _SIGNALS}
        descriptor = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
        try:
            yield self
        finally:
            signal.set_wakeup_fd(descriptor)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            sender.close()
            listener.join()
            heard.close()

    def _listen(self, heard: socket.socket) -> None:
        while numbers := heard.recv(16):
            for number in numbers:
                if number in _SIGNALS:
                    self._receive(number)

    def _receive(self, number: int) -> None:
        name = signal.Signals(number).name
        if not self:
            self.signal, self._asked = number, time.monotonic()
            _say(f"{name}: stops after this step and saves; a second signal ends the run at once")
        elif time.monotonic() - self._asked >= _SAME_REQUEST_SECONDS:
            _say(f"second {name}: {self._last_words()}")
            os._exit(1)


def _ignore(number: int, frame: FrameType | None) -> None:
    """Do nothing: Python's half of the handler has nothing to do."""


def _say(line: str) -> None:
    """Print on a line of its own, below the progress bar."""
    sys.stdout.flush()
    print(f"\n{line}", file=sys.stderr, flush=True)
