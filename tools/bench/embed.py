"""What it costs to write embeddings, against reading the pictures that they are made of.

The network is free: its features are the first pixels, so that what is left is the command's own work.

    read             the batches of every split in manifest order, with nothing after them
    free network     the same, as float32 x 3 through the network, and nothing written
    float32, float16 the command, from the first picture to the manifest

The ways take turns, and of each the fastest round counts: other processes can only slow it. The processor's
time counts beside the clock, since it hardly depends on what else runs on the machine.
"""

import dataclasses
import pathlib
import shutil
import time
from collections.abc import Callable

import tensorflow as tf
from absl import flags

from cxr_data.commands.setting_flags import define_path_flag
from cxr_data.core import runtime
from cxr_data.core.errors import UsageError
from cxr_data.core.progress_bar import progress_bar
from cxr_data.input.options import ReadOptions
from cxr_data.input.pipeline import Pipeline
from cxr_data.records.manifest import Manifest, read_manifest
from cxr_train.engine.predict_step import PredictStep
from cxr_train.engine.strategy import Placement, choose_placement
from cxr_train.inference.embedder import embed_dataset
from cxr_train.inference.encoder import Encoder
from tools.bench.output import table

FLAGS = flags.FLAGS

CAVEAT = "the page cache is warm; a real network takes most of the time, on a CPU nearly all of it"


@dataclasses.dataclass(frozen=True)
class Row:
    """One way: milliseconds an image, of the clock and of all cores together."""

    way: str
    clock: float
    processor: float


def define_flags() -> None:
    """Define the flags of this benchmark."""
    define_path_flag("data", None, "Folder of shards with at least a thousand pictures.")
    define_path_flag("scratch", "build/bench_embed", "Where the embeddings are written, and removed.")
    flags.DEFINE_integer("features", 1280, "Features of a picture; mobilenet_v2 has 1,280.", lower_bound=1)
    flags.DEFINE_integer("batch_size", 32, "Images in a batch; the command's default.", lower_bound=1)
    flags.DEFINE_integer("rounds", 5, "Rounds; the fastest counts.", lower_bound=1)


def free_encoder(features: int) -> Encoder:
    """Return an encoder whose features are an image's first values."""

    def first_values(images: tf.Tensor, training: bool) -> tf.Tensor:
        del training
        return tf.reshape(images, [tf.shape(images)[0], -1])[:, :features]

    return Encoder(first_values, features, "first values")


def measure(
    manifest: Manifest, scratch: pathlib.Path, *, features: int, batch_size: int, rounds: int
) -> list[Row]:
    """Measure every way in turn, for every round; the first row is to read."""
    placement = choose_placement("one", "float32", "on")
    encoder = free_encoder(features)

    def read() -> None:
        for split in manifest.splits:
            for _ in _batches(manifest, split, batch_size):
                pass

    def embed(dtype: str) -> None:
        embed_dataset(manifest, encoder, placement, str(scratch / dtype), dtype=dtype, batch_size=batch_size)

    ways: dict[str, Callable[[], None]] = {
        "read": read,
        "free network": lambda: _predict(manifest, encoder, placement, batch_size),
        "embed, float32": lambda: embed("float32"),
        "embed, float16": lambda: embed("float16"),
    }
    scratch.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[Row]] = {way: [] for way in ways}
    try:
        for _ in progress_bar("measure", "rounds", rounds, range(rounds)):
            for way, run in ways.items():
                clock, processor = time.perf_counter(), time.process_time()
                run()
                clock, processor = time.perf_counter() - clock, time.process_time() - processor
                found[way].append(
                    Row(way, 1e3 * clock / manifest.records, 1e3 * processor / manifest.records)
                )
    finally:
        shutil.rmtree(scratch)
    return [
        Row(way, min(row.clock for row in rows), min(row.processor for row in rows))
        for way, rows in found.items()
    ]


def _batches(manifest: Manifest, split: str, batch_size: int) -> tf.data.Dataset:
    pipeline = Pipeline(manifest, ReadOptions(cache="none"))
    return pipeline.evaluation_dataset(split, batch_size=batch_size)


def _predict(manifest: Manifest, encoder: Encoder, placement: Placement, batch_size: int) -> None:
    predict = PredictStep(encoder.model, placement)
    for split in manifest.splits:
        for batch in placement.distribute(_batches(manifest, split, batch_size)):
            predict(batch)


def main() -> dict[str, object]:
    """Measure, print the table and return it for JSON."""
    runtime.keep_large_allocations()
    if not FLAGS.data:
        raise UsageError("--data: is missing; name a folder of shards that hold pictures")
    manifest = read_manifest(FLAGS.data)
    rows = measure(
        manifest,
        pathlib.Path(FLAGS.scratch),
        features=FLAGS.features,
        batch_size=FLAGS.batch_size,
        rounds=FLAGS.rounds,
    )
    reference = rows[0]
    columns = {
        "way": lambda row: row.way,
        "img/s": lambda row: f"{1e3 / row.clock:.0f}",
        "x read": lambda row: f"{reference.clock / row.clock:.2f}",
        "ms": lambda row: f"{row.clock:.3f}",
        "processor ms": lambda row: f"{row.processor:.3f}",
        "more than before": lambda row: f"{row.processor - before[row.way]:.3f}",
    }
    # The way that each adds to: the network to reading, writing to the network.
    before = {rows[0].way: 0.0, rows[1].way: rows[0].processor} | {
        row.way: rows[1].processor for row in rows[2:]
    }
    print(f"{manifest.records} images of {manifest.size} px, {manifest.dtype} x {manifest.channels}")
    print(table(rows, columns))
    return {"images": manifest.records, "rows": [dataclasses.asdict(row) for row in rows]}
