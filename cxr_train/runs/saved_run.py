"""A run directory, read back: what it was trained on, and which model it has."""

import dataclasses
import pathlib

from cxr_data.core.errors import DataError
from cxr_data.core.local_store import sha256_of
from cxr_data.records.layout import MANIFEST_NAME
from cxr_data.records.manifest import Manifest, read_manifest
from cxr_train.runs.layout import RunLayout


def trained_on(run_dir: pathlib.Path) -> Manifest:
    """Return the manifest of the data that a run was trained on; its `directory` is the run's.

    Raises:
      DataError: the run directory has no copy of it, or it is damaged.
    """
    if not RunLayout(run_dir).manifest.exists():
        raise DataError(f"{run_dir} has no {MANIFEST_NAME}, the copy that says what the run was trained on")
    return read_manifest(str(run_dir), check_shards=False)


def is_own_data(run_dir: pathlib.Path, manifest: Manifest) -> bool:
    """Return whether `manifest` is of the data that the run was trained on, wherever that lies now."""
    return dataclasses.replace(trained_on(run_dir), directory=manifest.directory) == manifest


def model_sha256(run_dir: pathlib.Path) -> str | None:
    """Return the SHA-256 of `best.keras`; None where there is none yet."""
    path = RunLayout(run_dir).best_model
    return sha256_of(path) if path.exists() else None
