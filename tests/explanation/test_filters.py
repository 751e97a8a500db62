"""Activation maximisation: the picture excites its channel, in the model's own input range."""

import keras
import numpy as np
import pytest

from cxr_train.explanation.filters import excite, liveliest_channels

SIZE = 16


def network(scale: float = 1.0) -> keras.Model:
    """One convolution whose channels are known: a bright point, a step from dark to bright, red."""
    images = keras.Input((SIZE, SIZE, 3))
    scaled = keras.layers.Rescaling(scale)(images)
    layer = keras.layers.Conv2D(3, 3, padding="same", name="filters")
    model = keras.Model(images, layer(scaled))
    kernel = np.zeros([3, 3, 3, 3], np.float32)
    kernel[..., 0] = -0.1
    kernel[1, 1, :, 0] = 0.8
    kernel[:, 0, :, 1], kernel[:, 2, :, 1] = -1, 1
    kernel[1, 1, :, 2] = 1, -1, -1
    layer.set_weights([kernel, np.zeros(3, np.float32)])
    return model


def activations(model: keras.Model, pictures: np.ndarray, channels: list[int]) -> np.ndarray:
    mean = model(pictures).numpy().mean(axis=(1, 2))
    return mean[np.arange(len(channels)), channels]


@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_each_picture_excites_its_own_channel_and_stays_in_the_input_range(scale):
    model = network(scale)
    channels = [2, 0]
    pictures = excite(model, "filters", channels, steps=40)
    assert pictures.shape == (2, SIZE, SIZE, 3)
    assert pictures.min() >= 0
    assert pictures.max() <= 1
    grey = np.full([2, SIZE, SIZE, 3], 0.5, np.float32)
    assert (activations(model, pictures, channels) > activations(model, grey, channels) + 0.1 * scale).all()
    red, green, blue = pictures[0].mean(axis=(0, 1))
    assert red > 0.9
    assert max(green, blue) < 0.1
    assert pictures[1].mean() > 0.9


@pytest.mark.parametrize("own", [True, False])
def test_a_channel_that_is_silent_behind_its_relu_is_excited_all_the_same(own):
    images = keras.Input((SIZE, SIZE, 3))
    layer = keras.layers.Conv2D(1, 1, activation="relu" if own else None, name="end" if own else "before")
    x = layer(images)
    model = keras.Model(images, x if own else keras.layers.ReLU(6.0, name="end")(x))
    layer.set_weights([np.array([1.0, -1.0, 0.0]).reshape(1, 1, 3, 1), np.array([-5.0])])
    assert not model(np.ones([1, SIZE, SIZE, 3], np.float32)).numpy().any()
    red, green, _ = excite(model, "end", [0], steps=40)[0].mean(axis=(0, 1))
    assert red > 0.9 > 0.1 > green
    if own:
        assert layer.activation is keras.activations.relu


def test_the_same_seed_gives_the_same_picture_and_another_does_not():
    model = network()
    first, again = (excite(model, "filters", [1], steps=3, seed=4) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert (first != excite(model, "filters", [1], steps=3, seed=5)).any()


def test_regularised_pictures_are_smoother():
    model = network()
    noisy = np.random.default_rng(0).random([1, SIZE, SIZE, 3]).astype(np.float32)
    picture = excite(model, "filters", [1], steps=40)
    assert np.abs(np.diff(picture, axis=1)).mean() < 0.5 * np.abs(np.diff(noisy, axis=1)).mean()


def test_the_liveliest_channels_are_those_with_the_largest_mean():
    images = np.zeros([2, SIZE, SIZE, 3], np.float32)
    images[..., 0] = 1  # red
    assert liveliest_channels(network(), "filters", images, 2) == [2, 0]
