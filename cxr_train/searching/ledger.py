"""What the trials of a search have reached, in a file that outlives a kill: `trials.jsonl`.

The first line holds what decides the order of the trials. Each further line says either which configuration
a trial has, as it begins, or what it reached at the end of a rung. Lines are only added. A search that goes
on reads them and does the same steps again, without training: so it needs no heartbeat of a process, and no
state of a trial in a database, to know what to do next. A trial that has begun keeps its configuration, even
where those before it are tried again and reach something else.
"""

import dataclasses
import json
import pathlib
from collections.abc import Container, Mapping
from typing import Annotated, Any

from cxr_data.core import local_store, storage
from cxr_data.core.errors import DataError, UsageError
from cxr_data.core.schema import Count, Range, checked, parse_json
from cxr_train.searching.space import Params

SCHEMA = "cxr.search/2"
_WAY_OUT = "choose another --run_dir, or move that search away"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a trial reached after some epochs.

    Attributes:
      value: of the validation metric at the best epoch so far; None where the trial failed.
      trained: epochs that it was really trained for so far: fewer than those of the rung where it failed on
        the way, or was stopped early.
      gpu_seconds: of these epochs: their duration times the GPUs, or times 1 on a CPU.
      seconds: that the process of this rung took, its start included.
      parameters: of the network; None where it is not known.
      flops: floating-point operations of the network's forward pass, an image; None where they are not known.
      failed: why it does not go on; None where it can.
      refused: whether that is its configuration, which no run could have.
    """

    value: float | None
    trained: Count = 0
    gpu_seconds: Annotated[float, Range(0)] = 0.0
    seconds: Annotated[float, Range(0)] = 0.0
    parameters: int | None = None
    flops: float | None = None
    failed: str | None = None
    refused: bool = False


@dataclasses.dataclass(frozen=True)
class Begun:
    """A line of the ledger: the configuration of a trial."""

    trial: Count
    params: Params


@dataclasses.dataclass(frozen=True)
class Rung:
    """A line of the ledger: what a trial reached after `epochs` in all."""

    trial: Count
    epochs: Annotated[int, Range(1)]
    outcome: Outcome


@dataclasses.dataclass(frozen=True)
class Spent:
    """What trials took.

    Attributes:
      epochs: that they were really trained for.
      gpu_seconds: of these epochs.
      seconds: of all processes, those that failed included.
    """

    epochs: int
    gpu_seconds: float
    seconds: float


class Ledger:
    """All trials so far, in the order in which they began, and their rungs as they were trained.

    Args:
      path: of the file; None to keep nothing.
      settings: what decides the order of the trials, ready for JSON. One that the file does not have is of a
        later version, and the runs themselves know whether they can go on with it.

    Attributes:
      failed: trials whose last outcome was a failure when the file was read.
      to_retry: those of them after which no trial has reached anything: their failures may have been mended
        since, and nothing that is known depends on them.

    Raises:
      UsageError: the file is of a search with other settings, or of another version.
      DataError: it is damaged.
    """

    def __init__(self, path: pathlib.Path | None, settings: Mapping[str, Any]) -> None:
        self._path = path
        self._params: list[Params] = []
        self._rungs: list[Rung] = []
        self._last: dict[int, Rung] = {}
        if path:
            head = {"schema": SCHEMA, **json.loads(json.dumps(settings))}
            if path.exists():
                self._read(path, head)
            else:
                storage.replace(path, f"{json.dumps(head)}\n".encode())
        reached = [one.trial for one in self._rungs if one.outcome.value is not None]
        self.failed = frozenset(trial for trial, one in self._last.items() if one.outcome.value is None)
        self.to_retry = frozenset(trial for trial in self.failed if trial >= max(reached, default=0))

    def begin(self, trial: int, params: Params) -> None:
        """Write the configuration of a trial, durably, where it is not there yet."""
        if trial == len(self._params):
            self.add(Begun(trial, params))

    def add(self, line: Begun | Rung) -> None:
        """Write that a trial begins, or a rung of one that has begun, durably."""
        self._take(line)
        if self._path:
            local_store.append(str(self._path), f"{json.dumps(dataclasses.asdict(line))}\n".encode())

    def find(self, trial: int, epochs: int) -> Outcome | None:
        """Return what a trial reached after some epochs, the last time that it was tried; None where that is
        not known yet.
        """
        found = (one.outcome for one in reversed(self._rungs) if (one.trial, one.epochs) == (trial, epochs))
        return next(found, None)

    def params(self, trial: int) -> Params | None:
        """Return the configuration of a trial; None where it has not begun."""
        return self._params[trial] if trial < len(self._params) else None

    def rungs(self, trial: int) -> tuple[int, ...]:
        """Return the epochs of the rungs of a trial that are known, the one that failed included."""
        return tuple(dict.fromkeys(one.epochs for one in self._rungs if one.trial == trial))

    def spent(self, trials: Container[int] | None = None) -> Spent:
        """Return what some trials took together, or all."""
        lasts = [one.outcome for trial, one in self._last.items() if trials is None or trial in trials]
        seconds = (one.outcome.seconds for one in self._rungs if trials is None or one.trial in trials)
        return Spent(
            sum(one.trained for one in lasts), sum(one.gpu_seconds for one in lasts), float(sum(seconds))
        )

    def _take(self, line: Begun | Rung) -> None:
        """Take a line in. Raise ValueError where it cannot follow those before it."""
        if isinstance(line, Begun):
            if line.trial != len(self._params):
                raise ValueError(f"trial {line.trial} begins after {len(self._params)} trials")
            self._params.append(line.params)
            return
        if line.trial >= len(self._params):
            raise ValueError(f"trial {line.trial} has a rung, and did not begin")
        before = self._last.get(line.trial)
        if before is not None:
            is_retry = before.outcome.value is None
            if line.epochs != before.epochs if is_retry else line.epochs <= before.epochs:
                raise ValueError(f"trial {line.trial} has the rung of {line.epochs} epochs out of its order")
        self._rungs.append(line)
        self._last[line.trial] = line

    def _read(self, path: pathlib.Path, wanted: Mapping[str, Any]) -> None:
        content = storage.read_bytes(str(path))
        whole = content[: content.rfind(b"\n") + 1]  # a kill may have cut off what comes after it
        try:
            head, *lines = whole.splitlines() or [b""]
            there = checked(dict[str, Any], parse_json(head))
            _refuse_another(path, there, wanted)
            for line in checked(tuple[Begun | Rung, ...], [parse_json(line) for line in lines]):
                self._take(line)
        except ValueError as error:
            raise DataError(f"{path} is damaged ({error}): {_WAY_OUT}") from error
        if whole != content:
            storage.replace(path, whole)


def _refuse_another(path: pathlib.Path, there: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    if there.get("schema") != SCHEMA:
        raise DataError(
            f"{path} has schema {str(there.get('schema'))[:60]!r}, this program reads {SCHEMA!r}: {_WAY_OUT}"
        )
    for name, value in wanted.items():
        if there.get(name, value) != value:
            raise UsageError(
                f"{path}: the search there has {name} {json.dumps(there[name])}, not {json.dumps(value)}; "
                f"{_WAY_OUT}"
            )
    if unknown := there.keys() - wanted.keys():
        raise UsageError(
            f"{path}: the search there has {json.dumps(min(unknown))[:60]}, which this program does not "
            f"know; go on with the version that began it, {_WAY_OUT}"
        )
