"""Group-balanced ERM, the base of all domain methods: each source weighs the same, mean_d L_d.

L_d is the mean loss over the labels of source d in the *global* batch, so that neither replicas nor
micro-batches change it. A penalty of a subclass is computed from what one replica has of one micro-batch, as
BatchNorm's moments are: its mean over these parts counts, each by its share of the batch.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from cxr_train.recipe.loss import ExampleSums, FindingsObjective, Objective


@dataclasses.dataclass(frozen=True)
class BalancedSources:
    """The sources of a balanced batch, the domains.

    Attributes:
      numbers: of each source in `Manifest.sources`, the values of the batch's `source`.
      shares: of each in the batch, adding up to 1.
    """

    numbers: tuple[int, ...]
    shares: tuple[float, ...]

    @property
    def are_equal(self) -> bool:
        """Whether all have the same share."""
        return len({*self.shares}) == 1

    def members(self, batch: dict[str, tf.Tensor]) -> tf.Tensor:
        """Return which example is of which source: float32 [B, D], 0 or 1; padding is of none."""
        of_source = tf.equal(batch["source"][:, None], tf.constant(self.numbers, tf.int32))
        return tf.cast(of_source, tf.float32) * batch["weight"][:, None]


class Part(NamedTuple):
    """What a penalty may see: a replica's part of a batch, or of a micro-batch.

    Attributes:
      members: float32 [B, D], see `BalancedSources.members`.
      sums: the losses, by example.
      slopes: float32 [B], see `Objective.slopes`; None unless `needs_slopes`.
      features: float32 [B, F], what `feature_layer` gives; None unless `needs_features`.
    """

    members: tf.Tensor
    sums: ExampleSums
    slopes: tf.Tensor | None
    features: tf.Tensor | None


class DomainMethod(tf.Module):
    """Group-balanced ERM; the other methods add to it.

    Args:
      sources: the domains.
      objective: what is minimised without the method.

    Attributes:
      needs_features, needs_slopes: what of a `Part` its penalty is computed from.
      mixes_early: whether it changes the maps of an early stage, see `mixstyle`.
      learns_weights: whether the losses of the sources change their weights.
      feature_layer: the name of the layer that gives the features, which depends on the network.
      trained: variables of its own that the step trains with `optimizer`, in the place of the model's.
    """

    needs_features = False
    needs_slopes = False
    mixes_early = False
    learns_weights = False
    feature_layer = "pooling"
    trained: Sequence[keras.Variable] = ()
    optimizer: keras.optimizers.Optimizer | None = None

    def __init__(self, sources: BalancedSources, objective: Objective | FindingsObjective) -> None:
        super().__init__(name="domain_method")
        self.sources = sources
        self._objective = objective

    @property
    def state(self) -> list[tf.Variable]:
        """What a checkpoint must hold of it."""
        own = [*self.trained, *(self.optimizer.variables if self.optimizer else ())]
        return [variable.value for variable in own]

    @property
    def reweighs(self) -> bool:
        """Whether the loss differs from a mean over the labels of a batch.

        Where each example has one label and each source the same share, it is that mean, bit for bit.
        """
        return not self.sources.are_equal or self._objective.labels_per_example is None

    def weights(self) -> tf.Tensor:
        """Return the weight of each source in the loss, float32 [D], with the sum 1."""
        return tf.fill([len(self.sources.numbers)], 1 / len(self.sources.numbers))

    def labels_of_sources(self, batch: dict[str, tf.Tensor]) -> tf.Tensor:
        """Count the labels of each source that count in the loss, float32 [D]."""
        labels = self._objective.count_labels(batch["label"])
        return tf.reduce_sum(self.sources.members(batch) * labels[:, None], axis=0)

    def rates(self, labels: tf.Tensor) -> tf.Tensor:
        """Return what each label of a source counts in the loss, float32 [D].

        Args:
          labels: float32 [D], of the sources in the global batch. A source without any has no loss, and the
            others share its weight.
        """
        weights = tf.where(labels > 0, self.weights(), 0.0)
        return tf.math.divide_no_nan(weights, tf.reduce_sum(weights) * labels)

    def part(
        self,
        batch: dict[str, tf.Tensor],
        sums: ExampleSums,
        logits: tf.Tensor,
        features: tf.Tensor | None,
    ) -> Part:
        """Gather what the penalty may see of a part of a batch."""
        slopes = None
        if self.needs_slopes:
            slopes = self._objective.slopes(batch["label"], logits, batch.get("index"))
        if features is not None:
            # In 16 bits, squares of features and sums over them would overflow or vanish.
            features = tf.cast(features, tf.float32)
        return Part(self.sources.members(batch), sums, slopes, features)

    def loss(self, part: Part, rates: tf.Tensor) -> tf.Tensor:
        """Return the part's share of sum_d weight_d * L_d, float32 [].

        Args:
          rates: float32 [D], see there.
        """
        return tf.reduce_sum(part.sums.loss * tf.linalg.matvec(part.members, rates))

    def penalty(self, part: Part) -> tf.Tensor | None:
        """Return what is added to the loss, float32 []; None for nothing."""
        del part
        return None

    def draw(self, seed: int, step: tf.Tensor, batch: int) -> tf.Tensor:
        """Draw what a global batch needs at random, [batch, n]: a function of seed, step and position."""
        del seed, step
        return tf.zeros([batch, 0])

    def mix(self, maps: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        """Change the maps [B, h, w, C] of an early stage; only if it `mixes_early`."""
        del draws
        return maps

    def move(self, losses: tf.Tensor, applied: tf.Tensor) -> None:
        """Take note of the losses of the sources in the global batch; only if it `learns_weights`.

        Args:
          losses: float32 [D], means over the labels; NaN where a source has none.
          applied: bool [], whether the step was.
        """

    def begin_step(self, number: int, forget: Callable[[], None]) -> None:
        """Prepare a step; called by the host.

        Args:
          number: of the step, from the start of the run.
          forget: lets the optimizer begin as a new one.
        """


def pair_mean(of_pairs: tf.Tensor, there: tf.Tensor) -> tf.Tensor:
    """Return the mean over the pairs of two sources that are both there; 0 without any such pair.

    Args:
      of_pairs: float32 [D, D], symmetric.
      there: float32 [D], 0 or 1.
    """
    pairs = there[:, None] * there[None, :]
    pairs = pairs - tf.linalg.diag(tf.linalg.diag_part(pairs))
    return tf.math.divide_no_nan(tf.reduce_sum(pairs * of_pairs), tf.reduce_sum(pairs))
