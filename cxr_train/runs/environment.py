"""What a run ran on: versions, commit, machine. Written when it starts, for its report."""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
from collections.abc import Sequence
from typing import Any

from cxr_data.core import storage
from cxr_data.core.choice import Choice
from cxr_train.runs.layout import RunLayout

_PACKAGES = ("cxr", "tensorflow", "tensorflow-io", "keras", "numpy", "opencv-python-headless")


def describe_environment(choices: Sequence[Choice] = ()) -> dict[str, Any]:
    """Describe this process; ready for JSON.

    Args:
      choices: the settings in force, with the reason where `auto` chose.

    Returns:
      started (UTC), python and a version for each package (null where it is not installed),
      commit of the source (null outside of a git checkout, with `+changes` where files differ
      from it), platform, cpus, gpus, and the choices as text.
    """
    import tensorflow as tf  # here, since a run directory is opened before it is loaded

    gpus = tf.config.list_physical_devices("GPU")
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        "commit": _commit(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "gpus": [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus],
        "choices": [str(choice) for choice in choices],
    }


def write_environment(run_dir: pathlib.Path, choices: Sequence[Choice]) -> None:
    """Write `describe_environment` into a run directory."""
    text = json.dumps(describe_environment(choices), indent=2) + "\n"
    storage.replace(RunLayout(run_dir).environment, text.encode())


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Return the commit of the checkout that this file is in; None where there is no git or no checkout."""
    line = ["git", "-C", str(pathlib.Path(__file__).parent), "describe"]
    line += ["--always", "--abbrev=12", "--exclude=*", "--dirty=+changes"]
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
