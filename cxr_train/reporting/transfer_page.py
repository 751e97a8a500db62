"""The page of a comparison on held-out sources, RUN_DIR/transfer.html: the forest plot and the tables."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from cxr_data.core.page import Grid, Picture
from cxr_data.core.wording import capitalized
from cxr_train.reporting.drawing import CHANCE, INK, Axis, Drawing, Stroke, text_width
from cxr_train.reporting.page import write_page
from cxr_train.runs.layout import TransferLayout

Row = Mapping[str, Any]
_METRICS = {"auroc": "AUROC", "sensitivity": "sensitivity", "specificity": "specificity", "ece": "ECE"}
_LINE = 20.0
_PLOT_WIDTH = 300.0
_LONGEST_NAME = 24


def write_transfer_page(
    directory: pathlib.Path,
    table: Row,
    sentences: Sequence[tuple[str, bool]],
    notes: Sequence[str],
    sees: Mapping[str, str],
) -> pathlib.Path:
    """Write the page of a comparison and return its path.

    Args:
      directory: of the comparison.
      table: content of `transfer.json`.
      sentences: what a reader must not miss, and whether it says that a method is better.
      notes: what a reader of its numbers must know.
      sees: by kind of methods what they see of the held-out source.
    """
    path = TransferLayout(directory).table("html")
    content = {
        "title": "Transfer to sources that were not seen",
        "subtitle": f"{table['data']}; the baseline is {table['baseline']}",
        "sentences": [(_sentence(one), is_better) for one, is_better in sentences],
        "kinds": [
            {
                "name": capitalized(kind),
                "sees": _sentence(sees[kind]),
                "plot": forest_plot(_entries_of(of_kind), table["baseline"]),
                "grids": _grids(of_kind, table),
            }
            for kind, of_kind in table["tables"].items()
        ],
        "sources": _sources(table),
        "stress": table["stress"] and _stress(table["stress"], table["baseline"]),
        "notes": [_sentence(note) for note in notes],
        "directory": str(directory),
    }
    write_page(path, "transfer.html.jinja", content)
    return path


def _sentence(text: str) -> str:
    return f"{capitalized(text)}."


Compared = tuple[str, str, Row]
"""A method, where it is compared with the baseline, and the difference."""


def _entries_of(of_kind: Row) -> list[Compared]:
    rows = [(row.get("source", "reverse"), row) for row in of_kind["rows"]]  # of the stress test, no source
    rows += [("mean", row) for row in of_kind.get("mean", ())]
    return [(row["method"], where, row["against"]["difference"]) for where, row in rows if "against" in row]


def forest_plot(entries: Sequence[Compared], baseline: str) -> Picture | None:
    """Return the difference of each method to the baseline on each source, and on their mean, with intervals.

    Returns:
      None where nothing is compared.
    """
    entries = [entry for entry in entries if entry[2]["value"] is not None]
    if not entries:
        return None
    methods = list(dict.fromkeys(method for method, _, _ in entries))
    ends = [end for _, _, one in entries for end in (one["interval"] or [one["value"]])]
    axis = Axis.around([*ends, 0.0], f"AUROC minus that of {baseline}")
    names = max(text_width(_cut(source)) for _, source, _ in entries) + 24
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
        drawing.text(4, down - 4, _cut(method), bold=True)
        for _, source, one in (entry for entry in entries if entry[0] == method):
            down += _LINE
            is_mean = source == "mean"
            drawing.text(16, down - 4, _cut(source), bold=is_mean)
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


def _cut(name: str) -> str:
    """Return a name, without its middle where it would leave no room for a plot."""
    return name if len(name) <= _LONGEST_NAME else f"{name[:12]}…{name[-11:]}"


def _cell(entry: Row) -> str:
    if entry["value"] is None:
        return "too few"
    reach = entry["interval"]
    return f"{entry['value']:.3f}" + (f"\n({reach[0]:.3f} to {reach[1]:.3f})" if reach else "")


def _metrics(row: Row) -> list[str]:
    """Return the AUROC, its difference to the baseline and the p-value, and the other metrics.

    On a telephone, the first columns are in sight.
    """
    area, *others = (_cell(row[metric]) for metric in _METRICS)
    return [area, *_compared(row), *others]


def _compared(row: Row) -> list[str]:
    test = row.get("against")
    if not test or test["difference"]["value"] is None:
        return ["", ""]
    return [_words(test["difference"]).replace(" (", "\n("), f"{test['holm_p']:.2g}"]


def _tested(row: Row) -> list[str]:
    """Return the cells of a row of a source or of the stress test."""
    finished, planned = row["runs"]["finished"], row["runs"]["planned"]
    name = row["method"] if finished == planned else f"{row['method']}: {finished} of {planned} runs finished"
    return [name, *_metrics(row)] if row["seeds"] else [name, *[""] * len(_HEADER[1:])]


_HEADER = ["method", "AUROC", "difference\nof AUROC", "Holm p", *[*_METRICS.values()][1:]]


def _grids(of_kind: Row, table: Row) -> list[Grid]:
    grids = []
    for key, caption in (
        ("mean", "Mean of the held-out sources"),
        ("worst", "Worst of the held-out sources, of each metric by itself"),
    ):
        if of_kind.get(key):
            rows = [[row["method"], *_metrics(row)] for row in of_kind[key]]
            grids.append(Grid(caption, _HEADER, rows))
    for source in dict.fromkeys(row["source"] for row in of_kind["rows"]):
        rows = [_tested(row) for row in of_kind["rows"] if row["source"] == source]
        rows += _bounds(source, table)
        grids.append(Grid(f"Trained without {source}, tested on all of it", _HEADER, rows))
    return grids


def _bounds(source: str, table: Row) -> list[list[str]]:
    """Return the rows that are no methods: what can be reached within a source, and how far it is apart."""
    rows = []
    found = table["bounds"].get(source)
    if found:
        images, method, runs = f"{found['images']:,} test images", found["method"], found["runs"]
        if not runs["finished"]:
            images = f"0 of {runs['planned']} runs finished"
        for name, key in (
            (f"bound: {method} trained within {source}, {images}", "within"),
            (f"{method} without {source}, the same {images}", "without"),
        ):
            if found[key]:
                rows.append([name, *_metrics(found[key])])
            elif key == "within":
                rows.append([name, *[""] * len(_HEADER[1:])])
    (told,) = (one["told_apart"] for one in table["sources"] if one["source"] == source)
    if told is not None:
        name = f"bound: {source} itself told from the other sources"
        rows.append([name, f"{told:.3f}", *[""] * len(_HEADER[2:])])
    return rows


def _sources(table: Row) -> Grid:
    rows = []
    for one in table["sources"]:
        counts = ", ".join(f"{name} {patients}" for name, patients in one["patients"].items())
        told = "" if one["told_apart"] is None else f"{one['told_apart']:.3f}"
        rows.append([one["source"], f"{one['images']:,}", counts, one["state"], told])
    header = ["source", "images", "patients", "state", "bound: AUROC of the source itself"]
    return Grid("Sources of the data", header, rows)


def _stress(stress: Row, baseline: str) -> dict[str, Any]:
    (first, second), (a, b) = stress["classes"], stress["sources"]
    kinds = []
    for kind, of_kind in stress["tables"].items():
        rows = [[*_tested(row), _cell(row["closed"]) if row.get("closed") else ""] for row in of_kind["rows"]]
        if stress["oracle"]:
            rows.append(["bound: balanced oracle", *_metrics(stress["oracle"]), ""])
        header = [*_HEADER, "share of the gap closed"]
        kinds.append(
            {
                "plot": forest_plot(_entries_of(of_kind), baseline),
                "grid": Grid(f"{capitalized(kind)}, tested on the reverse", header, rows),
            }
        )
    images = ", ".join(f"{split} {count:,}" for split, count in stress["images"].items())
    return {
        "text": f"In training, 90 % of {first} is of {a} and 90 % of {second} of {b}; in the test the "
        f"reverse. Images: {images}. The balanced oracle is {baseline}, trained on as many images in which "
        "the source says nothing.",
        "kinds": kinds,
    }
