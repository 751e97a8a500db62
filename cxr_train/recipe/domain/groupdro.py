"""GroupDRO: the worse a source's loss, the more it weighs (Sagawa et al., 2020).

After each step, q_d <- q_d exp(eta L_d) / Z with the losses of its global batch; the next step minimises
sum_d q_d L_d. The published order is to move q first, which would need the losses of all replicas and
micro-batches before the first gradient: here q is one step older, the same on any number of them. A source
without any label in the batch has no loss: its q stays as it is, and the others share the rest.
"""

import tensorflow as tf

from cxr_train.recipe.domain.method import BalancedSources, DomainMethod
from cxr_train.recipe.loss import FindingsObjective, Objective


def moved(weights: tf.Tensor, losses: tf.Tensor, step: float) -> tf.Tensor:
    """Return the weights [D] after a step of mirror ascent on losses [D].

    A loss that is NaN is of a source that is not there: its weight stays, and so does the sum of the others.
    """
    there = tf.logical_not(tf.math.is_nan(losses))
    highest = tf.reduce_max(tf.where(there, losses, losses.dtype.min))
    grown = tf.where(there, weights * tf.exp(step * (losses - highest)), 0.0)
    mass = 1 - tf.reduce_sum(tf.where(there, 0.0, weights))
    return tf.where(there, grown * mass / tf.reduce_sum(grown), weights)


class GroupDro(DomainMethod):
    """GroupDRO.

    Args:
      sources, objective: see `DomainMethod`.
      strength: eta, the step of the weights.

    Attributes:
      q: float32 [D], the weights of the sources.
    """

    learns_weights = True
    reweighs = True

    def __init__(
        self, sources: BalancedSources, objective: Objective | FindingsObjective, strength: float
    ) -> None:
        super().__init__(sources, objective)
        self._strength = strength
        self.q = tf.Variable(
            super().weights(), trainable=False, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA
        )

    @property
    def state(self) -> list[tf.Variable]:
        """Its weights."""
        return [self.q]

    def weights(self) -> tf.Tensor:
        """Return q."""
        return self.q.read_value()

    def move(self, losses: tf.Tensor, applied: tf.Tensor) -> None:
        """Move the weights, unless the step was not applied."""
        self.q.assign(tf.where(applied, moved(self.q, losses, self._strength), self.q))
