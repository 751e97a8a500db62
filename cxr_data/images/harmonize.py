"""What is removed from a decoded picture before it is resized, so that it reveals less about its source.

    decode -> crop -> equalize -> resize

`crop` takes borders off: letter-boxes, which follow the scanner, or the same share of every side, where
text and edges of the film lie. `equalize` brings all pictures through one low resolution and one
compression: what a finer or a more thoroughly compressed file had left in its pixels is then either gone or
in all of them.
"""

import cv2
import numpy as np

from cxr_data.core.errors import UsageError
from cxr_data.images.resize import resize_image

NONE, AUTO = "none", "auto"

EQUAL_QUALITY = 75
"""libjpeg quality of the common compression: coarse enough to cover the traces of most others."""

_FLAT = 24  # grey levels within a row that is border: the compressed edge of a letter-box rings by so many
_LARGEST_SHARE = 0.25


def parse_crop(text: str) -> float | None:
    """Return the share to cut off each side: 0 for "none", None for "auto".

    Raises:
      UsageError: something else, or a share of 0 or less, or of more than a quarter.
    """
    if text in (NONE, AUTO):
        return 0.0 if text == NONE else None
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 < share <= _LARGEST_SHARE:
        raise UsageError(
            f"--crop_border={text}: give none, auto, or the share of each side, such as 0.05, "
            f"of at most {_LARGEST_SHARE}"
        )
    return share


def crop(pixels: np.ndarray, border: str) -> np.ndarray:
    """Cut the border off.

    Args:
      pixels: uint8 [H, W] or [H, W, 3].
      border: as `parse_crop` takes it. "auto" takes off the rows and columns, from all four sides, in which
        all pixels are nearly equal: of pictures without a border, nothing.

    Returns:
      A view of the rest. A picture that is all border is returned as it is.
    """
    share = parse_crop(border)
    height, width = pixels.shape[:2]
    if share is None:
        top, bottom, left, right = _content(pixels)
        return pixels[top:bottom, left:right]
    rows, columns = round(share * height), round(share * width)
    return pixels[rows : height - rows, columns : width - columns]


def _content(pixels: np.ndarray) -> tuple[int, int, int, int]:
    """Return the first and last row and column (exclusive) of what is no border."""
    top, left = 0, 0
    bottom, right = pixels.shape[:2]
    while True:
        inside = pixels[top:bottom, left:right]
        rows, columns = _varied(inside, 1), _varied(inside, 0)
        if not rows.size or not columns.size:
            return 0, pixels.shape[0], 0, pixels.shape[1]
        found = top + rows[0], top + rows[-1] + 1, left + columns[0], left + columns[-1] + 1
        # Rows through a black and a gray bar are flat only when the one is off.
        if found == (top, bottom, left, right):
            return found
        top, bottom, left, right = (int(edge) for edge in found)


def _varied(pixels: np.ndarray, axis: int) -> np.ndarray:
    """Return the numbers of the rows (axis 1) or columns (axis 0) with more than one level in a channel."""
    length = pixels.shape[1 - axis]
    brightest, darkest = (cv2.reduce(pixels, axis, kind) for kind in (cv2.REDUCE_MAX, cv2.REDUCE_MIN))
    spread = (brightest - darkest).reshape(length, -1).max(axis=1)
    return np.flatnonzero(spread > _FLAT)


def equalize(pixels: np.ndarray, side: int) -> np.ndarray:
    """Reduce a picture to one resolution, and compress it as all others.

    Args:
      pixels: uint8 [H, W].
      side: height and width; at most half of the smallest picture's, for nothing can sharpen what is
        smaller, and a picture that is hardly reduced keeps its noise.

    Returns:
      uint8 [side, side].
    """
    done, data = cv2.imencode(".jpg", resize_image(pixels, side), [cv2.IMWRITE_JPEG_QUALITY, EQUAL_QUALITY])
    assert done
    return cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)
