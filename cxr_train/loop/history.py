"""`metrics.jsonl`: one row an epoch, also after a run was killed and went on from an older state."""

import json
import pathlib
from typing import Any

from cxr_data.core import local_store, storage


class History:
    """The rows of the epochs completed.

    Args:
      path: of the file; it need not exist.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path

    def append(self, row: dict[str, Any]) -> None:
        """Adds the row of an epoch and waits until it is on the disk."""
        local_store.append(self._path, (json.dumps(row) + "\n").encode())

    def keep(self, epochs: int) -> None:
        """Keeps the rows of the first `epochs` epochs: those after them will be trained again.

        A row is written before the checkpoint that holds its epoch, so that none is missing.
        """
        if not self._path.exists():
            return
        lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
        storage.replace(self._path, "".join(lines[:epochs]).encode())
