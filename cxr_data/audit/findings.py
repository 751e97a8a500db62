"""What an audit found: in words with numbers and a way out, ranked; and when it is a failure."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cxr_data.core.errors import UsageError

LEAKAGE, SHORTCUT, TWO_CLASSES, REPEATS = "leakage", "shortcut", "two_classes", "repeats"

KINDS = {
    LEAKAGE: "a patient or picture on both sides of an evaluation, or one picture under two labels",
    SHORTCUT: "a property that predicts the class without the chest",
    TWO_CLASSES: "a patient in two classes",
    REPEATS: "one picture several times on the same side",
}
"""What a finding can be, and what `--fail_on` can name."""

PROBE = "pixel probe"
"""Name of the classifier on the frame of the thumbnails, besides the features."""

SOURCE = "source"
"""Name of the feature that says which hospital or data set a picture comes from."""

STRONG = 0.9
"""AUROC from which on a shortcut is ranked above everything but leakage."""


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
      kind: one of `KINDS`.
      name: what exactly, for machines.
      value: number of cases; for a shortcut its largest AUROC.
      text: a sentence with the numbers.
      evidence: the cases, one mapping each.
    """

    kind: str
    name: str
    value: float
    text: str
    evidence: tuple[Mapping[str, Any], ...] = ()


def ranked(found: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return the worst first: leakage, strong shortcuts, patients in two classes, other shortcuts,
    repeats.
    """

    def rank(finding: Finding) -> tuple[int, float]:
        order = [LEAKAGE, SHORTCUT, TWO_CLASSES, "", REPEATS]
        weak = finding.kind == SHORTCUT and finding.value < STRONG
        return order.index("" if weak else finding.kind), -finding.value

    return tuple(sorted(found, key=rank))


def parse_fail_on(words: Sequence[str]) -> dict[str, float]:
    """Return `["leakage", "shortcut:0.9"]` as {kind: the value from which on it fails}.

    Raises:
      UsageError: an unknown kind, one that is named twice, or a threshold that no finding could ever reach.
    """
    rules: dict[str, float] = {}
    for word in words:
        kind, colon, number = word.strip().partition(":")
        if kind not in KINDS:
            raise UsageError(f"--fail_on={word}: choose from {', '.join(KINDS)}, each with :NUMBER if wished")
        if kind in rules:
            raise UsageError(f"--fail_on: {kind} is named twice")
        rules[kind] = _threshold(word, kind, number) if colon else 0.0
    return rules


def _threshold(word: str, kind: str, number: str) -> float:
    try:
        value = float(number)
    except ValueError as error:
        raise UsageError(f"--fail_on={word}: {number!r} is not a number, as in shortcut:0.9") from error
    largest = 1.0 if kind == SHORTCUT else sys.float_info.max
    if not 0 <= value <= largest:  # also nan: a check that passes whatever is found
        what = "an AUROC, from 0 to 1" if kind == SHORTCUT else "a number of cases"
        raise UsageError(f"--fail_on={word}: {number} is not {what}")
    return value


def failing(found: Iterable[Finding], rules: Mapping[str, float]) -> tuple[Finding, ...]:
    """Return the findings that are a failure by `parse_fail_on`."""
    return tuple(f for f in found if f.kind in rules and f.value >= rules[f.kind])
