"""Small pictures, and what the backbone `tiny` makes of them."""

import pathlib

import numpy as np
from shards import random_images, write_shards

from cxr_data.input.pipeline import Pipeline
from cxr_data.records.manifest import Manifest

SIZE, FEATURES = 8, 4


def pictures(directory: pathlib.Path) -> Manifest:
    """Write 23 gray pictures to train on and 7 to validate on, of two sources."""
    splits = {"train": random_images(23, channels=1), "validation": random_images(7, channels=1, seed=1)}
    return write_shards(directory, splits, dtype="uint8", sources=("here", "there"))


def stored(manifest: Manifest, split: str) -> np.ndarray:
    """Read what the records of a split hold, [N, S, S, C]."""
    reader = Pipeline(manifest).reader(split)
    return reader.read(np.arange(len(reader)))
