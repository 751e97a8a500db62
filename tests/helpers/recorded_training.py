"""`python -m cxr_train.main` with tiny backbones, slowed down, and a record of what every step saw.

    python tests/helpers/recorded_training.py RECORD STEP_SECONDS STEPS_PER_CALL --backbone=tiny ...

`tiny` has BatchNorm, `tiny_plain` has not. RECORD receives a line a step, `step N INDEX...` (N counts
the steps of the run from 1, also over stops), and a line for each batch that is evaluated, `evaluate`.
"""

import os
import sys
import time

import numpy as np
import tiny

from cxr_train import main
from cxr_train.engine.predict_step import PredictStep
from cxr_train.engine.step import TrainStep
from cxr_train.loop import trainer
from cxr_train.models import backbones

record, step_seconds, trainer.MOST_STEPS_PER_CALL = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
del sys.argv[1:4]
for name, build in {"tiny": tiny.with_batch_norm, "tiny_plain": tiny.plain}.items():
    backbones.BACKBONES[name] = tiny.backbone(name, build)
file = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
plain_launch, plain_predict = TrainStep.launch, PredictStep.__call__


def write(number: np.ndarray, index: np.ndarray) -> None:
    time.sleep(step_seconds)
    os.write(file, f"step {number} {' '.join(map(str, index))}\n".encode())


def recorded_launch(self, batch, number):
    sums = plain_launch(self, batch, number)
    sums.loss.numpy()  # it has ended
    (index,) = getattr(batch["index"], "values", [batch["index"]])  # the one replica's part
    write(number + 1, index.numpy())
    return sums


def recorded_predict(self, batch):
    os.write(file, b"evaluate\n")
    time.sleep(step_seconds)
    return plain_predict(self, batch)


TrainStep.launch = recorded_launch
PredictStep.__call__ = recorded_predict
main.console_main()
