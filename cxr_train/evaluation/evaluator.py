"""The evaluation of a model on a split: its predictions to a CSV, its metrics to JSON.

`metrics_{split}.json`, undefined numbers being null:

    schema            "cxr.metrics/1"
    split, data       what was evaluated
    own_data          whether it is a split of the data that the run was trained on
    model_sha256      of the run's best.keras
    seen_in_training  whether the model was trained on these very images
    dropped           images left out by --class_map, by their class
    loss              mean cross-entropy, in nats
    images, class_names, confusion_matrix, accuracy, macro, per_class, left_out
                      see `metrics.summarize`
    intervals         see `intervals.metric_intervals`; without_patient: images of no known patient, each
                      resampled as a patient of its own
    calibration       uncalibrated: see `calibration.measure_calibration`; temperature, fitted_on (a split),
                      calibrated: the same at that temperature; all three null without validation data,
                      temperature and calibrated also where none is the best (`fit_temperature`)
    thresholds        null, or at_sensitivity, chosen_on (a split), and `thresholds.report_thresholds`
    comparison        null, or see `compare.compare_models`

With `own_data` and `fitted_on` or `chosen_on` the split itself, these numbers are of the very images
that temperature or thresholds were chosen on, and flatter.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import keras

from cxr_data.core import storage
from cxr_data.core.errors import DataError, UsageError
from cxr_data.input.pipeline import Pipeline
from cxr_data.records.manifest import Manifest, joined_splits
from cxr_data.stats.bootstrap import RESAMPLES, PatientBootstrap
from cxr_train.engine.step import PredictStep
from cxr_train.engine.strategy import Placement
from cxr_train.evaluation import calibration, intervals, metrics, thresholds
from cxr_train.evaluation.class_map import ClassMap, map_classes
from cxr_train.evaluation.compare import compare_models
from cxr_train.evaluation.predictions import (
    NamedPredictions,
    name_predictions,
    predict_split,
    read_predictions,
    write_predictions,
)
from cxr_train.runs.layout import BEST_NAME, EXTERNAL_NAME, RunLayout
from cxr_train.runs.saved_run import is_own_data, model_sha256, trained_on

SCHEMA = "cxr.metrics/1"


@dataclasses.dataclass(frozen=True)
class EvaluationOptions:
    """What an evaluation computes.

    Attributes:
      resamples, seed: of the patient bootstrap.
      train_split: of the run, maybe several joined by `+`.
      validation_split: of the run; temperature and thresholds are chosen on it. None where it was
        trained on: what is chosen on images that the model knows is wrong for others.
      at_sensitivity: in (0, 1], the sensitivity at which thresholds are chosen; None for none.
      compare: where another run's predictions of the same data are; None for none.
      class_map: by their class name, ours or "-", see `class_map`.

    Raises:
      UsageError: a value that makes no sense, naming its flag.
    """

    resamples: int = RESAMPLES
    seed: int = 0
    train_split: str = "train"
    validation_split: str | None = "validation"
    at_sensitivity: float | None = None
    compare: pathlib.Path | None = None
    class_map: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.resamples < 100:
            raise UsageError(f"--resamples={self.resamples}: a 95 % interval needs at least 100")
        if self.at_sensitivity is not None and not 0 < self.at_sensitivity <= 1:
            raise UsageError(f"--at_sensitivity={self.at_sensitivity}: choose from above 0 to 1, as 0.95")


def analyse(
    predictions: NamedPredictions,
    options: EvaluationOptions,
    *,
    validation: NamedPredictions | None = None,
    other: NamedPredictions | None = None,
) -> dict[str, Any]:
    """Everything in `metrics_{split}.json` that follows from predictions alone.

    Args:
      predictions: of the images to evaluate.
      options: of them, `resamples`, `seed` and `at_sensitivity` are used.
      validation: where temperature and thresholds are chosen.
      other: another model's, to compare with.

    Raises:
      UsageError: thresholds are asked for without `validation`.
      DataError: `other` is of other images or labels.
    """
    labels, probabilities = predictions.labels, predictions.probabilities
    names = predictions.class_names
    bootstrap = PatientBootstrap.of_names(predictions.groups, resamples=options.resamples, seed=options.seed)
    uncalibrated = calibration.measure_calibration(labels, probabilities)
    return {
        "loss": uncalibrated["negative_log_likelihood"],
        **metrics.summarize(labels, probabilities, names),
        "intervals": {
            **intervals.metric_intervals(labels, probabilities, names, bootstrap),
            "without_patient": predictions.without_patient,
        },
        "calibration": {"uncalibrated": uncalibrated, **_calibrated(predictions, options, validation)},
        "thresholds": _thresholds(predictions, options, validation, bootstrap),
        "comparison": None if other is None else compare_models(predictions, other, bootstrap),
    }


def _calibrated(
    predictions: NamedPredictions, options: EvaluationOptions, validation: NamedPredictions | None
) -> dict[str, Any]:
    if validation is None:
        return {"temperature": None, "fitted_on": None, "calibrated": None}
    temperature = calibration.fit_temperature(validation.labels, validation.probabilities)
    if temperature is None:
        return {"temperature": None, "fitted_on": options.validation_split, "calibrated": None}
    cooled = calibration.apply_temperature(predictions.probabilities, temperature)
    return {
        "temperature": temperature,
        "fitted_on": options.validation_split,
        "calibrated": calibration.measure_calibration(predictions.labels, cooled),
    }


def _thresholds(
    predictions: NamedPredictions,
    options: EvaluationOptions,
    validation: NamedPredictions | None,
    bootstrap: PatientBootstrap,
) -> dict[str, Any] | None:
    if options.at_sensitivity is None:
        return None
    if validation is None:
        raise UsageError(
            f"--at_sensitivity: the thresholds are chosen on the {options.validation_split} split, and "
            "this run has no predictions of it: evaluate that first"
            if options.validation_split
            else "--at_sensitivity: the thresholds are chosen on validation images, and this run knows them"
        )
    chosen = thresholds.choose_thresholds(validation.labels, validation.probabilities, options.at_sensitivity)
    reported = thresholds.report_thresholds(
        predictions.labels, predictions.probabilities, chosen, predictions.class_names, bootstrap
    )
    return {
        "at_sensitivity": options.at_sensitivity,
        "chosen_on": options.validation_split,
        **reported,
    }


def evaluate_split(
    run_dir: pathlib.Path,
    pipeline: Pipeline,
    split: str,
    model: keras.Model,
    placement: Placement,
    *,
    batch_size: int,
    options: EvaluationOptions | None = None,
    output: pathlib.Path | None = None,
    check_stop: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Evaluates `model` on `split`; writes `predictions_{split}.csv` and `metrics_{split}.json`.

    Args:
      run_dir: of the model; validation predictions are looked for in it.
      pipeline: of the data, the run's own or other data.
      batch_size: global.
      output: receives the two files; the run directory by default.
      check_stop: see `predict_split`.

    Returns:
      What was written as JSON, see the head of this file.

    Raises:
      UsageError, DataError: the data does not fit the model, a record is damaged, or as `analyse`.
    """
    options = options or EvaluationOptions()
    manifest = pipeline.manifest
    own = is_own_data(run_dir, manifest)
    mapped = class_map_for(run_dir, manifest, options.class_map)
    other = None if options.compare is None else _other_predictions(options.compare, split)
    predict = PredictStep(model, placement)
    predicted = predict_split(
        pipeline, split, predict, placement, batch_size=batch_size, check_stop=check_stop
    )
    dropped = mapped.dropped(predicted.labels)
    labels, kept = mapped.labels(predicted.labels)
    named = name_predictions(predicted, manifest, split, mapped.ours, f"this run ({run_dir})")
    named = named.keep(kept, labels)
    if not named.ids:
        raise DataError(f"--class_map leaves out every image of the {split} split of {manifest.directory}")
    validation = None
    if own and split == options.validation_split:
        validation = named
    elif options.validation_split:
        validation = stored_predictions(run_dir, options.validation_split)
    summary = {
        "schema": SCHEMA,
        "split": split,
        "data": manifest.directory,
        "own_data": own,
        "model_sha256": model_sha256(run_dir),
        "seen_in_training": own and split in joined_splits(options.train_split),
        "dropped": dropped,
        **analyse(named, options, validation=validation, other=other),
    }
    layout = RunLayout(output or run_dir)
    layout.directory.mkdir(parents=True, exist_ok=True)
    write_predictions(layout.predictions(split), named)
    storage.replace(layout.metrics(split), (json.dumps(summary, indent=2) + "\n").encode())
    return summary


