"""What programs import of the trainer: a run is trained, resumed, read back and evaluated elsewhere."""

import contextlib
import io
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest
from project import ROOT
from shards import random_images, write_shards
from sklearn.metrics import roc_auc_score
from tiny import StopAfter

import cxr_train
from cxr_data.commands.messages import shown_messages
from cxr_data.core.errors import DataError, UsageError
from cxr_data.core.folder_lock import locked
from cxr_train.lifecycle import training
from cxr_train.loop import trainer
from cxr_train.loop.checkpoint import newest_checkpoint


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    place = tmp_path_factory.mktemp("data")
    write_shards(place, {"train": random_images(12, 32), "validation": random_images(6, 32, seed=1)})
    return str(place)


def config(data, run_dir, **values) -> cxr_train.TrainConfig:
    fixed = {"epochs": 1, "batch_size": 4, "weights": "none", "head": (6,)}
    return cxr_train.TrainConfig("tiny", data, str(run_dir), **{**fixed, **values})


@pytest.fixture(scope="module")
def trained(tiny, data, tmp_path_factory):
    """A run of one epoch, trained by another thread than the main one."""
    found = []
    run_dir = tmp_path_factory.mktemp("trained") / "run"
    thread = threading.Thread(target=lambda: found.append(cxr_train.train(config(data, run_dir))))
    thread.start()
    thread.join()
    (run,) = found
    return run


def test_a_run_is_trained_resumed_and_read_back(trained, data, tmp_path, capsys):
    shutil.copytree(trained.directory, tmp_path / "run")
    with pytest.raises(UsageError, match="--resume"):
        cxr_train.train(config(data, tmp_path / "run"))
    with pytest.raises(UsageError, match="batch_size"):
        cxr_train.train(config(data, tmp_path / "run", batch_size=6), resume=True)
    both = cxr_train.train(config(data, tmp_path / "run", epochs=2), resume=True)
    assert [row["epoch"] for row in both.epochs] == [1, 2]
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["ckpt-00002"]
    whole = cxr_train.train(config(data, tmp_path / "whole", epochs=2))
    assert [row["train"]["loss"] for row in whole.epochs] == [row["train"]["loss"] for row in both.epochs]
    predictions = cxr_train.load_run(tmp_path / "run").predictions("validation")
    np.testing.assert_array_equal(predictions.probabilities, whole.predictions("validation").probabilities)
    assert predictions.ids == tuple(f"validation/{i}.png" for i in range(6))
    best = keras.saving.load_model(tmp_path / "run" / "best.keras", safe_mode=True)
    said = best.predict(random_images(6, 32, seed=1), verbose=0)
    np.testing.assert_allclose(said, predictions.probabilities, atol=1e-6)
    metrics = json.loads((tmp_path / "run" / "metrics_validation.json").read_text())
    for index, name in enumerate(predictions.class_names):
        auroc = roc_auc_score(predictions.labels == index, said[:, index])
        assert auroc == pytest.approx(metrics["per_class"][name]["auroc"])
    assert (metrics["probe"]["images"], metrics["probe"]["of"]) == (6, 6)
    assert (tmp_path / "run" / "report" / "index.html").exists()
    assert not (tmp_path / "run" / "flags.txt").exists()
    assert capsys.readouterr().out == ""  # a library says nothing by itself


def test_of_two_trainers_in_a_directory_the_second_is_named_the_first(tiny, data, tmp_path):
    (tmp_path / "run").mkdir()
    with locked(tmp_path / "run" / "lock"):
        said = f"{tmp_path / 'run'} .*process {os.getpid()} on {socket.gethostname()}"
        with pytest.raises(DataError, match=said):
            cxr_train.train(config(data, tmp_path / "run"))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["lock"]


