"""Fifty epochs, and ten times the images: what a training run holds of memory, files and threads."""

import pytest
from measured_growth import growth_of
from shards import random_images, write_shards

EPOCHS, FIRST = 50, 20
IMAGES = 40
# TensorFlow keeps some 150 kB for each time that a dataset is made, which an epoch does three times.
MOST_BYTES_AN_EPOCH = 300_000
MOST_BYTES_OF_THE_DATA = 30 << 20


@pytest.mark.slow
def test_memory_files_and_threads_stay_as_they_are_after_the_first_epochs(tmp_path):
    rows = {}
    for images in (IMAGES, 10 * IMAGES):
        data = tmp_path / f"data{images}"
        splits = {"train": random_images(images), "validation": random_images(8, seed=1)}
        write_shards(data, splits, records_per_shard=images // 2)
        rows[images] = growth_of("train", data, tmp_path / f"run{images}", EPOCHS)
    for told in rows.values():
        assert [row["epoch"] for row in told] == list(range(1, EPOCHS + 1))
        # Of the highest, since memory that is given back to the system for a while comes again.
        first = max(row["bytes"] for row in told[:FIRST])
        assert max(row["bytes"] for row in told) - first < (EPOCHS - FIRST) * MOST_BYTES_AN_EPOCH
        assert {(row["files"], row["threads"]) for row in told[4:]} == {
            (told[-1]["files"], told[-1]["threads"])
        }
    small, large = rows[IMAGES], rows[10 * IMAGES]
    assert large[-1]["bytes"] - small[-1]["bytes"] < MOST_BYTES_OF_THE_DATA
