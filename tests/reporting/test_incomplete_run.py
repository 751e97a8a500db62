"""The page of a run that lacks parts, has damaged ones, or has parts of another model."""

import json
import os
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
        "throughput.json is damaged",
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


@pytest.mark.parametrize(
    ("name", "place", "value", "field"),
    [
        ("metrics_test.json", ["macro"], 3, "macro"),
        ("metrics_test.json", ["per_class", "covid", "auroc"], 7.5, "per_class.covid.auroc"),
        ("metrics_test.json", ["confusion_matrix"], [[1]], "confusion_matrix"),
        ("metrics_test.json", ["probe", "per_class", "covid", "whole"], {}, "whole.auroc"),
        ("metrics_test.json", ["class_names"], [], "class_names"),
        ("metrics_test.json", ["thresholds"], {"chosen_on": "x"}, "thresholds."),
        ("explain/validation/explain.json", ["occlusion", "verdict"], "fine", "occlusion.verdict"),
        ("explain/validation/explain.json", ["cases", 0, "flat"], [True], "cases[0]"),
        ("explain/validation/explain.json", ["cases", 0, "file"], "../../flags.txt", "cases[0].file"),
        ("explain/validation/explain.json", ["filters"], 1, "filters"),
        ("throughput.json", ["input_images_per_second"], "many", "input_images_per_second"),
        ("environment.json", ["gpus"], [1], "gpus[0]"),
        ("environment.json", ["versions"], [], "versions"),
        ("manifest.json", ["shards"], [{}], "shards[0]"),
        ("manifest.json", ["counts", "train", "covid"], -1, "counts.train.covid"),
    ],
)
def test_a_damaged_field_is_named_and_its_document_left_out(tmp_path, name, place, value, field):
    run_dir = write_run(tmp_path / "run")
    document = json.loads((run_dir / name).read_text())
    *parents, last = place
    inner = document
    for key in parents:
        inner = inner[key]
    inner[last] = value
    (run_dir / name).write_text(json.dumps(document))
    (told,) = [line for line in RunRecord.read(run_dir).problems if name in line]
    assert field in told
    assert told.isprintable()
    assert write_report(run_dir).exists()


@pytest.mark.parametrize("name", ["metrics_test.json", "environment.json", "manifest.json", "flags.txt"])
def test_a_pipe_in_the_place_of_a_document_is_named(tmp_path, name):
    run_dir = write_run(tmp_path / "run")
    (run_dir / name).unlink()
    os.mkfifo(run_dir / name)
    assert any(name in line for line in RunRecord.read(run_dir).problems)


def test_a_link_out_of_the_run_is_not_put_into_its_page(tmp_path):
    run_dir = write_run(tmp_path / "run")
    (tmp_path / "secret").write_text("of the reader's")
    picture = run_dir / "explain/validation/a.jpg"
    picture.unlink()
    picture.symlink_to(tmp_path / "secret")
    record = RunRecord.read(run_dir)
    assert record.splits[0].explanation is None
    assert any("a.jpg" in line for line in record.problems)


def test_predictions_of_other_classes_are_not_drawn(tmp_path):
    run_dir = write_run(tmp_path / "run")
    (run_dir / "predictions_test.csv").write_text("id,group,label,predicted,p_a,p_b\nx,y,a,b,0.25,0.75\n")
    record = RunRecord.read(run_dir)
    assert record.splits[1].labels is None
    assert any("predictions_test.csv" in line for line in record.problems)
    assert write_report(run_dir).exists()


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(DataError, match=rf"{tmp_path} .*config\.json"):
        write_report(tmp_path)
