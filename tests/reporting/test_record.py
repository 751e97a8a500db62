"""What a run directory says of its run."""

import json

import pytest

from cxr_train.reporting.record import RunRecord
from cxr_train.runs.config import TrainConfig

# Loss is best in epoch 2, the macro AUROC in epoch 3; in epoch 1 it is undefined.
ROWS = [
    {"epoch": 1, "train": {}, "validation": {"loss": 0.9, "accuracy": 0.7, "macro": {"auroc": None}}},
    {"epoch": 2, "train": {}, "validation": {"loss": 0.5, "accuracy": 0.7, "macro": {"auroc": 0.8}}},
    {"epoch": 3, "train": {}, "validation": {"loss": 0.6, "accuracy": 0.6, "macro": {"auroc": 0.9}}},
]


@pytest.mark.parametrize(("monitor", "best"), [("loss", 2), ("macro_auroc", 3), ("accuracy", 1)])
def test_the_best_epoch_is_the_one_of_the_monitored_metric(tmp_path, monitor, best):
    config = TrainConfig("xception", str(tmp_path), str(tmp_path), weights="none", monitor=monitor)
    config.save(tmp_path / "config.json")
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert RunRecord.read(tmp_path).best_epoch["epoch"] == best


def test_a_run_without_epochs_has_no_best_one(tmp_path):
    TrainConfig("xception", str(tmp_path), str(tmp_path), weights="none").save(tmp_path / "config.json")
    assert RunRecord.read(tmp_path).best_epoch is None
