"""Deep CORAL: the features of all sources shall have the same means and covariances.

The penalty is the mean over pairs of sources of mean((mu_i - mu_j)^2) + mean((C_i - C_j)^2), the covariances
with n - 1, as DomainBed's (Sun and Saenko, "Deep CORAL", 2016, have no term of means).
"""

import tensorflow as tf

from cxr_train.recipe.domain.method import BalancedSources, DomainMethod, Part, pair_mean
from cxr_train.recipe.loss import FindingsObjective, Objective


def distances(features: tf.Tensor, members: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return how far the means, and how far the covariances, of each two sources are apart.

    mean((C_i - C_j)^2) is (<C_i, C_i> + <C_j, C_j> - 2 <C_i, C_j>) / F^2, and <C_i, C_j> the sum of the
    squared inner products of their centred features: B^2 F operations in the place of D B F^2, and no
    [F, F] is stored.

    Features are centred by sums, before any product: a product of float32 may be computed in TF32 on a GPU,
    which has 11 bits, and would lose what is small beside a large mean. What remains in TF32 are the inner
    products of centred features, and with them the covariance term to about 0.1 % of the covariances' norm.

    Args:
      features: float [B, F].
      members: [B, D], 0 or 1, of the same dtype.

    Returns:
      Two tensors [D, D], means over the features and over the F^2 entries; 0 where a source has fewer than 1
      or 2 examples.
    """
    width = tf.cast(tf.shape(features)[1], features.dtype)
    counts = tf.reduce_sum(members, axis=0)
    features -= tf.reduce_mean(features, axis=0)
    of_sources = tf.split(members, members.shape[1], axis=1)
    sums = tf.stack([tf.reduce_sum(features * member, axis=0) for member in of_sources])
    means = tf.math.divide_no_nan(sums, counts[:, None])
    of_means = tf.reduce_mean(tf.square(means[:, None] - means[None, :]), axis=2)
    pairs = zip(of_sources, tf.unstack(means, num=len(of_sources)), strict=True)
    centred = tf.add_n([(features - mean) * member for member, mean in pairs])
    one_less = tf.linalg.matvec(members, counts - 1)
    products = tf.square(tf.matmul(centred, centred, transpose_b=True))
    products = tf.math.divide_no_nan(products, one_less[:, None] * one_less[None, :])
    inner = tf.matmul(members, tf.matmul(products, members), transpose_a=True)
    squares = tf.linalg.diag_part(inner)
    return of_means, (squares[:, None] + squares[None, :] - 2 * inner) / width**2


class Coral(DomainMethod):
    """Deep CORAL.

    Args:
      sources, objective: see `DomainMethod`.
      strength: weight of the penalty.
    """

    needs_features = True

    def __init__(
        self, sources: BalancedSources, objective: Objective | FindingsObjective, strength: float
    ) -> None:
        super().__init__(sources, objective)
        self._strength = strength

    def penalty(self, part: Part) -> tf.Tensor:
        """Return the penalty over the sources that have at least two examples in the part."""
        assert part.features is not None
        of_means, of_covariances = distances(part.features, part.members)
        there = tf.cast(tf.reduce_sum(part.members, axis=0) > 1, tf.float32)
        return self._strength * pair_mean(of_means + of_covariances, there)
