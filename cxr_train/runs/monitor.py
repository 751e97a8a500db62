"""The validation metric that picks the best epoch and ends a run that improves no more."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from cxr_data.core.errors import UsageError
from cxr_data.records.folds import class_counts, labels_of_split
from cxr_data.records.manifest import Manifest
from cxr_data.sources.finding_values import ABSENT, PRESENT
from cxr_train.runs.metric_names import RANKINGS, RATES

# All are shares of something right, but for the loss. mean_auroc is what the field calls macro_auroc.
MONITORS = ("loss", "accuracy", *(f"macro_{name}" for name in (*RATES, *RANKINGS)), "mean_auroc")
# A ranking needs images that are to come first, and others.
_OF_TWO_CLASSES = tuple(f"macro_{name}" for name in RANKINGS)


@dataclasses.dataclass(frozen=True)
class Monitor:
    """One of `MONITORS`, and which way is better."""

    name: str

    @property
    def metric(self) -> str:
        """The metric: its name, but for `mean_auroc`, which is another name of `macro_auroc`."""
        return "macro_auroc" if self.name == "mean_auroc" else self.name

    @property
    def worst(self) -> float:
        """What any value improves on."""
        return math.inf if self.name == "loss" else -math.inf

    def value(self, validation: Mapping[str, Any] | None) -> float | None:
        """Return its value in a summary of `evaluation.metrics`; None where it is undefined or missing."""
        if self.metric.startswith("macro_"):
            macro = (validation or {}).get("macro", {})
            value: float | None = macro.get(self.metric.removeprefix("macro_"))
        else:
            value = (validation or {}).get(self.name)
        return value

    def check(self, manifest: Manifest, split: str) -> None:
        """Raise UsageError for a metric that is undefined on a split of the data."""
        if self.metric not in _OF_TWO_CLASSES:
            return
        if manifest.findings:
            columns = labels_of_split(manifest, split).T
            is_defined = any({PRESENT, ABSENT} <= set(column.tolist()) for column in columns)
            lack = "has no finding that is present in one image and absent in another"
        else:
            is_defined = sum(map(bool, class_counts(manifest, split).values())) >= 2
            lack = "has images of one class only"
        if not is_defined:
            raise UsageError(
                f"--monitor={self.name}: split {split!r} {lack}; choose another metric, such as loss"
            )

    def improves(self, value: float, best: float) -> bool:
        """Return whether `value` is better than `best`; an equal one is not."""
        return value < best if self.name == "loss" else value > best
