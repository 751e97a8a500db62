"""The read side: every example once, in a seeded order, padded and masked, the same after a stop."""

import dataclasses
import gc
import weakref

import numpy as np
import pytest
import tensorflow as tf
from shards import labels_of, random_images, write_shards

from cxr_data.core.errors import DataError, UsageError
from cxr_data.input import order, pipeline
from cxr_data.input.batch import expand_image, pad_batch
from cxr_data.input.data_errors import clear_data_errors
from cxr_data.input.options import ReadOptions
from cxr_data.input.order import InputWorker
from cxr_data.records.index import read_split_fields
from cxr_data.records.manifest import read_manifest


def indices(dataset) -> list[int]:
    return [int(i) for batch in dataset for i in batch["index"]]


both_readers = pytest.mark.parametrize("reader", ["indexed", "stream"])


def open_pipeline(manifest, reader="auto", **options) -> pipeline.Pipeline:
    return pipeline.Pipeline(manifest, ReadOptions(reader=reader, **options))


def training(manifest, reader="auto", **changes):
    arguments = {"batch_size": 5, "seed": 3, "epoch": 0, **changes}
    return open_pipeline(manifest, reader).training_dataset("train", **arguments)


@both_readers
def test_training_batches_are_full_and_hold_each_example_at_most_once(manifest, reader):
    seen = indices(training(manifest, reader))
    assert len(seen) == 20
    assert len(set(seen)) == 20
    assert set(seen) <= set(range(23))


def test_both_readers_give_the_same_examples_in_an_epoch(manifest):
    for epoch in range(4):
        indexed, streamed = (indices(training(manifest, r, epoch=epoch)) for r in ("indexed", "stream"))
        assert sorted(indexed) == sorted(streamed)
        assert indexed != streamed


@both_readers
def test_examples_are_what_was_written(manifest, reader):
    images = random_images(23)
    for batch in training(manifest, reader):
        np.testing.assert_array_equal(batch["image"], images[batch["index"].numpy()])
        np.testing.assert_array_equal(batch["label"], labels_of(23)[batch["index"].numpy()])
        assert batch["image"].dtype == tf.float32
        assert batch["label"].dtype == tf.int32


@both_readers
def test_the_order_depends_on_seed_and_epoch_only(manifest, reader):
    first = indices(training(manifest, reader))
    assert indices(training(manifest, reader)) == first
    assert indices(training(manifest, reader, epoch=1)) != first
    assert indices(training(manifest, reader, seed=4)) != first
    assert first != sorted(first)


@both_readers
@pytest.mark.parametrize("stopped_after", range(5))
def test_going_on_in_mid_epoch_repeats_and_skips_nothing(manifest, reader, stopped_after):
    whole = indices(training(manifest, reader))
    rest = training(manifest, reader, first_step=stopped_after)
    assert indices(rest) == whole[5 * stopped_after :]
    assert len(rest) == 4 - stopped_after


@both_readers
@pytest.mark.parametrize("first_step", [0, 3])
def test_several_epochs_in_one_dataset_are_the_epochs_one_after_the_other(manifest, reader, first_step):
    together = training(manifest, reader, epoch=1, epochs=3, first_step=first_step)
    apart = [indices(training(manifest, reader, epoch=epoch)) for epoch in (1, 2, 3)]
    assert indices(together) == sum(apart, [])[5 * first_step :]  # noqa: RUF017  (three short lists)
    assert len(together) == 12 - first_step


@both_readers
@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 10])
def test_evaluation_sees_every_image_once_in_order(manifest, reader, batch_size):
    dataset = open_pipeline(manifest, reader).evaluation_dataset("validation", batch_size=batch_size)
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
    eager = pad_batch(batch, 4)
    (mapped,) = tf.data.Dataset.from_tensors(batch).map(lambda b: pad_batch(b, 4))
    for key, expected in {"label": [2, 1, 0, 0], "index": [5, 6, -1, -1]}.items():
        np.testing.assert_array_equal(eager[key], expected)
        np.testing.assert_array_equal(mapped[key], expected)
    assert eager["image"].numpy().sum() == mapped["image"].numpy().sum() == 18


