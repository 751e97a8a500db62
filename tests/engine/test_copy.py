"""Batches come to the device while it computes."""

import numpy as np
import pytest
import tensorflow as tf
from fake_device import FakeDevice
from tiny_steps import one, two

from cxr_data.core.tensorflow_private import sleep_before_each
from cxr_data.input.options import ReadOptions
from cxr_data.input.pipeline import Pipeline
from cxr_train.engine.multi_step import take_steps
from cxr_train.engine.strategy import GPU_BATCHES_AHEAD, Placement


def second_cpu() -> tf.distribute.Strategy:
    """A device to which the input does not belong, as a GPU."""
    return tf.distribute.OneDeviceStrategy("/cpu:1")


def slow_iterator(manifest, strategy, reader: str, seconds: float):
    """Batches for the replicas, at last a stage that takes its time as a copy does."""
    dataset = Pipeline(manifest, ReadOptions(reader=reader)).training_dataset(
        "train", batch_size=4, seed=0, epoch=0, epochs=3
    )
    placement = Placement(strategy, "float32", False, ())
    return iter(placement.distribute(dataset.apply(sleep_before_each(seconds))))


@pytest.mark.parametrize("strategy", [one, two, second_cpu])
@pytest.mark.parametrize("reader", ["indexed", "stream"])
def test_a_slow_copy_overlaps_the_step(manifest, strategy, reader):
    iterator = slow_iterator(manifest, strategy(), reader, 0.1)
    device = FakeDevice(step_seconds=0.2)
    records = take_steps(device.launch, iterator, range(6), in_flight=1, read=device.read)
    # One after the other, each step would wait for 0.1 s.
    assert np.median(records.waited) < 0.05


@pytest.mark.parametrize("strategy", [one, two, second_cpu])
def test_batches_lie_on_the_device_of_their_replica(manifest, strategy):
    strategy = strategy()
    parts = strategy.experimental_local_results(
        next(slow_iterator(manifest, strategy, "indexed", 0))["image"]
    )
    devices = [tf.DeviceSpec.from_string(part.device) for part in parts]
    wanted = [tf.DeviceSpec.from_string(device) for device in strategy.extended.worker_devices]
    assert [each.device_index for each in devices] == [each.device_index for each in wanted]


def test_with_two_batches_ahead_no_step_waits_for_a_copy_that_waits_for_the_step_before():
    idle = {}
    for ahead in (1, GPU_BATCHES_AHEAD):
        device = FakeDevice(step_seconds=0.2, copy_seconds=0.1)
        take_steps(device.launch, device.copies(ahead), range(7), in_flight=2, read=device.read)
        idle[ahead] = device.idle
    assert idle[1] >= 5 * 0.1
    assert idle[GPU_BATCHES_AHEAD] < idle[1] / 2


def test_a_processor_has_tensorflows_own_buffer_and_one_step_in_flight():
    for strategy in (one(), two()):
        placement = Placement(strategy, "float32", False, ())
        assert (placement.batches_ahead, placement.steps_in_flight) == (1, 1)
