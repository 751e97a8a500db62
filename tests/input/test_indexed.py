"""Positional reads: aligned, exact, checked when stated, from many threads."""

import concurrent.futures
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from project import ROOT
from shards import labels_of, random_images, write_shards

from cxr_data.core.errors import DataError
from cxr_data.input.buffers import BatchBuffers, aligned_empty
from cxr_data.input.indexed import IndexedReader
from cxr_data.input.order import PADDING

COUNT = 21


@pytest.fixture
def data(tmp_path):
    return write_shards(tmp_path, {"train": random_images(COUNT), "validation": random_images(5, seed=1)})


def reader(manifest, split="train", **options) -> IndexedReader:
    return IndexedReader(manifest, split, **options)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_reads_are_what_a_plain_scan_finds(data, threads):
    expected = random_images(COUNT)
    indexed = reader(data, threads=threads)
    assert len(indexed) == COUNT
    np.testing.assert_array_equal(indexed.labels, labels_of(COUNT))
    generator = np.random.default_rng(0)
    for size in (1, 2, 7, 40):
        positions = generator.integers(0, COUNT, size)
        np.testing.assert_array_equal(indexed.read(positions), expected[positions])
    np.testing.assert_array_equal(reader(data, "validation").read(np.arange(5)), random_images(5, seed=1))


def test_padding_is_black(data):
    images = reader(data).read(np.array([3, PADDING, 0, PADDING]))
    assert not images[[1, 3]].any()
    np.testing.assert_array_equal(images[[0, 2]], random_images(COUNT)[[3, 0]])


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
@pytest.mark.parametrize("shape", [(1,), (3, 7, 7, 3), (5, 360, 360, 1)])
def test_arrays_are_aligned(shape, dtype):
    array = aligned_empty(shape, np.dtype(dtype))
    assert array.shape == shape
    assert array.dtype == dtype
    assert array.ctypes.data % 64 == 0
    assert array.flags.c_contiguous


def test_memory_comes_back_when_the_last_view_is_gone_and_not_before():
    buffers = BatchBuffers()
    shape, dtype = (4, 100), np.dtype(np.float32)
    first = buffers.take(shape, dtype)
    address = first.ctypes.data
    assert address % 64 == 0
    first[...] = 7
    view = first[1:3, ::2]
    del first
    second = buffers.take(shape, dtype)
    second[...] = 9
    assert second.ctypes.data != address
    assert (view == 7).all()
    del view
    assert buffers.take(shape, dtype).ctypes.data == address
    assert buffers.take((2, 2), dtype).ctypes.data not in (address, second.ctypes.data)


def test_a_tensor_keeps_its_batch_while_others_are_read(data):
    indexed = reader(data)

    def read(step):
        return indexed.read(np.arange(step, step + 8))

    dataset = tf.data.Dataset.range(COUNT - 8).map(lambda i: tf.numpy_function(read, [i], tf.float32))
    kept = list(dataset)
    for step, tensor in enumerate(kept):
        np.testing.assert_array_equal(tensor, random_images(COUNT)[step : step + 8])
    addresses = {np.frombuffer(memoryview(tensor), np.uint8).ctypes.data for tensor in kept}
    assert len(addresses) == len(kept)
    del kept, tensor
    again = {np.frombuffer(memoryview(tensor), np.uint8).ctypes.data for tensor in dataset}
    assert again & addresses, "no batch used the memory of an earlier one"


def address_in_tensorflow(make) -> tuple[int, int]:
    """Where an array lies when a function inside of tf.data returns it, and where its tensor lies."""
    kept = []

    def read(_):
        kept.append(make())
        return kept[-1]

    dataset = tf.data.Dataset.range(1).map(lambda i: tf.numpy_function(read, [i], tf.float32))
    (tensor,) = dataset
    return kept[0].ctypes.data, np.frombuffer(memoryview(tensor), np.uint8).ctypes.data


