"""Two models on the same images: is the difference more than chance?

McNemar's exact test looks at the images that one model alone got right (McNemar, 1947; the
binomial form). It takes the images for independent. The paired bootstrap draws the same
patients for both models, and gives the difference of every metric an interval.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_data.core.errors import DataError
from cxr_train.evaluation import intervals, metrics
from cxr_train.evaluation.intervals import IntervalNotes, PatientBootstrap
from cxr_train.evaluation.predictions import NamedPredictions


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """The two-sided p-value of McNemar's exact test.

    min(1, 2 P(X <= min(b, c))) for X ~ Binomial(b + c, 1/2), in exact integers.

    Args:
      only_first, only_second: b and c, how many images one model alone got right.
    """
    discordant = only_first + only_second
    ways, tail = 1, 0  # of choosing k of the discordant images, and their sum
    for k in range(min(only_first, only_second) + 1):
        tail += ways
        ways = ways * (discordant - k) // (k + 1)
    return min(1.0, 2 * tail / 2**discordant)


def agreement(first_right: npt.ArrayLike, second_right: npt.ArrayLike) -> dict[str, Any]:
    """The table of two models' right answers, bool [N] each, and McNemar's test of it.

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


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusts the p-values of several tests for their number (Holm, 1979).

    An adjusted value of at most alpha rejects its hypothesis so that, whichever of them are true,
    the probability of rejecting any true one is at most alpha.
    """
    adjusted = [0.0] * len(p_values)
    reached = 0.0
    for rank, number in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        reached = max(reached, min(1.0, (len(p_values) - rank) * p_values[number]))
        adjusted[number] = reached
    return adjusted


def align(first: NamedPredictions, second: NamedPredictions) -> NamedPredictions:
    """The rows and columns of `second` in the order of `first`.

    Raises:
      DataError: they are not of the same images with the same labels, or ids are not distinct.
    """
    if set(first.class_names) != set(second.class_names):
        raise DataError(
            f"{second.source} has the classes {', '.join(second.class_names)}, "
            f"{first.source} {', '.join(first.class_names)}: not comparable"
        )
    for one in (first, second):
        if len(set(one.ids)) != len(one.ids):
            raise DataError(f"{one.source} has two images of one id: they cannot be matched")
    row_of = {name: row for row, name in enumerate(second.ids)}
    missing = [name for name in first.ids if name not in row_of]
    extra = len(second.ids) - (len(first.ids) - len(missing))
    if missing or extra:
        example = missing[0] if missing else next(iter(set(second.ids) - set(first.ids)))
        raise DataError(
            f"{first.source} and {second.source} are not of the same images: {len(missing)} and {extra} "
            f"are in one alone, as {example}; evaluate both runs on the same data"
        )
    rows = np.array([row_of[name] for name in first.ids])
    columns = np.array([second.class_names.index(name) for name in first.class_names])
    # From their index to ours: the inverse of the order of the columns.
    labels = np.argsort(columns)[second.labels[rows]]
    differing = np.flatnonzero(labels != first.labels)
    if len(differing):
        row = differing[0]
        raise DataError(
            f"{first.source} and {second.source} disagree about the label of {len(differing)} images, as "
            f"{first.ids[row]}: {first.class_names[first.labels[row]]} and {first.class_names[labels[row]]}"
        )
    return NamedPredictions(
        source=second.source,
        class_names=first.class_names,
        ids=first.ids,
        groups=first.groups,
        labels=labels,
        probabilities=second.probabilities[np.ix_(rows, columns)],
    )


def compare(this: NamedPredictions, other: NamedPredictions, bootstrap: PatientBootstrap) -> dict[str, Any]:
    """Compares two models on the same images; ready for JSON.

    Args:
      this: on the images of `bootstrap`.
      other: on the same images, in any order.

    Returns:
      other: its source; the keys of `agreement`; differences: by metric ("accuracy", "macro auroc",
      "covid sensitivity", ...) this minus the other as value and interval (patient-clustered, 95 %,
      null where undefined); and the notes of `intervals.IntervalNotes`.

    Raises:
      DataError: as `align`.
    """
    other = align(this, other)
    pair = (this, other)
    right = [one.probabilities.argmax(axis=1) == one.labels for one in pair]
    values = [metrics.all_metrics(one.labels, one.probabilities) for one in pair]
    resampled = [intervals.resample_metrics(bootstrap, one.labels, one.probabilities) for one in pair]
    notes = IntervalNotes()
    differences = {}

    def enter(name: str, value: float, replicates: npt.NDArray[np.float64]) -> None:
        interval = intervals.percentile_interval(value, replicates, name, notes)
        differences[name] = {"value": metrics.json_number(value), "interval": interval}

    enter("accuracy", float(right[0].mean() - right[1].mean()), resampled[0].accuracy - resampled[1].accuracy)
    for metric in values[0]:
        of_classes = values[0][metric] - values[1][metric]
        defined = ~np.isnan(of_classes)
        macro = resampled[0].macro(metric, defined) - resampled[1].macro(metric, defined)
        enter(f"macro {metric}", float(metrics.macro(of_classes)), macro)
        for index, name in enumerate(this.class_names):
            replicates = resampled[0].per_class[metric] - resampled[1].per_class[metric]
            enter(f"{name} {metric}", float(of_classes[index]), replicates[:, index])
    return {"other": other.source, **agreement(*right), "differences": differences, **vars(notes)}
