"""The map of the last stage over one image after the other: what a picture of a prediction shows."""

import pathlib
from collections.abc import Callable

import keras
import numpy as np

from cxr_train.explanation.gradcam import GradCam
from cxr_train.explanation.overlays import overlay
from cxr_train.models.classifier import in_float32
from cxr_train.models.stages import stage_outputs
from cxr_train.runs.documents import Explanation, read_document
from cxr_train.runs.layout import EXPLANATION_NAME, RunLayout
from cxr_train.runs.run_model import load_best_model
from cxr_train.runs.saved_run import model_sha256


def last_map(run_dir: pathlib.Path) -> Callable[[np.ndarray, int], np.ndarray]:
    """Return a function that lays the evidence for a class over an image.

    Returns:
      (image float32 [S, S, 3] in [0, 1], class index) -> float [S, S, 3] in [0, 1].

    Raises:
      DataError: the run has no best model.
    """
    loaded = in_float32(load_best_model(run_dir))
    # Keras' networks take a list of one input, and warn when they are given the input itself.
    model = keras.Model(loaded.inputs[0], loaded.output, name=loaded.name)
    cam = GradCam(model, stage_outputs(model)[-1:])

    def draw(image: np.ndarray, index: int) -> np.ndarray:
        maps, _ = cam(image[np.newaxis], np.array([index]))
        return overlay(image, maps[-1][0])

    return draw


def check_of_maps(run_dir: pathlib.Path) -> str:
    """Return the verdict of the occlusion check of the model that is there: `passed`, `failed`, `undecided`
    or, where there was none, `not made`.
    """
    layout, model = RunLayout(run_dir), model_sha256(run_dir)
    for split in sorted(layout.splits()):
        path = layout.explanation(split) / EXPLANATION_NAME
        if path.exists():
            document = read_document(path, Explanation)
            if document.get("model_sha256") == model:
                return str(document["occlusion"]["verdict"])
    return "not made"
