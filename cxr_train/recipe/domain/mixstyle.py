"""MixStyle: in some steps, images exchange a part of their style (Zhou et al., "MixStyle", 2021).

After an early stage, x -> sig_mix (x - mu) / sig + mu_mix: mean and deviation of each image and channel,
which are taken for constants, are mixed with those of another image of the part, by a share of
Beta(0.1, 0.1).
"""

import numpy as np
import tensorflow as tf

from cxr_train.recipe.domain.method import BalancedSources, DomainMethod
from cxr_train.recipe.loss import FindingsObjective, Objective

ALPHA = 0.1
_EPSILON = 1e-6
_QUANTILES = 1024


def mixed(maps: tf.Tensor, partner: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
    """Return feature maps of which each has some of its partner's style.

    Args:
      maps: float [B, h, w, C].
      partner: int32 [B], the row of each one's partner.
      share: float32 [B] in [0, 1], of the own style.

    Returns:
      As `maps`, in their dtype; computed in float32.
    """
    values = tf.cast(maps, tf.float32)
    mean, variance = tf.nn.moments(values, axes=[1, 2], keepdims=True)
    mean, deviation = tf.stop_gradient(mean), tf.stop_gradient(tf.sqrt(variance + _EPSILON))
    own = share[:, None, None, None]
    mean_mix, deviation_mix = (own * one + (1 - own) * tf.gather(one, partner) for one in (mean, deviation))
    return tf.cast((values - mean) / deviation * deviation_mix + mean_mix, maps.dtype)


def beta_quantiles(alpha: float = ALPHA, count: int = _QUANTILES) -> np.ndarray:
    """Return values that are equally likely under Beta(alpha, alpha): float32 [count], ascending.

    XLA draws no such numbers. The density of the log odds t is s(t)^alpha s(-t)^alpha, s the logistic
    function.
    """
    odds = np.linspace(-15 / alpha, 15 / alpha, 20001)
    density = np.exp(-alpha * (np.logaddexp(0, odds) + np.logaddexp(0, -odds)))
    below = np.cumsum(density) - density / 2
    middle = (np.arange(count) + 0.5) / count
    return (1 / (1 + np.exp(-np.interp(middle, below / density.sum(), odds)))).astype(np.float32)


class MixStyle(DomainMethod):
    """MixStyle.

    Args:
      sources, objective: see `DomainMethod`.
      strength: share of the steps that mix.
    """

    mixes_early = True

    def __init__(
        self, sources: BalancedSources, objective: Objective | FindingsObjective, strength: float
    ) -> None:
        super().__init__(sources, objective)
        self._strength = strength
        self._shares = beta_quantiles()

    def draw(self, seed: int, step: tf.Tensor, batch: int) -> tf.Tensor:
        """Draw float32 [batch, 3] in [0, 1): the order, the share, and the coin, the same for all."""
        # A GPU's generator reads its key on the host. The augmentation's keys are those from 0 on.
        with tf.device("/cpu:0"):
            key = tf.stack([tf.constant(seed, tf.int64), -1 - tf.cast(step, tf.int64)])
        drawn = tf.random.stateless_uniform([2 * batch + 1], key, alg="philox")
        of_images = tf.reshape(drawn[1:], [batch, 2])
        return tf.concat([of_images, tf.fill([batch, 1], drawn[0])], axis=1)

    def mix(self, maps: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        """Mix the maps [B, h, w, C] of a part of a batch as its `draws`, float32 [B, 3], say."""
        place = tf.cast(draws[:, 1] * len(self._shares), tf.int32)
        share = tf.gather(tf.constant(self._shares), tf.minimum(place, len(self._shares) - 1))
        changed = mixed(maps, tf.argsort(draws[:, 0]), share)
        return tf.where(draws[0, 2] < self._strength, changed, maps)
