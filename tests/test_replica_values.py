"""What each replica has of its own, as one array: read, written back, averaged."""

import numpy as np
import pytest
import tensorflow as tf
from test_step import one, two

from cxr_train.replica_values import ReplicaValues
from cxr_train.strategy import Placement


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
