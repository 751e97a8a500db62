"""A dataset of very many shards: nothing may look through all shards, or all records, for each shard.

There is no limit of time: what does takes minutes with 20,000 shards, and an hour with 100,000.
"""

import os
from hashlib import sha256

import numpy as np
import pytest

from cxr_data.input.bad_records import find_bad_records
from cxr_data.records.example import Fields, example_header
from cxr_data.records.index import (
    INDEX_DTYPE,
    read_split_fields,
    read_split_index,
    rows_by_shard,
    scan_shard,
    write_index,
)
from cxr_data.records.layout import shard_name
from cxr_data.records.manifest import SCHEMA, Manifest, Shard, read_manifest, write_manifest
from cxr_data.records.quarantine_file import write_quarantine
from cxr_data.records.tfrecord import frame
from cxr_data.records.verify import verify_dataset

LABELS = {"train": 0, "validation": 1}
SHARDS_OF_A_FILE = 20_000  # file systems limit the names of one file


@pytest.fixture(scope="module", params=[20_000, pytest.param(100_000, marks=pytest.mark.slow)])
def count(request):
    """How many shards there are."""
    return request.param


def made_up_manifest(directory, count, records, shard_bytes, sha256, index):
    half = count // 2
    shards = tuple(
        Shard(shard_name(split, number, half), split, records, shard_bytes[split], sha256[split])
        for split in LABELS
        for number in range(half)
    )
    counts = {split: {"a": 0, "b": 0, "ab"[label]: half * records} for split, label in LABELS.items()}
    return Manifest(
        str(directory), SCHEMA, ("a", "b"), 1, 1, "uint8", "none", "gray", shards, counts,
        (0.5,), (0.1,), 0, "", "", {"discovered": count * records}, {}, write_index(str(directory), index),
    )  # fmt: skip


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, count):
    """Shards of one record, of one pixel. The shards of a split hold the same bytes, so links are enough."""
    directory = tmp_path_factory.mktemp("many")
    rows, sizes, digests = {}, {}, {}
    for split, label in LABELS.items():
        header = example_header(Fields(label, "", "", ""), "uint8", 1)
        content = b"\x07".join(frame(header, b"\x07"))
        for number in range(count // 2):
            path = directory / shard_name(split, number, count // 2)
            if number % SHARDS_OF_A_FILE == 0:
                path.write_bytes(content)
                first = path
            else:
                os.link(first, path)
        rows[split] = scan_shard(first)
        sizes[split], digests[split] = len(content), sha256(content).hexdigest()
    index = np.concatenate([np.repeat(rows[split], count // 2) for split in LABELS])
    index["shard"] = np.arange(count)
    made = made_up_manifest(directory, count, 1, sizes, digests, index)
    write_quarantine(made.directory, [])
    write_manifest(made)
    return made


def test_it_is_opened_and_verified(dataset, count):
    assert read_manifest(dataset.directory).records == count
    result = verify_dataset(dataset.directory, 2)
    assert (result.records, result.problems) == (count, ())


def test_its_records_are_named_and_checked(dataset):
    fields = read_split_fields(dataset, "validation")
    names = [f"validation/{shard.name}/0" for shard in dataset.shards_of("validation")]
    assert fields == [Fields(1, name, "", name) for name in names]
    assert find_bad_records(dataset, "validation") == []


def test_its_index_is_cut_by_shard(tmp_path, count):
    records = 20
    index = np.zeros(count * records, INDEX_DTYPE)
    index["shard"] = np.repeat(np.arange(count), records)
    index["length"], index["payload"] = len(index), 12 + np.arange(len(index))
    sizes = dict.fromkeys(LABELS, 2 * len(index))
    made = made_up_manifest(tmp_path, count, records, sizes, dict.fromkeys(LABELS, ""), index)
    for number, (shard, rows) in enumerate(rows_by_shard(made)):
        assert shard is made.shards[number]
        assert len(rows) == records
        assert rows["payload"][0] == 12 + number * records
    assert number == count - 1
    found = read_split_index(made, "validation")
    np.testing.assert_array_equal(found, index[len(index) // 2 :])
    np.testing.assert_array_equal(read_split_index(made, "validation+train"), index)
