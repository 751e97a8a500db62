"""The charts of a run's epochs."""

from collections.abc import Mapping, Sequence
from typing import Any

from cxr_data.core.page import Picture
from cxr_data.core.wording import counted
from cxr_train.reporting.drawing import CHANCE, Axis, Drawing, Plot, stroke

_MOST_DOTS = 30  # epochs, above which a line alone shows them


def curves(rows: Sequence[dict[str, Any]], kept: int | None) -> list[Picture]:
    """Return the loss, accuracy, and macro sensitivity and specificity by epoch.

    Args:
      rows: of `metrics.jsonl`.
      kept: the epoch to mark.
    """
    if any(row["validation"] is None for row in rows):
        return _training_curves(rows)
    macro = [row["validation"].get("macro", {}) for row in rows]
    panels = {
        "loss": {"train": _of(rows, "train", "loss"), "validation": _of(rows, "validation", "loss")},
        "accuracy": {part: _of(rows, part, "accuracy") for part in ("train", "validation")},
        "validation, mean of the classes": {
            name: [_number(row.get(name)) for row in macro] for name in ("sensitivity", "specificity")
        },
    }
    pictures = []
    for title, lines in panels.items():
        ends = ", ".join(f"{name} {values[0]:.3f} to {values[-1]:.3f}" for name, values in lines.items())
        epochs = counted(len(rows), "epoch")
        alt = f"{title} over {epochs}, first to last: {ends}. Epoch {kept or 'none'} is kept."
        top = None if title == "loss" else 1.02
        pictures.append(_by_epoch(title, [row["epoch"] for row in rows], lines, alt, top, kept))
    return pictures


def _training_curves(rows: Sequence[dict[str, Any]]) -> list[Picture]:
    """Return the loss and accuracy of a run without validation, whose last epoch is kept."""
    epochs, last = [row["epoch"] for row in rows], rows[-1]["epoch"]
    pictures = []
    for title, top in (("loss", None), ("accuracy", 1.02)):
        values = _of(rows, "train", title)
        alt = f"{title} of training over {counted(len(rows), 'epoch')}: {values[0]:.3f} to {values[-1]:.3f}."
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
    lines: Mapping[str, Sequence[float]],
    alt: str,
    top: float | None,
    marked: int | None = None,
) -> Picture:
    """Return one panel of lines over the same epochs, each with its name; see `epoch_chart`."""
    named = [(name, epochs, values) for name, values in lines.items()]
    return epoch_chart(title, named, alt, top=top, marked=marked)


def epoch_chart(
    title: str,
    lines: Sequence[tuple[str, Sequence[int], Sequence[float]]],
    alt: str,
    *,
    top: float | None = None,
    marked: int | None = None,
    height: float = 210,
) -> Picture:
    """Return a chart of lines over epochs.

    Args:
      title: above it.
      lines: the name, epochs and values of each; NaN is a gap.
      alt: what the chart shows, in words.
      top: the upper end of the axis, which then begins at 0; None for an axis around the values.
      marked: an epoch to mark.
      height: of its inside, in units.
    """
    across = Axis.around([epoch for _, epochs, _ in lines for epoch in epochs], "epoch", is_whole=True)
    values = [value for _, _, values in lines for value in values]
    up = Axis.around(values) if top is None else Axis(0, top)
    drawing = Drawing()
    plot = Plot(drawing, 30, height, across, up, title)
    if marked is not None:
        plot.upright(marked, (up.low, up.high), CHANCE, 1)
    for number, (_, x, y) in enumerate(lines):
        plot.curve(x, y, stroke(number))
        # A single epoch is a point, which a line alone would not show.
        if len(x) < _MOST_DOTS:
            plot.dots(x, y, stroke(number).color)
    if len(lines) > 1:
        drawing.legend(plot.below, Plot.LEFT, [(name, stroke(n)) for n, (name, *_) in enumerate(lines)])
    return drawing.picture(alt)


def _of(rows: Sequence[dict[str, Any]], part: str, name: str) -> list[float]:
    return [_number(row[part].get(name)) for row in rows]


def _number(value: float | None) -> float:
    """Return the number, or NaN for an undefined one (null), which is a gap in a line."""
    return float("nan") if value is None else value
