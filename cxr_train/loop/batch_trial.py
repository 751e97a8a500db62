"""`--batch_size=auto` tries a training step of the planned batch before a run takes it.

The plan is an estimate, and how XLA lays out its temporary buffers decides. Each try is a process of its own:
after a lack of memory TensorFlow may abort a process, a GPU's memory is surely free again only when its
process has ended, and what a try draws, trains and caches is nothing to the run. What it compiles is, where
the compilation cache is on. With several workers each tries alone, as if it were the only one; the smallest
batch counts.
"""

import contextlib
import dataclasses
import logging
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection

import tensorflow as tf

from cxr_data.core.child_process import begin_worker
from cxr_data.core.errors import CxrError, UsageError
from cxr_data.core.wording import counted
from cxr_data.input.data_errors import clear_data_errors
from cxr_data.input.pipeline import Pipeline
from cxr_data.records.manifest import read_manifest
from cxr_train.engine.memory_errors import bytes_asked, is_out_of_memory
from cxr_train.engine.multi_step import Batch
from cxr_train.engine.placement_names import UNKNOWN_GB
from cxr_train.engine.strategy import (
    Placement,
    choose_placement,
    hold_gpus,
    make_deterministic,
    split_cpu,
)
from cxr_train.engine.xla import go_on_uncompiled
from cxr_train.loop.adaptation import read_adaptation
from cxr_train.loop.assemble import Training, assemble_training
from cxr_train.loop.batch_size import choose_batch_size_of, device_memory_gb
from cxr_train.loop.throughput import peak_memory
from cxr_train.runs.config import TrainConfig

logger = logging.getLogger(__name__)

# What a batch is scaled to, and below which share of the memory a larger one is tried.
_USABLE, _MUCH_FREE = 0.9, 0.5
# Where a failure does not say by how much it failed.
_SMALLER = 2 / 3
_MULTIPLE = 8


@dataclasses.dataclass(frozen=True)
class Trial:
    """A training step of one batch on the device.

    Attributes:
      images: that a replica took at once.
      most: that it could take, of this training split.
      fits: whether the step was taken.
      limit: bytes of the device that may be used.
      needed: bytes in use at the peak, or with the allocation that failed; None where that is not known,
        as on a CPU.
      held: bytes in use before the step.
    """

    images: int
    most: int
    fits: bool
    limit: float
    needed: float | None = None
    held: float = 0.0

    def __str__(self) -> str:
        # Op by op, the allocation that fails is of one tensor, which alone would fit.
        needed = self.needed if self.fits or (self.needed or 0) > self.limit else None
        known = "" if needed is None else f", {needed / 1e9:.1f} of {self.limit / 1e9:.1f} GB"
        return f"{counted(self.images, 'image')} at once: {'fits' if self.fits else 'out of memory'}{known}"

    @property
    def scaled(self) -> int:
        """The images that would use the memory well, if what a step needs beside `held` grows with them."""
        if self.needed is not None and self.needed > self.held:
            scaled = int(self.images * (_USABLE * self.limit - self.held) / (self.needed - self.held))
            if self.fits or scaled < self.images:
                return scaled
        return self.images if self.fits else int(self.images * _SMALLER)