@both_readers
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_encoding_travels_as_stored_and_expands_to_the_same_images(tmp_path, reader, dtype, channels):
    images = random_images(5, channels=channels)
    manifest = write_shards(tmp_path, {"train": images}, dtype=dtype)
    (batch,) = open_pipeline(manifest, reader).evaluation_dataset("train", batch_size=5)
    assert batch["image"].dtype == dtype
    assert batch["image"].shape == (5, 8, 8, channels)
    tolerance = {"float32": 0, "float16": 2**-11, "uint8": 0.5 / 255 + 1e-6}[dtype]
    eager = expand_image(batch["image"])
    compiled = tf.function(expand_image, jit_compile=True)(batch["image"])
    for expanded in (eager, compiled):
        assert expanded.dtype == tf.float32
        np.testing.assert_allclose(expanded, np.broadcast_to(images, [5, 8, 8, 3]), atol=tolerance)


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
    fields = read_split_fields(manifest, "validation")
    assert [field.id for field in fields] == [f"validation/{i}.png" for i in range(7)]
    assert [field.label for field in fields] == list(labels_of(7))


def test_a_batch_larger_than_the_split_names_the_flag(manifest):
    with pytest.raises(UsageError, match="--batch_size=24: .*'train' .*23"):
        training(manifest, batch_size=24)


def test_a_missing_split_is_named(manifest):
    with pytest.raises(DataError, match="'test', .*train, validation"):
        open_pipeline(manifest).evaluation_dataset("test", batch_size=2)


