"""What a chosen run is worth on what was held out, on the patients as they are and in every resample.

Temperature and thresholds are fitted on validation patients of the training sources. Only classes with enough
patients are counted, see `targets`.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from cxr_data.stats.bootstrap import PatientBootstrap
from cxr_data.stats.undefined import json_number, ratio
from cxr_train.evaluation import intervals, metrics
from cxr_train.evaluation.calibration import (
    apply_temperature,
    expected_calibration_error,
    fit_temperature,
    measure_calibration,
    reliability,
)
from cxr_train.evaluation.decisions import FEW, Counts, Decisions, Floats
from cxr_train.evaluation.metrics import OneVsRest
from cxr_train.evaluation.predictions import NamedPredictions
from cxr_train.evaluation.priors import correct
from cxr_train.evaluation.thresholds import choose_thresholds
from cxr_train.runs.monitor import Monitor

METRICS = ("auroc", "sensitivity", "specificity", "ece")
"""Means over the classes with enough patients; sensitivity and specificity at the thresholds of the training
sources; ECE at their temperature, without an interval: that of a resample is higher, by the chance that is in
it twice."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """Metrics of one model.

    Attributes:
      values: by metric of `METRICS`; NaN where undefined.
      replicates: by metric, float64 [R], of the resamples; NaN of the ECE.
    """

    values: Mapping[str, float]
    replicates: Mapping[str, Floats]


def enough_patients(labels: Counts, groups: Sequence[str], classes: int) -> npt.NDArray[np.bool_]:
    """Return bool [C]: whether `FEW` patients have the class, and as many another one."""
    names = np.asarray(groups)
    of_class = np.array([len(set(names[labels == number])) for number in range(classes)])
    of_others = np.array([len(set(names[labels != number])) for number in range(classes)])
    return (of_class >= FEW) & (of_others >= FEW)


def monitored(
    labels: Counts, probabilities: Floats, class_names: Sequence[str], monitor: Monitor
) -> float | None:
    """Return the metric by which epochs and runs are chosen; None where it is undefined."""
    if monitor.metric == "macro_auroc":  # without all the other metrics, which take most of a head's time
        return json_number(metrics.macro(metrics.auroc(labels, probabilities)))
    found = metrics.summarize(labels, probabilities, class_names)
    loss = measure_calibration(labels, probabilities)["negative_log_likelihood"]
    return monitor.value({**found, "loss": loss})


def measure(
    validation: NamedPredictions,
    held_out: NamedPredictions,
    bootstrap: PatientBootstrap,
    sensitivity: float,
    *,
    rows: npt.NDArray[np.bool_] | None = None,
    prior: Floats | None = None,
) -> Measured:
    """Return the metrics of a run on what was held out.

    Args:
      validation: its predictions of validation patients of the training sources.
      held_out: its predictions of what was held out.
      bootstrap: of these images.
      sensitivity: that its thresholds reach on the validation patients.
      rows: bool [N], of the images of `held_out` that are measured; all by default.
      prior: float64 [C], the shares of the classes that the model expects, for a correction to those of what
        was held out, see `priors`; none by default.
    """
    temperature = fit_temperature(validation.labels, validation.probabilities) or 1.0
    thresholds = choose_thresholds(
        validation.labels, apply_temperature(validation.probabilities, temperature), sensitivity
    )
    kept = np.ones(len(held_out.labels), bool) if rows is None else rows
    labels = held_out.labels[kept]
    groups = [group for group, is_kept in zip(held_out.groups, kept, strict=True) if is_kept]
    probabilities = apply_temperature(held_out.probabilities, temperature)
    if prior is not None:
        probabilities, _ = correct(probabilities, prior, of_findings=False)
    probabilities = probabilities[kept]
    counted = enough_patients(labels, groups, probabilities.shape[1])
    decisions = Decisions.of(labels, probabilities, thresholds)
    # A class that no validation patient has has no threshold.
    decided = counted & ~np.isnan(thresholds)
    one_vs_rest = OneVsRest.from_decisions(decisions)
    resampled = intervals.resample_one_vs_rest(bootstrap, decisions)
    area = np.where(counted, metrics.auroc(labels, probabilities), np.nan)
    areas, _ = intervals.resample_areas(bootstrap, decisions, probabilities)
    values = {"auroc": float(metrics.macro(area))}
    replicates = {"auroc": _mean(areas, counted)}
    for rate in ("sensitivity", "specificity"):
        values[rate] = float(metrics.macro(np.where(decided, getattr(one_vs_rest, rate), np.nan)))
        replicates[rate] = _mean(getattr(resampled, rate), decided)
    values["ece"] = _calibration_error(labels, probabilities)
    replicates["ece"] = np.full(bootstrap.resamples, np.nan)
    return Measured(values, replicates)


def _mean(of_classes: Floats, counted: npt.NDArray[np.bool_]) -> Floats:
    """Return the mean [R] over some classes, undefined where a resample lacks one of them."""
    mean: Floats = ratio(of_classes[:, counted].sum(axis=1), counted.sum())
    return mean


def _calibration_error(labels: Counts, probabilities: Floats) -> float:
    """Return the ECE of the predicted class's probability."""
    right = probabilities.argmax(axis=1) == labels
    value = expected_calibration_error(reliability(right, probabilities.max(axis=1)))
    assert value is not None  # since there are images
    return value
