"""The page of a run on findings, and of a run on a fold: its numbers and its methods."""

import dataclasses
import json
import pathlib
from collections.abc import Iterable

import numpy as np
import pytest
from written_run import Page, write_explanation, write_run

from cxr_train.evaluation.analysis import analyse
from cxr_train.evaluation.calibration import measure_calibration
from cxr_train.evaluation.metrics import summarize
from cxr_train.evaluation.options import EvaluationOptions
from cxr_train.evaluation.predictions import NamedPredictions, read_predictions, write_predictions
from cxr_train.reporting.checklists import Item, claim, tripod_ai
from cxr_train.reporting.content import report_content
from cxr_train.reporting.page import write_report
from cxr_train.reporting.record import RunRecord
from cxr_train.runs.config import TrainConfig

NAMES = ("effusion", "nodule", "mass")
LABELS = np.random.default_rng(0).choice([1, 0, -1, -2], [40, len(NAMES)])
FOLD = {"train_split": "train+validation@not1of4", "validation_split": "train+validation@1of4"}


def write_findings_run(run_dir: pathlib.Path, labels: np.ndarray = LABELS, **changes: object) -> RunRecord:
    """Writes a run on findings that was evaluated on its test split.

    Args:
      run_dir: of the run.
      labels: int [N, 3] of that split.
      changes: fields of its configuration.
    """
    write_run(run_dir)
    drawn = [*run_dir.glob("*_validation.*"), *run_dir.glob("explain/*/*.json")]
    for path in (run_dir / "metrics.jsonl", *drawn):
        path.unlink()
    config = TrainConfig.load(run_dir / "config.json")
    dataclasses.replace(config, **changes).save(run_dir / "config.json")
    manifest = json.loads((run_dir / "manifest.json").read_text())
    counts = {split: dict.fromkeys(NAMES, 50) for split in ("train", "validation", "test")}
    names = [(split, f"{split}-{number}.tfrecord") for split in counts for number in range(2)]
    one = {"records": 30, "bytes": 30 * 120_000, "sha256": "0" * 64}
    shards = [{"split": split, "name": name, **one} for split, name in names]
    manifest |= {"task": "findings", "class_names": NAMES, "counts": counts, "shards": shards}
    (run_dir / "manifest.json").write_text(json.dumps(manifest))
    scores = np.random.default_rng(1).random(labels.shape)
    numbers = {"loss": None, **summarize(labels, scores, NAMES)}
    numbers["intervals"] = {"accuracy": None, "macro": {}, "per_class": {}}
    fitted = measure_calibration(labels, scores)
    fitted["per_class"] = dict(zip(NAMES, fitted["per_class"], strict=True))
    numbers["calibration"] = {"uncalibrated": fitted, "calibrated": None, "fitted_on": None}
    (run_dir / "metrics_test.json").write_text(json.dumps(numbers))
    ids = tuple(map(str, range(len(labels))))
    named = NamedPredictions("run", NAMES, ids, ids, labels, scores)
    write_predictions(run_dir / "predictions_test.csv", named)
    return RunRecord.read(run_dir)


def explain(run_dir: pathlib.Path, findings: int) -> None:
    """Writes an explanation with a hit, a miss and a false alarm of each of so many findings."""
    write_explanation(run_dir, "test", "passed")
    path = run_dir / "explain" / "test" / "explain.json"
    document = json.loads(path.read_text())
    case = document["cases"][0]
    cases = []
    for number in range(findings):
        name = f"finding {number}"
        for label, predicted in ((name, name), (name, f"no {name}"), (f"no {name}", name)):
            said = {"label": label, "predicted": predicted, "mapped": [name], "flat": [False]}
            cases.append({**case, **said, "id": f"{label}, {predicted}.png"})
    path.write_text(json.dumps({**document, "cases": cases}))


def answers_of(items: Iterable[Item]) -> dict[str, str | None]:
    return {item.number: item.answer for item in items}


