"""MosaicML's StreamingDataset over MDS shards, on local disk."""

import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np


def import_streaming() -> Any:
    """Import MosaicML Streaming, also next to a PyTorch for the CPU.

    It imports torchvision, whose import fails there for want of operators that nobody calls here.
    """
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import streaming

    return streaming


def write(arrays: pathlib.Path, output: pathlib.Path) -> None:
    """Write MDS shards of the default size, not compressed."""
    streaming = import_streaming()
    labels = json.loads((arrays / "labels.json").read_text())
    files = sorted(arrays.glob("*.npy"))
    shape = ",".join(map(str, np.load(files[0]).shape))
    columns = {"image": f"ndarray:float32:{shape}", "label": "int"}
    with streaming.MDSWriter(out=str(output), columns=columns, exist_ok=True) as writer:
        for file, label in zip(files, labels, strict=True):
            writer.write({"image": np.load(file), "label": label})


def open_epochs(
    data: pathlib.Path, batch_size: int, *, size: int, workers: bool = False
) -> Callable[[int], Iterator[Any]]:
    """See the package."""
    streaming = import_streaming()
    from torch.utils.data import DataLoader
    from torch_loader import worker_count

    del size
    dataset = streaming.StreamingDataset(local=str(data), shuffle=True, batch_size=batch_size)
    loader = DataLoader(
        dataset, batch_size=batch_size, num_workers=worker_count(workers), persistent_workers=workers
    )
    return lambda _: (batch["image"] for batch in loader)
