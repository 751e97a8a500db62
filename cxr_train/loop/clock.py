"""What training steps cost; compilation, evaluation and saving are left out."""

import dataclasses
import math

import numpy as np

from cxr_train.engine.multi_step import StepRecords


@dataclasses.dataclass
class Clock:
    """The host calls of an epoch or of a run.

    Attributes:
      examples: training images of the timed calls.
      seconds: how long these calls lasted on the host, what the host did between their steps included.
      waited: seconds of it in which a step waited for its batch.
      flops: floating-point operations of the timed calls.
      compile_seconds: duration of the first call of the process, and of the first after layers were
        unfrozen: one step that is traced and compiled first; it is not timed otherwise.
    """

    examples: float = 0.0
    seconds: float = 0.0
    waited: float = 0.0
    flops: float = 0.0
    compile_seconds: float = 0.0
    _steps: list[np.ndarray] = dataclasses.field(default_factory=list)

    def add(self, records: StepRecords, seconds: float, flops_per_image: float) -> None:
        """Enters a host call that lasted `seconds`; an image costs more once layers are unfrozen."""
        images = records.examples.sum()
        self.examples += images
        self.flops += images * flops_per_image
        self.seconds += seconds
        self.waited += records.waited.sum()
        self._steps.append(records.seconds)

    @property
    def images_per_second(self) -> float:
        """Training images a second; NaN before the first timed step."""
        return self.examples / self.seconds if self.seconds else math.nan

    @property
    def input_wait_share(self) -> float:
        """Share of the time in which a step waited for its batch, in [0, 1]; NaN before the first."""
        return self.waited / self.seconds if self.seconds else math.nan

    @property
    def step_seconds(self) -> np.ndarray:
        """float64 [N], the duration of every timed step by the clock in the graph, see `several_steps`."""
        return np.concatenate(self._steps) if self._steps else np.zeros(0)
