"""The page of a run: RUN_DIR/report/index.html, self-contained, readable without network."""

import pathlib
from collections.abc import Mapping
from typing import Any

from cxr_data.core import storage
from cxr_data.core.page import render_page
from cxr_train.reporting.content import report_content
from cxr_train.reporting.record import RunRecord
from cxr_train.runs.layout import RunLayout


def write_report(run_dir: pathlib.Path) -> pathlib.Path:
    """Make the page from whatever the run directory holds at this moment, and return its path.

    Raises:
      DataError: it is no run directory.
    """
    content = report_content(RunRecord.read(run_dir))
    path = RunLayout(run_dir).report
    path.parent.mkdir(exist_ok=True)
    write_page(path, "report.html.jinja", content)
    return path


def write_page(path: pathlib.Path, template: str, content: Mapping[str, Any]) -> None:
    """Write what a template of this wing makes of its content."""
    storage.replace(path, render_page("cxr_train.reporting", template, content))
