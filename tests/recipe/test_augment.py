"""Augmentation: against scalar loops in numpy, by seed and step alone, inside of the compiled step."""

import functools
import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_steps import BATCH, batches, one, reference_weights, train, two

from cxr_train.recipe.augment import DRAWS, change_images, draw
from cxr_train.recipe.augmentation import Augmentation, parse_augmentation

STRONG = Augmentation(rotation=40, shift=0.2, zoom=0.4, brightness=0.2, contrast=0.5, flip=True)


def reference(augmentation: Augmentation, images: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Pixel by pixel, as one would explain it: slow and obviously right."""
    results = []
    for image, drawn in zip(images, draws, strict=True):
        value = dict(zip(DRAWS, drawn.astype(np.float64), strict=True))
        moved = np.zeros(image.shape)
        size = len(image)
        centre = (size - 1) / 2
        angle = math.radians(augmentation.rotation * value["rotation"])
        zoom = 1 + augmentation.zoom * value["zoom"]
        for row in range(size):
            for column in range(size):
                dy, dx = (row - centre) / zoom, (column - centre) / zoom
                if augmentation.flip and value["flip"] < 0:
                    dx = -dx
                y = centre + math.cos(angle) * dy - math.sin(angle) * dx
                x = centre + math.sin(angle) * dy + math.cos(angle) * dx
                y += augmentation.shift * size * value["shift_y"]
                x += augmentation.shift * size * value["shift_x"]
                moved[row, column] = bilinear(image, min(max(y, 0), size - 1), min(max(x, 0), size - 1))
        mean = moved.mean()
        changed = (moved - mean) * (1 + augmentation.contrast * value["contrast"]) + mean
        results.append(np.clip(changed + augmentation.brightness * value["brightness"], 0, 1))
    return np.array(results)


def bilinear(image: np.ndarray, y: float, x: float) -> np.ndarray:
    """The mean of the four neighbours, each by its nearness."""
    total = 0
    for row in range(len(image)):
        for column in range(len(image)):
            total = total + image[row, column] * max(0, 1 - abs(y - row)) * max(0, 1 - abs(x - column))
    return total


def random_draws(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, [count, len(DRAWS)]).astype(np.float32)


@settings(max_examples=10, deadline=None)
@given(
    st.builds(
        Augmentation,
        rotation=st.floats(0, 180, width=16),
        shift=st.floats(0, 0.5, width=16),
        zoom=st.floats(0, 0.875, width=16),
        brightness=st.floats(0, 1, width=16),
        contrast=st.floats(0, 1, width=16),
        flip=st.booleans(),
    ),
    st.integers(0, 1000),
    st.sampled_from([1, 3]),
)
def test_it_equals_scalar_loops(augmentation, seed, channels):
    images = np.random.default_rng(seed).random([2, 6, 6, channels], np.float32)
    draws = random_draws(2, seed)
    np.testing.assert_allclose(
        change_images(augmentation, images, draws), reference(augmentation, images, draws), atol=2e-5
    )


def test_stored_bytes_and_compiled_code_give_the_same_images():
    stored = np.random.default_rng(0).integers(0, 256, [4, 9, 9, 1], np.uint8)
    draws = random_draws(4)
    plain = change_images(STRONG, stored / np.float32(255), draws)
    np.testing.assert_allclose(change_images(STRONG, stored, draws), plain, atol=1e-6)
    compiled = tf.function(functools.partial(change_images, STRONG), jit_compile=True)(stored, draws)
    np.testing.assert_allclose(compiled, plain, atol=1e-5)
    assert plain.shape == [4, 9, 9, 1]


def test_nothing_drawn_changes_nothing_and_a_flip_is_exact():
    images = np.random.default_rng(0).random([2, 8, 8, 3], np.float32)
    draws = np.zeros([2, len(DRAWS)], np.float32)
    np.testing.assert_allclose(change_images(STRONG, images, draws), images, atol=1e-6)
    draws[1, DRAWS.index("flip")] = -0.5
    flipped = change_images(Augmentation(flip=True), images, draws)
    np.testing.assert_allclose(flipped, [images[0], images[1, :, ::-1]], atol=1e-6)


def test_draws_depend_on_seed_and_step_alone_and_fill_their_range():
    drawn = draw(3, tf.constant(7, tf.int64), 4)
    np.testing.assert_array_equal(tf.function(draw)(3, tf.constant(7, tf.int64), 4), drawn)
    for seed, step in ((3, 8), (4, 7)):
        assert (draw(seed, tf.constant(step, tf.int64), 4).numpy() != drawn.numpy()).all()
    many = draw(0, tf.constant(0, tf.int64), 2000).numpy()
    assert -1 <= many.min() < -0.99
    assert 0.99 < many.max() < 1
    np.testing.assert_allclose(many.mean(axis=0), 0, atol=0.05)


@pytest.mark.parametrize(
    ("strategy", "accumulation", "compile"),
    [
        (one, 4, False),
        (two, 2, True),
        pytest.param(one, 1, False, marks=pytest.mark.ci),
        pytest.param(one, 1, True, marks=pytest.mark.ci),
        pytest.param(one, 4, True, marks=pytest.mark.ci),
        pytest.param(two, 2, False, marks=pytest.mark.ci),
    ],
)
def test_a_step_trains_on_the_same_images_however_it_is_computed(strategy, accumulation, compile):
    items = batches(2)
    augmented = []
    for step, item in enumerate(items):
        draws = draw(5, tf.constant(step, tf.int64), BATCH)
        augmented.append({**item, "image": change_images(STRONG, item["image"], draws).numpy()})
    model, step, _ = train(
        strategy(), items, compile=compile, augmentation=STRONG, seed=5, accumulation=accumulation
    )
    expected = reference_weights(augmented)
    for weight, value in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(weight, value, atol=1e-5)
    assert step.traces["step"] == 1


def test_flips_and_everything_else_are_off_by_default():
    assert not parse_augmentation("none")
    assert not parse_augmentation("all").flip
    assert parse_augmentation("none", flip=True) == Augmentation(flip=True)
    assert parse_augmentation("rotation,zoom:0.2") == Augmentation(rotation=10, zoom=0.2)
