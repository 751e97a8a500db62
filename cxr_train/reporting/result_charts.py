"""The charts of a model on a split: metrics with intervals, ROC, precision-recall and reliability."""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cxr_data.core.page import Picture
from cxr_data.core.wording import counted
from cxr_data.stats.auroc import Ranking
from cxr_train.evaluation.decisions import Decisions, is_given
from cxr_train.evaluation.text import HOW_TO_READ_THE_PROBE, PROBE_WAYS, probe_title
from cxr_train.evaluation.wording import accuracy_name, is_of_findings, one_against_others, rule_of_thresholds
from cxr_train.reporting.drawing import (
    CHANCE,
    COLORS,
    INK,
    SHARE,
    Axis,
    Drawing,
    Plot,
    Stroke,
    stroke,
    text_width,
)

_RATES = {
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "precision": "precision",
    "f1": "F1",
}
_AREAS = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "one_vs_rest_accuracy": "one-vs-rest accuracy",
}
_FEWEST_IN_BIN = 10
_MOST_BINS = 15
_ROW = 20  # units of height
_NAMES = 112  # units for names at least, so that charts next to each other have one scale
_ACROSS = 210  # units from 0 to 1 of a metric
_SQUARE = 390  # units of the inside of a ROC


def forests(metrics: Mapping[str, Any]) -> list[tuple[Picture, str]]:
    """Return every metric of every class with its 95 % interval: two charts, each with its caption.

    Args:
      metrics: content of `metrics_{split}.json`.
    """
    intervals = metrics.get("intervals") or {}
    name = accuracy_name(metrics)
    overall = [(name, [("all images", metrics["accuracy"], intervals.get("accuracy"), None)])]
    called = "at a probability of 0.5" if is_of_findings(metrics) else "of the most probable class"
    return [
        (_forest(_grouped(metrics, _RATES)), f"Rates {called}, with 95 % intervals."),
        (
            _forest([*_grouped(metrics, _AREAS), *overall]),
            "Areas under the curves and accuracy, with 95 % intervals.",
        ),
    ]


def probe_forest(metrics: Mapping[str, Any]) -> list[tuple[Picture, str]]:
    """Return what remains of each class's AUROC without the lungs: a chart with its caption, or none."""
    found = metrics.get("probe")
    if not found:
        return []
    groups: list[tuple[str, list[_Row]]] = [
        (name, [(title, row[way]["auroc"], row[way]["interval"], k) for way, title in PROBE_WAYS.items()])
        for k, (name, row) in enumerate(found["per_class"].items())
    ]
    # Of many findings, those with too few images would be rows and rows of nothing.
    defined = [group for group in groups if any(auroc is not None for _, auroc, *_ in group[1])]
    left_out = [name for name, _ in groups if name not in dict(defined)]
    if not defined:
        return []
    sentences = [probe_title(found), *HOW_TO_READ_THE_PROBE]
    if left_out:
        sentences.append(f"undefined, and not drawn: {', '.join(left_out)}")
    caption = " ".join(f"{sentence[:1].upper()}{sentence[1:]}." for sentence in sentences)
    return [(_forest(defined), caption)]


def spread_forest(spread: Mapping[str, Any]) -> tuple[Picture, str]:
    """Return the mean AUROC of each fold, and their mean with the range over the folds: chart and caption.

    Args:
      spread: of `out_of_fold.spread`.
    """
    found = spread["auroc"]
    rows: list[_Row] = [
        (pathlib.PurePath(run).name, value, None, number)
        for number, (run, value) in enumerate(found["folds"].items())
    ]
    reach = None if found["mean"] is None else (found["low"], found["high"])
    rows.append(("mean", found["mean"], reach, None))
    caption = "Mean AUROC of each fold; the line is from the lowest to the highest."
    return _forest([("mean AUROC", rows)], "range over the folds"), caption


_Row = tuple[str, float | None, Sequence[float] | None, int | None]


def _grouped(metrics: Mapping[str, Any], shown: Mapping[str, str]) -> list[tuple[str, list[_Row]]]:
    """Return by metric the rows of its classes and their mean: name, value, interval, class number."""
    intervals = metrics.get("intervals") or {}
    of_classes, of_mean = intervals.get("per_class") or {}, intervals.get("macro") or {}
    groups = []
    for metric, title in shown.items():
        rows: list[_Row] = [
            (name, row.get(metric), of_classes.get(name, {}).get(metric), number)
            for number, (name, row) in enumerate(metrics["per_class"].items())
            if name not in metrics.get("too_few", ())
        ]
        rows.append(("mean", metrics["macro"].get(metric), of_mean.get(metric), None))
        if is_of_findings(metrics):
            of_labels = (intervals.get("micro") or {}).get(metric)
            rows.append(("all labels together", metrics["micro"].get(metric), of_labels, None))
        groups.append((title, rows))
    return groups


