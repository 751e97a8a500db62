"""Caches: chosen aloud, never silently short, under a limit as a container has it."""

import logging
import os
import pathlib

import numpy as np
import pytest
from shards import random_images, write_shards

from cxr_data.core.errors import DataError
from cxr_data.core.machine_memory import all_memory, control_groups, free_memory
from cxr_data.input import cache
from cxr_data.input.cache import MemoryCache, cache_on_disk, choose_cache
from cxr_data.input.indexed import IndexedReader

GB = 10**9


def choose(stored, *, local=False, free=10 * GB, free_disk=100 * GB, requested="auto"):
    return choose_cache(requested, stored_bytes=stored, local=local, free=free, free_disk=free_disk)


def test_auto_compares_bytes_with_memory_and_disk_and_says_so():
    assert str(choose(4 * GB)) == "cache: memory (auto: 4.00 GB stored, 10.0 GB of memory free)"
    assert choose(6 * GB).value == "disk"
    assert choose(600 * GB).value == "none"
    assert "neither holds them" in choose(600 * GB).why
    assert str(choose(4 * GB, local=True)).startswith("cache: none (auto: ")
    assert "page cache" in choose(40 * GB, local=True).why
    assert str(choose(600 * GB, requested="memory")) == "cache: memory"


@pytest.fixture
def machine(tmp_path):
    """A machine with 8 GiB available, and a control group file to write a limit into."""
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       16777216 kB\nMemAvailable:    8388608 kB\n")
    limit, usage = tmp_path / "memory.max", tmp_path / "memory.current"
    usage.write_text("1000000\n")
    return str(meminfo), limit, usage


def test_a_small_control_group_limits_what_is_free(machine):
    meminfo, limit, usage = machine
    groups = [(str(limit), str(usage))]
    assert free_memory(meminfo, groups) == 8 * 2**30  # no such group
    assert all_memory(meminfo, groups) == 16 * 2**30
    limit.write_text("max\n")
    assert free_memory(meminfo, groups) == 8 * 2**30
    limit.write_text("51000000\n")
    assert free_memory(meminfo, groups) == 50_000_000
    assert choose(100_000_000, free=free_memory(meminfo, groups)).value == "disk"
    assert all_memory(meminfo, groups) == 51_000_000
    limit.write_text("500000\n")  # already above its limit
    assert free_memory(meminfo, groups) == 0


def test_this_machine_has_memory():
    assert 0 < free_memory() < all_memory() < 2**50


@pytest.mark.parametrize(
    ("line", "folder", "limit", "usage"),
    [
        ("0::/system.slice/job", "system.slice/job", "memory.max", "memory.current"),
        ("4:memory:/slurm/job", "memory/slurm/job", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ],
)
@pytest.mark.parametrize("up", [0, 1, 2])
def test_a_limit_of_a_group_above_the_process_counts(tmp_path, line, folder, limit, usage, up):
    own = tmp_path / "own"
    own.write_text(f"7:pids:/elsewhere\n{line}\n")
    group = tmp_path / folder
    group.mkdir(parents=True)
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 1000000 kB\nMemAvailable: 1000000 kB\n")
    found = control_groups(str(own), str(tmp_path))
    assert all_memory(str(meminfo), found) == 1_024_000_000
    limited = [group, *group.parents][up]
    (limited / limit).write_text("5000\n")
    (limited / usage).write_text("2000\n")
    assert free_memory(str(meminfo), found) == 3000
    assert all_memory(str(meminfo), found) == 5000


class Counting:
    """A reader that counts what is read from it."""

    def __init__(self, images: np.ndarray) -> None:
        self.images, self.reads = images, []
        self.labels = np.zeros(len(images), np.int32)
        self.sources = np.zeros(len(self.labels), np.int32)
        self.image_shape, self.dtype = images.shape[1:], images.dtype.name

    def read(self, positions):
        self.reads += list(positions)
        return self.images[positions]


def test_memory_reads_each_image_once_and_gives_it_each_time():
    images = random_images(10)
    below = Counting(images)
    cached = MemoryCache(below)
    for positions in ([3, 1], [1, 3, 5], [9, -1, 3], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]):
        batch = cached.read(np.array(positions))
        assert batch.ctypes.data % 64 == 0
        for image, position in zip(batch, positions, strict=True):
            np.testing.assert_array_equal(image, images[position] if position >= 0 else 0 * images[0])
    assert sorted(below.reads) == list(range(10))


def test_memory_that_is_not_there_is_refused_with_the_way_out(monkeypatch):
    monkeypatch.setattr(cache, "free_memory", lambda: 1000)
    with pytest.raises(DataError, match="--cache=memory .*--cache=disk"):
        MemoryCache(Counting(random_images(10)))


def copies(place: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in place.iterdir()}


@pytest.mark.parametrize("keep", [0, 1, 1000])
def test_a_disk_cache_that_was_cut_short_is_made_anew(tmp_path, keep, caplog):
    caplog.set_level(logging.INFO, "cxr_data")
    manifest = write_shards(tmp_path / "data", {"train": random_images(10)})
    cached = cache_on_disk(manifest, ["train"], tmp_path / "cache")
    place = pathlib.Path(cached.directory)
    whole = copies(place)
    assert whole == {s.name: (tmp_path / "data" / s.name).read_bytes() for s in manifest.shards} | {
        "index.npy": (tmp_path / "data/index.npy").read_bytes()
    }
    shard = place / manifest.shards[1].name
    shard.write_bytes(whole[shard.name][:keep])
    (place / manifest.shards[2].name).unlink()
    cache_on_disk(manifest, ["train"], tmp_path / "cache")
    assert copies(place) == whole
    assert caplog.messages == [
        f"cache: copying 3 of 3 shards to {place}",
        f"cache: copying 2 of 3 shards to {place}",
    ]
    cache_on_disk(manifest, ["train"], tmp_path / "cache")
    assert len(caplog.messages) == 2
    np.testing.assert_array_equal(IndexedReader(cached, "train").read(np.arange(10)), random_images(10))


def test_a_stopped_copy_leaves_nothing_under_a_final_name(tmp_path, monkeypatch):
    manifest = write_shards(tmp_path / "data", {"train": random_images(10)})

    def stop(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        cache_on_disk(manifest, ["train"], tmp_path / "cache")
    names = [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert not any(name.endswith(".tfrecord") for name in names)


def test_a_damaged_original_is_not_cached(tmp_path):
    manifest = write_shards(tmp_path / "data", {"train": random_images(10)})
    shard = tmp_path / "data" / manifest.shards[0].name
    content = bytearray(shard.read_bytes())
    content[50] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match=f"{shard.name} .*SHA-256"):
        cache_on_disk(manifest, ["train"], tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.tfrecord"))


def test_another_dataset_gets_another_place(tmp_path):
    one = write_shards(tmp_path / "one", {"train": random_images(5)})
    two = write_shards(tmp_path / "two", {"train": random_images(5, seed=2)})
    places = {cache_on_disk(m, ["train"], tmp_path / "cache").directory for m in (one, two)}
    assert len(places) == 2