def test_images_are_not_the_sum_of_the_findings(tmp_path):
    record = write_findings_run(tmp_path / "run")
    facts = dict(report_content(record)["run"])
    assert facts["trained on"].startswith("train split, 60 images ")
    assert "effusion 50" in facts["trained on"]
    answers = answers_of(claim(record))
    assert answers["7"].startswith("180 images ")
    assert answers["20"].startswith("train 60, validation 60, test 60 images")


@pytest.mark.parametrize(("of_findings", "pool"), [(True, 120), (False, 48)])
def test_a_fold_is_not_its_pool(tmp_path, of_findings, pool):
    run_dir = tmp_path / "run"
    if of_findings:
        write_findings_run(run_dir, **FOLD)
    else:
        config = TrainConfig.load(write_run(run_dir) / "config.json")
        dataclasses.replace(config, **FOLD).save(run_dir / "config.json")
        for drawn in (run_dir / "metrics.jsonl", *run_dir.glob("predictions_*.csv")):
            drawn.unlink()
    facts = dict(report_content(RunRecord.read(run_dir))["run"])
    assert facts["trained on"].endswith(f"@not1of4 split, about {pool * 3 // 4} images")
    assert facts["best epoch picked on"].endswith(f"@1of4 split, about {pool // 4} images")


def test_the_checklists_tell_the_methods_of_findings(tmp_path):
    record = write_findings_run(tmp_path / "run")
    tripod = answers_of(tripod_ai(record))
    assert "summing to 1" not in tripod["15"]
    assert "uncertain" in tripod["8a"]
    assert "folder" not in tripod["8a"]
    assert "binary cross-entropy" in tripod["12c"]
    assert "each finding" in tripod["12e"]
    assert "p >= 0.5" in tripod["23a"]
    tripod = answers_of(tripod_ai(RunRecord.read(write_run(tmp_path / "classes"))))
    assert "summing to 1" in tripod["15"]
    assert "binary" not in tripod["12c"]


def test_findings_are_not_called_classes(tmp_path):
    content = report_content(write_findings_run(tmp_path / "run"))
    result = content["result"]
    assert result["metrics"].header[0] == "finding"
    said = [result["metrics"].caption, *content["limits"]]
    for picture, caption in result["charts"]:
        said += [picture.alt, caption]
    assert len(result["charts"]) == 3
    assert not [line for line in said if "class" in line]


@pytest.mark.parametrize(("findings", "tabs"), [(3, 0), (14, 14)])
def test_galleries_of_many_findings_are_tabs(tmp_path, findings, tabs):
    run_dir = tmp_path / "run"
    write_findings_run(run_dir)
    explain(run_dir, findings)
    text = write_report(run_dir).read_text()
    errors, rightly = (
        text.count(f'type="radio" name="{name} of test"') for name in ("errors", "rightly called")
    )
    assert (errors, rightly) == (tabs, tabs)
    assert text.count("checked>") == (2 if tabs else 0)
    x_rays = [alt for alt in Page(text).alts if alt.startswith("X-ray ")]
    assert len(x_rays) == 3 * findings


def test_micro_brier_and_ece_have_their_place_and_their_intervals(tmp_path):
    run_dir = tmp_path / "run"
    write_findings_run(run_dir)
    stored = read_predictions(run_dir / "predictions_test.csv")
    summary = analyse(stored, EvaluationOptions(resamples=100), validation=stored, other=stored)
    said = {**summary, "own_data": True, "split": "test"}
    (run_dir / "metrics_test.json").write_text(json.dumps(said))
    result = report_content(RunRecord.read(run_dir))["result"]
    rows = {row[0]: dict(zip(result["metrics"].header, row, strict=True)) for row in result["metrics"].rows}
    low, high = summary["intervals"]["micro"]["auroc"]
    reach = f"({low:.3f}-{high:.3f})"
    assert rows["all labels together"]["AUROC"] == f"{summary['micro']['auroc']:.3f}\n{reach}"
    assert reach in "".join(picture.alt for picture, _ in result["forests"])
    measured = summary["calibration"]["uncalibrated"]
    assert rows["all labels together"]["Brier"].startswith(f"{measured['brier']:.3f}\n(")
    assert (measured["ece"], rows["mean"]["ECE"]) == (None, "undefined")  # each finding has too few images
    few = summary["too_few"]
    for name in NAMES:
        assert rows[name]["ECE"].startswith(
            "undefined" if name in few else f"{measured['per_class'][name]['ece']:.3f}\n("
        )
    *_, of_findings = result["tables"]
    assert [row[0] for row in of_findings.rows] == [name for name in NAMES if name not in few]


