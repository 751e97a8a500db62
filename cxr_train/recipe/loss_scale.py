"""Dynamic loss scaling for float16, right on any number of replicas.

float16 gradients below 6e-8 vanish and above 65,504 overflow. The loss is scaled
up before the backward pass and the gradients down after it; when a scaled gradient
overflows, the step is skipped and the scale halved, and after `growth_steps` good
steps in a row it is doubled (Micikevicius et al., "Mixed Precision Training", 2018).

Keras' LossScaleOptimizer asks replica 0 whether the gradients are finite before
they are reduced, so that an overflow elsewhere corrupts the weights. Here the check
comes after the reduction, where all replicas hold the same numbers.
"""

from collections.abc import Sequence

import tensorflow as tf


class LossScale(tf.Module):
    """The scale and its schedule. bfloat16 and float32 need none: `LossScale(1.0, dynamic=False)`.

    Attributes:
      scale: float32 [], what the loss is multiplied by.
      good_steps: int64 [], finite steps since the scale last changed.
      skipped_steps: int64 [], steps that were not applied because a gradient was not finite.
    """

    def __init__(self, initial: float = 2.0**15, *, dynamic: bool = True, growth_steps: int = 2000) -> None:
        super().__init__(name="loss_scale")
        self.dynamic = dynamic
        self._growth_steps = growth_steps
        aggregation = tf.VariableAggregation.ONLY_FIRST_REPLICA
        self.scale = tf.Variable(initial, trainable=False, dtype=tf.float32, aggregation=aggregation)
        self.good_steps = tf.Variable(0, trainable=False, dtype=tf.int64, aggregation=aggregation)
        self.skipped_steps = tf.Variable(0, trainable=False, dtype=tf.int64, aggregation=aggregation)

    @classmethod
    def for_policy(cls, policy: str) -> "LossScale":
        """Return a dynamic scale for `mixed_float16`, the constant 1 for the other policies."""
        return cls() if policy == "mixed_float16" else cls(1.0, dynamic=False)

    def unscale(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Divide reduced gradients by the scale."""
        return [gradient / self.scale for gradient in gradients] if self.dynamic else list(gradients)

    def update(self, finite: tf.Tensor, counts: tf.Tensor | bool = True) -> None:
        """Move the scale after a step whose reduced gradients were `finite`, if it `counts` (bool [])."""
        self.skipped_steps.assign_add(tf.cast(tf.logical_and(tf.logical_not(finite), counts), tf.int64))
        if not self.dynamic:
            return
        good_steps = tf.where(finite, self.good_steps + 1, tf.zeros([], tf.int64))
        grow = good_steps >= self._growth_steps
        factor = tf.where(finite, tf.where(grow, 2.0, 1.0), 0.5)
        # Neither a scale of 0 nor of inf could ever recover.
        grown = tf.clip_by_value(self.scale * factor, 1.0, 2.0**24)
        self.scale.assign(tf.where(counts, grown, self.scale))
        good_steps = tf.where(grow, tf.zeros([], tf.int64), good_steps)
        self.good_steps.assign(tf.where(counts, good_steps, self.good_steps))


def all_finite(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Return bool []: no tensor holds an inf or a NaN."""
    return tf.reduce_all(tf.stack([tf.reduce_all(tf.math.is_finite(tensor)) for tensor in tensors]))
