"""Heads on embeddings, trained one after the other in this process: one of TensorFlow takes 10 s to start.

Each has its run directory with its configuration, its epochs and its predictions, but neither checkpoints
nor a model file: a head that was interrupted is trained again from its first step, and ends the same.
"""

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from cxr_data.core import storage
from cxr_data.core.errors import CxrError
from cxr_data.input.mix import Mix
from cxr_data.input.order import Epochs
from cxr_data.input.pipeline import Pipeline
from cxr_data.records.index import read_split_fields
from cxr_train.engine.predict_step import PredictStep
from cxr_train.engine.step import TrainStep
from cxr_train.engine.strategy import Placement, choose_placement
from cxr_train.evaluation.forward_pass import Predictions
from cxr_train.evaluation.predictions import NamedPredictions, six_digits, write_predictions
from cxr_train.loop.assemble import assemble_training
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.monitor import Monitor
from cxr_train.runs.run_dir import keep_run
from cxr_train.transferring.measure import monitored
from cxr_train.transferring.run import TransferRun

# Keras keeps what it has built; to free it takes as long as a part of a run.
_RUNS_BETWEEN_CLEARINGS = 10


@dataclasses.dataclass(frozen=True)
class _Split:
    """The embeddings of a split, in memory.

    Attributes:
      name: of the split.
      index: int64 [N], positions in its splits.
      images: [N, 1, 1, F], as stored.
      labels, sources: int64 [N].
      ids, groups: [N], of the records.
    """

    name: str
    index: np.ndarray
    images: tf.Tensor
    labels: np.ndarray
    sources: np.ndarray
    ids: tuple[str, ...]
    groups: tuple[str, ...]

    @classmethod
    def read(cls, pipeline: Pipeline, name: str) -> "_Split":
        positions, reader = pipeline.positions(name), pipeline.reader(name)
        labels, sources = (
            np.asarray(column)[positions].astype(np.int64) for column in (reader.labels, reader.sources)
        )
        every = read_split_fields(pipeline.manifest, name)
        fields = [every[position] for position in positions]
        ids, groups = (tuple(getattr(one, key) for one in fields) for key in ("id", "group"))
        return cls(name, positions, tf.constant(reader.read(positions).copy()), labels, sources, ids, groups)

    def predict(self, predict: PredictStep) -> Predictions:
        """Return the predictions of a model for all of it, in one batch."""
        return Predictions(self.index, self.labels, predict({"image": self.images}))


class _Epochs:
    """Training epochs on embeddings in memory: the steps of an epoch are one loop in one graph.

    The batches are those of `Pipeline.training_dataset`.

    Args:
      split: to train on.
      config: of the run.
      mix: how often each source comes; None for each image once an epoch.
      step, placement: of the run.
    """

    def __init__(
        self, split: _Split, config: TrainConfig, mix: Mix | None, step: TrainStep, placement: Placement
    ) -> None:
        self._order = Epochs(split.index, config.batch_size, config.seed, 0, config.epochs, mix=mix)
        self._warmup = config.recipe.domain_warmup_steps
        self._step = step
        self._index = split.index
        columns = {
            "image": split.images,
            "label": tf.constant(split.labels, tf.int32),
            "source": tf.constant(split.sources, tf.int32),
            "weight": tf.ones(len(split.index)),
            "index": tf.constant(split.index, tf.int64),
        }

        @tf.function(input_signature=[tf.TensorSpec([None, config.batch_size], tf.int32)])
        def take(rows: tf.Tensor) -> tf.Tensor:
            loss = tf.zeros([])
            for number in tf.range(tf.shape(rows)[0]):
                batch = {key: tf.gather(column, rows[number]) for key, column in columns.items()}
                loss += placement.strategy.run(step.compiled_step, args=(batch, None)).loss
            return loss

        self._take = take

    def train(self, epoch: int) -> float:
        """Take the steps of an epoch, from 0, and return its mean loss."""
        rows = np.searchsorted(self._index, self._order.batches_of(epoch))
        first, loss = epoch * len(rows), 0.0
        # What the host prepares changes at the end of the warm-up alone.
        cut = min(max((self._warmup or 0) - first, 0), len(rows))
        for start, piece in ((first, rows[:cut]), (first + cut, rows[cut:])):
            if len(piece):
                self._step.prepare(start)
                loss += float(self._take(tf.constant(piece, tf.int32)))
        return loss / rows.size


