"""A run stopped by any signal and resumed ends as the run that was never stopped, bit for bit."""

import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import pytest
from project import RECORDED_TRAINING, ROOT
from recorded_results import evaluated_of, state_of
from shards import random_images, write_shards
from tiny import results
from waiting import SECONDS, wait_until

from cxr_train.loop.checkpoint import newest_checkpoint

IMAGES, BATCH, EPOCHS = 50, 4, 3
STEPS = IMAGES // BATCH


class Run:
    """A run directory, and processes that train in it."""

    def __init__(self, directory: pathlib.Path, data: pathlib.Path) -> None:
        directory.mkdir()
        self.directory = directory
        self.record = directory / "record"
        self.flags = [
            "--backbone=tiny",
            f"--data={data}",
            f"--run_dir={directory / 'run'}",
            "--weights=none",
            "--dropout=0.3",
            f"--batch_size={BATCH}",
            f"--epochs={EPOCHS}",
            "--learning_rate=1e-2",
            "--deterministic",
        ]

    def start(self, *flags: str, step_seconds: float = 0, steps_per_call: int = 200) -> subprocess.Popen:
        program = [sys.executable, RECORDED_TRAINING, str(self.record)]
        line = [*program, str(step_seconds), str(steps_per_call), *self.flags, *flags]
        return subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def lines(self) -> list[str]:
        return self.record.read_text().splitlines() if self.record.exists() else []

    def seen(self) -> dict[int, tuple[int, ...]]:
        """The images of each step in the life that counts: a step taken again replaces the first."""
        steps = [line.split() for line in self.lines() if line.startswith("step ")]
        return {int(step[1]): tuple(map(int, step[2:])) for step in steps}

    def rows(self) -> list[dict]:
        """`metrics.jsonl` without what depends on the clock."""
        return results(self.directory / "run")

    def evaluated(self) -> tuple[str, dict]:
        return evaluated_of(self.directory / "run")

    def state(self) -> dict[str, np.ndarray]:
        return state_of(self.directory / "run")


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> pathlib.Path:
    directory = tmp_path_factory.mktemp("data")
    splits = {"train": random_images(IMAGES), "validation": random_images(9, seed=1)}
    write_shards(directory, splits)
    return directory


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> Run:
    run = Run(tmp_path_factory.mktemp("whole") / "1", data)
    output = finish(run.start())
    assert "deterministic: on; turned off: " in output
    return run


def assert_the_same(run: Run, whole: Run) -> None:
    state, expected = run.state(), whole.state()
    assert state.keys() == expected.keys()
    assert any("moving" in name or "model" in name for name in state)
    for name, array in expected.items():
        assert array.tobytes() == state[name].tobytes(), name
    assert run.rows() == whole.rows()
    assert [row["epoch"] for row in run.rows()] == list(range(1, EPOCHS + 1))
    assert run.seen() == whole.seen()
    assert run.evaluated() == whole.evaluated()


@pytest.mark.slow
def test_every_example_is_seen_once_an_epoch_and_two_runs_are_the_same(whole, data, tmp_path):
    seen = whole.seen()
    assert sorted(seen) == list(range(1, EPOCHS * STEPS + 1))
    orders = [sum((seen[epoch * STEPS + step + 1] for step in range(STEPS)), ()) for epoch in range(EPOCHS)]
    for order in orders:
        assert len(set(order)) == len(order) == STEPS * BATCH
    assert len(set(orders)) == EPOCHS
    again = Run(tmp_path / "2", data)
    finish(again.start(steps_per_call=3))
    assert_the_same(again, whole)


def in_the_second_epoch(lines: list[str]) -> bool:
    return any(line.startswith(f"step {STEPS + 5} ") for line in lines)


def in_the_second_evaluation(lines: list[str]) -> bool:
    return (
        bool(lines)
        and lines[-1] == "evaluate"
        and any(line.startswith(f"step {2 * STEPS} ") for line in lines)
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGTERM, in_the_second_epoch),
        (signal.SIGINT, in_the_second_epoch),
        (signal.SIGKILL, in_the_second_epoch),
        (signal.SIGTERM, in_the_second_evaluation),
        (signal.SIGKILL, in_the_second_evaluation),
    ],
)
def test_stopped_and_resumed_it_ends_as_if_never_stopped(
    whole, data, tmp_path, number: int, moment: Callable[[list[str]], bool]
):
    run = Run(tmp_path / "1", data)
    process = run.start("--save_minutes=0.01", step_seconds=0.2, steps_per_call=2)
    wait_until(lambda: moment(run.lines()), process)
    process.send_signal(number)
    output, _ = process.communicate(timeout=SECONDS)
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL, output
    else:
        assert process.returncode == 0, output
        assert output.splitlines()[-1].endswith(" --resume")
    assert len(run.rows()) == 1
    assert 0 < len(run.seen()) < EPOCHS * STEPS
    output = finish(run.start("--resume"))
    assert "resume: epoch 2, after " in output
    assert_the_same(run, whole)


@pytest.mark.slow
@pytest.mark.parametrize("second", [False, True])
def test_a_signal_while_xla_compiles(tmp_path, second):
    data = tmp_path / "data"
    write_shards(data, {"train": random_images(12, 32), "validation": random_images(4, 32)})
    flags = ["--backbone=mobilenet_v2", "--weights=none", "--xla=on", "--batch_size=4", "--epochs=2"]
    line = [sys.executable, "-m", "cxr_train.main", *flags, f"--data={data}", f"--run_dir={tmp_path}/run"]
    process = subprocess.Popen(
        line,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "0"},
    )
    # TensorFlow logs it when it begins to compile, which takes many seconds without any Python.
    assert any("XLA service" in told and "initialized" in told for told in process.stderr)
    process.send_signal(signal.SIGTERM)
    if second:
        time.sleep(1.5)
        asked = time.monotonic()
        process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=SECONDS)
    if second:
        assert time.monotonic() - asked < 5
        assert process.returncode == 1
        assert errors.strip().splitlines()[-1].startswith("second SIGTERM: ")
    else:
        assert process.returncode == 0, errors
        assert output.strip().splitlines()[-1].endswith(" --resume")
        assert newest_checkpoint(tmp_path / "run/checkpoints") is not None
    assert not (tmp_path / "run/metrics.jsonl").exists()
