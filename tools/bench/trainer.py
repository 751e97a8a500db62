"""The trainer against its own bare step, against `model.fit`, and against the study's way.

Every way has a process of its own with the same network, data and precision. They start side by side,
since each may compile for a minute, and then take turns: a few steps each, round after round, while the
others wait. Start, tracing, compilation and the first step of each turn are not timed, in no way. A ratio
is the median over the rounds of the ratios within one.

On a CPU, oneDNN is 10 to 20 times faster than XLA: there `--xla=auto` leaves XLA off in the
trainer and so in its bare step, and a compiled step is that of `tf.function`.
"""

import contextlib
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import tensorflow as tf
from absl import flags

from cxr_data.commands.setting_flags import define_path_flag
from cxr_data.core.errors import CxrError
from cxr_data.records.manifest import read_manifest
from cxr_train.engine.placement_names import PRECISIONS, XLA
from cxr_train.models.backbones import BACKBONES
from cxr_train.runs.config import TrainConfig
from tools.bench import output
from tools.bench.peers_data import prepare_findings, prepare_shards
from tools.bench.process import Process
from tools.bench.trainer_ways import Turn, Way, run_way

FLAGS = flags.FLAGS

CAVEAT = "compare the ratios only if nothing else ran; what a CPU gives says nothing of a GPU"

FREE, BARE, LOOP, STUDY = Way("free"), Way("bare"), Way("loop"), Way("study")
LOOP_UINT8 = Way("loop", shards="uint8")
LOOP_FINDINGS = Way("loop", shards="findings")
STEPS_PER_EXECUTION = (1, 8)
TARGETS = {"free": 0.98, "bare": 0.98, "fit": 1.0}
# Of the same bare step: these shards are a twelfth of the bytes.
UINT8_TARGET = 0.99
# Of the trainer on one class a picture.
FINDINGS_TARGET = 1.0


@dataclass(frozen=True)
class Row:
    """One way of training one backbone.

    Attributes:
      rates: images a second in each round.
      ratios: the trainer's rate over this way's, in each round.
      cpu_ms: median processor time of an image, in all threads: what the ratios would come from
        on a CPU with nothing else to do.
    """

    backbone: str
    way: Way
    rates: tuple[float, ...]
    ratios: tuple[float, ...]
    cpu_ms: float

    @property
    def rate(self) -> float:
        """Median images a second."""
        return statistics.median(self.rates)

    @property
    def ratio(self) -> float:
        """Median of the ratios."""
        return statistics.median(self.ratios)


def define_flags() -> None:
    """Define the flags of this benchmark."""
    flags.DEFINE_list("backbones", ["mobilenet_v2", "xception"], f"Of {', '.join(BACKBONES)}.")
    define_path_flag(
        "source", "", "Folder of images, as tools.make_tfrecords takes it; without it, a sample is drawn."
    )
    define_path_flag("data", "", "Shards to train on, made of --source; by default they are made.")
    define_path_flag("uint8_data", "", "The same as uint8 of one channel; made too unless --data is given.")
    define_path_flag(
        "findings_data", "", "Shards with several findings a picture; made unless --data is given."
    )
    flags.DEFINE_integer("images", 512, "Images to draw.", lower_bound=6)
    flags.DEFINE_integer("image_size", 360, "Height and width of the shards that are made.", lower_bound=32)
    flags.DEFINE_integer("batch_size", 4, "Images in a batch.", lower_bound=1)
    flags.DEFINE_integer("steps", 8, "Timed steps of each way in a round.", lower_bound=1)
    flags.DEFINE_integer("rounds", 4, "Rounds; the median counts.", lower_bound=1)
    flags.DEFINE_enum("precision", "auto", PRECISIONS, "Keras dtype policy.")
    flags.DEFINE_enum("xla", "auto", XLA, "Whether XLA compiles the trainer's step.")
    define_path_flag("scratch", "build/bench_trainer", "Folder for images and shards; kept.")


# -- running -----------------------------------------------------------------------------------


@contextlib.contextmanager
def running(
    ways: Sequence[Way], config: TrainConfig, data: Mapping[str, str], source: str, steps: int
) -> Iterator[dict[Way, Process]]:
    """Start the ways' processes side by side, and wait until all are ready.

    Args:
      ways: how to train.
      config: what to train, but for the data.
      data: the shards by `Way.shards`.
      source: folder of the original images.
      steps: of a turn.

    Raises:
      CxrError: one of them cannot train.
    """
    processes: dict[Way, Process] = {}
    with tempfile.TemporaryDirectory(prefix="cxr-bench-") as folder, contextlib.ExitStack() as stack:
        for number, way in enumerate(ways):
            place = Path(folder, str(number))
            place.mkdir()
            own = replace(config, run_dir=str(place), data=data[way.shards])
            processes[way] = Process(way.label, run_way, (way, own, source, steps), place / "log.txt")
            stack.callback(processes[way].end)
        try:
            for process in processes.values():
                process.wait_until_ready()
        except CxrError:
            for process in processes.values():
                process.end(patience=0.0)
            raise
        yield processes


def fits() -> list[Way]:
    """fit with all its settings; `auto` compiles where there is a GPU and is False elsewhere."""
    jit_compile = (False, "auto") if tf.config.list_physical_devices("GPU") else (False,)
    return [Way("fit", steps, jit) for jit in jit_compile for steps in STEPS_PER_EXECUTION]


