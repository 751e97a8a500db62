"""The predictions of a model for every image of a split, each exactly once."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cxr_data.core.progress_bar import progress_bar
from cxr_data.input.data_errors import clear_data_errors
from cxr_data.input.order import PADDING
from cxr_data.input.pipeline import Pipeline
from cxr_data.records.index import read_split_fields
from cxr_data.records.manifest import Manifest
from cxr_data.sources.finding_values import ABSENT, PRESENT
from cxr_data.stats.undefined import json_number, ratio
from cxr_train.engine.multi_step import Batch
from cxr_train.engine.predict_step import PredictStep
from cxr_train.engine.strategy import Placement
from cxr_train.evaluation import metrics
from cxr_train.evaluation.calibration import logits_of
from cxr_train.evaluation.predictions import NamedPredictions, six_digits
from cxr_train.evaluation.stored import stored_predictions
from cxr_train.runs.saved_run import is_own_data


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The predictions of a model for a split.

    Attributes:
      index: int64 [N], the images' numbers within their split.
      labels: int64 [N], true classes; or [N, C], of findings.
      logits: float32 [N, C].
    """

    index: np.ndarray
    labels: np.ndarray
    logits: np.ndarray

    def rows(self, chosen: np.ndarray) -> "Predictions":
        """Return the predictions of the chosen rows, bool [N] or int64 [n]."""
        return Predictions(self.index[chosen], self.labels[chosen], self.logits[chosen])

    @property
    def of_findings(self) -> bool:
        """Whether an image has a label for each finding, and not one class."""
        return self.labels.ndim == 2

    @property
    def log_probabilities(self) -> np.ndarray:
        """float64 [N, C], the log-softmax of the logits; of findings, the log-sigmoid."""
        logits = self.logits.astype(np.float64)
        if self.of_findings:
            return -np.logaddexp(0, -logits)
        shifted = logits - logits.max(axis=1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))

    @property
    def probabilities(self) -> np.ndarray:
        """float64 [N, C] in [0, 1]; rows sum to 1, unless they are of findings."""
        return np.exp(self.log_probabilities)

    @property
    def loss(self) -> float:
        """The mean cross-entropy, in nats; of findings, the mean over the known labels, NaN without any."""
        if self.of_findings:
            known = self.labels >= ABSENT
            signed = np.where(self.labels == PRESENT, -1, 1) * self.logits.astype(np.float64)
            return float(ratio(np.logaddexp(0, signed)[known].sum(), known.sum()))
        return float(-self.log_probabilities[np.arange(len(self.labels)), self.labels].mean())

    def summarize(self, class_names: tuple[str, ...]) -> dict[str, Any]:
        """Return `metrics.summarize` with the loss; ready for JSON."""
        return {
            "loss": json_number(self.loss),
            **metrics.summarize(self.labels, self.probabilities, class_names),
        }


def predict_split(
    pipeline: Pipeline,
    split: str,
    predict: PredictStep,
    placement: Placement,
    *,
    batch_size: int,
    check_stop: Callable[[], None] = lambda: None,
) -> Predictions:
    """Predict every image of `split` exactly once, as `columns_of_split`, which says the rest."""

    def columns(batch: Batch) -> Sequence[np.ndarray]:
        return predict.gather(batch["label"]), predict(batch)

    index, labels, logits = columns_of_split(
        pipeline, split, predict, placement, columns, batch_size=batch_size, check_stop=check_stop
    )
    return Predictions(index, labels.astype(np.int64), logits)


def columns_of_split(
    pipeline: Pipeline,
    split: str,
    predict: PredictStep,
    placement: Placement,
    columns: Callable[[Batch], Sequence[np.ndarray]],
    *,
    batch_size: int,
    positions: np.ndarray | None = None,
    title: str = "evaluate",
    check_stop: Callable[[], None] = lambda: None,
) -> list[np.ndarray]:
    """Compute columns of every image exactly once, whatever the batch size, the replicas and the workers.

    Every worker computes its part, and all of them have the whole in the end.

    Args:
      predict: gathers the images' numbers.
      columns: of a distributed batch, some arrays with a row for each image [B, ...], in its order.
      batch_size: global batch; at most the whole split, rounded up to a multiple of the replicas.
      positions: see `Pipeline.evaluation_dataset`.
      title: of the progress bar.
      check_stop: called before every batch; what it raises ends the computation.

    Returns:
      The images' numbers within their split, int64 [N], ascending, then the columns [N, ...].

    Raises:
      DataError: the split is not there, or a record is damaged.
    """
    replicas = placement.replicas
    batch_size = -(-min(batch_size, len(pipeline.positions(split))) // replicas) * replicas
    dataset = pipeline.evaluation_dataset(split, batch_size=batch_size, positions=positions)
    batches = progress_bar(
        f"{title} {split}",
        "batches",
        len(dataset),
        placement.distribute(dataset),
        shown=placement.cluster.is_chief,
    )
    parts = []
    with clear_data_errors(pipeline.manifest):
        for batch in batches:
            check_stop()
            parts.append((predict.gather(batch["index"]), *columns(batch)))
    whole = [np.concatenate(placement.gather(np.concatenate(column))) for column in zip(*parts, strict=True)]
    order = np.argsort(whole[0])[np.count_nonzero(whole[0] == PADDING) :]
    return [column[order] for column in whole]


def known_predictions(
    run_dir: pathlib.Path, pipeline: Pipeline, split: str
) -> tuple[Predictions, NamedPredictions] | None:
    """Return what the run's best model said of the images of `split` when they were evaluated.

    Returns:
      The same predictions in both forms, in the order of the images; None where the model or the images are
      others now, or were not evaluated yet.
    """
    stored = stored_predictions(run_dir, split)
    if stored is None or not is_own_data(run_dir, pipeline.manifest):
        return None
    fields = read_split_fields(pipeline.manifest, split)
    position_of = {fields[position].id: position for position in pipeline.positions(split)}
    if set(stored.ids) != position_of.keys():
        return None
    index = np.array([position_of[name] for name in stored.ids])
    if (np.diff(index) < 0).any():  # somebody has sorted the file
        return None
    logits = logits_of(stored.probabilities, of_findings=stored.labels.ndim == 2)
    return Predictions(index, stored.labels, logits), stored


def name_predictions(
    predictions: Predictions, manifest: Manifest, split: str, class_names: Sequence[str], source: str
) -> NamedPredictions:
    """Add ids and patients from the records; `class_names` are the model's."""
    fields = read_split_fields(manifest, split)
    return NamedPredictions(
        source=source,
        class_names=tuple(class_names),
        ids=tuple(fields[index].id for index in predictions.index),
        groups=tuple(fields[index].group for index in predictions.index),
        labels=predictions.labels,
        probabilities=six_digits(predictions.probabilities),
    )
