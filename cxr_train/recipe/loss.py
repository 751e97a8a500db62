"""What training minimises: cross-entropy of one class a picture, or of each of several findings.

An objective returns sums over the labels of an example. The step divides their sum over the global batch by
the number of labels that count there, so that the loss is a mean over labels however a batch is split.
"""

import dataclasses
from typing import NamedTuple

import tensorflow as tf

from cxr_data.sources.finding_values import ABSENT, PRESENT, UNCERTAIN


class ExampleSums(NamedTuple):
    """What an objective says of each example, float32 [B] each.

    Attributes:
      loss: sum of the losses of its labels, in nats.
      labels: how many of its labels count.
      correct: how many of these are predicted right.
    """

    loss: tf.Tensor
    labels: tf.Tensor
    correct: tf.Tensor


@dataclasses.dataclass(frozen=True)
class Objective:
    """The cross-entropy of one class a picture. Evaluation always reports the plain one.

    Attributes:
      label_smoothing: in [0, 1); the share of the target that is spread evenly over all classes
        (Szegedy et al., "Rethinking the Inception Architecture", 2016).
      class_weights: a factor for each class, by the true class; empty for 1 each.
    """

    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()

    labels_per_example = 1
    """Every example has exactly so many labels that count; None where that differs."""

    def __call__(self, labels: tf.Tensor, logits: tf.Tensor, index: tf.Tensor | None = None) -> ExampleSums:
        """Return the sums from labels int32 [B] and logits float32 [B, C]; `index` is of no effect."""
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
        if self.label_smoothing:
            # Cross-entropy is linear in its target: (1 - s) of the true class, s of the mean class.
            evenly = -tf.reduce_mean(tf.nn.log_softmax(logits), axis=-1)
            losses = (1 - self.label_smoothing) * losses + self.label_smoothing * evenly
        if self.class_weights:
            losses *= tf.gather(tf.constant(self.class_weights, tf.float32), labels)
        right = tf.equal(tf.argmax(logits, axis=-1, output_type=labels.dtype), labels)
        return ExampleSums(losses, self.count_labels(labels), tf.cast(right, tf.float32))

    def count_labels(self, labels: tf.Tensor) -> tf.Tensor:
        """Return how many labels of each example count, float32 [B]."""
        return tf.ones_like(labels, tf.float32)

    def slopes(self, labels: tf.Tensor, logits: tf.Tensor, index: tf.Tensor | None = None) -> tf.Tensor:
        """Return the derivative of each example's loss by a factor of its logits, at the factor 1.

        It is sum_k (p_k - y_k) z_k with the smoothed target y, float32 [B]; `index` is of no effect.
        """
        targets = (1 - self.label_smoothing) * tf.one_hot(labels, logits.shape[1], dtype=logits.dtype)
        targets += self.label_smoothing / logits.shape[1]
        slopes = tf.reduce_sum((tf.nn.softmax(logits) - targets) * logits, axis=1)
        if self.class_weights:
            slopes *= tf.gather(tf.constant(self.class_weights, logits.dtype), labels)
        return slopes


@dataclasses.dataclass(frozen=True)
class FindingsObjective:
    """The binary cross-entropy of each finding, over the labels that are known.

    Attributes:
      label_smoothing: in [0, 1); targets become (1 - s) * target + s / 2.
      positive_weights: a factor for the positive part of the loss of each finding; empty for 1 each.
      uncertain: range in [0, 1] of the targets of uncertain labels; None where such labels do not count.
      focal_gamma: g >= 0 of the focal loss, the factor (1 - p)^g for a positive label and p^g for a negative
        one (Lin et al., "Focal Loss for Dense Object Detection", 2017); 0 for plain cross-entropy.
    """

    label_smoothing: float = 0.0
    positive_weights: tuple[float, ...] = ()
    uncertain: tuple[float, float] | None = None
    focal_gamma: float = 0.0

    labels_per_example = None

    def __call__(self, labels: tf.Tensor, logits: tf.Tensor, index: tf.Tensor) -> ExampleSums:
        """Return the sums over the known labels of each example.

        Args:
          labels: int32 [B, C]: 1 present, 0 absent, -1 uncertain, -2 unknown.
          logits: float32 [B, C].
          index: int64 [B], the examples' numbers; they decide what smoothed uncertain labels become.
        """
        known, targets = self._known(labels), self._targets(labels, index)
        right = tf.equal(logits > 0, targets > 0.5)
        targets = self._smoothed(targets)
        # -log p and -log(1 - p) of the probability p that the finding is present.
        if_present, if_absent = tf.nn.softplus(-logits), tf.nn.softplus(logits)
        of_present, of_absent = if_present, if_absent
        if self.focal_gamma:
            of_present *= tf.exp(-self.focal_gamma * if_absent)
            of_absent *= tf.exp(-self.focal_gamma * if_present)
        if self.positive_weights:
            of_present *= tf.constant(self.positive_weights, tf.float32)
        losses = targets * of_present + (1 - targets) * of_absent

        def summed(values: tf.Tensor) -> tf.Tensor:
            return tf.reduce_sum(tf.where(known, tf.cast(values, tf.float32), 0.0), axis=1)

        return ExampleSums(summed(losses), summed(known), summed(right))

    def count_labels(self, labels: tf.Tensor) -> tf.Tensor:
        """Return how many labels of each example count, float32 [B]."""
        return tf.reduce_sum(tf.cast(self._known(labels), tf.float32), axis=1)

    def slopes(self, labels: tf.Tensor, logits: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        """Return the derivative of each example's loss by a factor of its logits, at the factor 1: [B].

        Raises:
          ValueError: of the focal loss, whose derivative is another.
        """
        if self.focal_gamma:
            raise ValueError("the slopes of the focal loss are not known")
        targets = self._smoothed(tf.cast(self._targets(labels, index), logits.dtype))
        positive = tf.constant(self.positive_weights or (1.0,), logits.dtype)
        present = tf.nn.sigmoid(logits)
        slopes = (positive * targets * (present - 1) + (1 - targets) * present) * logits
        return tf.reduce_sum(tf.where(self._known(labels), slopes, 0.0), axis=1)

    def _known(self, labels: tf.Tensor) -> tf.Tensor:
        return labels >= (ABSENT if self.uncertain is None else UNCERTAIN)

    def _targets(self, labels: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        targets = tf.cast(labels == PRESENT, tf.float32)
        if self.uncertain is None:
            return targets
        of_uncertain = _drawn_once(index, labels.shape[1], *self.uncertain)
        return tf.where(labels == UNCERTAIN, of_uncertain, targets)

    def _smoothed(self, targets: tf.Tensor) -> tf.Tensor:
        if not self.label_smoothing:
            return targets
        return (1 - self.label_smoothing) * targets + self.label_smoothing / 2


def _drawn_once(index: tf.Tensor, findings: int, low: float, high: float) -> tf.Tensor:
    """Return float32 [B, findings] in [low, high], the same in every epoch, as by Pham et al.

    It is the fractional part of a multiple of the golden ratio, which depends on the example's number and the
    finding alone: not on order, batch or device.
    """
    number = index[:, None] * findings + tf.range(findings, dtype=tf.int64)
    spread = tf.math.floormod(number * 2654435769, 2**32)
    return low + (high - low) * tf.cast(spread, tf.float32) / 2**32
