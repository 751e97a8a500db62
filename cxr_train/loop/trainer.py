"""The outer loop: epochs, evaluation, checkpoints; the compiled steps are in `step`."""

import logging
import math
import pathlib
import time
from typing import Any

import numpy as np
import tensorflow as tf

from cxr_data.core.errors import DataError
from cxr_data.core.progress_bar import progress_bar
from cxr_data.core.wording import counted
from cxr_data.input.bottleneck import measure_input
from cxr_data.input.data_errors import clear_data_errors
from cxr_data.input.pipeline import Pipeline
from cxr_train.engine.multi_step import StepRecords
from cxr_train.engine.predict_step import PredictStep
from cxr_train.engine.profiler import StepProfiler, parse_steps
from cxr_train.engine.strategy import Placement
from cxr_train.engine.xla import go_on_uncompiled
from cxr_train.evaluation.forward_pass import predict_split
from cxr_train.loop import diverged, epoch_row, throughput
from cxr_train.loop.adaptation import read_adaptation
from cxr_train.loop.assemble import assemble_training, learning_rate_at
from cxr_train.loop.batch_size import planned_memory
from cxr_train.loop.checkpoint import Checkpoints
from cxr_train.loop.epoch_table import EpochTable
from cxr_train.loop.evaluated import EvaluatedState
from cxr_train.loop.outputs import Outputs
from cxr_train.loop.stop import Stopped, StopRequest
from cxr_train.loop.throughput import Clock, peak_memory
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.layout import BEST_NAME
from cxr_train.runs.monitor import Monitor

logger = logging.getLogger(__name__)

# A host call lasts about this long: short enough to answer a signal and to move the
# progress bar, long enough that the host's share is nothing.
_SECONDS_PER_CALL = 2.0
MOST_STEPS_PER_CALL = 200


