"""The outer loop on a tiny network: rows, best model, stop and resume, bit for bit."""

import dataclasses
import functools
import json
import logging
import math
import os
import re
import resource

import numpy as np
import pytest
import tensorflow as tf
from runs import evaluated
from shards import random_images, write_shards
from tiny import StopAfter, make_trainer, results, rows, train_whole

from cxr_data.core.errors import CxrError, DataError, UsageError
from cxr_data.input.options import ReadOptions
from cxr_data.input.order import training_batches
from cxr_data.input.pipeline import Pipeline
from cxr_train.engine.predict_step import PredictStep
from cxr_train.engine.strategy import choose_placement
from cxr_train.evaluation import evaluator, forward_pass
from cxr_train.evaluation.options import EvaluationOptions
from cxr_train.loop import diverged, trainer
from cxr_train.loop.outputs import Outputs
from cxr_train.loop.stop import Stopped, StopRequest
from cxr_train.recipe.recipe import Recipe
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.monitor import Monitor
from cxr_train.runs.run_model import load_best_model, load_model

pytestmark = pytest.mark.usefixtures("tiny")
begin = functools.partial(make_trainer, dropout=0.3)


@pytest.fixture(scope="module")
def whole(manifest, tiny, tmp_path_factory):
    return train_whole(begin, manifest, tmp_path_factory.mktemp("whole"))


def test_a_run_writes_what_the_design_names(whole):
    run, directory = whole
    assert [row["epoch"] for row in rows(directory)] == [1, 2]
    row = rows(directory)[-1]
    assert row["train"]["images"] == 20
    assert row["train"]["images_per_second"] > 0
    assert 0 <= row["train"]["input_wait_share"] <= 1
    assert row["validation"]["images"] == 7
    assert rows(directory)[0]["train"]["compile_seconds"] > 0 == row["train"]["compile_seconds"]
    assert (directory / "best.keras").exists()
    assert list((directory / "tensorboard").iterdir())
    assert run.train_step.traces == {"step": 1, "gradients": 1}


# A stop is asked for before each of the 5 steps, the 5 batches of BatchNorm's statistics and the 2 of
# evaluation of an epoch.
@pytest.mark.parametrize(
    "calls", [4, 9, 23, *(pytest.param(calls, marks=pytest.mark.ci) for calls in (0, 5, 10, 12))]
)
def test_a_stopped_and_resumed_run_ends_with_the_same_weights_bit_for_bit(
    manifest, tmp_path, monkeypatch, calls, whole
):
    stop_and_resume(manifest, tmp_path, monkeypatch, calls, *whole)


def test_two_replicas_resume_bit_for_bit_however_often_they_were_saved(manifest, tmp_path, monkeypatch):
    changes = {"strategy": "mirrored", "recipe": Recipe(ema=0.9)}
    whole = train_whole(begin, manifest, tmp_path / "whole", **changes)
    stop_and_resume(manifest, tmp_path, monkeypatch, 9, *whole, **changes)


def stop_and_resume(manifest, tmp_path, monkeypatch, calls, whole, its_directory, **changes):
    monkeypatch.setattr(trainer, "MOST_STEPS_PER_CALL", 1)
    with pytest.raises(Stopped):
        begin(manifest, tmp_path / "parts", save_minutes=0, **changes).run(StopAfter(calls))
    resumed = begin(manifest, tmp_path / "parts", **changes)
    assert "resume: " in resumed.resume()[0]
    resumed.run(StopRequest())
    for variable, expected in zip(resumed.model.variables, whole.model.variables, strict=True):
        np.testing.assert_array_equal(variable.numpy(), expected.numpy())
    assert resumed.checkpoints.best.numpy() == whole.checkpoints.best.numpy()
    assert results(tmp_path / "parts") == results(its_directory)


