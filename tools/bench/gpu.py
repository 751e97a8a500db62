"""The acceptance on a GPU: every backbone, held to so much memory, with the largest batch that it takes.

Each backbone has a process of its own. As many as the GPU's memory holds start side by side, since each
compiles for a minute; then they take turns, in which one trains and the others wait. The rows are written as
they come, so that a run that its time limit ends has what it measured.

Where there is no GPU the same runs on the CPU: it shows that the acceptance works, and nothing else.
"""

import contextlib
import dataclasses
import math
import multiprocessing.connection
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from absl import flags

from cxr_data.commands.setting_flags import define_path_flag
from cxr_data.core.errors import CxrError, UsageError
from cxr_train.engine.placement_names import PRECISIONS, XLA
from cxr_train.models.backbones import BACKBONES
from cxr_train.runs.config import TrainConfig
from tools.bench import output
from tools.bench.device_copy import CopyTimes, run_copy
from tools.bench.gpu_run import as_row, run_backbone
from tools.bench.peers_data import prepare_shards
from tools.bench.process import Process

FLAGS = flags.FLAGS

CAVEAT = "rates of a GPU that nothing else uses; without a GPU they say nothing but that the acceptance runs"

# Pal and Paul, 2021: 17,958 images by the seconds of an epoch on an RTX 2080 Ti, at 360 px, in float32.
STUDY_IMAGES_PER_SECOND = {
    name: 17_958 / seconds
    for name, seconds in {
        "inception_v3": 218,
        "mobilenet_v2": 224,
        "vgg16": 303,
        "densenet201": 366,
        "inception_resnet_v2": 438,
        "xception": 489,
        "resnet152_v2": 590,
        "nasnet_large": 1443,
    }.items()
}
_LEAST_SHARE, _MOST_WAIT, _PLAN_ERROR = 0.98, 0.01, 0.1
# Beside the memory that a process is held to: CUDA's context and libraries.
_CONTEXT_GB = 1.0
# Of a turn beside its timed seconds: the free-running step, a checkpoint, and the end of the process.
_TURN_OVERHEAD_S = 10.0
# For the process to end by itself, which frees what it shares with others.
_END_S = 3.0


@dataclasses.dataclass
class Row:
    """One backbone in one environment.

    Attributes:
      environment: `NAME=VALUE` pairs that its processes have beside the benchmark's own; empty for none.
      choices: what its process chose.
      error: why nothing was measured; empty otherwise.
      measured: `gpu_run.as_row`.
    """

    backbone: str
    environment: str = ""
    choices: list[str] = dataclasses.field(default_factory=list)
    error: str = ""
    measured: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """The backbone, with the environment where there is one."""
        return f"{self.backbone} {self.environment}".strip()

    def as_json(self) -> dict[str, object]:
        """Return the row, with the study's rate; null for what was not measured."""
        return {
            "backbone": self.backbone,
            "environment": self.environment,
            "device": device(),
            "study_images_per_second": STUDY_IMAGES_PER_SECOND.get(self.backbone),
            "choices": self.choices,
            "error": self.error or None,
            **self.measured,
        }


def define_flags() -> None:
    """Define the flags of this benchmark."""
    flags.DEFINE_list("backbones", list(BACKBONES), f"Of {', '.join(BACKBONES)}.")
    flags.DEFINE_multi_string(
        "environment",
        [""],
        "Environment variables, such as 'CUDA_DEVICE_MAX_CONNECTIONS=32'. Given several times, every "
        "backbone is measured in each.",
    )
    flags.DEFINE_float("memory_gb", 12.0, "GB that each process may use of the GPU.", lower_bound=0.01)
    flags.DEFINE_float(
        "seconds",
        840.0,
        "Time limit in seconds; the output says what was not measured by then.",
        lower_bound=1,
    )
    flags.DEFINE_float("turn_seconds", 8.0, "Timed seconds of a backbone's turn.", lower_bound=0.1)
    flags.DEFINE_integer(
        "at_once",
        0,
        "Processes side by side; 0: as many as the GPU's memory holds.",
        lower_bound=0,
    )
    define_path_flag(
        "source", "", "Folder of images, as tools.make_tfrecords takes it; without it, a sample is drawn."
    )
    define_path_flag("data", "", "Shards to train on; by default they are made.")
    flags.DEFINE_integer("images", 1024, "Images to draw; no batch is larger.", lower_bound=6)
    flags.DEFINE_integer("image_size", 360, "Height and width of the shards that are made.", lower_bound=32)
    flags.DEFINE_enum("precision", "auto", PRECISIONS, "Keras dtype policy; auto has 16 bits on a GPU.")
    flags.DEFINE_enum("xla", "auto", XLA, "Whether XLA compiles the step; auto does on a GPU.")
    define_path_flag("scratch", "build/bench_trainer", "Folder for images and shards; kept.")


