"""Several training steps in one host call, and a record of each of them.

The clock is inside of the graph: a step begins where the one before ended, and ends when its
loss has arrived on the host and its update is done. So the record of a step is as honest as if
the host had called it alone.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from cxr_data.core.tensorflow_private import is_op_determinism_enabled

Batch = dict[str, tf.Tensor]


class Sums(NamedTuple):
    """Sums over the examples of a step, on the device.

    Attributes:
      loss: float32 [], of the per-example loss.
      examples: float32 [], of the weights: the number of examples.
      correct: float32 [], of the right predictions.
    """

    loss: tf.Tensor
    examples: tf.Tensor
    correct: tf.Tensor


class StepRecords(NamedTuple):
    """What the steps of a host call did, an entry a step.

    Attributes:
      loss, examples, correct: float64 [K], see `Sums`.
      waited: float64 [K], seconds in which the step waited for its batch; NaN under
        `--deterministic`.
      seconds: float64 [K], how long the step took, with the waiting; NaN as well.
    """

    loss: np.ndarray
    examples: np.ndarray
    correct: np.ndarray
    waited: np.ndarray
    seconds: np.ndarray


def take_steps(
    step: Callable[[Batch, tf.Tensor], Sums],
    iterator: tf.data.Iterator,
    first: tf.Tensor,
    end: tf.Tensor,
    *,
    updated: tf.Variable,
) -> tf.Tensor:
    """Take the steps `first` to `end - 1`, or fewer: it stops after the first whose loss is not finite.

    To be called inside of a `tf.function`.

    Args:
      step: trains on a batch; is told the number of the step, int64 [].
      iterator: over at least as many batches.
      first, end: int64 [].
      updated: a variable that every step updates together with the weights.

    Returns:
      float64 [K, 5], the columns of `StepRecords`.
    """
    rows = tf.TensorArray(
        tf.float64, size=tf.cast(end - first, tf.int32), element_shape=[len(StepRecords._fields)]
    )
    number = first
    finite = tf.constant(True)
    ended = _now(after=[])
    while tf.logical_and(number < end, finite):
        started = ended
        with tf.control_dependencies([started]):
            batch = next(iterator)
        arrived = _now(after=tf.nest.flatten(batch, expand_composites=True))
        with tf.control_dependencies([arrived]):
            sums = step(batch, number)
        # A GPU's kernels are only queued when their operations return; a copy to the host waits
        # for their results.
        with tf.device("/cpu:0"):
            values = tf.stack([tf.cast(value, tf.float64) for value in sums])
        ended = _now(after=[values, tf.identity(updated)])
        rows = rows.write(
            tf.cast(number - first, tf.int32),
            tf.concat([values, [arrived - started, ended - started]], axis=0),
        )
        finite = tf.math.is_finite(values[0])
        number += 1
    return rows.stack()[: number - first]


def _now(after: Sequence[tf.Tensor]) -> tf.Tensor:
    """Return float64 [], the time in seconds once `after` are computed, and not before.

    NaN where every operation must be deterministic: TensorFlow refuses to read a clock there.
    """
    if is_op_determinism_enabled():
        return tf.constant(float("nan"), tf.float64)
    with tf.control_dependencies(list(after)), tf.device("/cpu:0"):
        return tf.timestamp()
