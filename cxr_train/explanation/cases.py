"""Which images to show: found, missed, wrongly called and confused ones, picked by rule.

Picking by hand shows what one wants to see. Here the model's confidence picks: the true
positives it is surest of, and the errors it is surest of.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

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
      label, predicted: class indices.
      probability: of `predicted`.
      label_probability: of `label`.
    """

    kind: str
    mapped: tuple[int, ...]
    position: int
    label: int
    predicted: int
    probability: float
    label_probability: float


def pick_cases(
    positions: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[int],
    *,
    each: int,
) -> list[Case]:
    """Pick up to `each` cases for every gallery.

    Args:
      positions: int64 [N], of the images in their split.
      labels: integers [N], true classes.
      probabilities: float [N, C].
      classes: the classes that get galleries of true positives, false negatives and false
        positives; confusions are shown where one of them takes part.
      each: the most cases of one gallery.

    Returns:
      By class: its true positives with the highest probability of the class, false negatives
      with the lowest, false positives with the highest. Then the most frequent confusions
      (true class, predicted class), each with the highest probability of the wrong class.
    """
    predicted = probabilities.argmax(axis=1)

    def cases(kind: str, mapped: tuple[int, ...], chosen: np.ndarray, key: np.ndarray) -> Iterator[Case]:
        rows = np.flatnonzero(chosen)
        for row in rows[np.argsort(key[rows], kind="stable")][:each].tolist():
            yield Case(
                kind=kind,
                mapped=mapped,
                position=int(positions[row]),
                label=int(labels[row]),
                predicted=int(predicted[row]),
                probability=float(probabilities[row, predicted[row]]),
                label_probability=float(probabilities[row, labels[row]]),
            )

    picked: list[Case] = []
    for shown in classes:
        sure = probabilities[:, shown]
        is_class, called = labels == shown, predicted == shown
        picked += cases("true_positive", (shown,), is_class & called, -sure)
        picked += cases("false_negative", (shown,), is_class & ~called, sure)
        picked += cases("false_positive", (shown,), ~is_class & called, -sure)
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
