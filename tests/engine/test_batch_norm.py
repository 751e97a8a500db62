"""Precise BatchNorm statistics: against numpy over the activations that a sub-model gives."""

import keras
import numpy as np
import pytest
from tiny_steps import batches, dataset, one, two

from cxr_train.engine.batch_norm import PreciseStatistics, initial_share
from cxr_train.engine.strategy import Placement

BatchNorm = keras.layers.BatchNormalization


def network(policy: str = "float32", dropout: float = 0.5) -> keras.Model:
    """Three BatchNorm layers, of which the second is frozen, and dropout before the last."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input([12, 12, 3])
    x = keras.layers.Conv2D(6, 3, dtype=policy)(inputs)
    x = BatchNorm(name="first", dtype=policy)(x)
    x = keras.layers.Conv2D(5, 3, activation="relu", dtype=policy)(x)
    x = BatchNorm(name="frozen", dtype=policy)(x)
    x = keras.layers.Dropout(dropout, dtype=policy)(x)
    x = keras.layers.Conv2D(4, 3, activation="relu", dtype=policy)(x)
    x = BatchNorm(name="last", momentum=0.5, dtype=policy)(x)
    x = keras.layers.GlobalAveragePooling2D(dtype=policy)(x)
    model = keras.Model(inputs, keras.layers.Dense(3, dtype="float32")(x))
    generator = np.random.default_rng(0)
    for layer in norms(model):
        for variable in layer.weights:
            variable.assign(generator.uniform(0.5, 2, variable.shape))
    model.get_layer("frozen").trainable = False
    return model


def norms(model: keras.Model) -> list[BatchNorm]:
    return [layer for layer in model.layers if isinstance(layer, BatchNorm)]


def reference(model: keras.Model, parts: list[np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean and variance of what enters each layer, over parts that are normalised apart: slow and right."""
    found = {}
    for name in ("first", "last"):
        before = keras.Model(model.input, model.get_layer(name).input)
        entering = [np.asarray(before(part, training=True)).astype(np.float64) for part in parts]
        means = [activations.mean(axis=(0, 1, 2)) for activations in entering]
        variances = [activations.var(axis=(0, 1, 2)) for activations in entering]
        mean = np.mean(means, axis=0)
        square = np.mean([v + m**2 for v, m in zip(variances, means, strict=True)], axis=0)
        found[name] = mean, square - mean**2
        # Parts of one size: those are the moments of all activations together.
        np.testing.assert_allclose(found[name][1], np.concatenate(entering).var(axis=(0, 1, 2)), rtol=1e-6)
    return found


def values(model: keras.Model) -> list[np.ndarray]:
    return [variable.numpy() for variable in model.variables]


@pytest.mark.parametrize(
    ("strategy", "policy", "compile"),
    [
        (one, "float32", False),
        (two, "float32", True),
        (one, "mixed_bfloat16", True),
        pytest.param(one, "float32", True, marks=pytest.mark.ci),
        pytest.param(two, "float32", False, marks=pytest.mark.ci),
        pytest.param(one, "mixed_bfloat16", False, marks=pytest.mark.ci),
    ],
)
def test_they_are_the_moments_of_the_activations_and_leave_no_trace(strategy, policy, compile):
    strategy, items = strategy(), batches(3)
    with strategy.scope():
        model = network(policy)
    parts = [part for item in items for part in np.split(item["image"], strategy.num_replicas_in_sync)]
    same = network(policy, dropout=0.0)
    same.set_weights(model.get_weights())
    expected = reference(same, parts)
    own, config = values(model), model.get_config()
    precise = PreciseStatistics(model, Placement(strategy, policy, compile, ()))
    for _ in range(2):
        with precise.in_place(strategy.experimental_distribute_dataset(dataset(items))):
            rtol = 1e-4 if policy == "float32" else 0.02
            for name, (mean, variance) in expected.items():
                layer = model.get_layer(name)
                for variable, wanted in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
                    for copy in strategy.experimental_local_results(variable.value):
                        np.testing.assert_allclose(copy.numpy(), wanted, rtol=rtol, atol=1e-2 * rtol)
            kept = {id(v) for name in expected for v in model.get_layer(name).non_trainable_variables}
            for variable, value in zip(model.variables, own, strict=True):
                if id(variable) not in kept:
                    np.testing.assert_array_equal(variable.numpy(), value)
        for variable, value in zip(model.variables, own, strict=True):
            np.testing.assert_array_equal(variable.numpy(), value)
    assert model.get_config() == config


def test_layers_that_are_freed_later_are_measured_then():
    model = network()
    precise = PreciseStatistics(model, Placement(one(), "float32", False, ()))
    frozen = model.get_layer("frozen")
    before = frozen.moving_mean.numpy()
    with precise.in_place(dataset(batches(1))):
        np.testing.assert_array_equal(frozen.moving_mean.numpy(), before)
    frozen.trainable = True
    with precise.in_place(dataset(batches(1))):
        assert (frozen.moving_mean.numpy() != before).all()


def test_own_values_are_put_back_after_a_failure():
    model = network()
    own = values(model)
    precise = PreciseStatistics(model, Placement(one(), "float32", False, ()))
    with pytest.raises(KeyboardInterrupt), precise.in_place(dataset(batches(1))):
        raise KeyboardInterrupt
    for variable, value in zip(model.variables, own, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_no_batch_is_taken_where_no_batch_norm_is_trained():
    model = network()
    for layer in norms(model):
        layer.trainable = False
    with PreciseStatistics(model, Placement(one(), "float32", False, ())).in_place(iter("")):
        pass
    assert initial_share(model.layers, 10) == 0


@pytest.mark.parametrize("updates", [0, 1, 70])
def test_what_moving_statistics_keep_of_their_start_is_what_a_layer_keeps(updates):
    layer = BatchNorm(momentum=0.9)
    layer.build([None, 1])
    layer.moving_mean.assign([1.0])
    for _ in range(updates):
        layer(np.zeros([2, 1], np.float32), training=True)
    share = initial_share([layer, BatchNorm(momentum=0.5)], updates)
    assert share == pytest.approx(float(layer.moving_mean.numpy()[0]), rel=1e-4)
