"""TFRecords of another program: written with TensorFlow alone, read like our own."""

import dataclasses
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from crc32c import crc32c
from shards import CLASS_NAMES, labels_of, random_images

from cxr_data.audit.pictures import pictures_of_shards
from cxr_data.core.errors import DataError, UsageError
from cxr_data.input.options import ReadOptions
from cxr_data.input.pipeline import Pipeline
from cxr_data.records.foreign import adopt
from cxr_data.records.index import read_index, read_split_fields, write_index
from cxr_data.records.manifest import read_manifest
from cxr_data.records.tfrecord import masked_crc, read_frames
from cxr_data.records.value_range import VALUE_RANGES
from cxr_data.records.verify import verify_dataset

SIZE = 8


def floats(*values):
    return tf.train.Feature(float_list=tf.train.FloatList(value=np.ravel(values)))


def integers(*values):
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def texts(*values):
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))


def foreign(path, images, labels, compression="", **further) -> None:
    """Writes Examples through TensorFlow, the features in another order than ours, one more beside.

    `further` gives features by name, [N] each.
    """
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            features = {
                "image": floats(image) if image.dtype == np.float32 else texts(image.tobytes()),
                "label": integers(label),
                "view": texts(b"PA"),
                **{name: values[number] for name, values in further.items()},
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
        (("covid", "normal"), {}, r"train_0\.tfrecord: record 2 .*label 2, .*2 classes"),
        (CLASS_NAMES, {"size": 9}, r"train_0.tfrecord: record 0 .* FloatList of 768 bytes, not .* 972"),
        (
            CLASS_NAMES,
            {"dtype": "uint8", "size": 16},
            "record 0 .*FloatList of 768 bytes",
        ),
    ],
)
def test_records_that_are_not_what_the_flags_say_are_named(directory, classes, changes, message):
    with pytest.raises(DataError, match=message):
        adopt(str(directory), classes, **options(**changes))
    assert not (directory / "manifest.json").exists()


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        ({"label": integers(0, 1)}, "'label' .*one int64, .*holds 2 values"),
        ({"label": integers()}, "'label' .*one int64, .*holds 0 values"),
        ({"label": floats(1.0)}, "'label' .*one int64, .*holds floats"),
        ({"label": texts(b"covid")}, "'label' .*one int64, .*holds bytes"),
        ({"group": integers(17)}, "'group' .*one bytes value, .*holds int64"),
        ({"group": texts(b"a", b"b")}, "'group' .*one bytes value, .*holds 2 values"),
        ({"image": floats(np.full((SIZE, SIZE, 3), 255.0))}, r"from 255 to 255.*--value_range=0\.\.255"),
        ({"image": floats(np.full((SIZE, SIZE, 3), -1.0))}, r"from -1 to -1.*--value_range=-1\.\.1"),
        ({"image": floats(np.full((SIZE, SIZE, 3), 1e5))}, r"\[0, 1\]"),
        ({"image": floats(np.full((SIZE, SIZE, 3), np.nan))}, "not finite"),
        ({"image": texts(b"\xff\xd8\xff\xe0 and more")}, "'image' is a JPEG file"),
        ({"image": floats(np.linspace(-0.4, 0.5, 3 * SIZE**2))}, r"must be in \[0, 1\]: write them again"),
    ],
)
def test_a_record_of_another_schema_is_refused_wherever_it_stands(tmp_path, feature, message):
    images, labels = random_images(3, SIZE), labels_of(3)
    foreign(tmp_path / "train.tfrecord", images, labels)
    (name, value), usual = next(iter(feature.items())), {"label": integers(0), "group": texts(b"p")}
    ordinary = usual.get(name) or floats(images[0])
    foreign(tmp_path / "validation.tfrecord", images, labels, **{name: [ordinary, value, ordinary]})
    with pytest.raises(DataError, match=f"validation.tfrecord: record 1 .*{message}"):
        adopt(str(tmp_path), CLASS_NAMES, **options())
    assert not (tmp_path / "manifest.json").exists()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("name", "low", "high"), [("0..255", 0, 255), ("-1..1", -1, 1)])
