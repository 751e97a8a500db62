"""How converting scales: measured on the cores of this machine, and modelled beyond it.

Strong scaling, measured: the same files converted by the sharder with 1, 2, ... worker processes,
its start, its plan and its manifest included, the rounds in turns; the median counts. Beside it what the
machine itself gives: the same files only decoded, by as many processes that share nothing.

Weak scaling, modelled: so many images a worker. A worker needs

    time(N) = start + images / rate + images x bytes / min(network, storage / N)

where `rate` is the measured one of one worker on one core. What one process does alone for all images
(discovering, duplicates, planning) takes `serial` seconds an image, measured too; these files are of few
sizes, so that all are read for duplicates: it is an upper bound. Shards are independent of each other, so
there is no other term.
"""

import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from absl import flags

from cxr_data.commands.setting_flags import define_path_flag
from cxr_data.core.child_process import begin_worker
from cxr_data.core.errors import DataError, UsageError
from tools.bench.output import table
from tools.bench.sharder import decode_opencv, pictures, write_files

FLAGS = flags.FLAGS

CAVEAT = "weak scaling is modelled from the stated assumptions, not measured on a cluster"

TARGET = 1.8
_WORKERS = (1, 8, 64)


@dataclass(frozen=True)
class Run:
    """One number of workers: median seconds of the whole command, and of its two parts."""

    workers: int
    seconds: float
    planning: float
    converting: float
    images_per_second: float
    speedup: float
    efficiency: float
    decode_speedup: float


@dataclass(frozen=True)
class Model:
    """A modelled number of workers, each on a core of its own, with `images` images each."""

    workers: int
    images: int
    gigabytes: float
    images_per_second: float
    efficiency: float
    hours_per_million: float
    cost_per_million: float


def define_flags() -> None:
    """Define the flags of this benchmark."""
    define_path_flag("source", None, "Folder with 1024x1024 grayscale PNGs.")
    flags.DEFINE_integer("images", 3000, "Images per run; with few, the start of the command counts.")
    flags.DEFINE_integer("rounds", 3, "Rounds; the median counts.")
    define_path_flag("scratch", "/dev/shm", "Where files and shards are put.")
    flags.DEFINE_float("core_hour", 0.05, "Price of a core for an hour, in any currency.")
    flags.DEFINE_float("network_mb", 150, "MB a second that one worker can read and write remotely.")
    flags.DEFINE_float("storage_mb", 20_000, "MB a second that the storage gives to all workers together.")
    flags.DEFINE_float("start_seconds", 60, "Seconds from the command to the first image on a cluster.")
    flags.DEFINE_integer(
        "images_per_worker", 100_000, "Images that each worker converts in the weak-scaling model."
    )


def measure(source: Path, workers: int, output: Path) -> tuple[float, float, float]:
    """Convert a folder: seconds (of the whole command, until the plan, from there to the end)."""
    shutil.rmtree(output, ignore_errors=True)
    log = output.with_suffix(".log")
    log.unlink(missing_ok=True)
    command = [sys.executable, "-m", "tools.make_tfrecords", f"--source={source}", f"--output={output}"]
    command += [f"--workers={workers}", f"--log_json={log}", "--noaudit"]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - began
    if done.returncode:
        raise DataError(f"the sharder failed: {done.stderr.strip().splitlines()[-1]}")
    events = [json.loads(line) for line in log.read_text().splitlines()]
    shutil.rmtree(output)
    by_name = {event["event"]: event for event in events}
    return seconds, float(by_name["plan"]["seconds"]), float(by_name["done"]["seconds_run"])


def measure_decoding(paths: Sequence[str], workers: int) -> float:
    """Return the seconds in which processes of their own read and decode all files; their start does not
    count.
    """
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), begin_worker) as pool:
        list(pool.map(decode_opencv, paths[: workers * 8]))
        began = time.monotonic()
        list(pool.map(decode_opencv, paths, chunksize=16))
        return time.monotonic() - began


def strong(source: Path, scratch: Path, counts: list[int]) -> list[Run]:
    """Measure all numbers of workers, in turns."""
    paths = [str(path) for path in sorted(source.rglob("*.png"))]
    decoding: dict[int, list[float]] = {count: [] for count in counts}
    taken: dict[int, list[tuple[float, float, float]]] = {count: [] for count in counts}
    for number in range(FLAGS.rounds):
        for count in counts:
            decoding[count].append(measure_decoding(paths, count))
            taken[count].append(measure(source, count, scratch / "output"))
            print(f"round {number + 1}, {count} workers: {taken[count][-1][0]:.1f} s", file=sys.stderr)
    medians = {
        count: [statistics.median(part) for part in zip(*taken[count], strict=True)] for count in counts
    }
    base = medians[1][0]
    return [
        Run(
            workers=count,
            seconds=seconds,
            planning=planning,
            converting=converting,
            images_per_second=FLAGS.images / seconds,
            speedup=base / seconds,
            efficiency=base / seconds / count,
            decode_speedup=statistics.median(decoding[1]) / statistics.median(decoding[count]),
        )
        for count, (seconds, planning, converting) in medians.items()
    ]


