"""What a shortcut alone reaches beside what the model reaches: sentences and a chart for the page."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cxr_data.core.page import Picture
from cxr_data.core.wording import capitalized
from cxr_train.evaluation.beside_audit import beside_result, in_words, summarized
from cxr_train.reporting.drawing import CHANCE, COLORS, INK, SHARE, Drawing, Stroke, text_width
from cxr_train.reporting.record import RunRecord, SplitRecord

_CLASS, _BAR = 50, 20  # units of height
_ACROSS = 240  # units from 0 to 1 of an AUROC


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
        text = line if is_of_class else capitalized(line)
        # A command ends without a full stop, so that it can be pasted.
        yield ("good" if is_good else "bad"), text if "python -m" in text else f"{text}."


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
        f"AUROC of the model on the {main.name} split, and of the one property that predicts the class best "
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
    left = 18 + max(text_width(name) for name, *_ in rows)
    drawing = Drawing(left + _ACROSS + 140)
    bottom = 22 + _CLASS * len(rows)
    drawing.height = bottom + 40
    for tick in SHARE.ticks():
        place = left + tick * _ACROSS
        drawing.line((place, place), (20, bottom), Stroke(INK), opacity=0.15)
        drawing.text(place, bottom + 16, f"{tick:g}", anchor="middle", size=12)
    chance = left + 0.5 * _ACROSS
    drawing.line((chance, chance), (20, bottom), CHANCE)
    drawing.text(chance, 14, "chance", anchor="middle", size=12)
    drawing.text(chance, bottom + 34, "AUROC", anchor="middle")
    words = []
    for number, (name, shortcut, auroc, interval) in enumerate(rows):
        top = 24 + _CLASS * number
        drawing.text(left - 10, top + _CLASS / 2, name, anchor="end")
        feature = in_words(shortcut["feature"])
        reach = (shortcut["low"], shortcut["high"])
        opacity = 0.55 if shortcut["above_chance"] else 0.15
        told = _bar(drawing, left, top, f"{feature} alone", shortcut["auroc"], reach, COLORS[1], opacity)
        words.append(f"{name}: {feature} alone {told}")
        if auroc is not None:
            told = _bar(drawing, left, top + _BAR + 2, "the model", auroc, interval, COLORS[0], 0.55)
            words.append(f"{name}: model {told}")
    return drawing.picture(f"What a shortcut alone reaches, and the model: {'; '.join(words)}.")


def _bar(
    drawing: Drawing,
    left: float,
    top: float,
    name: str,
    value: float,
    interval: Sequence[float] | None,
    color: str,
    opacity: float,
) -> str:
    """Draw a bar with its name in it and its interval below the name, and return its numbers."""
    drawing.bar((left, left + _ACROSS * value), (top, top + _BAR), color, opacity)
    if interval:
        low, high = (left + _ACROSS * end for end in interval)
        drawing.line((low, high), (top + _BAR - 4, top + _BAR - 4), Stroke(INK), 2)
    numbers = f"{value:.3f}" + (f" ({interval[0]:.3f}-{interval[1]:.3f})" if interval else "")
    drawing.text(left + 6, top + 13, name, size=12)
    drawing.text(left + _ACROSS + 14, top + 14, numbers, size=12)
    return numbers
