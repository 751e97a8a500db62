"""A device that computes what the host has launched, one step after the other, while the host goes on."""

import math
import threading
import time

import numpy as np


class FakeDevice:
    """Launches return at once; a copy to it waits, as TensorFlow's does, for what was launched before it.

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

    def launch(self, batch: object, number: int) -> tuple[int, float]:
        """Queue a step; return its number and when it will have ended."""
        with self._lock:
            now = time.perf_counter()
            if self.launched:
                self.idle += max(now - self._free_at, 0.0)
            self._free_at = max(self._free_at, now) + self.step_seconds
            self.launched.append(number)
            return number, self._free_at

    def read(self, step: tuple[int, float]) -> np.ndarray:
        """Wait for a step's end and return its sums."""
        number, ended = step
        _sleep_until(ended)
        self.read_steps.append(number)
        return np.array([math.nan if number in self.bad else 1.0, 8.0, 4.0])

    def copy(self) -> None:
        """Copy a batch to the device."""
        with self._lock:
            start = self._free_at
        _sleep_until(max(start, time.perf_counter()) + self.copy_seconds)


def _sleep_until(moment: float) -> None:
    time.sleep(max(moment - time.perf_counter(), 0))
