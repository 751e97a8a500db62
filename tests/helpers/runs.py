"""Run directories with a tiny model in them, as a training run leaves them."""

import pathlib
import shutil
from typing import Any

import keras
import numpy as np

from cxr_data.input.pipeline import Pipeline
from cxr_data.records.layout import MANIFEST_NAME
from cxr_data.records.manifest import Manifest
from cxr_train.engine.predict_step import PredictStep
from cxr_train.engine.strategy import choose_placement
from cxr_train.evaluation.evaluator import evaluate_split
from cxr_train.evaluation.options import EvaluationOptions
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.run_model import save_model


def tiny_model(classes: int, size: int, seed: int = 0, policy: str = "float32") -> keras.Model:
    """Images [B, size, size, 3] to logits [B, classes]; far from zero, so that classes differ."""
    keras.utils.set_random_seed(seed)
    images = keras.Input((size, size, 3), name="image")
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu", dtype=policy)(images)
    x = keras.layers.BatchNormalization(dtype=policy)(x)
    x = keras.layers.Flatten(dtype=policy)(x)
    wide = keras.initializers.RandomNormal(stddev=0.5, seed=seed)
    return keras.Model(
        images, keras.layers.Dense(classes, kernel_initializer=wide, name="logits", dtype="float32")(x)
    )


def make_run(
    run_dir: pathlib.Path, manifest: Manifest, seed: int = 0, policy: str = "float32"
) -> keras.Model:
    """Makes a run on the data of `manifest`, of a Keras dtype policy, and returns its model."""
    run_dir.mkdir(parents=True)
    config = TrainConfig("mobilenet_v2", manifest.directory, str(run_dir), batch_size=4, weights="none")
    config.save(run_dir / "config.json")
    shutil.copy(pathlib.Path(manifest.directory, MANIFEST_NAME), run_dir)
    model = tiny_model(len(manifest.class_names), manifest.size, seed, policy)
    save_model(model, run_dir / "best.keras")
    return model


def probabilities_of(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """float64 [N, C] of float32 images [N, S, S, 3] in [0, 1]."""
    logits = model.predict(images, verbose=0).astype(np.float64)
    likelihoods = np.exp(logits - logits.max(axis=1, keepdims=True))
    return likelihoods / likelihoods.sum(axis=1, keepdims=True)


def evaluated(
    run_dir: pathlib.Path,
    manifest: Manifest,
    model: keras.Model,
    split: str,
    *,
    batch_size: int = 4,
    **options: Any,
) -> dict[str, Any]:
    """Evaluates on one device, with few resamples; `options` are those of `EvaluationOptions`."""
    return evaluate_split(
        run_dir,
        Pipeline(manifest),
        split,
        PredictStep(model, choose_placement("one", "float32", "off")),
        batch_size=batch_size,
        options=EvaluationOptions(resamples=100, **options),
    )
