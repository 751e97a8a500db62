"""What the trials of a search have reached, in a file that outlives a kill: `trials.jsonl`.

The first line holds what decides the order of the trials. Each further line says what a trial reached at the
end of a rung. A search that goes on reads these lines and does the same steps again, without training: so it
needs no heartbeat of a process, and no state of a trial in a database, to know what to do next.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Annotated, Any

from cxr_data.core import storage
from cxr_data.core.errors import DataError, UsageError
from cxr_data.core.schema import Count, Range, checked, parse_json
from cxr_train.searching.space import Params

SCHEMA = "cxr.search/1"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a trial reached after some epochs.

    Attributes:
      value: of the validation metric at the best epoch so far; None where the trial failed.
      gpu_seconds: of all its epochs so far: their duration times the GPUs, or times 1 on a CPU.
      seconds: that the process of this rung took, its start included.
      parameters: of the network; None where it is not known.
      flops: floating-point operations of a training step, an image; None where they were not measured.
      failed: why it does not go on; None where it can.
    """

    value: float | None
    gpu_seconds: Annotated[float, Range(0)] = 0.0
    seconds: Annotated[float, Range(0)] = 0.0
    parameters: int | None = None
    flops: float | None = None
    failed: str | None = None


@dataclasses.dataclass(frozen=True)
class Rung:
    """A line of the ledger: what a trial reached after `epochs` in all."""

    trial: Count
    params: Params
    epochs: Annotated[int, Range(1)]
    outcome: Outcome


class Ledger:
    """The rungs of all trials so far, in the order in which they were trained.

    Args:
      path: of the file; None to keep nothing.
      settings: what decides the order of the trials, ready for JSON.

    Raises:
      UsageError: the file is of a search with other settings.
      DataError: it is damaged.
    """

    def __init__(self, path: pathlib.Path | None, settings: Mapping[str, Any]) -> None:
        self._path = path
        self._head = {"schema": SCHEMA, **json.loads(json.dumps(settings))}
        self.rungs: list[Rung] = self._read() if path and path.exists() else []
        # What failed last may have been mended since. What failed before, later trials were chosen by.
        while self.rungs and self.rungs[-1].outcome.failed:
            self.rungs.pop()
        if path:
            lines = [self._head, *map(dataclasses.asdict, self.rungs)]
            storage.replace(path, "".join(f"{json.dumps(line)}\n" for line in lines).encode())

    def add(self, rung: Rung) -> None:
        """Write a rung, durably."""
        self.rungs.append(rung)
        if self._path:
            with self._path.open("ab") as file:
                file.write(f"{json.dumps(dataclasses.asdict(rung))}\n".encode())
                file.flush()
                os.fsync(file.fileno())

    def find(self, trial: int, epochs: int) -> Rung | None:
        """Return what a trial reached after some epochs; None where it is not known yet."""
        return next((one for one in self.rungs if (one.trial, one.epochs) == (trial, epochs)), None)

    def params(self, trial: int) -> Params | None:
        """Return the configuration of a trial; None where no rung of it is known yet."""
        return next((one.params for one in self.rungs if one.trial == trial), None)

    @property
    def epochs(self) -> int:
        """Epochs of all trials together; those of a rung that failed count in full."""
        return sum(last.epochs for last in self._last())

    @property
    def gpu_seconds(self) -> float:
        """GPU-seconds of all trials together, up to their last rungs."""
        return sum(last.outcome.gpu_seconds for last in self._last())

    @property
    def seconds(self) -> float:
        """Seconds of all processes together."""
        return sum(one.outcome.seconds for one in self.rungs)

    def _last(self) -> list[Rung]:
        return list({one.trial: one for one in self.rungs}.values())

    def _read(self) -> list[Rung]:
        assert self._path is not None
        content = storage.read_bytes(str(self._path))
        whole = content[: content.rfind(b"\n") + 1]  # a kill may have cut off what comes after it
        try:
            lines = [parse_json(line) for line in whole.splitlines()]
            head = checked(dict[str, Any], lines[0]) if lines else self._head
            rungs = list(checked(tuple[Rung, ...], lines[1:]))
        except ValueError as error:
            raise DataError(
                f"{self._path} is damaged ({error}): choose another --run_dir, or move the search away"
            ) from error
        for name, wanted in self._head.items():
            if head.get(name) != wanted:
                raise UsageError(
                    f"{self._path}: the search there has {name} {json.dumps(head.get(name))}, not "
                    f"{json.dumps(wanted)}; choose another --run_dir, or move that search away"
                )
        return rungs
