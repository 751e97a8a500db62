"""IRMv1: one factor of the logits shall be the best of each source (Arjovsky et al., 2019).

The penalty is mean_d (dL_d/dw)^2 at the factor w = 1, as DomainBed's: the product of the derivatives over
two halves of a source's examples, which is unbiased where no example is in both. The derivative has a closed
form, for an example of one class sum_k (p_k - y_k) z_k, so that no second tape is needed. Before
`warmup_steps` the penalty weighs 1, as there; then `strength`, and the optimizer begins as a new one.
"""

from collections.abc import Callable

import tensorflow as tf

from cxr_train.recipe.domain.method import BalancedSources, DomainMethod, Part
from cxr_train.recipe.loss import FindingsObjective, Objective


def halves(members: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Split the examples of each source into two halves, every second one: [B, D] each, 0 or 1."""
    odd = tf.math.floormod(tf.cumsum(members, exclusive=True), 2) * members
    return members - odd, odd


def penalty_of(slopes: tf.Tensor, labels: tf.Tensor, members: tf.Tensor) -> tf.Tensor:
    """Return the mean over the sources of the product of their halves' derivatives, [].

    Args:
      slopes: [B], the derivative of each example's loss by the factor.
      labels: [B], how many labels it is the sum over.
      members: [B, D], 0 or 1. A source of which a half has no label does not count.
    """
    means, there = [], tf.ones(members.shape[1], members.dtype)
    for half in halves(members):
        count = tf.linalg.matvec(half, labels, transpose_a=True)
        means.append(tf.math.divide_no_nan(tf.linalg.matvec(half, slopes, transpose_a=True), count))
        there *= tf.cast(count > 0, members.dtype)
    return tf.math.divide_no_nan(tf.reduce_sum(means[0] * means[1] * there), tf.reduce_sum(there))


class Irm(DomainMethod):
    """IRMv1.

    Args:
      sources, objective: see `DomainMethod`.
      strength: weight of the penalty after the warm-up.
      warmup_steps: before which it weighs 1.
    """

    needs_slopes = True

    def __init__(
        self,
        sources: BalancedSources,
        objective: Objective | FindingsObjective,
        strength: float,
        warmup_steps: int,
    ) -> None:
        super().__init__(sources, objective)
        self._strength = strength
        self._warmup_steps = warmup_steps
        # A function of the number of the step: no checkpoint needs it.
        self._of_step = strength if warmup_steps == 0 else 1.0
        self._weight = tf.Variable(
            self._of_step,
            trainable=False,
            dtype=tf.float32,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )

    def penalty(self, part: Part) -> tf.Tensor:
        """Return the penalty, at its present weight."""
        return self._weight * penalty_of(part.slopes, part.sums.labels, part.members)

    def begin_step(self, number: int, forget: Callable[[], None]) -> None:
        """Give the penalty its weight; at the end of the warm-up, let the optimizer forget."""
        weight = 1.0 if number < self._warmup_steps else self._strength
        if weight != self._of_step:
            self._weight.assign(weight)
            self._of_step = weight
        if number == self._warmup_steps and number:
            forget()
