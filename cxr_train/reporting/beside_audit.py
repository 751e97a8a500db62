"""What a shortcut alone reaches beside what the model reaches: sentences and a chart for the page."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from cxr_data.core.page import Picture
from cxr_train.evaluation.beside_audit import beside_result, in_words, summarized
from cxr_train.reporting.charts import COLORS, STYLE, legend_name, svg
from cxr_train.reporting.record import RunRecord, SplitRecord

_BAR_INCHES = 0.62


def audited(record: RunRecord, main: SplitRecord | None) -> Iterator[tuple[str, str]]:
    """Yield lines of the verdict, each `good`, `bad` or `open`, and a sentence.

    Args:
      record: of the run.
      main: the split whose numbers are at the top; None where none was evaluated.
    """
    if main is None or main.metrics is None:
        return
    audit = _audit(record, main)
    for line in beside_result({**main.metrics, "audit": audit}, record.config.data):
        is_good = audit is not None and line.startswith("audit: ")
        # A line that begins with the name of a class keeps it as it is.
        is_of_class = line.partition(":")[0] in main.metrics["per_class"]
        yield ("good" if is_good else "bad"), line if is_of_class else f"{line[:1].upper()}{line[1:]}"


def shortcut_charts(record: RunRecord, main: SplitRecord | None) -> list[tuple[Picture, str]]:
    """Return the chart of the best shortcut alone and the model, a pair of bars a class, with its caption.

    Returns:
      Nothing where no split was evaluated, or no shortcut was looked for.
    """
    if main is None or main.metrics is None:
        return []
    found = (_audit(record, main) or {}).get("shortcuts") or {}
    intervals = (main.metrics.get("intervals") or {}).get("per_class") or {}
    rows = [
        (name, found[name], row.get("auroc"), (intervals.get(name) or {}).get("auroc"))
        for name, row in main.metrics["per_class"].items()
        if name in found
    ]
    caption = (
        f"AUROC of the model on the {main.name} split, and of the one property that tells the class best "
        "without any anatomy (audit of the data), with 95 % intervals. A pale bar is not above chance."
    )
    return [(_bars(rows), caption)] if rows else []


def _audit(record: RunRecord, main: SplitRecord) -> dict[str, Any] | None:
    """Return the audit that lies beside the data now, or else what the evaluation kept of it."""
    if record.audit is not None:
        return summarized(record.audit, main.name)
    kept: dict[str, Any] | None = (main.metrics or {}).get("audit")
    return kept


_Row = tuple[str, Mapping[str, Any], float | None, Sequence[float] | None]


def _bars(rows: Sequence[_Row]) -> Picture:
    words = []
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, _BAR_INCHES * len(rows) + 0.9), layout="constrained")
        axis = figure.subplots()
        for place, (name, shortcut, auroc, interval) in enumerate(rows):
            feature = in_words(shortcut["feature"])
            reach = (shortcut["low"], shortcut["high"])
            pale = 0.55 if shortcut["above_chance"] else 0.15
            told = _bar(axis, place - 0.2, shortcut["auroc"], reach, COLORS[1], pale)
            axis.text(0.02, place - 0.24, legend_name(f"{feature} alone"), va="center", size=8)
            words.append(f"{name}: {feature} alone {told}")
            if auroc is not None:
                told = _bar(axis, place + 0.2, auroc, interval, COLORS[0], 0.55)
                axis.text(0.02, place + 0.16, "the model", va="center", size=8)
                words.append(f"{name}: model {told}")
        axis.axvline(0.5, color="0.3", linewidth=1, linestyle=":")
        axis.text(0.5, -0.55, "chance", ha="center", va="bottom", size=8)
        axis.set_yticks(range(len(rows)), [legend_name(name) for name, *_ in rows])
        axis.tick_params(axis="y", length=0)
        axis.grid(visible=False, axis="y")
        axis.set_xlim(0, 1.02)
        axis.set_ylim(len(rows) - 0.5, -0.55)
        axis.set_xlabel("AUROC")
        return svg(figure, f"What a shortcut alone reaches, and the model: {'; '.join(words)}.")


def _bar(
    axis: Any, place: float, value: float, interval: Sequence[float] | None, color: str, alpha: float
) -> str:
    axis.barh(place, value, height=0.36, color=color, alpha=alpha)
    if interval:
        axis.plot(interval, [place + 0.12] * 2, color="black", linewidth=1.5)  # below the words
    numbers = f"{value:.3f}" + (f" ({interval[0]:.3f}-{interval[1]:.3f})" if interval else "")
    axis.text(1.04, place, numbers, va="center", size=8.5, clip_on=False)
    return numbers
