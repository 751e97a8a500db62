"""Copies beside kernels: the share from three times, and that the measurement runs, here without a GPU."""

import pytest

from tools.bench.device_copy import CopyTimes, measure_copy


@pytest.mark.parametrize(("both", "share"), [(0.060, 1.0), (0.080, 0.0), (0.065, 0.75)])
def test_the_share_that_ran_beside_the_kernels(both, share):
    times = CopyTimes(bytes=10**9, copy_seconds=0.020, compute_seconds=0.060, both_seconds=both)
    assert times.beside == pytest.approx(share)
    assert f"{share:.0%}" in str(times)
    assert "50.0 GB/s" in str(times)


def test_a_copy_kernels_and_both_are_timed():
    times = measure_copy("/CPU:0", size=1 << 12, width=8, rounds=1)
    assert times.bytes == 1 << 12
    assert min(times.copy_seconds, times.compute_seconds, times.both_seconds) > 0
    assert times.both_seconds >= 1e-3  # the head start of the copy
