"""How strong a shortcut must be for the audit to name it, and how often it names one where there is none.

Synthetic datasets without a shortcut get one of known strength in one class; the share of seeds in which the
audit names that feature is its power at that strength.
"""

import concurrent.futures
import functools
import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import cv2
import numpy as np

from cxr_data.audit.findings import PROBE
from cxr_data.audit.pictures import Pictures
from cxr_data.audit.shortcuts import find_shortcuts
from cxr_data.core.child_process import begin_worker
from cxr_data.core.runtime import cores
from cxr_data.images import measure
from tools.bench.output import table

CLASS_NAMES = ("covid", "normal", "pneumonia")
IMAGES = 300
PER_PATIENT = 2


def clean(seed: int, images: int = IMAGES, per_patient: int = PER_PATIENT) -> Pictures:
    """Return a dataset whose features vary from patient to patient, and from class to class by chance
    alone.
    """
    rng = np.random.default_rng(seed)
    patient = np.arange(images) // per_patient
    patients = int(patient.max()) + 1
    labels = rng.integers(len(CLASS_NAMES), size=patients)[patient]

    def clustered(scale: float) -> np.ndarray:
        return rng.normal(0, scale, patients)[patient] + rng.normal(0, scale / 3, images)

    rows = np.zeros(images, measure.FEATURES_DTYPE)
    rows["width"] = rng.choice([512, 1024, 1024], patients)[patient]
    rows["height"] = rows["width"]
    rows["format"] = rng.choice([b"PNG", b"JPEG"], images)
    rows["mode"] = rng.choice([b"L", b"RGB", b"RGBA"], images, p=[0.8, 0.15, 0.05])
    rows["bits"] = 8
    rows["quality"] = np.where(rows["format"] == b"JPEG", rng.integers(70, 96, images), 0)
    rows["border_rows"] = np.maximum(clustered(0.05), 0)
    rows["border_columns"] = np.maximum(clustered(0.05), 0)
    rows["sharpness"] = 0.3 + clustered(0.02)
    rows["corners"] = np.maximum(rng.normal(0, 0.01, (images, 4)), 0)
    anatomy = rng.normal(0, 40, (patients, 8, 8)).astype(np.float32)[patient]
    anatomy += rng.normal(0, 10, anatomy.shape).astype(np.float32)
    for row, picture in zip(rows, anatomy, strict=True):
        row["thumbnail"] = np.clip(128 + cv2.resize(picture, (32, 32)), 0, 255).astype(np.uint8)
    return Pictures(
        where="synthetic",
        ids=[f"{CLASS_NAMES[k]}/{i}.png" for i, k in enumerate(labels)],
        groups=[f"patient{p}" for p in patient],
        splits=["train"] * images,
        labels=labels,
        class_names=CLASS_NAMES,
        rows=rows,
        has_files=True,
    )


# -- shortcuts of a known strength, in the first class -----------------------------------------


def plant_mean(pictures: Pictures, strength: float, rng: np.random.Generator) -> None:
    """Make pictures brighter by `strength` standard deviations of the mean."""
    thumbnails = pictures.rows["thumbnail"].astype(np.float64)
    thumbnails[pictures.labels == 0] += strength * thumbnails.mean(axis=(1, 2)).std()
    pictures.rows["thumbnail"] = np.clip(thumbnails.round(), 0, 255)


def plant_size(pictures: Pictures, strength: float, rng: np.random.Generator) -> None:
    """Give a share of `strength` odd sizes, each its own."""
    odd = (pictures.labels == 0) & (rng.random(len(pictures)) < strength)
    for side in ("width", "height"):
        pictures.rows[side][odd] = rng.integers(600, 900, odd.sum())


def plant_quality(pictures: Pictures, strength: float, rng: np.random.Generator) -> None:
    """Lower the JPEG quality by `strength`; half of the pictures are JPEGs."""
    lower = (pictures.labels == 0) & (pictures.rows["quality"] > 0)
    pictures.rows["quality"][lower] -= np.uint8(strength)


