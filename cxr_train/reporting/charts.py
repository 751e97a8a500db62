"""The charts of a run's epochs, and what all charts of a page share: colours, style, words."""

from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cxr_data.core.figures import figure_bytes, plain
from cxr_data.core.page import Picture, embed

# Okabe and Ito's colours, told apart by the colour-blind too; the dashes do it in print.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", "--", "-.", ":")
STYLE: Any = {
    "font.size": 10,
    "text.color": "#1c2430",
    "axes.labelcolor": "#1c2430",
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    # Text stays text, in a font of the reader's browser, which knows more scripts.
    "svg.fonttype": "none",
    "svg.hashsalt": "cxr",
}


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


def panel(size: tuple[float, float]) -> Figure:
    """Return an empty figure of `size` inches, with margins that hold numbers, a title and labels.

    Matplotlib's own layouts measure every label, which takes as long as to draw them.
    """
    width, height = size
    figure = Figure(figsize=size)
    figure.subplots_adjust(0.62 / width, 0.5 / height, 1 - 0.12 / width, 1 - 0.32 / height, hspace=0.12)
    return figure


def _by_epoch(
    title: str,
    epochs: Sequence[int],
    lines: dict[str, list[float]],
    alt: str,
    top: float | None,
    marked: int | None = None,
) -> Picture:
    """Return one panel of lines over epochs, from 0 to `top`, or as the values need where it is None."""
    with matplotlib.rc_context(STYLE):
        figure = panel((4.6, 3.0))
        axis = figure.subplots()
        for number, (label, values) in enumerate(lines.items()):
            # A single epoch is a point, which a line alone would not show.
            axis.plot(
                epochs, values, label=label, marker="." if len(epochs) < 30 else "", **line_style(number)
            )
        if marked is not None:
            axis.axvline(marked, color="0.5", linewidth=1, linestyle=":")
        axis.set_title(title)
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        if top is not None:
            axis.set_ylim(0, top)
        if len(lines) > 1:
            axis.legend()
        return svg(figure, alt)


def _of(rows: Sequence[dict[str, Any]], part: str, name: str) -> list[float]:
    return [_number(row[part].get(name)) for row in rows]


def _number(value: float | None) -> float:
    """Return the number, or NaN for an undefined one (null), which is a gap in a line."""
    return float("nan") if value is None else value


def line_style(number: int) -> dict[str, Any]:
    """Return the colour and dashes of the line of a number, by which it is told from its neighbours."""
    return {"color": COLORS[number % len(COLORS)], "linestyle": _DASHES[number % len(_DASHES)]}


def legend_name(text: str) -> str:
    """Return a name as a legend shows it: one that begins with _ would be hidden."""
    return f"\u200b{plain(text)}" if text.startswith("_") else plain(text)


def svg(figure: Figure, alt: str) -> Picture:
    """Return a figure as a picture for the page."""
    # Without a date, the same run gives the same page.
    content = figure_bytes(figure, format="svg", metadata={"Date": None, "Creator": None})
    # The document type names an address; nothing would load it, and nothing shall look like it.
    return embed(content[content.index(b"<svg") :], "image/svg+xml", alt)
