"""The input range: equal to Keras' own preprocessing, for each backbone, inside of the graph."""

import keras
import numpy as np
import pytest

from cxr_train.models.backbones import BACKBONES, TRAINED_ON
from cxr_train.models.pretrained import build_backbone, to_trained_range

MODULES = {
    "mobilenet_v2": keras.applications.mobilenet_v2,
    "vgg16": keras.applications.vgg16,
    "densenet201": keras.applications.densenet,
    "xception": keras.applications.xception,
    "inception_resnet_v2": keras.applications.inception_resnet_v2,
    "resnet152_v2": keras.applications.resnet_v2,
    "nasnet_large": keras.applications.nasnet,
    "inception_v3": keras.applications.inception_v3,
    "efficientnet_b1": keras.applications.efficientnet,
    "efficientnet_b7": keras.applications.efficientnet,
    "efficientnet_v2_s": keras.applications.efficientnet_v2,
    "convnext_tiny": keras.applications.convnext,
    "convnext_small": keras.applications.convnext,
}


def mapped(images: np.ndarray, trained_on: str) -> np.ndarray:
    inputs = keras.Input(images.shape[1:])
    return keras.Model(inputs, to_trained_range(inputs, trained_on))(images).numpy()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_it_equals_keras_preprocessing_of_bytes(backbone):
    images = np.random.default_rng(0).random([2, 5, 5, 3], np.float32)
    expected = MODULES[backbone].preprocess_input(255 * images)
    np.testing.assert_allclose(mapped(images, BACKBONES[backbone].trained_on), expected, atol=1e-4)


def test_every_range_is_used_and_another_is_refused():
    assert {backbone.trained_on for backbone in BACKBONES.values()} == set(TRAINED_ON)
    with pytest.raises(ValueError, match="trained_on='bytes'"):
        to_trained_range(keras.Input([4, 4, 3]), "bytes")


@pytest.mark.parametrize(
    "backbone", ["mobilenet_v2", "vgg16", pytest.param("efficientnet_b1", marks=pytest.mark.ci)]
)
def test_a_saved_model_takes_unit_pixels(backbone, tmp_path):
    keras.utils.set_random_seed(0)
    network = build_backbone(backbone, 32, "none", "imagenet")
    images = np.random.default_rng(0).random([2, 32, 32, 3], np.float32)
    plain = build_backbone(backbone, 32, "none", "unit")
    plain.set_weights(network.get_weights())
    expected = plain([MODULES[backbone].preprocess_input(255 * images)])
    network.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras", safe_mode=True)
    np.testing.assert_allclose(loaded([images]), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.ci
def test_efficientnet_sees_more_than_black_with_the_range_it_was_trained_on():
    images = np.random.default_rng(0).random([1, 32, 32, 3], np.float32)
    spread = {}
    for input_range in ("unit", "imagenet"):
        network = build_backbone("efficientnet_b1", 32, "none", input_range)
        (layer,) = (layer for layer in network.layers if isinstance(layer, keras.layers.Normalization))
        normalized = keras.Model(network.inputs, layer.output)
        spread[input_range] = float(np.std(normalized([images])))
    assert spread["imagenet"] == pytest.approx(255 * spread["unit"], rel=1e-3)
