"""The averaged weights: against their recurrence in numpy, on one replica and on two."""

import keras
import numpy as np
import pytest
from tiny_steps import BATCH, batches, dataset, one, places, tiny_model, two

from cxr_train.engine.replica_values import ReplicaValues
from cxr_train.engine.step import TrainStep
from cxr_train.engine.strategy import Placement
from cxr_train.recipe.ema import WeightAverage
from cxr_train.recipe.loss_scale import LossScale

DECAY = 0.2


@pytest.mark.parametrize(("strategy", "compile"), places((one, False), (two, True)))
def test_it_follows_its_recurrence_and_stands_in_for_the_weights(strategy, compile):
    strategy = strategy()
    with strategy.scope():
        model = tiny_model(batch_norm=True)
        optimizer = keras.optimizers.Adam(0.05)
        scale = LossScale(1.0, dynamic=False)
        average = WeightAverage(model, DECAY)
    step = TrainStep(model, optimizer, scale, strategy, compile=compile, global_batch=BATCH, average=average)
    iterator = iter(strategy.experimental_distribute_dataset(dataset(batches(4))))
    expected = model.get_weights()
    for number in range(1, 5):
        step(iterator, 1)
        decay = min(DECAY, (1 + number) / (10 + number))
        means = [weight_over_replicas(strategy, variable) for variable in model.variables]
        expected = [decay * old + (1 - decay) * new for old, new in zip(expected, means, strict=True)]
    # As at the end of an epoch.
    values = [*(variable.value for variable in model.non_trainable_variables), *average.averages]
    ReplicaValues(values, Placement(strategy, "float32", compile, ())).average()
    own = model.get_weights()
    with average.in_place():
        for weight, value in zip(model.get_weights(), expected, strict=True):
            np.testing.assert_allclose(weight, value, rtol=1e-4, atol=1e-5)
    for weight, value in zip(model.get_weights(), own, strict=True):
        np.testing.assert_array_equal(weight, value)


def weight_over_replicas(strategy, variable) -> np.ndarray:
    copies = strategy.experimental_local_results(variable.value)
    return np.mean([copy.numpy() for copy in copies], axis=0)
