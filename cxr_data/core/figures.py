"""Figures of matplotlib and X-rays of a page as files; whoever draws imports matplotlib, not this file."""

import io
import warnings
from typing import Any

import numpy as np

_JPEG_QUALITY = 85


def plain(text: str) -> str:
    """Escape in a name what matplotlib would interpret: a dollar sign begins a formula."""
    return text.replace("$", r"\$")


def figure_bytes(figure: Any, **options: Any) -> bytes:
    """Return a figure as the bytes of a file.

    Args:
      figure: a `matplotlib.figure.Figure`.
      options: those of its `savefig`, such as `format="png"`.
    """
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A name in a script that matplotlib's font lacks: a box in a PNG, and of an SVG the browser has it.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(buffer, **options)
    return buffer.getvalue()


def jpeg_bytes(pixels: np.ndarray, height: int) -> bytes:
    """Return a picture as JPEG, made smaller where it is higher than `height`.

    Args:
      pixels: uint8 [H, W], or [H, W, 3], RGB.
      height: the most that it has, in pixels.
    """
    import cv2

    height = min(height, len(pixels))
    size = (round(pixels.shape[1] * height / len(pixels)), height)
    small = cv2.resize(np.ascontiguousarray(pixels), size, interpolation=cv2.INTER_AREA)
    if small.ndim == 3:
        small = np.ascontiguousarray(small[..., ::-1])
    encoded, content = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not encoded:
        raise ValueError(f"OpenCV cannot encode a picture of shape {pixels.shape}")
    return content.tobytes()
