"""The ways of training that `bench_trainer` compares, each in a process of its own.

All of them train the same network on the same shards (the study's way on the files they were
made of), and take turns: a process computes only while the benchmark waits for its answer.
"""

import contextlib
import dataclasses
import functools
import itertools
import os
import time
from collections.abc import Callable, Generator, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from cxr_data.core import runtime
from cxr_data.core.errors import CxrError
from cxr_data.input.batch import expand_image
from cxr_data.input.options import ReadOptions
from cxr_data.input.pipeline import Pipeline
from cxr_data.records.index import read_split_fields
from cxr_data.records.manifest import Manifest, read_manifest
from cxr_train.engine.multi_step import Batch, read_sums
from cxr_train.engine.strategy import Placement, choose_placement
from cxr_train.loop.assemble import assemble_training
from cxr_train.loop.stop import Stopped, StopRequest
from cxr_train.loop.trainer import Trainer
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.run_model import build_run_model
from tools.bench import process
from tools.bench.loaders import study_generator

# fit wants an end for data without one.
_NEVER = 1_000_000_000
_EPOCH_IMAGES = 1_000_000


@dataclasses.dataclass(frozen=True)
class Way:
    """How to train.

    Attributes:
      kind: `free`, the trainer's own compiled step on one batch that stays on the device, launched without
        reading a loss; `bare`, the same with its losses read; `loop`, the trainer on shards; `fit`,
        `model.fit` on them; or `study`, `model.fit` on a generator that decodes one file after the other.
      steps_per_execution, jit_compile: fit's settings.
      shards: their pixels' dtype, or `findings`, for float32 with several findings a picture.
    """

    kind: str
    steps_per_execution: int = 1
    jit_compile: bool | str = False
    shards: str = "float32"

    @property
    def label(self) -> str:
        """Its name in the table."""
        match self.kind:
            case "free":
                return "free-running step, a batch in memory"
            case "bare":
                return "bare step, a batch in memory"
            case "loop":
                return "cxr_train, shards" if self.shards == "float32" else f"cxr_train, {self.shards} shards"
            case "study":
                return "study: generator + model.fit"
        settings = f"steps_per_execution={self.steps_per_execution}, jit_compile={self.jit_compile}"
        return f"model.fit, shards, {settings}"


class Turn(NamedTuple):
    """What a way did while the others waited: steps, seconds, and processor seconds in all its threads."""

    steps: int
    seconds: float
    cpu_seconds: float


Turns = Generator[int, int, None]
"""Is sent the number of steps since the start after every call of the compiled function; yields how
many the next call should take, and returns when there is to be no further."""


def take_turns(steps: int, wait: Callable[[], bool], answer: Callable[[Turn | None], None]) -> Turns:
    """Time `steps` steps (or somewhat more) a turn; every way is timed by this code.

    The first call of all, which traces and compiles, belongs to no turn. The first call of a turn
    is not timed: it takes the batches that were read while the others had their turns.

    Args:
      steps: of a turn.
      wait: returns when the next turn begins; False if there is none.
      answer: receives each turn, and None when the first call is done.
    """
    done = yield 1
    answer(None)
    while wait():
        done = yield 1
        begun, cpu_begun, first = time.perf_counter(), time.process_time(), done
        while done - first < steps:
            done = yield first + steps - done
        answer(Turn(done - first, time.perf_counter() - begun, time.process_time() - cpu_begun))


def run_way(way: Way, config: TrainConfig, source: str, steps: int, connection: Connection, log: str) -> None:
    """Run the process of a way: say what it chose, and None when its first step is done.

    Then it answers each True with a `Turn`, until a False. A `CxrError` is answered as well, and ends it.

    Args:
      way, config, source: see `train`.
      steps: of a turn.
      connection: to the benchmark.
      log: file that receives what it prints.
    """
    process.begin(log)
    # On a GPU, the others live beside it.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    try:
        runtime.keep_large_allocations()
        placement = choose_placement(config.strategy, config.precision, config.xla)
        connection.send([str(choice) for choice in placement.choices])
        train(way, config, placement, source, take_turns(steps, connection.recv, connection.send))
    except CxrError as error:
        connection.send(error)


def train(way: Way, config: TrainConfig, placement: Placement, source: str, turns: Turns) -> None:
    """Train in a way until the last turn is over.

    Args:
      way, config, placement: what to train, and where.
      source: folder of the original images, for the study's way.
      turns: not begun.
    """
    next(turns)
    manifest = read_manifest(config.data)
    match way.kind:
        case "free" | "bare":
            _bare(config, manifest, placement, turns, freely=way.kind == "free")
        case "loop":
            _loop(config, manifest, placement, turns)
        case "fit":
            _fit(way, config, manifest, placement, shard_batches(config, manifest), turns)
        case "study":
            _fit(way, config, manifest, placement, file_batches(config, manifest, Path(source)), turns)


