"""Explains a trained model on a split: maps, galleries, filters, and whether the maps mean something.

predictions -> cases -> Grad-CAM -> tiles and the figure of depths
images      -> occlusion check
best.keras and the initial weights -> pictures that excite the same channels
"""

import dataclasses
import json
import pathlib
import shutil
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from cxr_data.core import storage
from cxr_data.core.errors import DataError, UsageError
from cxr_data.core.local_store import publish, temporary_of
from cxr_data.core.progress_bar import progress_bar
from cxr_data.input.data_errors import clear_data_errors
from cxr_data.input.pipeline import Pipeline
from cxr_data.records.example import Fields
from cxr_data.records.index import read_split_fields
from cxr_train.engine.predict_step import PredictStep
from cxr_train.engine.strategy import choose_placement
from cxr_train.evaluation.forward_pass import Predictions, known_predictions, predict_split
from cxr_train.evaluation.stored import stored_thresholds
from cxr_train.explanation.cases import Case, asked_cases, pick_cases
from cxr_train.explanation.filters import excite, liveliest_channels
from cxr_train.explanation.gradcam import GradCam, Maps
from cxr_train.explanation.occlusion import OcclusionCheck, check_occlusion
from cxr_train.explanation.options import ExplainOptions, new_place
from cxr_train.explanation.overlays import depths_figure, filters_figure, tile
from cxr_train.models.backbones import find_backbone
from cxr_train.models.classifier import in_float32
from cxr_train.models.stages import check_layers, stage_outputs
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.layout import (
    DEPTHS_NAME,
    EXPLANATION_NAME,
    FILTERS_NAME,
    case_picture_name,
)
from cxr_train.runs.run_model import build_run_model, load_best_model
from cxr_train.runs.saved_run import model_sha256

# The depths are shown for a few images of different classes; more rows do not fit on a page.
_DEPTH_ROWS = 4
# In `stages.stage_outputs`, whose first entry is the first convolution.
_SECOND_STAGE = 2
# Filters do not depend on the size of the image, their cost does, with its square.
_FILTER_PIXELS = 128


