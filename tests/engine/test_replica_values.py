"""What each replica has of its own, as one array: read, written back, averaged."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_steps import one, two

from cxr_train.engine.cluster import Cluster
from cxr_train.engine.replica_values import ReplicaValues
from cxr_train.engine.strategy import Placement


def make(strategy: tf.distribute.Strategy) -> tuple[ReplicaValues, list[tf.Variable]]:
    with strategy.scope():
        variables = [tf.Variable(tf.zeros([2, 3]), trainable=False), tf.Variable(0.0, trainable=False)]
    return ReplicaValues(variables, Placement(strategy, "float32", False, ())), variables


@pytest.mark.parametrize("strategy", [one, two])
def test_every_replica_gets_its_own_row_back(strategy):
    strategy = strategy()
    values, variables = make(strategy)
    assert values.size == 7
    rows = np.random.default_rng(0).random([strategy.num_replicas_in_sync, 7], np.float32)
    values.write(rows)
    np.testing.assert_array_equal(values.read(), rows)
    for replica, row in enumerate(rows):
        matrix, number = (strategy.experimental_local_results(variable)[replica] for variable in variables)
        np.testing.assert_array_equal(matrix.numpy(), row[:6].reshape(2, 3))
        assert number.numpy() == row[6]


@pytest.mark.parametrize("strategy", [one, two])
@pytest.mark.parametrize("count", [1, 3])
def test_rows_of_another_number_of_replicas_are_averaged(strategy, count):
    values, _ = make(strategy())
    rows = np.random.default_rng(0).random([count, 7], np.float32)
    values.write(rows)
    for row in values.read():
        np.testing.assert_allclose(row, rows.mean(axis=0), rtol=1e-6)


def test_the_average_of_equal_values_is_that_value():
    values, _ = make(two())
    rows = np.random.default_rng(0).random([2, 7], np.float32)
    values.write(rows)
    values.average()
    averaged = values.read()
    np.testing.assert_allclose(averaged, np.repeat(rows.mean(axis=0, keepdims=True), 2, axis=0), rtol=1e-6)
    values.average()
    np.testing.assert_array_equal(values.read(), averaged)


def test_a_network_without_batch_norm_has_none():
    values = ReplicaValues([], Placement(two(), "float32", False, ()))
    assert values.read().shape == (2, 0)
    values.write(values.read())
    values.average()


def masks(strategy: tf.distribute.Strategy, *, compile: bool, apart: bool = True) -> np.ndarray:
    """What a dropout of half drops of 64 ones: bool [steps, replicas, 64]."""
    keras.utils.set_random_seed(3)
    with strategy.scope():
        layer = keras.layers.Dropout(0.5)
    if apart:
        seeds = [variable.value for variable in layer.variables]
        ReplicaValues([], Placement(strategy, "float32", compile, ()), seeds)
    drop = tf.function(lambda: layer(tf.ones([64]), training=True) == 0, jit_compile=compile)
    step = tf.function(lambda: strategy.experimental_local_results(strategy.run(lambda: drop())))
    return np.stack([np.stack([mask.numpy() for mask in step()]) for _ in range(3)])


@pytest.mark.parametrize("compile", [False, True])
def test_replicas_drop_different_places_and_the_first_those_of_one_device(compile):
    first = masks(two(), compile=compile)
    assert len({mask.tobytes() for mask in first.reshape(-1, 64)}) == 6  # of 3 steps, 2 replicas
    np.testing.assert_array_equal(first, masks(two(), compile=compile))
    np.testing.assert_array_equal(first[:, :1], masks(one(), compile=compile, apart=False))


def test_replicas_of_another_worker_have_other_seeds():
    strategy = two()
    with strategy.scope():
        seed = tf.Variable([7, 2], trainable=False, dtype=tf.int64, aggregation=tf.VariableAggregation.NONE)
    cluster = Cluster(("a:1", "b:1"), ("/job:worker/task:0", "/job:worker/task:1"), number=1)
    here = dataclasses.replace(Placement(strategy, "float32", False, ()), cluster=cluster)
    ReplicaValues([], here, [seed])
    assert strategy.experimental_local_results(seed)[0].numpy().tolist() == [8, 2]