@pytest.mark.ci
def test_two_replicas_evaluate_as_one(manifest, tmp_path):
    begin(manifest, tmp_path, strategy="mirrored", epochs=1).run(StopRequest())
    summaries = [rows(tmp_path)[0]["validation"]]
    for strategy, batch_size in (("one", 1), ("one", 4), ("mirrored", 4), ("mirrored", 6)):
        placement = choose_placement(strategy, "float32", "off")
        with placement.strategy.scope():
            best = load_best_model(tmp_path)
        summary = evaluator.evaluate_split(
            tmp_path,
            Pipeline(manifest),
            "validation",
            PredictStep(best, placement),
            batch_size=batch_size,
            options=EvaluationOptions(resamples=100, probe_images=0),
        )
        summaries.append(summary)
        lines = (tmp_path / "predictions_validation.csv").read_text().splitlines()
        assert lines[0] == "id,group,label,predicted,p_covid,p_normal,p_pneumonia"
        assert [line.split(",")[0] for line in lines[1:]] == [f"validation/{i}.png" for i in range(7)]
    for summary in summaries:
        assert summary["images"] == 7
        assert summary["loss"] == pytest.approx(summaries[0]["loss"], rel=1e-6)
        assert summary["confusion_matrix"] == summaries[0]["confusion_matrix"]


def test_two_replicas_save_the_mean_of_their_statistics(manifest, tmp_path):
    run = begin(manifest, tmp_path, strategy="mirrored", epochs=1, batch_norm_statistics="moving")
    run.run(StopRequest())
    saved = load_best_model(tmp_path)
    for variable, kept in zip(run.model.non_trainable_variables, saved.non_trainable_variables, strict=True):
        if "moving" not in variable.path:
            continue
        copies = [copy.numpy() for copy in variable.value.values]
        np.testing.assert_array_equal(copies[0], copies[1])
        np.testing.assert_array_equal(kept.numpy(), copies[0])


def test_a_loss_that_is_not_finite_names_step_and_batch_and_keeps_the_state_before(
    tmp_path_factory, tmp_path
):
    images = random_images(23)
    images[12] = 3e38
    splits = {"train": images, "validation": random_images(7, seed=1)}
    manifest = write_shards(tmp_path_factory.mktemp("diverging"), splits)
    run = begin(manifest, tmp_path, save_minutes=0, head=())
    with pytest.raises(CxrError) as raised:
        run.run(StopRequest())

    order = training_batches(np.arange(23), batch_size=4, seed=0, epoch=0)
    assert (order == 12).any()
    step = int(np.argmax((order == 12).any(axis=1)))
    ids = [f"train/{position}.png" for position in order[step]]
    assert re.search(rf"\bnan\b.* step {step + 1} of epoch 1, .*{', '.join(ids)}", str(raised.value))
    (kept,) = (tmp_path / "not_finite").iterdir()
    assert json.loads((kept / "batch.json").read_text())["ids"] == ids

    resumed = begin(manifest, tmp_path, head=())
    resumed.resume()
    assert all(np.isfinite(weight).all() for weight in resumed.model.get_weights())
    assert resumed.checkpoints.position[1] <= step
    for weight, before in zip(
        run.model.trainable_variables, reference(manifest, tmp_path / "until", step), strict=True
    ):
        np.testing.assert_array_equal(weight.numpy(), before)


def test_a_batch_of_a_data_service_is_not_named(manifest, tmp_path, monkeypatch):
    run = begin(manifest, tmp_path)
    pipeline = Pipeline(manifest, ReadOptions(data_service="grpc://host:1"))
    monkeypatch.setattr(diverged, "batch_ids", lambda *_: pytest.fail("named"))
    told = diverged.keep_evidence(
        run.checkpoints, pipeline, TrainConfig.load(tmp_path / "config.json"), run.placement, loss=math.nan
    )
    (kept,) = (tmp_path / "not_finite").iterdir()
    assert "--data_service" in str(told)
    assert str(kept) in str(told)


def test_damaged_names_do_not_hide_a_loss_that_is_not_finite(tmp_path):
    made = write_shards(tmp_path / "data", {"train": random_images(8), "validation": random_images(3)})
    pipeline = Pipeline(made)
    config = TrainConfig("vgg16", made.directory, str(tmp_path), batch_size=4, weights="none")
    placement = choose_placement("one", "float32", "off")
    named = diverged.batch_ids(pipeline, config, placement, 0, 1)
    assert all(name.endswith(".png") for name in named)
    with open(made.path(made.shards[0]), "r+b") as file:
        os.pwrite(file.fileno(), b"\xff", 40)
    places = [re.sub(r"train/(\d+)\.png", r"train[\1]", name) for name in named]
    assert diverged.batch_ids(pipeline, config, placement, 0, 1) == places


