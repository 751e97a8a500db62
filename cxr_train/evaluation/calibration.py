"""Whether a probability of 0.9 is right nine times in ten, and a temperature that helps.

Sources: Naeini, Cooper and Hauskrecht, "Obtaining well calibrated probabilities using Bayesian
binning", 2015 (ECE); Guo et al., "On calibration of modern neural networks", 2017 (temperature).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_data.stats.bootstrap import PatientBootstrap, percentiles
from cxr_data.stats.undefined import json_number, ratio
from cxr_train.evaluation.decisions import Counts, Decisions, Floats
from cxr_train.evaluation.intervals import IntervalNotes, percentile_interval

BINS = 15
# Searched for the temperature.
_TEMPERATURES = (1e-2, 1e2)

Line = tuple[float, float]
"""Slope and offset of `fit_platt`."""

_SMALLEST = 1e-300  # what a probability of 0 is taken for: its logarithm must be finite
_SHORT_OF_ONE = float(np.finfo(np.float64).epsneg) / 2  # what a probability of 1 is short of it at most


def reliability(right: npt.ArrayLike, confidences: npt.ArrayLike, bins: int = BINS) -> list[dict[str, Any]]:
    """Return the reliability diagram: how often predictions of like confidence are right.

    Args:
      right: bool [N].
      confidences: float [N] in [0, 1].
      bins: of equal width, (low, high] each, the first with 0.

    Returns:
      A dictionary a bin: low, high, images, confidence (their mean) and accuracy (the share that
      is right), both null in an empty bin.
    """
    is_right, confidence = np.asarray(right, bool), np.asarray(confidences, np.float64)
    edges, bin_of = _edges(bins), bins_of(confidence, bins)
    rows = []
    for number in range(bins):
        inside = bin_of == number
        images = int(inside.sum())
        rows.append(
            {
                "low": float(edges[number]),
                "high": float(edges[number + 1]),
                "images": images,
                "confidence": float(confidence[inside].mean()) if images else None,
                "accuracy": float(is_right[inside].mean()) if images else None,
            }
        )
    return rows


def _edges(bins: int) -> Floats:
    return np.linspace(0, 1, bins + 1)


def bins_of(confidence: Floats, bins: int = BINS) -> Counts:
    """Return the bin of each confidence, int64 of the same shape."""
    return np.clip(np.searchsorted(_edges(bins), confidence, side="left") - 1, 0, bins - 1)


def expected_calibration_error(rows: list[dict[str, Any]]) -> float | None:
    """Return the ECE: the mean over images of |accuracy - confidence| of their bin, from `reliability`.

    None where there is no image.
    """
    gaps = (row["images"] * abs(row["accuracy"] - row["confidence"]) for row in rows if row["images"])
    return json_number(ratio(sum(gaps), sum(row["images"] for row in rows)))


def error_by_chance(confidence: Floats, bins: int = BINS) -> float | None:
    """Return about the ECE that perfectly calibrated probabilities would have on so few images.

    Each is then right with just its probability, and the gap of a bin is still not 0: its sum is about
    normal, with the variance of these trials (Broecker and Smith, "Increasing the reliability of reliability
    diagrams", 2007, draw it). The images are taken for independent.

    Args:
      confidence: float64 [N] in [0, 1].

    Returns:
      None where there is no image.
    """
    variance = np.bincount(bins_of(confidence, bins), confidence * (1 - confidence), minlength=bins)
    return json_number(ratio(np.sqrt(2 / np.pi * variance).sum(), len(confidence)))


@dataclasses.dataclass(frozen=True)
class _Forecasts:
    """What a calibration is measured on: K is 1, the predicted class, or the number of findings.

    Attributes:
      confidence: float64 [N, K], the probability that the class is right, or that the finding is present.
      is_right: bool [N, K], whether it is.
      distance: float64 [N, K], the squared distance to the truth, of all classes together.
      of_label: float64 [N, K], the probability of what is true.
      known: bool [N, K], what counts.
      averaged: bool [K], what the mean ECE is over: all with known labels, and not too few of them.
    """

    confidence: Floats
    is_right: npt.NDArray[np.bool_]
    distance: Floats
    of_label: Floats
    known: npt.NDArray[np.bool_]
    averaged: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, labels: Counts, probabilities: Floats) -> "_Forecasts":
        decisions = Decisions.of(labels, probabilities)
        distance = (probabilities - decisions.is_class) ** 2
        if decisions.of_findings:
            of_label = np.where(decisions.is_class, probabilities, _complement(probabilities))
            known, averaged = decisions.known, decisions.known.any(axis=0) & ~decisions.few_findings()
            return cls(probabilities, decisions.is_class, distance, of_label, known, averaged)
        right = (decisions.is_class & decisions.is_given).any(axis=1, keepdims=True)
        of_label = np.take_along_axis(probabilities, labels[:, np.newaxis], axis=1)
        highest = probabilities.max(axis=1, keepdims=True)
        known, distance = np.ones_like(right), distance.sum(axis=1, keepdims=True)
        return cls(highest, right, distance, of_label, known, known.any(axis=0))


def measure_calibration(labels: Counts, probabilities: Floats, bins: int = BINS) -> dict[str, Any]:
    """Return how well probabilities [N, C] fit the labels [N], or [N, C] of findings; ready for JSON.

    Returns:
      ece: of the predicted class's probability; ece_by_chance: see `error_by_chance`;
      negative_log_likelihood: mean, in nats; brier: the mean of the squared distance to the one-hot label, in
      [0, 2]; bins: see `reliability`.
      Of findings, all of it is over the known labels: bins hold the probability that a finding is present and
      the share in which it is, brier is in [0, 1], ece and ece_by_chance are means over the findings but
      for those that `Decisions.few_findings` names, and per_class, in their order, has ece and brier of
      each; null for one without known labels.
    """
    of = _Forecasts.of(labels, probabilities)
    per_class = []
    for right, sure, distance, known in zip(
        of.is_right.T, of.confidence.T, of.distance.T, of.known.T, strict=True
    ):
        error = expected_calibration_error(reliability(right[known], sure[known], bins))
        per_class.append({"ece": error, "brier": json_number(ratio(distance[known].sum(), known.sum()))})
    errors: list[Any] = [row["ece"] for row, counts in zip(per_class, of.averaged, strict=True) if counts]
    known = of.known
    by_chance: list[Any] = [
        error_by_chance(of.confidence[known[:, k], k], bins) for k in np.flatnonzero(of.averaged)
    ]
    found = {
        "ece": json_number(ratio(sum(errors), len(errors))),
        "ece_by_chance": json_number(ratio(sum(by_chance), len(by_chance))),
        "negative_log_likelihood": json_number(ratio(-_log(of.of_label)[known].sum(), known.sum())),
        "brier": json_number(ratio(of.distance[known].sum(), known.sum())),
        "bins": reliability(of.is_right[known], of.confidence[known], bins),
    }
    return found | ({"per_class": per_class} if labels.ndim == 2 else {})


def calibration_intervals(
    labels: Counts,
    probabilities: Floats,
    class_names: Sequence[str],
    bootstrap: PatientBootstrap,
    bins: int = BINS,
) -> dict[str, Any]:
    """Return the patient-clustered 95 % intervals of `ece` and `brier`; ready for JSON.

    The ECE of a resample is on average higher than that of the images, since the gap of a bin has no sign.
    So its interval is moved by this mean difference, to 0 at least. The mean ECE of a resample is without the
    findings that have no known label in it.

    Args:
      labels, probabilities, bins: as for `measure_calibration`.
      class_names: [C].
      bootstrap: of the N images.

    Returns:
      ece, brier: [low, high] or null; of findings also per_class, by name, with ece and brier of each,
      null for one that `Decisions.too_few` names; and the notes of `intervals.IntervalNotes`.
    """
    measured = measure_calibration(labels, probabilities, bins)
    of = _Forecasts.of(labels, probabilities)
    counts = bootstrap.sums(of.known)
    distances = bootstrap.sums(of.distance * of.known)
    gaps = (of.is_right - of.confidence.astype(np.float64)) * of.known
    bin_of = bins_of(of.confidence, bins)
    # One finding at a time: the gaps of all, by bin, would be 15 times as large as the probabilities.
    by_patient = np.empty((bootstrap.patients, counts.shape[1] * bins))
    for k in range(counts.shape[1]):
        inside = bin_of[:, k, np.newaxis] == np.arange(bins)
        by_patient[:, k * bins : (k + 1) * bins] = bootstrap.of_patients(gaps[:, k, np.newaxis] * inside)
    by_bin = bootstrap.sums_of_patients(by_patient)
    errors = ratio(np.abs(by_bin).reshape(*counts.shape, bins).sum(axis=2), counts)
    notes = IntervalNotes()

    def interval(value: float | None, replicates: Floats, name: str) -> list[float] | None:
        if value is None:
            return None
        found = percentile_interval(value, replicates, name, notes)
        if found is None or not name.endswith("ece"):
            return found
        moved = np.maximum(replicates + (value - np.nanmean(replicates)), 0)
        return list(percentiles(moved[~np.isnan(moved)]))

    averaged = errors[:, of.averaged]
    mean = ratio(np.nansum(averaged, axis=1), (~np.isnan(averaged)).sum(axis=1))
    found: dict[str, Any] = {
        "ece": interval(measured["ece"], mean, "ece"),
        "brier": interval(measured["brier"], ratio(distances.sum(axis=1), counts.sum(axis=1)), "brier"),
    }
    if labels.ndim == 2:
        hidden = Decisions.of(labels, probabilities).too_few()
        replicates = {"ece": errors, "brier": ratio(distances, counts)}
        found["per_class"] = {
            finding: {
                name: None if hidden[k] else interval(row[name], of_name[:, k], f"{finding} {name}")
                for name, of_name in replicates.items()
            }
            for k, (finding, row) in enumerate(zip(class_names, measured["per_class"], strict=True))
        }
    return found | vars(notes)


def fit_temperature(labels: Counts, probabilities: Floats) -> float | None:
    """Return the temperature T that makes softmax(logits / T) the most likely; of findings, the sigmoid.

    The mean negative log-likelihood is convex in 1/T, and its derivative there is the mean of
    (expected logit - logit of the true class): Brent's method finds its zero. Minimising the likelihood
    itself would give half of the digits.

    Args:
      labels: int64 [N], or [N, C] of findings; probabilities: float64 [N, C] at T = 1.

    Returns:
      T, above 1 for a model that is too sure of itself. None where the best lies at an end of
      what is searched: every image is right, or the probabilities say nothing.
    """
    import scipy.optimize

    if labels.ndim == 2:
        # Each known label is a choice between two classes, with the logits 0 and z.
        decisions = Decisions.of(labels, probabilities)
        of_present = probabilities[decisions.known]
        labels = decisions.is_class[decisions.known].astype(np.int64)
        probabilities = np.stack([_complement(of_present), of_present], axis=1)
    logits = _log(probabilities)
    of_label = logits[np.arange(len(labels)), labels]

    def slope(temperature: float) -> float:
        expected = (apply_temperature(probabilities, temperature) * logits).sum(axis=1)
        return float((expected - of_label).mean())

    coldest, hottest = _TEMPERATURES
    # It falls with T. Without a change of sign, the likelihood grows up to an end, or nowhere.
    if not len(labels) or not slope(coldest) > 0 > slope(hottest):
        return None
    digits = 4 * np.finfo(np.float64).eps  # the least that SciPy takes
    temperature = float(scipy.optimize.brentq(slope, coldest, hottest, xtol=digits * coldest, rtol=digits))
    return temperature if 1.001 * coldest < temperature < hottest / 1.001 else None


def apply_temperature(probabilities: Floats, temperature: float, *, of_findings: bool = False) -> Floats:
    """Return softmax(logits / temperature) from the probabilities [N, C] at temperature 1.

    Args:
      of_findings: whether each column is a probability of its own, sigmoid(logit / temperature).
    """
    if of_findings:
        pairs = np.stack([_complement(probabilities), probabilities], axis=-1).reshape(-1, 2)
        return apply_temperature(pairs, temperature)[:, 1].reshape(probabilities.shape)
    logits = _log(probabilities) / temperature
    likelihoods = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(likelihoods / likelihoods.sum(axis=1, keepdims=True))


def move_thresholds(
    thresholds: Mapping[str, float], temperature: float, lines: Mapping[str, Line | None] | None = None
) -> dict[str, float]:
    """Return the thresholds of findings that decide after a calibration as `thresholds` do before it.

    Args:
      temperature: of the calibration.
      lines: of `fit_platt`, by finding, where it is one by lines.
    """
    moved = apply_temperature(np.array([[*thresholds.values()]]), temperature, of_findings=True)
    moved = apply_platt(moved, [(lines or {}).get(name) for name in thresholds])
    return dict(zip(thresholds, moved[0].tolist(), strict=True))


def fit_platt(labels: Counts, probabilities: Floats) -> list[Line | None]:
    """Return for each finding the slope a and the offset b of the most likely sigmoid(a * logit + b).

    With Platt's targets (N+ + 1) / (N+ + 2) and 1 / (N- + 2), which keep it finite where the probabilities
    separate a finding perfectly ("Probabilistic outputs for support vector machines", 1999).

    Args:
      labels: int64 [N, C] of findings; probabilities: float64 [N, C].

    Returns:
      (a, b), a above 0; None for a finding that `Decisions.too_few` names, or whose probabilities say
      nothing.
    """
    import scipy.optimize

    decisions = Decisions.of(labels, probabilities)
    fitted: list[Line | None] = []
    for index, (known, few) in enumerate(zip(decisions.known.T, decisions.too_few(), strict=True)):
        if few:
            fitted.append(None)
            continue
        positive = decisions.is_class[known, index]
        logits = logits_of(probabilities[known, index], of_findings=True)
        targets = np.where(positive, (positive.sum() + 1) / (positive.sum() + 2), 1 / ((~positive).sum() + 2))

        # In units of their spread: far from 0 and close together, the search would end on the way.
        # Of equal logits it is 0, where rounding may leave a little.
        middle, spread = logits.mean(), logits.std() if np.ptp(logits) else 0.0
        units = (logits - middle) / (spread or 1)

        def loss(line: Floats, units: Floats = units, targets: Floats = targets) -> tuple[float, Floats]:
            moved = line[0] * units + line[1]
            error = scipy.special.expit(moved) - targets
            value = (np.logaddexp(0, moved) - targets * moved).mean()
            return float(value), np.array([(error * units).mean(), error.mean()])

        found = scipy.optimize.minimize(loss, np.array([1.0, 0.0]), jac=True, method="BFGS")
        # A slope that is not positive would turn the order of the images round.
        slope = found.x[0] / spread if spread else 0.0
        fitted.append((float(slope), float(found.x[1] - slope * middle)) if slope > 0 else None)
    return fitted


def apply_platt(probabilities: Floats, lines: Sequence[Line | None]) -> Floats:
    """Return sigmoid(a * logit + b) of probabilities [N, C] of findings; unchanged where there is no line."""
    import scipy.special

    logits = logits_of(probabilities, of_findings=True)
    columns = [
        column if line is None else scipy.special.expit(line[0] * of_column + line[1])
        for column, of_column, line in zip(probabilities.T, logits.T, lines, strict=True)
    ]
    return np.stack(columns, axis=1) if columns else probabilities


def logits_of(probabilities: Floats, *, of_findings: bool) -> Floats:
    """Return finite logits of probabilities: their softmax gives them back, of findings their sigmoid."""
    return _log(probabilities) - (_log(_complement(probabilities)) if of_findings else 0)


def _complement(probabilities: Floats) -> Floats:
    """Return 1 - p of probabilities; where they are rounded to 1, not 0 but what they may be short of it."""
    return np.asarray(np.maximum(1 - probabilities, _SHORT_OF_ONE))


def _log(probabilities: Floats) -> Floats:
    return np.asarray(np.log(np.maximum(probabilities, _SMALLEST)))
