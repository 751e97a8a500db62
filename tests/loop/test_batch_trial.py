"""`--batch_size=auto` tries its batch: in processes of their own, which change nothing of the run."""

import dataclasses
import json
import logging
import pathlib
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny
from project import HELPERS, ROOT
from shards import random_images, write_shards
from waiting import SECONDS

from cxr_data.core.errors import DataError, OutOfMemoryError, UsageError
from cxr_data.records.manifest import read_manifest
from cxr_train.engine.memory_errors import bytes_asked, clear_memory_errors
from cxr_train.engine.step import TrainStep
from cxr_train.loop.batch_trial import Trial, find_batch, said_by, take_one_step
from cxr_train.recipe.recipe import Recipe
from cxr_train.runs.config import TrainConfig


@dataclasses.dataclass
class Device:
    """Has 10 GB, of which `held` are taken, and `gb_an_image` more for each image."""

    gb_an_image: float
    planned: int
    held: float = 1e9
    most: int = 1000
    says_how_much: bool = True

    def __post_init__(self):
        self.tried = []

    def __call__(self, images: int | None) -> Trial:
        images = images or self.planned
        self.tried.append(images)
        needed = self.held + images * self.gb_an_image * 1e9
        return Trial(
            images, self.most, needed <= 10e9, 10e9, needed if self.says_how_much else None, self.held
        )


def test_a_plan_that_is_right_is_tried_once():
    device = Device(0.1, planned=80)
    assert find_batch(device).images == 80
    assert device.tried == [80]


def test_too_large_a_plan_becomes_smaller_by_what_the_failure_showed():
    device = Device(0.15, planned=88)
    assert find_batch(device).images == 48  # 8 GB of 10 - 1, of which a tenth is left, hold 53
    assert device.tried == [88, 48]


def test_much_free_memory_is_used():
    device = Device(0.04, planned=80)
    assert find_batch(device).images == 200
    assert device.tried == [80, 200]


def test_no_batch_exceeds_the_training_split():
    assert find_batch(Device(0.04, planned=80, most=100)).images == 100


def test_a_larger_batch_that_does_not_fit_is_given_up():
    def device(images: int | None) -> Trial:
        images = images or 80
        return Trial(images, 1000, images <= 80, 10e9, 4e9 if images <= 80 else 11e9, 1e9)

    assert find_batch(device).images == 80


@pytest.mark.parametrize("gb_an_image", [0.2, 1.0, 8.0])
def test_failures_that_do_not_say_how_much_end_at_a_batch_that_fits(gb_an_image):
    device = Device(gb_an_image, planned=88, says_how_much=False)
    assert find_batch(device).images * gb_an_image <= 9
    assert device.tried == sorted(set(device.tried), reverse=True)


def test_a_failure_that_names_one_tensor_only_is_not_asked_for_long():
    """Op by op, it is a small part of the 20 GB that are needed."""
    tried = []

    def device(images: int | None) -> Trial:
        tried.append(images or 90)
        fits = tried[-1] <= 40
        return Trial(tried[-1], 1000, fits, 10e9, 8e9 if fits else 1.5e9, 1e9)

    assert find_batch(device).images == 32
    assert tried == [90, 56, 32]
    assert "1.5" not in str(device(90))


def test_not_even_one_image():
    with pytest.raises(UsageError, match="--batch_size=auto"):
        find_batch(Device(20, planned=8))


def test_each_try_is_a_line(caplog):
    with caplog.at_level(logging.INFO, "cxr_train"):
        find_batch(Device(0.15, planned=88))
    assert [("88 " in line, "48 " in line) for line in caplog.messages] == [(True, False), (False, True)]


def test_what_a_failure_asked_for():
    said_by_xla = {
        "Out of memory while trying to allocate 14131321232 bytes.": 14131321232,
        "Failed to allocate 1.5GiB (1610612736 bytes)": int(1.5 * 2**30),
        "OOM when allocating tensor with shape[88,180,180,32]": None,
    }
    for message, asked in said_by_xla.items():
        assert bytes_asked(tf.errors.ResourceExhaustedError(None, None, message)) == asked


def test_an_error_says_what_is_wrong_and_not_where_the_step_was_defined():
    @tf.function
    def step(number: tf.Tensor) -> None:
        tf.debugging.assert_equal(number, 2, "no such batch")

    with pytest.raises(tf.errors.InvalidArgumentError) as failed:
        step(tf.constant(3))
    assert failed.value.message.startswith("Graph")
    assert said_by(failed.value).startswith("assertion failed: [no such batch]")


@pytest.mark.parametrize("said", ["No space left on device", "Too many open files"])
def test_what_files_lack_is_no_lack_of_memory(said):
    error = tf.errors.ResourceExhaustedError(None, None, f"x; {said}")
    with pytest.raises(tf.errors.ResourceExhaustedError), clear_memory_errors("--batch_size"):
        raise error


