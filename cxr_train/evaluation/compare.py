"""Two models on the same images: is the difference more than chance?

McNemar's test, see `significance`, looks at the images that one model alone got right. The paired
bootstrap draws the same patients for both models, and gives the difference of every metric an
interval.
"""

import collections
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_data.core.errors import DataError
from cxr_data.stats.bootstrap import PatientBootstrap
from cxr_data.stats.undefined import json_number
from cxr_train.evaluation import intervals, metrics
from cxr_train.evaluation.intervals import IntervalNotes
from cxr_train.evaluation.predictions import NamedPredictions
from cxr_train.evaluation.significance import agreement


def align(first: NamedPredictions, second: NamedPredictions) -> NamedPredictions:
    """Return the rows and columns of `second` in the order of `first`.

    Raises:
      DataError: they are not of the same images with the same labels, or ids are not distinct.
    """
    if set(first.class_names) != set(second.class_names):
        raise DataError(
            f"{second.source} has the classes {', '.join(second.class_names)}, "
            f"{first.source} {', '.join(first.class_names)}: not comparable"
        )
    for one in (first, second):
        repeated = [name for name, images in collections.Counter(one.ids).items() if images > 1]
        if repeated:
            raise DataError(f"{one.source} has the id {repeated[0]} several times: they cannot be matched")
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


def compare_models(
    this: NamedPredictions, other: NamedPredictions, bootstrap: PatientBootstrap
) -> dict[str, Any]:
    """Compare two models on the same images; ready for JSON.

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
        differences[name] = {"value": json_number(value), "interval": interval}

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
