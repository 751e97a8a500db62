"""The hand-written record against tf.train.Example and tf.io.TFRecordWriter."""

import contextlib
import functools
import os
import tracemalloc

import numpy as np
import pytest
import tensorflow as tf
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_data.core.errors import DataError
from cxr_data.records import example
from cxr_data.records.by_position import read_fields
from cxr_data.records.example import Fields
from cxr_data.records.index import scan_shard
from cxr_data.records.tfrecord import frame, masked_crc
from cxr_data.sources.finding_values import FINDING_VALUES

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
LABELS = st.lists(st.sampled_from(FINDING_VALUES), max_size=20).map(tuple)
DIGEST = st.text("0123456789abcdef", max_size=64)
FIELDS = st.builds(Fields, st.integers(0, 2**31 - 1), TEXT, DIGEST, TEXT, TEXT, LABELS)


def reference_example(fields: Fields, pixels: np.ndarray) -> tf.train.Example:
    def text(value: str) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.encode()]))

    if pixels.dtype == np.float32:
        image = tf.train.Feature(float_list=tf.train.FloatList(value=pixels.ravel()))
    else:
        image = tf.train.Feature(bytes_list=tf.train.BytesList(value=[pixels.tobytes()]))
    label = tf.train.Feature(int64_list=tf.train.Int64List(value=[fields.label]))
    features = {
        "image": image,
        "label": label,
        "id": text(fields.id),
        "sha256": text(fields.sha256),
        "group": text(fields.group),
        "source": text(fields.source),
    }
    if fields.labels:
        features["labels"] = tf.train.Feature(int64_list=tf.train.Int64List(value=fields.labels))
    return tf.train.Example(features=tf.train.Features(feature=features))


def some_pixels(dtype: str, size: int = 7, channels: int = 3) -> np.ndarray:
    gray = np.random.default_rng(size).integers(0, 256, (size, size, channels), np.uint8)
    return gray if dtype == "uint8" else (gray / np.float32(255)).astype(dtype)


def write_record(path, fields: Fields, pixels: np.ndarray) -> None:
    payload = pixels.tobytes()
    head, tail = frame(example.example_header(fields, pixels.dtype.name, len(payload)), payload)
    with open(path, "ab") as file:
        file.write(head + payload + tail)


@settings(max_examples=60, deadline=None)
@given(fields=FIELDS, dtype=st.sampled_from(example.DTYPES), size=st.integers(1, 70))
def test_record_is_the_example_that_protobuf_makes(fields, dtype, size):
    pixels = some_pixels(dtype, size)
    header = example.example_header(fields, dtype, pixels.nbytes)
    assert tf.train.Example.FromString(header + pixels.tobytes()) == reference_example(fields, pixels)


@settings(max_examples=60, deadline=None)
@given(fields=FIELDS, pixels=st.integers(1, 1 << 21), features=st.integers(2, 1 << 14))
def test_a_header_of_other_pixels_is_the_one_that_is_made_of_the_fields(fields, pixels, features):
    before, after = ("uint8", pixels), ("float32", 4 * features)
    header = example.example_header(fields, *before)
    made = example.other_header(header, fields.source, before, after)
    assert made == example.example_header(fields, *after)


def test_a_header_that_is_not_ours_or_of_another_source_is_not_copied():
    fields, before, after = Fields(1, "a.png", "ab" * 32, "p", "here"), ("uint8", 64), ("float16", 8)
    ours = example.example_header(fields, *before)
    for header, source, pixels in (
        (ours, "there", before),
        (ours, "here", ("uint8", 65)),
        (ours, "here", ("float32", 64)),
        (ours[:1] + ours[2:], "here", before),
        (ours[:-1], "here", before),
        (b"", "here", before),
    ):
        assert example.other_header(header, source, pixels, after) is None


