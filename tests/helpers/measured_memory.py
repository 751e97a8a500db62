"""Prints the estimated and the measured peak of a real training step, in bytes; a program of its own.

    python tests/helpers/measured_memory.py BACKBONE SIZE BATCH POLICY

TensorFlow's own allocator, with statistics, measures; the step is computed op by op.
"""

import os
import sys

os.environ["TF_CPU_ALLOCATOR_USE_BFC"] = "true"

import tensorflow as tf
from fixed_batch import step_on_a_fixed_batch

from cxr_train.models.memory import Setting, estimate, trace


def measured_peak(backbone: str, size: int, batch: int, policy: str) -> int:
    """Peak bytes of TensorFlow's allocator over one step."""
    step, batches = step_on_a_fixed_batch(backbone, policy, size=size, batch=batch, compile=False)
    step(batches, 1)
    return int(tf.config.experimental.get_memory_info("CPU:0")["peak"])


if __name__ == "__main__":
    name, size, batch, policy = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    expected = estimate(trace(name, image_size=size), batch, Setting(policy)).total
    print(expected, measured_peak(name, size, batch, policy))
