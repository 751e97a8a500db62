"""This project's reader: shards by position, a full global shuffle, batches from tf.data."""

import itertools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

from cxr_data.core import runtime
from cxr_data.input.options import ReadOptions
from cxr_data.input.pipeline import Pipeline
from cxr_data.records.manifest import read_manifest

_EPOCHS = 1_000_000


def open_epochs(
    data: pathlib.Path, batch_size: int, *, size: int, cache: str = "none", verify: str = "first"
) -> Callable[[int], Iterator[Any]]:
    """See the package."""
    del size
    runtime.keep_large_allocations()
    pipeline = Pipeline(read_manifest(str(data)), ReadOptions(cache=cache, verify=verify))
    steps = pipeline.steps_per_epoch("train", batch_size)
    # As the trainer reads: epochs follow each other, each in its own order, without a pause.
    dataset = pipeline.training_dataset("train", batch_size=batch_size, seed=0, epoch=0, epochs=_EPOCHS)
    batches = iter(dataset)
    return lambda _: (batch["image"] for batch in itertools.islice(batches, steps))