# One of either, as many, multiples, and numbers without a common divisor.
@both_readers
@pytest.mark.parametrize(
    ("workers", "shards"),
    [
        *[(3, 1), (2, 4), (3, 5)],
        *(
            pytest.param(*pair, marks=pytest.mark.ci)
            for pair in [(1, 1), (1, 7), (4, 2), (7, 1), (3, 3), (5, 3), (4, 6), (6, 4), (7, 5), (5, 7)]
        ),
    ],
)
def test_every_example_is_read_by_one_worker_once_an_epoch(tmp_path, reader, workers, shards):
    count = 29
    manifest = write_shards(
        tmp_path, {"train": random_images(count, 2)}, records_per_shard=-(-count // shards)
    )
    batch_size = 2 * workers
    parts = []
    for number in range(workers):
        options = ReadOptions(reader=reader, worker=InputWorker(number, workers))
        dataset = pipeline.Pipeline(manifest, options).training_dataset(
            "train", batch_size=batch_size, seed=1, epoch=2
        )
        batches = [list(batch["index"].numpy()) for batch in dataset]
        assert [len(batch) for batch in batches] == [2] * (count // batch_size)
        parts.append(batches)
    seen = [int(i) for batches in parts for batch in batches for i in batch]
    assert len(set(seen)) == len(seen) == count // batch_size * batch_size
    alone = open_pipeline(manifest, reader).training_dataset("train", batch_size=batch_size, seed=1, epoch=2)
    assert sorted(seen) == sorted(indices(alone))
    if reader == "indexed":  # even each global batch is the same
        together = [[i for part in parts for i in part[step]] for step in range(count // batch_size)]
        assert together == [list(batch["index"].numpy()) for batch in alone]


def test_remote_shards_are_streamed_and_say_so(manifest):
    remote = dataclasses.replace(manifest, directory="s3://bucket/shards")
    chosen = pipeline.Pipeline(remote, ReadOptions(cache="none"))
    assert str(chosen.choices[0]) == "reader: stream (auto: remote shards)"
    with pytest.raises(UsageError, match="--reader=indexed: .*--cache"):
        pipeline.Pipeline(remote, ReadOptions(reader="indexed", cache="none"))


@pytest.mark.parametrize(
    "options", [{"reader": "tape"}, {"cache": "l2"}, {"verify": "no"}, {"on_bad_record": "x"}]
)
def test_an_unknown_value_names_the_flag(options):
    (flag,) = options
    with pytest.raises(UsageError, match=f"--{flag}={options[flag]}: "):
        ReadOptions(**options)


def test_flags_that_do_not_go_together_are_refused(manifest):
    with pytest.raises(UsageError, match="--cache=memory: .*--reader=stream"):
        open_pipeline(manifest, "stream", cache="memory")
    with pytest.raises(UsageError, match="--on_bad_record=skip: .*--reader=indexed"):
        open_pipeline(manifest, "stream", on_bad_record="skip")


def test_no_cache_shows_in_the_order_or_the_images(manifest, tmp_path):
    plain = open_pipeline(manifest)
    memory = open_pipeline(manifest, cache="memory")
    disk = open_pipeline(manifest, cache="disk", cache_dir=str(tmp_path))
    for epoch in range(3):
        epochs = [
            p.training_dataset("train", batch_size=4, seed=0, epoch=epoch) for p in (plain, memory, disk)
        ]
        for batches in zip(*epochs, strict=True):
            for batch in batches[1:]:
                for key in batch:
                    np.testing.assert_array_equal(batch[key], batches[0][key])
    for cached in (memory, disk):
        for batch, expected in zip(
            cached.evaluation_dataset("validation", batch_size=4),
            plain.evaluation_dataset("validation", batch_size=4),
            strict=True,
        ):
            np.testing.assert_array_equal(batch["image"], expected["image"])


def test_the_shuffle_of_the_streamed_reader_is_bounded_by_megabytes(tmp_path):
    manifest = write_shards(tmp_path, {"train": random_images(64, 16)}, records_per_shard=32)
    small = pipeline.Pipeline(manifest, ReadOptions(reader="stream", shuffle_mb=1))
    assert small.reader("train").shuffle_records == int(1e6 / (manifest.shards[0].bytes / 32))
    assert read_manifest(str(tmp_path)) == manifest


def test_the_fields_of_remote_records_are_those_of_local_ones(tmp_path):
    """`file://` goes the way of `s3://`: through tf.io.gfile."""
    pytest.importorskip("tensorflow_io")
    manifest = write_shards(tmp_path, {"train": random_images(10)})
    remote = dataclasses.replace(manifest, directory=f"file://{tmp_path}")
    assert read_split_fields(remote, "train") == read_split_fields(manifest, "train")
    (tmp_path / manifest.shards[1].name).unlink()
    with pytest.raises(DataError, match=f"file://.*{manifest.shards[1].name}"):
        read_split_fields(remote, "train")


def test_a_sample_in_micro_batches_is_that_of_balanced_batches(tmp_path):
    data = write_shards(tmp_path, {"train": random_images(48)}, sources=("nih", "guangzhou"))
    opened = open_pipeline(data, balance_batches=True)
    one = {"batch_size": 16, "seed": 0, "epoch": 1}
    micro = list(opened.training_sample("train", **one, batches=2, parts=2))
    assert [batch["label"].shape[0] for batch in micro] == [8] * 4
    assert indices(micro) == indices(opened.training_dataset("train", **one).take(2))


def test_only_errors_about_the_shards_are_told_as_damage(manifest):
    lost = tf.errors.NotFoundError(None, None, f"{manifest.path(manifest.shards[0])}; No such file")
    with pytest.raises(DataError, match=manifest.shards[0].name), clear_data_errors(manifest):
        raise lost
    many = tf.errors.ResourceExhaustedError(None, None, f"{manifest.shards[0].name}; Too many open files")
    with pytest.raises(DataError, match="ulimit"), clear_data_errors(manifest):
        raise many
    of_the_gpu = "No algorithm worked!  Error messages:\n  engine 1: UNKNOWN: CUDNN_STATUS_ALLOC_FAILED"
    with pytest.raises(tf.errors.NotFoundError), clear_data_errors(manifest):
        raise tf.errors.NotFoundError(None, None, of_the_gpu)


def test_what_was_read_leaves_no_array_behind(manifest, monkeypatch):
    """A run makes these datasets in each epoch: what they leave would grow with the data and the epochs."""
    made = []

    def remembering(function):
        def called(*arguments, **options):
            array = function(*arguments, **options)
            made.append(weakref.ref(array))
            return array

        return called

    monkeypatch.setattr(order, "evaluation_batches", remembering(order.evaluation_batches))
    monkeypatch.setattr(order.Epochs, "batches_of", remembering(order.Epochs.batches_of))
    opened = open_pipeline(manifest, "indexed")
    for dataset in (
        opened.evaluation_dataset("validation", batch_size=3),
        opened.training_sample("train", batch_size=4, seed=0, epoch=2, batches=3),
        opened.training_dataset("train", batch_size=4, seed=0, epoch=0, epochs=2),
    ):
        assert len(list(dataset)) == len(dataset)
    del dataset
    gc.collect()
    assert len(made) == 4
    assert all(array() is None for array in made)
