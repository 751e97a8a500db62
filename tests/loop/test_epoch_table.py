"""The table that a run prints while it trains."""

import pytest

from cxr_train.loop.epoch_table import EpochTable, duration


def row(epoch: int, *, validation: bool = True, skipped: int = 0, share: float | None = None) -> dict:
    macro = {"auroc": 0.91, "auprc": None, "sensitivity": 0.8123, "specificity": 0.9}
    return {
        "epoch": epoch,
        "train": {
            "loss": 0.5 / epoch,
            "accuracy": 0.75,
            "images_per_second": 12345.6 if epoch > 1 else None,
            "skipped_steps": skipped,
            "initial_statistics_share": share,
            "learning_rate": 1e-4,
            "epoch_seconds": 30.0,
        },
        "validation": {"loss": 0.4321, "accuracy": 0.7, "macro": macro} if validation else None,
    }


def table(monitor: str = "loss", *, validates: bool = True) -> EpochTable:
    return EpochTable(monitor, 100, validates=validates)


def test_the_header_comes_once_and_each_epoch_is_a_row_with_a_mark_at_the_best():
    shown = table()
    first = shown.lines(row(1), is_best=True, epoch_seconds=30.0)
    second = shown.lines(row(2), is_best=False, epoch_seconds=30.0)
    *_, header, best = first
    columns = "epoch|train loss|val loss|AUROC|sensitivity|lr|images/s|time|left"
    assert [name.strip() for name in header.split("  ") if name.strip()] == columns.split("|")
    assert best.split() == [
        *("1", "0.5000", "0.4321", "0.9100", "0.8123", "1.0e-04", "-", "00:30", "49:30", "*"),
    ]
    assert len(second) == 1
    assert second[0].split()[-3:] == ["12345.6", "00:30", "49:00"]
    assert len(second[0]) == len(header)  # the columns stand below their names


@pytest.mark.parametrize("monitor", ["accuracy", "macro_specificity", "macro_auprc"])
def test_what_picks_the_best_epoch_has_a_column(monitor):
    lines = table(monitor).lines(row(1), is_best=True, epoch_seconds=1e6)
    assert monitor.removeprefix("macro_").lower() in lines[-2].lower()
    assert lines[-1].endswith(" *")
    assert max(map(len, lines)) <= 100


def test_without_validation_the_row_has_what_the_training_gave():
    header, only = table(validates=False).lines(row(1, validation=False), is_best=False, epoch_seconds=None)
    assert header.split()[:4] == ["epoch", "train", "loss", "accuracy"]
    assert only.split() == ["1", "0.5000", "0.7500", "1.0e-04", "-", "00:30", "-"]


def test_a_warning_is_printed_when_there_is_something_new():
    shown = table()
    assert any("precise" in line for line in shown.lines(row(1, share=0.9), is_best=True, epoch_seconds=1))
    after = [shown.lines(row(n, share=0.8, skipped=3), is_best=False, epoch_seconds=1) for n in (2, 3)]
    assert [len(lines) for lines in after] == [2, 1]
    assert "3 steps" in after[0][1]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.4, "00:00"), (75, "01:15"), (3600 * 2 + 61, "2:01:01"), (3600 * 30 + 61, "30 h")],
)
def test_a_duration_is_as_a_clock_shows_it(seconds, shown):
    assert duration(seconds) == shown
