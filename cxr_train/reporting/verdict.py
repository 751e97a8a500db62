"""The verdict at the top of the page: what was reached, and what speaks against believing it."""

from collections.abc import Iterator
from typing import Any

from cxr_train.reporting.beside_audit import audited
from cxr_train.reporting.galleries import VERDICTS
from cxr_train.reporting.record import RunRecord, SplitRecord
from cxr_train.reporting.results import FAMILIAR, familiarity

Line = tuple[str, str]


def verdict(record: RunRecord, main: SplitRecord | None) -> list[Line]:
    """Return the lines of the verdict: each `good`, `bad` or `open`, and a sentence.

    Args:
      main: the split whose numbers are at the top; None where none was evaluated.
    """
    return [*_reached(record, main), *audited(record, main), *_explained(record), *_completed(record)]


def _reached(record: RunRecord, main: SplitRecord | None) -> Iterator[Line]:
    if main is None or main.metrics is None:
        yield "open", "No split was evaluated: nothing is known of how good the model is."
        return
    metrics: dict[str, Any] = main.metrics
    intervals = metrics.get("intervals") or {}
    auroc, accuracy = metrics["macro"].get("auroc"), metrics["accuracy"]
    numbers = []
    if auroc is not None:
        numbers.append(f"a mean AUROC of {auroc:.3f}{_reach((intervals.get('macro') or {}).get('auroc'))}")
    numbers.append(f"an accuracy of {accuracy:.3f}{_reach(intervals.get('accuracy'))}")
    known = FAMILIAR[familiarity(record, main)]
    told = (
        f"The model reaches {' and '.join(numbers)} on {metrics['images']:,} images of the {main.name} split"
    )
    if known:
        yield "bad", f"{told}. These numbers flatter: {known}."
    else:
        yield "open", f"{told}, which it did not see in training."


def _explained(record: RunRecord) -> Iterator[Line]:
    for split in record.splits:
        if split.explanation:
            check = split.explanation["occlusion"]
            meaning = check["text"].split(". ")[0]  # its numbers are in the section of the maps
            yield VERDICTS[check["verdict"]], f"{meaning[:1].upper()}{meaning[1:]}."


def _completed(record: RunRecord) -> Iterator[Line]:
    done, asked = len(record.epochs), record.config.epochs
    if record.throughput is None and done < asked:
        yield "bad", f"The run was stopped after {done} of {asked} epochs."


def _reach(interval: list[float] | None) -> str:
    return f" (95 % interval {interval[0]:.3f} to {interval[1]:.3f})" if interval else ""
