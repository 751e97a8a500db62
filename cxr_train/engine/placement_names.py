"""What the flags of devices and compilation may be; apart from what acts on it, as it needs no TensorFlow."""

import dataclasses

from cxr_data.core.settings import setting

STRATEGIES = ("auto", "one", "mirrored", "multiworker")
PRECISIONS = ("auto", "float32", "mixed_float16", "mixed_bfloat16")
XLA = ("auto", "on", "off")
# Memory of a device that does not say how much it has, in GB.
UNKNOWN_GB = 12.0


@dataclasses.dataclass(frozen=True)
class CompilationOptions:
    """Where compiled steps stay."""

    compilation_cache: str = setting(
        "~/.cache/cxr/compiled",
        "Folder in which compiled steps are kept for the next start; empty: nothing is kept.",
        path=True,
        local=True,
    )
