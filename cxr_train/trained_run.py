"""A run that was trained, for programs: its model, what it measured, and its evaluation on other images."""

import dataclasses
import functools
import logging
import os
import pathlib
from collections.abc import Callable
from typing import Any

import keras

from cxr_data.core.errors import DataError, UsageError
from cxr_data.core.runtime import keep_large_allocations
from cxr_data.input.options import ReadOptions
from cxr_data.input.pipeline import Pipeline
from cxr_data.records.manifest import Manifest, read_manifest
from cxr_train.engine.memory_errors import FEWER_IMAGES, clear_memory_errors
from cxr_train.engine.strategy import choose_placement
from cxr_train.evaluation import evaluator, stored, text
from cxr_train.evaluation.class_map import class_map_for
from cxr_train.evaluation.evaluator import EvaluationOptions
from cxr_train.evaluation.predictions import NamedPredictions
from cxr_train.reporting.page import write_report
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.layout import RunLayout
from cxr_train.runs.mirror import published
from cxr_train.runs.run_model import load_best_model
from cxr_train.runs.saved_run import epoch_rows, trained_on

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Run:
    """A run directory; see `load_run`.

    Attributes:
      directory: of the run.
      config: what was trained, and how.
    """

    directory: pathlib.Path
    config: TrainConfig

    @property
    def manifest(self) -> Manifest:
        """What says of which data it was trained on. Raises DataError: the run has no copy of it."""
        return trained_on(self.directory)

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """A dictionary an epoch, in order, as `metrics.jsonl` holds it."""
        return epoch_rows(RunLayout(self.directory).history)[0]

    def model(self) -> keras.Model:
        """Load the best model: images float32 [B, S, S, 3] in [0, 1] to logits float32 [B, C].

        Raises:
          DataError: there is none yet, or it is damaged.
        """
        return load_best_model(self.directory)

    def predictions(self, split: str) -> NamedPredictions:
        """Return what the best model said of a split of the run's own data when it was evaluated.

        Raises:
          DataError: it was not yet, or not in its present state.
        """
        found = stored.stored_predictions(self.directory, split)
        if found is None:
            raise DataError(f"{self.directory} has no predictions of its {split} split: evaluate it first")
        return found

    @clear_memory_errors(FEWER_IMAGES)
    def evaluate(
        self,
        split: str,
        *,
        data: str | None = None,
        options: EvaluationOptions | None = None,
        output: str | os.PathLike[str] | None = None,
        compare: str | os.PathLike[str] | None = None,
        batch_size: int | None = None,
        xla: str = "auto",
        read: ReadOptions | None = None,
    ) -> dict[str, Any]:
        """Evaluate the best model on a split, every image once, and write what came out.

        The run's validation split is evaluated first where it was not yet, for the temperature.

        Args:
          split: such as `test`.
          data: folder of shards; the run's own by default.
          options: what is computed; its splits are the run's, whatever it says of them.
          output: folder to write to; the run's by default, and one below it for other data.
          compare: directory of another run, evaluated on the same images.
          batch_size: images in a step; the run's own by default.
          xla: whether XLA compiles the prediction, as `--xla`.
          read: how the shards are read.

        Returns:
          What `metrics_{split}.json` holds, see `evaluation.evaluator`.

        Raises:
          UsageError: what is asked for does not fit the run, or would replace something else.
          DataError: the data or the run is not whole.
          OutOfMemoryError: the device has too little memory for the batch.
        """
        if options is not None and options.compare is not None:
            raise UsageError("options.compare: give the other run's directory as `compare`")
        manifest = read_manifest(data or self.config.data)
        below = stored.place_of(self.directory, manifest, named=data is not None)
        own = not below.parts
        place = pathlib.Path(output) if output else self.directory / below
        options = dataclasses.replace(
            options or EvaluationOptions(),
            train_split=self.config.train_split,
            validation_split=self.config.held_out_validation,
            compare=pathlib.Path(compare) / below if compare else None,
        )
        manifest.shards_of(split)  # what is wrong is said before the model takes its time
        class_map_for(self.directory, manifest, options.class_map)
        stored.refuse_to_replace(place, split, self.directory, manifest)
        if place.resolve() == self.directory.resolve():
            stored.refuse_in_the_run(manifest, own=own, class_map=options.class_map)
        read = read or ReadOptions()
        keep_large_allocations()
        # One device: the model was loaded outside of any strategy's scope.
        placement = choose_placement("one", self.config.precision, xla)
        logger.info("%s", placement.choice("xla"))
        evaluate = functools.partial(
            evaluator.evaluate_split,
            self.directory,
            model=self.model(),
            placement=placement,
            batch_size=batch_size or self.config.batch_size,
        )
        if not (own and split == self.config.held_out_validation):
            self._evaluate_validation(read, evaluate, options.probe_images)
        summary: dict[str, Any] = evaluate(
            pipeline=Pipeline(manifest, read), split=split, options=options, output=place
        )
        logger.info("%s split of %s\n%s", split, manifest.directory, text.evaluation_table(summary))
        layout = RunLayout(place)
        names = f"{layout.metrics(split).name}, {layout.predictions(split).name}"
        logger.info("written: %s/%s", published(str(place)), names)
        if place == self.directory / below:
            logger.info("report: %s", published(str(write_report(self.directory))))
        return summary

    def _evaluate_validation(
        self, read: ReadOptions, evaluate: Callable[..., dict[str, Any]], probe_images: int
    ) -> None:
        """See to it that the predictions are there on which temperature and thresholds are chosen."""
        config, split = self.config, self.config.held_out_validation
        if split is None:
            logger.info(
                "no temperature: the run was trained on %s, its validation split included", config.train_split
            )
            return
        if stored.stored_predictions(self.directory, split) is not None:
            return
        try:
            manifest = read_manifest(config.data)
            manifest.shards_of(split)
            stored.place_of(self.directory, manifest, named=False)
        except DataError as error:
            logger.info("no predictions of the %s split, so no temperature: %s", split, error)
            return
        logger.info("evaluating the %s split first, for the temperature", split)
        options = EvaluationOptions(
            train_split=config.train_split, validation_split=split, probe_images=probe_images
        )
        evaluate(pipeline=Pipeline(manifest, read), split=split, options=options)


def load_run(directory: str | os.PathLike[str]) -> Run:
    """Return the run in a local directory. Raises DataError: there is none, or it is damaged."""
    place = pathlib.Path(directory)
    return Run(place, TrainConfig.load(RunLayout(place).config))
