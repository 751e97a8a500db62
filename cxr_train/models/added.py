"""What can be added to a backbone, by name: attention at the ends of its stages, and the pooling behind it.

Added layers are new: no pretrained weights know them. They are trained with the head, at its learning rate,
whatever of the backbone is frozen.
"""

import dataclasses

from cxr_data.core.errors import UsageError
from cxr_train.models.head import POOLING

ATTENTIONS = ("none", "se", "eca", "cbam")
POOLINGS = {
    "gap": "global average pooling",
    "gem": "generalized mean pooling",
    "attention": "attention pooling",
}
GATE = "attention"


@dataclasses.dataclass(frozen=True)
class Attention:
    """Which gates a network has, and where.

    Attributes:
      kind: one of `ATTENTIONS`.
      stages: whose ends have a gate, ascending, from 1; empty for all.
    """

    kind: str
    stages: tuple[int, ...] = ()


def parse_attention(text: str) -> Attention:
    """Parse `se`, or `se:4+5` for the stages 4 and 5 alone.

    Raises:
      UsageError: it is neither.
    """
    kind, colon, places = text.partition(":")
    if kind not in ATTENTIONS:
        raise UsageError(
            f"--attention={text}: must be one of {', '.join(ATTENTIONS)}; add :STAGES for some stages alone, "
            "as in se:4+5"
        )
    numbers = places.split("+") if colon else []
    stages = tuple(int(number) for number in numbers if number.isdecimal())
    if len(stages) < len(numbers) or 0 in stages or list(stages) != sorted(set(stages)):
        raise UsageError(
            f"--attention={text}: must name stages by whole numbers from 1, each once and ascending, joined "
            f"by +; write {kind}:4+5, or {kind} for all stages"
        )
    if stages and kind == "none":
        raise UsageError(f"--attention={text}: must have no stages; write none, or name a kind of attention")
    return Attention(kind, stages)


def is_added(name: str) -> bool:
    """Return whether a layer of this name is a part of a gate, or of the pooling before its last layer."""
    return name.startswith((f"{GATE}_", f"{POOLING}_"))