def _forest(groups: Sequence[tuple[str, Sequence[_Row]]], of: str = "95 % intervals") -> Picture:
    """Draw a point and its interval a row, under the title of its group, with the numbers to the right."""
    names = [name for _, rows in groups for name, *_ in rows]
    left = max(_NAMES, *(14 + text_width(name) for name in names))
    drawing = Drawing(left + _ACROSS + 140)
    bottom = 24 + _ROW * sum(len(rows) + 1 for _, rows in groups)
    drawing.height = bottom + 24
    for tick in SHARE.ticks():
        place = left + tick * _ACROSS
        drawing.line((place, place), (8, bottom), Stroke(INK), opacity=0.15)
        drawing.text(place, bottom + 16, f"{tick:g}", anchor="middle", size=12)
    words, y = [], 24
    for title, rows in groups:
        drawing.text(4, y, title, bold=True)  # may reach into the empty row of the plot
        for name, value, interval, number in rows:
            y += _ROW
            told = "undefined" if value is None else f"{value:.3f}"
            told += f" ({interval[0]:.3f}-{interval[1]:.3f})" if interval and value is not None else ""
            words.append(f"{name} {title} {told}")
            drawing.text(left - 8, y, name, anchor="end")
            drawing.text(left + _ACROSS + 10, y, told, size=12)
            if value is not None:
                color = INK if number is None else COLORS[number % len(COLORS)]
                low, high = (left + _ACROSS * end for end in interval or (value, value))
                drawing.line((low, high), (y - 4, y - 4), Stroke(color), 2.5)
                drawing.mark(left + _ACROSS * value, y - 4, color, radius=4.5, is_diamond=number is None)
        y += _ROW
    return drawing.picture(f"Metrics with {of}: {'; '.join(words)}.")


@dataclasses.dataclass(frozen=True)
class _Curve:
    """What one curve a class shows.

    Attributes:
      title: for the description.
      area: the metric that is the area below it, and what that is called.
      x, y: what the axes are.
      points: of members (bool [N]) and scores [N]: x [K] and y [K] of the curve.
      working_point: of members and what is called so (bool [N]): x and y of its mark.
      in_steps: whether y changes at the point before.
    """

    title: str
    area: tuple[str, str]
    x: str
    y: str
    points: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
    working_point: Callable[[np.ndarray, np.ndarray], tuple[float, float]]
    in_steps: bool = False


def roc(
    labels: np.ndarray, probabilities: np.ndarray, names: Sequence[str], metrics: Mapping[str, Any]
) -> Picture | None:
    """Return the ROC curves of each class or finding, with the working points.

    Args:
      labels: int64 [N].
      probabilities: float64 [N, C].
      names: of the C classes.
      metrics: content of `metrics_{split}.json`, whose thresholds are marked where there are some.

    Returns:
      None where no class has both sides.
    """
    curve = _Curve(
        "ROC",
        ("auroc", "area under the curve:"),
        "1 - specificity",
        "sensitivity",
        lambda positive, scores: Ranking.of(positive, scores).curve(),
        lambda positive, chosen: (chosen[~positive].mean(), chosen[positive].mean()),
    )
    return _curves(curve, labels, probabilities, names, metrics)


def precision_recall(
    labels: np.ndarray, probabilities: np.ndarray, names: Sequence[str], metrics: Mapping[str, Any]
) -> Picture | None:
    """Return the precision-recall curves of each class, with the working points; the arguments of `roc`."""
    curve = _Curve(
        "Precision-recall",
        ("auprc", "average precision:"),
        "sensitivity (recall)",
        "precision",
        _precision_at_recall,
        lambda positive, chosen: (chosen[positive].mean(), positive[chosen].mean()),
        in_steps=True,  # which average precision sums
    )
    return _curves(curve, labels, probabilities, names, metrics)


def _curves(
    curve: _Curve,
    labels: np.ndarray,
    probabilities: np.ndarray,
    names: Sequence[str],
    metrics: Mapping[str, Any],
) -> Picture | None:
    """Draw the curve and working points of each class that some images have and some have not, and of which
    there are not too few.
    """
    decisions = Decisions.of(labels, probabilities)
    few = [index for index, name in enumerate(names) if name in metrics.get("too_few", ())]
    two_sided = [(index, positive) for index, positive in _two_sided(decisions) if index not in few]
    if not two_sided:
        return None
    metric, title = curve.area
    drawing = Drawing()
    x, y = (dataclasses.replace(SHARE, label=label) for label in (curve.x, curve.y))
    plot = Plot(drawing, 12, _SQUARE, x, y)
    if not curve.in_steps:
        plot.curve([0, 1], [0, 1], CHANCE)
    for index, positive in two_sided:
        if curve.in_steps:
            plot.level(positive.mean(), Stroke(stroke(index).color, CHANCE.dashes), 0.7)
        points = curve.points(positive, probabilities[decisions.known[:, index], index])
        plot.curve(*points, stroke(index), in_steps=curve.in_steps)
    for index, positive in two_sided:  # above all curves
        for is_diamond, chosen in _chosen(index, names[index], decisions, probabilities, metrics):
            if chosen.any() or not curve.in_steps:
                point = curve.working_point(positive, chosen)
                plot.mark(*point, stroke(index).color, is_diamond=is_diamond)
    areas = [(_area(names[index], metrics, metric), stroke(index)) for index, _ in two_sided]
    drawing.legend(plot.below, Plot.LEFT, areas, title)
    told = ", ".join(area for area, _ in areas)
    return drawing.picture(f"{curve.title} curves, {one_against_others(metrics)}. Areas: {told}.")


