"""Runs on findings, whole: train, resume, evaluate, save, predict."""

import dataclasses
import functools
import json

import keras
import numpy as np
import pytest
import shards
from shards import findings_of, random_images, write_shards
from tiny import StopAfter, make_trainer, results, rows, train_whole

from cxr_data.core.errors import DataError, UsageError
from cxr_data.input.options import ReadOptions
from cxr_data.input.pipeline import Pipeline
from cxr_train.engine.predict_step import PredictStep
from cxr_train.engine.strategy import choose_placement
from cxr_train.evaluation import metrics, text
from cxr_train.evaluation.evaluator import evaluate_split
from cxr_train.evaluation.options import EvaluationOptions
from cxr_train.evaluation.predictions import read_predictions
from cxr_train.explanation.explainer import Explainer
from cxr_train.explanation.options import ExplainOptions
from cxr_train.loop import trainer
from cxr_train.loop.stop import Stopped, StopRequest
from cxr_train.recipe.recipe import Recipe
from cxr_train.reporting.page import write_report
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.monitor import Monitor
from cxr_train.runs.run_model import load_best_model

pytestmark = pytest.mark.usefixtures("tiny")
FINDINGS, TRAIN, VALIDATION = 5, 40, 60
begin = functools.partial(make_trainer, batch_size=8, monitor="mean_auroc")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    splits = {"train": random_images(TRAIN), "validation": random_images(VALIDATION, seed=1)}
    directory = tmp_path_factory.mktemp("findings")
    return write_shards(directory, splits, findings=FINDINGS, sources=("nih", "guangzhou"))


@pytest.fixture(scope="module")
def whole(data, tiny, tmp_path_factory):
    return train_whole(begin, data, tmp_path_factory.mktemp("whole"))


def test_a_monitor_needs_a_finding_with_images_of_either_kind(tmp_path):
    one = write_shards(tmp_path / "one", {"validation": random_images(VALIDATION)}, findings=1)
    for name in ("mean_auroc", "macro_auprc"):
        Monitor(name).check(one, "validation")
    few = write_shards(tmp_path / "few", {"validation": random_images(1)}, findings=FINDINGS)
    with pytest.raises(UsageError, match="--monitor=mean_auroc: .*'validation'"):
        Monitor("mean_auroc").check(few, "validation")
    Monitor("loss").check(few, "validation")


def test_nothing_can_be_learned_from_images_of_one_class(tmp_path):
    splits = {"train": random_images(1), "validation": random_images(1)}
    one = write_shards(tmp_path / "one", splits)
    with pytest.raises(DataError, match="one: .*train split.*'covid'"):
        make_trainer(one, tmp_path / "run", batch_size=1)
    same = write_shards(tmp_path / "same", splits, findings=FINDINGS)
    notes = make_trainer(same, tmp_path / "other", batch_size=1).training.notes
    assert [note for note in notes if "in the train split" in note]


@pytest.mark.parametrize(
    ("uncertain", "is_learned"),
    [("ignore", False), ("zeros", True), ("ones", False), ("smooth:0.5:0.8", True)],
)
def test_what_can_be_learned_is_what_the_loss_sees(tmp_path, monkeypatch, uncertain, is_learned):
    # One finding, that is present, uncertain or unknown.
    monkeypatch.setattr(shards, "findings_of", lambda count, _: np.resize([[1], [-1], [-2]], [count, 1]))
    splits = {"train": random_images(6), "validation": random_images(3)}
    hesitant = write_shards(tmp_path / "data", splits, findings=1)
    recipe = Recipe(uncertain=uncertain)
    notes = make_trainer(hesitant, tmp_path / "run", batch_size=1, recipe=recipe).training.notes
    said = [note for note in notes if f"--uncertain={uncertain}" in note]
    assert bool(said) is not is_learned, notes


def test_the_epochs_are_validated_on_the_known_labels(data, whole):
    run, run_dir = whole
    row = rows(run_dir)[-1]
    labels = findings_of(VALIDATION, FINDINGS)
    assert row["train"]["images"] == TRAIN
    assert row["validation"]["per_class"]["finding0"]["images"] == (labels[:, 0] == 1).sum()
    assert row["validation"]["per_class"]["finding0"]["unknown"] == (labels[:, 0] == -2).sum()
    assert run.train_step.traces == {"step": 1, "gradients": 1}
    best = max(row["validation"]["macro"]["auroc"] for row in rows(run_dir))
    assert run.checkpoints.best.numpy() == pytest.approx(best)


def test_a_run_that_was_stopped_ends_as_the_whole_one_bit_for_bit(data, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "MOST_STEPS_PER_CALL", 1)
    with pytest.raises(Stopped):
        begin(data, tmp_path / "run", save_minutes=0).run(StopAfter(7))
    resumed = begin(data, tmp_path / "run")
    resumed.resume()
    resumed.run(StopRequest())
    for variable, expected in zip(resumed.model.variables, whole[0].model.variables, strict=True):
        np.testing.assert_array_equal(variable, expected)
    assert results(tmp_path / "run") == results(whole[1])