def find_batch(attempt: Callable[[int | None], Trial]) -> Trial:
    """Return the try of the largest batch that was seen to fit; each try is logged in one line.

    Args:
      attempt: takes a training step of so many images at once, or of as many as the plan says.

    Raises:
      UsageError: not even one image fits.
    """
    trial = _logged(attempt(None))
    fitting, failing = None, None
    while not trial.fits:
        failing = trial.images
        if failing == 1:
            raise UsageError(
                f"--batch_size=auto: tried, {trial}; choose a smaller --backbone or --image_size"
            )
        trial = _logged(attempt(_rounded(min(trial.scaled, failing - max(failing // 8, 1)))))
    fitting = trial
    larger = min(_rounded(trial.scaled), trial.most, (failing or trial.most + 1) - 1)
    if trial.needed is not None and trial.needed < _MUCH_FREE * trial.limit and larger > trial.images:
        trial = _logged(attempt(larger))
    return trial if trial.fits else fitting


def _logged(trial: Trial) -> Trial:
    logger.info("batch_size: tried %s", trial)
    return trial


def _rounded(images: int) -> int:
    return max(images // _MULTIPLE * _MULTIPLE if images >= _MULTIPLE else images, 1)


def try_in_a_process(
    config: TrainConfig, images: int | None, *, memory_gb: float | None, logical_devices: int
) -> Trial:
    """Take one training step in a process of its own.

    Args:
      config: of the run; its batch is not looked at.
      images: that each replica takes at once; as many as the plan says by default.
      memory_gb: of a device, to which the process is held; what TensorFlow may use of this one by default.
      logical_devices: into how many the CPU is split.

    Raises:
      UsageError, DataError: as the run itself would raise.
      CxrError: the step could not be taken, and not for its memory.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(
        target=_try, args=(theirs, config, images, memory_gb, logical_devices), daemon=True
    )
    process.start()
    theirs.close()
    tried: Trial | None = None
    with contextlib.suppress(EOFError):
        while True:
            answer = ours.recv()
            if isinstance(answer, CxrError):
                raise answer
            tried = answer
    process.join()
    # An abort of TensorFlow's, and the kernel's end of what takes all memory, are signals.
    if tried is None or (process.exitcode or 0) > 0:
        raise CxrError(f"--batch_size=auto: a try failed, exit code {process.exitcode}; use --try_batch=off")
    return tried


def _try(
    theirs: Connection, config: TrainConfig, images: int | None, memory_gb: float | None, logical_devices: int
) -> None:
    """Send a `Trial` that failed, which holds if this process is killed, and then the true one."""
    begin_worker()
    os.environ.pop("TF_CONFIG", None)
    # What TensorFlow says as it aborts is of this process only; Python's tracebacks are shown.
    sys.stderr = open(os.dup(2), "w", buffering=1, encoding="utf-8")  # noqa: SIM115
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        theirs.send(take_one_step(config, images, memory_gb, logical_devices, began=theirs.send))
    except CxrError as error:
        theirs.send(error)
    except tf.errors.OpError as error:
        theirs.send(CxrError(f"--batch_size=auto: no step can be tried: {said_by(error)}"))
    theirs.close()
    os._exit(0)  # in order, TensorFlow might abort it


def said_by(error: tf.errors.OpError) -> str:
    """Return what an error says, without the lines before it on where the step was defined."""
    before = ("Graph execution error", "Detected at node", " ", "\t")
    lines = [line for line in error.message.splitlines() if line and not line.startswith(before)]
    return " ".join(lines)[:200] or type(error).__name__


def take_one_step(
    config: TrainConfig,
    images: int | None,
    memory_gb: float | None,
    logical_devices: int,
    began: Callable[[Trial], None],
) -> Trial:
    """Take one training step in this process, as `try_in_a_process`, which says the rest.

    Args:
      began: is given the try as one that failed, before any memory is taken.
    """
    if logical_devices > 1:
        split_cpu(logical_devices)
    if memory_gb:
        hold_gpus(memory_gb)
    xla = make_deterministic(config.xla)[0] if config.deterministic else config.xla
    alone = "auto" if config.strategy == "multiworker" else config.strategy
    placement = choose_placement(alone, config.precision, xla)
    manifest = read_manifest(config.data, check_shards=False)
    memory_gb = memory_gb or device_memory_gb() or UNKNOWN_GB
    parts = placement.replicas * config.recipe.gradient_accumulation
    pipeline = Pipeline(manifest, config.read)
    count = len(pipeline.positions(config.train_split))
    if images is None:
        images = int(choose_batch_size_of(config, pipeline, placement, memory_gb).value) // parts
    trial = Trial(images, max(count // parts, images), fits=False, limit=memory_gb * 1e9)
    began(trial)
    config = dataclasses.replace(config, batch_size=images * parts)
    try:
        sources = pipeline.balanced_sources(config.train_split, config.batch_size)
        adaptation = read_adaptation(config, pipeline)
        training = assemble_training(config, manifest, placement, 1, sources, adaptation)
        if config.recipe.unfreeze_at_epoch is not None:  # the run will need the most memory from there on
            training.unfreeze(compile=placement.compile)
        dataset = pipeline.training_dataset(
            config.train_split, batch_size=config.batch_size, seed=config.seed, epoch=0, epochs=1
        )
        batches = placement.distribute(dataset)
        trial = dataclasses.replace(trial, held=_bytes_in_use())
        with clear_data_errors(manifest):
            _step(training, batches, placement)
    except tf.errors.OpError as error:
        if not is_out_of_memory(error):
            raise
        asked = bytes_asked(error)
        return dataclasses.replace(trial, needed=asked and asked + trial.held)
    if not tf.config.list_logical_devices("GPU"):
        return dataclasses.replace(trial, fits=True)
    peak = peak_memory().bytes
    return dataclasses.replace(trial, fits=peak <= trial.limit, needed=peak)


def _step(training: Training, batches: Iterable[Batch], placement: Placement) -> None:
    """Take a step, without XLA where the run would go on without it."""
    try:
        training.step(iter(batches), 1)
    except tf.errors.OpError as error:
        go_on_uncompiled(error, placement)
        training.step.retrace(compile=False)
        training.step(iter(batches), 1)


def _bytes_in_use() -> float:
    """Return the bytes of the GPU that uses most; 0 without one."""
    gpus = [gpu.name.removeprefix("/device:") for gpu in tf.config.list_logical_devices("GPU")]
    return max((tf.config.experimental.get_memory_info(gpu)["current"] for gpu in gpus), default=0.0)