@pytest.mark.parametrize("dtype", example.DTYPES)
def test_tensorflow_reads_our_file(tmp_path, dtype):
    path = tmp_path / "a.tfrecord"
    pixels = some_pixels(dtype)
    for label in range(3):
        write_record(path, Fields(label, f"é/{label}.png", "ab" * 32, "p"), pixels)
    kind = tf.float32 if dtype == "float32" else tf.string
    shape = pixels.shape if dtype == "float32" else []
    features = {"image": tf.io.FixedLenFeature(shape, kind), "label": tf.io.FixedLenFeature([], tf.int64)}
    parsed = [tf.io.parse_single_example(r, features) for r in tf.data.TFRecordDataset(str(path))]
    assert [int(p["label"]) for p in parsed] == [0, 1, 2]
    for p in parsed:
        image = (
            p["image"]
            if dtype == "float32"
            else tf.reshape(tf.io.decode_raw(p["image"], dtype), pixels.shape)
        )
        np.testing.assert_array_equal(image, pixels)


@pytest.mark.parametrize("dtype", example.DTYPES)
@pytest.mark.parametrize("foreign", [False, True])
def test_scan_finds_every_payload(tmp_path, dtype, foreign):
    path = tmp_path / "a.tfrecord"
    images = [some_pixels(dtype, size) for size in (5, 6, 20)]
    all_fields = [Fields(i, f"x/{i}.png", "00" * 32, f"g{i}", f"s{i}", (1, 0, -1, -2)) for i in range(3)]
    if foreign:
        with tf.io.TFRecordWriter(str(path)) as writer:
            for fields, pixels in zip(all_fields, images, strict=True):
                writer.write(reference_example(fields, pixels).SerializeToString())
    else:
        for fields, pixels in zip(all_fields, images, strict=True):
            write_record(path, fields, pixels)
    rows = scan_shard(path, findings=4)
    content = path.read_bytes()
    assert rows["label"].tolist() == [0, 1, 2]
    with path.open("rb") as file:
        for row, fields, pixels in zip(rows, all_fields, images, strict=True):
            payload = content[row["payload"] : row["payload"] + pixels.nbytes]
            assert payload == pixels.tobytes()
            assert crc32c(payload) == row["crc32c"]
            assert row["labels"].tolist() == [1, 0, -1, -2]
            assert read_fields(functools.partial(os.pread, file.fileno()), row) == fields
    assert int(rows[-1]["record"]) + 16 + int(rows[-1]["length"]) == os.path.getsize(path)


def test_pixels_are_the_last_bytes_of_our_example():
    fields = Fields(1, "a.png", "cd" * 32, "p")
    pixels = some_pixels("float32")
    header = example.example_header(fields, "float32", pixels.nbytes)
    parsed = example.parse_example(header + pixels.tobytes())
    assert (parsed.payload_start, parsed.payload_bytes) == (len(header), pixels.nbytes)
    assert parsed.fields == example.parse_example(header).fields == fields


def test_a_file_name_that_is_not_utf8_keeps_its_bytes():
    name = os.fsdecode(b"caf\xe9.png")
    header = example.example_header(Fields(0, name, "", name), "uint8", 0)
    assert os.fsencode(example.parse_example(header).fields.id) == b"caf\xe9.png"


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damage_is_a_data_error_that_names_file_and_record(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("damage") / "a.tfrecord"
    write_record(path, Fields(0, "a.png", "ab" * 32, "p"), some_pixels("float32", 4))
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(1, len(content) - 1))]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.tfrecord: record 0 at byte 0"):
        scan_shard(path)


@pytest.mark.parametrize("length", [2**32, 2**40])
def test_a_record_that_claims_gigabytes_makes_no_room(tmp_path, length):
    """The file is as long as it says, and holds nothing: a hole costs no disk."""
    path = tmp_path / "a.tfrecord"
    head = length.to_bytes(8, "little")
    path.write_bytes(head + masked_crc(crc32c(head)).to_bytes(4, "little"))
    os.truncate(path, length + 16)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=rf"a\.tfrecord: record 0 .*{length} bytes"):
            scan_shard(path)
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_an_example_or_a_value_error(data):
    with contextlib.suppress(ValueError):
        example.parse_example(data)


def test_a_foreign_record_without_an_image_is_named(tmp_path):
    path = str(tmp_path / "a.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        writer.write(tf.train.Example().SerializeToString())
    with pytest.raises(DataError, match=r"a\.tfrecord: record 0 .*'image'"):
        scan_shard(path)
