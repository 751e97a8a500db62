"""The runs of a grid: how far each is, and running what is left, one process at a time.

A run is a run directory of `cxr_train.main`. In a process of its own, a crash ends one run, and memory
is given back.
"""

import collections
import contextlib
import dataclasses
import fcntl
import logging
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType

from cxr_data.core.chatter import unfiltered
from cxr_data.core.errors import UsageError
from cxr_train.runs.config import TrainConfig
from cxr_train.runs.layout import GridLayout, RunLayout

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


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
        """Seed of its weights, order and dropout."""
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
        """Check that what is in the directory is this run.

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
        """Return the process that begins it, or goes on with it."""
        line = [
            sys.executable,
            "-m",
            "cxr_train.main",
            *(f"--{n}={value}" for n, value in self.flags.items()),
        ]
        return [*line, "--resume"] if self.is_begun else line


@contextlib.contextmanager
def locked(directory: pathlib.Path) -> Iterator[int]:
    """Wait until no other process works in `directory`, and keep others out.

    A run inherits the lock: where its grid was killed, it holds the lock until it has ended too.

    Yields:
      The file descriptor to pass on.
    """
    descriptor = os.open(GridLayout(directory).lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        told = False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    holder = os.pread(descriptor, 1000, 0).decode()
                    logger.info("waits for %s, at work in %s", holder or "another process", directory)
                told = True
                time.sleep(1)
        yield descriptor
    finally:
        os.close(descriptor)


class Runner:
    """Runs one process after the other, and passes SIGTERM and SIGINT on to the one at work.

    Args:
      lock: what `locked` gave.

    Attributes:
      stopped: whether such a signal came.
    """

    def __init__(self, lock: int) -> None:
        self._lock = lock
        self._process: subprocess.Popen[bytes] | None = None
        self.stopped = False

    @contextlib.contextmanager
    def listening(self) -> Iterator["Runner"]:
        """Listen for signals while the context is open."""
        handlers = {number: signal.signal(number, self._pass_on) for number in _SIGNALS}
        try:
            yield self
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def run(self, command: list[str]) -> int:
        """Run a command, which writes where this process does, and return its exit code."""
        # Inherited signal masks aside, a terminal's Ctrl-C reaches both; the run takes two
        # signals within a second for one.
        self._process = subprocess.Popen(command, pass_fds=[self._lock], **unfiltered())
        holder = f"process {os.getpid()} or its run, process {self._process.pid}"
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, holder.encode(), 0)
        if self.stopped:
            self._process.terminate()  # the signal came while it was started
        code = self._process.wait()
        self._process = None
        return code

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
                told = f"; about {to_go / 3600:.1f} h to go" if to_go is not None else ""
                line = shlex.join(run.command())
                logger.info("\n[%d of %d] %s%s\n%s", number + 1, len(left), run.label, told, line)
                code = self.run(run.command())
                if self.stopped or run.is_finished:
                    continue
                # A run that was itself asked to stop ends with 0.
                reason = f"failed, {exit_reason(code)}" if code else "stopped"
                statuses[run.label] = f"{reason} after {run.epochs_done} epochs"
                logger.info("%s: %s; goes on with the next", run.label, statuses[run.label])
        return statuses

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self.stopped = True
        if self._process is not None:
            self._process.send_signal(number)


def exit_reason(code: int) -> str:
    """Return what an exit code other than 0 says, as of `subprocess.Popen.wait`."""
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"killed by {name}" + (" (out of memory?)" if -code == signal.SIGKILL else "")


def refuse_same_runs(runs: Sequence[GridRun]) -> None:
    """Raise UsageError if two runs are the same but for their directories."""
    # Without the directory, equal flags are the same run.
    same = collections.defaultdict(list)
    for run in runs:
        same[repr(run.config.what_decides_the_result()), run.config.epochs].append(run.name)
    for names in same.values():
        if len(names) > 1:
            raise UsageError(f"--grid: {' and '.join(names)} are the same run")
