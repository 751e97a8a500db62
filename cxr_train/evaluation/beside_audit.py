"""What a shortcut alone reaches, next to what the model reaches: no result stands without it.

The key `audit` of `metrics_{split}.json`; null where no `audit.json` lies beside the data:

    findings   how many the audit has
    patients   of this split that are in another split of the data too
    pictures   pairs that show the same, one of them in this split and one in another
    shortcuts  by class, where its shortcuts were looked for, the feature that predicts it best: feature,
               auroc, low, high (95 % interval), above_chance (whether the audit names it)
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cxr_data.audit.causes import named_scores
from cxr_data.audit.findings import STRONG
from cxr_data.core.errors import DataError
from cxr_data.core.wording import counted, tool, typed
from cxr_data.records.audit_document import has_audit, read_audit
from cxr_data.records.split_names import joined_splits

logger = logging.getLogger(__name__)

_FEATURES = {
    "source": "the source",
    "size": "the image's size",
    "aspect": "the image's aspect",
    "format": "the file's format",
    "mode": "the file's colour mode",
    "bit depth": "the file's bit depth",
    "JPEG quality": "the file's JPEG quality",
    "assumptions": "what the file leaves out",
    "border rows": "a flat border above or below",
    "border columns": "a flat border at the sides",
    "mean": "the mean brightness",
    "contrast": "the contrast",
    "sharpness": "the sharpness",
    "pixel probe": "the frame around the lungs",
}


def audit_beside(
    directory: str, split: str, class_map: Mapping[str, str] | None = None
) -> dict[str, Any] | None:
    """Return the part of a dataset's audit that bears on an evaluation; see the head of this file.

    Args:
      directory: of the data.
      split: that is evaluated, maybe several joined by `+`.
      class_map: names of the data's classes as the model's, where they differ.
    """
    if not has_audit(directory):
        return None
    try:
        return summarized(read_audit(directory), split, class_map)
    except DataError as error:
        logger.warning("%s", error)
        return None


def summarized(
    document: Mapping[str, Any], split: str, class_map: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Do as `audit_beside`, with the content of an `audit.json`."""
    names = dict(class_map or {})
    named = named_scores(document)
    shortcuts: dict[str, dict[str, Any]] = {}
    others = sorted(document["shortcuts"], key=lambda score: -score["auroc"])
    for score in [*named, *others]:
        label = names.get(score["label"], score["label"])
        best = {key: score[key] for key in ("feature", "auroc", "low", "high")}
        shortcuts.setdefault(label, {**best, "above_chance": score in named})
    return {
        "findings": len(document["findings"]),
        "patients": sum(
            _is_across(split, [part.rpartition(" ")[0] for part in case["splits"].split(", ")])
            for case in _cases(document, "patients_in_two_splits")
        ),
        "pictures": len(
            {
                name
                for case in _cases(document, "pictures_in_two_splits")
                if _is_across(split, [case["in"], case["and"]])
                for name, side in ((case["first"], case["in"]), (case["second"], case["and"]))
                if side in joined_splits(split)
            }
        ),
        "shortcuts": shortcuts,
    }


def _cases(document: Mapping[str, Any], name: str) -> Iterable[Mapping[str, Any]]:
    return (case for found in document["findings"] if found["name"] == name for case in found["evidence"])


def _is_across(split: str, sides: Sequence[str]) -> bool:
    inside = [side in joined_splits(split) for side in sides]
    return any(inside) and not all(inside)


# -- in words ----------------------------------------------------------------------------------


def beside_result(summary: Mapping[str, Any], directory: str) -> list[str]:
    """Return the audit's sentences on a result: one for each class that a shortcut predicts, and leakage.

    Args:
      summary: content of `metrics_{split}.json`; without the key `audit`, as of earlier versions, nothing is
        said.
      directory: of its data, for the command that makes an audit.
    """
    if "audit" not in summary:
        return []
    intervals = (summary.get("intervals") or {}).get("per_class") or {}
    reached = {
        name: (row.get("auroc"), row.get("auroc"), (intervals.get(name) or {}).get("auroc"))
        for name, row in summary["per_class"].items()
    }
    return _sentences(summary["audit"], known_from_training(summary), reached, "the model reaches", directory)


