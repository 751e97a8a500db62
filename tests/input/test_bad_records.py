"""Damaged shards: named by default, left out and counted on request, and never an endless loop."""

import logging
import os

import numpy as np
import pytest
from damaged_shards import COUNT, assert_indexed_is_right, assert_streamed_is_right, damage, epoch
from shards import random_images, write_shards

from cxr_data.core.errors import DataError
from cxr_data.input.options import ReadOptions
from cxr_data.input.pipeline import Pipeline
from cxr_data.records.manifest import read_manifest


@pytest.mark.parametrize(
    "seed", [*range(30), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(30, 200))]
)
def test_a_damaged_shard_is_named_or_its_bad_records_are_left_out(tmp_path, seed, caplog):
    originals = random_images(COUNT, 6)
    write_shards(tmp_path, {"train": originals})
    damage(tmp_path, seed)
    manifest = read_manifest(str(tmp_path), check_shards=False)
    caplog.set_level(logging.INFO, "cxr_data")
    bad = assert_indexed_is_right(manifest, originals)
    if bad is not None:
        assert list(dict.fromkeys(caplog.messages)) == [f"left out: {record}" for record in bad]


@pytest.mark.parametrize("seed", range(5))  # of each kind of damage
def test_the_streamed_reader_gives_what_was_written_or_a_clear_line(tmp_path, seed):
    originals = random_images(COUNT, 6)
    write_shards(tmp_path, {"train": originals})
    damage(tmp_path, seed)
    assert_streamed_is_right(read_manifest(str(tmp_path), check_shards=False), originals)


def test_the_streamed_reader_names_the_damage_too(tmp_path):
    manifest = write_shards(tmp_path, {"train": random_images(COUNT, 6)})
    shard = manifest.path(manifest.shards[1])
    with open(shard, "r+b") as file:
        file.seek(os.path.getsize(shard) - 50)
        file.write(b"damaged!")
    pipeline = Pipeline(manifest, ReadOptions(reader="stream"))
    with pytest.raises(DataError, match=f"verify_tfrecords --data={tmp_path}"):
        epoch(pipeline)


def test_what_is_left_out_is_left_out_of_the_evaluation_too(tmp_path):
    manifest = write_shards(tmp_path, {"train": random_images(COUNT, 6)})
    rows = np.load(tmp_path / "index.npy")
    with open(manifest.path(manifest.shards[0]), "r+b") as file:
        file.seek(int(rows[2]["payload"]))
        file.write(b"damaged!")
    pipeline = Pipeline(manifest, ReadOptions(on_bad_record="skip"))
    dataset = pipeline.evaluation_dataset("train", batch_size=4)
    seen = [int(i) for batch in dataset for i in batch["index"] if i >= 0]
    assert seen == [i for i in range(COUNT) if i != 2]
