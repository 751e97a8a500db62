"""The pooling: a mean at the start or at p = 1, and more than a mean once it has learned."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from staged import SIZE, three_stages
from tiny import registered

from cxr_train.models.added import POOLINGS
from cxr_train.models.classifier import build_model
from cxr_train.models.freeze import backbone_layers
from cxr_train.models.head import POOLING
from cxr_train.models.memory import trace
from cxr_train.models.pooling import GeneralizedMean, pool
from cxr_train.runs.run_model import load_model, save_model

FINDINGS = 3


@pytest.fixture(scope="module", autouse=True)
def staged():
    with registered("staged", three_stages, smallest_image=SIZE):
        yield


def model_of(pooling: str, *, of_findings: bool = True, **options) -> keras.Model:
    keras.utils.set_random_seed(0)
    options = {"classes": FINDINGS, "image_size": SIZE, "head": (16,), **options}
    return build_model("staged", of_findings=of_findings, pooling=pooling, **options)


def features_of(shape=(2, 5, 4, 7)) -> np.ndarray:
    """Of a relu: half of them are 0."""
    return np.maximum(np.random.default_rng(0).normal(size=shape), 0).astype(np.float32)


def images() -> np.ndarray:
    return np.random.default_rng(1).random([2, SIZE, SIZE, 3], np.float32)


def generalized_mean(p: float, shape) -> GeneralizedMean:
    layer = GeneralizedMean()
    layer.build(shape)
    layer.excess.assign(p - 1)
    return layer


def signed_features(scale=1.0) -> np.ndarray:
    return (scale * np.random.default_rng(0).normal(size=(2, 5, 4, 7))).astype(np.float32)


def published(x: np.ndarray, p: float) -> float:
    """Of the values of one channel, in 64 bits: the formula of Radenovic et al., slowly."""
    return (sum(max(float(value), 1e-6) ** p for value in x.flat) / x.size) ** (1 / p)


def by_hand(x: np.ndarray, p: float, formula=lambda x, p: published(x, p) - published(-x, p)) -> np.ndarray:
    return np.array([[formula(image[..., c], p) for c in range(x.shape[-1])] for image in x])


def slopes(layer: GeneralizedMean, x: np.ndarray) -> tuple[tf.Tensor, tf.Tensor]:
    """Return those of the values, each in the one result that it has a part in, and that of the weight."""
    x = tf.convert_to_tensor(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(layer(x))
    return tuple(tape.gradient(total, [x, layer.excess.value]))


def test_the_generalized_mean_of_power_1_is_the_mean():
    x = signed_features()
    expected = keras.layers.GlobalAveragePooling2D()(x)
    np.testing.assert_allclose(generalized_mean(1.0, x.shape)(x), expected, atol=2e-6)


@pytest.mark.parametrize("p", [1.0, 2.2, 3.0, 8.0])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e5])
def test_the_generalized_mean_is_that_of_each_sign(p, scale):
    x = signed_features(scale)
    found = generalized_mean(p, x.shape)(x)
    np.testing.assert_allclose(found, by_hand(x, p), rtol=1e-5, atol=2e-6 * max(scale, 1))
    np.testing.assert_array_equal(generalized_mean(p, x.shape)(-x), -found)


@pytest.mark.parametrize("p", [1.0, 2.2, 3.0])
def test_without_negative_values_the_generalized_mean_is_the_published_one(p):
    x = features_of()
    found = generalized_mean(p, x.shape)(x)
    np.testing.assert_allclose(found, by_hand(x, p, published), rtol=1e-5, atol=1.1e-6)


def test_the_generalized_mean_begins_with_a_power_of_3_and_nears_the_maximum():
    x = features_of()
    layer = GeneralizedMean()
    found = layer(x)
    assert layer.count_params() == 1
    np.testing.assert_allclose(found, np.mean(x**3, axis=(1, 2)) ** (1 / 3), rtol=1e-5)
    x = x / x.max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(generalized_mean(60.0, x.shape)(x), np.ones([2, 7]), atol=0.06)


@pytest.mark.parametrize("p", [1.0, 1.5, 3.0, 8.0])
def test_where_signs_cancel_no_slope_of_the_generalized_mean_passes_its_bound(p):
    pair = np.array([1, -1], np.float32).reshape(1, 2, 1, 1)
    nearly = np.array([1, -1 + 1e-6], np.float32).reshape(1, 2, 1, 1)
    alone = np.array([5, 0], np.float32).reshape(1, 2, 1, 1)  # reaches the bound
    balanced = signed_features()
    balanced = np.concatenate([balanced, -balanced], axis=1)
    for x in (pair, nearly, alone, balanced, signed_features(1e-4)):
        of_x, of_weight = slopes(generalized_mean(p, x.shape), x)
        pixels = x.shape[1] * x.shape[2]
        assert np.max(np.abs(of_x)) <= pixels ** (-1 / p) * (1 + 1e-5)
        assert np.min(of_x) >= 0
        # That of p lies between 0 and M log(n) / p^2 for each part, see the entropy of its weights.
        parts = by_hand(np.abs(x), p, published).sum() * 2
        assert np.abs(of_weight) <= parts * np.log(pixels) / p**2 + 1e-5
    np.testing.assert_allclose(
        slopes(generalized_mean(p, alone.shape), alone)[0][0, 0], 2 ** (-1 / p), rtol=1e-5
    )


@pytest.mark.parametrize("p", [1.5, 3.0, 8.0])
def test_the_slope_of_the_generalized_mean_is_that_of_its_definition(p):
    x = signed_features().astype(np.float64)[:1, :2, :2, :3]
    of_x, of_weight = (one.numpy() for one in slopes(generalized_mean(p, x.shape), x.astype(np.float32)))
    step = 1e-6

    def total(x, p):
        return by_hand(x, p).sum()

    for place in np.ndindex(x.shape):
        apart = np.zeros_like(x)
        apart[place] = step
        np.testing.assert_allclose(
            of_x[place], (total(x + apart, p) - total(x - apart, p)) / (2 * step), atol=1e-5
        )
    expected = (total(x, p + step) - total(x, p - step)) / (2 * step)
    np.testing.assert_allclose(of_weight, expected, atol=1e-5)


def test_compiled_the_generalized_mean_and_its_slopes_are_the_same():
    x = signed_features()
    layer = generalized_mean(3.0, x.shape)
    compiled = tf.function(lambda x: (layer(x), *slopes(layer, x)), jit_compile=True)
    for found, expected in zip(compiled(x), (layer(x), *slopes(layer, x)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("p", [1.0, 1.5, 3.0, 8.0, 60.0])
def test_the_generalized_mean_of_nothing_has_a_finite_gradient(p):
    x = features_of() * np.array([0, 1e-8, 1e-4, 1, 1, 1e30, -1], np.float32)
    assert np.isfinite(generalized_mean(p, x.shape)(x)).all()
    of_x, of_weight = slopes(generalized_mean(p, x.shape), x)
    assert np.isfinite(of_weight)
    assert np.isfinite(of_x).all()
    assert np.max(np.abs(of_x)) <= 1


@pytest.mark.parametrize("maps", [1, 3])
def test_attention_begins_as_the_mean_for_every_finding(maps):
    x = np.random.default_rng(0).random([2, 8, 8, 5], np.float32)
    inputs = keras.Input(x.shape[1:])
    layer = keras.Model(inputs, pool(inputs, "attention", maps))
    assert layer.count_params() == 5 * 128 + maps * 128
    found = layer(x).numpy()
    assert found.shape == (2, maps * 5)
    expected = np.tile(keras.layers.GlobalAveragePooling2D()(x), maps)
    np.testing.assert_allclose(found, expected, atol=1.2e-7, rtol=0)


def bright_squares(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of pictures with the same light in each channel: in the second it lies in a square in one."""
    generator = np.random.default_rng(0)
    x = np.repeat(generator.random([count // 2, 8, 8, 3], np.float32), 2, axis=0)
    labels = np.arange(count) % 2
    for image, label in zip(x, labels, strict=True):
        image[..., 1] = 0.25
        if label:
            row, column = generator.integers(0, 5, 2)
            image[..., 1] = 0.0
            image[row : row + 4, column : column + 4, 1] = 1.0
    return x, labels


@pytest.mark.parametrize(("pooling", "accuracy"), [("gap", 0.5), ("attention", 1.0)])
def test_attention_finds_a_square_of_which_the_mean_knows_nothing(pooling, accuracy):
    x, labels = bright_squares(64)
    keras.utils.set_random_seed(0)
    inputs = keras.Input(x.shape[1:])
    model = keras.Model(inputs, keras.layers.Dense(2)(pool(inputs, pooling)))
    optimizer = keras.optimizers.Adam(0.05)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, model(x))
        optimizer.apply_gradients(
            zip(tape.gradient(losses, model.trainable_variables), model.trainable_variables, strict=True)
        )

    for _ in range(150):
        step()
    assert np.mean(np.argmax(model(x), axis=1) == labels) == accuracy


def test_each_finding_has_a_map_of_its_own_and_the_head_is_that_of_the_mean():
    model, plain = model_of("attention"), model_of("gap")
    hidden = 32 * 128 + FINDINGS * 128
    assert model.count_params() == plain.count_params() + hidden
    assert model.get_layer(POOLING).output.shape == (None, FINDINGS * 32)
    for name in ("head_1", "finding_logits"):
        for mine, theirs in zip(model.get_layer(name).weights, plain.get_layer(name).weights, strict=True):
            assert mine.shape == theirs.shape
    np.testing.assert_array_equal(*(one.get_layer("head_1").kernel for one in (model, plain)))
    before = model(images()).numpy()
    scores = model.get_layer("pooling_scores").kernel
    scores.assign(np.random.default_rng(0).normal(size=scores.shape) * np.array([0, 1, 0]))
    changed = np.abs(model(images()).numpy() - before).max(axis=0)
    assert changed[1] > 1e-4
    assert changed[[0, 2]].max() == 0


def test_classes_that_exclude_each_other_share_one_map():
    model = model_of("attention", of_findings=False)
    assert model.get_layer("pooling_maps").output.shape == (None, 16, 1)
    np.testing.assert_allclose(model(images()), model_of("gap", of_findings=False)(images()), atol=1e-6)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("of_findings", [True, pytest.param(False, marks=pytest.mark.ci)])
def test_a_model_with_it_is_planned_and_saved(pooling, of_findings, tmp_path):
    model = model_of(pooling, of_findings=of_findings, dropout=0.5)
    names = [layer.name for layer in model.layers]
    assert names[names.index(POOLING) + 1] == "dropout"
    assert [layer.name for layer in backbone_layers(model)] == names[:10]
    options = {"classes": FINDINGS, "image_size": SIZE, "head": (16,), "dropout": 0.5}
    planned = trace("staged", of_findings=of_findings, pooling=pooling, **options)
    assert planned.parameters == sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    save_model(model, tmp_path / "best.keras")
    loaded = load_model(tmp_path / "best.keras")
    np.testing.assert_allclose(loaded(images()), model(images()), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("attention", "pooling", "policy"),
    [
        ("eca", "gem", "mixed_bfloat16"),
        pytest.param("none", "gem", "mixed_float16", marks=pytest.mark.ci),
        pytest.param("cbam", "attention", "mixed_bfloat16", marks=pytest.mark.ci),
    ],
)
def test_a_compiled_step_in_16_bits_learns(attention, pooling, policy):
    model = model_of(pooling, attention=attention, dtype_policy=policy)
    assert model.get_layer(POOLING).output.dtype == "float32"
    optimizer = keras.optimizers.Adam(1e-2)
    optimizer.build(model.trainable_variables)
    labels = np.array([[1, 0, 1], [0, 1, 0]], np.float32)

    @tf.function(jit_compile=True)
    def step(pixels):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(
                tf.nn.sigmoid_cross_entropy_with_logits(labels, model(pixels, training=True))
            )
        gradients = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    losses = [float(step(images())) for _ in range(12)]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
