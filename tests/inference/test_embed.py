"""Embeddings: the features of a float64 reference, and all else of the records as it was."""

import dataclasses
import errno
import os
import pathlib
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from embeddings import FEATURES, SIZE, pictures, stored
from in_process import run_command
from sharder_fixtures import make_source
from shards import CLASS_NAMES, random_images, write_shards

import cxr_train
from cxr_data.audit.pictures import pictures_of_shards
from cxr_data.convert.config import SharderConfig
from cxr_data.convert.convert import make_tfrecords
from cxr_data.core.errors import DataError, UsageError
from cxr_data.input.batch import expand_image
from cxr_data.input.pipeline import Pipeline
from cxr_data.records.example import Fields
from cxr_data.records.foreign import adopt
from cxr_data.records.index import read_index, read_split_fields, write_index
from cxr_data.records.manifest import read_manifest
from cxr_data.records.shard_file import ShardFile
from cxr_data.records.verify import verify_dataset
from cxr_train.engine.strategy import choose_placement
from cxr_train.inference import encoder as encoders
from cxr_train.inference.embedder import embed_dataset
from cxr_train.models.classifier import build_model
from cxr_train.runs.config import TrainConfig

pytestmark = pytest.mark.usefixtures("tiny")


@pytest.fixture(scope="module")
def placement():
    return choose_placement("one", "float32", "off")


@pytest.fixture(scope="module")
def encoder():
    """The tiny backbone, whose BatchNorm has statistics that are not those of its start."""
    keras.utils.set_random_seed(1)
    made = encoders.backbone_encoder("tiny", SIZE, weights="none", input_range="unit")
    for weight in made.model.weights:
        if "variance" in weight.path or "gamma" in weight.path:
            weight.assign(tf.random.uniform(weight.shape, 0.5, 2.0))
        elif len(weight.shape) == 1:
            weight.assign(tf.random.normal(weight.shape))
    return made


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def embedded(data, encoder, placement, tmp_path_factory):
    output = tmp_path_factory.mktemp("embedded") / "float32"
    return embed_dataset(data, encoder, placement, str(output), dtype="float32", batch_size=5)


@pytest.fixture(scope="module")
def half(data, encoder, placement, tmp_path_factory):
    output = tmp_path_factory.mktemp("embedded") / "half"
    return embed_dataset(data, encoder, placement, str(output), dtype="float16", batch_size=8)


def reference(encoder, images):
    """Features float64 [N, F] of images [N, S, S, 3]: convolution, relu, BatchNorm, mean, one by one."""
    convolution, norm = (layer for layer in encoder.model.layers if layer.weights)
    kernel, bias = (np.asarray(weight, np.float64) for weight in convolution.weights)
    gamma, beta, mean, variance = (np.asarray(weight, np.float64) for weight in norm.weights)
    maps = np.zeros((len(images), SIZE - 2, SIZE - 2, FEATURES))
    for row in range(SIZE - 2):
        for column in range(SIZE - 2):
            patch = images[:, row : row + 3, column : column + 3].astype(np.float64)
            maps[:, row, column] = np.maximum(np.tensordot(patch, kernel, 3) + bias, 0)
    normal = (maps - mean) / np.sqrt(variance + norm.epsilon) * gamma + beta
    return normal.mean(axis=(1, 2))


@pytest.mark.parametrize("split", ["train", "validation"])
def test_features_are_those_of_a_float64_reference(data, encoder, embedded, split):
    images = expand_image(tf.constant(stored(data, split))).numpy()
    found = stored(embedded, split)
    assert found.shape == (len(images), 1, 1, FEATURES)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:, 0, 0], reference(encoder, images), rtol=1e-5, atol=1e-6)


def test_float16_rounds_the_features_once(embedded, half):
    np.testing.assert_array_equal(stored(half, "train"), stored(embedded, "train").astype(np.float16))
    assert half.embedding == embedded.embedding


