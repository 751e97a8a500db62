"""The read side: every example once, in a seeded order, padded and masked, the same after a stop."""

import numpy as np
import pytest
import tensorflow as tf
from shards import labels_of, random_images, write_shards

from cxr_data import pipeline
from cxr_data.errors import DataError, UsageError
from cxr_data.manifest import read_manifest


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    splits = {"train": random_images(23), "validation": random_images(7, seed=1)}
    return write_shards(tmp_path_factory.mktemp("data"), splits)


def indices(dataset) -> list[int]:
    return [int(i) for batch in dataset for i in batch["index"]]


def training(manifest, **changes):
    return pipeline.training_dataset(manifest, "train", **{"batch_size": 5, "seed": 3, "epoch": 0, **changes})


def test_training_batches_are_full_and_hold_each_example_at_most_once(manifest):
    seen = indices(training(manifest))
    assert len(seen) == 20
    assert len(set(seen)) == 20
    assert set(seen) <= set(range(23))


def test_examples_are_what_was_written(manifest):
    images = random_images(23)
    for batch in training(manifest):
        np.testing.assert_array_equal(batch["image"], images[batch["index"].numpy()])
        np.testing.assert_array_equal(batch["label"], labels_of(23)[batch["index"].numpy()])
        assert batch["image"].dtype == tf.float32
        assert batch["label"].dtype == tf.int32


def test_the_order_depends_on_seed_and_epoch_only(manifest):
    first = indices(training(manifest))
    assert indices(training(manifest)) == first
    assert indices(training(manifest, epoch=1)) != first
    assert indices(training(manifest, seed=4)) != first
    assert first != sorted(first)


@pytest.mark.parametrize("stopped_after", range(5))
def test_going_on_in_mid_epoch_repeats_and_skips_nothing(manifest, stopped_after):
    whole = indices(training(manifest))
    rest = training(manifest, first_step=stopped_after)
    assert indices(rest) == whole[5 * stopped_after :]
    assert len(rest) == 4 - stopped_after


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 10])
def test_evaluation_sees_every_image_once_in_order(manifest, batch_size):
    dataset = pipeline.evaluation_dataset(manifest, "validation", batch_size=batch_size)
    seen = []
    for batch in dataset:
        assert batch["image"].shape == (batch_size, 8, 8, 3)
        real = batch["weight"].numpy() > 0
        np.testing.assert_array_equal(batch["index"].numpy() == -1, ~real)
        assert not batch["image"].numpy()[~real].any()
        seen += list(batch["index"].numpy()[real])
    assert seen == list(range(7))


def test_padding_is_the_same_eagerly_and_in_a_dataset(manifest):
    batch = {
        "label": tf.constant([2, 1]),
        "index": tf.constant([5, 6], tf.int64),
        "image": tf.ones([2, 3, 3, 1]),
    }
    eager = pipeline.pad_batch(batch, 4)
    (mapped,) = tf.data.Dataset.from_tensors(batch).map(lambda b: pipeline.pad_batch(b, 4))
    for key, expected in {"label": [2, 1, 0, 0], "index": [5, 6, -1, -1]}.items():
        np.testing.assert_array_equal(eager[key], expected)
        np.testing.assert_array_equal(mapped[key], expected)
    assert eager["image"].numpy().sum() == mapped["image"].numpy().sum() == 18


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_encoding_gives_the_same_float_images(tmp_path, dtype, channels):
    images = random_images(5, channels=channels)
    manifest = write_shards(tmp_path, {"train": images}, dtype=dtype)
    (batch,) = pipeline.evaluation_dataset(manifest, "train", batch_size=5)
    assert batch["image"].shape == (5, 8, 8, 3)
    tolerance = {"float32": 0, "float16": 2**-11, "uint8": 0.5 / 255 + 1e-6}[dtype]
    np.testing.assert_allclose(batch["image"], np.broadcast_to(images, [5, 8, 8, 3]), atol=tolerance)


def test_shards_parse_with_nothing_but_tensorflow(manifest):
    shards = [manifest.path(shard) for shard in manifest.shards_of("train")]
    spec = {
        "image": tf.io.FixedLenFeature([8, 8, 3], tf.float32),
        "label": tf.io.FixedLenFeature([], tf.int64),
    }
    parsed = [tf.io.parse_single_example(raw, spec) for raw in tf.data.TFRecordDataset(shards)]
    np.testing.assert_array_equal([p["image"] for p in parsed], random_images(23))
    assert [int(p["label"]) for p in parsed] == list(labels_of(23))


def test_fields_are_read_by_position(manifest):
    fields = pipeline.read_split_fields(manifest, "validation")
    assert [field.id for field in fields] == [f"validation/{i}.png" for i in range(7)]
    assert [field.label for field in fields] == list(labels_of(7))


def test_a_batch_larger_than_the_split_names_the_flag(manifest):
    with pytest.raises(UsageError, match="--batch_size=24: split 'train' has only 23 images"):
        training(manifest, batch_size=24)


def test_a_missing_split_is_named(manifest):
    with pytest.raises(DataError, match="no split 'test', only train, validation"):
        pipeline.evaluation_dataset(manifest, "test", batch_size=2)


def test_damaged_content_is_a_data_error_that_names_the_directory(tmp_path):
    manifest = write_shards(tmp_path, {"train": random_images(6)})
    shard = tmp_path / manifest.shards[1].name
    content = bytearray(shard.read_bytes())
    content[-100] ^= 1
    shard.write_bytes(content)
    dataset = training(read_manifest(str(tmp_path)), batch_size=2)
    expected = pytest.raises(DataError, match="damaged.*verify_tfrecords --data=" + str(tmp_path))
    with expected, pipeline.clear_data_errors(manifest):
        indices(dataset)