def test_steps_that_were_skipped_are_counted_and_said(manifest, tmp_path, caplog):
    run = begin(manifest, tmp_path, precision="mixed_float16", epochs=1)
    run.training.loss_scale.scale.assign(2.0**24)
    with caplog.at_level(logging.INFO, "cxr_train"):
        run.run(StopRequest())
    (row,) = rows(tmp_path)
    assert row["train"]["skipped_steps"] == int(run.training.loss_scale.skipped_steps) > 0
    assert f"{row['train']['skipped_steps']} steps were skipped" in caplog.text


def test_a_disk_that_takes_no_more_is_one_line(manifest, tmp_path):
    run = begin(manifest, tmp_path, epochs=1)
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, usual[1]))
    try:
        with pytest.raises(CxrError, match=f"{tmp_path}: .*too large"):
            Outputs(tmp_path, writes=True).keep_model(run.model, best=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert not (tmp_path / "last.keras").exists()
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(CxrError, match=f"{tmp_path}: .*No space left"):
        run.run(StopRequest())


def reference(manifest, run_dir, steps: int) -> list[np.ndarray]:
    """The trainable weights of a run after so many single steps."""
    run = begin(manifest, run_dir, head=())
    iterator = run.batches()
    for _ in range(steps):
        run.train_step(iterator, 1)
    return [variable.numpy() for variable in run.model.trainable_variables]


def test_a_batch_that_does_not_divide_by_the_replicas_is_refused(manifest, tmp_path):
    with pytest.raises(UsageError, match=r"--batch_size=5: .*\b2 replicas"):
        begin(manifest, tmp_path, strategy="mirrored", batch_size=5)


def test_a_run_that_improves_no_more_stops_early_also_after_a_resume(manifest, tmp_path):
    changes = {"monitor": "accuracy", "early_stopping": 2, "epochs": 30, "learning_rate": 1e-9}
    # Precise ones are of other batches in each epoch.
    changes["batch_norm_statistics"] = "moving"
    run = begin(manifest, tmp_path / "whole", **changes)
    run.run(StopRequest())
    assert int(run.checkpoints.best_epoch.numpy()) == 1
    assert [row["epoch"] for row in rows(tmp_path / "whole")] == [1, 2, 3]

    begin(manifest, tmp_path / "parts", **{**changes, "epochs": 2}).run(StopRequest())
    resumed = begin(manifest, tmp_path / "parts", **changes)
    resumed.resume()
    resumed.run(StopRequest())
    assert [row["epoch"] for row in rows(tmp_path / "parts")] == [1, 2, 3]
    again = begin(manifest, tmp_path / "parts", **changes)
    again.resume()
    again.run(StopRequest())
    assert len(rows(tmp_path / "parts")) == 3


@pytest.mark.parametrize(
    "monitor", ["macro_auroc", *(pytest.param(name, marks=pytest.mark.ci) for name in ("loss", "accuracy"))]
)
def test_the_best_model_is_the_epoch_of_the_best_monitored_value(manifest, tmp_path, monitor):
    begin(manifest, tmp_path, monitor=monitor, learning_rate=0.3, epochs=4).run(StopRequest())
    values = [Monitor(monitor).value(row["validation"]) for row in rows(tmp_path)]
    best = min(values) if monitor == "loss" else max(values)
    for name, expected in (("best.keras", best), ("last.keras", values[-1])):
        summary = evaluated(tmp_path, manifest, load_model(tmp_path / name), "validation", probe_images=0)
        assert Monitor(monitor).value(summary) == pytest.approx(expected, rel=1e-5)


def test_a_killed_run_leaves_no_row_and_no_best_model_of_epochs_that_are_trained_again(
    manifest, tmp_path, monkeypatch, whole
):
    killed = begin(manifest, tmp_path / "killed")
    save = killed.checkpoints.save

    def save_or_die() -> None:
        if killed.checkpoints.position[0] == 2:
            raise KeyboardInterrupt
        save()

    monkeypatch.setattr(killed.checkpoints, "save", save_or_die)
    with pytest.raises(KeyboardInterrupt):
        killed.run(StopRequest())
    with open(tmp_path / "killed" / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 3, "tra')
    resumed = begin(manifest, tmp_path / "killed")
    resumed.resume()
    assert [row["epoch"] for row in rows(tmp_path / "killed")] == [1]
    kept = load_best_model(tmp_path / "killed")
    for weight, expected in zip(kept.trainable_variables, resumed.model.trainable_variables, strict=True):
        np.testing.assert_array_equal(weight.numpy(), expected.numpy())
    resumed.run(StopRequest())
    assert results(tmp_path / "killed") == results(whole[1])


def test_a_resume_says_what_is_left_and_what_is_past(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "MOST_STEPS_PER_CALL", 1)
    with pytest.raises(Stopped):
        begin(manifest, tmp_path).run(StopAfter(4))
    resumed = begin(manifest, tmp_path, epochs=1, profile_steps="1:3")
    assert resumed.resume() == [
        "resume: epoch 1, after 4 of 5 steps",
        "nothing is profiled: --profile_steps=1:3 were before",
    ]
    resumed.run(StopRequest())
    again = begin(manifest, tmp_path, epochs=1, profile_steps="1:3")
    (line,) = again.resume()
    assert re.match("resume: 1 .*--epochs=1$", line)


def test_a_metric_that_is_undefined_on_the_validation_split_is_refused_at_the_start(tmp_path):
    images = {"train": random_images(9), "validation": random_images(1)}
    manifest = write_shards(tmp_path / "data", images)
    with pytest.raises(UsageError, match="--monitor=macro_auroc: .*'validation'"):
        begin(manifest, tmp_path / "run", monitor="macro_auroc")
    begin(manifest, tmp_path / "run", monitor="macro_f1")


def test_the_state_is_saved_by_time(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "MOST_STEPS_PER_CALL", 1)
    positions = []
    run = begin(manifest, tmp_path, epochs=1, save_minutes=0)
    save = run.checkpoints.save
    monkeypatch.setattr(run.checkpoints, "save", lambda: positions.append(run.checkpoints.position) or save())
    run.run(StopRequest())
    assert positions == [(0, 1), (0, 2), (0, 3), (0, 4), (0, 5), (1, 0)]


def test_a_run_without_a_best_model_is_named(tmp_path):
    with pytest.raises(DataError, match=rf"{tmp_path} .*best\.keras"):
        load_best_model(tmp_path)


def test_probabilities_are_the_softmax_of_the_logits():
    logits = np.array([[1.0, 2.0, 3.0], [800.0, 0.0, -800.0]], np.float32)
    made = forward_pass.Predictions(np.arange(2), np.array([2, 0]), logits)
    np.testing.assert_allclose(made.probabilities, tf.nn.softmax(logits.astype(np.float64)), atol=1e-12)
    assert made.loss == pytest.approx(0.5 * (np.log(np.exp([1, 2, 3]).sum()) - 3))


def test_a_class_without_training_images_is_refused_and_other_gaps_are_told(tmp_path):
    manifest = write_shards(tmp_path / "data", {"train": random_images(9), "validation": random_images(6)})
    none = {**manifest.counts["train"], "normal": 0}
    with pytest.raises(DataError, match="'normal' .*train split"):
        make_trainer(dataclasses.replace(manifest, counts={**manifest.counts, "train": none}), tmp_path / "a")
    unseen = dataclasses.replace(manifest, counts={**manifest.counts, "validation": none})
    told = make_trainer(unseen, tmp_path / "b").describe()
    assert re.search("'normal' .*validation split", told)
    nowhere = dataclasses.replace(manifest, counts={"train": none, "validation": none})
    assert re.search("'normal' .*at all", make_trainer(nowhere, tmp_path / "c").describe())
