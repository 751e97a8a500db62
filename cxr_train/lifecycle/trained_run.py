"""A run that was trained, for programs: its model, what it measured, and its evaluation on other images."""

import dataclasses
import os
import pathlib
from typing import TYPE_CHECKING, Any

from cxr_data.core.errors import DataError
from cxr_data.input.options import ReadOptions
from cxr_data.records.manifest import Manifest
from cxr_train.evaluation import stored
from cxr_train.evaluation.options import EvaluationOptions
from cxr_train.evaluation.plan import plan_evaluation
from cxr_train.evaluation.predictions import NamedPredictions
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.layout import RunLayout
from cxr_train.runs.saved_run import epoch_rows, trained_on

if TYPE_CHECKING:
    import keras


@dataclasses.dataclass(frozen=True)
class Run:
    """A run: its model, its results, and its evaluation on other images. `load_run` opens it.

    Attributes:
      directory: the run directory.
      config: what was trained, and how.
    """

    directory: pathlib.Path
    config: TrainConfig

    @property
    def manifest(self) -> Manifest:
        """Manifest of the data that the run was trained on. Raises DataError: the run has no copy."""
        return trained_on(self.directory)

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """One dictionary for each epoch, in order, as in `metrics.jsonl`."""
        return epoch_rows(RunLayout(self.directory).history)[0]

    def model(self) -> "keras.Model":
        """Load the best model, as `best.keras` has it.

        Returns:
          A model from images float32 [B, S, S, 3] in [0, 1] to probabilities float32 [B, C], in the order of
          `manifest.class_names`; also where an older version has saved it, without a softmax.

        Raises:
          DataError: there is none yet, or it is damaged.
        """
        from cxr_train.models.classifier import with_probabilities  # which needs TensorFlow
        from cxr_train.runs.run_model import load_best_model

        return with_probabilities(load_best_model(self.directory))

    def predictions(self, split: str) -> NamedPredictions:
        """Return the stored predictions of the best model on a split of the run's data.

        Raises:
          DataError: the best model has not been evaluated on this split since it was last changed.
        """
        found = stored.stored_predictions(self.directory, split)
        if found is None:
            raise DataError(f"{self.directory} has no predictions of its {split} split: evaluate it first")
        return found

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
        """Evaluate the best model on a split, every image once, and write the results.

        If the validation split of the run was not evaluated yet, it is evaluated first, for the temperature.

        Args:
          split: such as `test`.
          data: folder of shards; the run's own by default.
          options: what to compute. Its splits are ignored; those of the run are taken.
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
        plan = plan_evaluation(
            self.directory, self.config, split, data=data, options=options, output=output, compare=compare
        )
        from cxr_train.lifecycle.run_evaluation import evaluate_run  # which needs TensorFlow

        return evaluate_run(self.directory, self.config, plan, batch_size=batch_size, xla=xla, read=read)


def load_run(directory: str | os.PathLike[str]) -> Run:
    """Return the run in a local directory. Raises DataError: there is none, or it is damaged."""
    place = pathlib.Path(directory)
    return Run(place, TrainConfig.load(RunLayout(place).config))
