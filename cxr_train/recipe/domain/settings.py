"""`--domain_method`: the names, and what the strength of each is; without TensorFlow."""

import dataclasses
import math

from cxr_data.core.errors import UsageError


@dataclasses.dataclass(frozen=True)
class _Strength:
    """What `--domain_strength` is for a method.

    Attributes:
      meaning: in words.
      default: as published.
      most: the largest that makes sense.
    """

    meaning: str
    default: float
    most: float = math.inf


NONE, BALANCED = "none", "balanced"

STRENGTHS = {
    "coral": _Strength("weight of the penalty", 1.0),
    "dann": _Strength("factor of the reversed gradient, at the end of the run", 1.0),
    "groupdro": _Strength("step of the weights of the sources", 0.01),
    "irm": _Strength("weight of the penalty", 100.0),
    "mixstyle": _Strength("share of the steps that mix", 0.5, most=1.0),
}

NEED_FEATURES = ("coral", "dann")

METHODS = (NONE, BALANCED, *STRENGTHS)

DEFAULT_WARMUP_STEPS = 500
"""Steps of `irm` before the penalty has its full weight, as in DomainBed."""


def strength_of(method: str, strength: float | None) -> float:
    """Return the strength in force, that of the method by default; 0 where it has none.

    Raises:
      UsageError: the method has none, or another range.
    """
    known = STRENGTHS.get(method)
    if strength is None:
        return known.default if known else 0.0
    if known is None:
        raise UsageError(
            f"--domain_strength={strength}: has no effect with --domain_method={method}; choose one of "
            f"{', '.join(STRENGTHS)}"
        )
    if not 0 <= strength <= known.most or math.isinf(strength):
        limit = "finite" if math.isinf(known.most) else f"at most {known.most:g}"
        raise UsageError(
            f"--domain_strength={strength}: must be at least 0 and {limit}, the {known.meaning} of {method}"
        )
    return strength
