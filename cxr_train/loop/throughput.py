"""How fast a run was, what it cost, and what limited it: `throughput.json` and the last lines."""

import dataclasses
import math
import pathlib
from typing import Any

import numpy as np
import tensorflow as tf

from cxr_data.core.wording import byte_size, counted, wrapped
from cxr_data.input.bottleneck import InputRates, verdict
from cxr_data.stats.undefined import json_number
from cxr_train.engine.multi_step import StepRecords
from cxr_train.models.flops import SOURCE

_STEP_SOURCE = (
    "host clock: from the end of the step before to the arrival of this step's loss on the host, "
    "waiting for its batch included"
)


@dataclasses.dataclass
class Clock:
    """What the steps of an epoch or of a run cost; compilation, evaluation and saving are left out.

    Attributes:
      examples: training images of the timed calls.
      seconds: how long these calls lasted on the host, what the host did between their steps included.
      waited: seconds of it in which the device was idle since the next batch was not on it yet, see
        `multi_step`: the steps' time less the compiled steps' own.
      flops: floating-point operations of the timed calls.
      compile_seconds: duration of the first call of the process, and of the first after layers were
        unfrozen: one step that is traced and compiled first; it is not timed otherwise.
    """

    examples: float = 0.0
    seconds: float = 0.0
    waited: float = 0.0
    flops: float = 0.0
    compile_seconds: float = 0.0
    _steps: list[np.ndarray] = dataclasses.field(default_factory=list)

    def add(self, records: StepRecords, seconds: float, flops_per_image: float) -> None:
        """Enter a host call that lasted `seconds`; an image costs more once layers are unfrozen."""
        images = records.examples.sum()
        self.examples += images
        self.flops += images * flops_per_image
        self.seconds += seconds
        self.waited += records.waited.sum()
        self._steps.append(records.seconds)

    @property
    def images_per_second(self) -> float:
        """Training images a second; NaN before the first timed step."""
        return self.examples / self.seconds if self.seconds else math.nan

    @property
    def input_wait_share(self) -> float:
        """Share of the time in which the device waited for a batch, in [0, 1]; NaN before the first step."""
        return self.waited / self.seconds if self.seconds else math.nan

    @property
    def step_seconds(self) -> np.ndarray:
        """float64 [N], the duration of every timed step, see `multi_step`."""
        return np.concatenate(self._steps) if self._steps else np.zeros(0)


@dataclasses.dataclass(frozen=True)
class PeakMemory:
    """The most memory in use at a time.

    Attributes:
      bytes: of the fullest device.
      source: who says so.
    """

    bytes: int
    source: str


def peak_memory() -> PeakMemory:
    """Return the peak of the GPU that used most; without one, that of this process."""
    gpus = tf.config.list_logical_devices("GPU")
    if gpus:
        peaks = [
            tf.config.experimental.get_memory_info(gpu.name.removeprefix("/device:"))["peak"] for gpu in gpus
        ]
        return PeakMemory(max(peaks), "TensorFlow's allocator, fullest GPU")
    status = pathlib.Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return PeakMemory(int(line.split()[1]) * 1024, "VmHWM of the process, on the CPU")


def summarize_throughput(
    clock: Clock,
    rates: InputRates,
    memory: PeakMemory,
    planned_memory: int,
    workers: int = 1,
    *,
    on_cpu: bool = False,
) -> dict[str, Any]:
    """Put together what was measured; ready for JSON, null where no step was timed.

    Args:
      clock: of the steps of this process; the first, which compiles, is not timed.
      rates: of the input alone, of one worker.
      memory: the peak, of one worker.
      planned_memory: bytes of a replica's step by `memory_plan`'s estimate; on a GPU to be compared
        with the peak, which on a CPU holds the whole process.
      workers: how many share the training.
      on_cpu: whether the CPU trains, and no accelerator.
    """
    consumed = clock.images_per_second
    median, slow = np.percentile(clock.step_seconds, [50, 95]) if clock.seconds else (math.nan, math.nan)
    return {
        "images_per_second": json_number(consumed),
        "timed_steps": len(clock.step_seconds),
        "compile_seconds": clock.compile_seconds,
        "step_seconds": {"p50": json_number(median), "p95": json_number(slow), "source": _STEP_SOURCE},
        "input_wait_share": json_number(clock.input_wait_share),
        "flops_per_image": clock.flops / clock.examples if clock.examples else None,
        "flops_per_second": clock.flops / clock.seconds if clock.seconds else None,
        "flops_source": SOURCE,
        "peak_memory_bytes": memory.bytes,
        "peak_memory_source": memory.source,
        "planned_memory_bytes": planned_memory,
        "input_images_per_second": rates.images_per_second * workers,
        "stage_seconds_per_image": rates.stages,
        "verdict": (
            verdict(rates, consumed / workers, clock.input_wait_share, on_cpu=on_cpu)
            if clock.seconds
            else "no timed step: no verdict"
        ),
    }


def lines(summary: dict[str, Any]) -> str:
    """Return the summary for the terminal; `throughput.json` has the sources of its numbers."""
    memory = (
        f"peak memory {byte_size(summary['peak_memory_bytes'])}, of which a step is estimated at "
        f"{byte_size(summary['planned_memory_bytes'])}"
    )
    if summary["images_per_second"] is None:
        return _wrapped(f"{memory}\n{summary['verdict']}")
    step = summary["step_seconds"]
    return _wrapped(
        f"{summary['images_per_second']:.1f} images/s over {counted(summary['timed_steps'], 'step')} "
        f"(p50 {step['p50'] * 1e3:.1f} ms, p95 {step['p95'] * 1e3:.1f} ms), "
        f"input wait {summary['input_wait_share']:.1%}, "
        f"compilation {summary['compile_seconds']:.1f} s\n"
        f"{summary['flops_per_second'] / 1e9:,.1f} GFLOP/s "
        f"({summary['flops_per_image'] / 1e9:.3f} GFLOP an image), {memory}\n"
        f"{summary['verdict']}"
    )


def _wrapped(text: str) -> str:
    return "\n".join(wrapped(line, rest="  ") for line in text.splitlines())
