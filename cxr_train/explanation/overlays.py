"""Pictures of explanations: heat over an image, the depths in one figure, filters side by side."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cxr_data.core.figures import figure_bytes, jpeg_bytes, plain
from cxr_train.explanation.gradcam import enlarge

_OPACITY = 0.65
_TILE_PIXELS = 224
_INCHES = 1.7
_DPI = 120


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Lay a map over an image; where there is no heat the image stays as it is.

    Args:
      image: float [S, S, 3] in [0, 1].
      heat: float [h, w], 0 or more.

    Returns:
      float [S, S, 3] in [0, 1].
    """
    large = enlarge(heat, len(image))
    color = matplotlib.colormaps["inferno"](large)[..., :3]
    opacity = _OPACITY * large[..., np.newaxis]
    blended: np.ndarray = (1 - opacity) * image + opacity * color
    return blended


def tile(image: np.ndarray, heats: Sequence[np.ndarray]) -> bytes:
    """Return a JPEG of the image and, beside it, each of its maps over it."""
    parts = [image, *(overlay(image, heat) for heat in heats)]
    pixels = np.rint(np.concatenate(parts, axis=1) * 255).astype(np.uint8)
    return jpeg_bytes(pixels, _TILE_PIXELS)


def depths_figure(
    images: np.ndarray, maps: Sequence[np.ndarray], rows: Sequence[str], layers: Sequence[str]
) -> bytes:
    """Return a PNG with a row for each image: the image, then its map at every layer over it.

    Args:
      images: float32 [B, S, S, 3] in [0, 1].
      maps: for every layer float32 [B, h, w].
      rows: B labels.
      layers: names of the layers.
    """
    columns = ["image"]
    columns += [f"{name}\n{part.shape[1]} x {part.shape[2]}" for name, part in zip(layers, maps, strict=True)]
    cells = []
    for number, image in enumerate(images):
        overlaid = [(overlay(image, part[number]), bool(part[number].any())) for part in maps]
        cells.append([(image, True), *overlaid])
    figure = Figure(figsize=(_INCHES * len(columns), _INCHES * 1.12 * len(rows) + 0.5), layout="constrained")
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for row, label in enumerate(rows):
        axes[row, 0].set_ylabel(plain(label), fontsize=8)
        for column, (pixels, meaningful) in enumerate(cells[row]):
            axis = axes[row, column]
            _show(axis, pixels)
            if not meaningful:
                axis.set_xlabel("no evidence (map is 0)", fontsize=7)
            if row == 0:
                axis.set_title(columns[column], fontsize=7)
    return _png(figure)


def filters_figure(rows: Sequence[tuple[str, Sequence[str], np.ndarray]]) -> bytes:
    """Return a PNG with a row for each (label, titles of the pictures, pictures float [K, S, S, 3] in [0,
    1]).
    """
    columns = max(len(titles) for _, titles, _ in rows)
    figure = Figure(figsize=(_INCHES * columns + 0.3, _INCHES * 1.15 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for row, (label, titles, pictures) in enumerate(rows):
        for axis in axes[row, len(titles) :]:
            axis.set_visible(False)
        axes[row, 0].set_ylabel(label, fontsize=8)
        for axis, title, picture in zip(axes[row], titles, pictures, strict=False):
            _show(axis, picture)
            axis.set_title(title, fontsize=7)
    return _png(figure)


def _show(axis: Axes, pixels: np.ndarray) -> None:
    axis.imshow(np.clip(pixels, 0.0, 1.0), interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])


def _png(figure: Figure) -> bytes:
    return figure_bytes(figure, format="png", dpi=_DPI)
