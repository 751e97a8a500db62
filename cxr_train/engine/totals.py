"""Totals over the examples of a step: by micro-batch, by replica, then of the global batch."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from cxr_train.engine.multi_step import Sums


class Totals(NamedTuple):
    """Totals of some examples, float32 [] each: the losses, labels and right answers, and the weights.

    `of_sources` is float32 [D], the sum of the losses of each source, where a domain method learns from it.
    """

    loss: tf.Tensor
    labels: tf.Tensor
    correct: tf.Tensor
    examples: tf.Tensor
    of_sources: tf.Tensor | tuple[()] = ()

    def sums(self, *, labels_differ: bool) -> Sums:
        """Return the sums of the step.

        Where examples have different numbers of labels, the mean loss and the share of right answers over all
        labels count for each example.
        """
        if not labels_differ:
            return Sums(self.loss, self.examples, self.correct)
        share = self.examples / tf.maximum(self.labels, 1.0)  # a batch without any has a loss of 0
        return Sums(self.loss * share, self.examples, self.correct * share)

    def mean_of_sources(self, labels: tf.Tensor) -> tf.Tensor:
        """Return the mean loss of each source, float32 [D], over its `labels`, float32 [D]; else NaN."""
        return tf.where(labels > 0, tf.math.divide_no_nan(self.of_sources, labels), np.nan)


def no_examples(sources: int | None = None) -> Totals:
    """Return the totals of none; with `sources`, those of each too."""
    loss, labels, correct, examples = (tf.zeros([]) for _ in range(4))
    return Totals(loss, labels, correct, examples, () if sources is None else tf.zeros([sources]))


def add(left: Totals, right: Totals) -> Totals:
    """Return the totals of the examples of both."""
    total: Totals = tf.nest.map_structure(lambda a, b: a + b, left, right)
    return total
