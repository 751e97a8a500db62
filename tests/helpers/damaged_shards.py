"""Shards damaged at random, and what the readers may make of them: the images as written, or a DataError."""

import pathlib
import random

import numpy as np
import pytest

from cxr_data.core.errors import DataError
from cxr_data.input.bad_records import BadRecord, find_bad_records
from cxr_data.input.data_errors import clear_data_errors
from cxr_data.input.options import ReadOptions
from cxr_data.input.pipeline import Pipeline
from cxr_data.records.manifest import Manifest

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
    """(position, image) of an epoch of the training split."""
    with clear_data_errors(pipeline.manifest):
        dataset = pipeline.training_dataset("train", batch_size=2, seed=0, epoch=number)
        return [
            (int(i), image)
            for batch in dataset
            for i, image in zip(batch["index"], batch["image"].numpy(), strict=True)
        ]


def assert_indexed_is_right(manifest: Manifest, originals: np.ndarray) -> list[BadRecord] | None:
    """Asserts it of one damaged shard; returns what is left out, None where too few images remain."""
    bad = find_bad_records(manifest, "train")
    if bad:
        with pytest.raises(DataError, match=r"train-0000\d-of-00003.tfrecord"):
            epoch(Pipeline(manifest, ReadOptions(verify="always")))
        with pytest.raises(DataError, match=f"{len(bad)} .*--max_bad_records={len(bad) - 1}"):
            epoch(Pipeline(manifest, ReadOptions(on_bad_record="skip", max_bad_records=len(bad) - 1)))
    if len(bad) > COUNT - 2:
        return None
    options = ReadOptions(on_bad_record="skip", max_bad_records=len(bad), verify="always")
    seen = epoch(Pipeline(manifest, options))
    assert_as_written(seen, originals, COUNT - len(bad))
    assert not {position for position, _ in seen} & {record.position for record in bad}
    return bad


def assert_streamed_is_right(manifest: Manifest, originals: np.ndarray) -> None:
    """Asserts it of one damaged shard."""
    try:
        seen = epoch(Pipeline(manifest, ReadOptions(reader="stream")))
    except DataError as error:
        assert "verify_tfrecords" in str(error)
    else:
        assert_as_written(seen, originals, COUNT)


def assert_as_written(seen: list[tuple[int, np.ndarray]], originals: np.ndarray, images: int) -> None:
    """Asserts that an epoch has so many images in full batches, each once, and as they were written."""
    positions = [position for position, _ in seen]
    assert len(set(positions)) == len(positions) == images // 2 * 2
    for position, image in seen:
        np.testing.assert_array_equal(image, originals[position])
