"""Prints the losses of a few XLA-compiled training steps as JSON; a program of its own.

    python tests/compiled_steps.py BACKBONE POLICY

A compiled network of hundreds of layers takes gigabytes that TensorFlow keeps until the
process ends: twenty of them in the test process exhaust 24 GB.
"""

import json
import os
import sys

os.environ.setdefault(
    "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)

import keras
import numpy as np
import tensorflow as tf

from cxr_train.backbones import BACKBONES
from cxr_train.model import build_model
from cxr_train.precision import LossScale
from cxr_train.step import TrainStep

BATCH = 4
STEPS = 8


def loss_per_step(backbone: str, policy: str, *, compile: bool) -> list[float]:
    """Cross-entropy of each of STEPS training steps on one fixed batch of small images."""
    keras.utils.set_random_seed(0)
    size = max(32, BACKBONES[backbone].smallest_image)
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    with strategy.scope():
        model = build_model(backbone, classes=3, image_size=size, dtype_policy=policy)
        optimizer = keras.optimizers.Adam(1e-3)
        loss_scale = LossScale.for_policy(policy)
    step = TrainStep(model, optimizer, loss_scale, strategy, compile=compile, global_batch=BATCH)
    batch = {
        "image": np.random.default_rng(0).random([BATCH, size, size, 3], np.float32),
        "label": np.array([0, 1, 2, 1], np.int32),
        "weight": np.ones(BATCH, np.float32),
    }
    iterator = iter(tf.data.Dataset.from_tensors(batch).repeat())
    losses = [step(iterator, 1).loss[0] / BATCH for _ in range(STEPS)]
    assert step.traces == {"loop": 1, "gradients": 1}
    return losses


if __name__ == "__main__":
    print(json.dumps(loss_per_step(sys.argv[1], sys.argv[2], compile=True)))
