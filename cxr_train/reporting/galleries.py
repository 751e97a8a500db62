"""The errors and the maps of a model: X-rays that stand on the page once, and the check of the maps."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cxr_data.core.page import Grid, Picture, embed
from cxr_data.core.wording import counted
from cxr_data.sources.finding_values import ABSENT, PRESENT
from cxr_train.reporting.record import Document, RunRecord, SplitRecord
from cxr_train.reporting.results import confusion
from cxr_train.runs.layout import RunLayout

VERDICTS = {"passed": "good", "failed": "bad", "undecided": "open"}
"""The look of a line, by the verdict of the occlusion check."""
_MOST_LISTED = 100


def errors(record: RunRecord, split: SplitRecord) -> dict[str, Any]:
    """Return the confusion matrix of a split, its surest errors, and the X-rays of the explained splits."""
    metrics = split.metrics or {}
    galleries = [
        {"split": explained.name, "failed": _has_failed(explained), "galleries": found}
        for explained in _first(record.splits, split)
        if (found := _galleries(record, explained, right=False))
    ]
    return {
        "split": split.name,
        "confusion": confusion(metrics, split.labels),
        "worst": _surest_errors(record, split),
        "explained": galleries,
        "has_pictures": any(part["split"] == split.name for part in galleries),
    }


def explanation(record: RunRecord, split: SplitRecord) -> dict[str, Any]:
    """Return the check of a split's maps, the maps of images that the model has right, and the filters."""
    explained = split.explanation or {}
    depths, filters = explained["depths"], explained["filters"]
    layers = ", ".join(explained["layers"])
    check = explained["occlusion"]["text"]
    return {
        "split": split.name,
        "verdict": VERDICTS[explained["occlusion"]["verdict"]],
        "failed": _has_failed(split),
        "check": f"{check[:1].upper()}{check[1:]}",
        "depths": _picture(record, split, depths["file"], f"Grad-CAM maps at the layers {layers}")
        if depths
        else None,
        "galleries": _galleries(record, split, right=True),
        "filters": _picture(record, split, filters["file"], "Pictures that excite single channels most")
        if filters
        else None,
        "filters_caption": "What single channels look for, before training "
        f"({filters['before']}) and after it."
        if filters
        else "",
    }


def _first(splits: Sequence[SplitRecord], first: SplitRecord) -> list[SplitRecord]:
    """Return the explained splits, `first` before the others."""
    return sorted(
        (split for split in splits if split.explanation), key=lambda split: split.name != first.name
    )


def _has_failed(split: SplitRecord) -> bool:
    return split.explanation is not None and split.explanation["occlusion"]["verdict"] == "failed"


def _galleries(record: RunRecord, split: SplitRecord, *, right: bool) -> list[dict[str, Any]]:
    """Return the cases that the model has right, or wrong, by what they are called: each image once.

    The galleries of one finding, or of one true class, have the same `tab`.
    """
    most_maps: dict[str, Document] = {}
    for case in (split.explanation or {})["cases"]:
        if (case["label"] == case["predicted"]) is not right:
            continue
        known = most_maps.get(case["id"])
        if known is None or len(case["mapped"]) > len(known["mapped"]):
            most_maps[case["id"]] = case
    by_title: dict[str, list[Document]] = {}
    tab_of = {}
    for case in sorted(most_maps.values(), key=lambda case: -case["probability"]):
        title = f"{case['label']}, rightly called" if right else f"{case['label']} called {case['predicted']}"
        tab_of[title] = case["mapped"][0] if record.is_of_findings else case["label"]
        by_title.setdefault(title, []).append(_tile(record, split, case))
    galleries = [{"title": title, "tab": tab_of[title], "tiles": tiles} for title, tiles in by_title.items()]
    # Frequent confusions are shown with more cases.
    return galleries if right else sorted(galleries, key=lambda gallery: -len(gallery["tiles"]))


def _tile(record: RunRecord, split: SplitRecord, case: Document) -> dict[str, Any]:
    is_right = case["label"] == case["predicted"]
    caption = f"called {case['predicted']} at {case['probability']:.2f}"
    if not is_right:
        truth = "label" if record.is_of_findings else "true class"
        caption += f"; {case['label']}, the {truth}, got {case['label_probability']:.2f}"
    maps = f"Map of {' and of '.join(case['mapped'])} to its right"
    silent = [name for name, flat in zip(case["mapped"], case["flat"], strict=True) if flat]
    if silent:
        maps += f"; no evidence for {' or '.join(silent)}, that map is 0"
    alt = f"X-ray {case['id']}, {case['label']}, {caption}. {maps}."
    return {
        "picture": _picture(record, split, case["file"], alt),
        "id": case["id"],
        "caption": caption,
        "maps": maps,
        "parts": 1 + len(case["mapped"]),
    }


def _picture(record: RunRecord, split: SplitRecord, name: str, alt: str) -> Picture:
    media_type = "image/jpeg" if name.endswith(".jpg") else "image/png"
    folder = RunLayout(record.directory).explanation(split.name)
    return embed((folder / name).read_bytes(), media_type, alt)


def _surest_errors(record: RunRecord, split: SplitRecord) -> Grid | None:
    """Return the images that are called wrongly with the highest probability."""
    if split.ids is None or split.labels is None or split.probabilities is None:
        return None
    names, probabilities = record.class_names, split.probabilities
    if split.labels.ndim == 2:
        return _contradicted(names, split.ids, split.labels, probabilities)
    predicted, highest = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = (predicted != split.labels).nonzero()[0]
    order = wrong[np.argsort(-highest[wrong], kind="stable")].tolist()
    rows = [
        [
            split.ids[row],
            names[split.labels[row]],
            f"{names[predicted[row]]}, {highest[row]:.3f}",
            f"{probabilities[row, split.labels[row]]:.3f}",
        ]
        for row in order[:_MOST_LISTED]
    ]
    shown = f"the {len(rows)} surest" if len(rows) < len(order) else "the surest first"
    caption = f"Called wrongly: {len(order):,} of {counted(len(split.labels), 'image')}, {shown}"
    return Grid(caption, ["image", "true", "called, probability", "probability of the true class"], rows)


def _contradicted(
    names: Sequence[str], ids: Sequence[str], labels: np.ndarray, probabilities: np.ndarray
) -> Grid:
    """Return the known labels [N, C] of findings that the probabilities [N, C] contradict most."""
    distance = np.where(labels >= ABSENT, np.abs(probabilities - (labels == PRESENT)), 0)
    order = np.argsort(-distance, axis=None, kind="stable")[:_MOST_LISTED]
    rows = []
    for image, finding in zip(*np.unravel_index(order, labels.shape), strict=True):
        told = "present" if labels[image, finding] == PRESENT else "absent"
        rows.append([ids[image], names[finding], told, f"{probabilities[image, finding]:.3f}"])
    return Grid("Labels that the model contradicts most", ["image", "finding", "label", "probability"], rows)
