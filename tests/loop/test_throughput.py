"""The summary of what a training run took, from numbers made by hand."""

import re

import numpy as np
import pytest
import tensorflow as tf

from cxr_data.input.bottleneck import InputRates
from cxr_train.engine.multi_step import StepRecords
from cxr_train.loop import throughput
from cxr_train.loop.throughput import Clock, PeakMemory

RATES = InputRates(400.0, {"storage": 0.001, "copy": 0.0015})
PEAK = PeakMemory(3_000_000_000, "the test")


def clock(
    step_seconds: list[float], *, batch: int = 8, waited: float = 0.01, flops_per_image: float = 1e9
) -> Clock:
    steps = len(step_seconds)
    numbers = [np.zeros(steps), np.full(steps, batch), np.zeros(steps), np.full(steps, waited)]
    of_run = Clock(compile_seconds=12.5)
    records = StepRecords(*numbers, np.array(step_seconds))
    of_run.add(records, sum(step_seconds) + 0.1, flops_per_image)
    return of_run


def test_rates_times_and_memory_of_a_run():
    summary = throughput.summarize_throughput(
        clock([0.1] * 18 + [0.2, 0.9], flops_per_image=2e9), RATES, PEAK, 2_500_000_000
    )
    assert summary["images_per_second"] == pytest.approx(20 * 8 / 3.0)
    assert summary["timed_steps"] == 20
    assert summary["step_seconds"]["p50"] == pytest.approx(0.1)
    assert summary["step_seconds"]["p95"] == pytest.approx(np.percentile([0.1] * 18 + [0.2, 0.9], 95))
    assert summary["input_wait_share"] == pytest.approx(20 * 0.01 / 3.0)
    assert summary["flops_per_second"] == pytest.approx(2e9 * 20 * 8 / 3.0)
    assert summary["verdict"].startswith("copy-bound: the accelerator is idle 6.7% of the time")

    lines = throughput.lines(summary).splitlines()
    assert max(map(len, lines)) <= 100
    text = " ".join(map(str.strip, lines))
    assert "53.3 images/s over 20 steps (p50 100.0 ms" in text
    assert "input wait 6.7%, compilation 12.5 s" in text
    assert "106.7 GFLOP/s (2.000 GFLOP an image), " in text
    assert re.search(r"peak memory 3\.00 GB, .*2\.50 GB", text)


def test_each_of_several_workers_feeds_its_part():
    summary = throughput.summarize_throughput(clock([0.02] * 10, waited=0), RATES, PEAK, 0, workers=4)
    assert summary["input_images_per_second"] == 1600
    consumed = 80 / 0.3
    assert summary["verdict"].startswith("accelerator-bound: idle 0.0%")
    assert f" {400 / (consumed / 4):.1f}x" in summary["verdict"]


@pytest.mark.parametrize("alone", [250.0, 4000.0])
def test_an_idle_device_is_held_up_by_the_dearest_stage_however_fast_the_input_is_alone(alone):
    rates = InputRates(alone, RATES.stages)
    for waited, bound in ((0.001, "copy"), (0.0001, "accelerator")):  # of 30 ms a step
        summary = throughput.summarize_throughput(clock([0.02] * 10, waited=waited), rates, PEAK, 0)
        assert summary["verdict"].startswith(f"{bound}-bound: ")


def test_a_run_without_a_timed_step_has_no_rate():
    summary = throughput.summarize_throughput(Clock(), RATES, PEAK, 0)
    assert summary["images_per_second"] is None
    assert summary["flops_per_second"] is None
    assert summary["step_seconds"]["p50"] is None
    assert throughput.lines(summary).endswith("no verdict")


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="a GPU's allocator is asked")
def test_the_peak_of_a_process_is_what_linux_says():
    before = throughput.peak_memory()
    assert before.source.startswith("VmHWM ")
    held = np.ones(50_000_000)  # 400 MB, touched
    after = throughput.peak_memory()
    assert after.bytes >= before.bytes
    assert after.bytes >= held.nbytes