def test_the_saved_model_gives_the_probability_of_each_finding(data, whole):
    _, run_dir = whole
    pipeline = Pipeline(data)
    images = pipeline.images("validation", np.arange(VALIDATION))
    said = keras.models.load_model(run_dir / "best.keras").predict(images, verbose=0)
    logits = load_best_model(run_dir)(images).numpy()
    np.testing.assert_allclose(said, 1 / (1 + np.exp(-logits)), atol=1e-6)
    placement = choose_placement("one", "float32", "off")
    summary = evaluate_split(
        run_dir,
        pipeline,
        "validation",
        PredictStep(load_best_model(run_dir), placement),
        batch_size=16,
        options=EvaluationOptions(resamples=100, probe_images=20),
    )
    expected = metrics.auroc(findings_of(VALIDATION, FINDINGS), said)
    for name, value in zip(data.class_names, expected, strict=True):
        assert summary["per_class"][name]["auroc"] == pytest.approx(value, abs=1e-6)
    stored = read_predictions(run_dir / "predictions_validation.csv")
    np.testing.assert_array_equal(stored.labels, findings_of(VALIDATION, FINDINGS))
    assert json.loads((run_dir / "metrics_validation.json").read_text())["probe"]["images"] == 20
    assert "finding4" in text.evaluation_table(summary)


@pytest.mark.parametrize(
    "changes",
    [
        {"uncertain": "smooth:0.55:0.85"},
        pytest.param({"class_weights": "finding1:3"}, marks=pytest.mark.ci),
        pytest.param({"focal_gamma": 2.0}, marks=pytest.mark.ci),
        pytest.param({"label_smoothing": 0.1}, marks=pytest.mark.ci),
    ],
    ids=str,
)
def test_a_setting_of_findings_changes_what_is_learned(data, whole, tmp_path, changes):
    _, run_dir = train_whole(begin, data, tmp_path / "run", epochs=1, recipe=Recipe(**changes))
    (loss,) = (row["train"]["loss"] for row in rows(run_dir))
    assert np.isfinite(loss)
    assert loss != rows(whole[1])[0]["train"]["loss"]


def weights_of(notes) -> dict[str, str]:
    (line,) = (note for note in notes if note.startswith("positive weights: "))
    return dict(pair.split(" ") for pair in line.partition(": ")[2].split(", "))


@pytest.mark.parametrize(
    ("class_weights", "uncertain", "target"),
    [
        ("balanced", "ignore", None),
        ("balanced", "ones", 1.0),
        ("balanced", "zeros", 0.0),
        ("balanced", "smooth:0.55:0.85", 0.7),
        ("finding1:3", "ones", None),
    ],
)
def test_the_positive_weights_are_of_the_targets_that_train(data, tmp_path, class_weights, uncertain, target):
    recipe = Recipe(class_weights=class_weights, uncertain=uncertain)
    labels = findings_of(TRAIN, FINDINGS)
    present, absent, hesitant = ((labels == value).sum(axis=0) for value in (1, 0, -1))
    if target is not None:
        present, absent = present + target * hesitant, absent + (1 - target) * hesitant
    expected = absent / present if class_weights == "balanced" else [1, 3, 1, 1, 1]
    found = weights_of(begin(data, tmp_path / "run", recipe=recipe).training.notes)
    assert found == {f"finding{k}": f"{weight:.3f}" for k, weight in enumerate(expected)}


@pytest.mark.parametrize(("flag", "value"), [("uncertain", "ones"), ("focal_gamma", 2.0)])
def test_settings_of_findings_are_refused_with_one_class_a_picture(manifest, tmp_path, flag, value):
    with pytest.raises(UsageError, match=f"--{flag}={value}: "):
        make_trainer(manifest, tmp_path / "run", recipe=Recipe(**{flag: value}))


def test_a_mix_gives_each_source_its_share_of_every_epoch(data, whole, tmp_path):
    read = ReadOptions(mix={"nih": 3, "guangzhou": 1})
    batches = list(Pipeline(data, read).training_dataset("train", batch_size=8, seed=0, epoch=1))
    sources = np.concatenate([batch["source"] for batch in batches])
    assert np.bincount(sources).tolist() == [30, 10]
    for batch in batches:
        np.testing.assert_array_equal(batch["source"], batch["index"] % 2)
        np.testing.assert_array_equal(batch["label"], findings_of(TRAIN, FINDINGS)[batch["index"]])
    rest = Pipeline(data, read).training_dataset("train", batch_size=8, seed=0, epoch=1, first_step=2)
    for batch, expected in zip(rest, batches[2:], strict=True):
        np.testing.assert_array_equal(batch["index"], expected["index"])
    balanced = dataclasses.replace(read, mix={}, balance_batches=True)
    for batch in Pipeline(data, balanced).training_dataset("train", batch_size=16, seed=0, epoch=0):
        assert np.bincount(batch["source"]).tolist() == [8, 8]
    with pytest.raises(UsageError, match="--balance_batches: "):
        Pipeline(data, balanced).training_dataset("train", batch_size=8, seed=0, epoch=0)
    with pytest.raises(UsageError, match="--mix: .*--reader"):
        Pipeline(data, dataclasses.replace(read, reader="stream"))


def test_findings_are_explained_and_reported(data, whole):
    _, run_dir = whole
    config = TrainConfig.load(run_dir / "config.json")
    options = EvaluationOptions(resamples=100, probe_images=20, by=("source",))
    placement = choose_placement("one", "float32", "off")
    arguments = (run_dir, Pipeline(data), "validation", PredictStep(load_best_model(run_dir), placement))
    summary = evaluate_split(*arguments, batch_size=16, options=options)
    assert [*summary["by"]["source"]["groups"]] == ["guangzhou", "nih"]
    explain = ExplainOptions(split="validation", gallery_size=1, check_images=4, filters=0, overwrite=True)
    explained = Explainer(config, Pipeline(data), explain).explain()
    mapped = {name for case in explained["cases"] for name in case["mapped"]}
    assert mapped == {*data.class_names}
    page = write_report(run_dir).read_text()
    for words in ("finding3", "nih", "guangzhou", "Youden"):
        assert words in page
    assert "Confusion matrix" not in page
