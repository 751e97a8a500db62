"""The verdict at the top of the page: what was reached, and what speaks against believing it."""

from collections.abc import Iterator
from statistics import NormalDist
from typing import Any

from cxr_data.core.wording import capitalized, counted, typed
from cxr_data.stats.bootstrap import CONFIDENCE
from cxr_train.evaluation import wording
from cxr_train.reporting.beside_audit import audited
from cxr_train.reporting.galleries import VERDICTS
from cxr_train.reporting.record import RunRecord, SplitRecord
from cxr_train.reporting.results import FAMILIAR, familiarity
from cxr_train.runs.mirror import published

Line = tuple[str, str]

_CHANCE = 0.5  # the AUROC of a guess


def verdict(record: RunRecord, main: SplitRecord | None) -> list[Line]:
    """Return the lines of the verdict: each `good`, `bad` or `open`, and a sentence.

    Args:
      main: the split whose numbers are at the top; None where none was evaluated.
    """
    return [
        *_reached(record, main),
        *audited(record, main),
        *_probed(record, main),
        *_explained(record),
        *_completed(record),
    ]


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
    article = "a" if wording.is_of_findings(metrics) else "an"
    reach = _reach(intervals.get("accuracy"))
    if accuracy is not None:
        numbers.append(f"{article} {wording.accuracy_name(metrics)} of {accuracy:.3f}{reach}")
    if not numbers:
        said = f"No label of the {main.name} split is known"
        yield "open", f"{said}: nothing is known of how good the model is."
        return
    known = FAMILIAR[familiarity(record, main)]
    images = f"{counted(metrics['images'], 'image')} of the {main.name} split"
    told = f"The model reaches {' and '.join(numbers)} on {images}"
    audit = metrics.get("audit") or {}
    if known:
        yield "bad", f"{told}. These numbers flatter: {known}."
    elif metrics.get("images_trained_on") or audit.get("patients") or audit.get("pictures"):
        yield "open", f"{told}."  # what it saw of them, a line of its own says
    else:
        yield "open", f"{told}, which it did not see in training."


def _probed(record: RunRecord, main: SplitRecord | None) -> Iterator[Line]:
    """Yield what the model reaches without the lungs, of the class that it still tells best."""
    if main is None or main.metrics is None:
        return
    found = main.metrics.get("probe")
    if not found and record.embedding:
        yield "open", "What the model reaches without the lungs is not known: it was trained on embeddings."
        return
    if not found:
        command = f"python -m cxr_train.evaluate {typed(run_dir=published(str(record.directory)))}"
        yield (
            "open",
            "What the model reaches without the lungs was not measured: "
            f"{command} {typed(split=main.name, probe_images=256)} does it.",
        )
        return
    kind = wording.kind_of_label(main.metrics)
    rows, ways = found["per_class"].items(), ("frame_alone", "whole")
    known = {name: row for name, row in rows if None not in [row[way]["auroc"] for way in ways]}
    if not known:
        yield "open", f"What the model reaches without the lungs is undefined: no {kind} has an AUROC there."
        return
    above = {name: row for name, row in known.items() if _is_above_chance(row["frame_alone"], len(known))}
    name, row = max((above or known).items(), key=lambda one: float(one[1]["frame_alone"]["auroc"]))
    alone, whole = (f"{row[way]['auroc']:.3f}{_reach(row[way]['interval'])}" for way in ways)
    images = f"{found['images']:,} of {counted(found['of'], 'image')}"
    numbers = f"with an AUROC of {alone} on {images}; with the lungs it is {whole}"
    if above:
        told = f"Without the lungs the model still predicts {name}, {numbers}."
        yield "bad", f"{told} So it knows something that is not in the lungs."
    else:
        tried = f", of {len(known)} tried" if len(known) > 1 else ""
        chance = f"Without the lungs the model predicts no {kind} surely better than chance{tried}"
        told = f"{chance}: best is {name}, {numbers}."
        yield "open", f"{told} A low AUROC here proves nothing."


def _is_above_chance(found: dict[str, Any], tried: int) -> bool:
    """Return whether an AUROC is above chance, as the best of several that were tried (Bonferroni).

    The lower half of its 95 % interval is made as much longer as that of a normal distribution would be.
    Where the frame says nothing of 14 findings, the interval of at least one is above chance in every third
    model.
    """
    if found["interval"] is None:
        return False
    tail = (1 - CONFIDENCE) / 2
    longer = NormalDist().inv_cdf(tail / tried) / NormalDist().inv_cdf(tail)
    return bool(found["auroc"] - longer * (found["auroc"] - found["interval"][0]) > _CHANCE)


def _explained(record: RunRecord) -> Iterator[Line]:
    splits: dict[Line, list[str]] = {}
    for split in record.splits:
        if split.explanation:
            check = split.explanation["occlusion"]
            meaning = check["text"].split(". ")[0]  # its numbers are in the section of the maps
            splits.setdefault((VERDICTS[check["verdict"]], capitalized(meaning)), []).append(split.name)
    for (look, meaning), names in splits.items():
        yield look, f"{meaning} ({' and '.join(names)} split{'s' if len(names) > 1 else ''})."


def _completed(record: RunRecord) -> Iterator[Line]:
    done, asked = len(record.epochs), record.config.epochs
    if record.throughput is None and done < asked:
        yield "bad", f"The run was stopped after {done} of {counted(asked, 'epoch')}."


def _reach(interval: list[float] | None) -> str:
    return f" (95 % interval {interval[0]:.3f} to {interval[1]:.3f})" if interval else ""
