"""The page of a grid of runs: GRID_DIR/ablation.html, its curves laid over each other and its table."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from cxr_data.core.page import Grid, Picture
from cxr_data.core.wording import counted
from cxr_train.reporting.charts import epoch_chart
from cxr_train.reporting.page import write_page
from cxr_train.runs.layout import GridLayout, RunLayout
from cxr_train.runs.saved_run import epoch_rows

_METRICS = {
    "accuracy": "accuracy",
    "sensitivity": "mean sensitivity",
    "specificity": "mean specificity",
    "auroc": "mean AUROC",
}
# Of a row of `metrics.jsonl`: the title of the chart and where its values stand.
_CURVES = {
    "loss of training": ("train", "loss"),
    "loss of validation": ("validation", "loss"),
    "accuracy of validation": ("validation", "accuracy"),
}


def write_grid_page(directory: pathlib.Path, table: Mapping[str, Any], notes: Sequence[str]) -> pathlib.Path:
    """Write the page of a grid and return its path.

    Args:
      directory: of the grid.
      table: content of `ablation.json`.
      notes: what a reader of its numbers must know.
    """
    rows = table["rows"]
    labels = labels_of(table)
    histories = [epoch_rows(RunLayout(pathlib.Path(row["directory"])).history)[0] for row in rows]
    pictures = (_overlaid(title, place, labels, histories) for title, place in _CURVES.items())
    path = GridLayout(directory).table("html")
    content = {
        "title": f"Ablation: {counted(len(rows), 'run')}",
        "subtitle": f"{table['split']} split; the baseline is {table['baseline']}",
        "results": results_grid(table, labels),
        "differences": differences_grid(table, labels),
        "folds": _folds(table),
        "audit": table.get("audit", []),
        "curves": [picture for picture in pictures if picture],
        "notes": [f"{note[:1].upper()}{note[1:]}." for note in notes],
        "directory": str(directory),
    }
    write_page(path, "ablation.html.jinja", content)
    return path


def labels_of(table: Mapping[str, Any]) -> list[str]:
    """Return what the runs are called on a page."""
    return [f"{row['name']}, seed {row['seed']}{_fold_of(row)}" for row in table["rows"]]


def _fold_of(row: Mapping[str, Any]) -> str:
    return f", fold {row['fold']}" if "fold" in row else ""


def _overlaid(
    title: str,
    place: tuple[str, str],
    labels: Sequence[str],
    histories: Sequence[Sequence[Mapping[str, Any]]],
) -> Picture | None:
    """Return the curve of every run in one chart; None where no run has such a value."""
    part, name = place
    lines = []
    for label, rows in zip(labels, histories, strict=True):
        values = {row["epoch"]: (row.get(part) or {}).get(name) for row in rows if "epoch" in row}
        known = {epoch: float(value) for epoch, value in values.items() if value is not None}
        if known:
            lines.append((label, list(known), list(known.values())))
    if not lines:
        return None
    ends = "; ".join(f"{label} {values[0]:.3f} to {values[-1]:.3f}" for label, _, values in lines)
    return epoch_chart(title, lines, f"{title} by epoch, first to last: {ends}.", height=250)


def results_grid(table: Mapping[str, Any], labels: Sequence[str]) -> Grid:
    """Return what each run reaches, with its interval, by its label."""
    rows = []
    for label, row in zip(labels, table["rows"], strict=True):
        flags = [str(value) if value is not None else "" for value in row["flags"].values()]
        numbers = [_cell(row[metric], ".3f", "-") for metric in _METRICS]
        rows.append([label, *flags, row["status"], *numbers])
    flags = [f"--{name}" for name in table["rows"][0]["flags"]]
    caption = f"Results on the {table['split']} split, with 95 % intervals"
    return Grid(caption, ["run", *flags, "status", *_METRICS.values()], rows)


def differences_grid(table: Mapping[str, Any], labels: Sequence[str]) -> Grid | None:
    """Return by how much each run is above the baseline of its seed; None where nothing is compared."""
    rows = []
    for label, row in zip(labels, table["rows"], strict=True):
        test = row["against_baseline"]
        if test:
            numbers = [_cell(test["differences"][metric], "+.3f", " to ") for metric in _METRICS]
            rows.append([label, *numbers, "" if test["holm_p"] is None else f"{test['holm_p']:.2g}"])
    if not rows:
        return None
    caption = f"Each run minus {table['baseline']} of its seed, with 95 % intervals"
    return Grid(caption, ["run", *_METRICS.values(), "Holm p"], rows)


def _folds(table: Mapping[str, Any]) -> Grid | None:
    """Return the mean and the range over the folds of each configuration; None where there are no folds."""
    rows = [
        [name, str(found["runs"]), *(_mean_and_range(found[metric]) for metric in _METRICS)]
        for name, found in table.get("folds", {}).items()
    ]
    if not rows:
        return None
    caption = "Mean over the folds (lowest to highest)"
    return Grid(caption, ["configuration", "runs", *_METRICS.values()], rows)


def _mean_and_range(found: Mapping[str, Any]) -> str:
    if found["mean"] is None:
        return "undefined"
    return f"{found['mean']:.3f}\n({found['lowest']:.3f} to {found['highest']:.3f})"


def _cell(entry: Mapping[str, Any] | None, form: str, between: str) -> str:
    if entry is None:
        return ""
    if entry["value"] is None:
        return "undefined"
    reach = entry["interval"]
    return f"{entry['value']:{form}}" + (f"\n({reach[0]:{form}}{between}{reach[1]:{form}})" if reach else "")
