"""What a GPU did during some steps, by TensorFlow's profiler: its kernels, the copies to it, and the gaps."""

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from cxr_data.core.errors import CxrError

# Of the planes and lines that TensorFlow's CUPTI tracer writes; other lines are derived from these.
_GPU, _STREAM = "/device:GPU:", "Stream"
_COPY_TO_DEVICE, _OTHER_COPIES = "MemcpyH2D", ("Memcpy", "Memset")
_PS = 1e-12


@dataclasses.dataclass(frozen=True)
class DeviceTrace:
    """How the work of a GPU lay, from the start of its first kernel to the end of its last.

    Attributes:
      seconds: the whole time.
      kernel_seconds: in which at least one kernel ran.
      copy_seconds: in which batches or other tensors were copied to the device.
      copy_beside_seconds: of these, those in which a kernel ran too.
      longest_gap_seconds: the longest time without a kernel.
    """

    seconds: float
    kernel_seconds: float
    copy_seconds: float
    copy_beside_seconds: float
    longest_gap_seconds: float

    @property
    def busy(self) -> float:
        """The share of the time in which a kernel ran, in (0, 1]."""
        return self.kernel_seconds / self.seconds

    @property
    def copy_beside(self) -> float | None:
        """The share of the copies' time in which a kernel ran too, in [0, 1]; None without a copy."""
        return self.copy_beside_seconds / self.copy_seconds if self.copy_seconds else None


def trace_device(work: Callable[[], object]) -> DeviceTrace:
    """Profile `work`, which must wait for what it launches.

    Raises:
      CxrError: no GPU, no kernel of one was traced, or the profiler or the work failed.
    """
    if not tf.config.list_physical_devices("GPU"):
        raise CxrError("no GPU")
    # Host and Python are left out: to trace them would slow down the launches.
    options = tf.profiler.experimental.ProfilerOptions(host_tracer_level=0, python_tracer_level=0)
    with tempfile.TemporaryDirectory(prefix="cxr-bench-") as folder:
        try:
            tf.profiler.experimental.start(folder, options)
            try:
                work()
            finally:
                tf.profiler.experimental.stop()
        except tf.errors.OpError as error:
            raise CxrError(f"no trace: {error.message.splitlines()[0][:200]}") from error
        return read_trace(Path(folder))


def read_trace(folder: Path) -> DeviceTrace:
    """Read the profile below a folder. Raises CxrError: it has no kernel of a GPU."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2  # other releases have it elsewhere

    kernels, copies = [], []
    for file in folder.rglob("*.xplane.pb"):
        space = xplane_pb2.XSpace.FromString(file.read_bytes())
        for plane in space.planes:
            if not plane.name.startswith(_GPU):
                continue
            for line in plane.lines:
                if not line.name.startswith(_STREAM):
                    continue
                for event in line.events:
                    begun = line.timestamp_ns * 1000 + event.offset_ps
                    name = plane.event_metadata[event.metadata_id].name
                    if name.startswith(_COPY_TO_DEVICE):
                        copies.append((begun, begun + event.duration_ps))
                    elif not name.startswith(_OTHER_COPIES):
                        kernels.append((begun, begun + event.duration_ps))
    if not kernels:
        raise CxrError("the profile has no kernel of a GPU")
    return lay(kernels, copies)


def lay(kernels: list[tuple[int, int]], copies: list[tuple[int, int]]) -> DeviceTrace:
    """Measure how kernels and copies lie beside each other.

    Args:
      kernels, copies: begin and end of each, in picoseconds; at least one kernel.
    """
    busy = _united(kernels)
    begun, ended = busy[0, 0], busy[-1, 1]
    inside = [
        (max(first, begun), min(last, ended)) for first, last in copies if first < ended and last > begun
    ]
    copied = _united(inside)
    gaps = busy[1:, 0] - busy[:-1, 1]
    both = _length(busy) + _length(copied) - _length(_united([*kernels, *inside]))
    return DeviceTrace(
        seconds=float(ended - begun) * _PS,
        kernel_seconds=_length(busy) * _PS,
        copy_seconds=_length(copied) * _PS,
        copy_beside_seconds=both * _PS,
        longest_gap_seconds=float(gaps.max(initial=0)) * _PS,
    )


def _united(intervals: list[tuple[int, int]]) -> np.ndarray:
    """Return the union of intervals as int64 [N, 2], ascending, without touching ones."""
    if not intervals:
        return np.zeros([0, 2], np.int64)
    begun, ended = np.array(sorted(intervals), np.int64).T
    reached = np.maximum.accumulate(ended)
    first = np.flatnonzero(np.concatenate([[True], begun[1:] > reached[:-1]]))
    last = np.concatenate([first[1:], [len(begun)]]) - 1
    return np.stack([begun[first], reached[last]], axis=1)


def _length(united: np.ndarray) -> int:
    return int((united[:, 1] - united[:, 0]).sum())