def device() -> str:
    """Return the name of the GPU, or that there is none."""
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return "CPU: no GPU here"
    return str(tf.config.experimental.get_device_details(gpus[0]).get("device_name", "a GPU"))


def processes_at_once(memory_gb: float) -> int:
    """Return how many processes of so much memory the GPU holds; one where there is none, or none says."""
    if not tf.config.list_physical_devices("GPU") or not shutil.which("nvidia-smi"):
        return 1
    query = ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split()
    free_gb = int(answer[0]) * 2**20 / 1e9 if answer and answer[0].isdecimal() else 0.0
    return max(int(free_gb / (memory_gb + _CONTEXT_GB)), 1)


def measure(rows: Sequence[Row], config: TrainConfig, at_once: int, *, ends: float) -> Iterator[Row]:
    """Measure the rows, and yield each as it comes.

    Args:
      rows: what to measure.
      config: of all of them, but for the name.
      at_once: how many processes start side by side.
      ends: `time.monotonic` of the time limit.
    """
    for first in range(0, len(rows), at_once):
        with (
            tempfile.TemporaryDirectory(prefix="cxr-bench-", ignore_cleanup_errors=True) as folder,
            contextlib.ExitStack() as stack,
        ):
            started: list[tuple[Row, Process]] = []
            for number, row in enumerate(rows[first : first + at_once]):
                place = Path(folder, str(number))
                place.mkdir()
                own = dataclasses.replace(config, backbone=row.backbone, run_dir=str(place))
                arguments = (own, FLAGS.memory_gb, FLAGS.turn_seconds)
                environment = parse_environment(row.environment)
                process = Process(row.backbone, run_backbone, arguments, place / "log.txt", environment)
                started.append((row, process))
                stack.callback(process.end, patience=0.0)
            yield from take_turns(started, ends=ends, turn_seconds=FLAGS.turn_seconds + _TURN_OVERHEAD_S)


def take_turns(started: Sequence[tuple[Row, Process]], *, ends: float, turn_seconds: float) -> Iterator[Row]:
    """Wait until all processes are ready, then let one after the other work; yield their rows as they come.

    Args:
      started: rows to fill in; each process is ended after its turn, or when it can have none.
      ends: `time.monotonic` of the time limit.
      turn_seconds: what a turn takes, which is kept free for those that are ready.
    """
    compiling = {process.connection: (row, process) for row, process in started}
    ready: list[tuple[Row, Process]] = []
    while compiling and (left := ends - time.monotonic() - len(ready) * turn_seconds) > 0:
        for connection in multiprocessing.connection.wait(list(compiling), timeout=left):
            row, process = compiling[connection]
            try:
                answer = process.receive()
            except CxrError as error:
                row.error = str(error)
                del compiling[connection]
                yield row
                continue
            if answer is None:
                ready.append(compiling.pop(connection))
            else:
                row.choices = answer
    for row, process in compiling.values():
        process.end(patience=0.0)
        row.error = "the time limit came before its first step was compiled"
        yield row
    for row, process in ready:
        try:
            row.measured = as_row(process.turn(within=ends - time.monotonic()))
        except CxrError as error:
            row.error = str(error)
        process.end(patience=_END_S)
        yield row


def copy_times(*, ends: float) -> CopyTimes | str:
    """Return how copies and kernels get on on this machine, or why that is not known."""
    with tempfile.TemporaryDirectory(prefix="cxr-bench-", ignore_cleanup_errors=True) as folder:
        process = Process("the copy", run_copy, (), Path(folder, "log.txt"))
        try:
            process.wait_until_ready()
            measured: CopyTimes = process.turn(within=ends - time.monotonic())
            return measured
        except CxrError as error:
            return str(error)
        finally:
            process.end(patience=_END_S)


