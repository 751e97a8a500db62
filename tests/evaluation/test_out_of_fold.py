"""Out-of-fold predictions joined, their spread, and labels that were swapped found again."""

import dataclasses
import json

import numpy as np
import pytest
from made_predictions import predictions
from shards import CLASS_NAMES, random_images, write_shards
from written_run import Page

from cxr_data.core.errors import DataError
from cxr_data.records.folds import positions_of
from cxr_data.records.index import read_split_fields
from cxr_data.records.split_names import fold_splits
from cxr_train import folds as command
from cxr_train.evaluation import metrics
from cxr_train.evaluation.out_of_fold import join_folds, label_issues, spread
from cxr_train.evaluation.predictions import NamedPredictions, write_predictions
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.layout import RunLayout
from cxr_train.runs.saved_run import model_sha256


def rows_of(made, rows, source):
    return dataclasses.replace(
        made,
        source=source,
        ids=tuple(made.ids[row] for row in rows),
        groups=tuple(made.groups[row] for row in rows),
        labels=made.labels[rows],
        probabilities=made.probabilities[rows],
    )


def test_folds_together_have_every_image_once_and_their_own_numbers():
    whole = predictions(90, sure=0.4)
    folds = [rows_of(whole, np.arange(start, 90, 3), f"run{start}") for start in range(3)]
    joined = join_folds(folds)
    assert sorted(joined.ids) == sorted(whole.ids)
    found, expected = (metrics.auroc(each.labels, each.probabilities) for each in (joined, whole))
    np.testing.assert_allclose(found, expected, atol=1e-12)
    with pytest.raises(DataError, match="run0 and run0 both predict a/0.png"):
        join_folds([folds[0], folds[0]])
    with pytest.raises(DataError, match="classes"):
        join_folds([folds[0], dataclasses.replace(folds[1], class_names=("x", "y", "z"))])


def test_the_spread_is_that_of_the_folds():
    whole = predictions(120, sure=0.4)
    folds = {f"fold{k}": rows_of(whole, np.arange(k * 40, k * 40 + 40), f"fold{k}") for k in range(3)}
    found = spread(folds)["auroc"]
    expected = {
        name: metrics.summarize(fold.labels, fold.probabilities, fold.class_names)["macro"]["auroc"]
        for name, fold in folds.items()
    }
    assert found["folds"] == expected
    assert found["mean"] == pytest.approx(np.mean([*expected.values()]))
    assert (found["low"], found["high"]) == (min(expected.values()), max(expected.values()))


def test_swapped_labels_are_ranked_before_all_others():
    made = predictions(300, sure=2.0)
    swapped = np.random.default_rng(1).choice(300, 12, replace=False)
    labels = made.labels.copy()
    labels[swapped] = (labels[swapped] + 1) % 3
    issues = label_issues(dataclasses.replace(made, labels=labels))
    # One that is less probable than its class usually is, is not doubted.
    assert len(issues) in (11, 12)
    row_of = {made.ids[row]: row for row in swapped}
    for issue in issues:
        row = row_of[issue["id"]]
        assert issue["margin"] < 0
        assert issue["suggested"] == made.class_names[made.labels[row]]
        assert issue["label"] == made.class_names[labels[row]]


def test_findings_are_doubted_one_by_one_and_unknown_labels_never():
    random = np.random.default_rng(0)
    present = random.random([400, 2]) < 0.3
    probabilities = np.clip(np.where(present, 0.85, 0.1) + random.normal(0, 0.05, [400, 2]), 0.01, 0.99)
    labels = present.astype(np.int64)
    labels[:5, 0] = 1 - labels[:5, 0]
    labels[5:50, 1] = -2
    made = predictions(400)
    made = dataclasses.replace(
        made, class_names=("mass", "edema"), labels=labels, probabilities=probabilities
    )
    issues = label_issues(made)
    # One of the five that are swapped is less probable than its kind usually is.
    assert {row["id"] for row in issues[:4]} <= {made.ids[row] for row in range(5)}
    assert {row["label"] for row in issues[:4]} <= {"mass", "no mass"}
    labels = labels.copy()
    labels[:, 0] = np.arange(400) < 9
    few = label_issues(dataclasses.replace(made, labels=labels))
    assert {row["label"] for row in few} <= {"edema", "no edema"}
    unknown = {made.ids[row] for row in range(5, 50)}
    assert not [row for row in issues if row["id"] in unknown and "edema" in row["label"]]


