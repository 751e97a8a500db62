"""A picture a prediction: the image as the model saw it, and how sure the model is of each class."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cxr_data.core import storage
from cxr_data.core.figures import figure_bytes, plain
from cxr_data.records.manifest import Manifest
from cxr_train.inference.files import ImageFile, read_image

# A file's name has at most 255 bytes, a character up to four.
_LONGEST_STEM = 60


def write_panels(
    directory: pathlib.Path, files: Sequence[ImageFile], rows: Sequence[dict[str, Any]], manifest: Manifest
) -> None:
    """Write `NUMBER_NAME.png` for every file that was predicted; rows as of `predict.predict_files`."""
    directory.mkdir(parents=True, exist_ok=True)
    options = manifest.pixel_options
    for number, (file, row) in enumerate(zip(files, rows, strict=True)):
        if row["probabilities"] is None:
            continue
        picture = figure_bytes(panel(read_image(file.path, options), row), format="png")
        target = directory / f"{number:05d}_{pathlib.PurePath(file.name).stem[:_LONGEST_STEM]}.png"
        storage.replace(target, picture)


def panel(image: np.ndarray, row: dict[str, Any]) -> Figure:
    """Return one figure from an image [S, S, 1 or 3] as stored and its row."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    pixels = np.asarray(image, np.float32).squeeze() / (255 if image.dtype == np.uint8 else 1)
    left.imshow(pixels, cmap="gray", vmin=0, vmax=1)  # and not stretched to what this image has
    left.set_axis_off()
    # A name that is not UTF-8 is no text for matplotlib.
    left.set_title(plain(row["file"].encode("utf-8", "replace").decode()[-48:]), fontsize=8)
    names = list(row["probabilities"])
    places = range(len(names))
    bars = right.barh(places, [row["probabilities"][name] for name in names])
    right.set_yticks(places, [plain(name) for name in names])
    right.bar_label(bars, fmt="%.3f", padding=2, fontsize=8)
    right.set_xlim(0, 1.15)
    right.invert_yaxis()
    right.set_xlabel("probability; research only, not a diagnosis", fontsize=8)
    return figure
