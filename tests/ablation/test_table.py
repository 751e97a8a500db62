"""The table of a grid: rows, intervals and tests, from run directories as runs leave them."""

import csv
import dataclasses
import io
import json

import numpy as np
import pytest
from made_predictions import predictions

from cxr_data.records.split_names import fold_splits
from cxr_train.ablation import table
from cxr_train.ablation.runner import GridRun
from cxr_train.evaluation.analysis import analyse
from cxr_train.evaluation.options import EvaluationOptions
from cxr_train.evaluation.predictions import write_predictions
from cxr_train.evaluation.significance import agreement, holm
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.saved_run import model_sha256

SURE = {"plain": 0.4, "better": 2.0, "same": 0.4}


def make_run(
    directory, name: str, seed: int, draw: int | None, fold: int = 0, several: bool = False
) -> GridRun:
    """A run, evaluated if `draw` (of its predictions) is given."""
    run_dir = directory / f"{name}-seed{seed}-fold{fold}"
    run_dir.mkdir()
    splits, split = {}, "test"
    if fold:
        rest, split = fold_splits("train+validation", fold, 2)
        splits = {"train_split": rest, "validation_split": split}
    config = TrainConfig("vgg16", "data", str(run_dir), epochs=2, weights="none", seed=seed, **splits)
    config.save(run_dir / "config.json")
    if draw is not None:
        said = predictions(240, draw, sure=SURE[name])
        if several:
            said = dataclasses.replace(said, labels=np.eye(3, dtype=np.int64)[said.labels])
        (run_dir / "best.keras").write_bytes(f"{name}{seed}".encode())
        write_predictions(run_dir / f"predictions_{split}.csv", said)
        summary = {"model_sha256": model_sha256(run_dir), **analyse(said, EvaluationOptions(resamples=200))}
        summary |= {"audit": None, "data": "shards"}
        (run_dir / f"metrics_{split}.json").write_text(json.dumps(summary))
        (run_dir / "metrics.jsonl").write_text("{}\n{}\n")
    return GridRun(name, {"head": name, **({"fold": f"{fold}of2"} if fold else {})}, config)


def table_of(runs, **changes):
    options = {"varied": ["head"], "baseline": "plain", "split": "test", "resamples": 200}
    statuses = ["finished" if (run.directory / "best.keras").exists() else "not begun" for run in runs]
    return table.make_table(runs, statuses, **{**options, **changes})


def validated_on(run: GridRun, split: str) -> GridRun:
    return dataclasses.replace(run, config=dataclasses.replace(run.config, validation_split=split))


@pytest.mark.parametrize(
    ("validation", "picked_on"),
    [("validation", False), ("validation+test", True), ("test@only=nih", True), ("train+test", False)],
)
def test_the_table_says_whether_a_best_epoch_was_picked_on_some_of_its_images(
    tmp_path, validation, picked_on
):
    # A run that is trained on images of its validation split picks no epoch.
    runs = [make_run(tmp_path, name, 0, None) for name in ("plain", "better")]
    found = table_of([runs[0], validated_on(runs[1], validation)])
    assert found["picked_on"] is picked_on
    assert any("flatter" in note for note in table.notes_of(found)) is picked_on
    assert "7 epochs" in " ".join(table.notes_of({**found, "more_epochs": 7}))


def test_every_run_is_compared_with_the_baseline_of_its_seed(tmp_path):
    runs = [
        make_run(tmp_path, "plain", 0, 1),
        make_run(tmp_path, "better", 0, 2),
        make_run(tmp_path, "same", 0, 3),
        make_run(tmp_path, "plain", 1, 4),
        make_run(tmp_path, "better", 1, 5),
        make_run(tmp_path, "same", 1, None),
    ]
    result = table_of(runs)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    rows = {(row["name"], row["seed"]): row for row in result["rows"]}
    assert len(rows) == 6
    assert result["comparisons"] == 3
    assert rows["plain", 0]["against_baseline"] is rows["plain", 1]["against_baseline"] is None
    assert rows["same", 1]["accuracy"] is rows["same", 1]["against_baseline"] is None
    for seed, (this, other) in {0: (2, 1), 1: (5, 4)}.items():
        said, reference = predictions(240, this, sure=2.0), predictions(240, other, sure=0.4)
        right = [one.probabilities.argmax(axis=1) == one.labels for one in (said, reference)]
        row = rows["better", seed]
        assert row["accuracy"]["value"] == right[0].mean()
        found = row["against_baseline"]
        assert found["mcnemar_exact_p"] == agreement(*right)["mcnemar_exact_p"] < 1e-4
        difference = found["differences"]["accuracy"]
        assert difference["value"] == pytest.approx(right[0].mean() - right[1].mean())
        assert 0 < difference["interval"][0] < difference["value"] < difference["interval"][1]
    tests = [row["against_baseline"] for row in result["rows"] if row["against_baseline"]]
    assert [test["holm_p"] for test in tests] == holm([test["mcnemar_exact_p"] for test in tests])
    means = result["seeds"]
    assert set(means) == {"plain", "better"}
    both = [rows["better", seed]["accuracy"]["value"] for seed in (0, 1)]
    assert means["better"]["accuracy"]["mean"] == pytest.approx(np.mean(both))
    assert means["better"]["accuracy"]["standard_deviation"] == pytest.approx(np.std(both, ddof=1))


