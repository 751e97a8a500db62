"""The emulated accelerator and the verdict: against inputs whose speed is known."""

import math

import pytest
import tensorflow as tf
from shards import random_images, write_shards

from cxr_data.core.errors import UsageError
from cxr_data.core.tensorflow_private import sleep_before_each
from cxr_data.input import bottleneck
from cxr_data.input.bottleneck import InputRates, measure_input
from cxr_data.input.emulate import Utilisation, emulate_accelerator
from cxr_data.input.options import ReadOptions
from cxr_data.input.pipeline import Pipeline
from cxr_train.flags.training import emulated_step_seconds


def slow_input(batches: int, seconds: float) -> tf.data.Dataset:
    """Batches that take `seconds` each to come, one after the other, with nothing prefetched."""
    options = tf.data.Options()
    options.experimental_optimization.inject_prefetch = False
    return tf.data.Dataset.range(batches).apply(sleep_before_each(seconds)).with_options(options)


def test_utilisation_is_the_share_of_the_time_spent_computing():
    found = Utilisation(steps=10, images=80, step_seconds=0.3, seconds=4.0, waited=0.9)
    assert found.accelerator_utilisation == pytest.approx(0.75)
    assert found.images_per_second == pytest.approx(20)
    assert str(found) == ("accelerator utilisation 75.0% at 300.0 ms a step: 20 images/s, input wait 22.5%")


def test_an_input_as_slow_as_the_device_halves_the_utilisation_unless_it_is_prefetched():
    alone = emulate_accelerator(slow_input(20, 0.02), batch_size=8, step_seconds=0.02)
    assert alone.steps == 19
    assert alone.images == 19 * 8
    # The sleeps add up: they cannot take less than this, whatever else the machine does.
    assert alone.seconds >= 19 * 0.035
    assert alone.waited >= 19 * 0.019
    assert alone.accelerator_utilisation < 0.6
    ahead = emulate_accelerator(slow_input(20, 0.02).prefetch(20), batch_size=8, step_seconds=0.06)
    assert ahead.waited < alone.waited


def test_a_real_pipeline_feeds_a_slow_accelerator(tmp_path):
    manifest = write_shards(tmp_path, {"train": random_images(16)})
    dataset = Pipeline(manifest).training_dataset("train", batch_size=4, seed=0, epoch=0, epochs=2)
    found = emulate_accelerator(dataset, batch_size=4, step_seconds=0.02)
    assert found.images == 28
    assert 0 < found.accelerator_utilisation < 1.2
    assert 0 <= found.waited <= found.seconds


def test_one_flag_or_the_other_gives_the_step_time():
    assert emulated_step_seconds(None, None, 32) is None
    assert emulated_step_seconds(20.0, None, 32) == pytest.approx(0.02)
    assert emulated_step_seconds(None, 640.0, 32) == pytest.approx(0.05)
    with pytest.raises(UsageError, match="--emulate_step_ms .*--emulate_images_per_second"):
        emulated_step_seconds(1.0, 1.0, 32)
    for value in (math.nan, math.inf):
        with pytest.raises(UsageError, match=f"--emulate_step_ms={value}: "):
            emulated_step_seconds(value, None, 4)
    with pytest.raises(UsageError, match="--emulate_step_ms=0: "):
        emulated_step_seconds(0, None, 32)
    with pytest.raises(UsageError, match="--emulate_.*--batch_size"):
        emulate_accelerator(slow_input(1, 0.001), batch_size=4, step_seconds=0.001)


def test_the_verdict_names_the_limit_and_the_headroom():
    rates = InputRates(1000.0, {"storage": 0.0006, "checksum": 0.0003, "copy": 0.0001})
    fast = bottleneck.verdict(rates, 320.0, 0.004)
    assert fast.startswith("accelerator-bound: ")
    assert "0.4%" in fast
    assert "3.1x" in fast
    assert bottleneck.verdict(rates, 320.0, 0.004, on_cpu=True).startswith("compute-bound on the CPU: ")
    assert "accelerator" not in bottleneck.verdict(rates, 990.0, 0.25, on_cpu=True)
    slow = bottleneck.verdict(rates, 990.0, 0.25)
    assert slow.startswith("storage-bound: ")
    assert "25.0%" in slow
    assert "storage 60%, checksum 30%, copy 10%" in slow


def test_stage_costs_are_differences_and_never_negative():
    costs = bottleneck.stage_costs(
        {"host-to-device": 100.0, "checksum": 200.0, "storage": 180.0, "copy": 400.0}
    )
    assert list(costs) == ["host-to-device", "checksum", "storage", "copy"]
    assert costs["host-to-device"] == pytest.approx(1 / 100 - 1 / 200)
    assert costs["checksum"] == 0
    assert costs["copy"] == pytest.approx(1 / 400)


@pytest.mark.parametrize(
    ("options", "stages"),
    [
        ({}, {"host-to-device", "checksum", "storage", "copy"}),
        ({"reader": "stream"}, {"shuffle", "parse", "storage"}),
        ({"cache": "memory"}, {"host-to-device", "copy"}),
    ],
)
def test_every_reader_has_its_stages_measured(tmp_path, options, stages):
    manifest = write_shards(tmp_path, {"train": random_images(16)})
    rates = measure_input(Pipeline(manifest, ReadOptions(**options)), "train", batch_size=4, seconds=0.05)
    assert rates.images_per_second > 0
    assert set(rates.stages) == stages
    assert rates.limit in stages
    assert math.isfinite(sum(rates.stages.values()))
