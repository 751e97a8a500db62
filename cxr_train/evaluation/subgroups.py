"""Every metric by hospital, view, sex or age: `by` of `metrics_{split}.json`.

    {column: {"groups": {value: {images, patients, accuracy, macro, per_class, too_few, intervals}},
              "gap": {metric: {"value", "best", "worst", "classes"}}}}

`macro`, `per_class` and `too_few` are those of `metrics.summarize`, with `hide_few`; `intervals` those of
`intervals.metric_intervals`, over the patients of the group. `gap` has for each metric the difference of the
best and the worst group, in the mean over the classes that have a number in each of the groups compared
(`classes`); groups in which no class has a number are left out. It is a largest difference of several, and
therefore above 0 where the model is as good everywhere.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cxr_data.sources.names import MISSING
from cxr_data.stats.bootstrap import PatientBootstrap
from cxr_train.evaluation import intervals, metrics
from cxr_train.evaluation.predictions import NamedPredictions

_MOST_VALUES = 12
"""A column of numbers with more values is cut into bands."""
_BAND = 20
UNKNOWN_VALUE = "unknown"

_NO_VALUE = {"", "na", "?", *MISSING}
_DICOM_AGE = re.compile(r"(\d{3})([YMWD])")
_IN_A_YEAR = {"Y": 1, "M": 12, "W": 52.18, "D": 365.25}


def measure_subgroups(
    predictions: NamedPredictions,
    columns: Mapping[str, Sequence[str]],
    *,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Return `by`, see the head of this file; ready for JSON.

    Args:
      predictions: of N images.
      columns: by name, a value [N] for each image; an empty one is called "unknown".
      resamples, seed: of the bootstrap.
    """
    found: dict[str, Any] = {}
    for name, values in columns.items():
        banded = np.array(in_bands(values))
        groups = {
            str(value): _measure(predictions, np.flatnonzero(banded == value), resamples, seed)
            for value in sorted(set(banded.tolist()), key=_order)
        }
        found[name] = {"groups": groups, "gap": _gaps(groups)}
    return found


def in_bands(values: Sequence[str]) -> list[str]:
    """Return the values as they are, or bands of 20 where they are many different numbers, such as ages.

    Args:
      values: numbers may have a decimal comma, or be ages as DICOM and the NIH write them: `058Y`, `006M`.
    """
    filled = [UNKNOWN_VALUE if value.strip().lower() in _NO_VALUE else value.strip() for value in values]
    numbers = [_number(value) for value in filled]
    are_numbers = all(
        number is not None for number, v in zip(numbers, filled, strict=True) if v != UNKNOWN_VALUE
    )
    if not are_numbers or len(set(filled)) <= _MOST_VALUES:
        return filled
    return [UNKNOWN_VALUE if number is None else _band(number) for number in numbers]


def _band(number: float) -> str:
    low = int(number // _BAND) * _BAND
    return f"{low}-{low + _BAND - 1}"


def _number(text: str) -> float | None:
    if age := _DICOM_AGE.fullmatch(text):
        return int(age[1]) / _IN_A_YEAR[age[2]]
    try:
        number = float(text.replace(",", "."))
    except ValueError:
        return None
    return number if np.isfinite(number) else None


def _order(value: str) -> tuple[bool, float, str]:
    number = _number(value.partition("-")[0])
    return value == UNKNOWN_VALUE, np.inf if number is None else number, value


def _measure(predictions: NamedPredictions, rows: np.ndarray, resamples: int, seed: int) -> dict[str, Any]:
    names = predictions.class_names
    labels, probabilities = predictions.labels[rows], predictions.probabilities[rows]
    bootstrap = PatientBootstrap.of_names(
        [predictions.groups[row] for row in rows], resamples=resamples, seed=seed
    )
    summary = metrics.summarize(labels, probabilities, names, hide_few=True)
    of_group = intervals.metric_intervals(labels, probabilities, names, bootstrap, hide_few=True)
    kept = ("images", "accuracy", "macro", "per_class", "too_few")
    return {
        "patients": bootstrap.patients,
        **{key: summary[key] for key in kept},
        "intervals": {key: of_group[key] for key in ("accuracy", "macro", "per_class")},
    }


def _gaps(groups: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    gaps = {}
    for metric in next(iter(groups.values()))["macro"]:
        of_groups = {
            value: {name: of[metric] for name, of in row["per_class"].items() if of[metric] is not None}
            for value, row in groups.items()
        }
        of_groups = {value: classes for value, classes in of_groups.items() if classes}
        # A mean over other classes is another metric.
        first = next(iter(of_groups.values()), ())
        shared = [name for name in first if all(name in of for of in of_groups.values())]
        if len(of_groups) < 2 or not shared:
            continue
        means = {value: float(np.mean([of[name] for name in shared])) for value, of in of_groups.items()}
        best, worst = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
        gaps[metric] = {"value": means[best] - means[worst], "best": best, "worst": worst, "classes": shared}
    return gaps
