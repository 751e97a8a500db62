"""The verdict at the top of the page of a run: what the model reaches without the lungs."""

import json

import pytest
from written_run import CLASSES, write_explanation, write_run

from cxr_train.reporting.record import RunRecord
from cxr_train.reporting.results import main_split
from cxr_train.reporting.verdict import verdict


def without_lungs(run_dir, change) -> tuple[str, str]:
    """Return the line on the probe, once it was changed."""
    path = run_dir / "metrics_test.json"
    metrics = json.loads(path.read_text())
    change(metrics)
    path.write_text(json.dumps(metrics))
    record = RunRecord.read(run_dir)
    (line,) = [line for line in verdict(record, main_split(record)) if "ithout the lungs" in line[1]]
    return line


@pytest.mark.parametrize(("interval", "look"), [([0.5, 1.0], "open"), ([0.6, 0.9], "bad"), (None, "open")])
def test_the_verdict_cites_the_class_that_is_told_best_without_the_lungs(tmp_path, interval, look):
    def change(metrics):
        metrics["probe"]["per_class"]["covid"]["frame_alone"] = {"auroc": 0.75, "interval": interval}
        metrics["probe"]["per_class"]["covid"]["whole"] = {"auroc": 0.875, "interval": [0.8, 0.9]}

    shown, text = without_lungs(write_run(tmp_path / "run"), change)
    assert shown == look
    assert "no class" in text if look == "open" else "no class" not in text
    assert " covid, " in text
    assert " 0.750" in text
    assert ("0.600 to 0.900" in text) is (look == "bad")
    assert " 0.875 (95 % interval 0.800 to 0.900)" in text
    assert "24 of 96 images" in text


def test_a_class_above_chance_goes_before_one_with_a_wide_interval(tmp_path):
    def change(metrics):
        first, second, _ = metrics["probe"]["per_class"].values()
        first["frame_alone"] = {"auroc": 0.9, "interval": [0.4, 1.0]}
        second["frame_alone"] = {"auroc": 0.7, "interval": [0.6, 0.8]}

    look, text = without_lungs(write_run(tmp_path / "run"), change)
    assert look == "bad"
    assert "0.700 (95 % interval 0.600 to 0.800)" in text
    assert "0.900" not in text


@pytest.mark.parametrize(("low", "look"), [(0.51, "open"), (0.53, "bad")])
def test_the_best_of_several_is_above_chance_only_as_the_best_of_several(tmp_path, low, look):
    def change(metrics):
        for name in CLASSES:
            cell = {"auroc": 0.6 if name == "covid" else 0.5, "interval": [low - 0.1, 0.6]}
            metrics["probe"]["per_class"][name] |= {"whole": cell, "frame_alone": cell}
        metrics["probe"]["per_class"]["covid"]["frame_alone"]["interval"] = [low, 0.7]

    shown, text = without_lungs(write_run(tmp_path / "run"), change)
    assert shown == look
    assert ("of 3 tried" in text) is (look == "open")


AUDIT = {"patients": 1, "pictures": 0, "shortcuts": {}}


@pytest.mark.parametrize("leak", [{}, {"images_trained_on": 3}, {"audit": AUDIT}])
def test_images_of_which_some_were_trained_on_are_not_called_unseen(tmp_path, leak):
    run_dir = write_run(tmp_path / "run")
    path = run_dir / "metrics_test.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | ({"audit": None} | leak)))
    record = RunRecord.read(run_dir)
    (line,) = [text for _, text in verdict(record, main_split(record)) if text.startswith("The model")]
    assert "of the test split" in line
    assert ("did not see" in line) is not bool(leak)


def test_a_probe_that_was_not_made_is_named_with_the_command_that_makes_it(tmp_path):
    run_dir = write_run(tmp_path / "run")
    for absent in (lambda metrics: metrics.update(probe=None), lambda metrics: metrics.pop("probe")):
        look, text = without_lungs(run_dir, absent)
        assert look == "open"
        assert f"python -m cxr_train.evaluate --run_dir={run_dir} --split=test --probe_images=" in text


def test_a_probe_without_any_auroc_claims_nothing(tmp_path):
    def change(metrics):
        for name in CLASSES:
            metrics["probe"]["per_class"][name]["frame_alone"] = {"auroc": None, "interval": None}

    look, text = without_lungs(write_run(tmp_path / "run"), change)
    assert look == "open"
    assert "undefined" in text


def test_splits_whose_maps_fail_alike_share_a_line(tmp_path):
    run_dir = write_run(tmp_path / "run")
    write_explanation(run_dir, "test")
    record = RunRecord.read(run_dir)
    (line,) = [line for line in verdict(record, main_split(record)) if "cclusion" in line[1]]
    assert line[0] == "bad"
    assert "(validation and test splits)" in line[1]
