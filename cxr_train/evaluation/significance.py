"""Tests of whether two models differ by more than chance, and their correction for several models.

McNemar's exact test looks at the images that one model alone got right (McNemar, 1947; the
binomial form). It takes the images for independent; a test by resampled patients does not.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Return the two-sided p-value of McNemar's exact test.

    Args:
      only_first, only_second: b and c, how many images one model alone got right.
    """
    if only_first == only_second:  # both 0, too
        return 1.0
    import scipy.stats

    fewer, discordant = min(only_first, only_second), only_first + only_second
    return float(scipy.stats.binomtest(fewer, discordant, 0.5).pvalue)


def agreement(first_right: npt.ArrayLike, second_right: npt.ArrayLike) -> dict[str, Any]:
    """Return the table of two models' right answers, bool [N] each, and McNemar's test of it.

    Returns:
      both_right, only_this, only_other, both_wrong: images; mcnemar_exact_p.
    """
    first, second = np.asarray(first_right, bool), np.asarray(second_right, bool)
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    return {
        "both_right": int((first & second).sum()),
        "only_this": only_first,
        "only_other": only_second,
        "both_wrong": int((~first & ~second).sum()),
        "mcnemar_exact_p": mcnemar_exact(only_first, only_second),
    }


def bootstrap_p(replicates: npt.NDArray[np.float64]) -> float:
    """Return the two-sided p-value of a difference from its resampled values [R]; NaN are left out.

    Twice the share of resamples on the rarer side of 0, the data counted as one more (Davison and Hinkley,
    "Bootstrap Methods and their Application", 1997): at least 2 / (R + 1), so that many tests need many
    resamples.
    """
    defined = replicates[~np.isnan(replicates)]
    rarer = min(int((defined <= 0).sum()), int((defined >= 0).sum()))
    return min(1.0, 2 * (rarer + 1) / (len(defined) + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust the p-values of several tests for their number (Holm, 1979).

    An adjusted value of at most alpha rejects its hypothesis so that, whichever of them are true,
    the probability of rejecting any true one is at most alpha.
    """
    adjusted = [0.0] * len(p_values)
    reached = 0.0
    for rank, number in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        reached = max(reached, min(1.0, (len(p_values) - rank) * p_values[number]))
        adjusted[number] = reached
    return adjusted
