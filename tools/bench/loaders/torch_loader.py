"""PyTorch's DataLoader, as its performance guide sets it up: workers that live on."""

import os
from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset


def worker_count(workers: bool) -> int:
    """Return one worker a core, or none: loading in the process that trains."""
    return len(os.sched_getaffinity(0)) if workers else 0


def open_loader(dataset: Dataset, batch_size: int, *, workers: bool) -> Callable[[int], Iterator[Any]]:
    """Epoch of image batches of a map-style dataset, shuffled as a whole."""
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=True,
        num_workers=worker_count(workers),
        persistent_workers=workers,
    )
    return lambda _: (images for images, _ in loader)
