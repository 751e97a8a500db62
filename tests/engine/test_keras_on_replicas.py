"""Keras' own `model.fit` on two replicas is that on one: what Keras 3.3.3, 3.6.0 and 3.9.2 got wrong.

Users may train on our batches with it. 3.3.3 diverged, 3.6.0 gave other weights, 3.9.2 logged another loss.
"""

from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny_steps

X = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
Y = np.random.default_rng(1).integers(0, 3, 32)


class Fitted(NamedTuple):
    """What three epochs gave."""

    losses: list[float]
    accuracies: list[float]
    weights: list[np.ndarray]
    evaluated: list[float]


def fitted(strategy: tf.distribute.Strategy, optimizer: type[keras.optimizers.Optimizer]) -> Fitted:
    with strategy.scope():
        keras.utils.set_random_seed(1)
        layers = [keras.Input((6,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(3)]
        model = keras.Sequential(layers)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer(0.01), loss, metrics=["accuracy"], jit_compile=False)
    batches = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)
    history = model.fit(batches, epochs=3, shuffle=False, verbose=0).history
    evaluated = model.evaluate(batches, verbose=0)
    return Fitted(history["loss"], history["accuracy"], model.get_weights(), evaluated)


@pytest.fixture(
    scope="module",
    params=[keras.optimizers.Adam, pytest.param(keras.optimizers.SGD, marks=pytest.mark.ci)],
)
def both(request):
    return fitted(tiny_steps.one(), request.param), fitted(tiny_steps.two(), request.param)


def test_the_weights(both):
    one, two = both
    for variable, expected in zip(two.weights, one.weights, strict=True):
        np.testing.assert_allclose(variable, expected, atol=1e-5)


def test_the_logged_and_the_evaluated_loss(both):
    one, two = both
    np.testing.assert_allclose(two.losses, one.losses, rtol=1e-5)
    np.testing.assert_allclose(two.evaluated, one.evaluated, rtol=1e-5)


def test_the_logged_accuracy(both):
    one, two = both
    np.testing.assert_allclose(two.accuracies, one.accuracies, rtol=1e-5)
