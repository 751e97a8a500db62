"""One backbone of the acceptance on a GPU, in a process that is held to so much of its memory."""

import contextlib
import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

import tensorflow as tf

from cxr_data.core import runtime
from cxr_data.core.errors import CxrError
from cxr_data.records.manifest import read_manifest
from cxr_train.engine.compilation_cache import kept_compilations
from cxr_train.engine.multi_step import read_sums
from cxr_train.engine.placement_names import CompilationOptions
from cxr_train.engine.strategy import choose_placement, hold_gpus
from cxr_train.loop.batch_size import planned_memory
from cxr_train.loop.batch_trial import find_batch, try_in_a_process
from cxr_train.loop.stop import Stopped, StopRequest
from cxr_train.loop.throughput import Clock, peak_memory
from cxr_train.loop.trainer import Trainer
from cxr_train.runs.config import TrainConfig
from tools.bench import process
from tools.bench.device_trace import DeviceTrace, trace_device
from tools.bench.trainer_ways import LongEpoch

_LEAST_STEPS = 4
# Enough to see what repeats; each kernel of them is an event of the trace.
_TRACED_STEPS = 6


@dataclass(frozen=True)
class Measured:
    """What one backbone did.

    Attributes:
      batch_size: what `--batch_size=auto` came to.
      images_per_second: of the trainer, shards read and copied.
      input_wait: share of that time in which the device was idle for want of a batch.
      free_images_per_second: of the same step, launched on one batch again and again without reading a loss.
      try_seconds: that `--batch_size=auto` took, in which the step is compiled.
      compile_seconds: of the run's first step, which loads what a try has compiled.
      peak_bytes, peak_source: see `peak_memory`.
      planned_bytes: what the memory plan expects of a step.
      tried_bytes: what the step took when it was tried; None on a CPU.
      shards_trace, free_trace: what the device did in `traced_steps` steps of either kind, or why that is
        not known.
    """

    batch_size: int
    images_per_second: float
    input_wait: float
    free_images_per_second: float
    try_seconds: float
    compile_seconds: float
    peak_bytes: int
    peak_source: str
    planned_bytes: int
    tried_bytes: float | None
    shards_trace: DeviceTrace | str
    free_trace: DeviceTrace | str
    traced_steps: int = _TRACED_STEPS


class _TimedTurn(StopRequest):
    """Waits for its turn after the step that compiles, then lets the trainer train for so many seconds.

    Args:
      connection: to the benchmark, which receives None when it waits, and answers whether there is a turn.
      seconds: of the turn; the first host call of it is not timed, it takes what was read while waiting.
    """

    def __init__(self, connection: Connection, seconds: float) -> None:
        super().__init__()
        self._connection = connection
        self._seconds = seconds
        self._calls = 0
        self._begun = 0.0
        self.trainer: Trainer | None = None
        self.has_turn = False

    def check(self) -> None:
        """Be asked before each host call. Raise Stopped when the turn is over, or is not to be."""
        assert self.trainer is not None
        self._calls += 1
        if self._calls == 2:
            self._connection.send(None)
            self.has_turn = self._connection.recv()
            if not self.has_turn:
                raise Stopped
        elif self._calls == 3:
            self.trainer.clock = Clock(compile_seconds=self.trainer.clock.compile_seconds)
            self._begun = time.perf_counter()
        elif self._calls > 3 and time.perf_counter() - self._begun >= self._seconds:
            raise Stopped


def run_backbone(
    config: TrainConfig, memory_gb: float, seconds: float, connection: Connection, log: str
) -> None:
    """Train in a turn of `seconds`, answered by a `Measured`; see `process.Process`.

    Args:
      config: what to train; its batch size is chosen here.
      memory_gb: what a GPU is held to, GB of 1e9 bytes, and the batch is chosen for.
      seconds: of the turn.
      connection, log: see `process.Process`.
    """
    process.begin(log)
    runtime.keep_large_allocations()
    # Shared by the processes of one benchmark, and gone with it.
    cache = CompilationOptions(str(pathlib.Path(config.run_dir).parent / "compiled"))
    try:
        with kept_compilations(cache, xla=config.xla):
            measured = _measure(config, memory_gb, seconds, connection)
        if measured:
            connection.send(measured)
    except tf.errors.ResourceExhaustedError as error:
        connection.send(CxrError(f"out of memory: {error.message.splitlines()[0][:200]}"))
    except CxrError as error:
        connection.send(error)


def _measure(
    config: TrainConfig, memory_gb: float, seconds: float, connection: Connection
) -> Measured | None:
    """Return what the turn came to; None if there was none."""
    begun = time.perf_counter()
    tried = find_batch(functools.partial(try_in_a_process, config, memory_gb=memory_gb, logical_devices=1))
    try_seconds = time.perf_counter() - begun
    hold_gpus(memory_gb)
    placement = choose_placement(config.strategy, config.precision, config.xla)
    manifest = read_manifest(config.data)
    connection.send([str(choice) for choice in (*placement.choices, tried)])
    config = replace(config, batch_size=tried.images)
    turn = _TimedTurn(connection, seconds)
    trainer = turn.trainer = Trainer(config, LongEpoch(manifest, config.read), placement)
    with contextlib.suppress(Stopped):
        trainer.run(turn)
    if not turn.has_turn:
        return None
    memory = peak_memory()
    step = trainer.train_step
    batches = trainer.batches()
    step(batches, _LEAST_STEPS)  # takes what was read before they were asked for
    shards_trace = _traced(lambda: step(batches, _TRACED_STEPS))
    batch = next(batches)
    steps = max(int(seconds / 2 * trainer.clock.images_per_second / config.batch_size), _LEAST_STEPS)

    def run_freely(steps: int) -> float:
        begun = time.perf_counter()
        for number in range(steps):
            sums = step.launch(batch, number)
        read_sums(sums)
        return time.perf_counter() - begun

    run_freely(1)
    seconds_free = run_freely(steps)
    return Measured(
        batch_size=config.batch_size,
        images_per_second=trainer.clock.images_per_second,
        input_wait=trainer.clock.input_wait_share,
        free_images_per_second=steps * config.batch_size / seconds_free,
        try_seconds=try_seconds,
        compile_seconds=trainer.clock.compile_seconds,
        peak_bytes=memory.bytes,
        peak_source=memory.source,
        planned_bytes=planned_memory(trainer.model, config, placement),
        tried_bytes=tried.needed,
        shards_trace=shards_trace,
        free_trace=_traced(lambda: run_freely(_TRACED_STEPS)),
    )


def _traced(work: Callable[[], object]) -> DeviceTrace | str:
    try:
        return trace_device(work)
    except CxrError as error:
        return str(error)


def as_row(measured: Measured) -> dict[str, Any]:
    """Return it ready for JSON, with the shares that the acceptance asks for."""
    return {
        **dataclasses.asdict(measured),
        "share_of_free": measured.images_per_second / measured.free_images_per_second,
        "peak_over_planned": measured.peak_bytes / measured.planned_bytes,
        "peak_over_tried": measured.tried_bytes and measured.peak_bytes / measured.tried_bytes,
        **_shares("shards", measured.shards_trace),
        **_shares("free", measured.free_trace),
    }


def _shares(kind: str, trace: DeviceTrace | str) -> dict[str, float | None]:
    known = isinstance(trace, DeviceTrace)
    return {
        f"{kind}_busy": trace.busy if known else None,
        f"{kind}_copy_beside": trace.copy_beside if known else None,
    }