def test_the_files_say_the_same(tmp_path):
    runs = [make_run(tmp_path, name, 0, draw) for name, draw in (("plain", 1), ("better", 2), ("same", None))]
    found = table_of([validated_on(run, "validation+test") for run in runs])
    table.write_table(tmp_path, found)
    assert json.loads((tmp_path / "ablation.json").read_text()) == found
    rows = list(csv.DictReader(io.StringIO((tmp_path / "ablation.csv").read_text())))
    assert [row["name"] for row in rows] == ["plain", "better", "same"]
    better = found["rows"][1]
    assert float(rows[1]["accuracy_low"]) == better["accuracy"]["interval"][0]
    assert float(rows[1]["holm_p"]) == better["against_baseline"]["holm_p"]
    assert rows[2]["accuracy"] == rows[0]["mcnemar_p"] == ""
    text = (tmp_path / "ablation.txt").read_text()
    assert "same seed 0      not begun" in text
    assert f"{better['accuracy']['value']:.4f}" in text
    assert "adjusted for 1 comparison\n" in text
    assert "the numbers flatter" in text
    assert "the seed's" in text
    assert text.splitlines()[-1].endswith("python -m tools.audit_dataset --data=shards")


def test_a_single_run_is_compared_with_nothing(tmp_path):
    notes = " ".join(table.notes_of(table_of([make_run(tmp_path, "plain", 0, 1)])))
    assert "Holm" not in notes
    assert "one seed" not in notes


def test_without_a_baseline_there_are_no_tests(tmp_path):
    runs = [make_run(tmp_path, "plain", 0, None), make_run(tmp_path, "better", 0, 2)]
    found = table_of(runs)
    assert found["comparisons"] == 0
    assert "not adjusted" not in table.to_text(found)
    found["comparisons"] = 2
    assert "not adjusted" in table.to_text(found)
    assert "baseline is not finished" in table.to_text(found)


def test_runs_of_folds_are_compared_within_their_fold_and_pooled(tmp_path):
    runs = [
        make_run(tmp_path, name, 0, draw, fold)
        for fold, draws in ((1, (1, 2)), (2, (3, 4)))
        for name, draw in zip(("plain", "better"), draws, strict=True)
    ]
    result = table_of(runs, split=table.OWN_FOLD)
    assert result["picked_on"]
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    rows = {(row["name"], row["fold"]): row for row in result["rows"]}
    for fold, draw in (("1of2", 1), ("2of2", 3)):
        said = predictions(240, draw, sure=0.4)
        right = (said.probabilities.argmax(axis=1) == said.labels).mean()
        assert rows["plain", fold]["accuracy"]["value"] == right
        test = rows["better", fold]["against_baseline"]["differences"]["accuracy"]
        assert test["value"] == pytest.approx(rows["better", fold]["accuracy"]["value"] - right)
    both = [rows["plain", fold]["accuracy"]["value"] for fold in ("1of2", "2of2")]
    found = result["folds"]["plain"]
    assert found["runs"] == 2
    assert found["accuracy"] == {
        "mean": pytest.approx(np.mean(both)), "lowest": min(both), "highest": max(both)
    }  # fmt: skip
    assert result["seeds"] == {}
    shown = list(csv.DictReader(io.StringIO(table.table_to_csv(result).decode())))
    assert [row["fold"] for row in shown] == ["1of2", "1of2", "2of2", "2of2"]
    text = table.to_text(result)
    assert "plain seed 0 fold 1of2" in text
    assert f"({min(both):.4f} to {max(both):.4f})" in text


def test_the_mean_over_folds_is_of_what_has_a_number_in_each_of_them(tmp_path):
    runs = [make_run(tmp_path, "plain", 0, fold, fold, several=True) for fold in (1, 2)]
    found = []
    for run in runs:
        path = run.directory / f"metrics_{run.config.validation_split}.json"
        summary = json.loads(path.read_text())
        found.append(np.mean([summary["per_class"][name]["auroc"] for name in ("covid", "normal")]))
        if run is runs[1]:  # as where a fold has nine images of it
            summary["per_class"]["pneumonia"] |= {"auroc": None, "sensitivity": None}
            summary["macro"]["auroc"] = found[-1]
            path.write_text(json.dumps(summary))
    result = table_of(runs, split=table.OWN_FOLD)
    over = result["folds"]["plain"]["auroc"]
    assert over["left_out"] == ["pneumonia"]
    assert (over["lowest"], over["highest"]) == pytest.approx((min(found), max(found)))
    assert "without pneumonia" in table.to_text(result)


def test_runs_on_findings_are_compared_by_intervals_alone(tmp_path):
    runs = [make_run(tmp_path, name, 0, draw, several=True) for draw, name in enumerate(("plain", "better"))]
    result = table_of(runs)
    found = result["rows"][1]["against_baseline"]
    assert found["mcnemar_exact_p"] is found["holm_p"] is None
    assert found["differences"]["auroc"]["interval"][0] > 0
    assert result["comparisons"] == 0
    assert "findings" in table.to_text(result)