def known_from_training(summary: Mapping[str, Any]) -> list[str]:
    """Return how many of the evaluated images the model was trained on, in words; empty for none.

    Args:
      summary: content of `metrics_{split}.json`.
    """
    if "images_trained_on" not in summary:
        return []
    count = summary["images_trained_on"]
    if count:
        show = "shows" if count == 1 else "show"
        what = "a picture or a patient" if summary.get("own_data") else "pixel for pixel a picture"
        return [
            f"leakage: {count:,} of {counted(summary['images'], 'image')} {show} {what} that the model was "
            "trained on: these numbers are too high"
        ]
    if count is None and not summary.get("own_data"):
        return [
            "leakage: whether the model was trained on some of these images is not known, since its training "
            "data is not there any more, or cannot be compared"
        ]
    return []


def beside_runs(summaries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the same for several runs on one split, each class with the smallest and the largest AUROC."""
    of_runs = [summary for summary in summaries if "audit" in summary]
    if not of_runs:
        return []
    first = next((summary for summary in of_runs if summary["audit"]), of_runs[0])
    reached = {}
    for name in first["per_class"]:
        rows = (summary["per_class"].get(name) or {} for summary in of_runs)
        values = [row["auroc"] for row in rows if row.get("auroc") is not None]
        reached[name] = (min(values), max(values), None) if values else (None, None, None)
    most = max(of_runs, key=lambda summary: summary.get("images_trained_on") or 0)
    return _sentences(first["audit"], known_from_training(most), reached, "the runs reach", first["data"])


_Reached = tuple[float | None, float | None, Sequence[float] | None]


def _sentences(
    audit: Mapping[str, Any] | None,
    known: Sequence[str],
    reached: Mapping[str, _Reached],
    who: str,
    directory: str,
) -> list[str]:
    if audit is None:
        return [
            *known,
            "no audit: nobody looked for shortcuts and leakage, which may have made these numbers; look with "
            f"python -m {tool('audit_dataset')} {typed(data=directory)}",
        ]
    found = audit["shortcuts"]
    lines = [
        _sentence(name, found[name], reached[name], who)
        for name in reached
        if name in found and found[name]["above_chance"]
    ]
    leaks = [*_leakage(audit), *known]
    if lines:
        return [*lines, *(leaks or ["audit: no leakage found"])]
    unknown = ", ".join(name for name in reached if name not in found)
    named = f"no shortcut named{f' (none looked for: {unknown})' if unknown else ''}"
    return [f"audit: {named}", *leaks] if leaks else [f"audit: {named}; leakage: none found"]


def _sentence(name: str, shortcut: Mapping[str, Any], reached: _Reached, who: str) -> str:
    feature, auroc = in_words(shortcut["feature"]), shortcut["auroc"]
    sentence = (
        f"{name}: {feature} alone predicts it with AUROC {auroc:.3f} [{shortcut['low']:.3f}, "
        f"{shortcut['high']:.3f}] (audit of the data); {who}"
    )
    low, high, interval = reached
    if low is None or high is None:
        return f"{sentence} no AUROC, which is undefined here"
    sentence += f" {low:.3f}" if low == high else f" {low:.3f} to {high:.3f}"
    if interval:
        sentence += f" [{interval[0]:.3f}, {interval[1]:.3f}]"
    may_explain_all = auroc >= min(STRONG, interval[0] if interval else low)
    model = who.rpartition(" ")[0]
    return f"{sentence}: " + (
        f"{model} may have learned {feature}" if may_explain_all else f"part of it may come from {feature}"
    )


def in_words(feature: str) -> str:
    """Return what a feature of the audit is, as a part of a sentence."""
    if feature.startswith("text "):
        return f"text in the {feature.removeprefix('text ')} corner"
    return _FEATURES.get(feature, feature)


def _leakage(audit: Mapping[str, Any]) -> list[str]:
    parts = []
    if audit["patients"]:
        parts.append(counted(audit["patients"], "patient"))
    if audit["pictures"]:
        parts.append(counted(audit["pictures"], "picture"))
    if not parts:
        return []
    are = "is" if audit["patients"] + audit["pictures"] == 1 else "are"
    return [
        f"leakage: {' and '.join(parts)} of this split {are} in another split too: these numbers are too high"
    ]
