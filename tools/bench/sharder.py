"""The sharder against decoding alone, the study's way, and a tf.data map.

Every way gets the same files, on the same cores, in the same run, its start included;
the rounds take turns, and the median counts. The files are the 1024x1024 grayscale
PNGs of a source, as they are and as JPEG, repeated with a few bytes behind the end so
that no two are the same. Put --scratch on a file system that is not the bottleneck.

The conversion is compared without the audit at its end, which no other way does; with it, as by
default, it has a row of its own. Much of that second or two does not grow with the images.
"""

import concurrent.futures
import contextlib
import io
import multiprocessing
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from absl import flags
from PIL import Image

from cxr_data.commands.setting_flags import define_path_flag
from cxr_data.core.child_process import begin_worker
from cxr_data.core.errors import DataError, UsageError
from tools.bench.output import table

FLAGS = flags.FLAGS

CAVEAT = "files and shards lie in --scratch, by default in memory: a slow disk is not measured"

SIDE = 1024
JPEG_QUALITY = 94  # about 130 kB, as the JPEGs of the challenge
SIZE = 360


@dataclass(frozen=True)
class Row:
    """One way of one format.

    `ratio` is the sharder's images per second over this way's. `cpu_ratio` is the same of processor
    time, of all processes together: what the ratio would be on a machine with nothing else to do.
    """

    format: str
    way: str
    images: int
    images_per_second: float
    cpu_ms: float
    peak_mb: float
    ratio: float
    cpu_ratio: float
    target: str


def define_flags() -> None:
    """Define the flags of this benchmark."""
    define_path_flag("source", None, "Folder with 1024x1024 grayscale PNGs.")
    flags.DEFINE_integer("images", 2000, "Images per run; the slow references get fewer.")
    flags.DEFINE_integer("rounds", 3, "Rounds; the median counts.")
    define_path_flag("scratch", "/dev/shm", "Where files and shards are put.")


# -- the files ---------------------------------------------------------------------------------


def pictures(source: str) -> list[bytes]:
    """Return the bytes of the 1024x1024 grayscale PNGs of a folder."""
    found = []
    for path in sorted(Path(source).rglob("*.png")):
        with Image.open(path) as image:
            if image.format == "PNG" and image.mode == "L" and image.size == (SIDE, SIDE):
                found.append(path.read_bytes())
    if not found:
        raise DataError(f"{source} holds no grayscale PNGs of {SIDE}x{SIDE}")
    return found


def as_jpeg(png: bytes) -> bytes:
    """Return the same picture as a JPEG."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def write_files(folder: Path, contents: Sequence[bytes], images: int, suffix: str) -> list[str]:
    """Write `images` files into two class folders; no two have the same bytes."""
    paths = []
    for number in range(images):
        path = folder / "ab"[number % 2] / f"{number:06d}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents[number % len(contents)] + number.to_bytes(4, "little"))
        paths.append(str(path))
    return paths


# -- the ways ----------------------------------------------------------------------------------


def decode_opencv(path: str) -> int:
    """Decode a file with OpenCV on one thread; return its height."""
    cv2.setNumThreads(1)
    return int(cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_GRAYSCALE).shape[0])


def decode_pillow(path: str) -> int:
    """Decode a file with Pillow; return its height."""
    with Image.open(path) as image:
        image.load()
        return image.height


def decode_only(decoder: Callable[[str], int], paths: Sequence[str], _: Path) -> None:
    """Read and decodes on all cores, and throws the pixels away."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(_cores(), context, begin_worker) as pool:
        for _height in pool.map(decoder, paths, chunksize=16):
            pass


def sharder(paths: Sequence[str], output: Path, *, audit: bool) -> None:
    """Convert with this project, as users start it."""
    source = Path(paths[0]).parents[1]
    command = [sys.executable, "-m", "tools.make_tfrecords", f"--source={source}", f"--output={output}"]
    command.append("--audit" if audit else "--noaudit")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DataError(f"the sharder failed: {done.stderr.strip().splitlines()[-1]}")


def study(paths: Sequence[str], output: Path) -> None:
    """Convert by Pillow in one process, tf.train.Example, TFRecordWriter."""
    import tensorflow as tf

    output.mkdir()
    with tf.io.TFRecordWriter(str(output / "study.tfrecord")) as writer:
        for path in paths:
            gray = Image.open(path).convert("L").resize((SIZE, SIZE), Image.Resampling.BICUBIC)
            pixels = np.repeat(np.asarray(gray, np.float32)[..., None] / 255, 3, axis=2)
            image = tf.train.Feature(float_list=tf.train.FloatList(value=pixels.ravel()))
            label = tf.train.Feature(int64_list=tf.train.Int64List(value=[0]))
            features = tf.train.Features(feature={"image": image, "label": label})
            writer.write(tf.train.Example(features=features).SerializeToString())


def tf_data_map(paths: Sequence[str], output: Path) -> None:
    """Convert by decode_image and resize with antialias in a parallel map, to serialized tensors (no
    protobuf).
    """
    import tensorflow as tf

    def load(path: object) -> object:
        image = tf.io.decode_image(tf.io.read_file(path), channels=3, expand_animations=False)
        small = tf.image.resize(image, [SIZE, SIZE], method="bicubic", antialias=True) / 255
        return tf.io.serialize_tensor(small)

    output.mkdir()
    dataset = tf.data.Dataset.from_tensor_slices(list(paths)).map(load, num_parallel_calls=tf.data.AUTOTUNE)
    with tf.io.TFRecordWriter(str(output / "map.tfrecord")) as writer:
        for record in dataset.prefetch(tf.data.AUTOTUNE).as_numpy_iterator():
            writer.write(record)