def parse_environment(text: str) -> dict[str, str]:
    """Return `NAME=VALUE` pairs, quoted as in a shell. Raises UsageError: a part is no pair."""
    pairs = [part.partition("=") for part in shlex.split(text)]
    if wrong := [name for name, is_pair, _ in pairs if not (is_pair and name)]:
        raise UsageError(f"--environment={text}: {wrong[0]!r} is not of the form NAME=VALUE")
    return {name: value for name, _, value in pairs}


# -- results -----------------------------------------------------------------------------------


def rows_to_text(rows: Sequence[Row]) -> str:
    """Return the rows as text."""

    def cell(key: str, form: str, scale: float = 1.0) -> Callable[[Row], str]:
        return lambda row: "-" if row.measured.get(key) is None else format(row.measured[key] * scale, form)

    columns: dict[str, Callable[[Row], str]] = {
        "backbone": lambda row: row.name,
        "batch": cell("batch_size", "d", 1),
        "images/s": cell("images_per_second", ".1f"),
        "input wait %": cell("input_wait", ".2f", 100),
        "of free-running": cell("share_of_free", ".3f"),
        "busy %": cell("shards_busy", ".1f", 100),
        "copied beside kernels %": cell("shards_copy_beside", ".0f", 100),
        "peak GB": cell("peak_bytes", ".2f", 1e-9),
        "tried GB": cell("tried_bytes", ".2f", 1e-9),
        "planned GB": cell("planned_bytes", ".2f", 1e-9),
        "tries s": cell("try_seconds", ".0f"),
        "compilation s": cell("compile_seconds", ".0f"),
        "study images/s": lambda row: f"{STUDY_IMAGES_PER_SECOND.get(row.backbone, math.nan):.1f}",
        "": lambda row: row.error,
    }
    return output.table(rows, columns)


def verdicts(rows: Sequence[Row]) -> list[str]:
    """Return a line for each target of the acceptance; what was not measured has missed it."""
    lines = []
    targets: dict[str, Callable[[dict[str, Any]], bool]] = {
        "measured": lambda row: True,
        f"input wait under {_MOST_WAIT:.0%}": lambda row: row["input_wait"] < _MOST_WAIT,
        f"at least {_LEAST_SHARE} of the free-running step": lambda row: row["share_of_free"] >= _LEAST_SHARE,
        f"peak within {_PLAN_ERROR:.0%} of what the try took": lambda row: (
            abs((row["peak_over_tried"] or 0) - 1) <= _PLAN_ERROR
        ),
    }
    for target, is_reached in targets.items():
        missed = [row.name for row in rows if not (row.measured and is_reached(row.measured))]
        lines.append(f"{target}: {'MISSED by ' + ', '.join(missed) if missed else 'reached'}")
    return lines


def main() -> Iterator[list[dict[str, object]]]:
    """Read the flags, prepare the data and measure; yield the rows so far for JSON after each."""
    ends = time.monotonic() + FLAGS.seconds
    if unknown := set(FLAGS.backbones) - set(BACKBONES):
        raise UsageError(f"--backbones={min(unknown)}: not one of {', '.join(BACKBONES)}")
    for text in FLAGS.environment:
        parse_environment(text)
    print(f"device: {device()}; each backbone in {FLAGS.memory_gb:g} GB")
    if not tf.config.list_physical_devices("GPU"):
        print("No GPU: nothing is held to --memory_gb, the peak is the process's, and no target counts.")
        copied: CopyTimes | str = "no GPU"
    else:
        copied = copy_times(ends=ends)
        print(f"copy to the GPU: {copied}", flush=True)
    limit = copied.beside if isinstance(copied, CopyTimes) else None
    data = FLAGS.data or str(
        prepare_shards(Path(FLAGS.scratch), FLAGS.source, FLAGS.images, FLAGS.image_size)[0]
    )
    config = TrainConfig(
        "xception", data, "", epochs=1, weights="none", precision=FLAGS.precision, xla=FLAGS.xla,
        strategy="one", validation_split="train",
    )  # fmt: skip
    at_once = FLAGS.at_once or processes_at_once(FLAGS.memory_gb)
    wanted = [Row(backbone, text) for backbone in FLAGS.backbones for text in FLAGS.environment]
    rows: list[Row] = []
    for row in measure(wanted, config, at_once, ends=ends):
        rows.append(row)
        print(f"{row.name}: {row.error or row.measured}", file=sys.stderr, flush=True)
        yield [each.as_json() | {"copy_beside_limit": limit} for each in rows]
    print(rows_to_text(rows))
    if tf.config.list_physical_devices("GPU"):
        print("\n".join(verdicts(rows)))
