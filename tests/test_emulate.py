"""The emulated accelerator and the verdict: against inputs whose speed is known."""

import math
import time

import pytest
from shards import random_images, write_shards

from cxr_data import verdict
from cxr_data.emulate import emulate, step_seconds
from cxr_data.errors import UsageError
from cxr_data.pipeline import Pipeline, ReadOptions
from cxr_data.verdict import InputRates, measure_input


class SlowInput:
    """Batches that each take `seconds` to come, on a clock that only they and the sleeps move."""

    def __init__(self, clock: "Clock", batches: int, seconds: float) -> None:
        self.clock, self.batches, self.seconds = clock, batches, seconds

    def __iter__(self):
        for _ in range(self.batches):
            self.clock.now += self.seconds
            yield {}


class Clock:
    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock.perf_counter)
    monkeypatch.setattr(time, "sleep", clock.sleep)
    return clock


def test_utilisation_is_the_share_of_the_time_spent_computing(clock):
    found = emulate(SlowInput(clock, 10, 0.1), batch_size=8, step_seconds=0.3)
    assert found.steps == 10
    assert found.seconds == pytest.approx(10 * 0.3 + 9 * 0.1)
    assert found.waited == pytest.approx(0.9)
    assert found.accelerator_utilisation == pytest.approx(3.0 / 3.9)
    assert found.images_per_second == pytest.approx(80 / 3.9)


def test_an_input_that_is_always_ahead_gives_full_utilisation(clock):
    assert emulate(SlowInput(clock, 9, 0), batch_size=8, step_seconds=0.01).accelerator_utilisation == 1


def test_a_real_pipeline_feeds_a_slow_accelerator(tmp_path):
    manifest = write_shards(tmp_path, {"train": random_images(16)})
    dataset = Pipeline(manifest).training_dataset("train", batch_size=4, seed=0, epoch=0, epochs=2)
    found = emulate(dataset, batch_size=4, step_seconds=0.02)
    assert found.images == 32
    assert 0 < found.accelerator_utilisation <= 1
    assert "accelerator utilisation" in str(found)


def test_one_flag_or_the_other_gives_the_step_time():
    assert step_seconds(None, None, 32) is None
    assert step_seconds(20.0, None, 32) == pytest.approx(0.02)
    assert step_seconds(None, 640.0, 32) == pytest.approx(0.05)
    with pytest.raises(UsageError, match="give one of them"):
        step_seconds(1.0, 1.0, 32)
    with pytest.raises(UsageError, match="--emulate_step_ms=0: must be above 0"):
        step_seconds(0, None, 32)
    with pytest.raises(UsageError, match="needs at least two batches"):
        emulate([{}], batch_size=4, step_seconds=0.001)


def test_the_verdict_names_the_limit_and_the_headroom():
    rates = InputRates(1000.0, {"storage": 0.0006, "checksum": 0.0003, "copy": 0.0001})
    assert verdict.verdict(rates, 320.0).startswith(
        "accelerator-bound: input could feed 3.1x more; input alone 1000"
    )
    slow = verdict.verdict(rates, 990.0)
    assert slow.startswith("storage-bound: the accelerator waits")
    assert "storage 60%, checksum 30%, copy 10%" in slow


def test_stage_costs_are_differences_and_never_negative():
    costs = verdict._differences(
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
