"""The trainer: backbones, compiled steps, metrics and evaluation.

For programs it has `train` with a `TrainConfig`, and `load_run`, which gives a `Run`: its model, what it
measured, and its evaluation on other images. They are imported when they are first used, since TensorFlow
takes seconds.
"""

from typing import TYPE_CHECKING

# Before any module here imports TensorFlow: `cxr_data` keeps its chatter off the terminal.
import cxr_data  # noqa: F401
from cxr_data.core.lazy_names import importer

if TYPE_CHECKING:
    from cxr_train.evaluation.options import EvaluationOptions
    from cxr_train.lifecycle.trained_run import Run, load_run
    from cxr_train.lifecycle.training import train
    from cxr_train.loop.stop import Stopped
    from cxr_train.recipe.recipe import Recipe
    from cxr_train.runs.config import TrainConfig

__all__ = ["EvaluationOptions", "Recipe", "Run", "Stopped", "TrainConfig", "load_run", "train"]

_MODULES = {
    "EvaluationOptions": "cxr_train.evaluation.options",
    "Recipe": "cxr_train.recipe.recipe",
    "Run": "cxr_train.lifecycle.trained_run",
    "Stopped": "cxr_train.loop.stop",
    "TrainConfig": "cxr_train.runs.config",
    "load_run": "cxr_train.lifecycle.trained_run",
    "train": "cxr_train.lifecycle.training",
}

__getattr__ = importer(__name__, _MODULES)
