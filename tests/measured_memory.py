"""Prints the estimated and the measured peak of a real training step, in bytes; a program of its own.

    python tests/measured_memory.py BACKBONE SIZE BATCH POLICY

TensorFlow's own allocator, with statistics, measures; the step is computed op by op.
"""

import os
import sys

os.environ["TF_CPU_ALLOCATOR_USE_BFC"] = "true"

import keras
import numpy as np
import tensorflow as tf

from cxr_train.memory import Setting, estimate, trace
from cxr_train.model import build_model
from cxr_train.precision import LossScale
from cxr_train.step import TrainStep


def measured_peak(backbone: str, size: int, batch: int, policy: str) -> int:
    """Peak bytes of TensorFlow's allocator over one step."""
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    with strategy.scope():
        model = build_model(backbone, classes=3, image_size=size, dtype_policy=policy)
        optimizer = keras.optimizers.Adam(1e-4)
        loss_scale = LossScale.for_policy(policy)
    step = TrainStep(model, optimizer, loss_scale, strategy, compile=False, global_batch=batch)
    examples = {
        "image": np.zeros([batch, size, size, 3], np.float32),
        "label": np.zeros([batch], np.int32),
        "weight": np.ones([batch], np.float32),
    }
    step(iter(tf.data.Dataset.from_tensors(examples).repeat()), 1)
    return int(tf.config.experimental.get_memory_info("CPU:0")["peak"])


if __name__ == "__main__":
    name, size, batch, policy = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    expected = estimate(trace(name, image_size=size), batch, Setting(policy)).total
    print(expected, measured_peak(name, size, batch, policy))
