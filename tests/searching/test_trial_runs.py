"""What is read off the run directory of a trial: its value, its cost, its size."""

import dataclasses
import io
import json
import sys
import zipfile

import h5py
import numpy as np
import pytest
from shards import random_images, write_shards

from cxr_data.core.errors import UsageError
from cxr_data.core.folder_lock import locked
from cxr_train.ablation.runner import GridRun
from cxr_train.models.network_flops import flops_per_image
from cxr_train.runs.config import TrainConfig
from cxr_train.searching.trial_runs import TrialRuns, gpu_seconds_of, parameters_of, value_of

# In place of the trainer: it appends the rows of the epochs that are missing, and says that it has ended.
TRAINER = """
import json, pathlib, sys
run, config, epochs = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])
run.mkdir(exist_ok=True)
(run / "config.json").write_bytes(config.read_bytes())
data = pathlib.Path(json.loads(config.read_text())["data"])
(run / "manifest.json").write_bytes((data / "manifest.json").read_bytes())
(run / "starts").open("a").write(str(epochs))
history = run / "metrics.jsonl"
done = len(history.read_text().splitlines()) if history.exists() else 0
for epoch in range(done + 1, epochs + 1):
    row = {"epoch": epoch, "train": {}, "validation": {"loss": 1 / epoch}}
    history.open("a").write(json.dumps(row) + "\\n")
    if epoch == 4:
        sys.exit(3)
# What is measured is null where a process timed no step, and small where layers are frozen.
(run / "throughput.json").write_text('{"flops_per_image": %s}' % ("null" if epochs == 1 else 12.5))
"""


class Emulated(GridRun):
    """A run whose process is not the trainer's."""

    def command(self) -> list[str]:
        wanted = self.directory.with_suffix(f".{self.config.epochs}.json")
        self.config.save(wanted)
        return [sys.executable, "-c", TRAINER, str(self.directory), str(wanted), str(self.config.epochs)]


def test_a_trial_goes_on_from_rung_to_rung_and_is_not_trained_twice(tmp_path):
    def plan_run(trial: int, flags, epochs: int) -> GridRun:
        place = str(tmp_path / f"trial-{trial}")
        config = TrainConfig(
            "vgg16",
            str(tmp_path / "data"),
            place,
            epochs=epochs,
            weights="none",
            head=(),
            dropout=float(flags["dropout"]),
        )
        return Emulated("trial", flags, config)

    manifest = write_shards(tmp_path / "data", {"train": random_images(2, 32)})
    forward, _ = flops_per_image("vgg16", 32, (), len(manifest.class_names))

    with locked(tmp_path / "lock") as lock:
        runs = TrialRuns(lock, plan_run)
        flags = {"dropout": "0.5"}
        reached = [runs.train(7, flags, epochs) for epochs in (1, 3)]
        assert [one.trained for one in reached] == [1, 3]
        assert [(one.value, one.flops, one.failed) for one in reached] == [
            (1, forward, None),
            (1 / 3, forward, None),
        ]
        assert [runs.train(7, flags, epochs).value for epochs in (1, 3)] == [1, 1 / 3]
        assert (tmp_path / "trial-7/starts").read_text() == "13"
        with pytest.raises(UsageError, match="--dropout=0.5"):
            runs.train(7, {"dropout": "0.2"}, 3)
        (tmp_path / "trial-7/throughput.json").unlink()
        failed = runs.train(7, flags, 9)
        assert (failed.value, failed.trained) == (None, 4)
        assert "exit code 3" in failed.failed
        runs.stopped = 15
        assert runs.train(8, flags, 1) is None
        assert not (tmp_path / "trial-8").exists()


def test_a_configuration_that_the_trainer_would_refuse_is_a_trial_that_failed(tmp_path):
    def plan_run(trial: int, flags, epochs: int) -> GridRun:
        raise UsageError(f"--dropout={flags['dropout']}: too large")

    with locked(tmp_path / "lock") as lock:
        outcome = TrialRuns(lock, plan_run).train(3, {"dropout": "1.5"}, 1)
    assert outcome.value is None
    assert outcome.refused
    assert "--dropout=1.5: " in outcome.failed


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
        for name, content in {"metadata.json": b"{}", "config.json": b"{}"}.items():
            archive.writestr(name, content)
        archive.writestr("model.weights.h5", weights.getvalue())
    assert parameters_of(tmp_path / "best.keras") == 42
    assert parameters_of(tmp_path / "none.keras") is None