class HeadTrainer:
    """Trains heads on the embeddings of one data set.

    Args:
      pipeline: of the data set.
      check_stop: called between two epochs; what it raises ends the training.
    """

    def __init__(self, pipeline: Pipeline, check_stop: Callable[[], None] = lambda: None) -> None:
        self._pipeline = pipeline
        self._check_stop = check_stop
        # XLA compiles longer than such a step ever computes.
        self._placement: Placement = choose_placement("one", "float32", "off")
        self._splits: dict[str, _Split] = {}
        self._trained = 0

    def train(self, run: TransferRun) -> None:
        """Train a head, keep the epoch that is best on the validation split, and predict what is held out.

        Raises:
          UsageError, DataError: as `assemble_training`.
          CxrError: the loss is not finite.
        """
        begun = time.perf_counter()
        if self._trained % _RUNS_BETWEEN_CLEARINGS == 0:
            keras.utils.clear_session()
        self._trained += 1
        config, layout = run.config, run.layout
        layout.directory.mkdir(parents=True, exist_ok=True)
        run.forget_end()
        keep_run(config, None, self._placement.choices)
        rows = self._train(config, run.validation, run.tested)
        text = "".join(json.dumps(row) + "\n" for row in rows)
        storage.replace(layout.history, text.encode())
        summary = {"flops_per_second": None, "seconds": time.perf_counter() - begun}
        # Last: a run that has it has ended.
        storage.replace(layout.throughput, (json.dumps(summary, indent=2) + "\n").encode())

    def _train(self, config: TrainConfig, validation: str, tested: str) -> list[dict[str, object]]:
        pipeline, manifest = self._pipeline, self._pipeline.manifest
        steps = pipeline.steps_per_epoch(config.train_split, config.batch_size)
        split, mix = self._split(config.train_split), None
        if config.read.balance_batches or config.read.mix:
            balanced = config.read.balance_batches
            mix = Mix.of(config.read.mix, manifest.sources, split.index, split.sources, balanced=balanced)
            mix.check_batch(config.batch_size)
        sources = dict(zip(mix.numbers, mix.shares, strict=True)) if mix and mix.balanced else {}
        training = assemble_training(config, manifest, self._placement, steps, sources)
        predict = PredictStep(training.model, self._placement)
        epochs = _Epochs(split, config, mix, training.step, self._placement)
        monitor = Monitor(config.monitor)
        monitor.check(manifest, validation)
        best, idle = monitor.worst, 0
        kept: list[np.ndarray] = []
        rows: list[dict[str, object]] = []
        for epoch in range(config.epochs):
            self._check_stop()
            loss = epochs.train(epoch)
            if not math.isfinite(loss):
                raise CxrError(f"{config.run_dir}: the loss is not finite in epoch {epoch + 1}")
            with training.average.in_place() if training.average else contextlib.nullcontext():
                found = self._split(validation).predict(predict)
                value = monitored(found.labels, found.probabilities, manifest.class_names, monitor)
                idle += 1
                if value is not None and monitor.improves(value, best):
                    idle = 0
                    best, kept = value, [np.array(one.value) for one in training.model.weights]
            rows.append({"epoch": epoch + 1, "train": {"loss": loss}, "validation": {config.monitor: value}})
            if config.early_stopping and idle >= config.early_stopping:
                break
        if not kept:
            raise CxrError(f"{config.run_dir}: --monitor={config.monitor} is undefined in every epoch")
        for weight, best_value in zip(training.model.weights, kept, strict=True):
            weight.assign(best_value)
        for name in (validation, tested):
            split = self._split(name)
            probabilities = six_digits(split.predict(predict).probabilities)
            named = NamedPredictions(
                config.run_dir, manifest.class_names, split.ids, split.groups, split.labels, probabilities
            )
            write_predictions(config.layout.predictions(name), named)
        return rows

    def _split(self, name: str) -> _Split:
        if name not in self._splits:
            self._splits[name] = _Split.read(self._pipeline, name)
        return self._splits[name]
