"""The table of a command that starts runs, as files that programs, spreadsheets and people read."""

import json
from collections.abc import Mapping
from typing import Any

from cxr_data.core import storage
from cxr_data.core.shown import visible
from cxr_train.runs.layout import ManyRunsLayout


def write_tables(layout: ManyRunsLayout, table: Mapping[str, Any], *, csv: bytes, text: str) -> None:
    """Write a table as JSON, CSV and text.

    Args:
      layout: of the directory that they are written to.
      table: ready for JSON.
      csv, text: the same, as a spreadsheet and a terminal show it.
    """
    contents = {
        "json": (json.dumps(table, indent=2) + "\n").encode(),
        "csv": csv,
        "txt": (visible(text) + "\n").encode(),
    }
    for suffix, content in contents.items():
        storage.replace(layout.table(suffix), content)
