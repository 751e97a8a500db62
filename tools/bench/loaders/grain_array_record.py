"""Grain over ArrayRecord files, shuffled as a whole."""

import itertools
import json
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

_PER_FILE = 64
_LABEL_BYTES = 8
# Its defaults, 16 threads and 500 elements, are for records of kilobytes: here an element
# is a batch of 25 MB.
_THREADS = 2
_BATCHES_AHEAD = 4


def write(arrays: pathlib.Path, output: pathlib.Path) -> None:
    """Write records of a label and the pixels: one a chunk, as for random access, not compressed."""
    from array_record.python import array_record_module

    labels = json.loads((arrays / "labels.json").read_text())
    files = sorted(arrays.glob("*.npy"))
    for start in range(0, len(files), _PER_FILE):
        path = output / f"{start // _PER_FILE:06d}.array_record"
        writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1,uncompressed")
        for number in range(start, min(start + _PER_FILE, len(files))):
            writer.write(labels[number].to_bytes(_LABEL_BYTES, "little") + np.load(files[number]).tobytes())
        writer.close()


def open_epochs(
    data: pathlib.Path, batch_size: int, *, size: int, workers: bool = False
) -> Callable[[int], Iterator[Any]]:
    """See the package."""
    import grain

    def parse(record: bytes) -> tuple[np.ndarray, int]:
        pixels = np.frombuffer(record, np.float32, offset=_LABEL_BYTES)
        return pixels.reshape(size, size, 3), int.from_bytes(record[:_LABEL_BYTES], "little")

    source = grain.sources.ArrayRecordDataSource(sorted(str(path) for path in data.glob("*.array_record")))
    options = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_BATCHES_AHEAD)

    dataset = grain.MapDataset.source(source).seed(0).shuffle().repeat().map(parse).batch(batch_size)
    iterator = dataset.to_iter_dataset(options)
    if workers:
        count = len(os.sched_getaffinity(0))
        iterator = iterator.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=count, per_worker_buffer_size=_BATCHES_AHEAD)
        )
    batches = iter(iterator)
    steps = len(source) // batch_size
    # Epochs without a pause, each in its own order: what `repeat` after `shuffle` gives.
    return lambda _: (images for images, _ in itertools.islice(batches, steps))
