"""The page of a search: SEARCH_DIR/search.html, its trials, what size alone says, and the winner's test."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from cxr_data.core.page import Grid, Picture
from cxr_data.core.wording import counted
from cxr_train.reporting.charts import epoch_chart
from cxr_train.reporting.grid_page import differences_grid, labels_of, results_grid
from cxr_train.reporting.page import write_page
from cxr_train.runs.layout import RunLayout, SearchLayout
from cxr_train.runs.monitor import Monitor
from cxr_train.runs.saved_run import epoch_rows

_MOST_CURVES = 8


def write_search_page(
    directory: pathlib.Path,
    table: Mapping[str, Any],
    ranked: Sequence[Mapping[str, Any]],
    notes: Sequence[str],
) -> pathlib.Path:
    """Write the page of a search and return its path.

    Args:
      directory: of the search.
      table: content of `search.json`.
      ranked: its trials, those that came furthest and are the best of these first.
      notes: what a reader of its numbers must know.
    """
    comparison = table["comparison"]
    labels = labels_of(comparison) if comparison else []
    path = SearchLayout(directory).table("html")
    content = {
        "title": f"Search: {counted(len(ranked), 'trial')}",
        "subtitle": f"chosen by {table['metric']} of the validation split",
        "results": results_grid(comparison, labels) if comparison else None,
        "differences": differences_grid(comparison, labels) if comparison else None,
        "audit": comparison["audit"] if comparison else [],
        "trials": _trials(table, ranked),
        "size_alone": _size_alone(table),
        "curves": _curves(directory, table, ranked),
        "most_curves": _MOST_CURVES,
        "notes": [f"{note[:1].upper()}{note[1:]}." for note in notes],
        "directory": str(directory),
    }
    write_page(path, "search.html.jinja", content)
    return path


def _trials(table: Mapping[str, Any], ranked: Sequence[Mapping[str, Any]]) -> Grid:
    rungs = [str(epochs) for epochs in table["plan"]["rungs"]]
    flags = list(dict.fromkeys(flag for row in ranked for flag in row["flags"]))
    rows = []
    for row in ranked:
        values = [_number(row["rungs"].get(epochs), ".4f") for epochs in rungs]
        size = _number(row["parameters"], ",")
        cells = [row["flags"].get(flag, "") for flag in flags]
        rows.append([str(row["number"]), *cells, row["status"], *values, size, f"{row['gpu_seconds']:,.0f}"])
    header = ["trial", *(f"--{flag}" for flag in flags), "status", *(f"after {epochs}" for epochs in rungs)]
    caption = f"All trials: the best {table['metric']} of the validation split after so many epochs"
    return Grid(caption, [*header, "parameters", "GPU-seconds"], rows)


def _size_alone(table: Mapping[str, Any]) -> Grid | None:
    rows = [
        [
            str(row["epochs"]),
            str(row["trials"]),
            *(_number(row[name], "+.2f") for name in ("parameters", "flops")),
        ]
        for row in table["size_alone"]
    ]
    if not rows:
        return None
    caption = "Rank correlation of a network's size with its result: what any search must beat"
    return Grid(caption, ["epochs", "trials", "parameters", "FLOPs"], rows)


def _curves(
    directory: pathlib.Path, table: Mapping[str, Any], ranked: Sequence[Mapping[str, Any]]
) -> Picture | None:
    """Return the metric of the best trials by epoch; None where none has an epoch."""
    monitor = Monitor(table["metric"])
    lines = []
    for row in ranked[:_MOST_CURVES]:
        history = RunLayout(directory / row["directory"]).history
        values = {one["epoch"]: monitor.value(one.get("validation")) for one in epoch_rows(history)[0]}
        known = {epoch: float(value) for epoch, value in values.items() if value is not None}
        if known:
            lines.append((f"trial {row['number']}", list(known), list(known.values())))
    if not lines:
        return None
    ends = "; ".join(f"{label} {values[0]:.3f} to {values[-1]:.3f}" for label, _, values in lines)
    title = f"{table['metric']} of validation"
    return epoch_chart(title, lines, f"{title} by epoch, first to last: {ends}.", height=250)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"
