"""A device that computes what the host has launched, one step after the other, while the host goes on.

Launches return at once. A copy, to it or from it, waits for all that was launched before it was asked for, as
TensorFlow's does on a GPU.
"""

import itertools
import math
import queue
import threading
import time
from collections.abc import Iterator

import numpy as np


class FakeDevice:
    """See above.

    Args:
      step_seconds: how long it computes on a batch.
      copy_seconds: how long the copy of a batch takes.
      bad: the steps whose loss is NaN.
    """

    def __init__(
        self, step_seconds: float = 0.0, copy_seconds: float = 0.0, bad: tuple[int, ...] = ()
    ) -> None:
        self.step_seconds = step_seconds
        self.copy_seconds = copy_seconds
        self.bad = bad
        self.launched: list[int] = []
        self.read_steps: list[int] = []
        self.idle = 0.0
        self._free_at = time.perf_counter()
        self._lock = threading.Lock()
        self._places = threading.Semaphore(0)

    def launch(self, batch: object, number: int) -> int:
        """Queue a step and return its number."""
        with self._lock:
            now = time.perf_counter()
            if self.launched:
                self.idle += max(now - self._free_at, 0.0)
            self._free_at = max(self._free_at, now) + self.step_seconds
            self.launched.append(number)
            # A batch that was taken leaves its place; that the next copy begins after the launch is the
            # worse case.
            self._places.release()
            return number

    def read(self, number: int) -> np.ndarray:
        """Wait for what was launched so far, and return the sums of a step."""
        with self._lock:
            ended = self._free_at
        _sleep_until(ended)
        self.read_steps.append(number)
        return np.array([math.nan if number in self.bad else 1.0, 8.0, 4.0])

    def copies(self, ahead: int) -> Iterator[int]:
        """Yield batches, of which `ahead` are copied to the device before they are asked for."""
        copied: queue.Queue[int] = queue.Queue()
        self._places = threading.Semaphore(ahead)

        def fill() -> None:
            for number in itertools.count():
                self._places.acquire()
                self.copy()
                copied.put(number)

        threading.Thread(target=fill, daemon=True).start()
        while True:
            yield copied.get()

    def copy(self) -> None:
        """Copy a batch to the device."""
        with self._lock:
            start = self._free_at
        _sleep_until(max(start, time.perf_counter()) + self.copy_seconds)


def _sleep_until(moment: float) -> None:
    time.sleep(max(moment - time.perf_counter(), 0))
