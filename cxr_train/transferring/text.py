"""The tables as text and CSV."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cxr_data.core.csv_table import csv_bytes
from cxr_data.core.shown import visible_names
from cxr_data.core.wording import counted, wrapped
from cxr_train.transferring.measure import METRICS

Row = Mapping[str, Any]
TOO_FEW = "too few"


def sentences(table: Row) -> list[tuple[str, bool]]:
    """Return what a reader must not miss, and whether it says that a method is better than the baseline.

    It is a sentence for each table, and before them what is not finished.
    """
    runs = table["runs"]
    left = runs["planned"] - runs["finished"]
    unfinished = [
        f"{left} of {counted(runs['planned'], 'run')} are not finished: methods had unequal budgets, and "
        "each difference is of the draws and seeds that the method and the baseline both have"
    ]
    of_tables = [(of_kind["sentence"], bool(of_kind["better"])) for of_kind in _all_tables(table)]
    return [*((line, False) for line in unfinished if left), *of_tables]


def notes(table: Row) -> list[str]:
    """Return what a reader of the numbers must know."""
    budget = table["budget"]
    ranges = ", ".join(f"{flag} {low:g} to {high:g}" for flag, (low, high) in budget["shared"].items())
    is_whole = table["runs"]["finished"] == table["runs"]["planned"]
    seeds = "" if len(budget["seeds"]) < 2 else "; the chance of training seeds is added (Student's t)"
    return [
        *table.get("notes", ()),
        f"each method {'had' if is_whole else 'was to have'} {counted(budget['draws'], 'draw')} of its "
        "hyper-parameters, the first of them the middle of each range, for each of "
        f"{counted(len(budget['seeds']), 'seed')}; the draws of {ranges or 'shared flags'} are the same for "
        "all methods",
        *([] if is_whole else [_unfinished(table)]),
        f"epoch, draw, temperature and thresholds (sensitivity {table['sensitivity']:g}) are chosen on "
        f"validation patients of the training sources ({table['chosen_by']}), all of them together: where "
        "the source tells the class, a model that has learned the source is chosen; the held-out source is "
        "tested once, with all its patients",
        f"[95 % intervals: {table['resamples']:,} resamples of patients{seeds}]; they hold for these "
        "sources, draws and validation patients: another hospital may lie outside",
        "AUROC, sensitivity and specificity are means over the classes with enough patients; "
        f"{TOO_FEW}: fewer than 10 patients of the class, or of all others; the ECE of few patients is too "
        "high by chance",
        "worst of the sources: each metric of the source where it is worst, which may be another source for "
        "another metric; of the ECE, the highest; no interval would hold the least of several numbers",
        f"p: {table['baseline']} against each method on the same patients; Holm: adjusted for the methods "
        "of a source and kind",
        "of two sources, one may have other patients, films and labels: a difference between sources is not "
        "the method's alone",
    ]


def _all_tables(table: Row) -> list[Row]:
    """Return the tables of all kinds, of held-out sources and of the stress test."""
    stress = table["stress"]["tables"] if table["stress"] else {}
    return [*table["tables"].values(), *stress.values()]


def _unfinished(table: Row) -> str:
    """Return which methods have how many of their runs, of those that have not all."""
    found: dict[str, dict[str, str]] = {}
    for of_kind in _all_tables(table):
        for row in of_kind["rows"]:
            if row["runs"]["finished"] < row["runs"]["planned"]:
                where = f"without {row['source']}" if "source" in row else "stress test"
                found.setdefault(where, {})[row["method"]] = runs_of(row)
    listed = (
        f"{where}: {', '.join(f'{name} {runs}' for name, runs in of_methods.items())}"
        for where, of_methods in found.items()
    )
    return f"finished runs, where not all are: {'; '.join(listed) or 'of bounds and oracle'}"


def runs_of(row: Row) -> str:
    """Return how many of the runs of a row's method are finished, in words."""
    return f"{row['runs']['finished']} of {row['runs']['planned']}"


