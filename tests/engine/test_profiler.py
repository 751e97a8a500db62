"""`--profile_steps`: which steps are traced, and the trace that a run leaves."""

import logging
import pathlib

import pytest
from shards import random_images, write_shards
from tensorflow.tsl.profiler.protobuf import xplane_pb2
from tiny import make_trainer

from cxr_data.core.errors import UsageError
from cxr_train.engine.profiler import StepProfiler, parse_steps
from cxr_train.loop.stop import StopRequest

STEPS_PER_EPOCH = 5


def test_steps_are_two_numbers_the_lower_one_first():
    assert list(parse_steps("10:13")) == [10, 11, 12]
    assert list(parse_steps("")) == []


@pytest.mark.parametrize("text", ["10", "10:10", "5:3", "a:b", "-1:3", "1:2:3", ":4"])
def test_anything_else_is_a_mistake_of_the_user(text):
    with pytest.raises(UsageError, match=f"--profile_steps={text}: .*10:20"):
        parse_steps(text)


def test_calls_end_where_the_trace_begins_and_traced_steps_are_calls_of_their_own(tmp_path):
    profiler = StepProfiler(range(3, 6), tmp_path)
    calls, step = [], 0
    while step < 12:
        calls.append(profiler.shorten(step, 4))
        step += calls[-1]
    assert calls == [3, 1, 1, 1, 4, 4]
    assert [profiler.is_past(step) for step in (3, 5, 6)] == [False, False, True]
    assert not StepProfiler(range(0), tmp_path).is_past(6)


def test_a_run_leaves_a_trace_of_exactly_these_steps(tiny, tmp_path, caplog):
    splits = {"train": random_images(4 * STEPS_PER_EPOCH), "validation": random_images(4)}
    manifest = write_shards(tmp_path / "data", splits)
    with caplog.at_level(logging.INFO, "cxr_train"):
        make_trainer(manifest, tmp_path / "run", epochs=2, profile_steps="6:8").run(StopRequest())
    logs = tmp_path / "run/tensorboard"
    (trace,) = logs.glob("plugins/profile/*/*.xplane.pb")
    assert traced_steps(trace) == [6, 7]
    assert f"profile of steps 6:8: {logs}/plugins/profile" in caplog.messages
    # Steps are numbered from the start of the run: these are of the second epoch.
    assert STEPS_PER_EPOCH <= 6


def test_steps_that_the_run_does_not_have_are_a_mistake_of_the_user(tiny, manifest, tmp_path):
    with pytest.raises(UsageError, match=r"--profile_steps=10:20: .*\b0 to 9\b"):
        make_trainer(manifest, tmp_path, epochs=2, profile_steps="10:20")


def traced_steps(trace: pathlib.Path) -> list[int]:
    """The numbers of the training steps in a trace, in order."""
    space = xplane_pb2.XSpace.FromString(trace.read_bytes())
    steps = []
    for plane in space.planes:
        for event in (event for line in plane.lines for event in line.events):
            if plane.event_metadata[event.metadata_id].name == "train":
                stats = {plane.stat_metadata[stat.metadata_id].name: stat for stat in event.stats}
                steps.append((event.offset_ps, stats["step_num"].int64_value))
    return [number for _, number in sorted(steps)]
