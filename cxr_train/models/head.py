"""The layers between backbone and logits, by name."""

from collections.abc import Sequence

POOLING, HIDDEN = "pooling", "head_"


def layers_before_logits(head: Sequence[int]) -> list[str]:
    """Name the layers between backbone and logits: `pooling`, `head_1`, `head_2`, ...

    Args:
      head: widths of the hidden dense layers.
    """
    return [POOLING, *(f"{HIDDEN}{number}" for number in range(1, len(head) + 1))]
