"""The state in which a model is evaluated and kept: averaged weights, and BatchNorm's statistics of them."""

import contextlib
from collections.abc import Callable, Iterator

from cxr_data.core.progress_bar import progress_bar
from cxr_data.input.data_errors import clear_data_errors
from cxr_data.input.pipeline import Pipeline
from cxr_train.engine.batch_norm import PreciseStatistics, initial_share
from cxr_train.engine.multi_step import Batch
from cxr_train.engine.strategy import Placement
from cxr_train.loop.assemble import Training
from cxr_train.runs.config import TrainConfig


class EvaluatedState:
    """Puts a model in that state and back: training goes on as if there had been no evaluation.

    Args:
      config: of the run.
      pipeline: of its data.
      training: whose model and averaged weights are evaluated.
      placement: where it computes.
    """

    def __init__(
        self, config: TrainConfig, pipeline: Pipeline, training: Training, placement: Placement
    ) -> None:
        self._config = config
        self._pipeline = pipeline
        self._training = training
        self._placement = placement
        self._precise = PreciseStatistics(training.model, placement)

    @contextlib.contextmanager
    def in_place(self, epoch: int, check_stop: Callable[[], None]) -> Iterator[None]:
        """Let the model be in that state while the context is open.

        Args:
          epoch: that was trained, from 0: it has its own training batches for the statistics.
          check_stop: called before each of them; what it raises ends the measurement.
        """
        average = self._training.average
        with average.in_place() if average else contextlib.nullcontext():
            if self._config.batch_norm_statistics == "moving":
                yield
                return
            with self._precise.in_place(self._batches(epoch, check_stop)):
                yield

    def initial_share(self, epochs: int) -> float | None:
        """Return how much of BatchNorm's moving statistics is what they began with, after so many epochs.

        Returns:
          The largest share of any layer that is trained, in [0, 1] (averaged weights, whose statistics are
          averaged too, lag further behind); None where they are not what is evaluated.
        """
        config = self._config
        if config.batch_norm_statistics != "moving":
            return None
        updates = config.recipe.gradient_accumulation * self._pipeline.steps_per_epoch(
            config.train_split, config.batch_size
        )
        layers, frozen = self._training.model.layers, self._training.frozen
        late = (config.recipe.unfreeze_at_epoch or 1) - 1
        return max(initial_share(layers, epochs * updates), initial_share(frozen, (epochs - late) * updates))

    def _batches(self, epoch: int, check_stop: Callable[[], None]) -> Iterator[Batch]:
        config = self._config
        sample = self._pipeline.training_sample(
            config.train_split,
            batch_size=config.batch_size,
            seed=config.seed,
            epoch=epoch,
            batches=config.batch_norm_batches,
            parts=config.recipe.gradient_accumulation,  # of the size that the layers normalise in training
        )
        batches = progress_bar(
            "BatchNorm statistics",
            "batches",
            len(sample),
            self._placement.distribute(sample),
            shown=self._placement.cluster.is_chief,
        )
        with clear_data_errors(self._pipeline.manifest):
            for batch in batches:
                check_stop()
                yield batch
