"""The charts of the report, as pictures that stand inside of the page, each with its words."""

import base64
import dataclasses
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cxr_data.core.figures import figure_bytes, plain
from cxr_data.stats.auroc import Ranking
from cxr_train.evaluation.calibration import BINS, measure_calibration

# Okabe and Ito's colours, told apart by the colour-blind too; the dashes do it in print.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", "--", "-.", ":")
_STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    # Text stays text, in a font of the reader's browser, which knows more scripts.
    "svg.fonttype": "none",
    "svg.hashsalt": "cxr",
}


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture for an `img` element.

    Attributes:
      source: a data URI; nothing is loaded from anywhere.
      alt: what it shows, in words.
    """

    source: str
    alt: str


def embed(content: bytes, media_type: str, alt: str) -> Picture:
    """Put a picture's bytes into a data URI."""
    return Picture(f"data:{media_type};base64,{base64.b64encode(content).decode()}", alt)


def curves(rows: Sequence[dict[str, Any]], kept: int | None) -> list[Picture]:
    """Return the loss, accuracy, and macro sensitivity and specificity by epoch.

    Args:
      rows: of `metrics.jsonl`.
      kept: the epoch to mark.
    """
    if any(row["validation"] is None for row in rows):
        return _training_curves(rows)
    macro = [row["validation"]["macro"] for row in rows]
    panels = {
        "loss": {"train": _of(rows, "train", "loss"), "validation": _of(rows, "validation", "loss")},
        "accuracy": {part: _of(rows, part, "accuracy") for part in ("train", "validation")},
        "validation, mean of the classes": {
            name: [_number(row[name]) for row in macro] for name in ("sensitivity", "specificity")
        },
    }
    pictures = []
    for title, lines in panels.items():
        ends = ", ".join(f"{name} {values[0]:.3f} to {values[-1]:.3f}" for name, values in lines.items())
        alt = f"{title} over {len(rows)} epochs, first to last: {ends}. Epoch {kept or 'none'} is kept."
        top = None if title == "loss" else 1.02
        pictures.append(_by_epoch(title, [row["epoch"] for row in rows], lines, alt, top, kept))
    return pictures


def _training_curves(rows: Sequence[dict[str, Any]]) -> list[Picture]:
    """Return the loss and accuracy of a run without validation, whose last epoch is kept."""
    epochs, last = [row["epoch"] for row in rows], rows[-1]["epoch"]
    pictures = []
    for title, top in (("loss", None), ("accuracy", 1.02)):
        values = _of(rows, "train", title)
        alt = f"{title} of training over {len(rows)} epochs: {values[0]:.3f} to {values[-1]:.3f}."
        pictures.append(_by_epoch(title, epochs, {"train": values}, alt, top, last))
    return pictures


def throughput_charts(rows: Sequence[dict[str, Any]]) -> list[Picture]:
    """Return the images a second and share of input wait by epoch; none where nothing was timed."""
    curves = {
        "training images a second": ("images_per_second", 1),
        "input wait, % of time": ("input_wait_share", 100),
    }
    pictures = []
    for title, (name, scale) in curves.items():
        timed = [row for row in rows if row["train"].get(name) is not None]
        if timed:
            values = [scale * value for value in _of(timed, "train", name)]
            alt = f"{title} by epoch: {min(values):.3g} to {max(values):.3g}."
            top = 1.1 * max(*values, 1.0)
            pictures.append(_by_epoch(title, [row["epoch"] for row in timed], {title: values}, alt, top))
    return pictures


def _by_epoch(
    title: str,
    epochs: Sequence[int],
    lines: dict[str, list[float]],
    alt: str,
    top: float | None,
    marked: int | None = None,
) -> Picture:
    """Return one panel of lines over epochs, from 0 to `top`, or as the values need where it is None."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(4.6, 3.0), layout="constrained")
        axis = figure.subplots()
        for number, (label, values) in enumerate(lines.items()):
            # A single epoch is a point, which a line alone would not show.
            axis.plot(epochs, values, label=label, marker="." if len(epochs) < 30 else "", **_line(number))
        if marked is not None:
            axis.axvline(marked, color="0.5", linewidth=1, linestyle=":")
        axis.set_title(title)
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        if top is not None:
            axis.set_ylim(0, top)
        if len(lines) > 1:
            axis.legend()
        return _svg(figure, alt)


def roc(labels: np.ndarray, probabilities: np.ndarray, names: Sequence[str]) -> Picture | None:
    """Return the ROC curves of each class against the rest; None where no class has both sides."""
    areas = []
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(4.6, 4.4), layout="constrained")
        axis = figure.subplots()
        for index, name in enumerate(names):
            positive = labels == index
            if positive.all() or not positive.any():
                continue
            ranking = Ranking.of(positive, probabilities[:, index])
            wrong, right = ranking.curve()
            auroc, _ = ranking.areas(np.ones((1, len(labels))))
            areas.append(f"{name} {auroc[0]:.3f}")
            axis.plot(wrong, right, label=_legend(areas[-1]), **_line(index))
        if not areas:
            return None
        _unit_square(axis, "1 - specificity", "sensitivity")
        axis.legend(loc="lower right", title="area under the curve", fontsize=8)
        return _svg(figure, f"ROC curves, each class against the rest. Areas: {', '.join(areas)}.")


def reliability_chart(labels: np.ndarray, probabilities: np.ndarray) -> Picture:
    """Return how often the predicted class is right, by the probability that it was given."""
    fitted = measure_calibration(labels, probabilities)
    filled = [row for row in fitted["bins"] if row["images"]]
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(4.6, 4.4), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        upper.plot(_column(filled, "confidence"), _column(filled, "accuracy"), marker="o", **_line(0))
        _unit_square(upper, "", "share that is right")
        middles = [(row["low"] + row["high"]) / 2 for row in filled]
        lower.bar(middles, _column(filled, "images"), width=0.9 / BINS, color=_COLORS[0])
        lower.set_xlabel("probability of the predicted class")
        lower.set_ylabel("images")
        return _svg(
            figure,
            f"Reliability diagram of {len(labels)} images in {BINS} bins of confidence: "
            f"expected calibration error {fitted['ece']:.3f}.",
        )


def _unit_square(axis: Axes, x: str, y: str) -> None:
    axis.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle=":")
    axis.set_xlim(-0.01, 1.01)
    axis.set_ylim(-0.01, 1.01)
    axis.set_xlabel(x)
    axis.set_ylabel(y)


def _of(rows: Sequence[dict[str, Any]], part: str, name: str) -> list[float]:
    return [_number(row[part].get(name)) for row in rows]


def _column(rows: Sequence[dict[str, Any]], name: str) -> list[float]:
    return [row[name] for row in rows]


def _number(value: float | None) -> float:
    """Return the number, or NaN for an undefined one (null), which is a gap in a line."""
    return float("nan") if value is None else value


def _line(number: int) -> dict[str, Any]:
    return {"color": _COLORS[number % len(_COLORS)], "linestyle": _DASHES[number % len(_DASHES)]}


def _legend(text: str) -> str:
    """Return a name as a legend shows it: one that begins with _ would be hidden."""
    return f"\u200b{plain(text)}" if text.startswith("_") else plain(text)


def _svg(figure: Figure, alt: str) -> Picture:
    # Without a date, the same run gives the same page.
    content = figure_bytes(figure, format="svg", metadata={"Date": None, "Creator": None})
    # The document type names an address; nothing would load it, and nothing shall look like it.
    return embed(content[content.index(b"<svg") :], "image/svg+xml", alt)
