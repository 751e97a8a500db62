"""One run of a grid: a run directory of `cxr_train.main`, and how far it is."""

import dataclasses
import pathlib
import sys
from collections.abc import Mapping

from cxr_data.core.errors import UsageError
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.layout import RunLayout


@dataclasses.dataclass(frozen=True)
class GridRun:
    """A configuration of a grid with a seed.

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
        """Of its weights, order and dropout."""
        return self.config.seed

    @property
    def directory(self) -> pathlib.Path:
        """What it writes."""
        return pathlib.Path(self.config.run_dir)

    @property
    def layout(self) -> RunLayout:
        """The paths in its directory."""
        return self.config.layout

    @property
    def label(self) -> str:
        """Name and seed: the name of its directory."""
        return self.directory.name

    @property
    def is_begun(self) -> bool:
        """Whether there is something to go on with."""
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
        """Epochs completed."""
        history = self.layout.history
        return len(history.read_text().splitlines()) if history.exists() else 0

    def refuse_another(self) -> None:
        """Checks that what is in the directory is this run.

        Raises:
          UsageError: it was started with other flags.
          DataError: its configuration is damaged.
        """
        there = TrainConfig.load(self.layout.config).what_decides_the_result()
        for name, wanted in self.config.what_decides_the_result().items():
            if name == "batch_size" and self.flags.get(name) == "auto":
                continue  # what it comes to is known only on the device
            if there.get(name, wanted) != wanted:
                raise UsageError(
                    f"{self.directory}: the run there has --{name}={there[name]}, the grid wants {wanted}; "
                    "choose another --run_dir, or move that run away"
                )

    def command(self) -> list[str]:
        """The process that begins it, or goes on with it."""
        line = [
            sys.executable,
            "-m",
            "cxr_train.main",
            *(f"--{n}={value}" for n, value in self.flags.items()),
        ]
        return [*line, "--resume"] if self.is_begun else line
