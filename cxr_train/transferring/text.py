"""The tables as text and CSV."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cxr_data.core.csv_table import csv_bytes
from cxr_data.core.wording import counted, wrapped
from cxr_train.transferring.measure import METRICS

Row = Mapping[str, Any]
TOO_FEW = "too few"


def sentences(table: Row) -> list[str]:
    """Return what a reader must not miss: a sentence for each table."""
    found = [of_kind["sentence"] for of_kind in table["tables"].values()]
    return found + ([table["stress"]["sentence"]] if table["stress"] else [])


def notes(table: Row) -> list[str]:
    """Return what a reader of the numbers must know."""
    budget = table["budget"]
    ranges = ", ".join(f"{flag} {low:g} to {high:g}" for flag, (low, high) in budget["shared"].items())
    return [
        f"each method had {counted(budget['draws'], 'draw')} of its hyper-parameters and "
        f"{counted(len(budget['seeds']), 'seed')}; the draws of {ranges or 'shared flags'} are the same for "
        "all methods",
        f"epoch, draw, temperature and thresholds (sensitivity {table['sensitivity']:g}) are chosen on "
        f"validation patients of the training sources ({table['chosen_by']}); the held-out source is tested "
        "once, with all its patients",
        f"[95 % intervals: {table['resamples']:,} resamples of patients and seeds]; AUROC, sensitivity and "
        f"specificity are means over the classes with enough patients; {TOO_FEW}: fewer than 10 patients "
        "of the class, or of all others",
        f"p: {table['baseline']} against each method on the same patients; Holm: adjusted for the methods "
        "of a source",
        "of two sources, one may have other patients, films and labels: a difference between sources is not "
        "the method's alone",
    ]


def to_text(table: Row) -> str:
    """Return the tables for the terminal, below 100 columns."""
    lines = [wrapped(one, rest="  ") for one in sentences(table)]
    for kind, of_kind in table["tables"].items():
        lines += ["", f"{kind}: {_SEES[kind]}", *_lines_of_kind(of_kind)]
    lines += ["", "sources", *_source_lines(table)]
    if table["stress"]:
        lines += ["", *_stress_lines(table["stress"])]
    return "\n".join([*lines, "", *(wrapped(note, rest="  ") for note in notes(table))])


_SEES = {
    "generalisation": "no picture of the held-out source is seen",
    "adaptation": "pictures of the held-out source are seen in training, without labels",
    "test-time": "statistics of the held-out source are seen when it is tested",
}


def _header() -> str:
    return f"{'':20}{'AUROC':>20}{'sens':>6}{'spec':>6}{'ECE':>6}{'difference':>23}{'Holm p':>8}"


def _lines_of_kind(of_kind: Row) -> Iterator[str]:
    yield _header()
    source = None
    for row in of_kind["rows"]:
        if row["source"] != source:
            source = row["source"]
            yield f"without {source}"
        yield _line(row)
    for key in ("mean", "worst"):
        if key in of_kind:
            yield f"{key} of the sources"
            yield from map(_line, of_kind[key])


def _line(row: Row) -> str:
    others = "".join(f"{_short(row[key]):>6}" if key in row else f"{'':6}" for key in METRICS[1:])
    test = row.get("against")
    compared = ""
    if test:
        adjusted = "" if test["holm_p"] is None else f"{test['holm_p']:.2g}"
        compared = f"{cell(test['difference'], '+.3f'):>23}{adjusted:>8}"
    return f"  {row['method'][:18]:18}{cell(row['auroc']):>20}{others}{compared}".rstrip()


def _source_lines(table: Row) -> Iterator[str]:
    for one in table["sources"]:
        counts = ", ".join(f"{name} {patients}" for name, patients in one["patients"].items())
        told = one["told_apart"]
        apart = f"; the source itself is told with AUROC {told:.3f}" if told is not None else ""
        yield wrapped(
            f"  {one['source']}: {one['images']:,} images; patients: {counts}; {one['state']}{apart}",
            rest="    ",
        )
        found = table["bounds"].get(one["source"])
        if found:
            yield wrapped(
                f"    trained within it {cell(found['within']['auroc'])}, without it "
                f"{cell(found['without']['auroc'])} (AUROC, the same {found['images']} test images)",
                rest="      ",
            )
        elif one["state"] == "held out":
            yield f"    trained within it: {TOO_FEW} patients for a training of its own"


def _stress_lines(stress: Row) -> Iterator[str]:
    first, second = stress["classes"]
    a, b = stress["sources"]
    yield wrapped(
        f"stress test: in training, 90 % of {first} is of {a} and 90 % of {second} of {b}; reversed in the "
        f"test ({', '.join(f'{name} {count}' for name, count in stress['images'].items())} images)",
        rest="  ",
    )
    yield f"{_header()}"
    for row in stress["rows"]:
        yield _line(row)
        if row.get("closed"):
            yield f"{'':20}closes {cell(row['closed'], '.2f')} of the gap to the balanced oracle"
    if stress["oracle"]:
        yield _line({"method": "balanced oracle", **stress["oracle"]})


def _short(entry: Row) -> str:
    return "-" if entry["value"] is None else f"{entry['value']:.3f}"


def cell(entry: Row, form: str = ".3f") -> str:
    """Return a number with its interval."""
    if entry["value"] is None:
        return TOO_FEW
    reach = entry["interval"]
    short = form.replace("3f", "2f")
    return f"{entry['value']:{form}}" + (f" [{reach[0]:{short}}, {reach[1]:{short}}]" if reach else "")


def to_csv(table: Row) -> bytes:
    """Return a line for each method and held-out source, the stress test's included."""
    header = ["kind", "source", "method", "seeds"]
    for metric in METRICS:
        header += [metric, f"{metric}_low", f"{metric}_high"]
    header += ["difference", "difference_low", "difference_high", "p", "holm_p"]
    lines: list[Sequence[object]] = [header]
    for kind, of_kind in table["tables"].items():
        lines += [_cells(kind, row["source"], row) for row in of_kind["rows"]]
    if table["stress"]:
        lines += [
            _cells("stress", "+".join(table["stress"]["sources"]), row) for row in table["stress"]["rows"]
        ]
        if table["stress"]["oracle"]:
            oracle = {"method": "balanced oracle", "seeds": None, **table["stress"]["oracle"]}
            lines.append(_cells("stress", "+".join(table["stress"]["sources"]), oracle))
    return csv_bytes(lines)


def _cells(kind: str, source: str, row: Row) -> list[object]:
    cells: list[object] = [kind, source, row["method"], row["seeds"]]
    test = row.get("against") or {}
    for entry in (*(row[metric] for metric in METRICS), test.get("difference", {})):
        cells += [entry.get("value"), *(entry.get("interval") or (None, None))]
    return [*cells, test.get("p"), test.get("holm_p")]
