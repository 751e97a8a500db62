"""The outer loop: epochs, evaluation, checkpoints, summaries; the compiled steps are in `step`."""

import contextlib
import dataclasses
import json
import math
import pathlib
import sys
import time
from typing import Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from cxr_data.errors import CxrError
from cxr_data.pipeline import Pipeline, clear_data_errors
from cxr_data.verdict import measure_input, verdict
from cxr_train.assemble import assemble
from cxr_train.checkpoint import Checkpoints, average_replica_statistics
from cxr_train.compilation import go_on_uncompiled
from cxr_train.config import TrainConfig
from cxr_train.predictions import Predictions, predict_split
from cxr_train.step import PredictStep
from cxr_train.stop import StopRequest
from cxr_train.strategy import Placement

# A host call lasts about this long: short enough to answer a signal and to move the
# progress bar, long enough that the host's share is nothing.
_SECONDS_PER_CALL = 2.0
_MOST_STEPS_PER_CALL = 200


@dataclasses.dataclass
class Clock:
    """What the training steps of an epoch cost; compilation, evaluation and saving are left out.

    Attributes:
      loss, correct, examples: sums over all steps of the epoch in this process.
      timed_examples, seconds, waited: of the steps after the first call, which compiles.
      compile_seconds: duration of the first call of the process.
    """

    loss: float = 0.0
    correct: float = 0.0
    examples: float = 0.0
    timed_examples: float = 0.0
    seconds: float = 0.0
    waited: float = 0.0
    compile_seconds: float = 0.0

    @property
    def images_per_second(self) -> float:
        """Training images a second; NaN before the first timed step."""
        return self.timed_examples / self.seconds if self.seconds else math.nan

    @property
    def input_wait_share(self) -> float:
        """Share of the time in which a step waited for its batch, in [0, 1]; NaN before the first."""
        return self.waited / self.seconds if self.seconds else math.nan


