"""What training minimises: cross-entropy, with smoothed labels and weighted classes where asked."""

import dataclasses

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Objective:
    """The cross-entropy of each example. Evaluation always reports the plain one.

    Attributes:
      label_smoothing: in [0, 1); the share of the target that is spread evenly over all classes
        (Szegedy et al., "Rethinking the Inception Architecture", 2016).
      class_weights: a factor for each class, by the true class; empty for 1 each.
    """

    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()

    def __call__(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Return float32 [B], in nats, from labels int32 [B] and logits float32 [B, C]."""
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
        if self.label_smoothing:
            # Cross-entropy is linear in its target: (1 - s) of the true class, s of the mean class.
            evenly = -tf.reduce_mean(tf.nn.log_softmax(logits), axis=-1)
            losses = (1 - self.label_smoothing) * losses + self.label_smoothing * evenly
        if self.class_weights:
            losses *= tf.gather(tf.constant(self.class_weights, tf.float32), labels)
        return losses
