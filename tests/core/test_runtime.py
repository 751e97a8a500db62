"""What a process sets up: the allocator takes the settings, tensorflow-io really loads."""

import platform

import pytest
import tensorflow as tf

from cxr_data.core import runtime
from cxr_data.core.errors import CxrError


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_the_allocator_takes_the_thresholds():
    assert runtime.keep_large_allocations()


def test_tensorflow_io_loads_into_this_tensorflow():
    runtime.load_tensorflow_io()


def test_another_tensorflow_is_one_clear_line(monkeypatch):
    def undefined_symbol():
        raise NotImplementedError("unable to open file: libtensorflow_io.so: undefined symbol")

    monkeypatch.setattr(runtime, "load_io_library", undefined_symbol)
    with pytest.raises(CxrError, match=rf"TensorFlow {tf.__version__}.*tensorflow-io=="):
        runtime.load_tensorflow_io()
