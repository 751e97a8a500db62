"""The table that a run prints while it trains: a header once, then a row an epoch."""

from collections.abc import Mapping
from typing import Any

from cxr_data.core.wording import counted, wrapped
from cxr_train.evaluation.wording import initial_statistics
from cxr_train.runs.monitor import Monitor

_BEST = " *"
_NAMES = {"auroc": "AUROC", "auprc": "AUPRC", "f1": "F1"}
# What each row has of the validation split, whatever picks the best epoch.
_ALWAYS = ("loss", "macro_auroc", "macro_sensitivity")


class EpochTable:
    """The table of one process: it goes on where a run is resumed.

    Args:
      monitor: a metric of the validation split, `runs.monitor`; it has a column of its own where no other
        column shows it.
      epochs: of the whole run.
      validates: whether there is a validation split; without one, the accuracy on the training images takes
        its place.
    """

    def __init__(self, monitor: str, epochs: int, *, validates: bool) -> None:
        self._monitor = monitor = Monitor(monitor).metric
        self._epochs = epochs
        self._validates = validates
        self._metrics = [] if monitor in _ALWAYS else [monitor]
        self._metrics += _ALWAYS[1:]
        self._skipped = 0
        self._is_begun = False

    def lines(self, row: Mapping[str, Any], *, is_best: bool, epoch_seconds: float | None) -> list[str]:
        """Return what is printed after an epoch: its row, before the first one the header, and warnings.

        Args:
          row: of `metrics.jsonl`, see `epoch_row`.
          is_best: whether no epoch before it was better.
          epoch_seconds: how long a whole epoch takes; None if it is not known.
        """
        lines = [] if self._is_begun else self._header()
        lines.append("  ".join(self._cells(row, epoch_seconds)) + (_BEST if is_best else ""))
        train = row["train"]
        if train["skipped_steps"] > self._skipped:
            self._skipped = train["skipped_steps"]
            skipped = counted(self._skipped, "step was", "steps were")
            lines.append(f"  {skipped} skipped so far: gradients were not finite")
        if not self._is_begun:
            notes = initial_statistics(train["initial_statistics_share"])
            lines += [wrapped(note, "  ") for note in notes]
        self._is_begun = True
        return lines

    def _header(self) -> list[str]:
        columns = [("epoch", 5), ("train loss", 10)]
        if self._validates:
            columns.append(("val loss", 8))
            columns += [(title, max(6, len(title))) for title in map(_title, self._metrics)]
        else:
            columns.append(("accuracy", 8))
        columns += [("lr", 7), ("images/s", 8), ("time", 7), ("left", 7)]
        self._widths = [width for _, width in columns]
        title = "  ".join(f"{name:>{width}}" for name, width in columns)
        if not self._validates:
            return [title]
        means = " and ".join(_title(name) for name in _ALWAYS[1:])
        best = "val loss" if self._monitor == "loss" else _title(self._monitor)
        return [f"{means}: mean over the classes of validation; * marks the best {best} so far", title]

    def _cells(self, row: Mapping[str, Any], epoch_seconds: float | None) -> list[str]:
        train, validation = row["train"], row["validation"]
        cells = [str(row["epoch"]), f"{train['loss']:.4f}"]
        if validation is None:
            cells.append(f"{train['accuracy']:.4f}")
        else:
            values = (Monitor(name).value(validation) for name in ("loss", *self._metrics))
            cells += ["-" if value is None else f"{value:.4f}" for value in values]
        speed = train["images_per_second"]
        left = None if epoch_seconds is None else (self._epochs - row["epoch"]) * epoch_seconds
        cells += [
            f"{train['learning_rate']:.1e}",
            f"{speed:.1f}" if speed else "-",
            duration(train["epoch_seconds"]),
            "-" if left is None else duration(left),
        ]
        return [f"{cell:>{width}}" for cell, width in zip(cells, self._widths, strict=True)]


def _title(metric: str) -> str:
    name = metric.removeprefix("macro_")
    return _NAMES.get(name, name)


def duration(seconds: float) -> str:
    """Return a duration as a clock shows it, `mm:ss` or `h:mm:ss`; from ten hours on, whole hours."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 10:
        return f"{hours} h"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"
