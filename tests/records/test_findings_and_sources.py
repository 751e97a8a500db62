"""Records of several findings and of known sources, and the data sets of earlier versions."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from crc32c import crc32c
from shards import findings_of, labels_of, random_images, write_shards

import cxr_data
from cxr_data.core.errors import DataError
from cxr_data.input.data_service import served_here
from cxr_data.input.options import ReadOptions
from cxr_data.records.example import parse_example
from cxr_data.records.foreign import adopt
from cxr_data.records.index import INDEX_DTYPE, read_index
from cxr_data.records.layout import INDEX_NAME, MANIFEST_NAME, QUARANTINE_NAME
from cxr_data.records.manifest import SCHEMA, Manifest, read_manifest
from cxr_data.records.tfrecord import FRAME_HEADER_BYTES, frame
from cxr_data.records.verify import verify_dataset

FINDINGS = 5
SOURCES = ("hospital é", "", "third")
COUNT = 11


@pytest.fixture
def made(tmp_path) -> Manifest:
    made = write_shards(
        tmp_path / "data", {"train": random_images(COUNT)}, findings=FINDINGS, sources=SOURCES
    )
    Path(made.directory, QUARANTINE_NAME).touch()
    path = Path(made.directory, MANIFEST_NAME)
    document = json.loads(path.read_text()) | {"source_counts": {"discovered": COUNT}}
    path.write_text(json.dumps(document))
    return read_manifest(made.directory)


@pytest.mark.parametrize(
    "options", [{}, {"reader": "stream"}, {"cache": "memory"}, {"cache": "disk"}], ids=str
)
def test_every_reader_gives_findings_and_sources(made, tmp_path, options):
    dataset = cxr_data.read_dataset(made.directory, ReadOptions(**options, cache_dir=str(tmp_path / "cache")))
    expected = findings_of(COUNT, FINDINGS)
    sources = np.arange(COUNT) % len(SOURCES)
    batches = list(dataset.all_batches("train", 4).as_numpy_iterator())
    assert len(batches) == 3
    for batch in batches:
        position, real = batch["index"], batch["weight"] == 1
        assert (batch["label"].dtype, batch["source"].dtype) == (np.int32, np.int32)
        np.testing.assert_array_equal(batch["label"][real], expected[position[real]])
        np.testing.assert_array_equal(batch["source"][real], sources[position[real]])
        assert (batch["label"][~real] == -2).all()
        assert (batch["source"][~real] == -1).all()
    for batch in dataset.batches("train", 5, seed=3).as_numpy_iterator():
        np.testing.assert_array_equal(batch["label"], expected[batch["index"]])
        np.testing.assert_array_equal(batch["source"], sources[batch["index"]])
    np.testing.assert_array_equal(dataset.labels("train"), expected)
    np.testing.assert_array_equal(dataset.sources("train"), sources)
    assert dataset.source_names == SOURCES


def test_the_workers_of_a_data_service_give_findings_and_sources(made):
    with served_here(1) as target:
        dataset = cxr_data.read_dataset(made.directory, ReadOptions(data_service=target))
        batches = list(dataset.batches("train", 5).as_numpy_iterator())
    assert len(batches) == 2
    for batch in batches:
        np.testing.assert_array_equal(batch["label"], findings_of(COUNT, FINDINGS)[batch["index"]])
        np.testing.assert_array_equal(batch["source"], batch["index"] % len(SOURCES))


def test_one_class_a_picture_is_one_number(tmp_path):
    made = write_shards(tmp_path / "data", {"train": random_images(6)})
    for reader in ("indexed", "stream"):
        dataset = cxr_data.read_dataset(made.directory, ReadOptions(reader=reader))
        (batch,) = dataset.all_batches("train", 8).as_numpy_iterator()
        assert batch["label"].tolist() == [*labels_of(6).tolist(), 0, 0]
        assert batch["source"].tolist() == [0] * 6 + [-1] * 2


def test_tensorflow_reads_the_labels_by_one_feature(made):
    features = {"labels": tf.io.FixedLenFeature([FINDINGS], tf.int64)}
    paths = [made.path(shard) for shard in made.shards]
    found = [tf.io.parse_single_example(r, features)["labels"] for r in tf.data.TFRecordDataset(paths)]
    np.testing.assert_array_equal(found, findings_of(COUNT, FINDINGS))


def test_counts_are_of_present_findings(made):
    expected = (findings_of(COUNT, FINDINGS) == 1).sum(axis=0)
    assert list(made.counts["train"].values()) == expected.tolist()


def test_verify_reads_labels_and_sources(made):
    assert verify_dataset(made.directory, 1).problems == ()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [(b"third", b"thirt", "index.npy says"), (b"labels", b"labelz", "must be 5 int64")],
)
def test_verify_finds_another_source_or_no_labels(made, old, new, said):
    _change_record(made, 2, old, new)
    assert any(said in problem for problem in verify_dataset(made.directory, 1).problems)


def test_foreign_records_of_findings_are_taken_over(made, tmp_path):
    for name in (MANIFEST_NAME, INDEX_NAME):
        Path(made.directory, name).unlink()
    names = made.class_names
    adopted = adopt(made.directory, names, size=8, channels=3, dtype="float32", task="findings")
    assert (adopted.task, adopted.sources, adopted.counts) == ("findings", SOURCES, made.counts)
    assert verify_dataset(made.directory, 1).problems == ()
    np.testing.assert_array_equal(read_index(adopted)["labels"], findings_of(COUNT, FINDINGS))


def test_foreign_records_need_a_value_for_each_finding(made):
    for name in (MANIFEST_NAME, INDEX_NAME):
        Path(made.directory, name).unlink()
    with pytest.raises(DataError, match=r"record 0 .*'labels' must be 6 int64"):
        adopt(made.directory, (*made.class_names, "f"), size=8, channels=3, dtype="float32", task="findings")


def test_a_foreign_record_needs_no_label_beside_labels():
    def feature(values):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    image = tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"\x00"]))
    features = tf.train.Features(feature={"image": image, "labels": feature([-2, 1])})
    record = tf.train.Example(features=features)
    fields = parse_example(record.SerializeToString()).fields
    assert (fields.label, fields.labels, fields.source) == (1, (-2, 1), "")


def _change_record(made: Manifest, position: int, old: bytes, new: bytes) -> None:
    """Replaces bytes of one record of the first shard, and mends its checksums."""
    row = read_index(made)[position]
    path = Path(made.path(made.shards[0]))
    content = bytearray(path.read_bytes())
    start, stop = int(row["record"]) + FRAME_HEADER_BYTES, int(row["payload"])
    header = bytes(content[start:stop])
    assert old in header
    header = header.replace(old, new, 1)
    whole = header + bytes(content[stop : start + int(row["length"])])
    head, tail = frame(b"", whole)
    content[int(row["record"]) : start + len(whole) + 4] = head + whole + tail
    path.write_bytes(content)


# -- data sets of cxr.tfrecord/1 ---------------------------------------------------------------


def _first_schema(directory: Path, images: np.ndarray) -> None:
    """Writes a data set as the versions of schema cxr.tfrecord/1 did, but for the frame."""
    directory.mkdir()
    row = [("shard", "<u4"), ("label", "<i4"), ("record", "<i8"), ("length", "<u4"), ("payload", "<i8")]
    content, rows = b"", []
    for number, image in enumerate(images):
        record = _first_record(number, image)
        head, tail = frame(b"", record)
        payload = len(content) + len(head) + record.index(image.tobytes())
        rows.append((0, number % 3, len(content), len(record), payload, crc32c(image.tobytes())))
        content += head + record + tail
    name = "train-00000-of-00001.tfrecord"
    (directory / name).write_bytes(content)
    np.save(directory / "index.npy", np.array(rows, [*row, ("crc32c", "<u4")]))
    (directory / "quarantine.jsonl").touch()
    index = (directory / "index.npy").read_bytes()
    shard = {"name": name, "split": "train", "records": len(images), "bytes": len(content)}
    document = {
        "schema": "cxr.tfrecord/1", "class_names": ["covid", "normal", "pneumonia"], "size": images.shape[1],
        "channels": 3, "dtype": "float32", "kernel": "k", "color": "gray",
        "shards": [shard | {"sha256": hashlib.sha256(content).hexdigest()}],
        "counts": {"train": {"covid": 3, "normal": 2, "pneumonia": 2}}, "mean": [0.5] * 3, "std": [0.3] * 3,
        "seed": 0, "config_hash": "", "inputs_hash": "",
        "source_counts": {"discovered": 7, "written": 7, "quarantined": 0, "duplicates": 0, "excluded": 0},
        "versions": {}, "index_sha256": hashlib.sha256(index).hexdigest(),
        "features_sha256": "", "crop_border": "none", "equalize_to": 0, "notes": [],
    }  # fmt: skip
    (directory / "manifest.json").write_text(json.dumps(document))


def _first_record(number: int, image: np.ndarray) -> bytes:
    def text(value: str) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.encode()]))

    feature = {
        "image": tf.train.Feature(float_list=tf.train.FloatList(value=image.ravel())),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[number % 3])),
        "id": text(f"{number}.png"),
        "sha256": text("0" * 64),
        "group": text(f"p{number}"),
    }
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def test_a_data_set_of_the_first_schema_is_read_as_before(tmp_path):
    images = random_images(7)
    _first_schema(tmp_path / "old", images)
    made = read_manifest(str(tmp_path / "old"))
    assert (made.schema, made.task, made.sources) == ("cxr.tfrecord/1", "classes", ("",))
    assert SCHEMA == "cxr.tfrecord/2"
    assert read_index(made).dtype == INDEX_DTYPE
    for options in (ReadOptions(), ReadOptions(reader="stream"), ReadOptions(cache="memory")):
        dataset = cxr_data.read_dataset(made.directory, options)
        (batch,) = dataset.all_batches("train", 7).as_numpy_iterator()
        np.testing.assert_array_equal(batch["image"], images)
        assert batch["label"].tolist() == labels_of(7).tolist()
        assert batch["source"].tolist() == [0] * 7
        assert dataset.ids_and_groups("train")[1][:2] == ["p0", "p1"]
    assert verify_dataset(made.directory, 1).problems == ()
