"""TFRecords of another program: written with TensorFlow alone, read like our own."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from shards import CLASS_NAMES, labels_of, random_images

from cxr_data.core.errors import DataError, UsageError
from cxr_data.input.options import ReadOptions
from cxr_data.input.pipeline import Pipeline
from cxr_data.records.foreign import adopt
from cxr_data.records.manifest import read_manifest
from cxr_data.records.verify import verify_dataset

SIZE = 8


def foreign(path, images, labels) -> None:
    """Writes Examples through TensorFlow, the features in another order than ours, one more beside."""
    with tf.io.TFRecordWriter(str(path)) as writer:
        for image, label in zip(images, labels, strict=True):
            if image.dtype == np.float32:
                pixels = tf.train.Feature(float_list=tf.train.FloatList(value=image.ravel()))
            else:
                pixels = tf.train.Feature(bytes_list=tf.train.BytesList(value=[image.tobytes()]))
            features = {
                "image": pixels,
                "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
                "view": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"PA"])),
            }
            example = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(example.SerializeToString())


@pytest.fixture
def directory(tmp_path):
    images, labels = random_images(9, SIZE), labels_of(9)
    foreign(tmp_path / "train_0.tfrecord", images[:4], labels[:4])
    foreign(tmp_path / "train_1.tfrecord", images[4:6], labels[4:6])
    foreign(tmp_path / "validation.tfrecord", images[6:], labels[6:])
    (tmp_path / "notes.txt").write_text("not a record")
    return tmp_path


def options(**changes):
    return {"size": SIZE, "channels": 3, "dtype": "float32", **changes}


@pytest.mark.parametrize("reader", ["indexed", "stream"])
def test_both_readers_read_what_another_program_wrote(directory, reader):
    adopted = adopt(str(directory), CLASS_NAMES, **options())
    assert adopted == read_manifest(str(directory))
    assert adopted.splits == ("train", "validation")
    assert adopted.counts["train"] == {"covid": 2, "normal": 2, "pneumonia": 2}
    pipeline = Pipeline(adopted, ReadOptions(reader=reader, verify="always"))
    (batch,) = pipeline.evaluation_dataset("train", batch_size=6)
    np.testing.assert_array_equal(batch["image"], random_images(9, SIZE)[:6])
    np.testing.assert_array_equal(batch["label"], labels_of(9)[:6])


def test_bytes_are_adopted_too(tmp_path):
    pixels = np.arange(3 * SIZE * SIZE, dtype=np.uint8).reshape(3, SIZE, SIZE, 1)
    foreign(tmp_path / "test.tfrecords", pixels, [0, 1, 2])
    pipeline = Pipeline(adopt(str(tmp_path), CLASS_NAMES, **options(channels=1, dtype="uint8")))
    (batch,) = pipeline.evaluation_dataset("test", batch_size=3)
    np.testing.assert_array_equal(batch["image"], pixels)


def test_the_verifier_accepts_it(directory):
    adopt(str(directory), CLASS_NAMES, **options())
    assert verify_dataset(str(directory), 1).problems == ()


@pytest.mark.parametrize(
    ("classes", "changes", "message"),
    [
        (("covid", "normal"), {}, r"train_0\.tfrecord: record 2 .*label 2"),
        (CLASS_NAMES, {"size": 9}, r"train_0\.tfrecord: record 0 .*768 .*972"),
        (CLASS_NAMES, {"dtype": "uint8", "size": 16}, r"train_0\.tfrecord: record 0 .*FloatList"),
    ],
)
def test_records_that_are_not_what_the_flags_say_are_named(directory, classes, changes, message):
    with pytest.raises(DataError, match=message):
        adopt(str(directory), classes, **options(**changes))
    assert not (directory / "manifest.json").exists()


def test_a_damaged_record_is_named(directory):
    path = directory / "train_1.tfrecord"
    content = bytearray(path.read_bytes())
    content[60] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"train_1\.tfrecord: record 0 "):
        adopt(str(directory), CLASS_NAMES, **options())


def test_a_second_scan_and_an_empty_folder_are_refused(directory, tmp_path):
    adopt(str(directory), CLASS_NAMES, **options())
    with pytest.raises(UsageError, match=rf"{directory} .*manifest\.json"):
        adopt(str(directory), CLASS_NAMES, **options())
    with pytest.raises(UsageError, match=f"{tmp_path}/nothing .*SPLIT"):
        adopt(str(tmp_path / "nothing"), CLASS_NAMES, **options())


def test_the_command(directory):
    line = [sys.executable, "-m", "tools.index_tfrecords", f"--data={directory}", f"--size={SIZE}"]
    refused = subprocess.run(line, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "--classes" in refused.stderr
    line.append(f"--classes={','.join(CLASS_NAMES)}")
    assert "2 covid, 2 normal" in subprocess.run(line, capture_output=True, text=True, check=True).stdout
