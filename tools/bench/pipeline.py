"""The read side against TFRecordDataset and against the limit of the machine, in one run.

Shards of at least 2 GB are made first (of noise: their content does not matter to a reader),
float32 x 3 and uint8 x 1, each with one class and with 14 findings a picture. The ways take turns,
every round, and the medians count.

    records only   TFRecordDataset, the best of several settings, nothing after it: the reference
    limit          the same positional reads on two bare threads, no tf.data, no checksum

Datasets are taken as the trainer takes them, many batches in one TensorFlow function; what a
Python loop around the same dataset gets is a row of its own. The utilisation of an emulated
accelerator is measured at the rates of `GPU_RATES`.
"""

import concurrent.futures
import dataclasses
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf
from absl import flags

from cxr_data.commands.setting_flags import define_path_flag
from cxr_data.core import runtime
from cxr_data.core.progress_bar import progress_bar
from cxr_data.input import order
from cxr_data.input.bottleneck import elements_per_second, images_per_second_in_python, measure_input
from cxr_data.input.emulate import emulate_accelerator
from cxr_data.input.indexed import IndexedReader
from cxr_data.input.options import ReadOptions
from cxr_data.input.pipeline import Pipeline
from cxr_data.records import example
from cxr_data.records import manifest as manifests
from cxr_data.records.index import scan_shard, write_index
from cxr_data.records.layout import MANIFEST_NAME, shard_name
from cxr_data.records.manifest import Manifest, Shard, read_manifest
from cxr_data.records.tfrecord import frame
from tools.bench.output import table

FLAGS = flags.FLAGS

CAVEAT = (
    "the page cache is warm but where it is said; the accelerators sleep for published step times, scaled "
    "to this size: no GPU was measured"
)

SIZE = 360
SPLIT = "train"
CLASSES = ("covid", "normal", "pneumonia")
RECORDS_PER_SHARD = 64
# As many as NIH ChestX-ray14 has.
FINDINGS = tuple(f"finding_{number:02}" for number in range(1, 15))

