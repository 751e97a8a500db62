"""The range of stored pixels: ours are in [0, 1], floats of other programs may be in [0, 255] or [-1, 1].

Everything behind a reader is in [0, 1]: what is stored otherwise is rescaled where it is read.
"""

from typing import TypeVar

UNIT = (0.0, 1.0)

VALUE_RANGES = {"0..1": UNIT, "0..255": (0.0, 255.0), "-1..1": (-1.0, 1.0)}
"""What --value_range may say, and the values of black and white."""

Pixels = TypeVar("Pixels")
"""A numpy array or a tensor."""


def in_unit_range(pixels: Pixels, value_range: tuple[float, float]) -> Pixels:
    """Return floats in [0, 1], of the same dtype, for floats in [low, high]; the ends are exact.

    An array and a tensor of the same pixels give the same bits.
    """
    low, high = value_range
    if value_range == UNIT:
        return pixels
    return (pixels - low) / (high - low)  # type: ignore[operator,return-value]
