"""What an epoch gave: its row in `metrics.jsonl`, and the same for TensorBoard."""

from typing import Any

import numpy as np
import tensorflow as tf

from cxr_data.stats.undefined import json_number
from cxr_train.loop.throughput import Clock


def make(
    epoch: int,
    sums: np.ndarray,
    clock: Clock,
    validation: dict[str, Any] | None,
    *,
    skipped_steps: int,
    initial_share: float | None,
    learning_rate: float,
    epoch_seconds: float,
) -> dict[str, Any]:
    """Return the row, ready for JSON; null is what was not measured.

    `train` has the mean loss (nats; with label smoothing and class weights), the share of right answers and
    the images of the epoch; of the steps that this process took, images a second, the share of the time in
    which the device was idle for want of a batch, and the seconds of the first call, which compiles;
    `skipped_steps`; `initial_statistics_share`, null where BatchNorm is not evaluated with moving
    statistics; `learning_rate`, that of the head at the epoch's last step; and `epoch_seconds`, how long the
    steps that this process took and the validation lasted, without the first call.
    `validation` has `loss` and what `metrics.summarize` returns; null without a validation split.

    Args:
      epoch: its number, from 1.
      sums: float64 [3], loss, right predictions and examples of all its steps.
      clock: of its steps that were taken in this process.
      validation: a summary of `evaluate.Predictions`; None without a validation split.
      skipped_steps: of the run so far, those not applied because a gradient was not finite.
      learning_rate: of the head, at its last step.
      epoch_seconds: its duration in this process, without compilation.
      initial_share: of BatchNorm's moving statistics, see `EvaluatedState.initial_share`.
    """
    loss, correct, examples = sums.tolist()
    return {
        "epoch": epoch,
        "train": {
            "loss": loss / examples,
            "accuracy": correct / examples,
            "images": int(examples),
            "images_per_second": json_number(clock.images_per_second),
            "input_wait_share": json_number(clock.input_wait_share),
            "compile_seconds": clock.compile_seconds,
            "skipped_steps": skipped_steps,
            "initial_statistics_share": initial_share,
            "learning_rate": learning_rate,
            "epoch_seconds": epoch_seconds,
        },
        "validation": validation,
    }


def write_summaries(row: dict[str, Any], summaries: tf.summary.SummaryWriter) -> None:
    """Write the row's numbers for TensorBoard."""
    validation = row["validation"]
    scalars = {f"train/{name}": value for name, value in row["train"].items()}
    if validation:
        scalars |= {f"validation/{name}": validation[name] for name in ("loss", "accuracy")}
        scalars |= {f"validation/macro_{name}": value for name, value in validation["macro"].items()}
    with summaries.as_default(step=row["epoch"]):
        for name, value in scalars.items():
            if value is not None:
                tf.summary.scalar(name, value)
    summaries.flush()