def test_tensorflow_takes_the_batch_over_without_a_copy(data):
    indexed = reader(data)
    here, there = address_in_tensorflow(lambda: indexed.read(np.arange(8)))
    assert here == there
    raw = aligned_empty((1000,), np.dtype(np.float32))
    here, there = address_in_tensorflow(lambda: raw[4:])
    assert here != there, "TensorFlow takes any array now: the alignment is no longer needed"


def test_many_threads_read_at_once(data):
    indexed = reader(data, threads=2)
    expected = random_images(COUNT)
    orders = [np.random.default_rng(i).permutation(COUNT) for i in range(60)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for positions, images in zip(orders, pool.map(indexed.read, orders), strict=True):
            np.testing.assert_array_equal(images, expected[positions])


def flip(manifest, shard: int, offset: int) -> None:
    with open(manifest.path(manifest.shards[shard]), "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 16]))


def payload_of(manifest, position: int) -> tuple[int, int]:
    rows = np.load(os.path.join(manifest.directory, "index.npy"))
    return int(rows[position]["shard"]), int(rows[position]["payload"])


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("position", [0, 6, 20])
def test_a_flipped_bit_names_shard_and_record(data, position, threads):
    shard, payload = payload_of(data, position)
    flip(data, shard, payload + 100)
    message = rf"{data.shards[shard].name}: record {position % 4} "
    with pytest.raises(DataError, match=message):
        reader(data, threads=threads).read(np.arange(COUNT))
    images = reader(data, verify="never", threads=threads).read(np.arange(COUNT))
    assert (images != random_images(COUNT)).sum() == 1


def test_first_checks_once_and_always_checks_each_time(data):
    first, always = reader(data, verify="first"), reader(data, verify="always")
    for indexed in (first, always):
        indexed.read(np.arange(COUNT))
    flip(data, *payload_of(data, 2))
    first.read(np.arange(COUNT))
    with pytest.raises(DataError, match=rf"{data.shards[0].name}: record 2 "):
        always.read(np.arange(COUNT))


def test_a_shard_that_was_cut_short_names_the_record(data):
    shard, payload = payload_of(data, 7)
    os.truncate(data.path(data.shards[shard]), payload + 10)
    with pytest.raises(DataError, match=r"00001-of-00006\.tfrecord: record 3: .*ends"):
        reader(data).read(np.arange(COUNT))


def test_a_shard_that_is_gone_is_named(data):
    os.unlink(data.path(data.shards[1]))
    with pytest.raises(DataError, match=r"00001-of-00006\.tfrecord: No such file"):
        reader(data).read(np.arange(COUNT))


# Reads 300 shards twice, by four threads, under a limit of open files that may be raised, and under one that
# may not: a line of each, the limit and how many are open.
FEW_FILES = """
import os, resource, sys
import numpy as np
from cxr_data.input.indexed import IndexedReader
from cxr_data.records.manifest import read_manifest

for hard in (1000, 0):
    soft = len(os.listdir("/proc/self/fd")) + 100
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard or soft))
    reader = IndexedReader(read_manifest(sys.argv[1]), "train", threads=4)
    positions = np.random.default_rng(0).permutation(len(reader))
    reads = [reader.read(positions) for _ in range(2)]
    assert np.array_equal(reads[0], reads[1])
    opened = len(os.listdir("/proc/self/fd"))
    np.save(f"{sys.argv[2]}/{hard}.npy", reads[0][np.argsort(positions)])
    reader.close()
    left = len(os.listdir("/proc/self/fd"))
    print(soft, opened, left)
"""


def test_more_shards_than_files_may_be_open_are_read(tmp_path):
    """As far as the limit can be raised it is, and what is beyond it is not kept open."""
    images = random_images(300, size=4)
    write_shards(tmp_path / "data", {"train": images}, records_per_shard=1)
    line = [sys.executable, "-c", FEW_FILES, str(tmp_path / "data"), str(tmp_path)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    raised, kept = ([int(word) for word in line.split()] for line in done.stdout.splitlines())
    for hard in (1000, 0):
        np.testing.assert_array_equal(np.load(tmp_path / f"{hard}.npy"), images)
    _, opened, left = raised
    assert opened - left == 300
    soft, opened, _ = kept
    assert soft // 2 < opened < soft