def test_another_range_is_rescaled_by_both_readers_only_when_it_is_said(tmp_path, dtype, name, low, high):
    images = random_images(7, SIZE).astype(dtype)
    images[:, 0, 0], images[:, 0, 1] = 0, 1
    stored = (images * (high - low) + low).astype(dtype)
    foreign(tmp_path / "train.tfrecord", stored, labels_of(7))
    with pytest.raises(DataError, match="--value_range="):
        adopt(str(tmp_path), CLASS_NAMES, **options(dtype=dtype))
    adopted = adopt(str(tmp_path), CLASS_NAMES, **options(dtype=dtype, value_range=VALUE_RANGES[name]))
    assert adopted == read_manifest(str(tmp_path))
    read = []
    for reader in ("indexed", "stream"):
        (batch,) = Pipeline(adopted, ReadOptions(reader=reader)).evaluation_dataset("train", batch_size=7)
        read.append(batch["image"].numpy())
    assert read[0].tobytes() == read[1].tobytes()
    assert (read[0].min(), read[0].max()) == (0, 1)
    np.testing.assert_allclose(read[0], images, atol=2e-3 if dtype == "float16" else 1e-6)
    np.testing.assert_allclose(adopted.mean, images.mean(axis=(0, 1, 2), dtype=np.float64), atol=1e-3)
    np.testing.assert_allclose(adopted.std, images.std(axis=(0, 1, 2), dtype=np.float64), atol=1e-3)
    assert verify_dataset(str(tmp_path), 1).problems == ()
    seen = pictures_of_shards(adopted, quiet=True).image(0)
    np.testing.assert_allclose(seen[..., 0] if seen.ndim == 3 else seen, images[0, ..., 0] * 255, atol=1)


ONES = np.eye(SIZE, dtype=np.uint8)[None, ..., None].repeat(3, 3)
UNITS = random_images(3, SIZE)


@pytest.mark.parametrize(
    ("images", "changes", "message"),
    [
        (UNITS, {"value_range": (0.0, 255.0)}, "record 0 .*leave out --value_range=0..255"),
        (UNITS, {"value_range": (-1.0, 1.0)}, "leave out --value_range=-1..1"),
        (UNITS - np.float32(0.5), {"value_range": (-1.0, 1.0)}, r"in \[-0.5, 0.5\]"),
        (UNITS / np.float32(255), {}, "divided by 255 twice"),
        (ONES, {"dtype": "uint8"}, r"not in 0..255 \(1 of 1 files\): .*--dtype=float32"),
    ],
)
@pytest.mark.parametrize("is_beside_right_ones", [False, True])
def test_values_that_leave_most_of_their_range_empty_are_refused(
    tmp_path, images, changes, message, is_beside_right_ones
):
    foreign(tmp_path / "val.tfrecord", images, labels_of(len(images)))
    if is_beside_right_ones:  # one split of two was scaled otherwise
        low, high = changes.get("value_range", (0.0, 1.0)) if images.dtype == np.float32 else (0, 255)
        right = (UNITS * (high - low) + low).astype(images.dtype)
        foreign(tmp_path / "train.tfrecord", right, labels_of(3))
        message = "val.tfrecord"
    with pytest.raises(DataError, match=message):
        adopt(str(tmp_path), CLASS_NAMES, **options(**changes))
    assert not (tmp_path / "manifest.json").exists()


@pytest.mark.parametrize("compression", ["GZIP", "ZLIB"])
def test_a_compressed_file_is_named_as_one(tmp_path, compression):
    foreign(tmp_path / "train.tfrecord", random_images(3, SIZE), labels_of(3), compression)
    with pytest.raises(DataError, match=rf"train.tfrecord is compressed \({compression}\)"):
        adopt(str(tmp_path), CLASS_NAMES, **options())


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.tfrecord", "train"),
        ("train-00003-of-00012.tfrecord", "train"),
        ("chest-train-00000.tfrecords", "train"),
        ("chest-val-00000.tfrecord", "validation"),
        ("Valid_7.tfrec", "validation"),
        ("training3.tfrecord", "train"),
        ("set.testing.tfrecord-00000-of-00005", "test"),
    ],
)
def test_the_split_is_a_word_of_the_name(tmp_path, name, split):
    foreign(tmp_path / name, random_images(3, SIZE), labels_of(3))
    assert adopt(str(tmp_path), CLASS_NAMES, **options()).counts.keys() == {split}


@pytest.mark.parametrize("name", ["chest-00000", "train_val.tfrecord", "constrain.tfrecord"])
def test_a_name_of_no_split_or_of_two_is_refused(tmp_path, name):
    foreign(tmp_path / "train.tfrecord", random_images(3, SIZE), labels_of(3))
    foreign(tmp_path / name, random_images(3, SIZE), labels_of(3))
    with pytest.raises(DataError, match=f"{name} .*(no split|two splits, train and validation)"):
        adopt(str(tmp_path), CLASS_NAMES, **options())