def class_map_for(
    run_dir: pathlib.Path, manifest: Manifest, names: Mapping[str, str] | None = None
) -> ClassMap:
    """Checks that data fits the model of a run, and says which of its classes is which of the model's.

    Args:
      manifest: of the data.
      names: see `class_map.map_classes`.

    Raises:
      DataError: the images have another size, or a class is unknown to the model.
      UsageError: `names` do not fit.
    """
    expected = trained_on(run_dir)
    if manifest.size != expected.size:
        raise DataError(
            f"{manifest.directory} has images of {manifest.size} px, the run {run_dir} was trained on "
            f"{expected.size}: convert with python -m tools.make_tfrecords --size={expected.size}"
        )
    for name in ("kernel", "color", "crop_border", "equalize_to"):
        if getattr(manifest, name) != getattr(expected, name):
            raise DataError(
                f"{manifest.directory} was made with {name} {getattr(manifest, name)!r}, the data of the run "
                f"{run_dir} with {getattr(expected, name)!r}: convert it the same way"
            )
    return map_classes(manifest.class_names, expected.class_names, names or {})


def place_of(run_dir: pathlib.Path, manifest: Manifest, *, named: bool) -> pathlib.PurePath:
    """Where below a run directory the evaluation of some data goes: "" for the run's own.

    Args:
      named: whether the user named that data, so that it may be other data.

    Raises:
      DataError: it is other data, and was not named.
    """
    if is_own_data(run_dir, manifest):
        return pathlib.PurePath()
    if not named:
        raise DataError(
            f"{manifest.directory} is not the data that {run_dir} was trained on any more: name it with "
            "--data to evaluate it as other data"
        )
    return pathlib.PurePath(EXTERNAL_NAME, os.path.basename(os.path.abspath(manifest.directory)))


