"""Steps in flight: what is launched when, which losses are read, and what is called waiting."""

import itertools
import threading
import time
from collections.abc import Iterator

import keras
import numpy as np
import pytest
from fake_device import FakeDevice
from tiny_steps import batches, dataset, one, places, reference_weights, train, two

from cxr_train.engine import multi_step
from cxr_train.engine.multi_step import take_steps
from cxr_train.recipe.loss_scale import LossScale


def test_a_step_is_launched_before_the_loss_of_the_one_before_is_known():
    launched = [threading.Event() for _ in range(5)]
    read = []

    def launch(batch: int, number: int) -> int:
        assert batch == number
        assert read == list(range(number - 1))  # two steps in flight, not more
        launched[number].set()
        return number

    def wait(number: int) -> np.ndarray:
        # This step "ends" only once the next one was launched.
        if number < 4:
            assert launched[number + 1].wait(30)
        read.append(number)
        return np.array([number, 8.0, 4.0])

    records = take_steps(launch, itertools.count(), range(5), in_flight=2, read=wait)
    assert records.loss.tolist() == [0, 1, 2, 3, 4]
    assert records.examples.tolist() == [8] * 5


def test_with_one_step_in_flight_every_loss_is_read_before_the_next_launch():
    device = FakeDevice()
    seen = []

    def launch(batch: int, number: int) -> int:
        seen.append(list(device.read_steps))
        return device.launch(batch, number)

    take_steps(launch, itertools.repeat(0), range(3), in_flight=1, read=device.read)
    assert seen == [[], [0], [0, 1]]


def test_the_device_does_not_pause_while_the_host_launches():
    idle = {}
    for in_flight in (1, 2):
        device = FakeDevice(step_seconds=0.15)

        def launch(batch: int, number: int, device: FakeDevice = device) -> int:
            time.sleep(0.08)
            return device.launch(batch, number)

        take_steps(launch, itertools.repeat(0), range(6), in_flight=in_flight, read=device.read)
        idle[in_flight] = device.idle
    assert idle[1] >= 5 * 0.08
    assert idle[2] < idle[1] / 2


@pytest.mark.parametrize("in_flight", [1, 2])
@pytest.mark.parametrize("bad", [(0,), (2,), (4,), (2, 3)])
def test_the_step_of_a_loss_that_is_not_finite_is_the_last_record(in_flight, bad):
    device = FakeDevice(bad=bad)
    records = take_steps(device.launch, itertools.repeat(0), range(5), in_flight=in_flight, read=device.read)
    assert np.isfinite(records.loss).tolist() == [True] * bad[0] + [False]
    assert len(device.launched) == min(bad[0] + in_flight, 5)


@pytest.mark.parametrize("in_flight", [1, 2])
def test_waiting_is_from_the_end_of_a_step_to_the_arrival_of_the_next_batch(monkeypatch, in_flight):
    arrivals, ends = [0.25, 0.5, 2.5, 3.0], [1.0, 2.0, 3.5, 4.5]
    clock = threading.local()  # a thread that waits for a loss has the time at which it came
    monkeypatch.setattr(multi_step.time, "perf_counter", lambda: getattr(clock, "now", 0.0))

    def arrive() -> Iterator[int]:
        for number, clock.now in enumerate(arrivals):
            yield number

    def read(number: int) -> np.ndarray:
        clock.now = ends[number]
        return np.array([1.0, 8.0, 4.0])

    records = take_steps(lambda batch, number: number, arrive(), range(4), in_flight=in_flight, read=read)
    assert records.waited.tolist() == [0.25, 0, 0.5, 0]
    assert records.seconds.tolist() == [1, 1, 1.5, 1]


@pytest.mark.parametrize("in_flight", [1, 2])
def test_a_slow_reader_leaves_the_device_idle_and_a_fast_one_does_not(in_flight):
    def slow() -> Iterator[int]:
        while True:
            time.sleep(0.3)
            yield 0

    waited = {}
    for name, source in (("slow", slow()), ("fast", itertools.repeat(0))):
        device = FakeDevice(step_seconds=0.1)
        records = take_steps(device.launch, source, range(5), in_flight=in_flight, read=device.read)
        assert (records.waited <= records.seconds).all()
        # What is left is the step's own.
        assert np.median(records.seconds - records.waited) >= 0.05
        waited[name] = np.median(records.waited)
    assert waited["slow"] >= 0.15
    assert waited["fast"] < 0.05


@pytest.mark.parametrize(("strategy", "compile"), places((one, False), (two, True)))
def test_two_steps_in_flight_give_the_weights_of_one_bit_for_bit(strategy, compile):
    made = []
    for in_flight in (1, 2):
        adam = lambda: keras.optimizers.Adam(1e-2)  # noqa: E731
        model, _, records = train(
            strategy(), batches(6), compile=compile, batch_norm=True, optimizer=adam, in_flight=in_flight
        )
        made.append([*model.get_weights(), records.loss, records.correct])
    for value, expected in zip(*made, strict=True):
        np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize(("strategy", "compile"), places((one, True), (two, False)))
def test_the_step_launched_after_a_bad_loss_changes_neither_weights_nor_optimizer_nor_scale(
    strategy, compile
):
    items = batches(5)
    items[2]["image"][5] = 3e38
    strategy = strategy()
    with strategy.scope():
        optimizer, scale = keras.optimizers.SGD(0.1), LossScale(8.0, growth_steps=1)
    model, step, records = train(
        strategy, items, compile=compile, in_flight=2, optimizer=lambda: optimizer, scale=lambda: scale
    )
    assert np.isfinite(records.loss).tolist() == [True, True, False]
    for weight, expected in zip(model.get_weights(), reference_weights(items[:2]), strict=True):
        np.testing.assert_allclose(weight, expected, atol=1e-5)
    assert optimizer.iterations.numpy() == 2
    # Doubled twice, and halved once by the bad step itself.
    assert scale.scale.numpy() == 16
    assert scale.skipped_steps.numpy() == 1
    # A later call trains.
    iterator = iter(strategy.experimental_distribute_dataset(dataset(items[3:])))
    assert np.isfinite(step(iterator, 2).loss).all()
    assert optimizer.iterations.numpy() == 4
