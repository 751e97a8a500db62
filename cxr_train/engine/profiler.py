"""`--profile_steps=10:20`: a TensorBoard trace of some steps of a run."""

import contextlib
import logging
import pathlib
from collections.abc import Iterator

from cxr_data.core.errors import UsageError

logger = logging.getLogger(__name__)


def parse_steps(text: str, *, of: int | None = None) -> range:
    """Parse `10:20` to the steps 10 to 19 of a run, which are counted from 0; empty for no text.

    Args:
      of: how many steps the run has, where that is known.

    Raises:
      UsageError: it is not two whole numbers, the lower one first, or the run has none of these steps.
    """
    if not text:
        return range(0)
    first, _, end = text.partition(":")
    if not (first.isdecimal() and end.isdecimal() and int(first) < int(end)):
        raise UsageError(f"--profile_steps={text}: must be the first step and the end, such as 10:20")
    if of is not None and int(first) >= of:
        raise UsageError(f"--profile_steps={text}: the run has the steps 0 to {of - 1}")
    return range(int(first), int(end))


class StepProfiler:
    """Traces a range of the run's steps.

    Args:
      steps: which, counted from 0 at the first step of the first epoch.
      directory: of the TensorBoard logs.
      writes: whether this process writes a trace; otherwise it only shortens its calls as one that does.
    """

    def __init__(self, steps: range, directory: pathlib.Path, *, writes: bool = True) -> None:
        self._steps = steps
        self._directory = directory
        self._writes = writes
        self._first: int | None = None
        self._next = 0

    def is_past(self, step: int) -> bool:
        """Return whether there are steps to trace, and all of them are before `step`."""
        return 0 < self._steps.stop <= step

    def shorten(self, step: int, steps: int) -> int:
        """Return how many of `steps` steps the host call at `step` may take.

        A traced step is a call of its own, so that the trace shows where it begins and ends.
        """
        if step in self._steps:
            return 1
        return min(steps, self._steps.start - step) if step < self._steps.start else steps

    @contextlib.contextmanager
    def around(self, step: int) -> Iterator[None]:
        """Trace the host call at `step`, if it is one of the steps."""
        if step not in self._steps or not self._writes:
            yield
            return
        import tensorflow as tf  # here, as a report needs no more of this file than `parse_steps`

        if self._first is None:
            self._first = step
            tf.profiler.experimental.start(str(self._directory))
        with tf.profiler.experimental.Trace("train", step_num=step, _r=1):
            yield
        self._next = step + 1
        if self._next == self._steps.stop:
            self._finish()

    def __enter__(self) -> "StepProfiler":
        """Stand around an epoch: what comes after it is not traced."""
        return self

    def __exit__(self, *_: object) -> None:
        if self._first is not None:
            self._finish()

    def _finish(self) -> None:
        import tensorflow as tf

        tf.profiler.experimental.stop()
        logger.info("profile of steps %d:%d: %s/plugins/profile", self._first, self._next, self._directory)
        self._steps = range(0)
        self._first = None
