"""The stored evaluations: where each lies, what may replace it, and which model made it."""

import logging
import os
import pathlib
from collections.abc import Mapping

from cxr_data.core.errors import DataError, UsageError
from cxr_data.core.settings import check_folder
from cxr_data.core.wording import typed
from cxr_data.records.manifest import Manifest
from cxr_data.records.split_names import have_common_images
from cxr_train.evaluation.calibration import Line, fit_platt, fit_temperature
from cxr_train.evaluation.predictions import NamedPredictions, read_predictions
from cxr_train.evaluation.wording import rule_of_thresholds
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.documents import read_document
from cxr_train.runs.layout import BEST_NAME, EXTERNAL_NAME, RunLayout
from cxr_train.runs.metrics_document import Metrics, OfData, OfModel
from cxr_train.runs.saved_run import is_own_data, model_sha256

logger = logging.getLogger(__name__)


def place_of(run_dir: pathlib.Path, manifest: Manifest, *, named: bool) -> pathlib.PurePath:
    """Return where below a run directory the evaluation of some data goes: "" for the run's own.

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
    """Check that an evaluation replaces at most an earlier one of the same data.

    Raises:
      UsageError: `output` has the evaluation of a split of this name of other data, or is no folder.
    """
    check_folder("output", output)
    path = RunLayout(output).metrics(split)
    try:
        earlier = read_document(path, OfData)
    except DataError:
        return
    there, own = earlier["data"], earlier["own_data"]
    if there != manifest.directory and not (own and is_own_data(run_dir, manifest)):
        raise UsageError(
            f"{output}: {path.name} there is of {there}, not of {manifest.directory}: give another place "
            "with --output"
        )


def refuse_in_the_run(manifest: Manifest, *, own: bool, class_map: Mapping[str, str]) -> None:
    """Check that results for the run directory itself are of the run's own images, all of them.

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
            "--class_map: is for other data; to leave classes of the run's own out, or to merge two, "
            "give a place outside of the run with --output"
        )


def stored_predictions(run_dir: pathlib.Path, split: str) -> NamedPredictions | None:
    """Return the predictions that the run's best model has made of a split of its own data.

    Returns:
      None where there are none, or they are another model's.
    """
    said_by = _model_of(run_dir, split)
    if said_by is None or said_by != model_sha256(run_dir):
        return None
    return read_predictions(RunLayout(run_dir).predictions(split))


def fitted_temperature(run_dir: pathlib.Path, validation_split: str | None) -> float:
    """Return the temperature that was fitted on the run's validation split, for its best model.

    Args:
      validation_split: of the run; None where it was trained on.

    Raises:
      DataError: there is none, and why.
    """
    stored = _validated(run_dir, validation_split, "no temperature")
    temperature = fit_temperature(stored.labels, stored.probabilities)
    if temperature is None:
        raise DataError(
            f"no temperature: on the {validation_split} split of {run_dir} none is the best, since every "
            "image is right, or the probabilities say nothing"
        )
    return temperature


def fitted_platt(run_dir: pathlib.Path, validation_split: str | None) -> dict[str, Line | None]:
    """Return by finding the line that was fitted on the run's validation split, see `fit_platt`.

    Args:
      validation_split: as of `fitted_temperature`.

    Raises:
      DataError: no finding has one, and why.
    """
    stored = _validated(run_dir, validation_split, "no line of a finding")
    lines = fit_platt(stored.labels, stored.probabilities)
    if not any(lines):
        raise DataError(
            f"no line of a finding: on the {validation_split} split of {run_dir} each finding is in too few "
            "images, or its probabilities say nothing"
        )
    return dict(zip(stored.class_names, lines, strict=True))


def _validated(run_dir: pathlib.Path, split: str | None, lack: str) -> NamedPredictions:
    """Return the predictions of the validation split. Raises DataError, which begins with `lack`."""
    if split is None:
        raise DataError(f"{lack}: {run_dir} was trained on its validation split")
    stored = stored_predictions(run_dir, split)
    if stored is None:
        raise DataError(
            f"{lack}: {run_dir} has no predictions of its {split} split by its best "
            f"model; python -m cxr_train.evaluate {typed(run_dir=run_dir, split=split)} makes them"
        )
    return stored


def stored_thresholds(run_dir: pathlib.Path) -> dict[str, float]:
    """Return by class name the thresholds that the best model was evaluated with; empty where there are none.

    All are chosen on the validation split, by the rule that was asked for when a split was evaluated. Those
    of the test split are taken, else those of the validation split, else of another split that was held
    out, in the order of names. A line in the log says which.
    """
    layout, model = RunLayout(run_dir), model_sha256(run_dir)
    config = TrainConfig.load(layout.config)
    order = ["test", *filter(None, [config.held_out_validation]), *sorted(layout.splits())]
    for split in dict.fromkeys(order):
        if have_common_images(split, config.train_split) or _model_of(run_dir, split) != model:
            continue
        found = read_document(layout.metrics(split), Metrics).get("thresholds")
        if found:
            logger.info(
                "thresholds %s, chosen on %s, are those of %s",
                rule_of_thresholds(found),
                found["chosen_on"],
                layout.metrics(split).name,
            )
            rows = found["per_class"].items()
            return {name: row["threshold"] for name, row in rows if row["threshold"] is not None}
    return {}


def other_predictions(place: pathlib.Path, split: str) -> NamedPredictions:
    """Read another run's predictions, for `--compare`.

    Args:
      place: where the evaluation of that run is: its directory, or a folder of other data in it.

    Raises:
      DataError: there are none, or they are of an earlier model of that run.
    """
    path = RunLayout(place).predictions(split)
    if not path.exists():
        raise DataError(
            f"--compare: {place}: no {path.name} there; evaluate that run on the same data first, with "
            "python -m cxr_train.evaluate and the same --data and --split"
        )
    run = _run_of(place)
    if run and _model_of(place, split) not in (model_sha256(run), None):
        raise DataError(
            f"--compare: {path} is of an earlier {BEST_NAME} of that run; evaluate it again, with "
            "python -m cxr_train.evaluate and the same --data and --split"
        )
    return read_predictions(path)


def saw_in_training(place: pathlib.Path, split: str) -> bool:
    """Return whether an evaluation says that its model was trained on images of the split; see
    `other_predictions`, which has found it.
    """
    try:
        found = read_document(RunLayout(place).metrics(split), Metrics)
    except DataError:
        return False
    return bool(found.get("seen_in_training") or found.get("images_trained_on"))


def other_validation(place: pathlib.Path) -> NamedPredictions | None:
    """Return what another run's best model said of the validation images that were held out from it.

    Args:
      place: as for `other_predictions`.

    Raises:
      DataError: the configuration of that run cannot be read, as that of a later version: without it, nobody
        knows which images were held out, and 0.5 in place of the thresholds would be another comparison.
    """
    run = _run_of(place)
    try:
        split = run and TrainConfig.load(RunLayout(run).config).held_out_validation
    except DataError as error:
        raise DataError(f"--compare: {error}; compare it with the version of cxr that made it") from error
    return stored_predictions(run, split) if run and split else None


def _run_of(place: pathlib.Path) -> pathlib.Path | None:
    """Return the run whose evaluation is in a folder: of other data, that is a folder of the run."""
    return next((folder for folder in (place, *place.parents[:2]) if model_sha256(folder)), None)


def _model_of(place: pathlib.Path, split: str) -> str | None:
    """Return the SHA-256 of the model that an evaluation there is of; None where it is not known."""
    try:
        found: str | None = read_document(RunLayout(place).metrics(split), OfModel).get("model_sha256")
    except DataError:
        return None
    return found
