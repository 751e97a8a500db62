"""What a run writes after each epoch, beside its checkpoints: the row, the curves, the models."""

import contextlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from cxr_data.core import local_store, storage
from cxr_data.core.errors import CxrError
from cxr_data.core.schema import checked, parse_json
from cxr_train.loop import epoch_row
from cxr_train.runs.documents import NumberedRow
from cxr_train.runs.layout import RunLayout
from cxr_train.runs.run_model import link_model, save_model


class Outputs:
    """The files of a run directory that are for people and for later commands.

    Args:
      run_dir: receives them.
      writes: whether this process writes any; of the workers of a cluster, the chief alone does.
    """

    def __init__(self, run_dir: pathlib.Path, *, writes: bool) -> None:
        self._layout = RunLayout(run_dir)
        self._writes = writes
        self._history = History(self._layout.history)
        self._summaries = (
            tf.summary.create_file_writer(str(self._layout.tensorboard))
            if writes
            else tf.summary.create_noop_writer()
        )

    def forget_after(self, epochs: int) -> list[str]:
        """Remove the rows after the first `epochs` epochs, as `History.keep`, and return its lines."""
        return self._history.keep(epochs) if self._writes else []

    def keep_model(self, model: keras.Model, *, best: bool) -> None:
        """Save the model of an epoch as the last one, and as the best one too if it is. Raises CxrError."""
        if not self._writes:
            return
        with self._clear_errors():
            save_model(model, self._layout.last_model)
            if best:
                link_model(self._layout.last_model, self._layout.best_model)

    def add_row(self, row: dict[str, Any]) -> None:
        """Write the row of an epoch, see `epoch_row`, as JSON and for TensorBoard."""
        if not self._writes:
            return
        with self._clear_errors():
            self._history.append(row)
            epoch_row.write_summaries(row, self._summaries)

    @contextlib.contextmanager
    def _clear_errors(self) -> Iterator[None]:
        """Raise CxrError where a file cannot be written, most likely because the disk is full."""
        try:
            yield
        except (OSError, tf.errors.OpError) as error:
            reason = str(error).splitlines()[0][:200]
            raise CxrError(
                f"cannot write the epoch's results into {self._layout.directory}: {reason}; "
                "the checkpoints are as they were, --resume goes on from the newest"
            ) from error


class History:
    """The rows of the epochs completed, one each, also when a run went on from an older state.

    Args:
      path: of the file; it need not exist.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path

    def append(self, row: dict[str, Any]) -> None:
        """Add the row of an epoch and wait until it is on the disk."""
        local_store.append(self._path, (json.dumps(row) + "\n").encode())

    def keep(self, epochs: int) -> list[str]:
        """Keep the rows of the first `epochs` epochs: those after them will be trained again.

        A row is written before the checkpoint that holds its epoch, so that none is missing.

        Returns:
          A line where the file was not whole: which lines are no rows, and which rows are lost.
        """
        if not self._path.exists():
            return []
        rows, damaged = {}, []
        for number, line in enumerate(storage.read_bytes(str(self._path)).splitlines(keepends=True), start=1):
            try:
                rows[checked(NumberedRow, parse_json(line))["epoch"]] = line
            except ValueError:
                damaged.append(str(number))
        storage.replace(self._path, b"".join(rows[epoch] for epoch in sorted(rows) if epoch <= epochs))
        lost = [str(epoch) for epoch in range(1, epochs + 1) if epoch not in rows]
        if not damaged and not lost:
            return []
        found = f"line {', '.join(damaged)} was cut off or damaged" if damaged else "it was not whole"
        left = f"lost: epoch {', '.join(lost[:10])}" if lost else "no row of a trained epoch is lost"
        return [f"{self._path}: {found}; {left}"]
