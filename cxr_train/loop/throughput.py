"""How fast a run was, what it cost, and what limited it: `throughput.json` and the last lines."""

import dataclasses
import math
import pathlib
from typing import Any

import numpy as np
import tensorflow as tf

from cxr_data.input.bottleneck import InputRates, verdict
from cxr_data.stats.undefined import json_number
from cxr_train.loop.clock import Clock
from cxr_train.models.flops import SOURCE

_STEP_SOURCE = (
    "clock inside of the compiled loop: from the end of the step before to the arrival of this "
    "step's loss on the host, waiting for its batch included"
)


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
    """That of the GPU that used most; without one, that of this process."""
    gpus = tf.config.list_logical_devices("GPU")
    if gpus:
        peaks = [
            tf.config.experimental.get_memory_info(gpu.name.removeprefix("/device:"))["peak"] for gpu in gpus
        ]
        return PeakMemory(max(peaks), "TensorFlow's allocator, fullest GPU")
    status = pathlib.Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return PeakMemory(int(line.split()[1]) * 1024, "VmHWM of the process, on the CPU")


def summarize(
    clock: Clock,
    rates: InputRates,
    memory: PeakMemory,
    planned_memory: int,
    workers: int = 1,
) -> dict[str, Any]:
    """Puts together what was measured; ready for JSON, null where no step was timed.

    Args:
      clock: of the steps of this process; the first, which compiles, is not timed.
      rates: of the input alone, of one worker.
      memory: the peak, of one worker.
      planned_memory: bytes of a replica's step by `memory_plan`'s estimate; on a GPU to be compared
        with the peak, which on a CPU holds the whole process.
      workers: how many share the training.
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
        "verdict": verdict(rates, consumed / workers) if clock.seconds else "no timed step: no verdict",
    }


def lines(summary: dict[str, Any]) -> str:
    """Returns the summary for the terminal."""
    memory = (
        f"peak memory {summary['peak_memory_bytes'] / 1e9:.2f} GB ({summary['peak_memory_source']}; "
        f"the step by itself is estimated at {summary['planned_memory_bytes'] / 1e9:.2f} GB)"
    )
    if summary["images_per_second"] is None:
        return f"{memory}\n{summary['verdict']}"
    step = summary["step_seconds"]
    clock = "no clock of single steps (--deterministic)"
    if step["p50"] is not None:
        clock = (
            f"step p50 {step['p50'] * 1e3:.1f} ms, p95 {step['p95'] * 1e3:.1f} ms, "
            f"input wait {summary['input_wait_share']:.1%}"
        )
    return (
        f"{summary['images_per_second']:.1f} images/s over {summary['timed_steps']:,} steps, "
        f"{clock}; compilation {summary['compile_seconds']:.1f} s, apart\n"
        f"{summary['flops_per_second'] / 1e9:,.1f} GFLOP/s "
        f"({summary['flops_per_image'] / 1e9:.3f} GFLOP an image, forward and backward), {memory}\n"
        f"{summary['verdict']}"
    )
