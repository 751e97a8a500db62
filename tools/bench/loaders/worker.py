"""One peer in a process of its own: `python worker.py SPEC`, SPEC a JSON object.

The first epoch is not timed: it warms the page cache, starts workers, fills caches, and
proves that every image comes once, by the mean of all pixels. Then whole epochs are timed,
until enough time has passed.
"""

import importlib
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

Epochs = Callable[[int], Iterable[Any]]


def first_epoch(epochs: Epochs, images: int, size: int) -> float:
    """Check the batches of one epoch; return the mean of all pixels.

    Raises:
      ValueError: a batch is not float32 [B, S, S, 3] or [B, 3, S, S], or images are missing.
    """
    count, total = 0, 0.0
    for batch in epochs(0):
        pixels = np.asarray(batch)
        if pixels.dtype != np.float32 or pixels.shape[1:] not in ((size, size, 3), (3, size, size)):
            raise ValueError(f"a batch is {pixels.dtype} {pixels.shape}")
        total += float(pixels.mean(dtype=np.float64)) * len(pixels)
        count += len(pixels)
    _refuse_missing(count, images)
    return total / count


def timed_epochs(epochs: Epochs, images: int, seconds: float) -> dict[str, float]:
    """Run whole epochs for at least `seconds`.

    Returns:
      `images`, `seconds`, and `cpu_seconds` of this process and the workers that it has now.
    """
    number, elapsed, used = 0, 0.0, cpu_seconds("self")
    began = time.perf_counter()
    while elapsed < seconds:
        number += 1
        # A batch is let go when the next one comes, as a training step would.
        _refuse_missing(sum(batch.shape[0] for batch in epochs(number)), images)
        elapsed = time.perf_counter() - began
    return {"images": number * images, "seconds": elapsed, "cpu_seconds": cpu_seconds("self") - used}


def cpu_seconds(process: str) -> float:
    """Return the user and system time of a process (a number, or `self`) and of all below it that live."""
    place = pathlib.Path("/proc", process)
    try:
        # The name in brackets, the second field, may have spaces; the rest follows it.
        fields = (place / "stat").read_text().rpartition(")")[2].split()
        below = [child for task in (place / "task").iterdir() for child in _children(task)]
    except OSError:  # It has ended.
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") + sum(map(cpu_seconds, below))


def _children(task: pathlib.Path) -> list[str]:
    return (task / "children").read_text().split()


def _refuse_missing(count: int, images: int) -> None:
    if count != images:
        raise ValueError(f"an epoch gave {count} of {images} images")


def run(spec: dict[str, Any]) -> dict[str, float]:
    """Do what `spec` says: writes a peer's copy of the data, or measures it."""
    module = importlib.import_module(spec["module"])
    data = pathlib.Path(spec["data"])
    if "output" in spec:
        module.write(data, pathlib.Path(spec["output"]))
        return {}
    epochs = module.open_epochs(data, spec["batch_size"], size=spec["size"], **spec["options"])
    mean = first_epoch(epochs, spec["images"], spec["size"])
    return {"mean": mean, **timed_epochs(epochs, spec["images"], spec["seconds"])}


def main() -> None:
    """Write the result into the file that the specification names."""
    spec = json.loads(sys.argv[1])
    pathlib.Path(spec["result"]).write_text(json.dumps(run(spec)))
    # Some loaders leave threads or processes behind that would keep this one waiting.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
