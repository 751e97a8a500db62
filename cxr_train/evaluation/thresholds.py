"""Operating points: the threshold of a class at which a chosen sensitivity is reached.

Chosen on one split (validation), reported on another. A threshold that is chosen and judged
on the same images looks better than it is.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cxr_data.stats.bootstrap import PatientBootstrap
from cxr_data.stats.undefined import json_number
from cxr_train.evaluation import intervals
from cxr_train.evaluation.intervals import IntervalNotes
from cxr_train.evaluation.metrics import Counts, Floats, OneVsRest

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


def choose_thresholds(labels: Counts, probabilities: Floats, sensitivity: float) -> Floats:
    """Return the threshold of each class against the rest, float64 [C]; NaN for a class without images."""
    every = range(probabilities.shape[1])
    return np.array([threshold_at_sensitivity(labels == c, probabilities[:, c], sensitivity) for c in every])


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
    is_class = np.eye(len(class_names), dtype=bool)[labels]
    is_given = probabilities >= thresholds  # never, where the threshold is NaN
    counts = OneVsRest.from_decisions(is_class, is_given)
    resampled = intervals.resample_one_vs_rest(bootstrap, is_class, is_given)
    counted = {"sensitivity": is_class, "specificity": ~is_class, "precision": is_given}
    trials = {rate: intervals.patients_with(bootstrap, images) for rate, images in counted.items()}
    notes = IntervalNotes()
    per_class: dict[str, Any] = {}
    for index, name in enumerate(class_names):
        chosen = not np.isnan(thresholds[index])
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
