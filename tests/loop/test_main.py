"""The training command as users type it, by exit code and message."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest
from in_process import run_command
from project import ROOT, assert_one_clear_line
from shards import random_images, write_shards
from waiting import SECONDS, wait_until

SIZE = 32


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> pathlib.Path:
    directory = tmp_path_factory.mktemp("data")
    write_shards(directory, {"train": random_images(18, SIZE), "validation": random_images(5, SIZE, seed=1)})
    return directory


FIXED = ["--backbone=vgg16", "--weights=none", "--freeze=backbone", "--batch_size=4", "--epochs=2"]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "cxr_train.main", *FIXED, *map(str, arguments)]


def run(
    *arguments: object, module: str = "cxr_train.main", fixed: bool = True
) -> subprocess.CompletedProcess:
    line = command(*arguments) if fixed else [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)


@pytest.mark.ci
def test_train_stop_resume_and_evaluate(data, tmp_path):
    run_dir = tmp_path / "run"
    line = command(f"--data={data}", f"--run_dir={run_dir}", "--epochs=400")
    process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until((run_dir / "metrics.jsonl").exists, process)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, errors
    assert "precision: float32 (auto: " in output
    told = output.strip().splitlines()[-1]
    assert told.endswith(f": python -m cxr_train.main --flagfile={run_dir}/flags.txt --resume")

    epochs = len((run_dir / "metrics.jsonl").read_text().splitlines()) + 1
    resumed = run(
        f"--flagfile={run_dir}/flags.txt",
        "--resume",
        f"--epochs={epochs}",
        module="cxr_train.main",
        fixed=False,
    )
    assert resumed.returncode == 0, resumed.stderr
    assert "resume: " in resumed.stdout
    rows = [json.loads(row) for row in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == list(range(1, epochs + 1))
    trained = json.loads((run_dir / "metrics_validation.json").read_text())
    predictions = (run_dir / "predictions_validation.csv").read_text()

    evaluated = run(f"--run_dir={run_dir}", module="cxr_train.evaluate", fixed=False)
    assert evaluated.returncode == 0, evaluated.stderr
    assert json.loads((run_dir / "metrics_validation.json").read_text()) == trained
    assert (run_dir / "predictions_validation.csv").read_text() == predictions
    assert f"report: {run_dir}/report/index.html" in evaluated.stdout
    assert trained["loss"] == pytest.approx(min(row["validation"]["loss"] for row in rows), rel=1e-4)

    again = run(f"--data={data}", f"--run_dir={run_dir}")
    assert_one_clear_line(again, 2, f"--run_dir={run_dir}: ", "--resume")
    other = run(f"--flagfile={run_dir}/flags.txt", "--resume", "--batch_size=2", fixed=False)
    assert_one_clear_line(other, 2, "--batch_size=4, not 2", "--flagfile=")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--backbone=resnet"], ["--backbone=resnet: ", "mobilenet_v2"]),
        (["--epochs=0"], ["--epochs=0"]),
        (["--no_such_flag"], ["no_such_flag"]),
        (["--head=128x32"], ["--head=128x32"]),
        (["--learning_rate=inf"], ["--learning_rate=inf: ", "finite"]),
        (["--resume", "--run_dir="], ["--resume: ", "--run_dir"]),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(tmp_path, arguments, parts):
    result = run_command("cxr_train.main", *FIXED, f"--run_dir={tmp_path}/run", *arguments).completed
    assert_one_clear_line(result, 2, *parts)
    assert not (tmp_path / "run").exists()


def _missing(directory: pathlib.Path) -> str:
    (directory / "train-00001-of-00005.tfrecord").unlink()
    return "train-00001-of-00005.tfrecord is missing"


def _truncated(directory: pathlib.Path) -> str:
    shard = directory / "train-00001-of-00005.tfrecord"
    os.truncate(shard, shard.stat().st_size - 10)
    return "train-00001-of-00005.tfrecord is truncated"


def _no_manifest(directory: pathlib.Path) -> str:
    (directory / "manifest.json").unlink()
    return "has no manifest.json"


def _flipped_bit(directory: pathlib.Path) -> str:
    shard = directory / "train-00001-of-00005.tfrecord"
    content = np.fromfile(shard, np.uint8)
    content[-500] ^= 4
    content.tofile(shard)
    return "verify_tfrecords --data="


@pytest.mark.parametrize("damage", [_missing, _truncated, _no_manifest, _flipped_bit])
def test_damaged_data_is_named(tiny, tmp_path, damage):
    directory = tmp_path / "data"
    write_shards(directory, {"train": random_images(18, SIZE), "validation": random_images(5, SIZE)})
    expected = damage(directory)
    result = run_command(
        "cxr_train.main", *FIXED, "--backbone=tiny", f"--data={directory}", f"--run_dir={tmp_path}/run"
    ).completed
    assert_one_clear_line(result, 1, str(directory), expected)


def test_evaluating_a_folder_that_is_no_run_is_named(tmp_path):
    result = run_command("cxr_train.evaluate", f"--run_dir={tmp_path}").completed
    assert_one_clear_line(result, 1, str(tmp_path), "config.json")
