"""A model says something of every image of a split, each exactly once."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from cxr_data.input.data_errors import clear_data_errors
from cxr_data.input.order import PADDING
from cxr_data.input.pipeline import Pipeline
from cxr_data.records.index import read_split_fields
from cxr_data.records.manifest import Manifest
from cxr_train.engine.step import PredictStep
from cxr_train.engine.strategy import Placement
from cxr_train.evaluation import metrics
from cxr_train.evaluation.predictions import NamedPredictions


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a model says of a split.

    Attributes:
      index: int64 [N], the images' numbers within their split.
      labels: int64 [N], true classes.
      logits: float32 [N, C].
    """

    index: np.ndarray
    labels: np.ndarray
    logits: np.ndarray

    @property
    def log_probabilities(self) -> np.ndarray:
        """float64 [N, C], the log-softmax of the logits."""
        shifted = self.logits.astype(np.float64) - self.logits.max(axis=1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))

    @property
    def probabilities(self) -> np.ndarray:
        """float64 [N, C] in [0, 1], rows sum to 1."""
        return np.exp(self.log_probabilities)

    @property
    def loss(self) -> float:
        """The mean cross-entropy, in nats."""
        return float(-self.log_probabilities[np.arange(len(self.labels)), self.labels].mean())

    def summarize(self, class_names: tuple[str, ...]) -> dict[str, Any]:
        """Return `metrics.summarize` with the loss; ready for JSON."""
        return {"loss": self.loss, **metrics.summarize(self.labels, self.probabilities, class_names)}


def predict_split(
    pipeline: Pipeline,
    split: str,
    predict: PredictStep,
    placement: Placement,
    *,
    batch_size: int,
    check_stop: Callable[[], None] = lambda: None,
) -> Predictions:
    """Predict every image of `split` exactly once, whatever the batch size, the replicas and the workers.

    Every worker predicts its part, and all of them have the whole in the end.

    Args:
      batch_size: global batch; rounded up to a multiple of the replicas.
      check_stop: called before every batch; what it raises ends the prediction.

    Raises:
      DataError: the split is not there, or a record is damaged.
    """
    replicas = placement.replicas
    batch_size = -(-min(batch_size, len(pipeline.positions(split))) // replicas) * replicas
    dataset = pipeline.evaluation_dataset(split, batch_size=batch_size)
    batches = tqdm(
        placement.distribute(dataset),
        total=len(dataset),
        desc=f"evaluate {split}",
        unit="batch",
        leave=False,
        disable=not placement.cluster.is_chief,
    )
    parts = []
    with clear_data_errors(pipeline.manifest):
        for batch in batches:
            check_stop()
            parts.append((predict.gather(batch["index"]), predict.gather(batch["label"]), predict(batch)))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    index, labels, logits = (np.concatenate(placement.gather(column)) for column in columns)
    order = np.argsort(index)[np.count_nonzero(index == PADDING) :]
    return Predictions(index[order], labels[order].astype(np.int64), logits[order])


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
        probabilities=predictions.probabilities,
    )
