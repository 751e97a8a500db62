"""The charts of a model on a split: metrics with intervals, ROC, precision-recall and reliability."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import blended_transform_factory

from cxr_data.core.page import Picture
from cxr_data.stats.auroc import Ranking
from cxr_train.evaluation.text import HOW_TO_READ_THE_PROBE, PROBE_WAYS, probe_title
from cxr_train.reporting.charts import COLORS, STYLE, legend_name, line_style, panel, svg

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
_ROW_INCHES = 0.2
_FEWEST_IN_BIN = 10
_MOST_BINS = 15
_SIZE = (4.6, 4.4)


def forests(metrics: Mapping[str, Any]) -> list[tuple[Picture, str]]:
    """Return every metric of every class with its 95 % interval: two charts, each with its caption.

    Args:
      metrics: content of `metrics_{split}.json`.
    """
    intervals = metrics.get("intervals") or {}
    overall = [("accuracy", [("all images", metrics["accuracy"], intervals.get("accuracy"), None)])]
    return [
        (_forest(_grouped(metrics, _RATES)), "Rates of the most probable class, with 95 % intervals."),
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
    sentences = [probe_title(found), *HOW_TO_READ_THE_PROBE]
    caption = " ".join(f"{sentence[:1].upper()}{sentence[1:]}." for sentence in sentences)
    return [(_forest(groups), caption)]


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
        ]
        rows.append(("mean", metrics["macro"].get(metric), of_mean.get(metric), None))
        groups.append((title, rows))
    return groups


def _forest(groups: Sequence[tuple[str, Sequence[_Row]]]) -> Picture:
    """Draw a point and its interval a row, under the title of its group, with the numbers to the right."""
    count = sum(len(rows) + 1 for _, rows in groups)
    words = []
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, _ROW_INCHES * count + 0.5), layout="constrained")
        axis = figure.subplots()
        beside = blended_transform_factory(axis.transAxes, axis.transData)
        places, labels, place = [], [], 0
        for title, rows in groups:
            shown = legend_name(title)
            axis.text(-0.02, place, shown, transform=beside, ha="right", va="center", weight="bold", size=9)
            for name, value, interval, number in rows:
                place += 1
                places.append(place)
                labels.append(legend_name(name))
                told = "undefined" if value is None else f"{value:.3f}"
                told += f" ({interval[0]:.3f}-{interval[1]:.3f})" if interval and value is not None else ""
                words.append(f"{name} {title} {told}")
                axis.text(1.02, place, told, transform=beside, va="center", size=8.5)
                if value is not None:
                    color = "black" if number is None else COLORS[number % len(COLORS)]
                    axis.plot(interval or [value] * 2, [place] * 2, color=color, linewidth=2)
                    axis.plot(value, place, color=color, marker="D" if number is None else "o", markersize=5)
            place += 1
        axis.set_yticks(places, labels, size=9)
        axis.tick_params(axis="y", length=0)
        axis.set_xlim(-0.02, 1.02)
        axis.set_ylim(place - 0.4, -0.7)
        axis.grid(visible=False, axis="y")
        axis.spines["left"].set_visible(False)
        return svg(figure, f"Metrics with 95 % intervals: {'; '.join(words)}.")


def roc(
    labels: np.ndarray, probabilities: np.ndarray, names: Sequence[str], metrics: Mapping[str, Any]
) -> Picture | None:
    """Return the ROC curves of each class against the rest, with the working points.

    Args:
      labels: int64 [N].
      probabilities: float64 [N, C].
      names: of the C classes.
      metrics: content of `metrics_{split}.json`, whose thresholds are marked where there are some.

    Returns:
      None where no class has both sides.
    """
    areas = []
    with matplotlib.rc_context(STYLE):
        figure = panel(_SIZE)
        axis = figure.subplots()
        for index, positive in _two_sided(labels, len(names)):
            areas.append(_area(names[index], metrics, "auroc"))
            wrong, found = Ranking.of(positive, probabilities[:, index]).curve()
            axis.plot(wrong, found, label=legend_name(areas[-1]), **line_style(index))
            for marker, chosen in _decisions(index, names[index], probabilities, metrics):
                point = (chosen[~positive].mean(), chosen[positive].mean())
                axis.plot(*point, **_working_point(index, marker))
        if not areas:
            return None
        axis.plot([0, 1], [0, 1], color="0.5", linewidth=1, linestyle=":")
        _unit_square(axis, "1 - specificity", "sensitivity")
        axis.legend(loc="lower right", title="area under the curve", fontsize=9)
        return svg(figure, f"ROC curves, each class against the rest. Areas: {', '.join(areas)}.")


def precision_recall(
    labels: np.ndarray, probabilities: np.ndarray, names: Sequence[str], metrics: Mapping[str, Any]
) -> Picture | None:
    """Return the precision-recall curves of each class, with the working points; the arguments of `roc`."""
    areas = []
    with matplotlib.rc_context(STYLE):
        figure = panel(_SIZE)
        axis = figure.subplots()
        for index, positive in _two_sided(labels, len(names)):
            areas.append(_area(names[index], metrics, "auprc"))
            recall, precision = _precision_at_recall(positive, probabilities[:, index])
            style = line_style(index)
            # Average precision sums these steps.
            axis.plot(recall, precision, label=legend_name(areas[-1]), drawstyle="steps-pre", **style)
            axis.axhline(positive.mean(), color=style["color"], linewidth=1, linestyle=":", alpha=0.7)
            for marker, chosen in _decisions(index, names[index], probabilities, metrics):
                if chosen.any():
                    point = (chosen[positive].mean(), positive[chosen].mean())
                    axis.plot(*point, **_working_point(index, marker))
        if not areas:
            return None
        _unit_square(axis, "sensitivity (recall)", "precision")
        axis.legend(loc="lower left", title="average precision", fontsize=9)
        alt = f"Precision-recall curves, each class against the rest. Areas: {', '.join(areas)}."
        return svg(figure, alt)


def working_points(metrics: Mapping[str, Any]) -> str:
    """Return what the marks on the curves are, in words."""
    told = "Dot: the class is called where it is the most probable."
    found = metrics.get("thresholds")
    if found:
        told += (
            f" Diamond: it is called from its threshold on, chosen on the {found['chosen_on']} split "
            f"for a sensitivity of {found['at_sensitivity']:g}."
        )
    return told


def reliability_chart(labels: np.ndarray, probabilities: np.ndarray, error: float) -> Picture:
    """Return how often the predicted class is right, by the probability that it was given.

    The bins hold like numbers of images, at least 10 each: as many bins as the images allow, at most 15.

    Args:
      labels: int64 [N].
      probabilities: float64 [N, C].
      error: the expected calibration error.
    """
    confidence = probabilities.max(axis=1)
    order = np.argsort(confidence, kind="stable")
    bins = np.array_split(order, min(max(len(labels) // _FEWEST_IN_BIN, 1), _MOST_BINS))
    is_right = probabilities.argmax(axis=1) == labels
    means = np.array([confidence[inside].mean() for inside in bins])
    shares = np.array([is_right[inside].mean() for inside in bins])
    reach = np.array([_binomial_interval(int(is_right[inside].sum()), len(inside)) for inside in bins])
    with matplotlib.rc_context(STYLE):
        figure = panel(_SIZE)
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        upper.plot([0, 1], [0, 1], color="0.5", linewidth=1, linestyle=":")
        lengths = np.abs(reach.T - shares)
        upper.errorbar(means, shares, lengths, marker="o", capsize=3, **line_style(0))
        _unit_square(upper, "", "share that is right")
        lower.hist(confidence, np.linspace(0, 1, 21), color=COLORS[0], rwidth=0.9)
        lower.set_xlabel("probability of the predicted class")
        lower.set_ylabel("images")
        points = ", ".join(f"{share:.2f} at {mean:.2f}" for mean, share in zip(means, shares, strict=True))
        return svg(
            figure,
            f"Reliability diagram of {len(labels):,} images in {len(bins)} bins: right {points}. "
            f"Expected calibration error {error:.3f}.",
        )


def _two_sided(labels: np.ndarray, classes: int) -> list[tuple[int, np.ndarray]]:
    """Return number and members (bool [N]) of each class that some images have and some have not."""
    members = [(index, labels == index) for index in range(classes)]
    return [(index, positive) for index, positive in members if positive.any() and not positive.all()]


def _precision_at_recall(positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return sensitivity and precision [K + 1] at falling thresholds, from sensitivity 0 on."""
    ranking = Ranking.of(positive, scores)
    called = np.append(ranking.starts[1:], len(scores))
    found = np.cumsum(ranking.positive)[called - 1]
    precision = found / called
    return np.append(0.0, found / found[-1]), np.append(precision[0], precision)


