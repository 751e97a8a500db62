"""Averaged weights: an exponential moving average over the steps, evaluated in place of the last ones."""

import contextlib
from collections.abc import Iterator, Sequence

import keras
import tensorflow as tf


class WeightAverage(tf.Module):
    """The moving average of a model's weights and of its BatchNorm statistics.

    average += (1 - d) * (value - average), d = min(decay, (1 + t) / (10 + t)) after t steps: the
    rule of `tf.train.ExponentialMovingAverage`, by which the first weights are soon forgotten.

    Args:
      model: built; made under the same strategy's scope as this.
      decay: in (0, 1), such as 0.999.
    """

    def __init__(self, model: keras.Model, decay: float) -> None:
        super().__init__(name="weight_average")
        self._decay = decay
        self._values = [v.value for v in model.variables if tf.as_dtype(v.value.dtype).is_floating]
        # Each replica moves its own: those of BatchNorm's statistics differ, see `replica_values`.
        self.averages = [
            tf.Variable(
                value.read_value(),
                trainable=False,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            )
            for value in self._values
        ]

    def of(self, values: Sequence[tf.Variable]) -> list[tf.Variable]:
        """Return the averages of some of the model's variables."""
        averages = {id(value): average for value, average in zip(self._values, self.averages, strict=True)}
        return [averages[id(value)] for value in values]

    def update(self, steps: tf.Tensor) -> None:
        """Move the average after a step; called by each replica.

        Args:
          steps: int64 [], taken so far.
        """
        taken = tf.cast(steps, tf.float32)
        share = 1 - tf.minimum(self._decay, (1 + taken) / (10 + taken))
        for average, value in zip(self.averages, self._values, strict=True):
            average.assign_add(share * (value - average))

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model hold the averages while the context is open, and its own values afterwards.

        All replicas must have the same values, see `replica_values`.
        """
        own = [tf.identity(value) for value in self._values]
        for value, average in zip(self._values, self.averages, strict=True):
            value.assign(average.read_value())
        try:
            yield
        finally:
            for value, kept in zip(self._values, own, strict=True):
                value.assign(kept)
