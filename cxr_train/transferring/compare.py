"""Methods compared with the baseline on the same patients and seeds, and the numbers of a table.

A resample draws patients, and then as many training seeds as there are, with replacement: the interval of
a difference holds the chance of both. The two-sided p-value of no difference is twice the smaller share of
resamples on either side of 0.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cxr_data.stats.undefined import json_number
from cxr_train.evaluation.decisions import Floats
from cxr_train.evaluation.intervals import IntervalNotes, percentile_interval
from cxr_train.transferring.measure import METRICS, Measured


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number, and what it is in every resample of patients and seeds.

    Attributes:
      value: NaN where undefined.
      replicates: float64 [R].
    """

    value: float
    replicates: Floats

    def __sub__(self, other: "Estimate") -> "Estimate":
        return Estimate(self.value - other.value, self.replicates - other.replicates)

    def entry(self) -> dict[str, Any]:
        """Return value and 95 % interval, ready for JSON; null where undefined."""
        interval = percentile_interval(self.value, self.replicates, "", IntervalNotes())
        return {"value": json_number(self.value), "interval": interval}

    @property
    def p_value(self) -> float:
        """Two-sided, of the hypothesis that the number is 0; at least 2 / (R + 1)."""
        known = self.replicates[~np.isnan(self.replicates)]
        fewer = min((known <= 0).sum(), (known >= 0).sum())
        return float(min(1.0, 2 * (fewer + 1) / (len(known) + 1)))


def over_seeds(measured: Sequence[Measured], *, seed: int = 0) -> dict[str, Estimate]:
    """Return by metric the mean over training seeds, which are drawn with the patients.

    Args:
      measured: of each training seed, on the same resamples of patients.
      seed: of the draws of training seeds; the same for methods that are compared.
    """
    found = {}
    for metric in METRICS:
        values = np.array([one.values[metric] for one in measured])
        replicates = np.stack([one.replicates[metric] for one in measured], axis=1)
        picks = np.random.default_rng(seed).integers(len(measured), size=replicates.shape)
        drawn = np.take_along_axis(replicates, picks, axis=1).mean(axis=1)
        found[metric] = Estimate(float(values.mean()), drawn)
    return found


def over_sources(estimates: Sequence[Estimate], *, metric: str = "auroc", worst: bool = False) -> Estimate:
    """Return the mean of a metric over some sources, or what it is where it is worst.

    Args:
      estimates: of the sources.
      metric: of `METRICS`; the worst ECE is the highest, the worst of all others the lowest.
      worst: whether to take the worst instead of the mean.
    """
    together = np.mean if not worst else np.max if metric == "ece" else np.min
    values = [one.value for one in estimates]
    replicates = np.stack([one.replicates for one in estimates])
    return Estimate(float(together(values)), together(replicates, axis=0))


def share_closed(method: Estimate, baseline: Estimate, oracle: Estimate) -> Estimate | None:
    """Return the share of the gap between baseline and oracle that a method closes.

    Returns:
      None where the oracle is not better than the baseline beyond chance: there is no gap to close.
    """
    gap, gain = oracle - baseline, method - baseline
    if gap.value <= 0 or gap.p_value >= 0.05:
        return None
    gaps = np.where(gap.replicates > 0, gap.replicates, np.nan)
    return Estimate(gain.value / gap.value, gain.replicates / gaps)


def sentence(baseline: str, others: Sequence[str], rows: Sequence[Mapping[str, Any]], where: str) -> str:
    """Return what a reader must not miss: which methods were better than the baseline beyond chance.

    Args:
      baseline: its name.
      others: the methods that were to be compared with it.
      rows: of methods, compared ones with an entry `against`.
      where: of what the differences are, in words.
    """
    shown = "ERM" if baseline == "erm" else baseline
    tests = {row["method"]: row["against"] for row in rows if "against" in row}
    tests = {name: test for name, test in tests.items() if test["holm_p"] is not None}
    areas = {row["method"]: (row.get("auroc") or {}).get("value") for row in rows}
    better, worse = (
        [
            f"{name}{_in_brackets(areas[name])}"
            for name, test in tests.items()
            if test["holm_p"] < 0.05 and sign * test["difference"]["value"] > 0
        ]
        for sign in (1, -1)
    )
    missing = [name for name in others if name not in tests]
    reason = "; not compared, for want of finished runs or patients: "
    left_out = f"{reason}{', '.join(missing)}" if missing else ""
    if not tests:
        return f"{where}: nothing was compared with {shown}{left_out}"
    found = f"{where}: {_listed(better) if better else 'no method was'} better than {shown} beyond chance"
    # A method may be better than the baseline, and worse than a coin.
    found += f", whose AUROC is {areas[baseline]:.3f}" if better and areas.get(baseline) is not None else ""
    return found + (f"; {_listed(worse)} worse" if worse else "") + left_out


def _in_brackets(value: float | None) -> str:
    return "" if value is None else f" ({value:.3f})"


def _listed(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last} were" if first else f"{last} was"
