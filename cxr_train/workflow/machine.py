"""What the defaults depend on outside of the images: the machine, and whether weights can be had.

Nothing here imports TensorFlow.
"""

import dataclasses
import http.client
import os
import shutil
import subprocess
import sys
import urllib.request

from cxr_data.core.runtime import cores
from cxr_train.models.backbones import find_backbone

_REACHED_SECONDS = 5
_TENSORFLOW_SECONDS = 300
_ASK_TENSORFLOW = "import tensorflow as tf; print(len(tf.config.list_physical_devices('GPU')))"


@dataclasses.dataclass(frozen=True)
class Machine:
    """Where a run computes.

    Attributes:
      cores: of the processor that this process may use.
      gpus: of which TensorFlow can use each.
      why: what says so.
    """

    cores: int
    gpus: int
    why: str

    def __str__(self) -> str:
        device = f"{self.gpus} GPU{'s' * (self.gpus > 1)}" if self.gpus else f"CPU, {self.cores} cores"
        return f"{device} ({self.why})"


def find_machine() -> Machine:
    """Return this machine. Where it has a GPU, a process of its own asks TensorFlow, which takes seconds."""
    if not shutil.which("nvidia-smi") or not _lines(["nvidia-smi", "-L"], seconds=60):
        return Machine(cores(), 0, "nvidia-smi shows no GPU")
    usable = int((_lines([sys.executable, "-c", _ASK_TENSORFLOW], seconds=_TENSORFLOW_SECONDS) or ["0"])[-1])
    if usable:
        return Machine(cores(), usable, "TensorFlow can use it" if usable == 1 else "TensorFlow can use them")
    return Machine(cores(), 0, "there is a GPU, but TensorFlow cannot use it: pip install 'cxr[gpu]'")


def _lines(command: list[str], *, seconds: float) -> list[str]:
    """Return what a command prints, without blank lines; nothing if it fails."""
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return said.stdout.split("\n")[:-1] if said.returncode == 0 else []


def pretrained_weights(backbone: str) -> tuple[bool, str]:
    """Return whether the ImageNet weights of a backbone can be had, and where from. Raises UsageError."""
    found = find_backbone(backbone)
    if found.cached_weights.is_file():
        return True, f"from {os.path.dirname(found.cached_weights)}"
    request = urllib.request.Request(found.weights_url, method="HEAD")
    host = found.weights_url.split("/")[2]
    try:
        with urllib.request.urlopen(request, timeout=_REACHED_SECONDS):
            return True, f"downloaded once from {host}"
    except (OSError, http.client.HTTPException):
        return False, f"neither in {os.path.dirname(found.cached_weights)} nor reachable at {host}"