def working_points(metrics: Mapping[str, Any]) -> str:
    """Return what the marks on the curves are, in words."""
    told = "Dot: the class is called where it is the most probable."
    if is_of_findings(metrics):
        told = "Dot: the finding is called from a probability of 0.5 on."
    found = metrics.get("thresholds")
    if found:
        told += (
            f" Diamond: it is called from its threshold on, chosen on the {found['chosen_on']} split "
            f"{rule_of_thresholds(found)}."
        )
    return told


def reliability_chart(labels: np.ndarray, probabilities: np.ndarray, error: float | None) -> Picture | None:
    """Return how often the predicted class is right, by the probability that it was given; of findings, how
    often one is present, by its probability.

    The bins hold like numbers of images, at least 10 each: as many bins as the images allow, at most 15.

    Args:
      labels: int64 [N], or [N, C] of findings.
      probabilities: float64 [N, C].
      error: the expected calibration error; None where it is undefined, as of findings with too few images.

    Returns:
      None where no label is known.
    """
    if labels.ndim == 2:
        decisions = Decisions.of(labels, probabilities)
        confidence, is_right = probabilities[decisions.known], decisions.is_class[decisions.known]
        what, share_name, of = "the finding", "share in which it is present", "known label"
    else:
        confidence, is_right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
        what, share_name, of = "the predicted class", "share that is right", "image"
    if not len(confidence):
        return None
    order = np.argsort(confidence, kind="stable")
    bins = np.array_split(order, min(max(len(order) // _FEWEST_IN_BIN, 1), _MOST_BINS))
    means = np.array([confidence[inside].mean() for inside in bins])
    shares = np.array([is_right[inside].mean() for inside in bins])
    reach = [_wilson_interval(float(share), len(inside)) for share, inside in zip(shares, bins, strict=True)]
    drawing = Drawing()
    upper = Plot(drawing, 12, 300, SHARE, dataclasses.replace(SHARE, label=share_name), has_ticks=False)
    upper.curve([0, 1], [0, 1], CHANCE)
    for mean, ends in zip(means, reach, strict=True):
        upper.upright(mean, ends, stroke(0))
    upper.curve(means, shares, stroke(0))
    upper.dots(means, shares, stroke(0).color)
    edges = np.linspace(0, 1, 21)
    counts, _ = np.histogram(confidence, edges)
    across = dataclasses.replace(SHARE, label=f"probability of {what}")
    lower = Plot(drawing, 328, 74, across, Axis(0, 1.1 * counts.max(), f"{of}s", is_whole=True))
    for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
        lower.column((low, high), count, COLORS[0])
    points = ", ".join(f"{share:.2f} at {mean:.2f}" for mean, share in zip(means, shares, strict=True))
    of_all = "" if error is None else f" Expected calibration error {error:.3f}."
    return drawing.picture(
        f"Reliability diagram of {counted(len(order), of)} in {counted(len(bins), 'bin')}: "
        f"right {points}.{of_all}"
    )


def _two_sided(decisions: Decisions) -> list[tuple[int, np.ndarray]]:
    """Return number and members of each class that some have and some have not: bool, of the known images."""
    columns = zip(decisions.is_class.T, decisions.known.T, strict=True)
    members = enumerate(is_class[known] for is_class, known in columns)
    return [(index, positive) for index, positive in members if positive.any() and not positive.all()]


def _precision_at_recall(positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return sensitivity and precision [K + 1] at falling thresholds, from sensitivity 0 on."""
    ranking = Ranking.of(positive, scores)
    called = np.append(ranking.starts[1:], len(scores))
    found = np.cumsum(ranking.positive)[called - 1]
    precision = found / called
    return np.append(0.0, found / found[-1]), np.append(precision[0], precision)


def _chosen(
    index: int, name: str, decisions: Decisions, probabilities: np.ndarray, metrics: Mapping[str, Any]
) -> list[tuple[bool, np.ndarray]]:
    """Return which of the known images are called a class, bool: without (False), with a threshold (True)."""
    known = decisions.known[:, index]
    chosen = [(False, decisions.is_given[known, index])]
    row = ((metrics.get("thresholds") or {}).get("per_class") or {}).get(name) or {}
    if row.get("threshold") is not None:
        chosen.append((True, is_given(probabilities[known, index], row["threshold"])))
    return chosen


def _area(name: str, metrics: Mapping[str, Any], metric: str) -> str:
    value = metrics["per_class"].get(name, {}).get(metric)
    return name if value is None else f"{name} {value:.3f}"


def _wilson_interval(share: float, images: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of independent images (Wilson, 1927)."""
    z = 1.959964
    center = (share + z**2 / (2 * images)) / (1 + z**2 / images)
    reach = z / (1 + z**2 / images) * math.sqrt(share * (1 - share) / images + z**2 / (4 * images**2))
    return max(center - reach, 0.0), min(center + reach, 1.0)
