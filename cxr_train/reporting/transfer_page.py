"""The page of a comparison on held-out sources, RUN_DIR/transfer.html: the forest plot and the tables."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from cxr_data.core.page import Grid, Picture
from cxr_train.reporting.drawing import CHANCE, INK, Axis, Drawing, Stroke, text_width
from cxr_train.reporting.page import write_page
from cxr_train.runs.layout import TransferLayout

Row = Mapping[str, Any]
_METRICS = {"auroc": "AUROC", "sensitivity": "sensitivity", "specificity": "specificity", "ece": "ECE"}
_LINE = 20.0
_PLOT_WIDTH = 300.0


def write_transfer_page(
    directory: pathlib.Path, table: Row, sentences: Sequence[str], notes: Sequence[str]
) -> pathlib.Path:
    """Write the page of a comparison and return its path.

    Args:
      directory: of the comparison.
      table: content of `transfer.json`.
      sentences: what a reader must not miss.
      notes: what a reader of its numbers must know.
    """
    path = TransferLayout(directory).table("html")
    content = {
        "title": "Transfer to sources that were not seen",
        "subtitle": f"{table['data']}; the baseline is {table['baseline']}",
        "sentences": [f"{one[:1].upper()}{one[1:]}." for one in sentences],
        "kinds": [
            {"name": kind, "plot": forest_plot(of_kind, table["baseline"]), "grids": _grids(of_kind)}
            for kind, of_kind in table["tables"].items()
        ],
        "sources": _sources(table),
        "stress": table["stress"] and _stress(table["stress"]),
        "notes": [f"{note[:1].upper()}{note[1:]}." for note in notes],
        "directory": str(directory),
    }
    write_page(path, "transfer.html.jinja", content)
    return path


def forest_plot(of_kind: Row, baseline: str) -> Picture | None:
    """Return the difference of each method to the baseline on each source, and on their mean, with intervals.

    Returns:
      None where nothing is compared.
    """
    entries: list[tuple[str, str, Row]] = [
        (row["method"], row["source"], row["against"]["difference"])
        for row in of_kind["rows"]
        if "against" in row
    ]
    entries += [
        (row["method"], "mean", row["against"]["difference"])
        for row in of_kind.get("mean", ())
        if "against" in row
    ]
    entries = [entry for entry in entries if entry[2]["value"] is not None]
    if not entries:
        return None
    methods = list(dict.fromkeys(method for method, _, _ in entries))
    ends = [end for _, _, one in entries for end in (one["interval"] or [one["value"]])]
    axis = Axis.around([*ends, 0.0], f"AUROC minus that of {baseline}")
    names = max(text_width(source) for _, source, _ in entries) + 24
    drawing = Drawing(names + _PLOT_WIDTH + 12)
    bottom = 10 + _LINE * (len(entries) + len(methods))

    def place(value: float) -> float:
        return names + (value - axis.low) / (axis.high - axis.low) * _PLOT_WIDTH

    for tick in axis.ticks():
        drawing.line((place(tick), place(tick)), (6, bottom), Stroke(INK), opacity=0.12)
        drawing.text(place(tick), bottom + 16, f"{tick:g}", anchor="middle", size=12)
    drawing.line((place(0), place(0)), (6, bottom), CHANCE, 1.5)
    drawing.text(names + _PLOT_WIDTH / 2, bottom + 36, axis.label, anchor="middle")
    down = 10.0
    for method in methods:
        down += _LINE
        drawing.text(4, down - 4, method, bold=True)
        for _, source, one in (entry for entry in entries if entry[0] == method):
            down += _LINE
            is_mean = source == "mean"
            drawing.text(16, down - 4, source, bold=is_mean)
            if one["interval"]:
                low, high = map(place, one["interval"])
                drawing.line((low, high), (down - 8, down - 8), Stroke(INK), 1.8)
            drawing.mark(place(one["value"]), down - 8, INK, radius=5 if is_mean else 4, is_diamond=is_mean)
    drawing.height = bottom + 46
    words = "; ".join(f"{method} on {source} {_words(one)}" for method, source, one in entries)
    return drawing.picture(f"Difference of the AUROC to {baseline}, with 95 % intervals: {words}.")


def _words(entry: Row) -> str:
    reach = entry["interval"]
    return f"{entry['value']:+.3f}" + (f" ({reach[0]:+.3f} to {reach[1]:+.3f})" if reach else "")


def _cell(entry: Row) -> str:
    if entry["value"] is None:
        return "too few"
    reach = entry["interval"]
    return f"{entry['value']:.3f}" + (f"\n({reach[0]:.3f} to {reach[1]:.3f})" if reach else "")


def _compared(row: Row) -> list[str]:
    test = row.get("against")
    if not test or test["difference"]["value"] is None:
        return ["", ""]
    return [_words(test["difference"]).replace(" (", "\n("), f"{test['holm_p']:.2g}"]


def _grids(of_kind: Row) -> list[Grid]:
    grids = []
    for source in dict.fromkeys(row["source"] for row in of_kind["rows"]):
        rows = [
            [row["method"], *(_cell(row[metric]) for metric in _METRICS), *_compared(row)]
            for row in of_kind["rows"]
            if row["source"] == source
        ]
        header = ["method", *_METRICS.values(), "difference of AUROC", "Holm p"]
        grids.append(Grid(f"Trained without {source}, tested on all of it", header, rows))
    for key, caption in (
        ("mean", "Mean of the held-out sources"),
        ("worst", "Worst of the held-out sources"),
    ):
        if of_kind.get(key):
            rows = [[row["method"], _cell(row["auroc"]), *_compared(row)] for row in of_kind[key]]
            grids.append(Grid(caption, ["method", "AUROC", "difference of AUROC", "Holm p"], rows))
    return grids


def _sources(table: Row) -> Grid:
    rows = []
    for one in table["sources"]:
        found = table["bounds"].get(one["source"])
        areas = [_cell(found[key]["auroc"]) for key in ("within", "without")] if found else ["too few", ""]
        if one["state"] != "held out":
            areas = ["", ""]
        counts = ", ".join(f"{name} {patients}" for name, patients in one["patients"].items())
        told = "" if one["told_apart"] is None else f"{one['told_apart']:.3f}"
        rows.append([one["source"], f"{one['images']:,}", counts, one["state"], told, *areas])
    header = ["source", "images", "patients", "state", "AUROC of the source itself"]
    header += ["baseline trained within it", "baseline without it, same images"]
    return Grid("Sources and bounds", header, rows)


def _stress(stress: Row) -> dict[str, Any]:
    (first, second), (a, b) = stress["classes"], stress["sources"]
    rows = [
        [
            row["method"],
            *(_cell(row[metric]) for metric in _METRICS),
            *_compared(row),
            _cell(row["closed"]) if row.get("closed") else "",
        ]
        for row in stress["rows"]
    ]
    if stress["oracle"]:
        rows.append(
            ["balanced oracle", *(_cell(stress["oracle"][metric]) for metric in _METRICS), "", "", ""]
        )
    header = ["method", *_METRICS.values(), "difference of AUROC", "Holm p", "share of the gap closed"]
    caption = f"In training 90 % of {first} is of {a} and 90 % of {second} of {b}; in the test the reverse"
    return {"grid": Grid(caption, header, rows)}