class Trainer:
    """Trains one model on one data directory; `run` does all of it.

    Args:
      config: what to train.
      pipeline: of `config.data`.
      placement: where to train.

    Attributes:
      placement: where it trains; without XLA once that could not compile the network.
      training: the model with its step, optimizer and average.
      model: what is trained.
      train_step: its step.
      checkpoints: its states.
      clock: of the steps taken in this process.

    Raises:
      UsageError: the batch does not divide by the replicas, or exceeds the split; see `assemble_training`.
      DataError: the weights do not fit, or a split is missing.
    """

    def __init__(self, config: TrainConfig, pipeline: Pipeline, placement: Placement) -> None:
        self._config = config
        manifest = pipeline.manifest
        self._pipeline = pipeline
        self._manifest = manifest
        self.placement = placement
        self._run_dir = pathlib.Path(config.run_dir)
        layout = config.layout
        writes = placement.cluster.is_chief
        self._steps_per_epoch = pipeline.steps_per_epoch(config.train_split, config.batch_size)
        self._monitor = Monitor(config.monitor)
        if split := config.held_out_validation:
            manifest.shards_of(split)
            self._monitor.check(manifest, split)
        sources = pipeline.balanced_sources(config.train_split, config.batch_size)
        adaptation = read_adaptation(config, pipeline)
        self.training = assemble_training(
            config, manifest, placement, self._steps_per_epoch, sources, adaptation
        )
        self.model = self.training.model
        self.train_step = self.training.step
        self._prepare_evaluation()
        self.checkpoints = Checkpoints(
            layout.checkpoints,
            self.model,
            self.training.optimizer,
            self.training.loss_scale,
            self.training.average,
            domain=self.training.domain,
            replica_values=self.training.replica_values,
            writes=writes,
            monitor=self._monitor,
            best_model=layout.best_model,
        )
        profiled = parse_steps(config.profile_steps, of=config.epochs * self._steps_per_epoch)
        self._profiler = StepProfiler(profiled, layout.tensorboard, writes=writes)
        self._outputs = Outputs(self._run_dir, writes=writes)
        validates = config.held_out_validation is not None
        self._table = EpochTable(config.monitor, config.epochs, validates=validates)
        self._unfrozen = False
        self.clock = Clock()
        self._compiled = False
        self._flops_per_image = 0.0
        self._steps_per_call = 1
        self._saved_at = time.monotonic()

    def describe(self) -> str:
        """Return a line on the network, its parameters, the data and the steps, and the recipe's notes."""
        trainable = sum(int(np.prod(variable.shape)) for variable in self.model.trainable_variables)
        features = self._manifest.features
        images = f"embeddings of {features:,} features" if features else f"images of {self._manifest.size} px"
        network = (
            f"{self._config.backbone}: {self.model.count_params():,} parameters "
            f"({trainable:,} trainable), {len(self._pipeline.positions(self._config.train_split)):,} "
            f"training {images}, "
            f"{counted(self._steps_per_epoch, 'step')} of {self._config.batch_size} an epoch, "
            f"{counted(self.placement.replicas, 'replica')}"
        )
        notes = list(self.training.notes)
        if self._config.held_out_validation is None:
            notes.append(
                f"no validation: --train_on={self._config.train_split} trains on it; {BEST_NAME} is the "
                "model of the last epoch, and no temperature is fitted"
            )
        return "\n".join([network, *notes])

    def resume(self) -> list[str]:
        """Restore the newest whole checkpoint, and what the run had written by then.

        Returns:
          Lines that say where the run stands, and which checkpoints were passed over.

        Raises:
          DataError: none can be restored, or the workers found different ones.
        """
        warnings = [f"warning: {warning}" for warning in self.checkpoints.restore()]
        first_steps = self.placement.gather(np.array(self._first_step()))
        if len(set(first_steps.tolist())) > 1:
            raise DataError(
                f"--resume: the workers found different checkpoints in {self._run_dir} (of steps "
                f"{first_steps.tolist()}): --run_dir must be on storage that all of them share"
            )
        epoch, step = self.checkpoints.position
        warnings += [f"warning: {warning}" for warning in self._outputs.forget_after(epoch)]
        if self.checkpoints.newest is None:
            return [*warnings, "resume: no checkpoint yet, starting at the first step"]
        if epoch >= self._config.epochs:
            done = counted(epoch, "epoch is", "epochs are")
            return [*warnings, f"resume: {done} trained, and --epochs={self._config.epochs}"]
        steps = counted(self._steps_per_epoch, "step")
        lines = [*warnings, f"resume: epoch {epoch + 1}, after {step} of {steps}"]
        if self._profiler.is_past(self._first_step()):
            lines.append(f"nothing is profiled: --profile_steps={self._config.profile_steps} were before")
        return lines

    def run(self, stop: StopRequest) -> None:
        """Train from the present position to the last epoch.

        Args:
          stop: asked after every host call, and between the batches of the evaluation. When it is
            set, the state is saved; an evaluation that was begun is left, and done again later.

        Raises:
          Stopped: it was asked to stop, and the state is saved.
          CxrError: the loss is not finite; the last saved state stays.
          DataError: a record is damaged.
        """
        iterator = self.batches()
        try:
            while not self._is_complete():
                self._unfreeze_if_due()
                clock, begun = Clock(), time.monotonic()
                _, done = self.checkpoints.position
                try:
                    with clear_data_errors(self._manifest), self._profiler:
                        self._train_epoch(iterator, clock, stop)
                except tf.errors.OpError as error:
                    self._go_on_uncompiled(error)
                    # The failed call had taken a batch.
                    iterator = self.batches()
                    continue
                self.training.replica_values.average()
                self._end_epoch(clock, stop, begun, self._steps_per_epoch - done)
        except Stopped:
            if not self.checkpoints.is_saved:
                self._save()
            raise

    def _go_on_uncompiled(self, error: tf.errors.OpError) -> None:
        self.placement, choice = go_on_uncompiled(error, self.placement)
        logger.info("%s", choice)
        self.training.step.retrace(compile=False)
        self._prepare_evaluation()

    def _prepare_evaluation(self) -> None:
        self._predict_step = PredictStep(self.model, self.placement)
        self._evaluated = EvaluatedState(self._config, self._pipeline, self.training, self.placement)

    def _is_complete(self) -> bool:
        epoch, _ = self.checkpoints.position
        patience = self._config.early_stopping
        idle = epoch - int(self.checkpoints.best_epoch.numpy())
        if epoch and patience and idle >= patience:
            logger.info("early stopping: %s has not improved for %d epochs", self._config.monitor, idle)
            return True
        return epoch >= self._config.epochs

    def batches(self) -> Any:
        """Return one iterator over all batches from the present position to the last epoch's end."""
        epoch, step = self.checkpoints.position
        if epoch >= self._config.epochs:
            return iter(())
        dataset = self._pipeline.training_dataset(
            self._config.train_split,
            batch_size=self._config.batch_size,
            seed=self._config.seed,
            epoch=epoch,
            first_step=step,
            epochs=self._config.epochs - epoch,
        )
        return iter(self.placement.distribute(dataset))

    def throughput(self, seconds: float = 0.5) -> dict[str, Any]:
        """Measure the input alone and compare it with the training, see `throughput.summarize_throughput`.

        Args:
          seconds: how long each stage of the input is measured.
        """
        memory = peak_memory()
        rates = measure_input(
            self._pipeline,
            self._config.train_split,
            batch_size=self._config.batch_size,
            seconds=seconds,
            distribute=self.placement.distribute,
        )
        return throughput.summarize_throughput(
            self.clock,
            rates,
            memory,
            planned_memory(self.model, self._config, self.placement),
            self.placement.cluster.size,
            on_cpu=not self.placement.on_accelerators,
        )

    def _train_epoch(self, iterator: Any, clock: Clock, stop: StopRequest) -> None:
        """Take the epoch's remaining steps. Raises Stopped, between two host calls."""
        epoch, done = self.checkpoints.position
        batch_size = self._config.batch_size
        with progress_bar(
            f"epoch {epoch + 1}/{self._config.epochs}",
            "images",
            self._steps_per_epoch * batch_size,
            initial=done * batch_size,
            shown=self.placement.cluster.is_chief,
            has_begun=self._compiled,
        ) as bar:
            while done < self._steps_per_epoch:
                stop.check()
                number = self._first_step()
                steps = min(self._steps_per_call, self._steps_per_epoch - done)
                steps = self._profiler.shorten(number, steps)
                with self._profiler.around(number):
                    self._call(iterator, steps, clock)
                done += steps
                loss, _, examples = self.checkpoints.sums.numpy()
                bar.set_postfix_str(
                    f"loss {loss / examples:.4f}"
                    + (f", input wait {clock.input_wait_share:.0%}" if clock.seconds else ""),
                    refresh=False,
                )
                bar.update(steps * batch_size)
                due = time.monotonic() - self._saved_at >= 60 * self._config.save_minutes
                if self.placement.any(due):
                    self._save()

    def _call(self, iterator: Any, steps: int, clock: Clock) -> None:
        """Make one host call of `steps` training steps, entered in the clocks and in the state."""
        if not self._compiled:
            logger.info(
                "first step: TensorFlow traces and compiles the network; rates and times below leave it out"
            )
        start = time.perf_counter()
        records = self.train_step(iterator, steps, self._first_step())
        seconds = time.perf_counter() - start
        if not self._compiled:
            self._compiled = True
            self._flops_per_image = self.train_step.flops_per_image or 0.0
            clock.compile_seconds += seconds
            self.clock.compile_seconds += seconds
            logger.info("first step: done after %.1f s", seconds)
        else:
            for each in (clock, self.clock):
                each.add(records, seconds, self._flops_per_image)
            wanted = int(_SECONDS_PER_CALL * len(records.loss) / self.placement.largest(seconds))
            self._steps_per_call = min(max(wanted, 1), MOST_STEPS_PER_CALL)
        self._advance(records)
        if not math.isfinite(records.loss[-1]):
            raise diverged.keep_evidence(
                self.checkpoints, self._pipeline, self._config, self.placement, loss=records.loss[-1]
            )

    def _first_step(self) -> int:
        """Return the number of the next step, from the start of the run."""
        epoch, step = self.checkpoints.position
        return epoch * self._steps_per_epoch + step

    def _unfreeze_if_due(self) -> None:
        """Train every layer from the epoch on that the recipe names, also when a run goes on after it."""
        epoch, _ = self.checkpoints.position
        due = self._config.recipe.unfreeze_at_epoch
        if due is not None and epoch + 1 >= due and not self._unfrozen:
            self.training.unfreeze(compile=self.placement.compile)
            self._unfrozen = True
            self._compiled = False
            self._steps_per_call = 1

    def _advance(self, records: StepRecords) -> None:
        """Enter steps into the state that is saved, one by one: a sum must not depend on the calls."""
        finite = np.isfinite(records.loss)
        sums = self.checkpoints.sums.numpy()
        for row in np.stack([records.loss, records.correct, records.examples], axis=1)[finite]:
            sums += row
        self.checkpoints.sums.assign(sums)
        self.checkpoints.step.assign_add(int(finite.sum()))

    def _save(self) -> None:
        self.checkpoints.save()
        self._saved_at = time.monotonic()

    def _end_epoch(self, clock: Clock, stop: StopRequest, begun: float, steps: int) -> None:
        """Evaluate, keep the best model, write the epoch's row, and save.

        Args:
          clock: of its steps in this process.
          stop: asked while it is evaluated.
          begun: when the first of these steps was, `time.monotonic`.
          steps: how many there were.
        """
        epoch, _ = self.checkpoints.position
        with self._evaluated.in_place(epoch, stop.check):
            validation = self._validate(stop)
            self._keep_model(epoch + 1, validation)
        skipped = int(self.training.loss_scale.skipped_steps.numpy())
        sums = self.checkpoints.sums.numpy()
        seconds = time.monotonic() - begun - clock.compile_seconds
        row = epoch_row.make(
            epoch + 1,
            sums,
            clock,
            validation,
            skipped_steps=skipped,
            initial_share=self._evaluated.initial_share(epoch + 1),
            learning_rate=learning_rate_at(
                self._config, (epoch + 1) * self._steps_per_epoch - 1, self._steps_per_epoch
            ),
            epoch_seconds=seconds,
        )
        self._outputs.add_row(row)
        is_best = validation is not None and int(self.checkpoints.best_epoch.numpy()) == epoch + 1
        whole = seconds * self._steps_per_epoch / steps if steps else None  # resumed after its last step
        for line in self._table.lines(row, is_best=is_best, epoch_seconds=whole):
            logger.info(line)
        self.checkpoints.epoch.assign(epoch + 1)
        self.checkpoints.step.assign(0)
        self.checkpoints.sums.assign(np.zeros(3))
        self._save()

    def _validate(self, stop: StopRequest) -> dict[str, Any] | None:
        """Return the metrics of the validation split; None where the run trains on it. Raises Stopped."""
        if self._config.held_out_validation is None:
            return None
        predictions = predict_split(
            self._pipeline,
            self._config.held_out_validation,
            self._predict_step,
            self.placement,
            batch_size=self._config.images_at_once,
            check_stop=stop.check,
        )
        return predictions.summarize(self._manifest.class_names)

    def _keep_model(self, epoch: int, validation: dict[str, Any] | None) -> None:
        """Keep the last model, which may be the best; without validation it is what there is to keep."""
        if validation is None:
            self._outputs.keep_model(self.model, best=True)
            return
        value = self._monitor.value(validation)
        if value is None:
            raise DataError(
                f"--monitor={self._config.monitor}: undefined on split {self._config.validation_split!r}; "
                "choose another, such as loss"
            )
        # Workers on different processors may round differently, and must agree on the best epoch.
        value = self.placement.largest(value)
        best = self._monitor.improves(value, float(self.checkpoints.best.numpy()))
        if best:
            self.checkpoints.best.assign(value)
            self.checkpoints.best_epoch.assign(epoch)
        self._outputs.keep_model(self.model, best=best)