class Explainer:
    """Explains one run on one split.

    Args:
      config: of the run.
      pipeline: of the data to explain, of the run's classes and size.
      options: what to explain.

    Raises:
      UsageError: an unknown class, image or layer, or there is an explanation already.
      DataError: there is no best model, or the split is not there.
    """

    def __init__(self, config: TrainConfig, pipeline: Pipeline, options: ExplainOptions) -> None:
        run_dir, options = pathlib.Path(config.run_dir), options.of_run(config, pipeline.manifest)
        self.directory = new_place(run_dir, pipeline.manifest, options)
        self._config = config
        self._pipeline = pipeline
        self._options = options
        self._names, self._of_findings = pipeline.manifest.class_names, bool(pipeline.manifest.findings)
        self._classes = [self._names.index(name) for name in options.classes or self._names]
        self._fields = read_split_fields(pipeline.manifest, options.split)
        self._asked = [self._position(name) for name in options.images]
        self._model = in_float32(load_best_model(run_dir))
        image = tf.TensorSpec([None, *self._model.input.shape[1:]], tf.float32)
        self._forward = tf.function(lambda x: self._model(x, training=False), input_signature=[image])
        self._layers = check_layers(self._model, options.layers) or stage_outputs(self._model)
        stages = stage_outputs(self._model)
        self._filter_layers = check_layers(
            self._model, options.filter_layers, "filter_layers"
        ) or dict.fromkeys((stages[min(_SECOND_STAGE, len(stages) - 1)], stages[-1]))
        self._cam = GradCam(self._model, self._layers)

    def explain(self) -> dict[str, Any]:
        """Write everything into `self.directory` and return what `explain.json` there says."""
        temporary = temporary_of(self.directory)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        with clear_data_errors(self._pipeline.manifest):
            cases, rows = self._cases()
            document = {
                "backbone": self._config.backbone,
                "data": self._pipeline.manifest.directory,
                "model_sha256": model_sha256(pathlib.Path(self._config.run_dir)),
                "split": self._options.split,
                "class_names": list(self._names),
                "layers": list(self._layers),
                "occlusion": self._check().to_json(),
                "cases": [
                    self._tile(temporary, number, case)
                    for number, case in enumerate(progress_bar("map cases", "images", len(cases), cases))
                ],
                "depths": self._depths(temporary, rows),
                "filters": self._filters(temporary),
            }
        storage.replace(temporary / EXPLANATION_NAME, (json.dumps(document, indent=2) + "\n").encode())
        if self.directory.exists():
            shutil.rmtree(self.directory)
        publish(temporary, self.directory)
        return document

    def _position(self, image_id: str) -> int:
        for position, field in enumerate(self._fields):
            if field.id == image_id:
                return position
        raise UsageError(
            f"--images={image_id}: no such image in the {self._options.split} split; "
            f"ids are like {self._fields[0].id}"
        )

    def _predict(self, images: np.ndarray) -> np.ndarray:
        logits: np.ndarray = self._forward(tf.constant(images, tf.float32)).numpy()
        return logits

    def _cases(self) -> tuple[list[Case], list[Case]]:
        """Pick the cases of the galleries, and those whose depths are shown."""
        # Of the findings, whose probabilities may all be below 0.5.
        stored = stored_thresholds(pathlib.Path(self._config.run_dir)) if self._of_findings else {}
        thresholds = np.array([stored.get(name, 0.5) for name in self._names])
        known = known_predictions(pathlib.Path(self._config.run_dir), self._pipeline, self._options.split)
        predictions = known[0] if known else self._predict_split()
        probabilities = known[1].probabilities if known else predictions.probabilities
        cases = pick_cases(
            predictions.index,
            predictions.labels,
            probabilities,
            self._names,
            self._classes,
            each=self._options.gallery_size,
            thresholds=thresholds,
        )
        if not self._asked:
            first = {case.mapped: case for case in reversed(cases) if case.kind == "true_positive"}
            wrong = [case for case in cases if case.kind == "false_negative"]
            return cases, [*(first[key] for key in sorted(first)), *wrong][:_DEPTH_ROWS]
        rows = []
        for position in self._asked:
            row = int(np.flatnonzero(predictions.index == position)[0])
            scores, label = probabilities[row], predictions.labels[row]
            rows += asked_cases(position, label, scores, self._names, thresholds)
        return cases, rows

    def _predict_split(self) -> Predictions:
        placement = choose_placement("one", "float32", "off")
        return predict_split(
            self._pipeline,
            self._options.split,
            PredictStep(self._model, placement),
            placement,
            batch_size=self._config.images_at_once,
        )

    def _check(self) -> OcclusionCheck:
        positions = self._pipeline.positions(self._options.split)
        rng = np.random.default_rng(self._config.seed)
        count = min(self._options.check_images, len(positions))
        positions = np.sort(rng.choice(positions, count, replace=False))
        checked = [self._fields[position] for position in positions]
        return check_occlusion(
            self._cam,
            self._predict,
            lambda number: self._read([positions[number]])[0],
            np.array([fields.group for fields in checked]),
            self._mean_pixel(positions),
            without_patient=sum(not fields.has_patient for fields in checked),
            seed=self._config.seed,
        )

    def _mean_pixel(self, positions: np.ndarray) -> np.ndarray:
        """Return the mean of the training pixels, float [3]; of `positions` where the manifest has none."""
        mean = self._pipeline.manifest.mean
        if mean:
            return np.broadcast_to(np.asarray(mean), [3])
        return np.mean([self._read([position]).mean(axis=(0, 1, 2)) for position in positions], axis=0)

    def _read(self, positions: list[int]) -> np.ndarray:
        return self._pipeline.images(self._options.split, np.asarray(positions, np.int64))

    def _maps(self, image: np.ndarray, classes: tuple[int, ...]) -> Maps:
        """Return the maps of one image, for every layer [len(classes), h, w]."""
        maps, _ = self._cam(np.repeat(image[np.newaxis], len(classes), axis=0), np.array(classes))
        return maps

    def _describe(self, case: Case) -> dict[str, Any]:
        field: Fields = self._fields[case.position]
        return {
            "kind": case.kind,
            "mapped": [self._names[index] for index in case.mapped],
            "id": field.id,
            "group": field.group,
            "label": case.label,
            "predicted": case.predicted,
            "probability": case.probability,
            "label_probability": case.label_probability,
        }

    def _tile(self, directory: pathlib.Path, number: int, case: Case) -> dict[str, Any]:
        image = self._read([case.position])[0]
        heats = self._maps(image, case.mapped)[-1]
        name = case_picture_name(case.kind, number)
        storage.replace(directory / name, tile(image, list(heats)))
        return {"file": name, **self._describe(case), "flat": [not heat.any() for heat in heats]}

    def _depths(self, directory: pathlib.Path, cases: list[Case]) -> dict[str, Any] | None:
        if not cases:
            return None
        images = [self._read([case.position])[0] for case in cases]
        by_case = [self._maps(image, case.mapped[:1]) for image, case in zip(images, cases, strict=True)]
        maps = [np.concatenate(layer) for layer in zip(*by_case, strict=True)]
        rows = [
            f"{case.label}, called {case.predicted}\nevidence for {self._names[case.mapped[0]]}"
            for case in cases
        ]
        storage.replace(directory / DEPTHS_NAME, depths_figure(np.stack(images), maps, rows, self._layers))
        return {"file": DEPTHS_NAME, "rows": [self._describe(case) for case in cases]}

    def _filters(self, directory: pathlib.Path) -> dict[str, Any] | None:
        """Show what the same channels look for before and after training."""
        if not self._options.filters:
            return None
        smallest = find_backbone(self._config.backbone).smallest_image
        size = max(smallest, min(self._pipeline.manifest.size, _FILTER_PIXELS))
        untrained = dataclasses.replace(self._config, weights="none")
        after = initial_model(untrained, len(self._names), size)
        after.set_weights(self._model.get_weights())
        models = {"after": after}
        weights = {"none": "random initial weights", "imagenet": "ImageNet weights"}
        before = weights.get(self._config.weights, self._config.weights)
        try:
            models = {"before": initial_model(self._config, len(self._names), size), **models}
        except DataError as error:
            before = f"not shown: {error}"
        sample = self._read(self._pipeline.positions(self._options.split)[:8].tolist())
        rows, described = [], []
        with progress_bar("show filters", "rows", len(self._filter_layers) * len(models)) as bar:
            for name in self._filter_layers:
                channels = liveliest_channels(self._model, name, sample, self._options.filters)
                described.append({"layer": name, "channels": channels})
                number = [layer.name for layer in self._model.layers].index(name)
                titles = [f"channel {channel}" for channel in channels]
                for label, model in models.items():
                    # The same layer, but Keras numbers the names of those that have none of their own.
                    its_name = model.layers[number].name
                    pictures = excite(model, its_name, channels, steps=self._options.filter_steps)
                    rows.append((f"{name}\n{label} training", titles, pictures))
                    bar.update()
        storage.replace(directory / FILTERS_NAME, filters_figure(rows))
        return {"file": FILTERS_NAME, "layers": described, "before": before}


def initial_model(config: TrainConfig, classes: int, image_size: int) -> keras.Model:
    """Return the network of a run as it was before the first step, in float32.

    Args:
      config: of the run.
      classes: number of outputs.
      image_size: height and width of the input; need not be that of the run.

    Raises:
      DataError: the weights that it started from cannot be had any more.
    """
    keras.utils.set_random_seed(config.seed)
    return build_run_model(config, classes=classes, image_size=image_size)
