"""Exact reads, from a kernel that gives as few bytes as it likes."""

import os

import pytest

from cxr_data.core import exact_read

CONTENT = bytes(range(100))


@pytest.fixture
def file(tmp_path):
    (tmp_path / "file").write_bytes(CONTENT)
    descriptor = os.open(tmp_path / "file", os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


@pytest.fixture(params=[1, 7, 1000])
def kernel(request, monkeypatch):
    """Gives at most so many bytes at once."""
    pread, preadv = os.pread, os.preadv
    monkeypatch.setattr(os, "pread", lambda file, size, at: pread(file, min(size, request.param), at))
    monkeypatch.setattr(
        os, "preadv", lambda file, buffers, at: preadv(file, [buffers[0][: request.param]], at)
    )


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize(("size", "offset"), [(0, 0), (1, 99), (100, 0), (30, 10)])
def test_all_bytes_come_whatever_the_kernel_gives_at_once(file, size, offset):
    buffer = bytearray(size)
    exact_read.read_into(file, memoryview(buffer), offset)
    assert buffer == exact_read.read_at(file, size, offset) == CONTENT[offset : offset + size]


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize(("size", "offset"), [(101, 0), (1, 100), (10, 95), (1, 1000)])
def test_a_file_that_ends_before_is_an_error(file, size, offset):
    with pytest.raises(EOFError):
        exact_read.read_at(file, size, offset)
    with pytest.raises(EOFError):
        exact_read.read_into(file, memoryview(bytearray(size)), offset)
