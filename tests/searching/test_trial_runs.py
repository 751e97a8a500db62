"""What is read off the run directory of a trial: its value, its cost, its size."""

import dataclasses
import io
import json
import zipfile

import h5py
import numpy as np
import pytest

from cxr_train.ablation.runner import GridRun
from cxr_train.runs.config import TrainConfig
from cxr_train.searching.trial_runs import gpu_seconds_of, parameters_of, value_of


@pytest.fixture
def run(tmp_path):
    """A run of three epochs on two GPUs."""
    config = TrainConfig("vgg16", "data", str(tmp_path), weights="none", monitor="accuracy")
    (tmp_path / "environment.json").write_text('{"gpus": ["a", "b"]}')
    rows = [
        {
            "epoch": n,
            "train": {"epoch_seconds": 2.0, "compile_seconds": 10.0 if n == 1 else 0.0},
            "validation": part,
        }
        for n, part in enumerate(
            [
                {"accuracy": 0.5, "loss": 0.7},
                {"accuracy": 0.75, "loss": 0.9},
                {"accuracy": 0.6, "loss": None},
            ],
            1,
        )
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return GridRun("trial", {}, config)


def test_the_value_is_that_of_the_best_epoch_up_to_the_rung(run):
    assert [value_of(run, epochs) for epochs in (1, 2, 3)] == [0.5, 0.75, 0.75]
    of_loss = dataclasses.replace(run, config=dataclasses.replace(run.config, monitor="loss"))
    assert [value_of(of_loss, epochs) for epochs in (1, 3)] == [0.7, 0.7]
    undefined = dataclasses.replace(run, config=dataclasses.replace(run.config, monitor="macro_auroc"))
    assert value_of(undefined, 3) is None


def test_gpu_seconds_are_those_of_epochs_and_compilation_times_the_gpus(run):
    assert [gpu_seconds_of(run, epochs) for epochs in (1, 3)] == [24, 32]
    run.layout.environment.unlink()
    assert gpu_seconds_of(run, 3) == 16


def test_the_parameters_of_a_saved_model_are_counted_without_the_optimizer(tmp_path):
    weights = io.BytesIO()
    with h5py.File(weights, "w") as file:
        file["layers/dense/vars/0"] = np.zeros([5, 7])
        file["layers/dense/vars/1"] = np.zeros([7])
        file["optimizer/vars/0"] = np.zeros([5, 7])
    with zipfile.ZipFile(tmp_path / "best.keras", "w") as archive:
        archive.writestr("model.weights.h5", weights.getvalue())
    assert parameters_of(tmp_path / "best.keras") == 42
    assert parameters_of(tmp_path / "none.keras") is None
