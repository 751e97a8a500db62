"""The resize kernel: antialiased bicubic, the same for every format, size and machine.

It is the algorithm of Pillow's `Image.resize(..., BICUBIC)`, which the study used:
a separable cubic (a = -0.5) stretched by the scale when shrinking, each pass rounded to
8 bits, the horizontal one always first. (Source: Pillow, src/libImaging/Resample.c;
some of its versions begin with the cheaper pass.)

Each pass is a banded matrix product in float32, where BLAS is fast. The
coefficients are integers over 2**15, so every product and every sum is an integer
below 2**24 over 2**15 and therefore exact in float32: the result does not depend on
the order of the sums, the BLAS, or the number of workers. Pillow's coefficients have
22 bits; in the same order of passes the first one differs by at most one
grey level, and the second, whose weights' absolute values sum to at most 1.25, by at most two.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

KERNEL = "bicubic-antialiased-pillow/15"
"""Name of the kernel in the manifest. Other pixels need another name."""

SCALE = 1 << 15
"""The coefficients are whole multiples of its inverse."""

# Measured best for 1024 -> 360 on AVX-512: more outputs a block multiply more zeros,
# fewer make BLAS calls too small; strips of rows keep the float copy in the L2 cache.
_BLOCK = 16
_STRIP = 256


class _Block(NamedTuple):
    """Outputs first:last are weighted sums of inputs start:stop."""

    first: int
    last: int
    start: int
    stop: int
    weights: np.ndarray  # float32 [last - first, stop - start]
    transposed: np.ndarray  # the same, contiguous the other way: BLAS is a quarter faster on it


def resize_image(image: np.ndarray, size: int) -> np.ndarray:
    """Resize to a square, whatever the aspect ratio.

    Args:
      image: uint8, [H, W] or [H, W, 3].
      size: height and width of the result.

    Returns:
      uint8, [size, size] or [size, size, 3].
    """
    if image.ndim == 3:
        return np.dstack(
            [resize_image(np.ascontiguousarray(image[..., c]), size) for c in range(image.shape[2])]
        )
    height, width = image.shape
    narrow = np.empty((height, size), np.float32)
    strip = np.empty((min(_STRIP, height), width), np.float32)
    for top in range(0, height, _STRIP):
        rows = min(_STRIP, height - top)
        np.copyto(strip[:rows], image[top : top + rows])
        out = narrow[top : top + rows]
        for first, last, start, stop, _, weights in _blocks(width, size):
            np.matmul(strip[:rows, start:stop], weights, out=out[:, first:last])
        _round_to_8_bits(out)
    small = np.empty((size, size), np.float32)
    for first, last, start, stop, weights, _ in _blocks(height, size):
        np.matmul(weights, narrow[start:stop], out=small[first:last])
    _round_to_8_bits(small)
    return small.astype(np.uint8)


def _round_to_8_bits(values: np.ndarray) -> None:
    # Half up, like Pillow's fixed point; + 0.5 is exact, as all values are multiples of 2**-15.
    np.add(values, np.float32(0.5), out=values)
    np.floor(values, out=values)
    np.maximum(values, np.float32(0), out=values)
    np.minimum(values, np.float32(255), out=values)


@lru_cache(maxsize=256)
def _blocks(inputs: int, outputs: int) -> tuple[_Block, ...]:
    """Return the banded matrix from `inputs` to `outputs` samples, cut into dense blocks."""
    low, taps = coefficients_of(inputs, outputs)
    blocks = []
    for first in range(0, outputs, _BLOCK):
        last = min(first + _BLOCK, outputs)
        start = int(low[first])
        stop = min(int(low[last - 1]) + taps.shape[1], inputs)
        weights = np.zeros((last - first, int(low[last - 1]) + taps.shape[1] - start), np.float32)
        for row, offset, coefficients in zip(weights, low[first:last] - start, taps[first:last], strict=True):
            row[offset : offset + len(coefficients)] = coefficients
        weights = weights[:, : stop - start]
        blocks.append(
            _Block(first, last, start, stop, np.ascontiguousarray(weights), np.ascontiguousarray(weights.T))
        )
    return tuple(blocks)


def coefficients_of(inputs: int, outputs: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first input [outputs] and coefficients [outputs, taps], multiples of 2**-15 with sum 1."""
    scale = inputs / outputs
    stretch = max(scale, 1.0)
    center = (np.arange(outputs) + 0.5) * scale
    low = np.maximum((center - 2 * stretch + 0.5).astype(np.int64), 0)
    high = np.minimum((center + 2 * stretch + 0.5).astype(np.int64), inputs)
    position = low[:, None] + np.arange((high - low).max())
    weights = _cubic((position + 0.5 - center[:, None]) / stretch) * (position < high[:, None])
    weights = weights / weights.sum(axis=1, keepdims=True)
    # Rounding the running sum keeps the total at exactly 1, however many taps there are.
    running = np.rint(np.cumsum(weights, axis=1) * SCALE)
    return low, np.diff(running, axis=1, prepend=0.0) / SCALE


def _cubic(x: np.ndarray) -> np.ndarray:
    """Return the Keys' cubic convolution with a = -0.5, zero from |x| = 2 on."""
    x, a = np.abs(x), -0.5
    inner = ((a + 2) * x - (a + 3)) * x * x + 1
    outer = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, inner, np.where(x < 2, outer, 0.0))
