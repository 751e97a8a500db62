"""What an epoch gave: its row in `metrics.jsonl`, the same for TensorBoard, and in one line."""

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
) -> dict[str, Any]:
    """Return the row, ready for JSON; null is what was not measured.

    `train` has the mean loss (nats; with label smoothing and class weights), the share of right answers and
    the images of the epoch; of the steps that this process took, images a second, the share of the time in
    which the device was idle for want of a batch, and the seconds of the first call, which compiles;
    `skipped_steps`; and `initial_statistics_share`, null where BatchNorm is not evaluated with moving
    statistics.
    `validation` has `loss` and what `metrics.summarize` returns; null without a validation split.

    Args:
      epoch: its number, from 1.
      sums: float64 [3], loss, right predictions and examples of all its steps.
      clock: of its steps that were taken in this process.
      validation: a summary of `evaluate.Predictions`; None without a validation split.
      skipped_steps: of the run so far, those not applied because a gradient was not finite.
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


def line(row: dict[str, Any]) -> str:
    """Return the row for the terminal."""
    train = row["train"]
    speed = train["images_per_second"]
    wait = train["input_wait_share"]
    skipped = train["skipped_steps"]
    return (
        f"epoch {row['epoch']}: train loss {train['loss']:.4f} accuracy {train['accuracy']:.4f} | "
        f"{_validated(row['validation'])} | "
        + (f"{speed:.1f} images/s" if speed else "no timed step: no speed measured")
        + (f", input wait {wait:.1%}" if wait is not None else "")
        + (f" | {skipped:,} steps skipped so far: gradients not finite" if skipped else "")
    )


def _validated(validation: dict[str, Any] | None) -> str:
    if validation is None:
        return "no validation"
    return (
        f"validation loss {validation['loss']:.4f} accuracy {validation['accuracy']:.4f} "
        f"macro sensitivity {_rate(validation, 'sensitivity')} "
        f"specificity {_rate(validation, 'specificity')}"
    )


def _rate(validation: dict[str, Any], name: str) -> str:
    value = validation["macro"][name]
    return "undefined" if value is None else f"{value:.4f}"
