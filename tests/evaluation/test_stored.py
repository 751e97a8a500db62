"""Which of the stored evaluations of a run is taken."""

import json
import logging

from written_run import CLASSES, write_run, write_split

from cxr_train.evaluation.stored import stored_thresholds
from cxr_train.evaluation.thresholds import REPORTED
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
