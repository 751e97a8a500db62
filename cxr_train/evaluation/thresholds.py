"""Operating points: the threshold of a class at which a chosen sensitivity is reached.

Chosen on one split (validation), reported on another. A threshold that is chosen and judged
on the same images looks better than it is.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cxr_data.stats.auroc import Ranking
from cxr_data.stats.bootstrap import PatientBootstrap
from cxr_data.stats.undefined import json_number
from cxr_train.evaluation import intervals
from cxr_train.evaluation.decisions import Counts, Decisions, Floats, rounded
from cxr_train.evaluation.intervals import IntervalNotes
from cxr_train.evaluation.metrics import OneVsRest

REPORTED = ("sensitivity", "specificity", "precision")


def threshold_at_sensitivity(positive: np.ndarray, scores: np.ndarray, sensitivity: float) -> float:
    """Return the highest threshold t at which `scores >= t` finds at least so much of the positives.

    Args:
      positive: bool [N].
      scores: float [N].
      sensitivity: in (0, 1].

    Returns:
      One of the positives' scores; NaN where there is none.
    """
    found = np.sort(scores[positive])[::-1]
    if not len(found):
        return float("nan")
    # 0.95 of 20 is 19.000000000000004 in floating point; it means 19.
    needed = int(np.ceil(sensitivity * len(found) - 1e-9))
    return float(found[max(needed, 1) - 1])


def youden_threshold(positive: np.ndarray, scores: np.ndarray) -> float:
    """Return the threshold t at which `scores >= t` has the largest sensitivity + specificity - 1.

    Youden, "Index for rating diagnostic tests", 1950. Of several, the highest.

    Args:
      positive: bool [N].
      scores: float [N].

    Returns:
      One of the scores; NaN where there is no positive or no negative.
    """
    if not positive.any() or positive.all():
        return float("nan")
    ranking = Ranking.of(positive, scores)
    last = np.append(ranking.starts[1:], len(scores)) - 1  # of each run of equal scores
    found, wrong = np.cumsum(ranking.positive)[last], np.cumsum(~ranking.positive)[last]
    # In whole numbers: two thresholds that are equally good must be equal.
    index = found * int(wrong[-1]) - wrong * int(found[-1])
    return float(scores[ranking.images[last[np.argmax(index)]]])


def choose_thresholds(labels: Counts, probabilities: Floats, sensitivity: float | None) -> Floats:
    """Return the threshold of each class, float64 [C]; NaN for a class without known images, or a finding
    that `Decisions.too_few` names.

    It has six significant digits, as it is compared. Rounding gives a class to at least as many images as
    the exact threshold does, so that the sensitivity is reached.

    Args:
      labels: int64 [N] in [0, C), or [N, C] of findings.
      probabilities: float64 [N, C].
      sensitivity: that is reached; None for the threshold of Youden's index.
    """
    decisions = Decisions.of(labels, probabilities)
    few = decisions.few_findings()
    chosen = []
    for index, scores in enumerate(probabilities.T):
        if few[index]:
            chosen.append(float("nan"))
            continue
        known = decisions.known[:, index]
        positive = decisions.is_class[known, index]
        if sensitivity is None:
            chosen.append(youden_threshold(positive, scores[known]))
        else:
            chosen.append(threshold_at_sensitivity(positive, scores[known], sensitivity))
    return np.array([rounded(threshold) for threshold in chosen])


def report_thresholds(
    labels: Counts,
    probabilities: Floats,
    thresholds: Floats,
    class_names: Sequence[str],
    bootstrap: PatientBootstrap,
) -> dict[str, Any]:
    """Return what thresholds [C] do on N images; ready for JSON.

    Returns:
      per_class: by class name, the threshold, each of `REPORTED`, and under `intervals` their
      patient-clustered 95 % intervals; with the notes of `intervals.IntervalNotes`.
    """
    decisions = Decisions.of(labels, probabilities, thresholds)
    counts = OneVsRest.from_decisions(decisions)
    resampled = intervals.resample_one_vs_rest(bootstrap, decisions)
    trials = intervals.patients_counted(bootstrap, decisions)
    hidden = decisions.few_findings()
    notes = IntervalNotes()
    per_class: dict[str, Any] = {}
    for index, name in enumerate(class_names):
        chosen = not np.isnan(thresholds[index]) and not hidden[index]
        values = {rate: float(getattr(counts, rate)[index]) if chosen else float("nan") for rate in REPORTED}
        per_class[name] = {
            "threshold": json_number(thresholds[index]),
            **{rate: json_number(value) for rate, value in values.items()},
            "intervals": {
                rate: intervals.percentile_interval(
                    value,
                    getattr(resampled, rate)[:, index],
                    f"{name} {rate}",
                    notes,
                    trials=int(trials[rate][index]),
                )
                for rate, value in values.items()
            },
        }
    return {"per_class": per_class, **vars(notes)}
