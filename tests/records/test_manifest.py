"""Manifest and index: round trip, and one clear line for everything that can be wrong."""

import json

import numpy as np
import pytest

from cxr_data.core.errors import DataError
from cxr_data.records import manifest as m
from cxr_data.records.index import INDEX_DTYPE, read_index, write_index
from cxr_data.records.layout import INDEX_NAME, MANIFEST_NAME

RECORD_BYTES = 12 + 20 + 4


def make_dataset(directory, records=(3, 2)):
    shards = tuple(
        m.Shard(f"{split}-00000-of-00001.tfrecord", split, n, n * RECORD_BYTES, "00" * 32)
        for split, n in zip(("train", "test"), records, strict=True)
    )
    index = np.zeros(sum(records), INDEX_DTYPE)
    index["shard"] = np.repeat([0, 1], records)
    index["record"] = np.concatenate([np.arange(n) for n in records]) * RECORD_BYTES
    index["length"], index["payload"] = RECORD_BYTES - 16, index["record"] + 12
    for shard in shards:
        (directory / shard.name).write_bytes(b"x" * shard.bytes)
    made = m.Manifest(
        directory=str(directory),
        schema=m.SCHEMA,
        class_names=("a", "b"),
        size=2,
        channels=3,
        dtype="uint8",
        kernel="k",
        color="gray",
        shards=shards,
        counts={"train": {"a": records[0], "b": 0}, "test": {"a": 0, "b": records[1]}},
        mean=(0.5,) * 3,
        std=(0.2,) * 3,
        seed=1,
        config_hash="c",
        inputs_hash="i",
        source_counts={"discovered": sum(records), "written": sum(records)},
        versions={"cxr": "0"},
        index_sha256=write_index(str(directory), index),
    )
    m.write_manifest(made)
    return made


def edit(directory, **changes):
    path = directory / MANIFEST_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_round_trip(tmp_path):
    made = make_dataset(tmp_path)
    read = m.read_manifest(str(tmp_path))
    assert read == made
    assert read.splits == ("train", "test")
    assert (read.count("train"), read.count("test"), read.records) == (3, 2, 5)
    assert read_index(read)["shard"].tolist() == [0, 0, 0, 1, 1]
    assert not list(tmp_path.glob("*.tmp"))


def test_missing_manifest_names_the_directory_and_the_way_out(tmp_path):
    with pytest.raises(DataError, match=rf"{tmp_path}/nowhere: .*--data=.*make_tfrecords"):
        m.read_manifest(str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=rf"{tmp_path} .*manifest\.json.*make_tfrecords"):
        m.read_manifest(str(tmp_path))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', '{"schema": "cxr.tfrecord/1"}', "\x00\xff"])
def test_damaged_manifest(tmp_path, text):
    make_dataset(tmp_path)
    (tmp_path / MANIFEST_NAME).write_text(text)
    with pytest.raises(DataError, match=r"manifest\.json"):
        m.read_manifest(str(tmp_path))


def test_other_schema(tmp_path):
    make_dataset(tmp_path)
    edit(tmp_path, schema="other/9")
    with pytest.raises(DataError, match=r"manifest\.json .*'other/9'"):
        m.read_manifest(str(tmp_path))


def test_counts_that_disagree(tmp_path):
    make_dataset(tmp_path)
    edit(tmp_path, counts={"train": {"a": 7}})
    with pytest.raises(DataError, match=r"manifest\.json .*\b7\b.*\b5\b"):
        m.read_manifest(str(tmp_path))


def test_shard_name_cannot_lead_out(tmp_path):
    made = make_dataset(tmp_path)
    edit(tmp_path, shards=[{**vars(made.shards[0]), "name": "../x", "records": 5}])
    with pytest.raises(DataError, match=r"manifest\.json .*shard"):
        m.read_manifest(str(tmp_path))


def test_missing_and_truncated_shard(tmp_path):
    made = make_dataset(tmp_path)
    path = tmp_path / made.shards[1].name
    path.write_bytes(b"x" * 71)
    with pytest.raises(DataError, match=r"test-00000-of-00001\.tfrecord .*71 .*72"):
        m.read_manifest(str(tmp_path))
    path.unlink()
    with pytest.raises(DataError, match=r"test-00000-of-00001\.tfrecord .*missing"):
        m.read_manifest(str(tmp_path))


def test_unknown_split(tmp_path):
    made = make_dataset(tmp_path)
    with pytest.raises(DataError, match=f"{tmp_path} .*'val', .*train, test: .*--splits"):
        made.shards_of("val")


def test_damaged_or_foreign_index(tmp_path):
    made = make_dataset(tmp_path)
    path = tmp_path / INDEX_NAME
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"index\.npy "):
        read_index(made)
    path.unlink()
    with pytest.raises(DataError, match=r"index\.npy"):
        read_index(made)


def test_a_split_that_lacks_many_findings_is_one_line():
    findings = [f"finding {number:02}" for number in range(14)]
    counts = {"train": dict.fromkeys(findings, 0), "test": {**dict.fromkeys(findings, 3), findings[5]: 0}}
    train, test = m.class_warnings(counts, "findings")
    assert (train.count("finding 0"), train.count("6 more")) == (8, 1)
    assert (test.count("finding 0"), test.count(findings[5])) == (1, 1)
    planned = {"train": {**counts["train"], findings[2]: 9}, "test": counts["test"]}
    (new,) = m.class_warnings(counts, "findings", planned=planned)
    assert (new.count("finding 0"), new.count(findings[2])) == (1, 1)
    assert m.class_warnings(counts, "findings", planned=counts) == []
