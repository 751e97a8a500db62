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
from fixed_batch import step_on_a_fixed_batch

from cxr_train.models.backbones import BACKBONES

BATCH = 4
STEPS = 8


def loss_per_step(backbone: str, policy: str, *, compile: bool) -> list[float]:
    """Cross-entropy of each of STEPS training steps on one fixed batch of small images."""
    keras.utils.set_random_seed(0)
    size = max(32, BACKBONES[backbone].smallest_image)
    step, batches = step_on_a_fixed_batch(backbone, policy, size=size, batch=BATCH, compile=compile)
    losses = [step(batches, 1).loss[0] / BATCH for _ in range(STEPS)]
    assert step.traces == {"step": 1, "gradients": 1}
    return losses


if __name__ == "__main__":
    print(json.dumps(loss_per_step(sys.argv[1], sys.argv[2], compile=True)))