def test_a_split_without_any_known_label_has_a_page(tmp_path):
    run_dir = tmp_path / "run"
    write_findings_run(run_dir, np.full_like(LABELS, -2))
    theirs = run_dir / "external" / "elsewhere"
    theirs.mkdir(parents=True)
    (theirs / "metrics_all.json").write_text((run_dir / "metrics_test.json").read_text())
    record = RunRecord.read(run_dir)
    content = report_content(record)
    assert content["result"]["charts"] == []
    assert content["verdict"][0][0] == "open"
    assert "undefined" in answers_of(claim(record))["32"]
    assert any("undefined" in note for note in content["result"]["notes"])


def test_other_data_of_few_images_of_a_finding_are_not_said_to_have_none(tmp_path):
    run_dir = tmp_path / "run"
    write_findings_run(run_dir)
    theirs = run_dir / "external" / "elsewhere"
    theirs.mkdir(parents=True)
    labels = np.array([[n < 7, n < 12, n < 12] for n in range(24)], int)
    numbers = summarize(labels, np.random.default_rng(1).random([24, 3]), NAMES, hide_few=True)
    own = json.loads((run_dir / "metrics_test.json").read_text())
    found = own | numbers | {"images_trained_on": 11, "own_data": False}
    (theirs / "metrics_all.json").write_text(json.dumps(found))
    content = report_content(RunRecord.read(run_dir))
    notes = " ".join(content["external_notes"])
    assert f"{NAMES[0]} (7 of 24)" in notes
    assert "no image of" not in notes
    assert "11 of 24 images" in notes
    assert any("known labels" in title for title in content["external"].header)


def test_the_page_shows_the_errors_of_a_calibration_before_and_after(tmp_path):
    record = write_findings_run(tmp_path / "run")
    labels = np.random.default_rng(2).integers(0, 2, [200, 3])
    ids = tuple(map(str, range(200)))
    said = NamedPredictions(
        "run", NAMES, ids, ids, labels, np.random.default_rng(3).random([200, 3]) * 0.6 + 0.3 * labels
    )
    found = analyse(said, EvaluationOptions(resamples=100), validation=said)
    path = record.directory / "metrics_test.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **found}))
    result = report_content(RunRecord.read(record.directory))["result"]
    (grid,) = [grid for grid in result["tables"] if "calibration error" in grid.caption]
    assert [row[0] for row in grid.rows] == [*NAMES, "mean"]
    parts = found["calibration"]
    errors = [parts[part]["ece"] for part in ("uncalibrated", "calibrated")] + [
        parts["platt"]["calibrated"]["ece"]
    ]
    assert grid.rows[-1][1:] == [f"{error:.3f}" for error in errors]
    assert [note for note in result["notes"] if "(Platt)" in note and " at temperature " in note]
    found["calibration"] |= {"temperature": None, "calibrated": None}
    for fitted_on, is_shown in (("validation", True), (None, False)):
        found["calibration"]["fitted_on"] = fitted_on
        path.write_text(json.dumps({**json.loads(path.read_text()), **found}))
        content = report_content(RunRecord.read(record.directory))
        assert bool(content["result"]) is is_shown  # what says nothing of its split is damaged
