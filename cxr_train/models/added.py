"""What can be added to a backbone, by name: attention at the ends of its stages, and the pooling behind it.

Added layers are new: no pretrained weights know them. They are trained with the head, at its learning rate,
whatever of the backbone is frozen.
"""

import dataclasses
import math

from cxr_data.core.errors import UsageError
from cxr_train.models.head import POOLING

ATTENTIONS = ("none", "se", "eca", "cbam")
POOLINGS = {
    "gap": "global average pooling",
    "gem": "generalized mean pooling",
    "attention": "attention pooling",
}
GATE = "attention"
SPATIAL_KERNEL = 7  # pixels each way that decide on a pixel, of CBAM
POOLING_WIDTH = 128  # of the hidden layer of attention pooling, as of Ilse et al.
_REDUCTION = 16
_FEWEST = 8  # fewer relus, of few channels, are all 0 too often: then no gradient gets through


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


def excite_width(channels: int) -> int:
    """Return the width of the hidden layer that decides on `channels`, of SE and CBAM."""
    return max(channels // _REDUCTION, _FEWEST)


def eca_kernel(channels: int) -> int:
    """Return the paper's |(log2 C + 1) / 2|, whole, and made odd upwards, as its code does.

    That is 5, 5, 5 and 7 for the 256, 512, 1024 and 2048 channels of a ResNet-50, 86 parameters in its 16
    blocks. The 80 that the authors' page gives for it are those of 3, 5, 5 and 7.
    """
    whole = int((math.log2(channels) + 1) / 2)
    return whole if whole % 2 else whole + 1


def is_added(name: str) -> bool:
    """Return whether a layer of this name is a part of a gate, or of the pooling before its last layer."""
    return name.startswith((f"{GATE}_", f"{POOLING}_"))