# Published training rates, float16 + XLA: RTX 2080 Ti at 224 px (inception_v3 at 299): resnet50
# 771, inception_v3 450, vgg16 403, resnet152 293; RTX 3090: xception 498 and inception_v3 782 at
# 299 px, mobilenet_v2 2,313 at 224. A 12 GB card is not faster than the 24 GB RTX 3090, so its
# rates are the hard case; what is published for the 2080 Ti alone is scaled by inception_v3's
# 782 / 450. Other networks have the rate of a measured relative, scaled by multiply-adds, and
# all are scaled to 360 px by pixels.
_CARD = 782 / 450
GPU_RATES = {
    "mobilenet_v2": 2313 * (224 / SIZE) ** 2,
    "inception_v3": 782 * (299 / SIZE) ** 2,
    "densenet201": 771 * _CARD * (4.1 / 4.3) * (224 / SIZE) ** 2,  # of resnet50
    "efficientnet_b1": 2313 * (0.30 / 0.60) * (224 / SIZE) ** 2,  # of mobilenet_v2, both at 224 px
    "xception": 498 * (299 / SIZE) ** 2,
    "vgg16": 403 * _CARD * (224 / SIZE) ** 2,
    "inception_resnet_v2": 782 * (5.7 / 13.2) * (299 / SIZE) ** 2,  # of inception_v3
    "resnet152_v2": 293 * _CARD * (224 / SIZE) ** 2,
    "nasnet_large": 782 * (5.7 / 19.4) * (299 / SIZE) ** 2,  # of inception_v3, both at 299 px
    "efficientnet_b7": 2313 * (0.30 / 5.2) * (224 / SIZE) ** 2,  # of mobilenet_v2, both at 224 px
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One way of reading: images a second in each round, and its target in words."""

    way: str
    rates: tuple[float, ...]
    target: str = ""

    @property
    def median(self) -> float:
        """Median images a second over the rounds."""
        return statistics.median(self.rates)


def define_flags() -> None:
    """Define the flags of this benchmark."""
    define_path_flag(
        "scratch", "build/bench_pipeline", "Where the shards are made, and stay for the next run."
    )
    flags.DEFINE_integer("images", 3072, "Images in the float32 shards, 1.56 MB each.", lower_bound=256)
    flags.DEFINE_integer("batch_size", 32, "Images in a batch; the trainer's default.", lower_bound=2)
    flags.DEFINE_integer("rounds", 5, "Rounds; the median counts.", lower_bound=1)
    flags.DEFINE_float("seconds", 3.0, "Seconds that each way runs in a round.")
    flags.DEFINE_float("emulate_seconds", 15.0, "Seconds for each emulated accelerator.")
    define_path_flag(
        "only",
        "",
        "Directory to read once, to measure the peak memory of that; the benchmark itself uses it.",
    )


# -- the shards --------------------------------------------------------------------------------


def make_shards(
    directory: pathlib.Path, images: int, dtype: str, channels: int, *, findings: bool = False
) -> Manifest:
    """Make shards of noise, with one class or with `FINDINGS` a picture, unless they are there."""
    if (directory / MANIFEST_NAME).exists():
        found = read_manifest(str(directory))
        if found.records == images:
            return found
    directory.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    shards, rows = [], []
    count = -(-images // RECORDS_PER_SHARD)
    for number in progress_bar(f"write {dtype} x {channels}", "shards", count, range(count)):
        name = shard_name(SPLIT, number, count)
        shard, index = _write_shard(directory, name, number, images, dtype, channels, generator, findings)
        shards.append(shard)
        rows.append(index)
    names, task = (FINDINGS, manifests.FINDINGS) if findings else (CLASSES, manifests.CLASSES)
    made = Manifest(
        directory=str(directory), schema=manifests.SCHEMA, class_names=names, task=task, size=SIZE,
        channels=channels, dtype=dtype, kernel="none", color="gray", shards=tuple(shards),
        counts={SPLIT: dict.fromkeys(names, 0) | {names[0]: images}},
        mean=(0.5,) * channels, std=(0.3,) * channels, seed=0,
        config_hash="", inputs_hash="", source_counts={}, versions={},
        index_sha256=write_index(str(directory), np.concatenate(rows)),
    )  # fmt: skip
    manifests.write_manifest(made)
    return made


def _write_shard(
    directory: pathlib.Path,
    name: str,
    number: int,
    images: int,
    dtype: str,
    channels: int,
    generator,
    findings,
) -> tuple[Shard, np.ndarray]:
    labels = (1,) + (0,) * (len(FINDINGS) - 1) if findings else ()
    path = directory / name
    stop = min((number + 1) * RECORDS_PER_SHARD, images)
    with open(path, "wb") as file:
        for position in range(number * RECORDS_PER_SHARD, stop):
            gray = generator.integers(0, 256, [SIZE, SIZE, 1], np.uint8)
            pixels = gray if dtype == "uint8" else (gray / np.float32(255)).astype(dtype)
            payload = np.ascontiguousarray(np.repeat(pixels, channels, axis=-1)).tobytes()
            fields = example.Fields(0, f"{position}.png", "0" * 64, str(position), labels=labels)
            before, after = frame(example.example_header(fields, dtype, len(payload)), payload)
            file.write(before + payload + after)
    index = scan_shard(path, findings=len(labels))
    index["shard"] = number
    return Shard(name, SPLIT, len(index), path.stat().st_size, "0" * 64), index


# -- the ways ----------------------------------------------------------------------------------


def _batches(count: int, batch_size: int) -> Iterator[np.ndarray]:
    epoch = 0
    while True:
        yield from order.training_batches(np.arange(count), batch_size=batch_size, seed=0, epoch=epoch)
        epoch += 1


def bare_reads(made: Manifest, batch_size: int) -> Iterator[int]:
    """Yield the limit: two threads read shuffled positions into aligned arrays, with nothing around it."""
    reader = IndexedReader(made, SPLIT, verify="never", threads=1)
    batches = _batches(len(reader), batch_size)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(reader.read, next(batches)) for _ in range(4)]
        while True:
            waiting.pop(0).result()
            waiting.append(pool.submit(reader.read, next(batches)))
            yield batch_size


def records_only(made: Manifest, settings: tuple[int, int]) -> tf.data.Dataset:
    """Return the TFRecordDataset with nothing after it: (shards at once, read buffer in MB, 0 for none)."""
    at_once, buffer_mb = settings
    paths = [made.path(shard) for shard in made.shards]

    def read(path: tf.Tensor) -> tf.data.Dataset:
        return tf.data.TFRecordDataset(path, buffer_size=buffer_mb << 20)

    dataset = tf.data.Dataset.from_tensor_slices(paths).repeat()
    if at_once > 1:
        dataset = dataset.interleave(read, cycle_length=at_once, num_parallel_calls=at_once)
    else:
        dataset = dataset.flat_map(read)
    return dataset.prefetch(16)


RECORD_SETTINGS = tuple((at_once, buffer) for at_once in (1, 2, 4) for buffer in (0, 1, 8))


def pipeline_batches(made: Manifest, batch_size: int, **options: str) -> tf.data.Dataset:
    """Yield the batches of our own pipeline, epoch after epoch without an end."""
    pipeline = Pipeline(made, ReadOptions(cache="none", **options))
    # What comes at the seam of two epochs is part of the speed; the seam of two repeats, where all starts
    # again, is not: so many epochs keep it rare.
    return pipeline.training_dataset(SPLIT, batch_size=batch_size, seed=0, epoch=0, epochs=40).repeat()


# -- the measurements --------------------------------------------------------------------------


def measure(floats: Manifest, compact: Manifest, of_findings: tuple[Manifest, Manifest]) -> list[Row]:
    """Measure every way in turn, for every round.

    Args:
      floats, compact: float32 x 3 and uint8 x 1, one class a picture.
      of_findings: the same pixels with `FINDINGS`.
    """
    size, seconds = FLAGS.batch_size, FLAGS.seconds

    def records(settings: tuple[int, int]) -> float:
        return elements_per_second(iter(records_only(floats, settings)), seconds)

    def ours(made: Manifest, **options: str) -> float:
        return size * elements_per_second(iter(pipeline_batches(made, size, **options)), seconds)

    best = max(RECORD_SETTINGS, key=records)
    ways: dict[str, tuple[Callable[[], float], str]] = {
        f"records only ({best[0]} at once, {best[1]} MB)": (lambda: records(best), "reference"),
        "limit: bare positional reads, 2 threads": (
            lambda: images_per_second_in_python(bare_reads(floats, size), size, seconds), "",
        ),
        "indexed, checked in the first epoch": (
            lambda: ours(floats, verify="never"), "2.0 x records only, 0.75 x limit",
        ),
        "indexed, every read checked": (lambda: ours(floats, verify="always"), ""),
        "indexed, taken by a Python loop": (
            lambda: images_per_second_in_python(
                iter(pipeline_batches(floats, size, verify="never")), size, seconds
            ), "",
        ),
        "streamed": (lambda: ours(floats, reader="stream"), "0.8 x records only"),
        "indexed, 14 findings": (lambda: ours(of_findings[0], verify="never"), "indexed"),
        "streamed, 14 findings": (lambda: ours(of_findings[0], reader="stream"), "streamed"),
        "indexed, uint8 x 1": (lambda: ours(compact, verify="never"), "2.5 x indexed float32"),
        "indexed, uint8 x 1, 14 findings": (
            lambda: ours(of_findings[1], verify="never"), "indexed, uint8 x 1",
        ),
        "streamed, uint8 x 1": (lambda: ours(compact, reader="stream"), ""),
    }  # fmt: skip
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for number in progress_bar("measure", "rounds", FLAGS.rounds, range(FLAGS.rounds)):
        # Back and forth, so that what runs after a slow way is not slower by that.
        for way in list(ways) if number % 2 == 0 else reversed(ways):
            rates[way].append(ways[way][0]())
    return [Row(way, tuple(rates[way]), target) for way, (_, target) in ways.items()]


def utilisations(made: Manifest) -> dict[str, tuple[float, float]]:
    """Return the accelerator utilisation by backbone, with the emulated images a second."""
    found = {}
    for backbone, images_per_second in progress_bar(
        "emulate", "backbones", len(GPU_RATES), GPU_RATES.items()
    ):
        step = FLAGS.batch_size / images_per_second
        result = emulate_accelerator(
            pipeline_batches(made, FLAGS.batch_size).take(max(int(FLAGS.emulate_seconds / step), 2)),
            batch_size=FLAGS.batch_size,
            step_seconds=step,
        )
        found[backbone] = (images_per_second, result.accelerator_utilisation)
    return found


def peak_memory(directory: str) -> float:
    """Return the peak resident megabytes of a process that reads a directory once."""
    arguments = [f"--only={directory}", f"--batch_size={FLAGS.batch_size}"]
    line = [sys.executable, "-m", "tools.benchmark", "pipeline", *arguments]
    result = subprocess.run(line, capture_output=True, text=True, check=True)
    return float(result.stdout.split()[-1])


def _read_once(directory: str) -> None:
    dataset = Pipeline(read_manifest(directory), ReadOptions(cache="none")).training_dataset(
        SPLIT, batch_size=FLAGS.batch_size, seed=0, epoch=0
    )
    for _ in dataset:
        pass
    # Not getrusage: its peak includes the parent's pages from before the exec.
    status = pathlib.Path("/proc/self/status").read_text()
    print(int(status.split("VmHWM:")[1].split()[0]) / 1024)


def shuffle_quality(made: Manifest, reader: str) -> tuple[float, float]:
    """Return how well an epoch is mixed, from 0 (not at all) to 1 (a uniform permutation), twice.

    Displacement: the mean distance between an example's place in the shards and its place in
    the epoch, over a third of the epoch, which a uniform permutation has. Class mix: with the
    classes laid out one after the other in the shards (the worst case; our sharder mixes them),
    the mean over the batches of the largest class's share, 0 where each batch is of one class,
    1 where it is that of batches drawn at random.
    """
    size, classes = FLAGS.batch_size, len(CLASSES)
    dataset = Pipeline(made, ReadOptions(cache="none", reader=reader)).training_dataset(
        SPLIT, batch_size=size, seed=0, epoch=0
    )
    found = np.concatenate([batch["index"].numpy() for batch in dataset])
    places = np.arange(len(found))
    displacement = np.abs(found - places).mean() / (len(found) / 3)
    ideal = np.random.default_rng(0).permutation(found)

    def largest_share(positions: np.ndarray) -> float:
        labels = (positions * classes // made.records).reshape(-1, size)
        counts = np.stack([(labels == label).sum(axis=1) for label in range(classes)])
        return float((counts.max(axis=0) / size).mean())

    return float(displacement), (1 - largest_share(found)) / (1 - largest_share(ideal))


def drop_page_cache(made: Manifest) -> None:
    """Ask the kernel to forget the shards' pages; it need not obey."""
    for shard in made.shards:
        file = os.open(made.path(shard), os.O_RDONLY)
        try:
            os.fsync(file)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(file)


def cold_rate(made: Manifest) -> float:
    """Return the images a second of one epoch right after the page cache was dropped."""
    drop_page_cache(made)
    begun = time.perf_counter()
    count = 0
    for _ in pipeline_batches(made, FLAGS.batch_size, verify="never"):
        count += FLAGS.batch_size
        if count >= made.records // FLAGS.batch_size * FLAGS.batch_size:
            break
    return count / (time.perf_counter() - begun)


def print_rows(rows: list[Row]) -> None:
    """Print the ways with their ratios to records only, to the limit, and to our indexed reader."""
    references = [row.median for row in rows[:3]]
    columns = {
        "way": lambda row: row.way,
        "img/s": lambda row: f"{row.median:.0f}",
        "min": lambda row: f"{min(row.rates):.0f}",
        "max": lambda row: f"{max(row.rates):.0f}",
        "x records": lambda row: f"{row.median / references[0]:.2f}",
        "x limit": lambda row: f"{row.median / references[1]:.2f}",
        "x indexed": lambda row: f"{row.median / references[2]:.2f}",
        "target": lambda row: row.target,
    }
    print(table(rows, columns))


def main() -> dict[str, object] | None:
    """Measure, print the tables and return them for JSON."""
    runtime.keep_large_allocations()
    if FLAGS.only:
        _read_once(FLAGS.only)
        return None
    scratch = pathlib.Path(FLAGS.scratch)
    floats = make_shards(scratch / "float32x3", FLAGS.images, "float32", 3)
    small = make_shards(scratch / "float32x3_small", max(FLAGS.images // 20, 64), "float32", 3)
    compact = make_shards(scratch / "uint8x1", FLAGS.images, "uint8", 1)
    of_findings = (
        make_shards(scratch / "findings_float32x3", FLAGS.images, "float32", 3, findings=True),
        make_shards(scratch / "findings_uint8x1", FLAGS.images, "uint8", 1, findings=True),
    )
    rows = measure(floats, compact, of_findings)
    print_rows(rows)
    memory = {"small": peak_memory(small.directory), "large": peak_memory(floats.directory)}
    growth = memory["large"] / memory["small"] - 1
    print(f"\npeak memory: {memory['small']:.0f} MB for {small.records} images, {memory['large']:.0f} MB for "
          f"{floats.records}: {growth:+.1%}")  # fmt: skip
    cold = cold_rate(floats)
    print(f"one epoch after dropping the page cache: {cold:.0f} img/s")
    stages = measure_input(Pipeline(floats, ReadOptions(verify="always")), SPLIT, batch_size=FLAGS.batch_size)
    print(f"where the time goes, every read checked: {stages.costs()}")
    quality = {reader: shuffle_quality(floats, reader) for reader in ("indexed", "stream")}
    for reader, (displacement, mix) in quality.items():
        print(f"shuffle of --reader={reader}: displacement {displacement:.2f}, class mix {mix:.2f} of ideal")
    found = utilisations(floats)
    columns = {
        "emulated accelerator": lambda row: row[0],
        "img/s": lambda row: f"{row[1][0]:.0f}",
        "AU, target 0.98": lambda row: f"{row[1][1]:.3f}",
    }
    print(f"\n{table(list(found.items()), columns)}")
    return {
        "rows": [dataclasses.asdict(row) | {"median": row.median} for row in rows],
        "peak_memory_mb": memory,
        "cold_images_per_second": cold,
        "shuffle": {reader: {"displacement": d, "class_mix": m} for reader, (d, m) in quality.items()},
        "stage_seconds_per_image": stages.stages,
        "utilisation": {name: {"images_per_second": r, "au": u} for name, (r, u) in found.items()},
    }
