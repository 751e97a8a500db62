"""A run of the comparison: a configuration without one source, and the files that the table is made of.

RUN_DIR/leave_one_out/without=SOURCE/METHOD-drawN-seedN/     a run directory each
RUN_DIR/within/only=SOURCE/METHOD-drawN-seedN/               the bound: trained within the source, on `data/`
RUN_DIR/stress/data/, RUN_DIR/stress/oracle_data/            the data of the stress test
RUN_DIR/stress/METHOD-drawN-seedN/, RUN_DIR/stress/oracle/METHOD-drawN-seedN/
RUN_DIR/transfer.json, .csv, .txt, .html                     the tables

The table needs of a run its predictions of the validation split and of what was held out.
"""

import dataclasses
import functools
import sys

from cxr_data.core.errors import UsageError
from cxr_train.ablation.runner import GridRun
from cxr_train.evaluation.decisions import Floats
from cxr_train.evaluation.options import EvaluationOptions
from cxr_train.evaluation.predictions import NamedPredictions, read_predictions
from cxr_train.evaluation.priors import expected_shares
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.layout import TEST_TIME_NAME, RunLayout

STRESS, ORACLE = "stress", "stress-oracle"
"""Cells of the stress test."""


@dataclasses.dataclass(frozen=True)
class TransferRun(GridRun):
    """A run of a method with a draw of its hyper-parameters and a seed.

    Attributes:
      cell: what is compared on the same pictures: the held-out source, or a part of the stress test.
      draw: its number, from 0.
      tested: the split that is predicted once, at the end.
      is_copied: whether its data is a copy of records, which lies beside the runs.
    """

    cell: str = ""
    draw: int = 0
    tested: str = ""
    is_copied: bool = False

    @property
    def validation(self) -> str:
        """The split on which everything is chosen."""
        return self.config.validation_split

    @property
    def is_trained(self) -> bool:
        """Whether it was trained to its last epoch."""
        return super().is_finished

    @property
    def is_finished(self) -> bool:
        """Whether it was trained to its last epoch, and its held-out split predicted."""
        return self.is_trained and self.layout.predictions(self.tested).exists()

    @property
    def may_differ(self) -> tuple[str, ...]:
        """Flags that may have another value there: a copy of records is moved with its runs."""
        return (*super().may_differ, *(("data",) if self.is_copied else ()))

    @functools.cached_property
    def chosen_on(self) -> NamedPredictions:
        """Its predictions of the validation split. Raises DataError: there are none."""
        return read_predictions(self.layout.predictions(self.validation))

    @functools.cached_property
    def held_out(self) -> NamedPredictions:
        """Its predictions of what was held out. Raises DataError: there are none."""
        return read_predictions(self.layout.predictions(self.tested))

    @functools.cached_property
    def training_prior(self) -> Floats:
        """The shares of the classes that it expects, float64 [C], by its predictions of that split."""
        return expected_shares(self.chosen_on)

    @property
    def commands_left(self) -> list[list[str]]:
        """The commands that train it in processes of its own and predict what is held out."""
        return [self.evaluation()] if self.is_trained else [self.command(), self.evaluation()]

    def forget_end(self) -> None:
        """Remove what says that it is finished, before it is trained further."""
        ends = (self.layout.throughput, *map(self.layout.predictions, (self.validation, self.tested)))
        for path in (*ends, self._adapted.predictions(self.tested)):
            path.unlink(missing_ok=True)

    def refuse_another(self) -> None:
        """Check that what is in the directory is this run, with the flags that one run may change too.

        A run that goes on may have more patience or other statistics; methods that are compared may not.

        Raises:
          UsageError, DataError: as `GridRun.refuse_another`.
        """
        super().refuse_another()
        there = TrainConfig.load(self.layout.config)
        for name in ("early_stopping", "batch_norm_statistics", "batch_norm_batches"):
            if getattr(there, name) != getattr(self.config, name):
                raise UsageError(
                    f"{self.directory}: the run there has --{name}={getattr(there, name)}, not "
                    f"{getattr(self.config, name)}; give the former, or choose another --run_dir"
                )

    @property
    def _adapted(self) -> RunLayout:
        return RunLayout(self.directory / TEST_TIME_NAME / _ADAPTED_TO.test_time)

    def evaluation(self, *flags: str) -> list[str]:
        """Return the command that predicts what is held out, with more flags."""
        evaluate = [sys.executable, "-m", "cxr_train.evaluate", f"--run_dir={self.directory}"]
        return [*evaluate, f"--split={self.tested}", "--probe_images=0", *flags]


@dataclasses.dataclass(frozen=True)
class AdaptedRun(TransferRun):
    """A run of the baseline, tested with BatchNorm's statistics of pictures of what is held out (AdaBN)."""

    @property
    def label(self) -> str:
        """What it is called in the log: it has no directory of its own."""
        return f"{self.name} of {super().label}"

    @property
    def is_finished(self) -> bool:
        """Whether the run is finished, and its adapted predictions are there."""
        return super().is_finished and self._adapted.predictions(self.tested).exists()

    @functools.cached_property
    def held_out(self) -> NamedPredictions:
        """Its adapted predictions of what was held out. Raises DataError: there are none."""
        return read_predictions(self._adapted.predictions(self.tested))

    @property
    def commands_left(self) -> list[list[str]]:
        """The command that adapts, after what is left of the run of the baseline."""
        before = [] if super().is_finished else super().commands_left
        return [*before, self.evaluation(f"--adapt_batch_norm={_ADAPTED_TO.adapt_batch_norm}")]


_ADAPTED_TO = EvaluationOptions(adapt_batch_norm=256)
