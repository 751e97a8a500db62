"""The acceptance on a GPU: who has a turn, what a time limit leaves, and a small run without a GPU."""

import json
import multiprocessing
import subprocess
import sys
import time

import pytest
import tensorflow as tf
from project import ROOT

from cxr_data.core.errors import CxrError, UsageError
from tools.bench import gpu
from tools.bench.device_trace import lay
from tools.bench.gpu import Row, take_turns
from tools.bench.gpu_run import Measured, as_row

MEASURED = Measured(
    batch_size=8, images_per_second=98.0, input_wait=0.005, free_images_per_second=100.0,
    try_seconds=50.0, compile_seconds=30.0, peak_bytes=9_500_000_000, peak_source="the test",
    planned_bytes=12_000_000_000, tried_bytes=10e9, shards_trace=lay([(0, 8), (10, 12)], [(7, 11)]),
    free_trace="no GPU",
)  # fmt: skip


class Scripted:
    """A process that has said some things already, and answers its turn after a while."""

    def __init__(self, *said: object, turn_seconds: float = 0.0) -> None:
        self.connection, self._child = multiprocessing.Pipe()
        for each in said:
            self._child.send(each)
        self._turn_seconds = turn_seconds
        self.ended = False

    def receive(self) -> object:
        answer = self.connection.recv()
        if isinstance(answer, CxrError):
            raise answer
        return answer

    def turn(self, within: float) -> Measured:
        if within < self._turn_seconds:
            raise CxrError("too late")
        time.sleep(self._turn_seconds)
        return MEASURED

    def end(self, patience: float) -> None:
        self.ended = True


def test_who_is_ready_has_a_turn_and_of_the_others_is_said_why_not():
    processes = {
        "xception": Scripted(["batch_size: 8"], None),
        "vgg16": Scripted(["batch_size: 4"], CxrError("out of memory")),
        "nasnet_large": Scripted(["batch_size: 4"]),
    }
    started = [(Row(name), process) for name, process in processes.items()]
    ends = time.monotonic() + 4
    rows = {row.backbone: row for row in take_turns(started, ends=ends, turn_seconds=2)}
    assert time.monotonic() < ends
    assert rows["xception"].measured["batch_size"] == 8
    assert rows["xception"].choices == ["batch_size: 8"]
    assert rows["vgg16"].error == "out of memory"
    assert "time limit" in rows["nasnet_large"].error
    assert processes["xception"].ended
    assert processes["nasnet_large"].ended


def test_a_turn_that_the_time_limit_ends_does_not_lose_those_before_it():
    names = ("vgg16", "xception", "inception_v3")
    started = [(Row(name), Scripted([], None, turn_seconds=2)) for name in names]
    rows = list(take_turns(started, ends=time.monotonic() + 5, turn_seconds=0.1))
    assert [bool(row.measured) for row in rows] == [True, True, False]
    assert rows[2].error


def test_shares_and_targets():
    row = Row("xception", measured=as_row(MEASURED))
    assert row.measured["share_of_free"] == pytest.approx(0.98)
    assert row.measured["peak_over_tried"] == pytest.approx(0.95)
    assert row.measured["shards_busy"] == pytest.approx(10 / 12)
    assert row.measured["shards_copy_beside"] == pytest.approx(2 / 4)
    assert row.measured["free_busy"] is None
    assert row.as_json()["study_images_per_second"] == pytest.approx(17_958 / 489)
    assert not any("MISSED" in line for line in gpu.verdicts([row]))
    failed = Row("vgg16", error="out of memory")
    assert all("MISSED by vgg16" in line for line in gpu.verdicts([row, failed]))
    assert "out of memory" in gpu.rows_to_text([row, failed])


def test_an_environment_is_pairs_as_a_shell_reads_them():
    assert gpu.parse_environment("A=1 XLA_FLAGS='--one --two=3' EMPTY=") == {
        "A": "1",
        "XLA_FLAGS": "--one --two=3",
        "EMPTY": "",
    }
    for text in ("A", "=1", "A=1 B"):
        with pytest.raises(UsageError, match="NAME=VALUE"):
            gpu.parse_environment(text)
    row = Row("vgg16", "A=1", error="out of memory")
    assert "vgg16 A=1" in gpu.rows_to_text([row])
    assert row.as_json()["environment"] == "A=1"


@pytest.mark.slow
def test_a_small_run_gives_its_row_and_says_where_there_is_no_gpu(tmp_path):
    flags = [
        *(
            "--backbones=mobilenet_v2",
            "--images=12",
            "--image_size=64",
            "--memory_gb=1",
            "--environment=",
            "--environment=OMP_NUM_THREADS=1",
            "--turn_seconds=0.5",
        ),
        *(f"--scratch={tmp_path}", f"--json={tmp_path / 'out.json'}"),
    ]
    command = [sys.executable, "-m", "tools.benchmark", "gpu", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    row, other = json.loads((tmp_path / "out.json").read_text())["results"]
    assert other["environment"]
    assert other["error"] is None
    assert row["error"] is None
    assert row["free_trace"]
    for key in (
        "images_per_second",
        "free_images_per_second",
        "peak_bytes",
        "planned_bytes",
        "compile_seconds",
    ):
        assert row[key] > 0
    assert 0 <= row["input_wait"] <= 1
    assert ("No GPU" in done.stdout) == (not tf.config.list_physical_devices("GPU"))
