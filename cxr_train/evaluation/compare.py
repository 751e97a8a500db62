"""Two models on the same images: is the difference more than chance?

McNemar's test, see `significance`, looks at the images that one model alone got right. The paired
bootstrap draws the same patients for both models, and gives the difference of every metric an
interval.
"""

import collections
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_data.core.errors import DataError
from cxr_data.core.wording import counted
from cxr_data.stats.bootstrap import PatientBootstrap
from cxr_data.stats.undefined import json_number
from cxr_train.evaluation import intervals, metrics
from cxr_train.evaluation.decisions import Decisions
from cxr_train.evaluation.intervals import IntervalNotes
from cxr_train.evaluation.predictions import NamedPredictions
from cxr_train.evaluation.significance import agreement, bootstrap_p, holm


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
            f"are in one of them only, such as {example}; evaluate both runs on the same data"
        )
    rows = np.array([row_of[name] for name in first.ids])
    columns = np.array([second.class_names.index(name) for name in first.class_names])
    if first.labels.ndim != second.labels.ndim:
        raise DataError(
            f"{first.source} and {second.source} are not comparable: one is of classes, one of findings"
        )
    if first.labels.ndim == 2:
        labels = second.labels[np.ix_(rows, columns)]
        differing = np.flatnonzero((labels != first.labels).any(axis=1))
    else:
        # From their index to ours: the inverse of the order of the columns.
        labels = np.argsort(columns)[second.labels[rows]]
        differing = np.flatnonzero(labels != first.labels)
    if len(differing):
        row = differing[0]
        raise DataError(
            f"{first.source} and {second.source} disagree about the label of "
            f"{counted(len(differing), 'image')}, as {first.ids[row]}: "
            f"{_in_words(first, first.labels[row])} and {_in_words(first, labels[row])}"
        )
    return NamedPredictions(
        source=second.source,
        class_names=first.class_names,
        ids=first.ids,
        groups=first.groups,
        labels=labels,
        probabilities=second.probabilities[np.ix_(rows, columns)],
    )


def _in_words(predictions: NamedPredictions, label: npt.NDArray[np.int64]) -> str:
    names = predictions.class_names
    if label.ndim == 0:
        return names[label]
    return ", ".join(f"{name} {value}" for name, value in zip(names, label, strict=True))


Thresholds = Mapping[str, float]
"""Of one model, by finding; NaN where none could be chosen."""


def compare_models(
    this: NamedPredictions,
    other: NamedPredictions,
    bootstrap: PatientBootstrap,
    thresholds: tuple[Thresholds, Thresholds] | None = None,
) -> dict[str, Any]:
    """Compare two models on the same images; ready for JSON.

    Args:
      this: on the images of `bootstrap`.
      other: on the same images, in any order.
      thresholds: of findings, those of `this` and of `other`, at which `agreement` is measured; 0.5 without.

    Returns:
      other: its source; the keys of `agreement`; differences: by metric ("accuracy", "macro auroc",
      "covid sensitivity", ...) this minus the other as value and interval (patient-clustered, 95 %,
      null where undefined); and the notes of `intervals.IntervalNotes`. Of findings, the numbers of
      `agreement` are known labels, mcnemar_exact_p is null, since labels of one image depend on each other,
      and per_finding has `agreement` of each finding that has not `too_few` images, nor lacks a threshold,
      with holm_p, its p-value adjusted for all of these, auroc_p, the p-value of the difference of the AUROC
      by the resampled patients, and auroc_holm_p; at_thresholds says whether `thresholds` decided.

    Raises:
      DataError: as `align`.
    """
    other = align(this, other)
    pair = (this, other)
    of_findings = this.labels.ndim == 2
    values = [metrics.all_metrics(one.labels, one.probabilities, hide_few=of_findings) for one in pair]
    resampled = [intervals.resample_metrics(bootstrap, one.labels, one.probabilities) for one in pair]
    notes = IntervalNotes()
    differences = {}

    def enter(name: str, value: float, replicates: npt.NDArray[np.float64]) -> None:
        interval = intervals.percentile_interval(value, replicates, name, notes)
        differences[name] = {"value": json_number(value), "interval": interval}

    accuracy = [float(metrics.accuracy_of(one.labels, one.probabilities)) for one in pair]
    enter("accuracy", accuracy[0] - accuracy[1], resampled[0].accuracy - resampled[1].accuracy)
    for metric in values[0]:
        of_classes = values[0][metric] - values[1][metric]
        defined = ~np.isnan(of_classes)
        macro = resampled[0].macro(metric, defined) - resampled[1].macro(metric, defined)
        enter(f"macro {metric}", float(metrics.macro(of_classes)), macro)
        replicates = resampled[0].per_class[metric] - resampled[1].per_class[metric]
        for index, name in enumerate(this.class_names):
            enter(f"{name} {metric}", float(of_classes[index]), replicates[:, index])
    agreements = _agreements(*pair, thresholds)
    if of_findings:
        areas = resampled[0].per_class["auroc"] - resampled[1].per_class["auroc"]
        for name, row in agreements["per_finding"].items():
            row["auroc_p"] = bootstrap_p(areas[:, this.class_names.index(name)])
        for p, adjusted in (("mcnemar_exact_p", "holm_p"), ("auroc_p", "auroc_holm_p")):
            rows = agreements["per_finding"].values()
            for row, value in zip(rows, holm([row[p] for row in rows]), strict=True):
                row[adjusted] = value
    return {"other": other.source, **agreements, "differences": differences, **vars(notes)}


def _agreements(
    this: NamedPredictions, other: NamedPredictions, thresholds: tuple[Thresholds, Thresholds] | None
) -> dict[str, Any]:
    """Return `agreement` of two models; of findings, over the known labels and for each finding."""
    names = this.class_names
    limits = [np.array([of[name] for name in names]) for of in thresholds or ()]
    decisions = [
        Decisions.of(one.labels, one.probabilities, at)
        for one, at in zip((this, other), limits or (None, None), strict=True)
    ]
    right = [one.is_class == one.is_given for one in decisions]
    if this.labels.ndim == 1:
        return agreement(*(of_classes.all(axis=1) for of_classes in right))
    decided = ~np.isnan(limits).any(axis=0) if thresholds else np.ones(len(names), bool)
    known = decisions[0].known & decided
    findings = {
        names[index]: agreement(*(of_findings[known[:, index], index] for of_findings in right))
        for index in np.flatnonzero(decided & ~decisions[0].too_few())
    }
    together = agreement(*(of_findings[known] for of_findings in right))
    at_thresholds = {"at_thresholds": thresholds is not None}
    return together | {"mcnemar_exact_p": None, **at_thresholds, "per_finding": findings}