def refuse_to_replace(output: pathlib.Path, split: str, run_dir: pathlib.Path, manifest: Manifest) -> None:
    """Checks that an evaluation replaces at most an earlier one of the same data.

    Raises:
      UsageError: `output` has the evaluation of a split of this name of other data, or is no folder.
    """
    path = RunLayout(output).metrics(split)
    try:
        earlier = json.loads(path.read_text())
        there, own = earlier["data"], earlier["own_data"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return
    except NotADirectoryError as error:
        raise UsageError(
            f"{output}: is no folder, or below a file: give another place with --output"
        ) from error
    if there != manifest.directory and not (own and is_own_data(run_dir, manifest)):
        raise UsageError(
            f"{output}: {path.name} there is of {there}, not of {manifest.directory}: give another place "
            "with --output"
        )


def refuse_in_the_run(manifest: Manifest, *, own: bool, class_map: Mapping[str, str]) -> None:
    """Checks that what is to be written into a run directory itself is of the run's own images, all of them.

    Its temperature and its thresholds are chosen on the predictions there, and its page shows them.

    Args:
      manifest: of the data to evaluate.
      own: whether it is the run's.
      class_map: of the evaluation.

    Raises:
      UsageError: it is other data, or classes are renamed or left out.
    """
    if not own:
        raise UsageError(
            f"--output: the run directory is for its own data, not for {manifest.directory}: choose another"
        )
    if class_map:
        raise UsageError(
            "--class_map: is for other data; to leave classes of the run's own out, or to take two for one, "
            "give a place outside of the run with --output"
        )


def refuse_other_classes(run_dir: pathlib.Path, manifest: Manifest) -> None:
    """Checks that data has the model's own classes, in its order. Raises as `class_map_for`."""
    expected = trained_on(run_dir).class_names
    if manifest.class_names != expected:
        raise DataError(
            f"{manifest.directory} has the classes {', '.join(manifest.class_names)}, the run {run_dir} "
            f"{', '.join(expected)}"
        )
    class_map_for(run_dir, manifest)


def stored_predictions(run_dir: pathlib.Path, split: str) -> NamedPredictions | None:
    """The predictions that the run's best model has made of a split of its own data.

    Returns:
      None where there are none, or they are another model's.
    """
    said_by = _model_of(run_dir, split)
    if said_by is None or said_by != model_sha256(run_dir):
        return None
    return read_predictions(RunLayout(run_dir).predictions(split))


def fitted_temperature(run_dir: pathlib.Path, validation_split: str | None) -> float:
    """The temperature that was fitted on the run's validation split, for its best model.

    Args:
      validation_split: of the run; None where it was trained on.

    Raises:
      DataError: there is none, and why.
    """
    if validation_split is None:
        raise DataError(f"no temperature: {run_dir} was trained on its validation split")
    stored = stored_predictions(run_dir, validation_split)
    if stored is None:
        raise DataError(
            f"no temperature: {run_dir} has no predictions of its {validation_split} split by its best "
            f"model; python -m cxr_train.evaluate --run_dir={run_dir} --split={validation_split} makes them"
        )
    temperature = calibration.fit_temperature(stored.labels, stored.probabilities)
    if temperature is None:
        raise DataError(
            f"no temperature: on the {validation_split} split of {run_dir} none is the best, since every "
            "image is right, or the probabilities say nothing"
        )
    return temperature


def _other_predictions(place: pathlib.Path, split: str) -> NamedPredictions:
    path = RunLayout(place).predictions(split)
    if not path.exists():
        raise DataError(
            f"--compare: {place}: no {path.name} there; evaluate that run on the same data first, with "
            "python -m cxr_train.evaluate and the same --data and --split"
        )
    # Those of other data are in a folder of the run.
    models = (model_sha256(folder) for folder in (place, *place.parents[:2]))
    now = next((model for model in models if model), None)
    if now and _model_of(place, split) not in (now, None):
        raise DataError(
            f"--compare: {path} is of an earlier {BEST_NAME} of that run; evaluate it again, with "
            "python -m cxr_train.evaluate and the same --data and --split"
        )
    return read_predictions(path)


def _model_of(place: pathlib.Path, split: str) -> str | None:
    """The SHA-256 of the model that an evaluation there is of; None where it is not known."""
    try:
        found = json.loads(RunLayout(place).metrics(split).read_text())["model_sha256"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return str(found)
