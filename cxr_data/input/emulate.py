"""An emulated accelerator: measures what the input can feed, without the device.

As in MLPerf Storage, a training step is a sleep of its length, and the accelerator
utilisation (AU) is the share of the time in which the device would have computed:

    AU = steps x step time / elapsed time

It leaves out the start, until the first batch is there. Source: MLPerf Storage benchmark
rules, "accelerator utilization"; there 0.90 is a pass.

Batches are taken and steps slept inside of one TensorFlow function, as the trainer takes
several steps in a host call: an accelerator does not wait for Python's interpreter lock.
"""

import dataclasses

import tensorflow as tf

from cxr_data.core.errors import UsageError
from cxr_data.core.tensorflow_private import sleep_before_each

_CALIBRATION_SLEEPS = 40
_CALIBRATION_SECONDS = 0.005


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
        """Return AU in [0, 1], but for the error of the clock."""
        return self.steps * self.step_seconds / self.seconds

    @property
    def images_per_second(self) -> float:
        """Return the images that were consumed a second."""
        return self.images / self.seconds

    def __str__(self) -> str:
        return (
            f"accelerator utilisation {self.accelerator_utilisation:.1%} at {1e3 * self.step_seconds:.1f} ms "
            f"a step: {self.images_per_second:.0f} images/s, input wait {self.waited / self.seconds:.1%}"
        )


def emulate_accelerator(batches: tf.data.Dataset, *, batch_size: int, step_seconds: float) -> Utilisation:
    """Consume all batches at the pace of the emulated accelerator.

    Args:
      batches: of one or several epochs, of known cardinality.
      batch_size: images in a batch.
      step_seconds: how long the device would compute on one.

    Raises:
      UsageError: there are fewer than two batches.
    """
    steps = len(batches) - 1
    if steps < 1:
        raise UsageError("--emulate_*: needs at least two batches; lower --batch_size or raise --epochs")
    # A sleep wakes up late; what it is late by is no part of the step.
    late = _seconds_of_sleeps(_CALIBRATION_SECONDS) - _CALIBRATION_SECONDS
    device = _Sleeper(max(step_seconds - late, 0))
    iterator = iter(batches)
    next(iterator)
    elapsed, waited = _consume(iterator, iter(device.dataset), tf.constant(steps))
    return Utilisation(steps, steps * batch_size, step_seconds, float(elapsed), float(waited))


class _Sleeper:
    """A dataset without end whose every element takes `seconds` to come."""

    def __init__(self, seconds: float) -> None:
        clock = tf.data.Dataset.range(1).repeat()
        options = tf.data.Options()
        # The device must not compute ahead of its batches.
        options.experimental_optimization.inject_prefetch = False
        self.dataset = (clock.apply(sleep_before_each(seconds)) if seconds else clock).with_options(options)


def _seconds_of_sleeps(seconds: float) -> float:
    """Return how long a sleep of `seconds` takes, on average."""
    clock = iter(_Sleeper(seconds).dataset)
    nothing = iter(tf.data.Dataset.range(1).repeat())
    elapsed, _ = _consume(nothing, clock, tf.constant(_CALIBRATION_SLEEPS))
    return float(elapsed) / _CALIBRATION_SLEEPS


@tf.function(reduce_retracing=True)
def _consume(
    batches: tf.data.Iterator, device: tf.data.Iterator, steps: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Take `steps` batches, a device step after each; return elapsed and waited seconds, float64 []."""
    begun = now = tf.timestamp()
    waited = tf.zeros([], tf.float64)
    for _ in tf.range(steps):
        with tf.control_dependencies([now]):
            batch = next(batches)
        with tf.control_dependencies(tf.nest.flatten(batch)):
            arrived = tf.timestamp()
        waited += arrived - now
        with tf.control_dependencies([arrived]):
            computed = next(device)
        with tf.control_dependencies([computed]):
            now = tf.timestamp()
    return now - begun, waited
