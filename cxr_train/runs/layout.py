"""Every name inside a run directory, and inside the directory of a grid of runs.

RUN_DIR/
config.json, flags.txt, manifest.json     what was started, and the copy of its data's manifest
copies.sha256                             which copies its training leaves out, where it does
lock                                      held by the process that trains
environment.json                          on what
metrics.jsonl, tensorboard/               what each epoch gave
checkpoints/ckpt-00007/                   states to go on from
not_finite/epoch-0001-step-000017/        the state before a loss that is not finite, and the batch
best.keras, last.keras                    models
predictions_{split}.csv, metrics_{split}.json
explain/{split}/                          explain.json and its pictures
external/NAME/                            evaluations and explanations of other data, by the same names
test_time/METHODS/                        evaluations with test-time methods, by the same names; below
                                          external/NAME/ too
throughput.json                           written last: a run that has it has ended
report/index.html
sample/, sample_tfrecords/                the embedded sample, where no data was given

GRID_DIR/
flags.txt, lock
ablation.json, ablation.csv, ablation.txt, ablation.html
NAME-seedN/                               a run directory each

SEARCH_DIR/
flags.txt, lock
trials.jsonl                              what every trial has reached: the search goes on from it
search.json, search.csv, search.txt, search.html
study.db                                  the same as a study of Optuna, for its own tools
trial-0007/, trial-0007-seed1/            a run directory each

FOLDS_DIR/                                what cxr_train.folds makes
predictions_out_of_fold.csv, metrics_out_of_fold.json, label_issues.csv
report/index.html

TRANSFER_DIR/                             what cxr_train.transfer makes, see cxr_train.transferring.run
flags.txt, lock
transfer.json, transfer.csv, transfer.txt, transfer.html
leave_one_out/, within/, stress/          run directories

WORKFLOW_DIR/                             what cxr_train.run makes
plan.json, lock                           what was chosen
tfrecords/                                the shards
run/                                      a run directory
"""

import dataclasses
import pathlib
import re
from typing import ClassVar

from cxr_data.records.layout import MANIFEST_NAME

CONFIG_NAME = "config.json"
FLAGS_NAME = "flags.txt"
HISTORY_NAME = "metrics.jsonl"
BEST_NAME = "best.keras"
LAST_NAME = "last.keras"
CHECKPOINTS_NAME = "checkpoints"
TENSORBOARD_NAME = "tensorboard"
EXTERNAL_NAME = "external"
TEST_TIME_NAME = "test_time"
EXPLANATION_NAME = "explain.json"
DEPTHS_NAME = "depths.png"
FILTERS_NAME = "filters.png"
# What is being written begins so, or ends as `local_store` names it, and gets its own name when it is whole.
WRITING = "writing"
LOCK_NAME = "lock"
# Of a checkpoint.
SUMS_NAME = "SHA256SUMS"
STATE_NAME = "state"
_CHECKPOINT = "ckpt-"
_EXPLANATIONS = "explain"
_METRICS, _PREDICTIONS = "metrics_", "predictions_"


@dataclasses.dataclass(frozen=True)
class RunLayout:
    """The paths in a run directory; nothing need be there.

    Evaluations and explanations of other data than the run's own have the same names in `external`.
    """

    directory: pathlib.Path

    @property
    def config(self) -> pathlib.Path:
        """The configuration: a directory that has it is a run's."""
        return self.directory / CONFIG_NAME

    @property
    def flags(self) -> pathlib.Path:
        """The flags that start the run again, for `--flagfile`."""
        return self.directory / FLAGS_NAME

    @property
    def copies(self) -> pathlib.Path:
        """The digest of the copies that the audit of its data knew, where its training leaves them out."""
        return self.directory / "copies.sha256"

    @property
    def manifest(self) -> pathlib.Path:
        """The copy of the manifest of the run's data."""
        return self.directory / MANIFEST_NAME

    @property
    def lock(self) -> pathlib.Path:
        """Held by the process that trains; of a cluster, by worker 0."""
        return self.directory / LOCK_NAME

    @property
    def environment(self) -> pathlib.Path:
        """Versions, commit and machine."""
        return self.directory / "environment.json"

    @property
    def history(self) -> pathlib.Path:
        """The epochs' rows, JSON lines."""
        return self.directory / HISTORY_NAME

    @property
    def throughput(self) -> pathlib.Path:
        """Rates and memory. It is written last of a run's numbers: a run that has it has ended."""
        return self.directory / "throughput.json"

    @property
    def best_model(self) -> pathlib.Path:
        """The model of the best epoch."""
        return self.directory / BEST_NAME

    @property
    def last_model(self) -> pathlib.Path:
        """The model of the last epoch."""
        return self.directory / LAST_NAME

    @property
    def checkpoints(self) -> pathlib.Path:
        """The directory of the states to resume from."""
        return self.directory / CHECKPOINTS_NAME

    @property
    def tensorboard(self) -> pathlib.Path:
        """The directory of TensorBoard's curves and traces."""
        return self.directory / TENSORBOARD_NAME

    @property
    def sample_images(self) -> pathlib.Path:
        """The images of the embedded sample."""
        return self.directory / "sample"

    @property
    def sample_shards(self) -> pathlib.Path:
        """The shards of the embedded sample."""
        return self.directory / "sample_tfrecords"

    @property
    def report(self) -> pathlib.Path:
        """The page."""
        return self.directory / "report" / "index.html"

    def not_finite(self, epoch: int, step: int) -> pathlib.Path:
        """Return the directory of the state before a step whose loss is not finite; both count from 1."""
        return self.directory / "not_finite" / f"epoch-{epoch:04d}-step-{step:06d}"

    def predictions(self, split: str) -> pathlib.Path:
        """Return the file of the best model's predictions for every image of a split."""
        return self.directory / f"{_PREDICTIONS}{split}.csv"

    def metrics(self, split: str) -> pathlib.Path:
        """Return the file of the metrics of these predictions."""
        return self.directory / f"{_METRICS}{split}.json"

    def explanation(self, split: str) -> pathlib.Path:
        """Return the directory of a split's maps and galleries."""
        return self.directory / _EXPLANATIONS / split

    def external(self, name: str) -> "RunLayout":
        """Return the folder of the evaluation of other data, by the name of its folder."""
        return RunLayout(self.directory / EXTERNAL_NAME / name)

    def splits(self) -> set[str]:
        """Find the splits of which there are metrics, predictions or an explanation."""
        metrics = {path.stem.removeprefix(_METRICS) for path in self.directory.glob(f"{_METRICS}*.json")}
        predictions = self.directory.glob(f"{_PREDICTIONS}*.csv")
        explained = self.directory.glob(f"{_EXPLANATIONS}/*/{EXPLANATION_NAME}")
        return (
            metrics
            | {path.stem.removeprefix(_PREDICTIONS) for path in predictions}
            | {path.parent.name for path in explained}
        )

    def external_metrics(self) -> list[tuple[str, str]]:
        """Find the evaluations of other data: its name and the split, sorted by their paths."""
        found = sorted(self.directory.glob(f"{EXTERNAL_NAME}/*/{_METRICS}*.json"))
        return [(path.parent.name, path.stem.removeprefix(_METRICS)) for path in found]


