"""How a run begins: the batch that `auto` chooses, and what a failed start leaves behind."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import pytest
import tensorflow as tf
from in_process import run_command
from project import RECORDED_TRAINING, ROOT, assert_one_clear_line
from shards import random_images, write_shards
from waiting import SECONDS

from cxr_train.loop import trainer
from cxr_train.models.classifier import build_model
from cxr_train.models.memory import trace


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> pathlib.Path:
    directory = tmp_path_factory.mktemp("data")
    write_shards(directory, {"train": random_images(18, 32), "validation": random_images(5, 32, seed=1)})
    return directory


def fixed(run_dir: pathlib.Path, data: pathlib.Path) -> list[str]:
    return [f"--run_dir={run_dir}", f"--data={data}", "--weights=none", "--epochs=1"]


def train(run_dir: pathlib.Path, data: pathlib.Path, *flags: str):
    program = [RECORDED_TRAINING, str(run_dir.parent / "record"), "0", "200"]
    line = [sys.executable, *program, *fixed(run_dir, data), *flags]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)


def config_of(run_dir: pathlib.Path) -> dict:
    return json.loads((run_dir / "config.json").read_text())


@pytest.mark.ci
def test_auto_chooses_a_batch_that_fits_and_a_resume_keeps_it(data, tmp_path):
    run_dir = tmp_path / "run"
    automatic = ["--backbone=tiny", "--batch_size=auto"]
    nothing_fits = train(run_dir, data, *automatic, "--memory_gb=0.00001")
    assert nothing_fits.returncode == 2
    assert "--batch_size=auto: " in nothing_fits.stderr.splitlines()[-1]
    assert not (run_dir / "config.json").exists()

    begun = train(run_dir, data, *automatic, "--memory_gb=2")
    assert begun.returncode == 0, begun.stderr
    assert "batch_size: 18 (auto: " in begun.stdout
    assert config_of(run_dir)["batch_size"] == 18
    written = (run_dir / "flags.txt").read_text().splitlines()
    assert "--batch_size=18" in written
    assert not any(line.startswith("--cache_dir") for line in written)  # it is in the home of whoever resumes

    resumed = train(run_dir, data, *automatic, "--memory_gb=0.00001", "--epochs=2", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "batch_size: 18 (auto: " in resumed.stdout


@pytest.mark.ci
def test_a_start_that_failed_leaves_no_run_behind(data, tmp_path):
    run_dir = tmp_path / "run"
    failed = train(run_dir, data, "--backbone=tiny", "--batch_size=6", "--freeze=until:nowhere")
    assert failed.returncode == 2
    assert "--freeze=until:nowhere" in failed.stderr.splitlines()[-1]
    corrected = train(run_dir, data, "--backbone=tiny", "--batch_size=6")
    assert corrected.returncode == 0, corrected.stderr
    assert config_of(run_dir)["recipe"]["freeze"] == "none"


@pytest.mark.ci
def test_what_a_run_compiles_is_kept(data, tmp_path):
    """The cache is a flag of TensorFlow's, which nothing may have started before."""
    cache = tmp_path / "compiled"
    compiled = ["--backbone=tiny", "--batch_size=6", "--xla=on", f"--compilation_cache={cache}"]
    done = train(tmp_path / "run", data, *compiled)
    assert done.returncode == 0, done.stderr
    assert list(cache.glob("*/*.pb"))


def test_too_little_memory_is_one_line_that_names_the_way_out(tiny, data, tmp_path, monkeypatch):
    """A CPU's memory is the machine's: the error stands for a GPU that is too small."""

    def lacks_memory(self, stop):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    def end_at_once(code):
        ended.append(code)
        raise SystemExit(code)

    ended = []
    monkeypatch.setattr(trainer.Trainer, "run", lacks_memory)
    monkeypatch.setattr(os, "_exit", end_at_once)  # TensorFlow may abort a process that ends in order
    flags = [*fixed(tmp_path / "run", data), "--backbone=tiny", "--batch_size=6"]
    assert_one_clear_line(run_command("cxr_train.main", *flags).completed, 1, "--batch_size=6: ")
    assert ended == [1]


def test_the_estimate_does_not_change_the_names_of_layers():
    """Those of Xception's shortcuts are numbered by the process; files of weights go by them."""
    keras.utils.clear_session(free_memory=False)
    alone = [layer.name for layer in build_model("xception", classes=3, image_size=96).layers]
    keras.utils.clear_session(free_memory=False)
    trace("xception", image_size=96)
    assert [layer.name for layer in build_model("xception", classes=3, image_size=96).layers] == alone
