"""A picture a prediction: the image as the model saw it, and how sure the model is of each class."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cxr_data.manifest import Manifest
from cxr_data.sharder_config import pixel_options
from cxr_train.files import ImageFile, read_image


def write_panels(
    directory: pathlib.Path, files: Sequence[ImageFile], rows: Sequence[dict[str, Any]], manifest: Manifest
) -> None:
    """Writes `NUMBER_NAME.png` for every file that was predicted; rows as of `predict.predict_files`."""
    directory.mkdir(parents=True, exist_ok=True)
    options = pixel_options(manifest)
    for number, (file, row) in enumerate(zip(files, rows, strict=True)):
        if row["probabilities"] is None:
            continue
        figure = panel(read_image(file.path, options), row)
        target = directory / f"{number:05d}_{pathlib.PurePath(file.name).stem}.png"
        temporary = target.with_suffix(".tmp")
        figure.savefig(temporary, format="png")
        os.replace(temporary, target)


def panel(image: np.ndarray, row: dict[str, Any]) -> Figure:
    """One figure from an image [S, S, 1 or 3] as stored and its row."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    pixels = np.asarray(image, np.float32).squeeze() / (255 if image.dtype == np.uint8 else 1)
    left.imshow(pixels, cmap="gray", vmin=0, vmax=1)  # and not stretched to what this image has
    left.set_axis_off()
    # A name that is not UTF-8, or has a dollar sign, is no text for matplotlib.
    name = row["file"].encode("utf-8", "replace").decode().replace("$", r"\$")
    left.set_title(name[-48:], fontsize=8)
    names = list(row["probabilities"])
    bars = right.barh(names, [row["probabilities"][name] for name in names])
    right.bar_label(bars, fmt="%.3f", padding=2, fontsize=8)
    right.set_xlim(0, 1.15)
    right.invert_yaxis()
    right.set_xlabel("probability; research only, not a diagnosis", fontsize=8)
    return figure
