"""What a process sets up: the allocator takes the settings."""

import platform

import pytest

from cxr_data.core import runtime


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_the_allocator_takes_the_thresholds():
    assert runtime.keep_large_allocations()