def _way(name: str, paths: Sequence[str], output: Path) -> None:
    """Run one way in this process."""
    decoders = {"opencv": decode_opencv, "pillow": decode_pillow}
    kind, _, variant = name.partition(":")
    if kind == "decode":
        decode_only(decoders[variant], paths, output)
    elif kind == "sharder":
        sharder(paths, output, audit=variant == "audit")
    else:
        {"study": study, "tf.data": tf_data_map}[kind](paths, output)


# -- measuring ---------------------------------------------------------------------------------


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def measure(name: str, paths: Sequence[str], scratch: Path) -> tuple[float, float, float]:
    """Run one way in a process of its own: (seconds, processor seconds, peak MB), its children's too."""
    output = scratch / "output"
    shutil.rmtree(output, ignore_errors=True)
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_way, args=(name, paths, output))
    began, cpu_began = time.monotonic(), _cpu_of_children()
    process.start()
    with _peak_memory(process.pid or 0) as peak:
        process.join()
    seconds, cpu = time.monotonic() - began, _cpu_of_children() - cpu_began
    shutil.rmtree(output, ignore_errors=True)
    if process.exitcode:
        raise DataError(f"benchmark way {name!r} ended with exit code {process.exitcode}")
    return seconds, cpu, peak[0]


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@contextlib.contextmanager
def _peak_memory(pid: int) -> Iterator[list[float]]:
    """Sample the proportional memory of a process tree; the list holds the peak in MB."""
    peak, stop = [0.0], threading.Event()

    def sample() -> None:
        while not stop.wait(0.1):
            peak[0] = max(peak[0], sum(_pss(process) for process in _tree(pid)))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def _tree(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *(below for child in children for below in _tree(int(child)))]
    return []


def _pss(pid: int) -> float:
    """Return the memory in MB, shared pages counted by share."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1e3
    return 0.0


def bench_format(name: str, contents: Sequence[bytes], scratch: Path) -> list[Row]:
    """Return all ways of one format."""
    folder = scratch / name
    paths = write_files(folder, contents, FLAGS.images, "png" if name == "PNG" else "jpg")
    few = paths[: max(len(paths) // 10, 1)]
    small = write_files(scratch / f"{name}-small", contents, max(FLAGS.images // 10, 1), "img")
    ways = {
        "sharder": paths,
        "sharder:audit": paths,
        "sharder:small": small,
        "decode:opencv": paths,
        "decode:pillow": paths,
        "tf.data": paths[: max(len(paths) // 4, 1)],
        "study": few,
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    processor: dict[str, list[float]] = {way: [] for way in ways}
    memory: dict[str, float] = {}
    for number in range(FLAGS.rounds):
        for way, files in ways.items():
            took, cpu, peak = measure(way, files, scratch)
            seconds[way].append(took)
            processor[way].append(cpu)
            memory[way] = max(memory.get(way, 0), peak)
            print(
                f"round {number + 1} {name} {way}: {len(files) / took:.1f} img/s", file=sys.stderr, flush=True
            )
    shutil.rmtree(folder)
    shutil.rmtree(scratch / f"{name}-small")
    speed = {way: len(files) / statistics.median(seconds[way]) for way, files in ways.items()}
    cost = {way: statistics.median(processor[way]) / len(files) for way, files in ways.items()}
    targets = {
        "decode:opencv": "0.85" if name == "PNG" else "0.75",
        "decode:pillow": "0.85" if name == "PNG" else "0.75",
        "tf.data": "2",
        "study": "8",
    }
    return [
        Row(
            format=name,
            way=way,
            images=len(ways[way]),
            images_per_second=speed[way],
            cpu_ms=cost[way] * 1e3,
            peak_mb=memory[way],
            ratio=speed["sharder"] / speed[way],
            cpu_ratio=cost[way] / cost["sharder"],
            target=targets.get(way, ""),
        )
        for way in ways
    ]


def main() -> list[dict[str, object]]:
    """Read the flags, measure, print a table and return it for JSON."""
    if not FLAGS.source:
        raise UsageError("--source is missing (--help lists the flags)")
    contents = pictures(FLAGS.source)
    with tempfile.TemporaryDirectory(dir=FLAGS.scratch, prefix="cxr-bench-") as name:
        scratch = Path(name)
        rows = bench_format("PNG", contents, scratch)
        rows += bench_format("JPEG", [as_jpeg(content) for content in contents], scratch)
    print(f"{len(contents)} pictures, scratch {FLAGS.scratch}, float32 x 3 at {SIZE}x{SIZE}")
    columns = {
        "format": lambda row: row.format,
        "way": lambda row: row.way,
        "images": lambda row: str(row.images),
        "img/s": lambda row: f"{row.images_per_second:.1f}",
        "cpu ms": lambda row: f"{row.cpu_ms:.2f}",
        "peak MB": lambda row: f"{row.peak_mb:.0f}",
        "sharder / it": lambda row: f"{row.ratio:.2f}",
        "by cpu": lambda row: f"{row.cpu_ratio:.2f}",
        "target": lambda row: row.target and f">= {row.target}",
    }
    print(table(rows, columns))
    return [asdict(row) for row in rows]