class Trainer:
    """Trains one model on one data directory; `run` does all of it.

    Args:
      config: what to train.
      pipeline: of `config.data`.
      placement: where to train.

    Attributes:
      placement: where it trains; without XLA once that could not compile the network.

    Raises:
      UsageError: the batch does not divide by the replicas, or exceeds the split; see `assemble`.
      DataError: the weights do not fit, or a split is missing.
    """

    def __init__(self, config: TrainConfig, pipeline: Pipeline, placement: Placement) -> None:
        self._config = config
        manifest = pipeline.manifest
        self._pipeline = pipeline
        self._manifest = manifest
        self.placement = placement
        self._run_dir = pathlib.Path(config.run_dir)
        self._steps_per_epoch = pipeline.steps_per_epoch(config.train_split, config.batch_size)
        manifest.shards_of(config.validation_split)
        self._training = assemble(config, manifest, placement, self._steps_per_epoch)
        self.model = self._training.model
        self.train_step = self._training.step
        self._predict_step = PredictStep(self.model, placement.strategy, compile=placement.compile)
        self.checkpoints = Checkpoints(
            self._run_dir / "checkpoints",
            self.model,
            self._training.optimizer,
            self._training.loss_scale,
            self._training.average,
        )
        self._unfrozen = False
        self._steps_per_call = 1
        self._compile_seconds = 0.0
        self._last_clock = Clock()
        self._summaries = tf.summary.create_file_writer(str(self._run_dir / "tensorboard"))

    def describe(self) -> str:
        """Returns a line on the network, its parameters, the data and the steps, and the recipe's notes."""
        trainable = sum(int(np.prod(variable.shape)) for variable in self.model.trainable_variables)
        network = (
            f"{self._config.backbone}: {self.model.count_params():,} parameters "
            f"({trainable:,} trainable), {self._manifest.count(self._config.train_split):,} "
            f"training images of {self._manifest.size} px, "
            f"{self._steps_per_epoch:,} steps of {self._config.batch_size} an epoch, "
            f"{self.placement.replicas} replica(s)"
        )
        return "\n".join([network, *self._training.notes])

    def resume(self) -> str:
        """Restores the newest checkpoint and returns a line that says where the run stands.

        Raises:
          DataError: it cannot be restored.
        """
        if not self.checkpoints.restore():
            return "resume: no checkpoint yet, starting at the first step"
        epoch, step = int(self.checkpoints.epoch.numpy()), int(self.checkpoints.step.numpy())
        return f"resume: {self.checkpoints.newest}, epoch {epoch + 1}, after {step} steps of it"

    def run(self, stop: StopRequest) -> bool:
        """Trains from the present position to the last epoch.

        Args:
          stop: asked after every host call. When it is set, the state is saved.

        Returns:
          Whether training is complete; False after a stop.

        Raises:
          CxrError: the loss is not finite; the last saved state stays.
          DataError: a record is damaged.
        """
        iterator = self._batches()
        while (epoch := int(self.checkpoints.epoch.numpy())) < self._config.epochs:
            self._unfreeze_if_due(epoch)
            clock = self._last_clock = Clock()
            try:
                with clear_data_errors(self._manifest):
                    complete = self._train_epoch(iterator, epoch, clock, stop)
            except tf.errors.OpError as error:
                self.placement, choice = go_on_uncompiled(error, self.placement)
                print(choice, flush=True)
                self._training.step.retrace(compile=False)
                self._predict_step = PredictStep(self.model, self.placement.strategy, compile=False)
                # The failed call had taken a batch.
                iterator = self._batches()
                continue
            average_replica_statistics(self.model, self.placement.strategy)
            if not complete:
                self.checkpoints.save()
                return False
            self._end_epoch(epoch, clock)
        return True

    def _batches(self) -> Any:
        """One iterator over all batches from the present position to the last epoch's end."""
        epoch = int(self.checkpoints.epoch.numpy())
        if epoch >= self._config.epochs:
            return iter(())
        dataset = self._pipeline.training_dataset(
            self._config.train_split,
            batch_size=self._config.batch_size,
            seed=self._config.seed,
            epoch=epoch,
            first_step=int(self.checkpoints.step.numpy()),
            epochs=self._config.epochs - epoch,
        )
        return iter(self.placement.strategy.experimental_distribute_dataset(dataset))

    def throughput(self, seconds: float = 0.5) -> dict[str, Any]:
        """Measures the input alone and compares it with the last epoch's training; ready for JSON.

        Args:
          seconds: how long each stage of the input is measured.

        Returns:
          images_per_second, input_wait_share: of the last epoch trained in this process, null
          if it had no timed step; input_images_per_second and stage_seconds_per_image: of the
          input alone; verdict: what limits the run, in words.
        """
        clock = self._last_clock
        rates = measure_input(
            self._pipeline,
            self._config.train_split,
            batch_size=self._config.batch_size,
            seconds=seconds,
            distribute=self.placement.strategy.experimental_distribute_dataset,
        )
        consumed = clock.images_per_second
        return {
            "images_per_second": _json_number(consumed),
            "input_wait_share": _json_number(clock.input_wait_share),
            "input_images_per_second": rates.images_per_second,
            "stage_seconds_per_image": rates.stages,
            "verdict": verdict(rates, consumed) if math.isfinite(consumed) else "no timed step: no verdict",
        }

    def _train_epoch(self, iterator: Any, epoch: int, clock: Clock, stop: StopRequest) -> bool:
        """Takes the epoch's remaining steps; False if it was stopped before the last."""
        done = int(self.checkpoints.step.numpy())
        with tqdm(
            total=self._steps_per_epoch * self._config.batch_size,
            initial=done * self._config.batch_size,
            desc=f"epoch {epoch + 1}/{self._config.epochs}",
            unit="image",
            file=sys.stderr,
        ) as bar:
            while done < self._steps_per_epoch:
                if stop:
                    return False
                steps = min(self._steps_per_call, self._steps_per_epoch - done)
                self._call(iterator, steps, clock)
                done += steps
                self.checkpoints.step.assign(done)
                bar.update(steps * self._config.batch_size)
                if clock.seconds:
                    bar.set_postfix_str(
                        f"{clock.images_per_second:.1f} images/s, "
                        f"input wait {clock.input_wait_share:.1%}, loss {clock.loss / clock.examples:.4f}"
                    )
        return True

    def _call(self, iterator: Any, steps: int, clock: Clock) -> None:
        """One host call of `steps` training steps, entered in the clock."""
        start = time.perf_counter()
        totals = self.train_step(iterator, steps, self._first_step())
        loss = float(totals.sums.loss)  # waits for the device
        seconds = time.perf_counter() - start
        examples = float(totals.sums.examples)
        clock.loss += loss
        clock.correct += float(totals.sums.correct)
        clock.examples += examples
        if not self._compile_seconds:
            self._compile_seconds = clock.compile_seconds = seconds
        else:
            clock.timed_examples += examples
            clock.seconds += seconds
            clock.waited += float(totals.waited)
            wanted = int(_SECONDS_PER_CALL * steps / seconds)
            self._steps_per_call = min(max(wanted, 1), _MOST_STEPS_PER_CALL)
        if not math.isfinite(loss):
            raise CxrError(
                f"the loss is {loss} after step {int(self.checkpoints.step.numpy()) + steps} of epoch "
                f"{int(self.checkpoints.epoch.numpy()) + 1}: lower --learning_rate or use "
                f"--precision=float32; the last saved state is {self.checkpoints.newest}"
            )

    def _first_step(self) -> int:
        """The number of the next step, from the start of the run."""
        return int(self.checkpoints.epoch.numpy()) * self._steps_per_epoch + int(
            self.checkpoints.step.numpy()
        )

    def _unfreeze_if_due(self, epoch: int) -> None:
        """Trains every layer from the epoch on that the recipe names, also when a run goes on after it."""
        due = self._config.recipe.unfreeze_at_epoch
        if due is not None and epoch + 1 >= due and not self._unfrozen:
            self._training.unfreeze(compile=self.placement.compile)
            self._unfrozen = True

    def _end_epoch(self, epoch: int, clock: Clock) -> None:
        """Evaluates, keeps the best model, writes the epoch's row, and saves."""
        average = self._training.average
        with average.in_place() if average else contextlib.nullcontext():
            predictions = predict_split(
                self._pipeline,
                self._config.validation_split,
                self._predict_step,
                self.placement,
                batch_size=self._config.batch_size,
            )
            if predictions.loss < float(self.checkpoints.best.numpy()):
                self.checkpoints.best.assign(predictions.loss)
                self._save_best()
        row = self._row(epoch, clock, predictions)
        _append_json(self._run_dir / "metrics.jsonl", row)
        self._summarize(epoch, row)
        print(_line(row), flush=True)
        self.checkpoints.epoch.assign(epoch + 1)
        self.checkpoints.step.assign(0)
        self.checkpoints.save()

    def _save_best(self) -> None:
        temporary = self._run_dir / "best.tmp.keras"
        self.model.save(temporary)
        temporary.replace(self._run_dir / "best.keras")

    def _row(self, epoch: int, clock: Clock, predictions: Predictions) -> dict[str, Any]:
        return {
            "epoch": epoch + 1,
            "train": {
                "loss": clock.loss / clock.examples,
                "accuracy": clock.correct / clock.examples,
                "images": int(clock.examples),
                "images_per_second": _json_number(clock.images_per_second),
                "input_wait_share": _json_number(clock.input_wait_share),
                "compile_seconds": clock.compile_seconds,
            },
            "validation": predictions.summarize(self._manifest.class_names),
        }

    def _summarize(self, epoch: int, row: dict[str, Any]) -> None:
        """Writes the row's numbers for TensorBoard."""
        validation = row["validation"]
        scalars = {f"train/{name}": value for name, value in row["train"].items()}
        scalars |= {f"validation/{name}": validation[name] for name in ("loss", "accuracy")}
        scalars |= {f"validation/macro_{name}": value for name, value in validation["macro"].items()}
        with self._summaries.as_default(step=epoch + 1):
            for name, value in scalars.items():
                if value is not None:
                    tf.summary.scalar(name, value)
        self._summaries.flush()


def _append_json(path: pathlib.Path, row: dict[str, Any]) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def _json_number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _line(row: dict[str, Any]) -> str:
    train, validation = row["train"], row["validation"]
    speed = train["images_per_second"]
    wait = train["input_wait_share"]
    return (
        f"epoch {row['epoch']}: train loss {train['loss']:.4f} accuracy {train['accuracy']:.4f} | "
        f"validation loss {validation['loss']:.4f} accuracy {validation['accuracy']:.4f} "
        f"macro sensitivity {validation['macro']['sensitivity']:.4f} "
        f"specificity {validation['macro']['specificity']:.4f} | "
        + (f"{speed:.1f} images/s, input wait {wait:.1%}" if speed else "first step only: no speed measured")
    )
