"""Image files predicted with a run's best model."""

import logging
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from cxr_data.core.progress_bar import progress_bar
from cxr_data.images.guarded import USUAL, Limits
from cxr_train.engine.memory_errors import FEWER_IMAGES, clear_memory_errors
from cxr_train.engine.predict_step import PredictStep
from cxr_train.engine.strategy import choose_placement
from cxr_train.evaluation.calibration import Line, apply_platt
from cxr_train.evaluation.decisions import is_given, rounded
from cxr_train.evaluation.forward_pass import Predictions
from cxr_train.inference.files import ImageFile, read_images
from cxr_train.inference.predicted import Row
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.layout import RunLayout
from cxr_train.runs.run_model import load_best_model
from cxr_train.runs.saved_run import trained_on

logger = logging.getLogger(__name__)


@clear_memory_errors(FEWER_IMAGES)
def predict_files(
    files: Sequence[ImageFile],
    run_dir: pathlib.Path,
    *,
    limits: Limits = USUAL,
    batch_size: int = 16,
    xla: str = "auto",
    temperature: float = 1.0,
    lines: Mapping[str, Line | None] | None = None,
    thresholds: Mapping[str, float] | None = None,
    others: Sequence[pathlib.Path] = (),
) -> list[Row]:
    """Predict files with the best model of a run, or with those of several.

    Args:
      limits: of one file.
      temperature: of the softmax or the sigmoid; 1 for the model's own probabilities. No prediction
        depends on it, nor on `lines`.
      lines: by finding, slope and offset of `fit_platt` for its probability; as it is where there is none.
      thresholds: by finding, the model's own probability from which on it is predicted; 0.5 where there
        is none.
      others: directories of runs on the same classes and pixels; the probabilities are the means over all.

    Returns:
      A dictionary a file, in order: file; predicted, a class name, or the names of the findings joined by |;
      probabilities, by class name, in six significant digits; error. Where the file cannot be read, the
      middle two are None; else `error` is None.

    Raises:
      DataError: the run has no best model, or no copy of its data's manifest.
      OutOfMemoryError: the device has too little memory for the batch.
    """
    manifest = trained_on(run_dir)
    steps = [_step_of(one, xla) for one in (run_dir, *others)]
    rows: list[Row] = [
        {"file": file.name, "predicted": None, "probabilities": None, "error": None} for file in files
    ]
    names = manifest.class_names
    found: list[tuple[int, np.ndarray, np.ndarray]] = []
    with progress_bar("predict", "images", len(files)) as bar:
        for read, images, failed in read_images(files, manifest.pixel_options, batch_size, limits):
            for number, error in failed.items():
                rows[number]["error"] = str(error)
                logger.info("not predicted: %s: %s", files[number].path, error)
            if read:
                logits = [step({"image": images})[: len(read)] for step in steps]
                own, shown = (
                    np.mean([_probabilities(one, at, bool(manifest.findings)) for one in logits], axis=0)
                    for at in (1.0, temperature)
                )
                if lines:
                    shown = apply_platt(shown, [lines.get(name) for name in names])
                found.extend(zip(read, own, shown, strict=True))
            bar.update(len(read) + len(failed))
    chosen = (thresholds or {}) if manifest.findings else None
    for number, own, probabilities in found:
        # A calibration changes no order, so no decision either; the thresholds are of the own probabilities.
        rows[number]["predicted"] = _predicted(own, names, chosen)
        # Six digits, whatever other files are predicted with this one.
        rows[number]["probabilities"] = {
            name: rounded(p) for name, p in zip(names, probabilities.tolist(), strict=True)
        }
    return rows


def _step_of(run_dir: pathlib.Path, xla: str) -> PredictStep:
    placement = choose_placement("one", TrainConfig.load(RunLayout(run_dir).config).precision, xla)
    logger.info("%s", placement.choice("xla"))
    return PredictStep(load_best_model(run_dir), placement)


def _probabilities(logits: np.ndarray, temperature: float, of_findings: bool) -> np.ndarray:
    """Return the probabilities float64 [N, C] of logits float32 [N, C] at a temperature."""
    # The labels say no more than what the logits are of.
    labels = np.zeros(logits.shape if of_findings else len(logits), np.int64)
    return Predictions(np.arange(len(logits)), labels, logits / np.float32(temperature)).probabilities


def _predicted(
    probabilities: np.ndarray, names: Sequence[str], thresholds: Mapping[str, float] | None
) -> str:
    if thresholds is None:
        return names[int(probabilities.argmax())]
    given = is_given(probabilities, [thresholds.get(name, 0.5) for name in names])
    return "|".join(name for name, is_there in zip(names, given, strict=True) if is_there)
