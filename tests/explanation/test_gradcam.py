"""Grad-CAM against the chain rule written out in float64, and its maps as what they are used for."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cxr_train.explanation.gradcam import GradCam, enlarge, hottest
from cxr_train.models.classifier import in_float32

SIZE = 12
CLASSES = 3


def small_network(policy: str = "float32", seed: int = 0) -> keras.Model:
    """Two convolutions, the second with stride 2, and the head of `build_model`."""
    keras.utils.set_random_seed(seed)
    images = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Conv2D(5, 3, activation="relu", name="first", dtype=policy)(images)
    x = keras.layers.Conv2D(4, 3, strides=2, activation="relu", name="second", dtype=policy)(x)
    x = keras.layers.GlobalAveragePooling2D(dtype=policy)(x)
    x = keras.layers.Dense(6, activation="relu", name="hidden", dtype=policy)(x)
    logits = keras.layers.Dense(CLASSES, name="logits", dtype="float32")(x)
    return keras.Model(images, logits)


def random_images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random([count, SIZE, SIZE, 3], np.float32)


def convolve(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray, stride: int) -> np.ndarray:
    """A convolution without padding, [H, W, C] -> [h, w, K], position by position."""
    k = kernel.shape[0]
    size = (x.shape[0] - k) // stride + 1
    out = np.empty([size, size, kernel.shape[-1]])
    for row in range(size):
        for column in range(size):
            patch = x[row * stride : row * stride + k, column * stride : column * stride + k]
            out[row, column] = np.tensordot(patch, kernel, 3) + bias
    return out


def gradient_of_input(gradient: np.ndarray, kernel: np.ndarray, stride: int, size: int) -> np.ndarray:
    """The gradient [h, w, K] of `convolve`'s output brought back to its input [H, W, C]."""
    k = kernel.shape[0]
    back = np.zeros([size, size, kernel.shape[2]])
    for row in range(gradient.shape[0]):
        for column in range(gradient.shape[1]):
            patch = back[row * stride : row * stride + k, column * stride : column * stride + k]
            patch += kernel @ gradient[row, column]
    return back


def reference_maps(model: keras.Model, image: np.ndarray, shown: int) -> list[np.ndarray]:
    """Both maps of one image, forward and backward by hand in float64."""
    weights = [w.astype(np.float64) for w in model.get_weights()]
    kernel_1, bias_1, kernel_2, bias_2, dense_1, offset_1, dense_2, _ = weights
    first = np.maximum(convolve(image.astype(np.float64), kernel_1, bias_1, 1), 0)
    second = np.maximum(convolve(first, kernel_2, bias_2, 2), 0)
    hidden = second.mean(axis=(0, 1)) @ dense_1 + offset_1
    of_hidden = dense_2[:, shown] * (hidden > 0)
    of_second = np.broadcast_to(dense_1 @ of_hidden / second[..., 0].size, second.shape)
    of_first = gradient_of_input(of_second * (second > 0), kernel_2, 2, len(first))
    return [
        np.maximum((feature * gradient.mean(axis=(0, 1))).sum(axis=-1), 0)
        for feature, gradient in ((first, of_first), (second, of_second))
    ]


def test_it_equals_the_chain_rule_in_float64_and_is_not_zero():
    model = small_network()
    images = random_images(4)
    for shown in range(CLASSES):
        maps, logits = GradCam(model, ["first", "second"])(images, np.full(4, shown))
        np.testing.assert_array_equal(logits, model(images).numpy())
        for number, image in enumerate(images):
            for layer, expected in zip(maps, reference_maps(model, image, shown), strict=True):
                np.testing.assert_allclose(layer[number], expected, rtol=1e-4, atol=1e-6 * expected.max())
    sums = [GradCam(model, ["second"])(images, np.full(4, shown))[0][0].sum() for shown in range(CLASSES)]
    assert max(sums) > 0
    assert len(set(sums)) == CLASSES


def test_the_gradient_of_the_sum_of_the_softmax_is_zero_which_is_why_it_is_not_used():
    model = small_network()
    softmax = keras.Model(model.input, keras.ops.sum(keras.ops.softmax(model.output), -1, keepdims=True))
    studied, _ = GradCam(softmax, ["second"])(random_images(4), np.zeros(4, int))
    cam = GradCam(model, ["second"])
    ours = max(cam(random_images(4), np.full(4, shown))[0][0].max() for shown in range(CLASSES))
    assert studied[0].max() < 1e-6 < 1e-3 < ours


def test_an_image_does_not_change_the_map_of_another():
    cam = GradCam(small_network(), ["first", "second"])
    images = random_images(5)
    classes = np.array([0, 1, 2, 1, 0])
    together, _ = cam(images, classes)
    for number in range(5):
        alone, _ = cam(images[number : number + 1], classes[number : number + 1])
        for one, all_of_them in zip(alone, together, strict=True):
            np.testing.assert_allclose(one[0], all_of_them[number], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("policy", "scale"),
    [
        ("mixed_float16", 1e6),
        ("mixed_float16", 1e-6),
        ("mixed_bfloat16", 1.0),
        pytest.param("mixed_float16", 1.0, marks=pytest.mark.ci),
        pytest.param("mixed_bfloat16", 1e6, marks=pytest.mark.ci),
        pytest.param("mixed_bfloat16", 1e-6, marks=pytest.mark.ci),
    ],
)
def test_a_model_in_16_bits_gives_the_maps_of_its_float32_twin(policy, scale):
    plain, mixed = small_network(), small_network(policy)
    weights = plain.get_weights()
    weights[6] *= scale  # of the hidden layer to the logits: gradients that float16 cannot hold
    plain.set_weights(weights)
    mixed.set_weights(weights)
    images, classes = random_images(3), np.array([2, 0, 1])
    if scale != 1.0 and policy == "mixed_float16":
        raw, _ = GradCam(mixed, ["first"])(images, classes)
        assert not np.isfinite(raw[0]).all() or not raw[0].any()
    expected, logits = GradCam(plain, ["first", "second"])(images, classes)
    maps, found = GradCam(in_float32(mixed), ["first", "second"])(images, classes)
    np.testing.assert_array_equal(found, logits)
    for one, other in zip(maps, expected, strict=True):
        assert one.dtype == np.float32
        assert np.isfinite(one).all()
        assert one.any()
        np.testing.assert_array_equal(one, other)


heats = hnp.arrays(np.float32, (9, 9), elements=st.floats(0, 100, width=32))


@given(heats, st.floats(0.01, 0.99))
def test_the_hottest_share_has_the_same_size_always_and_nothing_outside_is_hotter(heat, share):
    mask = hottest(heat, share)
    assert mask.sum() == round(share * heat.size)
    if mask.any() and not mask.all():
        assert heat[mask].min() >= heat[~mask].max()


@given(heats)
def test_an_enlarged_map_has_maximum_1_and_a_flat_one_stays_0(heat):
    large = enlarge(heat, 30)
    assert large.shape == (30, 30)
    assert large.max() == (pytest.approx(1.0) if heat.any() else 0.0)
    assert large.min() >= 0