def _decisions(
    index: int, name: str, probabilities: np.ndarray, metrics: Mapping[str, Any]
) -> list[tuple[str, np.ndarray]]:
    """Return by marker which images are called a class, bool [N]: the most probable, and by threshold."""
    decisions = [("o", probabilities.argmax(axis=1) == index)]
    row = ((metrics.get("thresholds") or {}).get("per_class") or {}).get(name) or {}
    if row.get("threshold") is not None:
        decisions.append(("D", probabilities[:, index] >= row["threshold"]))
    return decisions


def _working_point(index: int, marker: str) -> dict[str, Any]:
    size = 8 if marker == "o" else 7
    color = line_style(index)["color"]
    return {"marker": marker, "color": color, "markersize": size, "markeredgecolor": "white", "zorder": 3}


def _area(name: str, metrics: Mapping[str, Any], metric: str) -> str:
    value = metrics["per_class"].get(name, {}).get(metric)
    return name if value is None else f"{name} {value:.3f}"


def _binomial_interval(right: int, images: int) -> tuple[float, float]:
    """Return the exact 95 % interval of a share (Clopper and Pearson, 1934)."""
    import scipy.special

    wrong, tail = images - right, 0.025
    low = scipy.special.betaincinv(right, wrong + 1, tail) if right else 0.0
    high = scipy.special.betaincinv(right + 1, wrong, 1 - tail) if wrong else 1.0
    return float(low), float(high)


def _unit_square(axis: Axes, x: str, y: str) -> None:
    axis.set_xlim(-0.02, 1.02)
    axis.set_ylim(-0.02, 1.02)
    axis.set_xlabel(x)
    axis.set_ylabel(y)
