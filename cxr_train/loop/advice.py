"""What a run's data and its curve advise for the next one."""

from collections.abc import Mapping, Sequence
from typing import Any

from cxr_data.core.wording import typed
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.mirror import published
from cxr_train.runs.monitor import Monitor

IMBALANCE = 2
"""How many times as many images as the smallest class the largest has, above which a line says so."""


def advice(
    config: TrainConfig, training_images: Mapping[str, int], rows: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Return a line for each thing to do, a command among them on a line of its own.

    Args:
      config: of the run.
      training_images: of each class; empty for findings.
      rows: of `metrics.jsonl`.
    """
    lines = []
    seen = {name: count for name, count in training_images.items() if count}
    few, many = min(seen, key=seen.__getitem__, default=""), max(seen, key=seen.__getitem__, default="")
    if seen and seen[many] > IMBALANCE * seen[few] and config.recipe.class_weights == "none":
        lines.append(
            f"class imbalance: {many} has {seen[many]:,} training images, {few} {seen[few]:,} "
            f"({seen[many] / seen[few]:.1f} times as many): --class_weights=balanced gives each class "
            "the same weight"
        )
    if is_still_improving(config, rows):
        lines += _train_longer(config)
    return lines


def is_still_improving(config: TrainConfig, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether a run ended while it became better: its best epoch is among the last tenth, or the last.

    False for a run of one epoch, which has no curve, for one without validation, and for one that ended
    before its last epoch.
    """
    epochs = len(rows)
    if epochs < 2 or epochs < config.epochs or config.held_out_validation is None:
        return False
    monitor = Monitor(config.monitor)
    best, best_epoch = monitor.worst, 0
    for number, row in enumerate(rows, 1):
        value = monitor.value(row["validation"])
        if value is not None and monitor.improves(value, best):
            best, best_epoch = value, number
    return best_epoch > epochs - max(1, epochs // 10)


def _train_longer(config: TrainConfig) -> list[str]:
    longer = f"--epochs={2 * config.epochs}"
    if config.recipe.stretched_by:
        return [
            f"still improving: train longer, {longer}, in a new run ({config.recipe.stretched_by} has "
            "ended, so that this one cannot go on)"
        ]
    flags = config.layout.flags
    if not flags.exists() or published(config.run_dir) != config.run_dir:
        return [f"still improving: train longer, with the same settings and {longer} --resume"]
    command = f"python -m cxr_train.main {typed(flagfile=flags)} {longer} --resume"
    return ["still improving: train longer:", f"  {command}"]
