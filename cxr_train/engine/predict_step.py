"""The compiled prediction step: the logits of a batch, wherever its parts are computed."""

import logging

import keras
import numpy as np
import tensorflow as tf

from cxr_data.input.batch import expand_image
from cxr_train.engine.compilation_cache import align_names
from cxr_train.engine.multi_step import Batch
from cxr_train.engine.strategy import Placement
from cxr_train.engine.xla import go_on_uncompiled

logger = logging.getLogger(__name__)

# See `align_names`: the training step takes 1 and 2, and BatchNorm's statistics 3.
_PREDICTION_NAMES = 4


class PredictStep:
    """The prediction step of one model, as it is placed.

    Args:
      model: as for `TrainStep`.
      placement: where and how it computes; where `auto` chose XLA, and that cannot compile the
        network, it logs so and goes on without.

    Attributes:
      model: as given.
      placement: as given, or without XLA if that could not compile the network.
      traces: how often the network was traced, see `TrainStep`.
    """

    def __init__(self, model: keras.Model, placement: Placement) -> None:
        self.model = model
        self.traces = 0
        self._place(placement)

    def __call__(self, batch: Batch) -> np.ndarray:
        """Return the logits float32 [B, C] of a distributed batch, in its order.

        Raises:
          CxrError: XLA was asked for, and cannot compile the network.
        """
        try:
            logits = self._run(batch["image"])
        except tf.errors.OpError as error:
            placement, choice = go_on_uncompiled(error, self.placement)
            logger.info("%s", choice)
            self._place(placement)
            logits = self._run(batch["image"])
        return self.gather(logits)

    def gather(self, per_replica: tf.Tensor) -> np.ndarray:
        """Return the replicas' parts of a batch as one array [B, ...], in the batch's order."""
        parts = self.placement.strategy.experimental_local_results(per_replica)
        return np.concatenate([part.numpy() for part in parts])

    def _place(self, placement: Placement) -> None:
        self.placement = placement

        def forward(images: tf.Tensor) -> tf.Tensor:
            self.traces += 1
            if placement.compile:
                align_names(_PREDICTION_NAMES)
            return self.model(expand_image(images), training=False)

        compiled = tf.function(forward, jit_compile=placement.compile)
        # `run` would compile a `tf.function` around the replicas, not in each of them.
        self._run = tf.function(
            lambda images: placement.strategy.run(lambda part: compiled(part), args=(images,))
        )