class Resident:
    """An iterator over one batch, for ever."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return self._batch


def resident_batch(config: TrainConfig, manifest: Manifest, placement: Placement) -> Batch:
    """Return one training batch on its device."""
    dataset = Pipeline(manifest, config.read).training_dataset(
        config.train_split, batch_size=config.batch_size, seed=config.seed, epoch=0
    )
    batch: Batch = next(iter(placement.distribute(dataset)))
    return batch


def _bare(
    config: TrainConfig, manifest: Manifest, placement: Placement, turns: Turns, *, freely: bool
) -> None:
    """Run the step that the trainer takes, and nothing around it; `freely`: only the last loss is read."""
    step = assemble_training(config, manifest, placement, 1).step
    resident = Resident(resident_batch(config, manifest, placement))
    done, steps = 0, 1
    with contextlib.suppress(StopIteration):
        while True:
            if freely:
                read_sums([step.launch(next(resident), done + each) for each in range(steps)][-1])
                done += steps
            else:
                done += len(step(resident, steps, done).loss)
            steps = turns.send(done)


class _TurnTaking(StopRequest):
    """Takes turns where the trainer asks whether to stop: between two host calls."""

    def __init__(self, turns: Turns) -> None:
        super().__init__()
        self._turns = turns
        self.trainer: Trainer | None = None

    def check(self) -> None:
        """Raise Stopped after the last turn."""
        _, done = self.trainer.checkpoints.position if self.trainer else (0, 0)
        if not done:
            return
        try:
            self._turns.send(done)
        except StopIteration:
            raise Stopped from None


class LongEpoch(Pipeline):
    """A pipeline whose epoch has every record many times, so that no turn meets the end of one."""

    def positions(self, split: str) -> np.ndarray:
        """Return int64 [N], as the pipeline's own, over and over."""
        own = super().positions(split)
        return np.tile(own, -(-_EPOCH_IMAGES // len(own)))


def _loop(config: TrainConfig, manifest: Manifest, placement: Placement, turns: Turns) -> None:
    """Run `Trainer.run`, with its progress bar, its records and its checkpoint at the end."""
    stop = _TurnTaking(turns)
    stop.trainer = Trainer(config, LongEpoch(manifest, config.read), placement)
    with contextlib.suppress(Stopped):
        stop.trainer.run(stop)


class _TurnTakingCallback(keras.callbacks.Callback):
    """Takes turns after every call of fit's compiled function."""

    def __init__(self, turns: Turns) -> None:
        super().__init__()
        self._turns = turns

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Wait for the result before the clock is read: a GPU's work is only queued by now."""
        float((logs or {})["loss"])
        try:
            self._turns.send(batch + 1)
        except StopIteration:
            self.model.stop_training = True


def _fit(
    way: Way,
    config: TrainConfig,
    manifest: Manifest,
    placement: Placement,
    batches: tf.data.Dataset | Iterator[tuple[np.ndarray, np.ndarray]],
    turns: Turns,
) -> None:
    """Run `model.fit` without a progress bar, which is its fastest."""
    keras.utils.set_random_seed(config.seed)
    model = build_run_model(
        config,
        classes=len(manifest.class_names),
        image_size=manifest.size,
        dtype_policy=placement.policy,
    )
    optimizer = keras.optimizers.Adam(config.learning_rate)
    if placement.policy == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy()],
        steps_per_execution=way.steps_per_execution,
        jit_compile=way.jit_compile,
    )
    callbacks = [_TurnTakingCallback(turns)]
    model.fit(batches, steps_per_epoch=_NEVER, shuffle=False, verbose=0, callbacks=callbacks)


def shard_batches(config: TrainConfig, manifest: Manifest) -> tf.data.Dataset:
    """Return (images, labels) of TFRecordDatasets: interleaved, shuffled, parsed in parallel, prefetched."""
    dataset = Pipeline(manifest, ReadOptions(reader="stream")).training_dataset(
        config.train_split, batch_size=config.batch_size, seed=config.seed, epoch=0
    )
    examples = dataset.map(lambda batch: (expand_image(batch["image"]), batch["label"]))
    return examples.repeat().prefetch(tf.data.AUTOTUNE)


def file_batches(
    config: TrainConfig, manifest: Manifest, source: Path
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Return the study's generator over the original files of the shards' images."""
    fields = read_split_fields(manifest, config.train_split)
    files = [(source / field.id, field.label) for field in fields]
    # The odd last batch would be another shape, and a second trace.
    steps = len(files) // config.batch_size
    epoch = functools.partial(study_generator.batches, files, config.batch_size, manifest.size)
    return (batch for number in itertools.count() for batch in itertools.islice(epoch(number), steps))
