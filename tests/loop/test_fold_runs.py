"""Runs of all folds, and their predictions joined."""

import csv
import json
import pathlib
import re

import numpy as np
import pytest
from absl import flags
from shards import random_images, write_shards
from tiny import make_trainer, train_whole

from cxr_data.core.errors import DataError, UsageError
from cxr_data.input.pipeline import Pipeline
from cxr_data.records.folds import class_counts, positions_of
from cxr_data.records.manifest import read_manifest
from cxr_data.records.split_names import fold_splits
from cxr_train import folds
from cxr_train.engine.predict_step import PredictStep
from cxr_train.engine.strategy import choose_placement
from cxr_train.evaluation.evaluator import evaluate_split
from cxr_train.evaluation.options import EvaluationOptions
from cxr_train.evaluation.plan import plan_evaluation
from cxr_train.evaluation.predictions import read_predictions
from cxr_train.explanation.options import ExplainOptions
from cxr_train.flags.training import config_from_flags, define_training_flags
from cxr_train.loop.batch_size import choose_batch_size_of
from cxr_train.recipe.recipe import Recipe
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.run_model import load_best_model

pytestmark = pytest.mark.usefixtures("tiny")
POOL = "train+validation"


def settings(*arguments: str) -> flags.FlagValues:
    values = flags.FlagValues()
    define_training_flags(values)
    values(["main", "--backbone=vgg16", "--data=shards", *arguments])
    return values


def test_a_fold_is_validated_on_and_trained_is_on_the_rest():
    config = config_from_flags(settings("--fold=2of3"))
    assert config.train_split == "train+validation@not2of3"
    assert config.validation_split == config.held_out_validation == "train+validation@2of3"
    assert config_from_flags(settings("--fold=1of2", "--train_on=train+test")).validation_split == (
        "train+test+validation@1of2"
    )
    for fold in ("2", "0of3", "not2of3", "3of2"):
        with pytest.raises(UsageError, match=f"--fold={fold}: "):
            config_from_flags(settings(f"--fold={fold}"))


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory):
    directory = tmp_path_factory.mktemp("folds")
    manifest = write_shards(
        directory / "data", {"train": random_images(24), "validation": random_images(12, seed=1)}
    )
    found = []
    for number in (1, 2, 3):
        train, validation = fold_splits(POOL, number, 3)
        splits = {"train_split": train, "validation_split": validation}
        _, run_dir = train_whole(make_trainer, manifest, directory / f"fold{number}", epochs=1, **splits)
        evaluate_split(
            run_dir,
            Pipeline(manifest),
            validation,
            PredictStep(load_best_model(run_dir), choose_placement("one", "float32", "off")),
            batch_size=4,
            options=EvaluationOptions(
                resamples=100, train_split=train, validation_split=validation, probe_images=0
            ),
        )
        found.append(str(run_dir))
    return found


def join(runs, output, monkeypatch, **changes):
    options = folds.FoldsOptions(runs=tuple(runs), output=str(output), resamples=100, **changes)
    monkeypatch.setattr(folds, "from_flags", lambda _: options)
    return folds.main()


def test_the_fold_that_was_held_out_is_evaluated_and_explained_by_default(runs, tmp_path):
    run_dir = pathlib.Path(runs[1])
    config = TrainConfig.load(run_dir / "config.json")
    assert plan_evaluation(run_dir, config, None).split == f"{POOL}@2of3"
    assert plan_evaluation(run_dir, config, "validation").split == "validation"
    assert ExplainOptions().of_run(config, read_manifest(config.data)).split == f"{POOL}@2of3"
    theirs = write_shards(tmp_path / "theirs", {"validation": random_images(6)})
    assert plan_evaluation(run_dir, config, None, data=theirs.directory).split == "validation"
    assert ExplainOptions().of_run(config, theirs).split == "validation"


def test_every_image_is_predicted_once_by_a_model_that_has_not_seen_it(runs, tmp_path, monkeypatch, capsys):
    assert join(runs, tmp_path / "joined", monkeypatch) == 0
    joined = read_predictions(tmp_path / "joined" / "predictions_out_of_fold.csv")
    assert len(set(joined.ids)) == len(joined.ids) == 36
    summary = json.loads((tmp_path / "joined" / "metrics_out_of_fold.json").read_text())
    assert summary["images"] == 36
    assert [*summary["spread"]["auroc"]["folds"]] == runs
    for run in runs:
        (of_fold,) = pathlib.Path(run).glob("metrics_*@*.json")
        assert json.loads(of_fold.read_text())["seen_in_training"] is False
    with (tmp_path / "joined" / "label_issues.csv").open() as file:
        issues = list(csv.DictReader(file))
    assert f"{len(issues)} label" in capsys.readouterr().out
    margins = [float(issue["margin"]) for issue in issues]
    np.testing.assert_array_equal(margins, sorted(margins))
    with pytest.raises(UsageError, match="--output=.*--overwrite"):
        join(runs, tmp_path / "joined", monkeypatch)


def test_runs_that_are_not_the_folds_of_one_pool_are_refused(runs, tmp_path, monkeypatch):
    for some in (runs[:2], [runs[0], *runs]):
        with pytest.raises(UsageError, match="--runs: .*3 folds"):
            join(some, tmp_path / "none", monkeypatch)
    assert not (tmp_path / "none").exists()


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Data of 17 images, and the names of an eighth of them, without some class, and of the rest."""
    splits = {"train": random_images(3), "validation": random_images(14)}
    manifest = write_shards(tmp_path_factory.mktemp("few"), splits)
    parts = [fold_splits(POOL, number, 8) for number in range(1, 9)]
    # Two other classes are there: of one class alone nothing can be learned, which is another error.
    return manifest, next(part for part in parts if [*class_counts(manifest, part[1]).values()].count(0) == 1)


def test_training_on_a_fold_counts_what_it_trains_on(few, tmp_path):
    manifest, (rest, fold) = few
    on_rest = {"train_split": rest, "validation_split": fold}
    run = make_trainer(manifest, tmp_path / "rest", recipe=Recipe(class_weights="balanced"), **on_rest)
    images = class_counts(manifest, rest)
    share = sum(images.values()) / len(images)
    weights = ", ".join(f"{name} {share / count:.3f}" for name, count in images.items())
    assert f"class weights: {weights}" in run.training.notes
    absent = [name for name, count in class_counts(manifest, fold).items() if not count]
    for name in absent:
        assert any(name in note and fold in note for note in run.training.notes)
    with pytest.raises(DataError, match=f"{absent[0]}.*{re.escape(fold)}.*--fold"):
        make_trainer(manifest, tmp_path / "fold", train_split=fold, validation_split=rest, batch_size=1)


def test_an_automatic_batch_is_not_larger_than_the_fold(few, tmp_path):
    manifest, (rest, fold) = few
    config = TrainConfig("tiny", manifest.directory, str(tmp_path), train_split=rest, validation_split=fold)
    placement = choose_placement("one", "float32", "off")
    chosen = choose_batch_size_of(config, Pipeline(manifest), placement, memory_gb=8)
    assert int(chosen.value) == len(positions_of(manifest, rest)) < manifest.count(POOL)
