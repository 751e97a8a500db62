"""`keras.utils.image_dataset_from_directory`, prefetched, with and without `.cache()`.

Pixels stay in [0, 255], as it gives them: its guides put the scaling into the model.
"""

import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf


def open_epochs(
    data: pathlib.Path, batch_size: int, *, size: int, cache: bool
) -> Callable[[int], Iterator[Any]]:
    """See the package."""
    dataset = keras.utils.image_dataset_from_directory(
        str(data), image_size=(size, size), batch_size=batch_size, seed=0, verbose=False
    )
    if cache:
        dataset = dataset.cache()
    dataset = dataset.prefetch(tf.data.AUTOTUNE)
    return lambda _: (images for images, _ in dataset)
