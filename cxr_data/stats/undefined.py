"""Numbers without a value, as the sensitivity of a class without images: NaN in an array, null in JSON."""

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def ratio(numerator: npt.ArrayLike, denominator: npt.ArrayLike) -> Floats:
    """Return numerator / denominator in float64, NaN where the denominator is 0."""
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    result = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=result, where=denominator != 0)
    return result


def json_number(value: npt.ArrayLike) -> float | None:
    """Return a Python float, or None for NaN and infinity, which JSON does not have."""
    number = float(np.asarray(value))
    return number if math.isfinite(number) else None
