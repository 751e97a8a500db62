"""What a training run came to, without what depends on the clock: equal for equal runs, bit for bit."""

import json
import pathlib

import numpy as np
import tensorflow as tf
from tiny import results

from cxr_train.loop.checkpoint import newest_checkpoint


def state_of(run_dir: pathlib.Path) -> dict[str, np.ndarray]:
    """Every array of the last checkpoint: weights, optimizer, generators, position, best."""
    newest = newest_checkpoint(run_dir / "checkpoints")
    reader = tf.train.load_checkpoint(str(newest / "state"))
    names = [name for name in reader.get_variable_to_shape_map() if name != "_CHECKPOINTABLE_OBJECT_GRAPH"]
    return {name: reader.get_tensor(name) for name in names}


def evaluated_of(run_dir: pathlib.Path) -> tuple[str, dict]:
    """The predictions and metrics of the best model, but for the hash of its file, which holds times."""
    metrics = json.loads((run_dir / "metrics_validation.json").read_text())
    assert len(metrics.pop("model_sha256")) == 64
    return (run_dir / "predictions_validation.csv").read_text(), metrics


def results_of(run_dir: pathlib.Path) -> dict[str, object]:
    """All of it, by name."""
    predictions, metrics = evaluated_of(run_dir)
    state = {name: array.tobytes() for name, array in state_of(run_dir).items()}
    return {"rows": results(run_dir), "predictions": predictions, "metrics": metrics, **state}