def test_unknown_patients_are_not_one_patient(directory, caplog):
    caplog.set_level("INFO")
    adopted = adopt(str(directory), CLASS_NAMES, **options())
    names = [f"train/train_0.tfrecord/{n}" for n in range(4)] + [
        f"train/train_1.tfrecord/{n}" for n in (0, 1)
    ]
    fields = read_split_fields(adopted, "train")
    assert [one.id for one in fields] == [one.group for one in fields] == names
    assert not any(one.has_patient for one in fields)
    pictures = pictures_of_shards(adopted, quiet=True)
    assert pictures.patients() == {}
    assert len(set(pictures.groups)) == 9
    assert "patients: 0 known, unknown in 9 of 9 records" in caplog.text


def test_known_patients_are_kept_and_unknown_ones_stand_alone(tmp_path, caplog):
    groups = [texts(b"p1"), texts(b"p1"), texts(), texts(b"Unknown"), texts(b"nan")]
    ids = [texts(b"a"), texts(b" "), texts(), texts(b"d"), texts(b"e")]
    foreign(tmp_path / "train.tfrecord", random_images(5, SIZE), labels_of(5), group=groups, id=ids)
    foreign(tmp_path / "test.tfrecord", random_images(1, SIZE), [0], group=[texts(b"p2")], id=[texts(b"x")])
    caplog.set_level("INFO")
    adopted = adopt(str(tmp_path), CLASS_NAMES, **options())
    made = [f"train/train.tfrecord/{n}" for n in range(5)]
    read = read_split_fields(adopted, "train")
    assert [one.id for one in read] == ["a", made[1], made[2], "d", "e"]
    assert [one.group for one in read] == ["p1", "p1", made[2], "d", "e"]
    assert [one.has_patient for one in read] == [True, True, False, False, False]
    assert sorted(pictures_of_shards(adopted, quiet=True).patients()) == ["p1", "p2"]
    assert "ids: 2 of 6 records have none" in caplog.text
    assert "patients: 2 known, unknown in 3 of 6 records" in caplog.text
    assert re.search("test split .*'normal', 'pneumonia'", caplog.text)
    assert verify_dataset(str(tmp_path), 1).problems == ()


def test_a_known_patient_in_two_splits_is_refused_as_by_a_conversion(tmp_path):
    for split, patients in (("train", b"pqr"), ("val", b"qrs")):
        groups = [texts(bytes([letter])) for letter in patients]
        foreign(tmp_path / f"{split}.tfrecord", random_images(3, SIZE), labels_of(3), group=groups)
    with pytest.raises(DataError, match="2 patients .*'q' .*train and validation"):
        adopt(str(tmp_path), CLASS_NAMES, **options())
    assert not (tmp_path / "manifest.json").exists()


@pytest.mark.parametrize(
    "classes", [("a", "a", "b"), ("covid", "Covid", "b"), ("a|b", "c", "d"), ("a", "nan", "b")]
)
def test_classes_that_are_not_different_names_are_refused(directory, classes):
    with pytest.raises(UsageError, match="--classes="):
        adopt(str(directory), classes, **options())


def test_files_of_records_are_known_by_their_bytes_and_none_is_missing(tmp_path, caplog):
    for name in ("chest-train-00000", "chest-val-00000", "test.tfr"):
        foreign(tmp_path / name, random_images(3, SIZE), labels_of(3))
    (tmp_path / "notes.txt").write_text("not a record")
    foreign(tmp_path / ".train.tfrecord", random_images(3, SIZE), labels_of(3))
    foreign(tmp_path / "events.out.tfevents.1", random_images(3, SIZE), labels_of(3))
    (tmp_path / "more").mkdir()
    foreign(tmp_path / "more/train.tfrecord", random_images(3, SIZE), labels_of(3))
    with pytest.raises(UsageError, match="more/train.tfrecord .*folder"):
        adopt(str(tmp_path), CLASS_NAMES, **options())
    shutil.rmtree(tmp_path / "more")
    caplog.set_level("INFO")
    adopted = adopt(str(tmp_path), CLASS_NAMES, **options())
    assert adopted.splits == ("test", "train", "validation")
    assert adopted.records == 9
    assert "2 files that are not TFRecords, such as events.out.tfevents.1" in caplog.text


