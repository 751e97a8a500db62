"""How the time of the audit grows with the dataset.

The thumbnails are random pictures with the spectrum of X-rays; every hundredth is a noisy copy of another.
The largest size is that of the challenge's labelled images.
"""

import resource
import time

import cv2
import numpy as np
from absl import flags

from cxr_data.audit.audit import audit_pictures
from cxr_data.audit.pictures import Pictures
from cxr_data.images import measure
from tools.bench import audit_power
from tools.bench.output import table

FLAGS = flags.FLAGS

CAVEAT = "the pictures are synthetic, and reading their features from shards is not timed"

SIZES = (1000, 5000, 21_390)
CLASSES = ("covid", "normal", "pneumonia")


def define_flags() -> None:
    """Define the flags of this benchmark."""
    flags.DEFINE_list("images", [str(n) for n in SIZES], "Numbers of thumbnails.")
    flags.DEFINE_integer("seed", 0, "Seed of the thumbnails.")
    flags.DEFINE_bool(
        "power", False, "Whether to measure how often planted shortcuts are named, instead of the time."
    )
    flags.DEFINE_integer("seeds", 20, "Number of datasets of each shortcut and strength, for --power.")
    flags.DEFINE_integer("clean_seeds", 40, "Number of datasets without a shortcut, for --power.")


def synthetic(images: int, seed: int) -> Pictures:
    """Picture without files, two a patient."""
    rng = np.random.default_rng(seed)
    rows = np.zeros(images, measure.FEATURES_DTYPE)
    chest = cv2.resize(rng.normal(0, 50, (4, 4)).astype(np.float32), (32, 32), interpolation=cv2.INTER_CUBIC)
    for row in rows:
        layers = [(4, 20), (8, 12), (16, 6), (32, 3)]
        picture = 128 + chest
        for cells, scale in layers:
            noise = rng.normal(0, scale, (cells, cells)).astype(np.float32)
            picture = picture + cv2.resize(noise, (32, 32), interpolation=cv2.INTER_CUBIC)
        row["thumbnail"] = np.clip(picture, 0, 255).astype(np.uint8)
    copies = np.arange(100, images, 100)
    noisy = rows["thumbnail"][copies - 1] + rng.normal(0, 1.5, (len(copies), 32, 32))
    rows["thumbnail"][copies] = np.clip(noisy, 0, 255).astype(np.uint8)
    rows["border_rows"], rows["sharpness"] = rng.random(images) / 10, rng.random(images)
    rows["corners"] = rng.random((images, 4)) / 100
    return Pictures(
        where="synthetic",
        ids=[f"{number}.png" for number in range(images)],
        groups=[f"patient{number // 2}" for number in range(images)],
        splits=[("train", "test")[number // 2 % 5 == 0] for number in range(images)],
        labels=rng.integers(len(CLASSES), size=images),
        class_names=CLASSES,
        rows=rows,
        has_files=False,
    )


def main() -> dict[str, object]:
    """Read the flags, measure time or power, print a table and return it for JSON."""
    return audit_power.report(FLAGS.seeds, FLAGS.clean_seeds) if FLAGS.power else _time()


def _time() -> dict[str, object]:
    """Measure the audit of each size; print a table, the exponents and the peak memory."""
    sizes = sorted(int(text) for text in FLAGS.images)
    audit_pictures(synthetic(min(sizes[0], 200), FLAGS.seed))  # imports and first calls
    measured: list[tuple[int, float, int, float]] = []
    for images in sizes:
        pictures = synthetic(images, FLAGS.seed)
        started = time.perf_counter()
        audit = audit_pictures(pictures)
        taken = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        measured.append((images, taken, len(audit.pairs), peak))
    seconds = [taken for _, taken, _, _ in measured]
    columns = {
        "images": lambda row: str(row[0]),
        "seconds": lambda row: f"{row[1]:.2f}",
        "pairs": lambda row: str(row[2]),
        "peak MB": lambda row: f"{row[3]:.0f}",
    }
    print(table(measured, columns))
    slope, steps = 0.0, []
    if len(sizes) > 1:
        n, t = np.log(sizes), np.log(seconds)
        slope, steps = float(np.polyfit(n, t, 1)[0]), (np.diff(t) / np.diff(n)).round(2).tolist()
        print(
            f"time grows as n^{slope:.2f}, from step to step {', '.join(f'n^{step:.2f}' for step in steps)} "
            f"(target: at most n^1.3); peak memory {peak:.0f} MB"
        )
    return {
        "images": sizes,
        "seconds": seconds,
        "exponent": slope,
        "step_exponents": steps,
        "peak_mb": peak,
    }
