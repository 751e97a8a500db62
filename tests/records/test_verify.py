"""Every kind of damage to a finished dataset is found and named."""

import dataclasses
import json
import os
import shutil
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from crc32c import crc32c
from project import ROOT
from sharder_fixtures import make_source

from cxr_data.convert.config import SharderConfig
from cxr_data.convert.convert import make_tfrecords
from cxr_data.core import storage
from cxr_data.core.errors import DataError
from cxr_data.records.index import read_index
from cxr_data.records.layout import MANIFEST_NAME
from cxr_data.records.manifest import read_manifest, write_manifest
from cxr_data.records.tfrecord import (
    FRAME_HEADER_BYTES,
    begins_with_frame,
    frame,
    masked_crc,
    read_frames,
)
from cxr_data.records.verify import verify_dataset


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A dataset that no test damages."""
    folder = tmp_path_factory.mktemp("whole")
    source = make_source(folder / "in", 24)
    config = SharderConfig(str(source), str(folder / "out"), size=16, workers=0, quiet=True, shard_mb=0.02)
    return make_tfrecords(config)


@pytest.fixture
def made(whole, tmp_path):
    """A copy to damage."""
    return read_manifest(str(shutil.copytree(whole.directory, tmp_path / "out")))


def only_problem(made):
    problems = verify_dataset(made.directory, 2).problems
    assert problems
    return "\n".join(problems)


def rewrite(made, change):
    """Applies `change` to the first record's Example and makes every checksum right again."""
    shard = made.shards[0]
    path = Path(made.path(shard))
    content = bytearray(path.read_bytes())
    row = read_index(made)[0]
    start = int(row["record"]) + FRAME_HEADER_BYTES
    changed = bytearray(content[start : start + int(row["length"])])
    change(changed, int(row["payload"]) - start)
    head, tail = frame(b"", bytes(changed))
    content[int(row["record"]) : start + len(changed) + 4] = head + changed + tail
    path.write_bytes(content)


def test_a_whole_dataset_has_no_problems(made):
    result = verify_dataset(made.directory, 2)
    assert (result.records, result.problems) == (24, ())


def test_a_flipped_bit_anywhere_is_found(made):
    path = Path(made.path(made.shards[0]))
    content = path.read_bytes()
    for position in np.random.default_rng(0).integers(0, len(content), 20):
        damaged = bytearray(content)
        damaged[position] ^= 4
        path.write_bytes(damaged)
        assert path.name in only_problem(made)


def test_it_goes_on_behind_a_damaged_record_and_counts_each_once(made):
    """A broken length hides where the next record lies, and the index knows it."""
    shard = max(made.shards, key=lambda shard: shard.records)
    rows = read_index(made)
    rows = rows[rows["shard"] == made.shards.index(shard)]
    path = Path(made.path(shard))
    content = bytearray(path.read_bytes())
    last = len(rows) - 1
    assert last >= 4
    content[int(rows["record"][0])] ^= 4  # the length
    content[int(rows["record"][2]) + 9] ^= 4  # the checksum of the length
    content[int(rows["payload"][last]) + 3] ^= 4
    path.write_bytes(content)
    problems = verify_dataset(made.directory, 2).problems
    assert [problem.split(" at byte ")[0] for problem in problems] == [
        f"{path}: record {number}" for number in (0, 2, last)
    ]


def test_a_change_that_no_record_shows_is_the_shards(made):
    def change(content, payload):
        position = bytes(content).index(b"group") + 5 + 6
        content[position] ^= 1

    rewrite(made, change)
    assert "SHA-256 differs" in only_problem(made)


@pytest.mark.parametrize("value", [1.5, -0.25, float("nan"), float("inf")])
def test_a_value_out_of_range(made, value):
    def change(content, payload):
        struct.pack_into("<f", content, payload + 40, value)

    rewrite(made, change)
    text = only_problem(made)
    assert "record 0 at byte 0: value 10 is" in text
    assert len(text.splitlines()) == 1


def test_a_label_that_is_none(made):
    def change(content, payload):
        position = bytes(content).index(b"label") + 5 + 6
        content[position] = 77

    rewrite(made, change)
    text = only_problem(made)
    assert "label 77 is none of 3 classes" in text
    assert "index.npy says" in text
    assert len(text.splitlines()) == 1


def test_counts_in_the_manifest(made):
    path = Path(made.directory, MANIFEST_NAME)
    document = json.loads(path.read_text())
    counts = document["counts"]["train"]
    counts["covid"], counts["normal"] = counts["covid"] + 1, counts["normal"] - 1
    path.write_text(json.dumps(document))
    assert "split train holds" in only_problem(made)


def test_a_line_missing_in_the_quarantine(made):
    path = Path(made.directory, "quarantine.jsonl")
    path.write_text('{"id": "x", "reason": "empty", "detail": ""}\n')
    assert "24 files were discovered, but 24 + 1 are accounted for" in only_problem(made)


def test_a_damaged_quarantine_hides_no_other_problem(made):
    Path(made.directory, "quarantine.jsonl").write_text("{")
    path = Path(made.path(made.shards[0]))
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    problems = verify_dataset(made.directory, 2).problems
    assert any(path.name in problem for problem in problems)
    assert any("quarantine.jsonl" in problem for problem in problems)


def test_a_length_claims_no_memory(made):
    """A file with a hole claims a record of 256 MiB, and takes no room on the disk."""
    claimed = 256 << 20
    shard = made.shards[0]
    length = struct.pack("<Q", claimed)
    head = length + struct.pack("<I", masked_crc(crc32c(length)))
    with open(made.path(shard), "ab") as file:
        file.write(head)
        file.truncate(size := shard.bytes + FRAME_HEADER_BYTES + claimed + 4)
    shards = (dataclasses.replace(shard, bytes=size), *made.shards[1:])
    write_manifest(dataclasses.replace(made, shards=shards))
    tracemalloc.start()
    try:
        problems = verify_dataset(made.directory, 1).problems
        assert tracemalloc.get_traced_memory()[1] < claimed / 2
    finally:
        tracemalloc.stop()
    assert any(f"record {shard.records} at byte {shard.bytes}: it claims" in problem for problem in problems)


def test_a_pipe_in_place_of_a_shard_is_refused_at_once(made):
    path = made.path(made.shards[0])
    os.unlink(path)
    os.mkfifo(path)
    with pytest.raises(DataError, match="pipe"):
        list(read_frames(path))
    with pytest.raises(DataError, match="pipe"), storage.opened_at(path):
        pass
    assert not begins_with_frame(path)


def test_the_command(made):
    def verify_command():
        return subprocess.run(
            [sys.executable, "-m", "tools.verify_tfrecords", f"--data={made.directory}"],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip

    done = verify_command()
    assert done.returncode == 0, done.stderr
    assert "24 records" in done.stdout
    path = Path(made.path(made.shards[0]))
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    done = verify_command()
    assert done.returncode == 1
    assert "record 0 at byte 0" in done.stderr
    path.unlink()
    done = verify_command()
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (1, 1)
    assert "is missing" in done.stderr