def test_the_spread_leaves_out_what_one_fold_has_not():
    made = predictions(90, sure=0.4)
    folds = {f"fold{k}": rows_of(made, np.arange(k, 90, 3), f"fold{k}") for k in range(3)}  # one class each
    folds["mixed"] = made
    found = spread(folds)["auroc"]
    assert found["left_out"] == ["covid", "normal", "pneumonia"]
    assert found["mean"] is None
    labels = np.arange(30) % 2
    fold = dataclasses.replace(rows_of(made, np.arange(30), "two"), labels=labels)
    found = spread({"two": fold, "three": made})["auroc"]
    assert found["left_out"] == ["pneumonia"]
    expected = [metrics.auroc(each.labels, each.probabilities)[:2].mean() for each in (fold, made)]
    assert found["folds"] == pytest.approx(dict(zip(("two", "three"), expected, strict=True)))


def test_the_spread_leaves_out_findings_that_all_folds_together_have_too_few_of():
    random = np.random.default_rng(0)
    labels = (random.random([90, 2]) < 0.5).astype(np.int64)
    labels[:, 1] = np.arange(90) % 15 == 0  # six, two in each fold
    names = {"class_names": ("mass", "edema"), "probabilities": random.random([90, 2])}
    made = dataclasses.replace(predictions(90), labels=labels, **names)
    folds = {f"fold{k}": rows_of(made, np.arange(k * 30, k * 30 + 30), f"fold{k}") for k in range(3)}
    found = spread(folds)["auroc"]
    assert found["left_out"] == ["edema"]
    expected = {name: metrics.auroc(fold.labels, fold.probabilities)[0] for name, fold in folds.items()}
    assert found["folds"] == pytest.approx(expected)


def test_the_page_of_folds_names_the_sources_that_they_are_of(tmp_path, monkeypatch):
    made = write_shards(tmp_path / "data", {"train": random_images(36)}, sources=("a", "b", "c"))
    pool, runs = "train@without=b", [tmp_path / f"fold{number}" for number in (1, 2)]
    fields = read_split_fields(made, pool)
    for number, run_dir in enumerate(runs, start=1):
        rest, fold = fold_splits(pool, number, 2)
        run_dir.mkdir()
        splits = {"train_split": rest, "validation_split": fold}
        TrainConfig("vgg16", made.directory, str(run_dir), **splits).save(run_dir / "config.json")
        (run_dir / "manifest.json").write_bytes((tmp_path / "data/manifest.json").read_bytes())
        (run_dir / "best.keras").write_bytes(b"a model")
        layout, own = RunLayout(run_dir), [fields[position] for position in positions_of(made, fold)]
        layout.metrics(fold).write_text(json.dumps({"model_sha256": model_sha256(run_dir)}))
        labels = np.array([one.label for one in own])
        said = {"labels": labels, "probabilities": np.full([len(own), 3], 0.2) + 0.4 * np.eye(3)[labels]}
        ids, groups = tuple(one.id for one in own), tuple(one.group for one in own)
        write_predictions(layout.predictions(fold), NamedPredictions("run", CLASS_NAMES, ids, groups, **said))
    options = command.FoldsOptions(runs=tuple(map(str, runs)), output=str(tmp_path / "joined"), resamples=100)
    monkeypatch.setattr(command, "from_flags", lambda _: options)
    assert command.main() == 0
    page = Page((tmp_path / "joined/report/index.html").read_text())
    assert f"24 images of {pool}," in page.text
