"""Damaged shards: named by default, left out and counted on request, and never an endless loop."""

import logging
import os
import pathlib
import random

import numpy as np
import pytest
from shards import random_images, write_shards

from cxr_data.core.errors import DataError
from cxr_data.input.bad_records import find_bad_records
from cxr_data.input.data_errors import clear_data_errors
from cxr_data.input.options import ReadOptions
from cxr_data.input.pipeline import Pipeline
from cxr_data.records.manifest import read_manifest

COUNT = 12


def damage(directory: pathlib.Path, seed: int) -> None:
    """Damages one shard: flipped bits, a hole of zeros, a cut, an empty file or none at all."""
    generator = random.Random(seed)
    shards = sorted(directory.glob("train-*.tfrecord"))
    shard = generator.choice(shards)
    content = bytearray(shard.read_bytes())
    kind = seed % 5
    if kind == 0:
        for _ in range(generator.randint(1, 5)):
            content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
    elif kind == 1:
        start = generator.randrange(len(content))
        stop = min(start + generator.randint(1, 900), len(content))
        content[start:stop] = bytes(stop - start)
    elif kind == 2:
        del content[generator.randrange(len(content)) :]
    elif kind == 3:
        content.clear()
    else:
        shard.unlink()
        return
    shard.write_bytes(content)


def epoch(pipeline: Pipeline, number: int = 0) -> list[tuple[int, np.ndarray]]:
    with clear_data_errors(pipeline.manifest):
        dataset = pipeline.training_dataset("train", batch_size=2, seed=0, epoch=number)
        return [
            (int(i), image)
            for batch in dataset
            for i, image in zip(batch["index"], batch["image"].numpy(), strict=True)
        ]


@pytest.mark.parametrize("seed", range(200))
def test_a_damaged_shard_is_named_or_its_bad_records_are_left_out(tmp_path, seed, caplog):
    originals = random_images(COUNT, 6)
    write_shards(tmp_path, {"train": originals})
    damage(tmp_path, seed)
    manifest = read_manifest(str(tmp_path), check_shards=False)
    bad = find_bad_records(manifest, "train")

    if bad:
        with pytest.raises(DataError, match=r"train-0000\d-of-00003.tfrecord"):
            epoch(Pipeline(manifest, ReadOptions(verify="always")))
        with pytest.raises(DataError, match=f"{len(bad)} records .*--max_bad_records={len(bad) - 1}"):
            epoch(Pipeline(manifest, ReadOptions(on_bad_record="skip", max_bad_records=len(bad) - 1)))
    if len(bad) > COUNT - 2:
        return
    caplog.clear()
    caplog.set_level(logging.INFO, "cxr_data")
    seen = epoch(
        Pipeline(manifest, ReadOptions(on_bad_record="skip", max_bad_records=len(bad), verify="always"))
    )
    assert caplog.messages == [f"left out: {record}" for record in bad]
    good = COUNT - len(bad)
    positions = [position for position, _ in seen]
    assert len(set(positions)) == len(positions) == good // 2 * 2
    assert not set(positions) & {record.position for record in bad}
    for position, image in seen:
        np.testing.assert_array_equal(image, originals[position])


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
