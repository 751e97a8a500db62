"""What a GPU did: intervals against a reference that looks at every instant, and a profile as CUPTI's."""

from pathlib import Path

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from cxr_data.core.errors import CxrError
from tools.bench.device_trace import lay, read_trace, trace_device

INTERVALS = st.lists(
    st.tuples(st.integers(0, 40), st.integers(1, 9)).map(lambda at: (at[0], sum(at))), max_size=9
)


@hypothesis.given(kernels=INTERVALS.filter(len), copies=INTERVALS)
def test_times_are_those_of_a_look_at_every_instant(kernels, copies):
    def covered(intervals):
        times = np.zeros(60, bool)
        for first, last in intervals:
            times[first:last] = True
        return times

    busy, copied = covered(kernels), covered(copies)
    begun, ended = np.flatnonzero(busy)[[0, -1]] + [0, 1]
    busy, copied = busy[begun:ended], copied[begun:ended]
    longest = max(map(len, "".join("-" if each else " " for each in busy).split("-")))
    found = lay(kernels, copies)
    assert [
        found.seconds,
        found.kernel_seconds,
        found.copy_seconds,
        found.copy_beside_seconds,
        found.longest_gap_seconds,
    ] == pytest.approx(
        [each * 1e-12 for each in (len(busy), busy.sum(), copied.sum(), (busy & copied).sum(), longest)]
    )
    assert found.busy == pytest.approx(busy.mean())
    assert found.copy_beside == (pytest.approx(copied[busy].sum() / copied.sum()) if copied.any() else None)


def write_profile(
    folder: Path, streams: dict[str, list[tuple[str, int, int]]], plane: str = "/device:GPU:0"
) -> None:
    """Write events (name, begin, end in nanoseconds) by the name of their line."""
    space = xplane_pb2.XSpace()
    device = space.planes.add(name=plane)
    numbers: dict[str, int] = {}
    for stream, events in streams.items():
        line = device.lines.add(name=stream, timestamp_ns=1_000)
        for name, begun, ended in events:
            number = numbers.setdefault(name, len(numbers) + 1)
            device.event_metadata[number].name = name
            line.events.add(metadata_id=number, offset_ps=begun * 1000, duration_ps=(ended - begun) * 1000)
    folder.mkdir(parents=True)
    (folder / "host.xplane.pb").write_bytes(space.SerializeToString())


def test_a_profile_tells_kernels_from_copies(tmp_path):
    streams = {
        "Stream #17(Compute)": [("fusion_1", 0, 10), ("Memset", 10, 20), ("cudnn_conv", 20, 30)],
        "Stream #18(MemcpyH2D)": [("MemcpyH2D", 5, 15)],
        "Stream #19(MemcpyD2H)": [("MemcpyD2H", 12, 14)],
        "XLA Ops": [("while.1", 0, 30)],
    }
    write_profile(tmp_path / "plugins" / "profile" / "now", streams)
    found = read_trace(tmp_path)
    assert found.seconds == pytest.approx(30e-9)
    assert found.kernel_seconds == pytest.approx(20e-9)
    assert found.copy_seconds == pytest.approx(10e-9)
    assert found.copy_beside_seconds == pytest.approx(5e-9)
    assert found.longest_gap_seconds == pytest.approx(10e-9)


def test_a_profile_without_a_kernel_is_no_trace(tmp_path):
    write_profile(tmp_path / "host", {"Stream #1(Compute)": [("fusion", 0, 1)]}, plane="/host:CPU")
    with pytest.raises(CxrError, match="kernel"):
        read_trace(tmp_path)


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="there is a GPU")
def test_without_a_gpu_nothing_is_done():
    with pytest.raises(CxrError, match="GPU"):
        trace_device(lambda: pytest.fail("was run"))