@pytest.mark.ci
def test_evaluation_on_other_data_is_that_of_the_command(tiny, data, tmp_path, caplog):
    other = tmp_path / "other"
    write_shards(other, {"test": random_images(7, 32, seed=2)})
    run = cxr_train.train(config(data, tmp_path / "run"))
    options = cxr_train.EvaluationOptions(resamples=100)
    with caplog.at_level(logging.INFO, "cxr_train"):
        found = run.evaluate("test", data=str(other), options=options)
    place = tmp_path / "run" / "external" / "other"
    assert json.loads((place / "metrics_test.json").read_text()) == found
    assert found["images"] == 7
    assert not found["own_data"]
    assert any(str(place) in message for message in caplog.messages)

    saved = tmp_path / "run" / "config.json"
    saved.write_text(saved.read_text().replace('"tiny"', '"vgg16"'))  # which the command knows
    line = [sys.executable, "-m", "cxr_train.evaluate", f"--run_dir={run.directory}", "--split=test"]
    line += [f"--data={other}", "--resamples=100", f"--output={tmp_path / 'by_command'}"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "by_command" / "metrics_test.json").read_text()) == found

    with pytest.raises(DataError, match="'nosuch'"):
        run.evaluate("nosuch")
    with pytest.raises(DataError, match="train"):
        run.predictions("train")


def test_the_best_model_is_traced_once_for_all_splits(tiny, tmp_path, monkeypatch):
    splits = {
        name: random_images(4, 32, seed=seed) for seed, name in enumerate(("train", "validation", "test"))
    }
    write_shards(tmp_path / "data", splits)
    steps = []
    make = training.PredictStep

    def kept(*arguments):
        steps.append(make(*arguments))
        return steps[-1]

    monkeypatch.setattr(training, "PredictStep", kept)
    run = cxr_train.train(config(str(tmp_path / "data"), tmp_path / "run"))
    assert len(run.predictions("test").ids) == 4
    assert [each.traces for each in steps] == [1]


def test_what_cannot_be_trained_leaves_no_run(tiny, data, tmp_path):
    with pytest.raises(DataError, match="nothing_here"):
        cxr_train.train(config(str(tmp_path / "nothing_here"), tmp_path / "run"))
    assert not (tmp_path / "run" / "config.json").exists()
    with pytest.raises(DataError, match=r"config\.json"):
        cxr_train.load_run(tmp_path / "run")


def test_a_run_may_be_trained_by_any_thread(trained):
    assert len(trained.epochs) == 1


def test_a_stop_is_saved_and_told(trained, data, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "MOST_STEPS_PER_CALL", 1)
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with monkeypatch.context() as patched:
        patched.setattr(training, "StopRequest", lambda *_: StopAfter(2))
        with pytest.raises(cxr_train.Stopped):
            cxr_train.train(config(data, tmp_path / "run"))
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert newest_checkpoint(tmp_path / "run" / "checkpoints") is not None
    run = cxr_train.train(config(data, tmp_path / "run"), resume=True)
    assert run.epochs[0]["train"]["loss"] == trained.epochs[0]["train"]["loss"]


def test_a_run_directory_is_local_and_an_option_is_not_lost(trained, data, tmp_path):
    with pytest.raises(UsageError, match="run_dir"):
        cxr_train.train(config(data, "s3://bucket/run"))
    with pytest.raises(UsageError, match="compare"):
        trained.evaluate("train", options=cxr_train.EvaluationOptions(compare=tmp_path / "other"))


def test_importing_it_costs_no_tensorflow_and_every_name_is_there():
    program = "import sys, cxr_train; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=120)
    assert "Run" in cxr_train.__all__
    assert all(hasattr(cxr_train, name) for name in cxr_train.__all__)


@pytest.mark.ci
def test_the_log_of_ten_epochs_is_short_and_fits_a_terminal(tiny, data, tmp_path):
    log = io.StringIO()
    with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log), shown_messages():
        cxr_train.train(config(data, tmp_path / "run", epochs=10, learning_rate=1e-2))
    lines = log.getvalue().splitlines()
    assert len(lines) <= 60
    assert max(map(len, (line for line in lines if str(tmp_path) not in line))) <= 100
    (header,) = (number for number, line in enumerate(lines) if line.split()[:2] == ["epoch", "train"])
    table = [line.split() for line in lines[header + 1 : header + 11]]
    assert [row[0] for row in table] == [str(epoch) for epoch in range(1, 11)]
    history = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["validation"]["loss"] for row in history]
    best = [loss == min(losses[:epoch]) for epoch, loss in enumerate(losses, 1)]
    assert [row[-1] == "*" for row in table] == best
    assert {row["train"]["learning_rate"] for row in history} == {1e-2}
    assert all(row["train"]["epoch_seconds"] > 0 for row in history)
    (matrix,) = (number for number, line in enumerate(lines) if line.startswith("confusion matrix"))
    assert lines[matrix + 1].split() == ["covid", "normal", "pneumonia"]
