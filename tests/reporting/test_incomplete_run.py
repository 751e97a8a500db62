"""The page of a run that lacks parts, has damaged ones, or has parts of another model."""

import json
import shutil

import pytest
from written_run import read_page, row, write_run

from cxr_data.core.errors import DataError
from cxr_train.reporting.page import write_report
from cxr_train.reporting.record import RunRecord
from cxr_train.runs.config import TrainConfig


def test_what_is_missing_is_told(tmp_path):
    run_dir = write_run(tmp_path / "run")
    for name in ("predictions_test.csv", "environment.json", "data/audit.json"):
        (run_dir / name).unlink()
    (run_dir / "throughput.json").write_text("{")
    (run_dir / "metrics.jsonl").write_text(json.dumps(row(1)) + '\n{"ep')
    shutil.rmtree(run_dir / "explain")
    text = " ".join(read_page(run_dir).text.split())
    for told in (
        "predictions_test.csv: No such file",
        "(no environment.json)",
        "No audit ",
        "throughput.json cannot",
        "line 2 of metrics.jsonl is damaged",
        "1 of 3 epochs",
        "Not made. python -m cxr_train.explain",
    ):
        assert told in text, told


def test_what_is_of_an_earlier_model_or_of_other_data_is_not_shown(tmp_path):
    run_dir = write_run(tmp_path / "run")
    (run_dir / "metrics.jsonl").unlink()
    (run_dir / "best.keras").write_bytes(b"newer")
    for name in ("metrics_test.json", "explain/validation/explain.json"):
        path = run_dir / name
        path.write_text(json.dumps({**json.loads(path.read_text()), "model_sha256": "older"}))
    (run_dir / "data/manifest.json").write_text("{}")
    record = RunRecord.read(run_dir)
    (_, test) = record.splits
    assert (test.metrics, test.labels, record.splits[0].explanation, record.audit) == (None, None, None, None)
    assert record.splits[0].metrics
    told = " ".join(record.problems)
    assert "cxr_train.evaluate --split=test" in told
    assert "cxr_train.explain --split=validation --overwrite" in told
    assert f"no audit: {run_dir}/data " in told


def test_what_else_is_missing_is_told(tmp_path):
    run_dir = write_run(tmp_path / "run")
    for name in ("manifest.json", "metrics.jsonl", "metrics_test.json", "explain/validation/a.jpg"):
        (run_dir / name).unlink()
    (run_dir / "predictions_validation.csv").write_text("id\n1\n")
    text = " ".join(read_page(run_dir).text.split())
    for told in (
        "(no manifest.json)",
        "no epoch",
        "metrics of the test",
        "validation split lacks a.jpg",
        "predictions_validation.csv is not",
    ):
        assert told in text, told


def test_a_run_that_never_came_to_an_epoch_has_a_page(tmp_path):
    TrainConfig("vgg16", "nowhere", str(tmp_path)).save(tmp_path / "config.json")
    page = read_page(tmp_path)
    assert "No split was evaluated" in page.text
    assert "classes not known" in page.text


def test_a_name_that_is_no_utf8_is_shown_as_far_as_it_can_be(tmp_path):
    run_dir = write_run(tmp_path / "run")
    path = run_dir / "explain/validation/explain.json"
    document = json.loads(path.read_text())
    document["cases"][0]["id"] = "caf\udce9.png"
    path.write_text(json.dumps(document))
    assert "caf?.png" in read_page(run_dir).text


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(DataError, match=rf"{tmp_path} .*config\.json"):
        write_report(tmp_path)
