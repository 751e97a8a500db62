"""`--class_weights`: how much each class counts in the loss."""

import math
from collections.abc import Mapping, Sequence

from cxr_data.core.errors import UsageError


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
    text: str, finding_names: Sequence[str], labels: Mapping[str, tuple[int, int]]
) -> tuple[float, ...]:
    """Turn `--class_weights` into a factor for the positive labels of each finding; empty for `none`.

    `balanced` is negatives / positives, so that both sides weigh the same (the `pos_weight` of Irvin et al.
    and others). A finding that is not named keeps the weight 1.

    Args:
      labels: positive and negative training labels of each finding.

    Raises:
      UsageError: as `resolve_class_weights`.
    """
    balanced = {name: (negative or 1) / (positive or 1) for name, (positive, negative) in labels.items()}
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
