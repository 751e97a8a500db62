"""Every backbone takes compiled training steps in float32 and bfloat16, and learns from them."""

import json
import shutil
import subprocess
import sys

import compiled_steps
import h5py
import keras
import numpy as np
import pytest

from cxr_data.core.errors import DataError, UsageError
from cxr_train.models.backbones import BACKBONES
from cxr_train.models.classifier import build_model
from cxr_train.models.head import POOLING
from cxr_train.models.pretrained import build_backbone

POLICIES = ("float32", "mixed_bfloat16")


def assert_falls(losses: list[float]) -> None:
    assert np.isfinite(losses).all()
    assert min(losses[-3:]) < losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_loss_falls_on_a_fixed_batch_with_xla(backbone, policy):
    line = [sys.executable, compiled_steps.__file__, backbone, policy]
    result = subprocess.run(line, capture_output=True, text=True, timeout=3600, check=False)
    assert result.returncode == 0, result.stderr
    assert_falls(json.loads(result.stdout))


@pytest.mark.ci
def test_loss_falls_on_a_fixed_batch_without_xla():
    assert_falls(compiled_steps.loss_per_step("mobilenet_v2", "mixed_bfloat16", compile=False))


def test_an_unknown_backbone_lists_all_names():
    with pytest.raises(UsageError, match="--backbone=resnet: .*mobilenet_v2, vgg16"):
        build_backbone("resnet", 64, "none")


def test_a_too_small_image_names_the_least():
    with pytest.raises(UsageError, match="--image_size=64: xception .*71x71"):
        build_backbone("xception", 64, "none")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A MobileNetV2 with random weights, and their file."""
    keras.utils.set_random_seed(5)
    network = build_backbone("mobilenet_v2", 32, "none")
    path = tmp_path_factory.mktemp("saved") / "notop.weights.h5"
    network.save_weights(path)
    return network, path


def test_weights_round_trip(saved):
    source, path = saved
    keras.utils.set_random_seed(6)
    loaded = build_backbone("mobilenet_v2", 64, str(path))
    for weight, expected in zip(loaded.get_weights(), source.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_weights_of_another_architecture_are_refused_in_one_line(tmp_path):
    path = tmp_path / "vgg.weights.h5"
    build_backbone("vgg16", 32, "none").save_weights(path)
    with pytest.raises(DataError, match=r"vgg\.weights\.h5: .*mobilenet_v2") as caught:
        build_backbone("mobilenet_v2", 32, str(path))
    assert "\n" not in str(caught.value)


def test_a_file_that_lacks_a_layer_is_refused_although_keras_only_warns(saved, tmp_path):
    path = tmp_path / "part.weights.h5"
    shutil.copy(saved[1], path)
    with h5py.File(path, "r+") as file:
        del file["layers/batch_normalization_3/vars/2"]
    with pytest.raises(DataError, match=r"part\.weights\.h5: .*mobilenet_v2"):
        build_backbone("mobilenet_v2", 32, str(path))


def test_weights_that_are_no_file_or_no_weights_are_named(tmp_path):
    with pytest.raises(DataError, match=r"nothing\.h5: no such file"):
        build_backbone("mobilenet_v2", 32, str(tmp_path / "nothing.h5"))
    (tmp_path / "text.weights.h5").write_text("not HDF5")
    with pytest.raises(DataError, match=r"text\.weights\.h5: .*mobilenet_v2"):
        build_backbone("mobilenet_v2", 32, str(tmp_path / "text.weights.h5"))


def test_imagenet_weights_without_network_name_the_address_and_the_place(monkeypatch, tmp_path):
    def offline(*args, **kwargs):
        raise Exception("URL fetch failure")  # what get_file raises

    monkeypatch.setattr(keras.utils, "get_file", offline)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    with pytest.raises(DataError, match=r"https://.*vgg16_.*notop\.h5.*--weights=FILE") as caught:
        build_backbone("vgg16", 32, "imagenet")
    assert str(tmp_path) in str(caught.value)


@pytest.mark.slow
def test_convnext_is_keras_own_with_its_weights(tmp_path):
    keras.utils.set_random_seed(1)
    theirs = keras.applications.ConvNeXtTiny(include_top=False, weights=None, input_shape=(64, 64, 3))
    for variable in theirs.weights:
        if "layer_scale" in variable.path:  # 1e-6 would hide what a block does
            variable.assign(np.random.default_rng(0).normal(size=variable.shape))
    theirs.save_weights(tmp_path / "convnext.weights.h5")
    weights = str(tmp_path / "convnext.weights.h5")
    ours = build_model(
        "convnext_tiny", classes=1, image_size=64, head=(), weights=weights, input_range="imagenet"
    )
    pooling = ours.get_layer(POOLING)
    images = np.random.default_rng(0).random([2, 64, 64, 3], np.float32)
    own_map, features = keras.Model(ours.inputs[0], [pooling.input, pooling.output])(images)
    expected = theirs(255 * images)
    np.testing.assert_allclose(own_map, expected, atol=1e-4)
    np.testing.assert_allclose(features, np.mean(expected, axis=(1, 2)), atol=1e-4)
    # Keras' classifier takes the mean first, and then normalizes.
    (*_, norm) = theirs.layers
    before = keras.Model(theirs.inputs[0], norm.input)(255 * images)
    of_classifier = norm(np.mean(before, axis=(1, 2), keepdims=True))[:, 0, 0]
    assert np.abs(features - of_classifier).max() > 0.01
    with pytest.raises(DataError, match=r"convnext\.weights\.h5: .*convnext_small"):
        build_backbone("convnext_small", 64, str(tmp_path / "convnext.weights.h5"))


def test_real_pretrained_weights_load(shared):
    network = build_backbone("mobilenet_v2", 96, str(shared / "data/weights/mobilenet_v2_notop.weights.h5"))
    random = build_backbone("mobilenet_v2", 96, "none")
    assert any((a != b).any() for a, b in zip(network.get_weights(), random.get_weights(), strict=True))
    with pytest.raises(DataError, match=r"mobilenet_v2_notop\.weights\.h5: .*vgg16"):
        build_backbone("vgg16", 96, str(shared / "data/weights/mobilenet_v2_notop.weights.h5"))
