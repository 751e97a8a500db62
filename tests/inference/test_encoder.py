"""The command that writes embeddings, and its encoders: a backbone, a run, any SavedModel."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from embeddings import FEATURES, SIZE, pictures, stored
from in_process import run_command
from shards import random_images, write_shards

import cxr_train
from cxr_data.input.batch import expand_image
from cxr_data.records.manifest import read_manifest
from cxr_train.inference.encoder import backbone_encoder
from cxr_train.runs.config import TrainConfig

pytestmark = pytest.mark.usefixtures("tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return pictures(tmp_path_factory.mktemp("pictures"))


def embed(*arguments):
    return run_command("cxr_train.embed", "--compilation_cache=", *arguments)


def test_the_command_replaces_nothing_unless_it_is_allowed(data, tmp_path):
    flags = [f"--data={data.directory}", f"--output={tmp_path}/made", "--backbone=tiny", "--weights=none"]
    assert embed(*flags).code == 0
    before = read_manifest(str(tmp_path / "made"))
    assert (before.size, before.channels, before.dtype) == (1, FEATURES, "float32")
    assert embed(*flags, "--dtype=float16").code == 2
    assert read_manifest(str(tmp_path / "made")) == before
    assert embed(*flags, "--dtype=float16", "--overwrite").code == 0
    assert read_manifest(str(tmp_path / "made")).dtype == "float16"
    for place in (data.directory, f"{data.directory}/below"):  # pictures
        flags[1] = f"--output={place}"
        assert embed(*flags, "--overwrite").code == 2
    flags[0], flags[1] = f"--data={tmp_path}/made", f"--output={tmp_path}/twice"
    assert embed(*flags).code == 2


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--backbone=tiny", "--run_dir=run"],
        ["--backbone=tiny", "--input_range=caffe"],
        ["--run_dir=run", "--weights=none"],
        ["--backbone=none"],
        ["--backbone=tiny", "--weights=none", "--image_size=9"],
        ["--saved_model=nowhere"],
    ],
)
def test_flags_that_do_not_fit_are_refused(data, tmp_path, flags):
    done = embed(f"--data={data.directory}", f"--output={tmp_path}/made", *flags)
    assert done.code == 2
    assert len(done.stderr.splitlines()) == 1


def test_the_best_model_of_a_run_is_an_encoder(data, tmp_path):
    config = TrainConfig(
        "tiny", data.directory, str(tmp_path / "run"), epochs=1, batch_size=4, weights="none", head=(6,)
    )
    model = cxr_train.train(config).model()
    made = embed(f"--data={data.directory}", f"--output={tmp_path}/made", f"--run_dir={tmp_path}/run")
    assert made.code == 0
    pooled = keras.Model(model.inputs[0], model.get_layer("pooling").output)
    images = expand_image(tf.constant(stored(data, "train")))
    found = stored(read_manifest(str(tmp_path / "made")), "train")[:, 0, 0]
    np.testing.assert_allclose(found, pooled(images, training=False), rtol=1e-5, atol=1e-6)


def test_the_precision_of_features_is_a_part_of_their_description():
    def described(policy):
        return backbone_encoder("tiny", SIZE, weights="none", input_range="unit", policy=policy).description

    assert "computed" not in described("float32")
    assert "bfloat16" in described("mixed_bfloat16")


class _Foreign(tf.Module):
    """Takes pixels in [-1, 1], and gives maps and their mean."""

    def __init__(self):
        self.kernel = tf.Variable(tf.random.stateless_normal([3, 5], [1, 2]))

    @tf.function(input_signature=[tf.TensorSpec([None, SIZE, SIZE, 3], tf.float32)])
    def __call__(self, pixels):
        maps = tf.tensordot(pixels, self.kernel, 1)
        return {"maps": maps, "pooled": tf.reduce_mean(maps, axis=[1, 2]), "logits": maps[:, 0, 0, :1]}


def test_any_saved_model_is_an_encoder(data, tmp_path):
    model = _Foreign()
    tf.saved_model.save(model, str(tmp_path / "foreign"))
    flags = [f"--data={data.directory}", f"--saved_model={tmp_path}/foreign", "--input_range=-1..1"]
    images = 2 * expand_image(tf.constant(stored(data, "train"))) - 1
    for output in ("maps", "pooled"):
        made = embed(*flags, f"--output={tmp_path}/{output}", f"--saved_model_output={output}")
        assert made.code == 0, made.output
        found = stored(read_manifest(str(tmp_path / output)), "train")[:, 0, 0]
        np.testing.assert_allclose(found, model(images)["pooled"], rtol=1e-5, atol=1e-6)
        assert "signature serving_default, " in read_manifest(str(tmp_path / output)).embedding
    for output in ("", "logits", "nothing"):
        assert embed(*flags, f"--output={tmp_path}/x", f"--saved_model_output={output}").code == 2
    larger = write_shards(tmp_path / "larger", {"train": random_images(4, size=9)})
    refused = embed(
        *flags, f"--output={tmp_path}/x", "--saved_model_output=pooled", f"--data={larger.directory}"
    )
    assert refused.code == 2
    assert "--saved_model" in refused.output
