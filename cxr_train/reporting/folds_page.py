"""The page of joined folds: their spread, all images together, and X-rays whose label is doubtful."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from cxr_data.audit.pictures import stored_image
from cxr_data.core.errors import CxrError, DataError
from cxr_data.core.figures import jpeg_bytes
from cxr_data.core.page import Grid, embed
from cxr_data.core.wording import counted
from cxr_data.records.index import read_split_fields, read_split_index
from cxr_data.records.manifest import read_manifest
from cxr_train.evaluation.wording import accuracy_name, is_of_findings
from cxr_train.reporting import result_charts
from cxr_train.reporting.page import write_page
from cxr_train.reporting.results import metrics_table, names_in_title, three_digits, with_interval
from cxr_train.runs.layout import RunLayout

_SHOWN = 24  # X-rays
_LISTED = 100
_HEIGHT = 224  # pixels
_METRICS = {"auroc": "AUROC", "auprc": "AUPRC", "sensitivity": "sensitivity", "specificity": "specificity"}

_OF_ALL = {"mean": "mean", "lowest": "low", "highest": "high"}


def write_folds_page(
    output: pathlib.Path,
    summary: Mapping[str, Any],
    issues: Sequence[Mapping[str, Any]],
    data: str,
    pool: str,
) -> pathlib.Path:
    """Write the page of joined folds and return its path.

    Args:
      output: folder of the results.
      summary: content of `metrics_out_of_fold.json`.
      issues: `out_of_fold.label_issues`.
      data: directory of the shards, which the X-rays are read from.
      pool: what the folds are of, as `split_names` has it.
    """
    runs = [*summary["spread"]["auroc"]["folds"]]
    try:
        tiles, missing = _tiles(issues[:_SHOWN], data, pool), ""
    except (CxrError, OSError) as error:
        tiles, missing = [], str(error)
    accuracy = (
        f"{accuracy_name(summary)} {with_interval(summary['accuracy'], summary['intervals']['accuracy'])}"
    )
    images = f"{counted(summary['images'], 'image')} of {pool}"
    names = names_in_title(summary["class_names"], "findings" if is_of_findings(summary) else "classes")
    content = {
        "title": f"{counted(len(runs), 'fold')}: {names}",
        "subtitle": f"{images}, each predicted by a model that was not trained on it",
        "summary": f"All images together: {accuracy}, loss {three_digits(summary['loss'])}.",
        "spread": _spread(summary["spread"], runs),
        "left_out": sorted({name for found in summary["spread"].values() for name in found["left_out"]}),
        "spread_chart": result_charts.spread_forest(summary["spread"]),
        "forests": result_charts.forests(summary),
        "metrics": metrics_table(summary),
        "issues": counted(len(issues), "label"),
        "gallery_shown": {"title": f"The {len(tiles)} most doubtful", "tiles": tiles} if tiles else None,
        "missing": missing,
        "listed": _list(issues),
        "directory": str(output),
    }
    path = RunLayout(output).report
    path.parent.mkdir(exist_ok=True)
    write_page(path, "folds.html.jinja", content)
    return path


def _spread(spread: Mapping[str, Any], runs: Sequence[str]) -> Grid:
    found = [spread[metric] for metric in _METRICS]
    of_run = {pathlib.PurePath(run).name: [metric["folds"][run] for metric in found] for run in runs}
    of_all = {name: [metric[key] for metric in found] for name, key in _OF_ALL.items()}
    rows = [[name, *map(three_digits, values)] for name, values in (of_run | of_all).items()]
    return Grid("Spread over the folds: means over the classes", ["run", *_METRICS.values()], rows)


def _list(issues: Sequence[Mapping[str, Any]]) -> Grid:
    rows = [[row["id"], row["label"], row["suggested"], f"{row['margin']:+.3f}"] for row in issues[:_LISTED]]
    shown = (
        f"the first {len(rows)} of {len(issues):,}" if len(rows) < len(issues) else "the most doubtful first"
    )
    return Grid(f"Doubtful labels, {shown}", ["image", "label", "more probable", "margin"], rows)


def _tiles(issues: Sequence[Mapping[str, Any]], data: str, pool: str) -> list[dict[str, Any]]:
    """Return what the gallery shows of each issue.

    Raises:
      CxrError: the data are not there, or are damaged.
    """
    pictures = _pictures({row["id"] for row in issues}, data, pool)
    tiles = []
    for row in issues:
        caption = f"labelled {row['label']}; {row['suggested']} is more probable, margin {row['margin']:+.2f}"
        alt = f"X-ray {row['id']}, {caption}."
        picture = embed(pictures[row["id"]], "image/jpeg", alt)
        tiles.append({"picture": picture, "id": row["id"], "caption": caption, "maps": ""})
    return tiles


def _pictures(ids: set[str], data: str, pool: str) -> dict[str, bytes]:
    """Return the X-rays of these ids as JPEG. Raises DataError: the data has one not."""
    made = read_manifest(data)
    if made.embedding:
        raise DataError(f"{data} holds embeddings: there is no X-ray to show")
    rows, fields = read_split_index(made, pool), read_split_fields(made, pool)
    found = {}
    for row, field in zip(rows, fields, strict=True):
        if field.id in ids:
            found[field.id] = jpeg_bytes(stored_image(made, row), _HEIGHT)
    if other := ids - found.keys():
        raise DataError(f"{data} has no image {min(other)} in {pool}, of which there are predictions")
    return found
