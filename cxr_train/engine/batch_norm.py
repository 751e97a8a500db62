"""BatchNorm's statistics of the weights that are evaluated, in place of moving ones that lag behind them.

A moving statistic is a mean over the last steps, 1 / (1 - momentum) of them: it begins with 0 and 1, or with
what pretrained weights bring, and forgets that only as momentum^steps. The precise one is the mean and the
variance over some batches of the training split, all with the weights of this moment: "PreciseBN" of Wu and
Johnson, "Rethinking 'Batch' in BatchNorm" (arXiv:2105.07576, section 3).
"""

import contextlib
from collections.abc import Iterable, Iterator

import keras
import numpy as np
import tensorflow as tf

from cxr_data.input.batch import expand_image
from cxr_train.engine.compilation_cache import align_names
from cxr_train.engine.multi_step import Batch
from cxr_train.engine.replica_values import ReplicaValues
from cxr_train.engine.strategy import Placement

# See `align_names`: the training step takes 1 and 2, and the prediction step 4.
_STATISTICS_NAMES = 3


class PreciseStatistics:
    """Measures BatchNorm's statistics over batches, and lends them to the model.

    A batch goes through the model as in training, each layer normalising with the batch's own moments, but
    nothing is dropped: it is the network that will be evaluated. Batch b of a replica has the mean m_b and
    the variance v_b before a layer; its statistics are mean(m_b) and mean(v_b + m_b^2) - mean(m_b)^2 over
    all batches and replicas. Frozen layers, which normalise with their moving statistics in training too,
    keep these.

    Args:
      model: images float32 [B, S, S, 3] to logits; built under the placement's strategy.
      placement: where and how it computes.
    """

    def __init__(self, model: keras.Model, placement: Placement) -> None:
        self._model = model
        self._placement = placement
        self._traced_for: list[keras.layers.Layer] = []

    @contextlib.contextmanager
    def in_place(self, batches: Iterable[Batch]) -> Iterator[None]:
        """Let the model hold precise statistics while the context is open, and its own values afterwards.

        Every worker of a cluster must enter it at the same point.

        Args:
          batches: distributed, all of one size, the same number on each worker; none is taken where no
            BatchNorm is trained.
        """
        trained = trained_batch_norms(self._model.layers)
        if not trained:
            yield
            return
        if trained != self._traced_for:
            self._trace()
            self._traced_for = trained
        statistics = self._measure(batches)
        values = ReplicaValues(self._variables, self._placement)
        own = values.read()
        values.write(statistics)
        try:
            yield
        finally:
            values.write(own)

    def _trace(self) -> None:
        moments = tf.function(self._moments, jit_compile=self._placement.compile)
        # `run` would compile a `tf.function` around the replicas, not in each of them.
        self._run = tf.function(
            lambda images: self._placement.strategy.run(lambda part: moments(part), args=(images,))
        )

    def _moments(self, images: tf.Tensor) -> tf.Tensor:
        """Return the moments of a replica's part of a batch: float32 [2, size], means and variances."""
        if self._placement.compile:
            align_names(_STATISTICS_NAMES)
        with _only_batches_count(self._model), keras.StatelessScope() as scope:
            self._model(expand_image(images), training=True)
        layers = trained_batch_norms(self._model.layers)
        variables = [layer.moving_mean for layer in layers], [layer.moving_variance for layer in layers]
        self._variables = [variable.value for variable in (*variables[0], *variables[1])]
        return tf.stack([tf.concat([scope.get_current_value(one) for one in each], 0) for each in variables])

    def _measure(self, batches: Iterable[Batch]) -> np.ndarray:
        """Return float32 [1, 2 * size], the means and then the variances over all batches and replicas."""
        # In float64: a variance is the small difference of large numbers.
        sums, count = np.zeros(1), 0
        for batch in batches:
            for part in self._placement.strategy.experimental_local_results(self._run(batch["image"])):
                mean, variance = part.numpy().astype(np.float64)
                sums = sums + np.stack([mean, variance + mean**2])
                count += 1
        mean, square = self._placement.gather(sums / count).mean(axis=0)
        return np.concatenate([mean, np.maximum(square - mean**2, 0)])[None].astype(np.float32)


def trained_batch_norms(layers: Iterable[keras.layers.Layer]) -> list[keras.layers.BatchNormalization]:
    """Return the layers that normalise with the moments of the batch in training."""
    return [
        layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
    ]


def initial_share(layers: Iterable[keras.layers.Layer], updates: int) -> float:
    """Return how much of the moving statistics is what they began with, in [0, 1]: momentum^updates.

    Args:
      layers: of them the BatchNorm that is slowest to forget counts; 0 where none is trained.
      updates: how often each has been trained.
    """
    return max((layer.momentum ** max(updates, 0) for layer in trained_batch_norms(layers)), default=0.0)


@contextlib.contextmanager
def _only_batches_count(model: keras.Model) -> Iterator[None]:
    """Let moving statistics become those of the last batch, and dropout drop nothing, while tracing."""
    kept = [(layer, "momentum", layer.momentum) for layer in trained_batch_norms(model.layers)]
    kept += [(layer, "rate", layer.rate) for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    try:
        for layer, name, _ in kept:
            setattr(layer, name, 0.0)
        yield
    finally:
        for layer, name, value in kept:
            setattr(layer, name, value)
