"""A run directory, read back: what it was trained on, what its epochs gave, and which model it has."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any, cast

from cxr_data.core import storage
from cxr_data.core.errors import DataError, UsageError
from cxr_data.core.local_store import sha256_of
from cxr_data.core.schema import checked, parse_json
from cxr_data.records.layout import MANIFEST_NAME
from cxr_data.records.manifest import Manifest, read_manifest
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.documents import EpochRow
from cxr_train.runs.layout import RunLayout
from cxr_train.runs.monitor import Monitor


def trained_on(run_dir: pathlib.Path) -> Manifest:
    """Return the manifest of the data that a run was trained on; its `directory` is the run's.

    Raises:
      DataError: the run directory has no copy of it, or it is damaged.
    """
    layout = RunLayout(run_dir)
    if not layout.manifest.exists():
        TrainConfig.load(layout.config)  # says so where it is no run at all
        raise DataError(f"{run_dir} has no {MANIFEST_NAME}, the copy that says what the run was trained on")
    return read_manifest(str(run_dir), check_shards=False)


def refuse_embeddings(run_dir: pathlib.Path, purpose: str) -> None:
    """Refuse a run that was trained on embeddings where pictures are needed.

    Args:
      purpose: what needs pictures, as a word of the command: `explain`.

    Raises:
      UsageError: it was.
    """
    if embedding := trained_on(run_dir).embedding:
        raise UsageError(
            f"--run_dir={run_dir}: was trained on embeddings ({embedding}), and {purpose} needs a network "
            "that takes pictures; evaluate it with python -m cxr_train.evaluate --data=EMBEDDINGS"
        )


def is_own_data(run_dir: pathlib.Path, manifest: Manifest) -> bool:
    """Return whether `manifest` is of the data that the run was trained on, wherever that lies now."""
    return dataclasses.replace(trained_on(run_dir), directory=manifest.directory) == manifest


def usual_split(run_dir: pathlib.Path, config: TrainConfig, manifest: Manifest) -> str:
    """Return the split of some data to look at where none is named: the one that picked the run's best epoch,
    as a fold; `validation` for other data, or where the run trains on it.
    """
    return (config.held_out_validation if is_own_data(run_dir, manifest) else None) or "validation"


def epoch_rows(history: pathlib.Path) -> tuple[list[dict[str, Any]], list[int]]:
    """Return the epochs' rows, and the numbers (from 1) of the lines that are none, as one that a crash has
    cut off.
    """
    rows: list[dict[str, Any]] = []
    damaged = []
    content = storage.read_bytes(str(history)) if history.exists() else b""
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            rows.append(cast(dict[str, Any], checked(EpochRow, parse_json(line))))
        except ValueError:
            damaged.append(number)
    return rows, damaged


def best_epoch(config: TrainConfig, rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the row of the epoch that `best.keras` is of; None where there is none."""
    if config.held_out_validation is None:
        return rows[-1] if rows else None
    monitor = Monitor(config.monitor)
    best, best_value = None, monitor.worst
    for row in rows:
        value = monitor.value(row.get("validation"))
        if value is not None and monitor.improves(value, best_value):
            best, best_value = row, value
    return best


def initial_statistics_share(run_dir: pathlib.Path) -> float | None:
    """Return what the row of the best epoch says of `best.keras`' BatchNorm, see `loop.epoch_row`."""
    layout = RunLayout(run_dir)
    rows, _ = epoch_rows(layout.history)
    best = best_epoch(TrainConfig.load(layout.config), rows)
    return best.get("train", {}).get("initial_statistics_share") if best else None


def find_best_model(run_dir: pathlib.Path) -> pathlib.Path:
    """Return the path of `best.keras`. Raises DataError: there is none yet."""
    path = RunLayout(run_dir).best_model
    if not path.exists():
        raise DataError(
            f"{run_dir} has no {path.name}: no epoch was completed, or it was removed; with --resume the run "
            "puts back that of its newest checkpoint, and goes on"
        )
    return path


def model_sha256(run_dir: pathlib.Path) -> str | None:
    """Return the SHA-256 of `best.keras`; None where there is none yet."""
    path = RunLayout(run_dir).best_model
    return sha256_of(path) if path.exists() else None
