"""A real network's training step, and the one batch that it is given again and again."""

from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from cxr_train.engine.step import TrainStep
from cxr_train.models.classifier import build_model
from cxr_train.recipe.loss_scale import LossScale


def step_on_a_fixed_batch(
    backbone: str, policy: str, *, size: int, batch: int, compile: bool
) -> tuple[TrainStep, Iterator]:
    """The step, and the batch for ever: random images [batch, size, size, 3], labels 0, 1, 2, 0, ..."""
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    with strategy.scope():
        model = build_model(backbone, classes=3, image_size=size, dtype_policy=policy)
        optimizer = keras.optimizers.Adam(1e-3)
        loss_scale = LossScale.for_policy(policy)
    step = TrainStep(model, optimizer, loss_scale, strategy, compile=compile, global_batch=batch)
    examples = {
        "image": np.random.default_rng(0).random([batch, size, size, 3], np.float32),
        "label": np.arange(batch, dtype=np.int32) % 3,
        "weight": np.ones(batch, np.float32),
    }
    return step, iter(tf.data.Dataset.from_tensors(examples).repeat())
