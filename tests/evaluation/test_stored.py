"""Which of the stored evaluations of a run is taken."""

import dataclasses
import json
import logging

import pytest
from written_run import CLASSES, write_run, write_split

from cxr_data.core.errors import DataError
from cxr_train.evaluation.stored import other_validation, stored_thresholds
from cxr_train.evaluation.thresholds import REPORTED
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.saved_run import model_sha256


def test_the_thresholds_of_the_test_split_come_first_and_those_of_training_never(tmp_path, caplog):
    run_dir = write_run(tmp_path / "run")
    (run_dir / "best.keras").write_bytes(b"a model")
    splits = ["train", "alpha", "validation", "test"]
    for number, split in enumerate(splits):
        write_split(run_dir, split)
        path = run_dir / f"metrics_{split}.json"
        rates = dict.fromkeys(REPORTED)
        row = {**rates, "intervals": rates}
        per_class = {CLASSES[0]: {"threshold": number / 10, **row}, CLASSES[1]: {"threshold": None, **row}}
        found = {"at_sensitivity": 0.9, "chosen_on": "validation", "per_class": per_class}
        summary = json.loads(path.read_text()) | {"model_sha256": model_sha256(run_dir), "thresholds": found}
        path.write_text(json.dumps(summary))
    caplog.set_level(logging.INFO)
    for number in (3, 2, 1):
        caplog.clear()
        assert stored_thresholds(run_dir) == {CLASSES[0]: number / 10}
        for words in (f"metrics_{splits[number]}.json", "0.9", "validation"):
            assert words in caplog.text
        (run_dir / f"metrics_{splits[number]}.json").unlink()
    assert stored_thresholds(run_dir) == {}


def test_the_validation_of_another_run_is_that_of_its_model_alone(tmp_path):
    run_dir = write_run(tmp_path / "run")
    elsewhere = run_dir / "external" / "theirs"
    elsewhere.mkdir(parents=True)
    assert other_validation(run_dir) is None  # no model
    (run_dir / "best.keras").write_bytes(b"a model")
    assert other_validation(run_dir) is None  # nobody says whose predictions they are
    path = run_dir / "metrics_validation.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_sha256": model_sha256(run_dir)}))
    for place in (run_dir, elsewhere):
        found = other_validation(place)
        assert found is not None
        assert found.source == str(run_dir / "predictions_validation.csv")
    config = TrainConfig.load(run_dir / "config.json")
    dataclasses.replace(config, train_split="train+validation").save(run_dir / "config.json")
    assert other_validation(run_dir) is None  # trained on
    later = json.loads((run_dir / "config.json").read_text()) | {"of_a_later_version": 1}
    (run_dir / "config.json").write_text(json.dumps(later))
    with pytest.raises(DataError, match="--compare: .*'of_a_later_version'.*version of cxr"):
        other_validation(run_dir)