def measure(config: TrainConfig, data: Mapping[str, str], source: str) -> tuple[list[Row], list[str]]:
    """Measures all ways of one backbone; returns their rows and what the trainer chose."""
    loops = [way for way in (LOOP, LOOP_UINT8, LOOP_FINDINGS) if way.shards in data]
    ways = [FREE, BARE, *loops, *fits(), *([STUDY] if source else [])]
    turns: dict[Way, list[Turn]] = {way: [] for way in ways}
    with running(ways, config, data, source, FLAGS.steps) as processes:
        for number in range(FLAGS.rounds):
            # Back and forth, so that a machine that grows slower favours none.
            for way in ways if number % 2 == 0 else reversed(ways):
                turn = processes[way].turn()
                turns[way].append(turn)
                rate = turn.steps * config.batch_size / turn.seconds
                print(f"{config.backbone}, {way.label}: {rate:.2f} img/s", file=sys.stderr, flush=True)
        choices = processes[LOOP].choices
    return make_rows(config.backbone, config.batch_size, turns), choices


# -- results -----------------------------------------------------------------------------------


def make_rows(backbone: str, batch_size: int, turns: dict[Way, list[Turn]]) -> list[Row]:
    """Return a row for each way, with the ratios of the trainer to it."""
    rates = {way: [turn.steps * batch_size / turn.seconds for turn in own] for way, own in turns.items()}
    return [
        Row(
            backbone,
            way,
            rates=tuple(rates[way]),
            ratios=tuple(ours / its for ours, its in zip(rates[LOOP], rates[way], strict=True)),
            cpu_ms=statistics.median(1e3 * turn.cpu_seconds / (turn.steps * batch_size) for turn in own),
        )
        for way, own in turns.items()
    ]


def rows_to_text(rows: Sequence[Row]) -> str:
    """Return the rows as text."""
    columns = {
        "backbone": lambda row: row.backbone,
        "way": lambda row: row.way.label,
        "img/s": lambda row: f"{row.rate:.2f}",
        "trainer / it": lambda row: f"{row.ratio:.3f}",
        "lowest": lambda row: f"{min(row.ratios):.3f}",
        "highest": lambda row: f"{max(row.ratios):.3f}",
        "CPU ms/img": lambda row: f"{row.cpu_ms:.1f}",
    }
    return output.table(rows, columns)


def verdicts(rows: Sequence[Row]) -> list[str]:
    """Return a line for each backbone: the trainer against its bare step and the best of fit's settings."""
    lines = []
    for backbone in dict.fromkeys(row.backbone for row in rows):
        measured = [row for row in rows if row.backbone == backbone]
        parts = []
        for kind, target in TARGETS.items():
            of_kind = [row for row in measured if row.way.kind == kind]
            if of_kind:
                best = max(of_kind, key=lambda row: row.rate)
                parts.append(_verdict(best.ratio, best.way.label, target))
        lines.append(f"{backbone}: the trainer has {', '.join(parts)}")
        by_way = {row.way: row for row in measured}
        if LOOP_UINT8 in by_way and BARE in by_way:
            rates = zip(by_way[LOOP_UINT8].rates, by_way[BARE].rates, strict=True)
            ratio = statistics.median(ours / its for ours, its in rates)
            lines.append(f"{backbone}: on uint8 shards {_verdict(ratio, BARE.label, UINT8_TARGET)}")
        if LOOP_FINDINGS in by_way:
            ratio = 1 / by_way[LOOP_FINDINGS].ratio
            lines.append(f"{backbone}: on findings {_verdict(ratio, LOOP.label, FINDINGS_TARGET)}")
    return lines


def _verdict(ratio: float, label: str, target: float) -> str:
    reached = "reached" if ratio >= target else "MISSED"
    return f"{ratio:.3f} of {label} (target {target:.2f}: {reached})"


# -- the data ----------------------------------------------------------------------------------


def prepare(scratch: Path) -> tuple[dict[str, str], str]:
    """Make what the flags do not give: (shards by `Way.shards`, folder of images or "")."""
    if FLAGS.data:
        given = {"float32": FLAGS.data, "uint8": FLAGS.uint8_data, "findings": FLAGS.findings_data}
        return {kind: shards for kind, shards in given.items() if shards}, FLAGS.source
    made = {
        dtype: prepare_shards(scratch, FLAGS.source, FLAGS.images, FLAGS.image_size, dtype)
        for dtype in ("float32", "uint8")
    }
    data = {dtype: str(shards) for dtype, (shards, _) in made.items()}
    data["findings"] = str(prepare_findings(scratch, FLAGS.images, FLAGS.image_size))
    return data, str(made["float32"][1])


def main() -> list[dict[str, object]]:
    """Read the flags, prepare the data, measure, print a table and return it for JSON."""
    data, source = prepare(Path(FLAGS.scratch))
    configs = [
        TrainConfig(
            backbone, data["float32"], "", epochs=1, batch_size=FLAGS.batch_size, weights="none",
            precision=FLAGS.precision, xla=FLAGS.xla, strategy="one", validation_split="train",
        )
        for backbone in FLAGS.backbones
    ]  # fmt: skip
    manifest = read_manifest(data["float32"])
    rows: list[Row] = []
    for config in configs:
        found, choices = measure(config, data, source)
        rows += found
    print(
        f"batches of {FLAGS.batch_size} at {manifest.size} px, {FLAGS.steps} steps a turn, "
        f"{FLAGS.rounds} rounds in turns"
    )
    print("\n".join([*choices, rows_to_text(rows), *verdicts(rows)]))
    if not source:
        print("The study's way was not measured: --source is missing.")
    return [{**asdict(row), "label": row.way.label, "images_per_second": row.rate} for row in rows]
