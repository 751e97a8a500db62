"""The page of a run: RUN_DIR/report/index.html, self-contained, readable without network."""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jinja2
from markupsafe import Markup

from cxr_data.core import storage
from cxr_train.reporting.content import report_content
from cxr_train.reporting.record import RunRecord
from cxr_train.runs.layout import RunLayout

# Long names of files are to break here, and not within a word.
_AFTER_SEPARATOR = re.compile(r"(?<=[/._-])")


def breakable(name: str) -> Markup:
    """Return the name of a file as HTML that may break behind its separators; copied, it is the same name."""
    return Markup("<wbr>").join(_AFTER_SEPARATOR.split(name))


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
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cxr_train.reporting"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["breakable"] = breakable
    page = environment.get_template(template).render(content)
    # The names of files may hold bytes that are no UTF-8; the page must not.
    storage.replace(path, page.encode("utf-8", errors="replace"))
