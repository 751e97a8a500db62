"""The causes of findings: those of one cause stand together, and have one remedy.

Where covid comes from another hospital, its files differ in size, aspect, format, mode and quality: five
findings, and one cause.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cxr_data.audit.findings import PROBE, SHORTCUT, STRONG
from cxr_data.audit.findings import SOURCE as SOURCE_FEATURE

CAUTION = (
    "Each number says how well a property predicts the class, not why: what looks like a shortcut may be "
    "anatomy, and what was not found may still be there."
)

SOURCE, ASSUMED, BORDERS, MARKS, LOOK = "source", "assumptions", "borders", "marks", "look"
SPLITS, COPIES, LABELS, PATIENTS = "splits", "copies", "labels", "patients"

_CAUSE_OF = {
    SOURCE_FEATURE: SOURCE,
    **dict.fromkeys(("size", "aspect", "format", "mode", "bit depth", "JPEG quality"), SOURCE),
    **dict.fromkeys(("border rows", "border columns"), BORDERS),
    **dict.fromkeys(("mean", "contrast", "sharpness", PROBE), LOOK),
    "text": MARKS,
    "patients_in_two_splits": SPLITS,
    "patients_in_two_classes": PATIENTS,
    "pictures_in_two_classes": LABELS,
    **dict.fromkeys(("pictures_in_two_splits", "pictures_in_second_dataset", "repeated_pictures"), COPIES),
}

_TITLES = {
    ASSUMED: "some files leave out what others state, and their greys differ for it",
    BORDERS: "flat borders predict the class",
    MARKS: "letters or marks in the corners predict the class",
    LOOK: "the look of the whole picture predicts the class",
    SPLITS: "the evaluation has patients that were trained on",
    COPIES: "some pictures occur more than once",
    LABELS: "one picture has two labels",
    PATIENTS: "some patients are in two classes",
}

ADVICE = {
    SOURCE: (
        "Take every class from every source. A network is given none of these facts, but where pictures come "
        "from, their compression and their resolution leave traces in the pixels. These findings stay "
        "whatever is converted, since they are of the sources and their files."
    ),
    ASSUMED: (
        "docs/assumed.md says what the conversion assumes. Take every class from every source, or leave such "
        "pictures out (--exclude=FILE)."
    ),
    BORDERS: "Cut the borders off.",
    MARKS: "Cut off the edges, where letters and marks are, or leave such pictures out (--exclude=FILE).",
    LOOK: (
        "It may be the source, and it may be anatomy or disease. No flag removes it: train and evaluate on "
        "classes from the same sources to know."
    ),
    SPLITS: "Let the conversion divide by patient.",
    COPIES: "Leave the copies out: of a picture in two splits, the copy in training.",
    LABELS: "One of the two labels is wrong: correct it, or leave both out.",
    PATIENTS: (
        "Look at them: a patient may fall ill between two pictures, or one label is wrong (--exclude=FILE "
        "leaves pictures out)."
    ),
}
"""What to do, by cause."""


def cause_of(name: str) -> str:
    """Return the cause of a finding of that name; the name itself where no other finding shares its cause."""
    return _CAUSE_OF.get(name) or _CAUSE_OF.get(name.partition(" ")[0], name)


@dataclass(frozen=True)
class Cause:
    """Findings that come from one thing.

    Attributes:
      name: for machines.
      title: what it is, in words.
      findings: as `audit.json` has them, worst first.
    """

    name: str
    title: str
    findings: tuple[Mapping[str, Any], ...]


def causes_of(document: Mapping[str, Any]) -> list[Cause]:
    """Return the causes of an audit's findings, that of the worst finding first.

    Args:
      document: the content of `audit.json`.
    """
    together: dict[str, list[Mapping[str, Any]]] = {}
    for finding in document["findings"]:
        together.setdefault(cause_of(finding["name"]), []).append(finding)
    return [Cause(name, _title(name, found, document), tuple(found)) for name, found in together.items()]


def named_scores(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the scores of single features and classes that are above chance, the largest AUROC first."""
    named = {finding["name"] for finding in document["findings"] if finding["kind"] == SHORTCUT}
    alpha = document.get("alpha", 0)
    above = [s for s in document["shortcuts"] if s["feature"] in named and s["p"] <= alpha]
    return sorted(above, key=lambda score: -score["auroc"])


def _title(name: str, found: Sequence[Mapping[str, Any]], document: Mapping[str, Any]) -> str:
    is_of_findings = "co_occurrence" in document
    if name != SOURCE:
        title = _TITLES.get(name, name)
        return title.replace("the class", "findings") if is_of_findings else title
    of_cause = {finding["name"] for finding in found}
    scores = [score for score in named_scores(document) if score["feature"] in of_cause]
    classes = _classes(score["label"] for score in scores if score["auroc"] >= STRONG)
    if not classes:
        classes = _classes(score["label"] for score in scores)
    differ = "files differ" if of_cause - {SOURCE_FEATURE} else ""
    if is_of_findings:
        title, whose = f"pictures with {', '.join(classes) or 'findings'} come from other sources", "their"
    elif len(classes) == 1:
        title, whose = f"{classes[0]} comes from another source than the other classes", "its"
    else:
        title, whose = f"{', '.join(classes) or 'classes'} come from different sources", "their"
    return f"{title}: {whose} {differ}" if differ else title


def _classes(labels: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(labels))
