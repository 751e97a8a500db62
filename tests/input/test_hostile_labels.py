"""A record whose label is no class, though the index says one: the streamed reader reads the records."""

from pathlib import Path

import numpy as np
import pytest
from shards import random_images, write_shards

from cxr_data.core.errors import DataError
from cxr_data.input.data_errors import clear_data_errors
from cxr_data.input.streamed import StreamedReader
from cxr_data.records.index import read_index
from cxr_data.records.tfrecord import FRAME_HEADER_BYTES, frame


def test_a_label_of_no_class_is_one_line(tmp_path):
    manifest = write_shards(tmp_path, {"train": random_images(6)})
    row = read_index(manifest)[2]
    path = Path(manifest.path(manifest.shards[0]))
    content = bytearray(path.read_bytes())
    start, length = int(row["record"]) + FRAME_HEADER_BYTES, int(row["length"])
    record = content[start : start + length]
    record[bytes(record).index(b"label") + 5 + 6] = 77
    head, tail = frame(b"", bytes(record))
    content[int(row["record"]) : start + length + 4] = head + record + tail
    path.write_bytes(content)
    batches = StreamedReader(manifest, "train").evaluation_batches(np.arange(6).reshape(3, 2))
    with pytest.raises(DataError, match=r"label outside of \[0, 2\].*77"), clear_data_errors(manifest):
        list(batches)