@dataclasses.dataclass(frozen=True)
class ManyRunsLayout:
    """The paths in the directory of a command that starts runs, beside these; `TABLE` names its tables."""

    TABLE: ClassVar[str]

    directory: pathlib.Path

    @property
    def flags(self) -> pathlib.Path:
        """The flags that start the command again, for `--flagfile`."""
        return self.directory / FLAGS_NAME

    @property
    def lock(self) -> pathlib.Path:
        """Held by the process of the command, and by the run at work."""
        return self.directory / LOCK_NAME

    def table(self, suffix: str) -> pathlib.Path:
        """Return the file of the table as `json`, `csv`, `txt` or `html`."""
        return self.directory / f"{self.TABLE}.{suffix}"


class GridLayout(ManyRunsLayout):
    """The paths in the directory of a grid, beside its runs."""

    TABLE = "ablation"


class SearchLayout(ManyRunsLayout):
    """The paths in the directory of a search, beside its trials."""

    TABLE = "search"

    @property
    def trials(self) -> pathlib.Path:
        """What every trial has reached, JSON lines."""
        return self.directory / "trials.jsonl"

    @property
    def study(self) -> pathlib.Path:
        """The search as a study of Optuna, SQLite."""
        return self.directory / "study.db"


class TransferLayout(ManyRunsLayout):
    """The paths in the directory of a comparison of methods on held-out sources, beside its runs."""

    TABLE = "transfer"

    @property
    def stress(self) -> pathlib.Path:
        """The data sets and the runs of the stress test."""
        return self.directory / "stress"


@dataclasses.dataclass(frozen=True)
class WorkflowLayout:
    """The paths in the directory of a workflow, from a folder of images to a page."""

    directory: pathlib.Path

    @property
    def plan(self) -> pathlib.Path:
        """The settings chosen at the beginning: a directory that has them is a workflow's."""
        return self.directory / "plan.json"

    @property
    def lock(self) -> pathlib.Path:
        """Held by the process that runs the workflow, and by the step at work."""
        return self.directory / LOCK_NAME

    @property
    def shards(self) -> pathlib.Path:
        """The data set."""
        return self.directory / "tfrecords"

    @property
    def run(self) -> RunLayout:
        """The run."""
        return RunLayout(self.directory / "run")


def batch_ids_of(not_finite: pathlib.Path) -> pathlib.Path:
    """Return the list of a batch whose loss is not finite, in a directory of `RunLayout.not_finite`."""
    return not_finite / "batch.json"


def case_picture_name(kind: str, number: int) -> str:
    """Return the name of the picture of a case in the galleries of an explanation."""
    return f"{kind}-{number:03d}.jpg"


def checkpoint_path(checkpoints: pathlib.Path, number: int) -> pathlib.Path:
    """Return the directory of a checkpoint."""
    return checkpoints / f"{_CHECKPOINT}{number:05d}"


def checkpoint_numbers(checkpoints: pathlib.Path) -> list[int]:
    """Return the numbers of the checkpoints that are there, ascending."""
    numbers = (path.name.removeprefix(_CHECKPOINT) for path in checkpoints.glob(f"{_CHECKPOINT}*"))
    return sorted(int(number) for number in numbers if re.fullmatch("[0-9]{1,18}", number))
