"""`--class_weights`: how much each class counts in the loss."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from cxr_data.core.errors import UsageError
from cxr_data.sources.finding_values import ABSENT, PRESENT, UNCERTAIN


def parse_class_weights(text: str) -> str | dict[str, float]:
    """Parse `none`, `balanced` (both as they are) or `NAME:WEIGHT,...`.

    Raises:
      UsageError: it is none of these, a class occurs twice, or a weight is negative.
    """
    if text in ("none", "balanced"):
        return text
    weights = {}
    for part in text.split(","):
        name, _, value = part.rpartition(":")
        if name in weights:
            raise UsageError(f"--class_weights={text}: {name} occurs twice")
        try:
            weights[name] = float(value)
        except ValueError as error:
            raise UsageError(
                f"--class_weights={text}: must be none, balanced, or weights such as covid:2,normal:1"
            ) from error
        if not 0 <= weights[name] < math.inf:
            raise UsageError(f"--class_weights={text}: the weight of {name} must not be negative or infinite")
    return weights


def resolve_class_weights(
    text: str, class_names: Sequence[str], images: Mapping[str, int]
) -> tuple[float, ...]:
    """Turn `--class_weights` into a factor for each class, in index order; empty for `none`.

    `balanced` is images / (classes * images of the class), as scikit-learn's: the mean over
    the training images is 1. A class that is not named keeps the weight 1.

    Args:
      images: training images of each class.

    Raises:
      UsageError: it names a class that the data has not, or leaves no class to learn from.
    """
    share = sum(images.values()) / len(class_names)
    return _weights(text, class_names, {name: share / max(images[name], 1) for name in class_names})


def resolve_positive_weights(
    text: str, finding_names: Sequence[str], labels: np.ndarray, uncertain: tuple[float, float] | None = None
) -> tuple[float, ...]:
    """Turn `--class_weights` into a factor for the positive labels of each finding; empty for `none`.

    `balanced` is negatives / positives, so that both sides weigh the same (the `pos_weight` of Irvin et al.
    and others). Both are sums of the targets of the loss, before any label smoothing: an uncertain label of
    the target 0.7 is 0.7 of a positive and 0.3 of a negative. A finding without positives or without
    negatives, and one that is not named, keeps the weight 1.

    Args:
      labels: int [N, C] of the training images, of `FINDING_VALUES`.
      uncertain: range of the targets of uncertain labels, which fill it evenly; None where they do not count.

    Raises:
      UsageError: as `resolve_class_weights`.
    """
    positive, negative = ((labels == value).sum(axis=0).astype(float) for value in (PRESENT, ABSENT))
    if uncertain is not None:
        target, hesitant = sum(uncertain) / 2, (labels == UNCERTAIN).sum(axis=0)
        positive, negative = positive + target * hesitant, negative + (1 - target) * hesitant
    weights = np.divide(negative, positive, out=np.ones_like(positive), where=(positive > 0) & (negative > 0))
    balanced = dict(zip(finding_names, weights.tolist(), strict=True))
    return _weights(text, finding_names, balanced)


def _weights(text: str, class_names: Sequence[str], balanced: Mapping[str, float]) -> tuple[float, ...]:
    chosen = parse_class_weights(text)
    if chosen == "none":
        return ()
    if isinstance(chosen, str):
        return tuple(balanced[name] for name in class_names)
    for name in chosen:
        if name not in class_names:
            raise UsageError(f"--class_weights={text}: no class {name!r}; there are {', '.join(class_names)}")
    weights = tuple(chosen.get(name, 1.0) for name in class_names)
    if not any(weights):
        raise UsageError(f"--class_weights={text}: some class must weigh more than 0")
    return weights
