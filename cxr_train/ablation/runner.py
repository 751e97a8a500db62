"""The runs of a grid: how far each is, and running what is left, one process at a time.

A run is a run directory of `cxr_train.main`. In a process of its own, a crash ends one run, and memory
is given back.
"""

import collections
import dataclasses
import functools
import logging
import pathlib
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence

from cxr_data.core.errors import DataError, UsageError
from cxr_data.core.wording import counted
from cxr_train.runs.child_commands import ChildCommands, exit_reason
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.layout import RunLayout
from cxr_train.runs.run_dir import is_on_its_data
from cxr_train.runs.saved_run import epoch_rows

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class GridRun:
    """A configuration of a grid with a seed, and a fold where there are folds.

    Attributes:
      name: of the configuration.
      flags: all that `cxr_train.main` is given, as text.
      config: what they come to.
    """

    name: str
    flags: Mapping[str, str]
    config: TrainConfig

    @property
    def seed(self) -> int:
        """Seed of its weights, order and dropout."""
        return self.config.seed

    @property
    def fold(self) -> str | None:
        """The fold that it is validated on, as 2of5; None where there are no folds."""
        return self.flags.get("fold")

    @property
    def directory(self) -> pathlib.Path:
        """The run directory."""
        return pathlib.Path(self.config.run_dir)

    @property
    def layout(self) -> RunLayout:
        """The paths in its directory."""
        return self.config.layout

    @property
    def label(self) -> str:
        """Name, seed and fold: the name of its directory."""
        return self.directory.name

    @property
    def is_begun(self) -> bool:
        """Whether the run has begun, and can be continued."""
        return self.layout.config.exists()

    @property
    def is_finished(self) -> bool:
        """Whether it was trained to its last epoch and evaluated. Raises as `refuse_another`."""
        if not self.is_begun:
            return False
        self.refuse_another()
        same_end = TrainConfig.load(self.layout.config).epochs == self.config.epochs
        return same_end and self.layout.throughput.exists()

    @property
    def epochs_done(self) -> int:
        """Epochs completed; one whose row a crash has cut off is not."""
        return len(epoch_rows(self.layout.history)[0])

    @property
    def may_differ(self) -> tuple[str, ...]:
        """Flags that may have another value there: an automatic batch is known only on the device."""
        return ("batch_size",) if self.flags.get("batch_size") == "auto" else ()

    def refuse_another(self) -> None:
        """Check that what is in the directory is this run.

        Raises:
          UsageError: it was started with other flags.
          DataError: it was started on other data, or its configuration is damaged.
        """
        there = TrainConfig.load(self.layout.config).what_decides_the_result()
        for name, wanted in self.config.what_decides_the_result().items():
            if name in self.may_differ:
                continue
            if there.get(name, wanted) != wanted:
                raise UsageError(
                    f"{self.directory}: the run there has --{name}={there[name]}, the grid wants {wanted}; "
                    "choose another --run_dir, or move that run away"
                )
        if not self._is_on_its_data:
            raise DataError(
                f"{self.directory}: the run there was trained on other records than {self.config.data} holds "
                "now; choose another --run_dir, or put the former data back"
            )

    @functools.cached_property
    def _is_on_its_data(self) -> bool:
        """Whether its data is still what it was begun on: read once, as remote data takes long to answer."""
        return is_on_its_data(self.config)

    def command(self) -> list[str]:
        """Return the command that begins the run, or continues it."""
        line = [
            sys.executable,
            "-m",
            "cxr_train.main",
            *(f"--{n}={value}" for n, value in self.flags.items()),
        ]
        return [*line, "--resume"] if self.is_begun else line


class Runner(ChildCommands):
    """Runs the runs of a grid; see `ChildCommands`."""

    def run_all(self, runs: Sequence[GridRun], seconds_to_go: Callable[[], float | None]) -> dict[str, str]:
        """Run what is not finished, until `stopped`.

        Args:
          runs: of the grid.
          seconds_to_go: estimates how long the rest takes; None where it is not known.

        Returns:
          By label of the runs that were tried, why they still are not finished.
        """
        statuses: dict[str, str] = {}
        left = [run for run in runs if not run.is_finished]
        with self.listening():
            for number, run in enumerate(left):
                if self.stopped:
                    break
                to_go = seconds_to_go()
                rest = f"; about {to_go / 3600:.1f} h to go" if to_go is not None else ""
                line = shlex.join(run.command())
                logger.info("\n[%d of %d] %s%s\n%s", number + 1, len(left), run.label, rest, line)
                code = self.run(run.command())
                if self.stopped or run.is_finished:
                    continue
                # A run that was itself asked to stop ends with 0.
                reason = f"failed, {exit_reason(code)}" if code else "stopped"
                statuses[run.label] = f"{reason} after {counted(run.epochs_done, 'epoch')}"
                logger.info("%s: %s; the next run follows", run.label, statuses[run.label])
        return statuses


def refuse_same_runs(runs: Sequence[GridRun]) -> None:
    """Raise UsageError if two runs are the same but for their directories."""
    # Without the directory, equal flags are the same run.
    same = collections.defaultdict(list)
    for run in runs:
        same[repr(run.config.what_decides_the_result()), run.config.epochs].append(run.name)
    for names in same.values():
        if len(names) > 1:
            raise UsageError(f"--grid: {' and '.join(names)} are the same run")
