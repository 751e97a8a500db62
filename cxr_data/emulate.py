"""An emulated accelerator: proves what the input can feed without having the device.

As in MLPerf Storage, a training step is a sleep of its length, and the accelerator
utilisation (AU) is the share of the time in which the device would have computed:

    AU = steps x step time / elapsed time

It leaves out the start of the first epoch, until the first batch is there.
Source: MLPerf Storage benchmark rules, "accelerator utilization"; there 0.90 is a pass.
"""

import dataclasses
import time
from collections.abc import Iterable
from typing import Any

from cxr_data.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Utilisation:
    """What an emulated run measured.

    Attributes:
      steps: batches consumed after the first.
      images: in these batches.
      step_seconds: emulated duration of a step.
      seconds: elapsed, from the first batch on.
      waited: seconds of these in which the next batch was not there yet.
    """

    steps: int
    images: int
    step_seconds: float
    seconds: float
    waited: float

    @property
    def accelerator_utilisation(self) -> float:
        """AU in [0, 1]."""
        return self.steps * self.step_seconds / self.seconds

    @property
    def images_per_second(self) -> float:
        """Images that were consumed a second."""
        return self.images / self.seconds

    def __str__(self) -> str:
        return (
            f"accelerator utilisation {self.accelerator_utilisation:.1%} at {1e3 * self.step_seconds:.1f} ms "
            f"a step: {self.images_per_second:.0f} images/s, input wait {self.waited / self.seconds:.1%}"
        )


def step_seconds(step_ms: float | None, images_per_second: float | None, batch_size: int) -> float | None:
    """The emulated step time from the two flags that can give it; None if neither does.

    Raises:
      UsageError: both are given, or one is not above 0.
    """
    if step_ms is not None and images_per_second is not None:
        raise UsageError("--emulate_step_ms and --emulate_images_per_second: give one of them")
    for flag, value in (("emulate_step_ms", step_ms), ("emulate_images_per_second", images_per_second)):
        if value is not None and value <= 0:
            raise UsageError(f"--{flag}={value}: must be above 0")
    if step_ms is not None:
        return step_ms / 1e3
    return None if images_per_second is None else batch_size / images_per_second


def emulate(batches: Iterable[dict[str, Any]], *, batch_size: int, step_seconds: float) -> Utilisation:
    """Consumes batches at the pace of the emulated accelerator.

    Args:
      batches: of one or several epochs.
      batch_size: images in a batch.
      step_seconds: how long the device would compute on one.

    Raises:
      UsageError: there are fewer than two batches.
    """
    begun = None
    steps = 0
    waited = 0.0
    asked = time.perf_counter()
    for _ in batches:
        now = time.perf_counter()
        if begun is None:
            begun = now
        else:
            waited += now - asked
            steps += 1
        time.sleep(step_seconds)
        asked = time.perf_counter()
    if begun is None or not steps:
        raise UsageError("--emulate_*: needs at least two batches; lower --batch_size or raise --epochs")
    # The first batch's own step lies inside of the elapsed time too.
    seconds = time.perf_counter() - begun
    return Utilisation(steps + 1, (steps + 1) * batch_size, step_seconds, seconds, waited)
