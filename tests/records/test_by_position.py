"""One record by its row of the index: no bit of it changes unnoticed, whichever part is read."""

import contextlib
import functools
import os

import numpy as np
import pytest
from crc32c import crc32c
from shards import random_images, write_shards

from cxr_data.core import storage
from cxr_data.core.errors import DataError
from cxr_data.records.by_position import pixels_in, read_content, read_fields, read_payload
from cxr_data.records.example import Fields, example_header
from cxr_data.records.index import read_index, read_split_fields, scan_shard
from cxr_data.records.tfrecord import frame, masked_crc

PIXELS = np.arange(48, dtype=np.uint8)
WHAT = Fields(2, "a/b.png", "ab" * 32, "patient 7", "hospital")


def as_we_write():
    before, after = frame(example_header(WHAT, "uint8", PIXELS.nbytes), PIXELS.tobytes())
    return before + PIXELS.tobytes() + after


def with_fields_behind_the_pixels():
    """Field 7 of an Example, which every reader passes over."""
    header, tail = example_header(WHAT, "uint8", PIXELS.nbytes), b"\x3a\x03abc"
    content = header + PIXELS.tobytes() + tail
    length = len(content).to_bytes(8, "little")
    sums = [masked_crc(crc32c(part)).to_bytes(4, "little") for part in (length, content)]
    return length + sums[0] + content + sums[1]


@pytest.mark.parametrize("make", [as_we_write, with_fields_behind_the_pixels])
def test_no_bit_of_a_record_changes_unnoticed(tmp_path, make):
    content, path = make(), tmp_path / "a.tfrecord"
    path.write_bytes(content)
    (row,) = scan_shard(path)

    def passed(changed):
        """Returns which of the three readers take a record as it was."""

        def read_at(size, offset):
            return changed[offset : offset + size]

        found = {}
        with contextlib.suppress(ValueError):
            found["fields"] = read_fields(read_at, row, checked=PIXELS.nbytes) == WHAT
        with contextlib.suppress(ValueError):
            found["pixels"] = read_payload(read_at, row, PIXELS.nbytes) == PIXELS.tobytes()
        with contextlib.suppress(ValueError):
            whole = read_content(read_at, row)
            pixels = pixels_in(whole, row, PIXELS.nbytes)
            found["all"] = bytes(pixels) == PIXELS.tobytes() and whole == content[12:-4]
        assert all(found.values())
        return {*found}

    assert passed(content) == {"fields", "pixels", "all"}
    for bit in range(8 * len(content)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        where = bit // 8
        is_pixel = row["payload"] <= where < row["payload"] + PIXELS.nbytes
        is_length = where < 12  # which reading by position does not need
        assert passed(bytes(changed)) == (
            {"fields"} if is_pixel else {"fields", "pixels"} if is_length else {"pixels"}
        )


def test_a_changed_patient_is_named_and_not_taken(tmp_path):
    made = write_shards(tmp_path, {"train": random_images(6)})
    (first, _), row = made.shards, read_index(made)[2]
    before = read_split_fields(made, "train")
    with open(made.path(first), "r+b") as file:
        at = os.pread(file.fileno(), int(row["payload"] - row["record"]), int(row["record"])).rindex(b"2.png")
        os.pwrite(file.fileno(), b"3", int(row["record"]) + at)
    with storage.opened_at(made.path(first)) as read_at:
        assert read_fields(read_at, row).group != before[2].group
    with pytest.raises(DataError, match=f"{first.name}: record 2: "):
        read_split_fields(made, "train")


def test_a_record_of_another_shard_is_not_taken(tmp_path):
    path = tmp_path / "a.tfrecord"
    path.write_bytes(as_we_write())
    (row,) = scan_shard(path)
    row["crc32c"] ^= 1
    with path.open("rb") as file:
        read_at = functools.partial(os.pread, file.fileno())
        with pytest.raises(ValueError, match="checksum"):
            read_payload(read_at, row, PIXELS.nbytes)
        with pytest.raises(ValueError, match="index"):
            pixels_in(read_content(read_at, row), row, PIXELS.nbytes)