def test_two_records_of_one_id_are_refused(tmp_path):
    foreign(tmp_path / "train.tfrecord", random_images(2, SIZE), [0, 1], id=[texts(b"x"), texts(b"x")])
    with pytest.raises(DataError, match="2 records .*'x'"):
        adopt(str(tmp_path), CLASS_NAMES, **options())


def test_a_label_behind_the_pixels_is_found(tmp_path):
    """As programs write it that keep the order of their features."""
    entries = []
    for name, feature in (("image", floats(random_images(1, SIZE))), ("label", integers(2))):
        one = tf.train.Example(features=tf.train.Features(feature={name: feature}))
        entries.append(one.features.SerializeToString())
    with tf.io.TFRecordWriter(str(tmp_path / "train.tfrecord")) as writer:
        body = b"".join(entries)
        writer.write(tf.train.Example(features=tf.train.Features.FromString(body)).SerializeToString())
        # Field 1 of length-delimited content, as `features` is of an Example.
        writer.write(tf.train.BytesList(value=[body]).SerializeToString())
    adopted = adopt(str(tmp_path), CLASS_NAMES, **options())
    assert [one.label for one in read_split_fields(adopted, "train")] == [2, 2]


def test_what_an_early_scan_took_is_refused_when_it_is_opened(tmp_path):
    """It took the first of several labels: manifest and index are there, and every label is wrong."""
    path = tmp_path / "train.tfrecord"
    foreign(path, random_images(2, SIZE), [1, 0])
    adopted = adopt(str(tmp_path), CLASS_NAMES, **options())
    index = read_index(adopted)
    Pipeline(adopted)
    foreign(path, random_images(2, SIZE), [0, 0], label=[integers(0, 1), integers(1, 0)])
    frames = [(offset, len(data)) for offset, data in read_frames(path)]
    index["record"], index["length"] = np.transpose(frames)
    early = dataclasses.replace(
        adopted,
        shards=(dataclasses.replace(adopted.shards[0], bytes=path.stat().st_size),),
        index_sha256=write_index(str(tmp_path), index),
    )
    for on_bad_record in ("fail", "skip"):
        with pytest.raises(
            DataError, match=r"train\.tfrecord: record 0: .*holds 2 values; an early scan.*delete"
        ):
            Pipeline(early, ReadOptions(on_bad_record=on_bad_record))
    with pytest.raises(DataError, match="record 0: feature 'label' .*one int64"):
        read_split_fields(early, "train")


def test_values_that_an_early_scan_took_are_refused_and_damage_is_left_to_the_readers(tmp_path):
    path = tmp_path / "train.tfrecord"
    foreign(path, random_images(2, SIZE) * 255, [1, 0])
    adopted = adopt(str(tmp_path), CLASS_NAMES, **options(value_range=VALUE_RANGES["0..255"]))
    Pipeline(adopted)
    early = dataclasses.replace(adopted, value_range=VALUE_RANGES["0..1"], mean=(), std=())
    with pytest.raises(DataError, match="record 0: the values of .*--value_range=0..255.*an early scan"):
        Pipeline(early)
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="record 1: the values of"):  # the first that is not damaged
        Pipeline(early)
    Pipeline(adopted)


def test_the_inputs_that_failed_in_the_field(shared, tmp_path):
    with pytest.raises(DataError, match=r"train\.tfrecord: record 0: .*'label' .*one int64.*2 values"):
        Pipeline(read_manifest(str(shared / "data/field/label_onehot")))
    for name, message in (("label_onehot", "record 0 .*'label' .*one int64"), ("gzip", "compressed")):
        directory = tmp_path / name
        directory.mkdir()
        for path in (shared / "data/field" / name).glob("*.tfrecord"):
            shutil.copy(path, directory)
        with pytest.raises(DataError, match=message):
            adopt(str(directory), ("covid", "normal"), **options(size=96))


def test_a_damaged_record_is_named(directory):
    path = directory / "train_1.tfrecord"
    content = bytearray(path.read_bytes())
    content[60] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"train_1\.tfrecord: record 0 "):
        adopt(str(directory), CLASS_NAMES, **options())


def test_a_record_that_claims_more_than_its_pixels_and_names_is_not_read(directory):
    """The file is so long, and behind its first bytes a hole: it costs no disk."""
    path = directory / "train_1.tfrecord"
    head = (80 << 20).to_bytes(8, "little")
    path.write_bytes(head + masked_crc(crc32c(head)).to_bytes(4, "little"))
    os.truncate(path, (80 << 20) + 16)
    with pytest.raises(DataError, match=r"train_1\.tfrecord: record 0 .*it claims 83886080 bytes"):
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
