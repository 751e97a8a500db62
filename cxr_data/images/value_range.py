"""The range of values of a picture whose file does not state it: one rule for all formats.

Detectors write 10 to 14 bits into 16-bit files without saying so. So the range is the smallest usual
depth that holds the brightest pixel, and never more than the file claims.
"""

from collections.abc import Callable

import cv2
import numpy as np

USUAL_DEPTHS = (8, 10, 12, 14, 16)
"""Bits of the pixels that detectors write."""


def usual_depth(brightest: int, at_most: int | None = None) -> int:
    """Return the bits of the range that holds values from 0 to `brightest`.

    Args:
      brightest: the largest value.
      at_most: the bits that the file claims. They count where they hold the brightest value and are fewer.

    Returns:
      One of `USUAL_DEPTHS`, or `at_most`, or what a brightest value of more than 16 bits needs.
    """
    depth = next((bits for bits in USUAL_DEPTHS if brightest < 1 << bits), brightest.bit_length())
    return min(depth, at_most) if at_most and brightest < 1 << at_most else depth


def to_8_bits(values: np.ndarray, depth: int) -> np.ndarray:
    """Scale integers of any shape in [0, 2**depth - 1] to the nearest uint8; what is outside is clipped."""
    top = (1 << depth) - 1
    if depth == 8:
        return np.clip(values, 0, top).astype(np.uint8)
    scaled = (np.clip(values, 0, top).astype(np.uint64) * 255 + top // 2) // top
    return scaled.astype(np.uint8)


def high_8_bits(values: np.ndarray, depth: int) -> np.ndarray:
    """Return the eight highest bits of unsigned integers of any shape, below 2**depth: uint8.

    For colours, whose decoders do the same with 16 bits.
    """
    return (values >> max(depth - 8, 0)).astype(np.uint8)


def mapped(values: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return `function(values)` of integers; the function treats each value alone and gets int64.

    It is computed once for each value between the smallest and the largest, where these are fewer than
    the pixels.
    """
    if values.dtype == np.uint8:
        return cv2.LUT(values, function(np.arange(256)))
    low, high = int(values.min()), int(values.max())
    if high - low >= min(values.size, 1 << 16):
        return function(values.astype(np.int64))
    table = function(np.arange(low, high + 1))
    return np.take(table, values.astype(np.int64) - low if low else values)
