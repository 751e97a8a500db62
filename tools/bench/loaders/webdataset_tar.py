"""WebDataset over tar shards of .npy members, shuffled by shard and in a buffer."""

import io
import json
import pathlib
import tarfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

# Every worker needs a shard, and shards are the coarse part of the shuffle.
_SHARDS = 16
_SHUFFLE_BUFFER = 100


def write(arrays: pathlib.Path, output: pathlib.Path) -> None:
    """Write the tar shards: `KEY.npy` and `KEY.cls` for each image."""
    labels = json.loads((arrays / "labels.json").read_text())
    files = sorted(arrays.glob("*.npy"))
    for shard, numbers in enumerate(np.array_split(np.arange(len(files)), min(_SHARDS, len(files)))):
        with tarfile.open(output / f"{shard:06d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for number in numbers.tolist():
                tar.add(files[number], files[number].name)
                content = str(labels[number]).encode()
                member = tarfile.TarInfo(files[number].with_suffix(".cls").name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def view_npy(content: bytes) -> np.ndarray:
    """Return the array of a .npy file, without the copy that WebDataset's own decoder makes (a third
    slower).
    """
    stream = io.BytesIO(content)
    np.lib.format.read_magic(stream)
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    return np.frombuffer(content, dtype, offset=stream.tell()).reshape(shape)


def open_epochs(
    data: pathlib.Path, batch_size: int, *, size: int, workers: bool = False
) -> Callable[[int], Iterator[Any]]:
    """See the package. Batches are made in the workers, as WebDataset's guide advises."""
    import webdataset as wds
    from torch_loader import worker_count

    del size
    urls = sorted(str(path) for path in data.glob("*.tar"))
    dataset = wds.WebDataset(urls, shardshuffle=len(urls), seed=0)
    dataset = dataset.shuffle(_SHUFFLE_BUFFER).decode(wds.handle_extension("npy", view_npy))
    dataset = dataset.to_tuple("npy", "cls").batched(batch_size)
    loader = wds.WebLoader(
        dataset, batch_size=None, num_workers=worker_count(workers), persistent_workers=workers
    )
    return lambda _: (images for images, _ in loader)
