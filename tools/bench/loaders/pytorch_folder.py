"""PyTorch's DataLoader over the folder of images: Pillow decodes and resizes.

What torchvision's ImageFolder, Grayscale(3), Resize and ToTensor do, with less work:
one channel is resized and scaled, and made three by a view that the collation copies.
"""

import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from torch_loader import open_loader


class Folder(Dataset):
    """Files below class folders."""

    def __init__(self, data: pathlib.Path, size: int) -> None:
        classes = sorted(folder.name for folder in data.iterdir())
        self._files = [
            (str(path), number) for number, name in enumerate(classes) for path in (data / name).iterdir()
        ]
        self._size = size

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, item: int) -> tuple[torch.Tensor, int]:
        path, label = self._files[item]
        with Image.open(path) as image:
            gray = image.convert("L").resize((self._size, self._size), Image.Resampling.BILINEAR)
        pixels = np.asarray(gray, np.float32) / np.float32(255)
        return torch.from_numpy(pixels).expand(3, -1, -1), label


def open_epochs(
    data: pathlib.Path, batch_size: int, *, size: int, workers: bool = False
) -> Callable[[int], Iterator[Any]]:
    """See the package."""
    return open_loader(Folder(data, size), batch_size, workers=workers)
