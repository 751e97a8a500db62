"""What the page of a run says of a split: numbers, intervals, other data, limits."""

import json
import re

from written_run import CLASSES, read_page, write_run, write_split

from cxr_train.reporting.checklists import claim
from cxr_train.reporting.content import report_content
from cxr_train.reporting.record import RunRecord


def test_a_class_has_a_tile_and_a_metric_its_interval_on_the_chart(tmp_path):
    run_dir = write_run(tmp_path / "run")
    path = run_dir / "metrics_test.json"
    summary = json.loads(path.read_text())
    summary["intervals"]["per_class"] = {"covid": {"auroc": [0.125, 0.875]}}
    path.write_text(json.dumps(summary))
    result = report_content(RunRecord.read(run_dir))["result"]
    assert [tile["name"] for tile in result["classes"]] == list(CLASSES)
    auroc = result["classes"][0]["metrics"][0]
    assert (auroc["name"], auroc["interval"]) == ("AUROC", "0.125 to 0.875")
    assert (
        sum("covid AUROC" in picture.alt and "0.125" in picture.alt for picture, _ in result["forests"]) == 1
    )


def test_the_numbers_at_the_top_are_of_the_images_that_the_model_knows_the_least(tmp_path):
    run_dir = write_run(tmp_path / "run")
    write_split(run_dir, "train")
    for drawn in (
        "metrics.jsonl",
        *(f"predictions_{split}.csv" for split in ("train", "validation", "test")),
    ):
        (run_dir / drawn).unlink()  # what takes time
    for split, told in (("test", "24 images"), ("validation", "best epoch")):
        (name, value, note), *_ = report_content(RunRecord.read(run_dir))["key"]
        assert (name, value) == ("split", split)
        assert told in note
        (run_dir / f"metrics_{split}.json").unlink()
    content = report_content(RunRecord.read(run_dir))
    assert content["key"][0][:2] == ("split", "train")
    assert "These images flatter" in content["result"]["summary"]
    look, line = content["verdict"][0]
    assert look == "bad"
    assert "trained on them" in line


def test_unusual_intervals_thresholds_and_a_comparison_are_told(tmp_path):
    run_dir = write_run(tmp_path / "run")
    for drawn in ("metrics.jsonl", "predictions_test.csv", "predictions_validation.csv"):
        (run_dir / drawn).unlink()
    path = run_dir / "metrics_test.json"
    metrics = json.loads(path.read_text())
    metrics["intervals"] |= {"exact": ["covid sensitivity"], "no_interval": {"macro f1": "the same"}}
    metrics["calibration"] = {
        "uncalibrated": {"brier": 0.1, "ece": 0.25},
        "calibrated": None,
        "fitted_on": "validation",
    }
    rates = {"sensitivity": 0.5, "specificity": 0.75, "precision": None}
    intervals = {"sensitivity": [0.25, 0.625], "specificity": None, "precision": None}
    of_class = {"threshold": 0.125, **rates, "intervals": intervals}
    metrics["thresholds"] = {
        "at_sensitivity": 0.9,
        "chosen_on": "validation",
        "per_class": {"covid": of_class},
    }
    agreed = {"other": "runs/two", "only_this": 3, "only_other": 1, "mcnemar_exact_p": 0.625}
    differences = {key: {"value": None, "interval": None} for key in ("macro sensitivity", "macro auroc")}
    differences["accuracy"] = {"value": 0.125, "interval": [-0.25, 0.5]}
    metrics |= {"own_data": True, "split": "test", "comparison": {**agreed, "differences": differences}}
    path.write_text(json.dumps(metrics))
    test = report_content(RunRecord.read(run_dir))["result"]
    exact, without, calibrated, *_ = test["notes"]
    assert "exact binomial interval" in exact
    assert "no interval" in without
    assert "0.100, expected calibration error 0.250; no temperature: on validation " in calibrated
    assert re.match(r"Against runs/two: 3 .*, 1 ", test["notes"][-2])
    thresholds, compared = test["tables"][-2:]
    assert compared.caption.startswith("This run minus runs/two: ")
    assert list(compared.rows[0]) == ["accuracy", "+0.125", "-0.250 to +0.500"]
    assert list(compared.rows[5]) == ["mean AUROC", "undefined", ""]
    assert re.search(r"\b0\.9, .*validation split", thresholds.caption)
    assert thresholds.rows == [["covid", "0.125", "0.500\n(0.250-0.625)", "0.750", "undefined"]]


def test_images_of_no_known_patient_are_not_called_patients(tmp_path):
    run_dir = write_run(tmp_path / "run")
    (run_dir / "metrics.jsonl").unlink()
    path = run_dir / "predictions_test.csv"
    lines = path.read_text().splitlines()
    alone = [re.sub(r"^(\d+\.png),\d+,", r"\1,\1,", line) for line in lines]
    path.write_text("\n".join(alone) + "\n")
    summary = json.loads((run_dir / "metrics_test.json").read_text())
    summary["intervals"] |= {"without_patient": 24, "patients": 24}
    (run_dir / "metrics_test.json").write_text(json.dumps(summary))
    content = report_content(RunRecord.read(run_dir))
    (validation,), test = content["others"], content["result"]
    assert validation["summary"].startswith("24 images of 12 patients.")
    assert test["summary"].startswith("24 images.")
    assert test["notes"][0].startswith("No patient is known")
    assert test["metrics"].caption.endswith("(images resampled)")


def test_other_data_are_shown_beside_the_runs_own(tmp_path):
    run_dir = write_run(tmp_path / "run")
    for drawn in ("metrics.jsonl", "predictions_test.csv", "predictions_validation.csv"):
        (run_dir / drawn).unlink()
    theirs = run_dir / "external/hospital <b>"
    theirs.mkdir(parents=True)
    write_split(theirs, "all", count=18)
    summary = json.loads((theirs / "metrics_all.json").read_text())
    (theirs / "metrics_all.json").write_text(json.dumps({**summary, "dropped": {"other": 1_234}}))
    record = RunRecord.read(run_dir)
    content = report_content(record)
    assert content["external"].rows[0][:2] == ["hospital <b>, all", "18"]
    without, left_out = content["external_notes"]
    assert without.startswith("hospital <b>, all: no image of _pneumonia$; ")
    assert re.match("hospital <b>, all: .*--class_map: 1,234 images of other", left_out)
    answers = {item.number: item.answer for item in claim(record)}
    assert answers["32"].startswith("hospital <b>, all split: 18 images, accuracy 0.")
    page = read_page(run_dir)
    assert "Other data" in page.text
    assert "another hospital; see Other data." in page.text
    (run_dir / "best.keras").write_bytes(b"newer")
    path = theirs / "metrics_all.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_sha256": "older"}))
    record = RunRecord.read(run_dir)
    assert record.external == ()
    (problem,) = (one for one in record.problems if "external/hospital <b>" in one)
    assert "earlier best.keras" in problem


def test_a_class_without_images_is_a_limit_of_its_own(tmp_path):
    run_dir = write_run(tmp_path / "run")
    for drawn in ("metrics.jsonl", "predictions_test.csv", "predictions_validation.csv"):
        (run_dir / drawn).unlink()
    limits = " ".join(report_content(RunRecord.read(run_dir))["limits"])
    assert "no image of _pneumonia$: " in limits
    assert "only 12 images" in limits
