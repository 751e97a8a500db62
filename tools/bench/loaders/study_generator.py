"""The study's way: Pillow in one Python generator, which gives whole batches."""

import pathlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image


def batches(
    files: Sequence[tuple[pathlib.Path, int]], batch_size: int, size: int, number: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the batches of epoch `number`: images float32 [B, S, S, 3] in [0, 1], labels int32 [B]."""
    order = random.Random(number).sample(files, len(files))
    for start in range(0, len(order), batch_size):
        part = order[start : start + batch_size]
        images = np.stack([_load(path, size) for path, _ in part])
        yield images, np.array([label for _, label in part], np.int32)


def _load(path: pathlib.Path, size: int) -> np.ndarray:
    with Image.open(path) as image:
        gray = image.convert("L").resize((size, size), Image.Resampling.BICUBIC)
    return np.repeat(np.asarray(gray, np.float32)[..., None], 3, axis=2) / 255


def open_epochs(data: pathlib.Path, batch_size: int, *, size: int) -> Callable[[int], Iterator[Any]]:
    """See the package."""
    classes = sorted(folder.name for folder in data.iterdir())
    files = [
        (path, number) for number, name in enumerate(classes) for path in sorted((data / name).iterdir())
    ]
    signature = (tf.TensorSpec([None, size, size, 3], tf.float32), tf.TensorSpec([None], tf.int32))

    def epoch(number: int) -> Iterator[Any]:
        dataset = tf.data.Dataset.from_generator(
            lambda: batches(files, batch_size, size, number), output_signature=signature
        )
        return (images for images, _ in dataset.prefetch(tf.data.AUTOTUNE))

    return epoch