def weak(workers: int, *, rate: float, serial: float, bytes_per_image: float) -> Model:
    """Model `workers` cores that convert `--images_per_worker` images each.

    Args:
      workers: their number.
      rate: images a second of one, measured.
      serial: seconds an image that only one process can spend, measured.
      bytes_per_image: read and written.
    """
    images = workers * FLAGS.images_per_worker

    def seconds(count: int) -> float:
        bandwidth = min(FLAGS.network_mb, FLAGS.storage_mb / count) * 1e6
        own = FLAGS.images_per_worker * (1 / rate + bytes_per_image / bandwidth)
        return float(FLAGS.start_seconds + own + serial * FLAGS.images_per_worker * count)

    per_million = seconds(workers) / images * 1e6 / 3600
    return Model(
        workers=workers,
        images=images,
        gigabytes=images * bytes_per_image / 1e9,
        images_per_second=images / seconds(workers),
        efficiency=seconds(1) / seconds(workers),
        hours_per_million=per_million,
        cost_per_million=per_million * workers * FLAGS.core_hour,
    )


def main() -> dict[str, object]:
    """Read the flags, measure, print two tables and return them for JSON."""
    if not FLAGS.source:
        raise UsageError("--source is missing (--help lists the flags)")
    contents = pictures(FLAGS.source)
    cores = len(os.sched_getaffinity(0))
    counts = [count for count in (1, 2, 4, 8, 16, 32, 64) if count <= cores]
    with tempfile.TemporaryDirectory(dir=FLAGS.scratch, prefix="cxr-bench-") as name:
        write_files(Path(name) / "in", contents, FLAGS.images, "png")
        runs = strong(Path(name) / "in", Path(name), counts)
    serial = runs[0].planning / FLAGS.images
    rate = FLAGS.images / runs[0].converting
    stored = 360 * 360 * 3 * 4
    moved = stored + sum(map(len, contents)) / len(contents)
    models = [weak(count, rate=rate, serial=serial, bytes_per_image=moved) for count in _WORKERS]
    print(_tables(runs, models, rate, serial, moved))
    return {"strong": [asdict(run) for run in runs], "weak": [asdict(model) for model in models]}


def _tables(runs: list[Run], models: list[Model], rate: float, serial: float, moved: float) -> str:
    strong = {
        "workers": lambda run: str(run.workers),
        "seconds": lambda run: f"{run.seconds:.1f}",
        "img/s": lambda run: f"{run.images_per_second:.1f}",
        "speedup": lambda run: f"{run.speedup:.2f}x",
        "efficiency": lambda run: f"{run.efficiency:.0%}",
        "decoding alone": lambda run: f"{run.decode_speedup:.2f}x",
        "target": lambda run: f">= {TARGET}x" if run.workers == 2 else "",
    }
    weak = {
        "workers": lambda model: str(model.workers),
        "images": lambda model: f"{model.images:,}",
        "GB": lambda model: f"{model.gigabytes:,.0f}",
        "img/s": lambda model: f"{model.images_per_second:.0f}",
        "efficiency": lambda model: f"{model.efficiency:.0%}",
        "hours/million": lambda model: f"{model.hours_per_million:.2f}",
        "cost/million": lambda model: f"{model.cost_per_million:.2f}",
    }
    return (
        f"strong scaling, measured: {FLAGS.images} PNGs, 1024x1024 to float32 x 3 at 360x360\n"
        f"{table(runs, strong)}\n\n"
        f"weak scaling, modelled: {FLAGS.images_per_worker:,} images a worker\n"
        f"measured: {rate:.0f} images/s a core; {serial * 1e6:.0f} us an image of one process for all; "
        f"{moved / 1e6:.2f} MB an image in and out\n"
        f"assumed: {FLAGS.network_mb:g} MB/s a worker, {FLAGS.storage_mb:g} MB/s for all, "
        f"{FLAGS.start_seconds:g} s to start, {FLAGS.core_hour:g} a core-hour\n"
        f"{table(models, weak)}"
    )
