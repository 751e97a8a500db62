"""The range of stored pixels: ours are in [0, 1], floats of other programs may be in [0, 255] or [-1, 1].

Everything behind a reader is in [0, 1]: what is stored otherwise is rescaled where it is read.
"""

from typing import TypeVar

import numpy as np

UNIT = (0.0, 1.0)

VALUE_RANGES = {"0..1": UNIT, "0..255": (0.0, 255.0), "-1..1": (-1.0, 1.0)}
"""What --value_range may say, and the values of black and white."""

Pixels = TypeVar("Pixels")
"""A numpy array or a tensor."""


def check_range(low: float, high: float, expected: tuple[float, float]) -> None:
    """Check that the smallest and the largest value of an image lie in the declared range.

    Raises:
      ValueError: they are not in it, or no numbers, or plainly in a smaller one; with the way out.
    """
    if not np.isfinite([low, high]).all():
        raise ValueError("feature 'image' holds values that are not finite numbers: write it again without")
    if expected[0] <= low and high <= expected[1]:
        if expected == VALUE_RANGES["0..255"] and 0 < high <= 1:
            raise ValueError(
                f"the values of feature 'image' are from {low:g} to {high:g}, and not in [0, 255]: leave out "
                "--value_range=0..255, or write the record again if others are in it"
            )
        return
    fits = [name for name, ends in VALUE_RANGES.items() if ends[0] <= low and high <= ends[1]]
    way_out = f"--value_range={fits[0]} rescales such" if fits else "write them again in [0, 1]"
    if fits == ["-1..1"] and max(-low, high) <= 0.5:
        way_out = "write them again in [0, 1]"
    raise ValueError(
        f"the values of feature 'image' are from {low:g} to {high:g}, and must be in "
        f"[{expected[0]:g}, {expected[1]:g}]: {way_out}"
    )


def in_unit_range(pixels: Pixels, value_range: tuple[float, float]) -> Pixels:
    """Return floats in [0, 1], of the same dtype, for floats in [low, high]; the ends are exact.

    An array and a tensor of the same pixels give the same bits.
    """
    low, high = value_range
    if value_range == UNIT:
        return pixels
    return (pixels - low) / (high - low)  # type: ignore[operator,return-value]