def to_text(table: Row) -> str:
    """Return the tables for the terminal, below 100 columns."""
    table = visible_names(table)  # no name is a line of its own
    lines = [wrapped(one, rest="  ") for one, _ in sentences(table)]
    for kind, of_kind in table["tables"].items():
        lines += ["", f"{kind}: {SEES[kind]}", *_lines_of_kind(of_kind)]
    lines += ["", "sources", *_source_lines(table)]
    if table["stress"]:
        lines += ["", *_stress_lines(table["stress"])]
    return "\n".join([*lines, "", *(wrapped(note, rest="  ") for note in notes(table))])


SEES = {
    "generalisation": "no picture of the held-out source is seen",
    "adaptation": "pictures of the held-out source are seen in training, without labels",
    "test-time": "statistics of the held-out source are seen when it is tested",
}
"""What methods of a kind see of the held-out source."""


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
    if row.get("seeds") == 0:
        return f"  {row['method'][:18]:18}{runs_of(row)} runs finished"
    others = "".join(f"{_short(row[key]):>6}" for key in METRICS[1:])
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
        apart = f"; bound: the source itself is told with AUROC {told:.3f}" if told is not None else ""
        yield wrapped(
            f"  {one['source']}: {one['images']:,} images; patients: {counts}; {one['state']}{apart}",
            rest="    ",
        )
        found = table["bounds"].get(one["source"])
        if found and not found["within"]:
            yield f"    bound: {runs_of(found)} runs within it finished"
        elif found:
            yield wrapped(
                f"    bound: trained within it {cell(found['within']['auroc'])}, without it "
                f"{_without(found)} (AUROC, the same {found['images']} test images)",
                rest="      ",
            )
        elif one["state"] == "held out":
            yield f"    bound: {TOO_FEW} patients within it for a training of its own"


def _without(bound: Row) -> str:
    return cell(bound["without"]["auroc"]) if bound["without"] else "no run is finished"


def _stress_lines(stress: Row) -> Iterator[str]:
    first, second = stress["classes"]
    a, b = stress["sources"]
    yield wrapped(
        f"stress test: in training, 90 % of {first} is of {a} and 90 % of {second} of {b}; reversed in the "
        f"test ({', '.join(f'{name} {count}' for name, count in stress['images'].items())} images)",
        rest="  ",
    )
    for kind, of_kind in stress["tables"].items():
        yield f"{kind}: {SEES[kind].replace('held-out source', 'test')}"
        yield _header()
        for row in of_kind["rows"]:
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
    """Return a line for each test and method: of each held-out source, their mean, the worst, and the stress
    test.
    """
    header = ["test", "kind", "source", "method", "runs_finished", "runs_planned", "seeds"]
    for metric in METRICS:
        header += [metric, f"{metric}_low", f"{metric}_high"]
    header += ["difference", "difference_low", "difference_high", "p", "holm_p", "paired_seeds"]
    lines: list[Sequence[object]] = [header]
    for kind, of_kind in table["tables"].items():
        lines += [_cells("held_out", kind, row["source"], row) for row in of_kind["rows"]]
        for key in ("mean", "worst"):
            lines += [_cells(key, kind, "", row) for row in of_kind.get(key, ())]
    if stress := table["stress"]:
        both = "+".join(stress["sources"])
        for kind, of_kind in stress["tables"].items():
            lines += [_cells("stress", kind, both, row) for row in of_kind["rows"]]
        if stress["oracle"]:
            lines.append(_cells("stress", "", both, {"method": "balanced oracle", **stress["oracle"]}))
    return csv_bytes(lines)


def _cells(test: str, kind: str, source: str, row: Row) -> list[object]:
    runs = row.get("runs") or {}
    cells: list[object] = [test, kind, source, row["method"]]
    cells += [runs.get("finished"), runs.get("planned"), row.get("seeds")]
    compared = row.get("against") or {}
    for entry in (*(row[metric] for metric in METRICS), compared.get("difference", {})):
        cells += [entry.get("value"), *(entry.get("interval") or (None, None))]
    return [*cells, *(compared.get(key) for key in ("p", "holm_p", "seeds"))]