def plant_frame(pictures: Pictures, strength: float, rng: np.random.Generator) -> None:
    """Put a mark of `strength` grey levels on 4x3 of the 32x32 pixels, at the upper edge."""
    marked = pictures.rows["thumbnail"][pictures.labels == 0].astype(np.float64)
    marked[:, 0:3, 6:10] += strength
    pictures.rows["thumbnail"][pictures.labels == 0] = np.clip(marked, 0, 255)


@dataclass(frozen=True)
class Shortcut:
    """What is planted, the feature that should be named, and how strongly."""

    name: str
    feature: str
    plant: Callable[[Pictures, float, np.random.Generator], None]
    strengths: Sequence[float]


SHORTCUTS = (
    Shortcut("mean, shifted by so many sd", "mean", plant_mean, (0.1, 0.25, 0.5, 0.75, 1, 2)),
    Shortcut("share with an odd size", "size", plant_size, (0.02, 0.05, 0.1, 0.2, 0.5, 1)),
    Shortcut("JPEG quality, lower by", "JPEG quality", plant_quality, (1, 2, 5, 10, 20)),
    Shortcut("mark in the frame, levels", PROBE, plant_frame, (5, 10, 20)),
)


@dataclass(frozen=True)
class Power:
    """In how many of `seeds` datasets with a shortcut it was named.

    `auroc` is the mean of what the audit measured for the class that has it.
    """

    shortcut: str
    strength: float
    seeds: int
    named: int
    auroc: float


def scores_of(number: int, strength: float, seed: int) -> tuple[bool, float]:
    """Return whether a planted shortcut is named, and its AUROC."""
    shortcut, pictures = SHORTCUTS[number], clean(seed)
    shortcut.plant(pictures, strength, np.random.default_rng([seed, number]))
    of_feature = [score for score in find_shortcuts(pictures, seed) if score.feature == shortcut.feature]
    return any(score.is_above_chance for score in of_feature), of_feature[0].auroc


def has_alarm(seed: int) -> bool:
    """Return whether a shortcut is named in a clean dataset."""
    return any(score.is_above_chance for score in find_shortcuts(clean(seed), seed))


def measure_power(seeds: int, clean_seeds: int) -> tuple[list[Power], int]:
    """Return the power of each shortcut and strength, and the number of clean datasets with a false alarm."""
    context = multiprocessing.get_context("spawn")
    rows = []
    with concurrent.futures.ProcessPoolExecutor(cores(), context, begin_worker) as pool:
        # Other seeds than those of the planted ones.
        alarms = sum(pool.map(has_alarm, range(1000, 1000 + clean_seeds)))
        for number, shortcut in enumerate(SHORTCUTS):
            for strength in shortcut.strengths:
                run = functools.partial(scores_of, number, strength)
                named, aurocs = zip(*pool.map(run, range(seeds)), strict=True)
                rows.append(Power(shortcut.name, strength, seeds, sum(named), float(np.mean(aurocs))))
    return rows, alarms


def report(seeds: int, clean_seeds: int) -> dict[str, object]:
    """Measure, print a table and return it for JSON."""
    rows, alarms = measure_power(seeds, clean_seeds)
    print(f"{IMAGES} pictures of {IMAGES // PER_PATIENT} patients; in one of {len(CLASS_NAMES)} classes:")
    columns = {
        "shortcut": lambda row: row.shortcut,
        "strength": lambda row: f"{row.strength:g}",
        "AUROC": lambda row: f"{row.auroc:.2f}",
        "named": lambda row: f"{row.named} of {row.seeds}",
    }
    print(table(rows, columns))
    print(f"without a shortcut: {alarms} of {clean_seeds} (target: at most 5 %)")
    return {"power": [asdict(row) for row in rows], "false_alarms": alarms, "clean_seeds": clean_seeds}
