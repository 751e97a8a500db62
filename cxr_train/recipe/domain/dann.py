"""DANN: a discriminator learns to tell the source from the features, and the network to give it nothing.

Between the two stands a layer that hands features on and turns their gradient around (Ganin et al., 2016).
Its factor rises with the share p of the run that is done, as published:
strength * (2 / (1 + exp(-10 p)) - 1), so that a discriminator which has learned nothing yet disturbs nothing.
The loss of the discriminator is a mean over examples: neither replicas nor micro-batches change it.
"""

import keras
import tensorflow as tf

from cxr_train.recipe.domain.method import BalancedSources, DomainMethod, Part
from cxr_train.recipe.loss import FindingsObjective, Objective
from cxr_train.recipe.optimizers import Adam

_WIDTHS = (256, 256)
_MOMENTUM = 0.5
_STEEPNESS = 10.0


def ramp(progress: tf.Tensor) -> tf.Tensor:
    """Return the share of the strength that is in force, 0 to nearly 1, at a share of the run, both []."""
    return 2 / (1 + tf.exp(-_STEEPNESS * tf.clip_by_value(progress, 0.0, 1.0))) - 1


def reverse_gradient(features: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Return the features; their gradient is -factor times that of the result.

    Args:
      features: float of any shape.
      factor: of the same dtype, [].
    """

    @tf.custom_gradient
    def identity(values: tf.Tensor) -> tuple[tf.Tensor, object]:
        return tf.identity(values), lambda upstream: -factor * upstream

    return identity(features)


class Dann(DomainMethod):
    """DANN. The discriminator has two hidden layers of 256, and Adam at the head's first rate, beta_1 0.5.

    Args:
      sources, objective: see `DomainMethod`.
      strength: factor of the gradient that reaches the network, at the end of the run.
      features: their number.
      rate: the discriminator's learning rate, constant.
      steps: of the run, over which the factor rises; 0: it is `strength` from the first step on.
    """

    needs_features = True

    def __init__(
        self,
        sources: BalancedSources,
        objective: Objective | FindingsObjective,
        strength: float,
        *,
        features: int,
        rate: float,
        steps: int = 0,
    ) -> None:
        super().__init__(sources, objective)
        self._strength = strength
        self._steps = steps
        dense = [keras.layers.Dense(width, activation="relu", dtype="float32") for width in _WIDTHS]
        logits = keras.layers.Dense(len(sources.numbers), dtype="float32")
        self._discriminator = keras.Sequential([*dense, logits], name="discriminator")
        self._discriminator.build([None, features])
        self.trained = self._discriminator.trainable_variables
        self.optimizer = Adam(rate, beta_1=_MOMENTUM)
        self.optimizer.build(self.trained)

    def penalty(self, part: Part) -> tf.Tensor:
        """Return the discriminator's cross-entropy; the features' gradient comes reversed."""
        reversed_features = reverse_gradient(part.features, self._factor())
        logits = self._discriminator(reversed_features, training=True)
        losses = tf.nn.softmax_cross_entropy_with_logits(labels=part.members, logits=logits)
        return tf.reduce_mean(losses)

    def _factor(self) -> tf.Tensor:
        """Return the factor of this step; the discriminator's optimizer counts, and is in the checkpoint."""
        factor = tf.constant(self._strength)
        if not self._steps:
            return factor
        assert self.optimizer is not None
        done = tf.cast(self.optimizer.iterations.value, tf.float32)
        return factor * ramp(done / self._steps)
