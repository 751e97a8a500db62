"""Trials as runs of `cxr_train.main`: a run directory each, and a process for each rung."""

import logging
import pathlib
import shlex
import time
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

from cxr_data.core.errors import DataError, UsageError
from cxr_data.records.manifest import read_manifest
from cxr_train.ablation.cost import count_flops
from cxr_train.ablation.runner import GridRun, Runner
from cxr_train.runs.child_commands import exit_reason
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.documents import WithGpus, read_document
from cxr_train.runs.model_file import check_model_file
from cxr_train.runs.monitor import Monitor
from cxr_train.runs.saved_run import epoch_rows
from cxr_train.searching.ledger import Outcome

logger = logging.getLogger(__name__)

_WEIGHTS = "model.weights.h5"
_OF_OPTIMIZER = "optimizer"


def trial_name(number: int) -> str:
    """Return the name of the directory of a trial."""
    return f"trial-{number:04d}"


class TrialRuns(Runner):
    """Trains trials, see `study.TrialRunner`; signals are passed on to the run at work.

    Args:
      lock: what `folder_lock.locked` gave.
      plan_run: makes the run of a trial, by its number, flags and epochs; it raises UsageError for flags that
        `cxr_train.main` would refuse.
    """

    def __init__(self, lock: int, plan_run: Callable[[int, Mapping[str, str], int], GridRun]) -> None:
        super().__init__(lock)
        self._plan_run = plan_run

    def train(self, trial: int, flags: Mapping[str, str], epochs: int) -> Outcome | None:
        """Train a trial up to some epochs, from wherever it is; None where a signal stopped it."""
        try:
            run = self._plan_run(trial, flags, epochs)
        except UsageError as error:  # two values that do not go together, of a space too large to check
            return Outcome(None, failed=f"was refused: {error}", refused=True)
        began, code = time.monotonic(), 0
        if not self.stopped and not _has_reached(run, epochs):
            logger.info("\n[%s, to epoch %d] %s", run.label, epochs, shlex.join(run.command()))
            code = self.run(run.command())
        if self.stopped:
            return None
        spent = len(_rows(run, epochs)), gpu_seconds_of(run, epochs), time.monotonic() - began
        if not _has_reached(run, epochs):
            reason = f"failed, {exit_reason(code)}" if code else "was stopped"
            return Outcome(None, *spent, failed=reason)
        value = value_of(run, epochs)
        return Outcome(
            value,
            *spent,
            parameters_of(run.layout.best_model),
            flops_of(run),
            None if value is not None else f"has no {run.config.monitor} of the validation split",
        )


def value_of(run: GridRun, epochs: int) -> float | None:
    """Return the best value of a run's monitor in its first epochs; None where it is undefined."""
    monitor = Monitor(run.config.monitor)
    rows = _rows(run, epochs)
    values = [value for row in rows if (value := monitor.value(row.get("validation"))) is not None]
    return (min if monitor.worst > 0 else max)(values, default=None)


def gpu_seconds_of(run: GridRun, epochs: int) -> float:
    """Return how long a run's first epochs and the compilation of their steps took, times its GPUs."""
    rows = _rows(run, epochs)
    parts = (row["train"].get(name) or 0.0 for row in rows for name in ("epoch_seconds", "compile_seconds"))
    try:
        gpus = len(read_document(run.layout.environment, WithGpus)["gpus"])
    except DataError:
        gpus = 0
    return float(sum(parts)) * max(gpus, 1)


def parameters_of(model: pathlib.Path) -> int | None:
    """Return how many weights a saved model has, those of BatchNorm's statistics included."""
    import h5py

    def count(name: str, node: object) -> None:
        if isinstance(node, h5py.Dataset) and not name.startswith(_OF_OPTIMIZER):
            sizes.append(int(node.size))

    sizes: list[int] = []
    try:
        check_model_file(model)
        with (
            zipfile.ZipFile(model) as archive,
            archive.open(_WEIGHTS) as weights,
            h5py.File(weights, "r") as file,
        ):
            file.visititems(count)
    except DataError:
        return None
    return sum(sizes)


def flops_of(run: GridRun) -> int | None:
    """Return the operations of a forward pass, an image; None where the run's manifest cannot be read.

    They are the network's alone: those that a process measured are null where it timed no step, and are fewer
    where layers are frozen.
    """
    try:
        manifest = read_manifest(str(run.directory), check_shards=False)
    except DataError:
        return None
    forward, _ = count_flops(run.config, manifest)
    return forward


def _has_reached(run: GridRun, epochs: int) -> bool:
    """Return whether a run was trained for so many epochs, and ended; or began more after that."""
    if not run.is_begun:
        return False
    run.refuse_another()
    asked = TrainConfig.load(run.layout.config).epochs
    return asked > epochs or (asked == epochs and run.layout.throughput.exists())


def _rows(run: GridRun, epochs: int) -> list[dict[str, Any]]:
    """Return the rows of a run's first epochs: fewer where it was not trained so long."""
    return [row for row in epoch_rows(run.layout.history)[0] if row["epoch"] <= epochs]
