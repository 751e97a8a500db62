"""Which images to show: found, missed, wrongly called and confused ones, picked by rule.

Picking by hand shows what one wants to see. Here the model's confidence picks: the true
positives it is surest of, and the errors it is surest of.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from cxr_data.sources.finding_values import ABSENT, PRESENT, UNCERTAIN, UNKNOWN
from cxr_train.evaluation.decisions import Decisions, is_given

KINDS = ("true_positive", "false_negative", "false_positive", "confusion")
_MOST_CONFUSED_PAIRS = 6


@dataclasses.dataclass(frozen=True)
class Case:
    """An image to show, and the classes whose evidence is mapped in it.

    Attributes:
      kind: one of `KINDS`.
      mapped: class indices whose logits are explained: the gallery's class; for a confusion
        the true class and the one that was predicted.
      position: of the image in its split.
      label, predicted: names of classes; of a finding, its name, or `no` and its name.
      probability: of `predicted`.
      label_probability: of `label`.
    """

    kind: str
    mapped: tuple[int, ...]
    position: int
    label: str
    predicted: str
    probability: float
    label_probability: float


def make_case(
    kind: str,
    mapped: tuple[int, ...],
    position: int,
    label: np.ndarray,
    probabilities: np.ndarray,
    names: Sequence[str],
    *,
    is_given: bool = True,
) -> Case:
    """Return the case of one image.

    Args:
      kind, mapped, position: see `Case`.
      label: integer [], or [C] of findings, of which the case is about the first of `mapped`.
      probabilities: float [C].
      names: of the classes or findings.
      is_given: of a finding, whether the model says that it is there.
    """
    if label.ndim == 0:
        said, truth = int(probabilities.argmax()), int(label)
        predicted, true = float(probabilities[said]), float(probabilities[truth])
        return Case(kind, mapped, position, names[truth], names[said], predicted, true)
    shown = mapped[0]
    # Of the finding, and of its absence.
    texts = {PRESENT: names[shown], ABSENT: f"no {names[shown]}"}
    texts |= {UNCERTAIN: f"{names[shown]} uncertain", UNKNOWN: f"{names[shown]} unknown"}
    there = float(probabilities[shown])
    of = {PRESENT: there, ABSENT: 1 - there}
    predicted, true = of[int(is_given)], of.get(int(label[shown]), there)
    return Case(kind, mapped, position, texts[int(label[shown])], texts[int(is_given)], predicted, true)


def asked_cases(
    position: int, label: np.ndarray, probabilities: np.ndarray, names: Sequence[str], thresholds: np.ndarray
) -> list[Case]:
    """Return the cases of an image that was asked for: of the class that the model says, or of each finding
    that it says, the most probable first; of the most probable one where it says none.

    Args:
      position, label, probabilities, names: as for `make_case`.
      thresholds: float [C], of findings, see `Decisions.of`.
    """
    order = [int(index) for index in np.argsort(-probabilities, kind="stable")]
    given = is_given(probabilities, thresholds)
    shown = [index for index in order if given[index]] if label.ndim else []
    return [
        make_case("asked", (index,), position, label, probabilities, names, is_given=bool(given[index]))
        for index in shown or order[:1]
    ]


def pick_cases(
    positions: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
    names: Sequence[str],
    classes: Sequence[int],
    *,
    each: int,
    thresholds: np.ndarray | None = None,
) -> list[Case]:
    """Pick up to `each` cases for every gallery.

    Args:
      positions: int64 [N], of the images in their split.
      labels: integers [N], true classes; or [N, C] of findings.
      probabilities: float [N, C].
      names: [C], of the classes or findings.
      classes: the classes that get galleries of true positives, false negatives and false
        positives; confusions are shown where one of them takes part.
      each: the most cases of one gallery.
      thresholds: of findings, see `Decisions.of`.

    Returns:
      By class: its true positives with the highest probability of the class, false negatives
      with the lowest, false positives with the highest. Then the most frequent confusions
      (true class, predicted class), each with the highest probability of the wrong class; findings have none.
    """
    decisions = Decisions.of(labels, probabilities, thresholds if labels.ndim == 2 else None)

    def cases(kind: str, mapped: tuple[int, ...], chosen: np.ndarray, key: np.ndarray) -> Iterator[Case]:
        rows = np.flatnonzero(chosen)
        for row in rows[np.argsort(key[rows], kind="stable")][:each].tolist():
            given = bool(decisions.is_given[row, mapped[0]])
            position = int(positions[row])
            yield make_case(kind, mapped, position, labels[row], probabilities[row], names, is_given=given)

    picked: list[Case] = []
    for shown in classes:
        sure = probabilities[:, shown]
        hits, wrongly_called, missed, _ = (cell[:, shown] for cell in decisions.outcomes)
        picked += cases("true_positive", (shown,), hits, -sure)
        picked += cases("false_negative", (shown,), missed, sure)
        picked += cases("false_positive", (shown,), wrongly_called, -sure)
    if labels.ndim == 2:
        return picked
    predicted = probabilities.argmax(axis=1)
    for label, wrong in _most_confused(labels, predicted, probabilities.shape[1], classes):
        chosen = (labels == label) & (predicted == wrong)
        picked += cases("confusion", (label, wrong), chosen, -probabilities[:, wrong])
    return picked


def _most_confused(
    labels: np.ndarray, predicted: np.ndarray, count: int, classes: Sequence[int]
) -> list[tuple[int, int]]:
    """Return the most frequent (true, predicted) pairs of different classes, most frequent first."""
    matrix = np.zeros([count, count], np.int64)
    np.add.at(matrix, (labels, predicted), 1)
    pairs = [
        (label, wrong)
        for label in range(count)
        for wrong in range(count)
        if label != wrong and matrix[label, wrong] and (label in classes or wrong in classes)
    ]
    return sorted(pairs, key=lambda pair: -matrix[pair])[:_MOST_CONFUSED_PAIRS]