def test_two_replicas_write_the_same_in_the_same_order(data, encoder, embedded, tmp_path):
    placement = choose_placement("mirrored", "float32", "off")
    assert placement.replicas == 2
    with placement.strategy.scope():
        model = keras.models.clone_model(encoder.model)
    model.set_weights(encoder.model.get_weights())
    replicated = dataclasses.replace(encoder, model=model)
    made = embed_dataset(data, replicated, placement, str(tmp_path / "made"), dtype="float32", batch_size=5)
    for split in data.splits:
        np.testing.assert_allclose(stored(made, split), stored(embedded, split), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("findings", [0, 2])
def test_all_but_the_pixels_is_as_it_was(encoder, placement, tmp_path, findings):
    pictures = {"train": random_images(9), "test": random_images(5)}
    data = write_shards(tmp_path / "data", pictures, findings=findings, sources=("a", "b", "c"))
    made = embed_dataset(data, encoder, placement, str(tmp_path / "made"), dtype="float16", batch_size=4)
    for split in data.splits:
        assert read_split_fields(made, split) == read_split_fields(data, split)
    for name in ("label", "source", "shard", *(["labels"] if findings else [])):
        np.testing.assert_array_equal(read_index(made)[name], read_index(data)[name])
    for name in ("counts", "class_names", "sources", "task", "splits", "source_counts"):
        assert getattr(made, name) == getattr(data, name)
    assert [shard.name for shard in made.shards] == [shard.name for shard in data.shards]
    assert read_manifest(str(tmp_path / "made")) == made


def test_the_index_says_the_sources(data, encoder, placement, embedded, tmp_path):
    copy = shutil.copytree(data.directory, tmp_path / "copy")
    index = read_index(data).copy()
    index["source"] = 1 - index["source"]
    other = dataclasses.replace(data, directory=str(copy), index_sha256=write_index(str(copy), index))
    made = embed_dataset(other, encoder, placement, str(tmp_path / "made"), dtype="float32", batch_size=5)
    for split in data.splits:
        found, before = read_split_fields(made, split), read_split_fields(data, split)
        assert [{one.source, old.source} for one, old in zip(found, before, strict=True)] == [
            {"here", "there"}
        ] * len(before)
        for name in ("label", "id", "sha256", "group", "labels"):
            assert [getattr(one, name) for one in found] == [getattr(old, name) for old in before]
        np.testing.assert_array_equal(stored(made, split), stored(embedded, split))


def test_records_without_an_id_get_one(encoder, placement, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, [3, SIZE, SIZE, 1], np.uint8)
    file = ShardFile(str(tmp_path / "train.tfrecord"))
    for label, image in enumerate(pixels):
        file.append(Fields(label, "", "", ""), image)
    file.finish()
    file.close()
    data = adopt(str(tmp_path), CLASS_NAMES, size=SIZE, channels=1, dtype="uint8")
    made = embed_dataset(data, encoder, placement, str(tmp_path / "made"), dtype="float32", batch_size=5)
    assert read_split_fields(made, "train") == read_split_fields(data, "train")
    assert all(one.id for one in read_split_fields(made, "train"))


def test_a_head_on_embeddings_gives_the_logits_of_the_whole_network(data, encoder, embedded):
    keras.utils.set_random_seed(2)
    whole = build_model("tiny", classes=3, image_size=SIZE, head=(6,))
    *of_backbone, _, _, _, _ = whole.weights
    for mine, its in zip(of_backbone, encoder.model.weights, strict=True):
        mine.assign(its)
    alone = build_model("none", classes=3, image_size=1, features=FEATURES, head=(6,))
    for mine, its in zip(alone.weights, whole.weights[len(of_backbone) :], strict=True):
        mine.assign(its)
    (pictures,) = Pipeline(data).evaluation_dataset("train", batch_size=23)
    (features,) = Pipeline(embedded).evaluation_dataset("train", batch_size=23)
    np.testing.assert_array_equal(pictures["label"], features["label"])
    np.testing.assert_allclose(
        alone(expand_image(features["image"]), training=False),
        whole(expand_image(pictures["image"]), training=False),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_plain_tensorflow_reads_the_records(embedded, half, dtype):
    made = embedded if dtype == "float32" else half
    as_bytes = tf.io.FixedLenFeature([], tf.string)
    image = tf.io.FixedLenFeature([FEATURES], tf.float32) if dtype == "float32" else as_bytes
    features = {"id": as_bytes, "source": as_bytes, "image": image}
    found = []
    for record in tf.data.TFRecordDataset([made.path(shard) for shard in made.shards_of("train")]):
        one = tf.io.parse_single_example(record, features)
        values = one["image"] if dtype == "float32" else tf.io.decode_raw(one["image"], tf.float16)
        found.append((one["id"].numpy().decode(), values.numpy()))
    np.testing.assert_array_equal([values for _, values in found], stored(made, "train")[:, 0, 0])
    assert [name for name, _ in found] == [fields.id for fields in read_split_fields(made, "train")]


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted")
    make_source(folder / "source", images=18)
    options = SharderConfig(str(folder / "source"), str(folder / "shards"), size=SIZE, workers=0, quiet=True)
    return make_tfrecords(options)


def test_a_finished_set_is_verified_and_a_feature_that_is_no_number_is_found(
    converted, encoder, placement, tmp_path
):
    made = embed_dataset(converted, encoder, placement, str(tmp_path / "made"), dtype="float32", batch_size=8)
    assert verify_dataset(made.directory, 1).problems == ()
    for name in ("audit.json", "features.npy", "quarantine.jsonl"):
        assert (
            pathlib.Path(made.directory, name).read_bytes()
            == pathlib.Path(converted.directory, name).read_bytes()
        )
    with pytest.raises(DataError, match="embeddings"):
        pictures_of_shards(made)
    row = read_index(made)[0]
    path = pathlib.Path(made.path(made.shards[0]))
    content = bytearray(path.read_bytes())
    content[row["payload"] : row["payload"] + 4] = np.float32(np.nan).tobytes()
    path.write_bytes(content)
    assert "content is damaged" in verify_dataset(made.directory, 1).problems[0]


class _Stops:
    """An encoder that fails after some batches."""

    def __init__(self, encoder, batches):
        self.model, self.batches = encoder.model, batches

    def __call__(self, images, training):
        def check(images):
            self.batches -= 1
            if self.batches < 0:
                raise KeyboardInterrupt
            return images

        images = tf.ensure_shape(tf.numpy_function(check, [images], tf.float32), images.shape)
        return self.model(images, training=training)


def test_after_a_stop_the_rest_is_computed_and_the_bytes_are_the_same(
    data, encoder, placement, embedded, tmp_path
):
    output = tmp_path / "made"
    arguments = (placement, str(output))
    for batches in (0, 3):
        stops = dataclasses.replace(encoder, model=_Stops(encoder, batches))
        with pytest.raises(BaseException, match="KeyboardInterrupt"):
            embed_dataset(data, stops, *arguments, dtype="float32", batch_size=4)
        assert not output.exists()
        (unfinished,) = tmp_path.iterdir()
        assert not (unfinished / "manifest.json").exists()
    whole = sorted(unfinished.glob("*.tfrecord"))
    assert len(whole) == 3
    # What a loss of power, and a process that was killed, leave.
    whole[0].write_bytes(whole[0].read_bytes()[:-1])
    (unfinished / f"train-00004-of-00006.tfrecord.{'0' * 16}.tmp").write_bytes(b"half")
    rest = _Stops(encoder, 8 - 2)
    embed_dataset(data, dataclasses.replace(encoder, model=rest), *arguments, dtype="float32", batch_size=4)
    assert [*tmp_path.iterdir()] == [output]
    for path in sorted(pathlib.Path(embedded.directory).iterdir()):
        assert (output / path.name).read_bytes() == path.read_bytes(), path.name


def test_another_embedding_takes_the_place_of_an_unfinished_one(data, encoder, placement, tmp_path):
    output = tmp_path / "made"
    stops = dataclasses.replace(encoder, model=_Stops(encoder, 3))
    with pytest.raises(BaseException, match="KeyboardInterrupt"):
        embed_dataset(data, stops, placement, str(output), dtype="float32", batch_size=4)
    embed_dataset(data, encoder, placement, str(output), dtype="float16", batch_size=4)
    assert [*tmp_path.iterdir()] == [output]
    # As it is left by a process that was killed between the two renames.
    output.rename(tmp_path / "made.replaced.tmp")
    for _ in range(2):
        again = embed_dataset(data, encoder, placement, str(output), dtype="float32", batch_size=4)
        assert [*tmp_path.iterdir()] == [output]
    assert again.dtype == read_manifest(str(output)).dtype == "float32"


def test_a_full_disk_is_one_line_and_leaves_no_half_shard(data, encoder, placement, tmp_path, monkeypatch):
    append = ShardFile.append_behind

    def fill(file, header, label, payload):
        if b"train/9.png" in header:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return append(file, header, label, payload)

    monkeypatch.setattr(ShardFile, "append_behind", fill)
    with pytest.raises(DataError, match="--output=.*No space left"):
        embed_dataset(data, encoder, placement, str(tmp_path / "made"), dtype="float32", batch_size=4)
    (unfinished,) = tmp_path.iterdir()
    assert len([*unfinished.iterdir()]) == 2


@pytest.mark.parametrize(
    ("value", "dtype", "error"), [(1e5, "float16", UsageError), (np.nan, "float32", DataError)]
)
def test_features_that_the_dtype_cannot_hold_are_refused(
    data, encoder, placement, tmp_path, value, dtype, error
):
    wrong = dataclasses.replace(
        encoder, model=lambda images, training: tf.fill([tf.shape(images)[0], FEATURES], np.float32(value))
    )
    with pytest.raises(error, match="train/0.png"):
        embed_dataset(data, wrong, placement, str(tmp_path / "made"), dtype=dtype, batch_size=4)
    assert not (tmp_path / "made").exists()


def test_a_damaged_picture_is_named(encoder, placement, tmp_path):
    data = write_shards(tmp_path / "data", {"train": random_images(9)})
    path = pathlib.Path(data.path(data.shards[1]))
    content = bytearray(path.read_bytes())
    content[read_index(data)["payload"][5] + 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=path.name):
        embed_dataset(data, encoder, placement, str(tmp_path / "made"), dtype="float32", batch_size=2)
    assert not (tmp_path / "made").exists()


# -- a head on them ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(embedded, tmp_path_factory):
    config = TrainConfig(
        "none",
        embedded.directory,
        str(tmp_path_factory.mktemp("run") / "run"),
        epochs=2,
        batch_size=4,
        weights="none",
        head=(6,),
    )
    return cxr_train.train(config)


def test_a_run_on_embeddings_is_trained_evaluated_and_reported(run, embedded):
    assert len(run.epochs) == 2
    assert len(run.predictions("validation").ids) == 7
    page = (run.directory / "report/index.html").read_text()
    assert "tiny pooled, 4 features of 8 px" in page
    assert "cxr_train.explain" not in page
    assert "--probe_images" not in page
    assert run.model().count_params() == FEATURES * 6 + 6 + 6 * 3 + 3


def test_other_embeddings_and_pictures_are_not_evaluated(run, data, half, encoder, placement, tmp_path):
    for other in (
        data,
        embed_dataset(
            data,
            dataclasses.replace(encoder, description="another encoder"),
            placement,
            str(tmp_path / "other"),
            dtype="float32",
            batch_size=8,
        ),
    ):
        with pytest.raises(DataError, match="embed|pictures"):
            run.evaluate("validation", data=other.directory)
    summary = run.evaluate("validation", data=half.directory, output=str(tmp_path / "evaluated"))
    assert summary["images"] == 7
    assert summary["probe"] is None


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("cxr_train.explain", []),
        ("cxr_train.export", ["--output=exported"]),
        ("cxr_train.predict", ["picture.png"]),
    ],
    ids=["explain", "export", "predict"],
)
def test_what_needs_pictures_is_refused(run, tmp_path, monkeypatch, module, arguments):
    monkeypatch.chdir(tmp_path)
    done = run_command(module, f"--run_dir={run.directory}", *arguments)
    assert done.code == 2
    assert "--run_dir" in done.output


@pytest.mark.parametrize(
    "flags",
    [
        {"weights": "imagenet"},
        {"input_range": "imagenet"},
        {"batch_norm_momentum": 0.9},
        {"attention": "se"},
        {"pooling": "gem"},
        {"fda_split": "train@only=here"},
        {"recipe": cxr_train.Recipe(freeze="backbone")},
        {"recipe": cxr_train.Recipe(augment="rotation")},
        {"recipe": cxr_train.Recipe(augment_flip=True)},
        {"recipe": cxr_train.Recipe(backbone_rate_factor=0.1)},
    ],
)
def test_settings_of_a_backbone_and_of_pictures_are_refused_without_one(flags):
    with pytest.raises(UsageError, match="--backbone=none"):
        TrainConfig("none", "data", "run", **{"weights": "none", **flags})


def test_backbone_and_data_must_fit(data, embedded, tmp_path):
    for backbone, directory in (("none", data.directory), ("mobilenet_v2", embedded.directory)):
        done = run_command(
            "cxr_train.main",
            f"--backbone={backbone}",
            f"--data={directory}",
            f"--run_dir={tmp_path}/run",
            "--weights=none",
        )
        assert done.code == 2
        assert f"--backbone={backbone}" in done.output
