"""Evaluates, explains and reports an untrained backbone in mixed float16; prints what came out as JSON.

    python tests/explained_backbone.py BACKBONE DIRECTORY

A program of its own, as `compiled_steps.py`, for a process for each network: TensorFlow keeps the memory.
"""

import json
import pathlib
import re
import shutil
import sys

import keras
import numpy as np
from shards import random_images, write_shards

from cxr_data.input.pipeline import Pipeline
from cxr_data.records.layout import MANIFEST_NAME
from cxr_train.engine.predict_step import PredictStep
from cxr_train.engine.strategy import choose_placement
from cxr_train.evaluation.evaluator import evaluate_split
from cxr_train.evaluation.options import EvaluationOptions
from cxr_train.explanation.explainer import Explainer
from cxr_train.explanation.gradcam import GradCam
from cxr_train.explanation.options import ExplainOptions
from cxr_train.models.backbones import BACKBONES
from cxr_train.models.classifier import build_model, in_float32
from cxr_train.reporting.page import write_report
from cxr_train.reporting.record import RunRecord
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.run_model import load_best_model

CLASSES = 3


def explain(backbone: str, directory: pathlib.Path) -> dict[str, object]:
    """Saves the network as a run would, explains it, reports it, and compares it with its float32 twin."""
    size = max(96, BACKBONES[backbone].smallest_image)
    data = write_shards(directory / "data", {"validation": random_images(4, size)})
    run_dir = directory / "run"
    run_dir.mkdir()
    config = TrainConfig(
        backbone=backbone,
        data=data.directory,
        run_dir=str(run_dir),
        weights="none",
        batch_size=4,
        precision="mixed_float16",
        input_range="imagenet",
    )
    config.save(run_dir / "config.json")
    shutil.copy(pathlib.Path(data.directory, MANIFEST_NAME), run_dir)
    options = {"classes": CLASSES, "image_size": size, "weights": "none", "input_range": "imagenet"}
    keras.utils.set_random_seed(1)
    trained = build_model(backbone, dtype_policy="mixed_float16", **options)
    trained.save(run_dir / "best.keras")
    twin = build_model(backbone, **options)
    twin.set_weights(trained.get_weights())

    explained = ExplainOptions(gallery_size=1, check_images=2, filters=1, filter_steps=2)
    document = Explainer(config, Pipeline(data), explained).explain()

    evaluated = evaluate_split(
        run_dir,
        Pipeline(data),
        "validation",
        PredictStep(load_best_model(run_dir), choose_placement("one", config.precision, "off")),
        batch_size=4,
        options=EvaluationOptions(resamples=100),
    )
    page = write_report(run_dir).read_text()
    images = random_images(2, size)
    model = in_float32(load_best_model(run_dir))
    difference = np.abs(model(images).numpy() - twin(images).numpy()).max()
    cam = GradCam(model, document["layers"])
    maps = [cam(images, np.full(2, shown))[0] for shown in range(CLASSES)]
    return {
        "layers": document["layers"],
        "resolutions": [layer.shape[1] for layer in maps[0]],
        "finite": all(np.isfinite(layer).all() for layers in maps for layer in layers),
        "evidence": [max(float(layers[depth].max()) for layers in maps) for depth in range(len(cam.layers))],
        "difference_to_float32": float(difference),
        "loss": evaluated["loss"],
        "images": len({case["id"] for case in document["cases"]}),
        "pictures": re.findall(r'<img [^>]*alt="([\w-]+)', page),
        "problems": RunRecord.read(run_dir).problems,
        "files": sorted(path.name for path in (run_dir / "explain/validation").iterdir()),
    }


if __name__ == "__main__":
    print(json.dumps(explain(sys.argv[1], pathlib.Path(sys.argv[2]))))