@pytest.mark.parametrize(
    "error",
    [
        tf.errors.InternalError(None, None, "CUDA_ERROR_OUT_OF_MEMORY: out of memory"),
        tf.errors.NotFoundError(
            None, None, "No algorithm worked!\n engine 1: UNKNOWN: CUDNN_STATUS_ALLOC_FAILED"
        ),
    ],
)
def test_what_the_libraries_of_a_gpu_say_of_its_memory(error):
    with pytest.raises(OutOfMemoryError, match="--batch_size"), clear_memory_errors("--batch_size"):
        raise error


def run(
    run_dir: pathlib.Path, data: pathlib.Path, *flags: str, most: int
) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, str(HELPERS / "small_device.py"), str(most), f"--run_dir={run_dir}"]
    line += [f"--data={data}", "--backbone=tiny", "--weights=none", "--epochs=1", "--head=6", *flags]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)


def weights_of(run_dir: pathlib.Path) -> list[np.ndarray]:
    return keras.saving.load_model(run_dir / "last.keras", compile=False).get_weights()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> pathlib.Path:
    directory = tmp_path_factory.mktemp("data")
    write_shards(directory, {"train": random_images(40, 32), "validation": random_images(5, 32, seed=1)})
    return directory


def test_a_try_trains_what_will_be_unfrozen_later(data, tmp_path, monkeypatch):
    """Which is when a step needs the most memory."""
    built, trained = [], []

    def build(**options) -> keras.Model:
        built.append(tiny.with_batch_norm(**options))
        return built[-1]

    def step(*_: object) -> None:
        trained.extend(built[-1].layers[1].trainable_weights)

    monkeypatch.setattr(TrainStep, "__call__", step)
    recipe = Recipe(freeze="backbone", unfreeze_at_epoch=2)
    values = {"backbone": "tiny", "weights": "none", "head": (6,), "data": str(data), "recipe": recipe}
    with tiny.registered("tiny", build):
        config = TrainConfig(**values, run_dir=str(tmp_path))
        assert take_one_step(config, 4, memory_gb=1, logical_devices=1, began=lambda trial: None).fits
    assert trained == built[-1].layers[1].weights


def test_a_damaged_record_is_named_by_the_try(data, tmp_path):
    damaged = shutil.copytree(data, tmp_path / "data")
    for shard in damaged.glob("train*.tfrecord"):
        content = bytearray(shard.read_bytes())
        content[-10] ^= 255  # among the pixels of its last record
        shard.write_bytes(content)
    with tiny.registered("tiny", tiny.with_batch_norm):
        config = TrainConfig("tiny", str(damaged), str(tmp_path / "run"), weights="none", head=(6,))
        images = read_manifest(str(damaged)).count("train")
        with pytest.raises(DataError, match="checksum"):
            take_one_step(config, images, memory_gb=1, logical_devices=1, began=lambda trial: None)


@pytest.mark.ci
def test_tries_leave_the_run_as_it_would_be_without_them(data, tmp_path):
    """The first try is aborted, the second fails with a size, the third fits: on two replicas."""
    two = ["--strategy=mirrored", "--logical_devices=2"]
    automatic = ["--batch_size=auto", "--try_batch=on", "--memory_gb=1.2"]
    tried = run(tmp_path / "tried", data, *two, *automatic, most=12)
    assert tried.returncode == 0, tried.stderr
    lines = [line for line in tried.stdout.splitlines() if line.startswith("batch_size: tried")]
    assert [line.split()[2] for line in lines] == ["20", "8", "6"]
    assert "kInvalidChunkHandle" not in tried.stderr
    config = json.loads((tmp_path / "tried" / "config.json").read_text())
    assert config["batch_size"] == 12
    assert "--batch_size=12" in (tmp_path / "tried" / "flags.txt").read_text().splitlines()

    plain = run(tmp_path / "plain", data, *two, "--batch_size=12", most=12)
    assert plain.returncode == 0, plain.stderr
    for weights, expected in zip(weights_of(tmp_path / "tried"), weights_of(tmp_path / "plain"), strict=True):
        np.testing.assert_array_equal(weights, expected)


@pytest.mark.ci
def test_a_run_that_lacks_memory_ends_with_its_line_and_no_abort(data, tmp_path):
    failed = run(tmp_path / "run", data, "--batch_size=8", most=6)
    assert failed.returncode == 1
    assert "--batch_size=8: " in failed.stderr.splitlines()[-1]


@pytest.mark.ci
def test_an_error_that_is_not_of_memory_is_the_runs_own(data, tmp_path):
    wrong = run(
        tmp_path / "run", data, "--batch_size=auto", "--try_batch=on", "--freeze=until:nowhere", most=9
    )
    assert wrong.returncode == 2
    assert "--freeze=until:nowhere" in wrong.stderr.splitlines()[-1]
