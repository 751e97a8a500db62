"""LitData's StreamingDataset over its own chunks, on local disk."""

import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np


def _example(file_and_label: tuple[str, int]) -> dict[str, Any]:
    file, label = file_and_label
    return {"image": np.load(file), "label": label}


def write(arrays: pathlib.Path, output: pathlib.Path) -> None:
    """Write chunks of 64 MB, the size that its guide uses."""
    import litdata

    labels = json.loads((arrays / "labels.json").read_text())
    inputs = [(str(file), label) for file, label in zip(sorted(arrays.glob("*.npy")), labels, strict=True)]
    litdata.optimize(_example, inputs, str(output), chunk_bytes="64MB", num_workers=1, mode="overwrite")


def open_epochs(
    data: pathlib.Path, batch_size: int, *, size: int, workers: bool = False
) -> Callable[[int], Iterator[Any]]:
    """See the package."""
    import litdata
    from torch_loader import worker_count

    del size
    dataset = litdata.StreamingDataset(str(data), shuffle=True)
    loader = litdata.StreamingDataLoader(
        dataset, batch_size=batch_size, num_workers=worker_count(workers), persistent_workers=workers
    )
    return lambda _: (batch["image"] for batch in loader)
