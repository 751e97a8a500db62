"""Methods compared with the baseline on the same patients and seeds, and the numbers of a table.

A resample draws patients with replacement. The chance of the training seeds is added to it: a mean over few
seeds strays by Student's t times their standard error. To draw three seeds with replacement, as patients are
drawn, would call a third to a quarter of all differences that are the seeds' alone significant at 0.05: where
all three have one sign, no resample of them has the other. The two-sided p-value of no difference is twice
the smaller share of resamples on either side of 0.
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

    def entry(self, *, is_share: bool = False) -> dict[str, Any]:
        """Return value and 95 % interval, ready for JSON; null where undefined.

        Args:
          is_share: whether it lies in [0, 1], and so does its interval.
        """
        replicates = self.replicates.clip(0, 1) if is_share else self.replicates
        interval = percentile_interval(self.value, replicates, "", IntervalNotes())
        return {"value": json_number(self.value), "interval": interval}

    @property
    def p_value(self) -> float:
        """Two-sided, of the hypothesis that the number is 0; at least 2 / (R + 1)."""
        known = self.replicates[~np.isnan(self.replicates)]
        fewer = min((known <= 0).sum(), (known >= 0).sum())
        return float(min(1.0, 2 * (fewer + 1) / (len(known) + 1)))


def over_seeds(measured: Sequence[Measured], *, seed: int = 0) -> dict[str, Estimate]:
    """Return by metric the mean over training seeds, whose chance is added to that of the patients.

    Args:
      measured: of each training seed, on the same resamples of patients. One seed adds nothing: the interval
        is of that trained model alone.
      seed: of the chance of training seeds; the same for methods that are compared.
    """
    found = {}
    for metric in METRICS:
        values = np.array([one.values[metric] for one in measured])
        replicates = np.stack([one.replicates[metric] for one in measured], axis=1)
        weights = 1 / len(measured) + _seed_weights(len(replicates), len(measured), seed)
        found[metric] = Estimate(float(values.mean()), (weights * replicates).sum(axis=1))
    return found


def _seed_weights(resamples: int, seeds: int, seed: int) -> Floats:
    """Return float64 [R, S], rows that add up to 0.

    Times S values, each row gives Student's t with S - 1 degrees of freedom, times the standard error of
    their mean. Weights, and not noise: the difference of two methods gets the chance of the difference.
    """
    if seeds == 1:
        return np.zeros((resamples, 1))
    random = np.random.default_rng(seed)
    normal = random.normal(size=(resamples, seeds))
    normal -= normal.mean(axis=1, keepdims=True)
    spread = np.sqrt(random.chisquare(seeds - 1, size=(resamples, 1)) / (seeds - 1))
    weights: Floats = normal / spread / np.sqrt(seeds * (seeds - 1))
    return weights


def over_sources(estimates: Sequence[Estimate]) -> Estimate:
    """Return the mean of a metric over some sources."""
    value = float(np.mean([one.value for one in estimates]))
    return Estimate(value, np.mean([one.replicates for one in estimates], axis=0))


def worst_of_sources(estimates: Sequence[Estimate], metric: str) -> dict[str, Any]:
    """Return what a metric is in the source where it is worst, of the ECE the highest, without an interval.

    The least of several resampled numbers lies below the least of the numbers, the more the nearer they
    are: an interval of it would not hold what it says.
    """
    choose = np.max if metric == "ece" else np.min
    return {"value": json_number(float(choose([one.value for one in estimates]))), "interval": None}


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


def verdict(
    baseline: str, others: Sequence[str], rows: Sequence[Mapping[str, Any]], where: str
) -> dict[str, Any]:
    """Return what a reader must not miss: which methods were better than the baseline beyond chance.

    Returns:
      `better`, names; `sentence`.

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
            name
            for name, test in tests.items()
            if test["holm_p"] < 0.05 and sign * test["difference"]["value"] > 0
        ]
        for sign in (1, -1)
    )
    missing = [name for name in others if name not in tests]
    reason = "; not compared, for want of finished runs or patients: "
    left_out = f"{reason}{', '.join(missing)}" if missing else ""
    if not tests:
        return {"better": [], "sentence": f"{where}: nothing was compared with {shown}{left_out}"}
    of_one_seed = [name for name, test in tests.items() if test["seeds"] < 2]
    chance = "the chance of the patients" if len(of_one_seed) == len(tests) else "chance"
    listed = _listed(better, areas) if better else "no method was"
    found = f"{where}: {listed} better than {shown} beyond {chance}"
    # A method may be better than the baseline, and worse than a coin.
    found += f", whose AUROC is {areas[baseline]:.3f}" if better and areas.get(baseline) is not None else ""
    found += f"; {_listed(worse, areas)} worse" if worse else ""
    if of_one_seed:
        which = "each" if len(of_one_seed) == len(tests) else f"of {', '.join(of_one_seed)}"
        found += f"; one seed {which}: a difference may be the seed's"
    return {"better": better, "sentence": found + left_out}


def _listed(names: Sequence[str], areas: Mapping[str, float | None]) -> str:
    shown = (name if (value := areas[name]) is None else f"{name} ({value:.3f})" for name in names)
    *first, last = shown
    return f"{', '.join(first)} and {last} were" if first else f"{last} was"
