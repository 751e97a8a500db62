"""The tables of a comparison: what each method is worth on each held-out source, and in the stress test.

`transfer.json`:

    schema        "cxr.transfer/2"
    data          the data set
    baseline      the method that others are compared with
    budget        draws and seeds of every method, and the ranges that all share
    runs          finished and planned
    chosen_by     the metric of validation patients of the training sources by which epoch and draw are chosen
    sensitivity   that the thresholds reach there
    resamples     of patients
    sources       every source: images; patients by class; state, "held out", "not asked for", "too few" or
                  "not without it", where what is left cannot be learned;
                  told_apart, the AUROC of the source itself from the embeddings, null where not measured
    tables        by kind of method ("generalisation", "adaptation", "test-time"), never mixed: rows,
                  mean, worst, better (names) and sentence:
                  rows    source, method, runs (finished, planned), seeds, chosen (seed, draw, directory,
                          validation), each of `measure.METRICS` as value and interval, and for all but the
                          baseline against: difference of AUROC (value, interval), p, holm_p over the
                          methods, seeds; by the draws and seeds that method and baseline both have finished
                  mean    by method the same metrics and comparison, of the mean over the sources; only
                          methods with a finished run for every source
                  worst   of these methods each metric of the source where it is worst: the lowest, of the
                          ECE the highest; without intervals and comparison
    bounds        by source: method, runs (finished, planned) and images; within, the method trained within
                  it, and without, the same patients by the method trained without it (metrics each, null
                  where no run is finished); null where there are too few patients
    notes         what was left out, and what was not looked for
    stress        null, or sources, classes, images by split, oracle: its metrics, and tables by kind: rows as
                  above (with closed: the share of the gap between baseline and oracle, null where there is
                  none), better and sentence

Intervals are of 95 %, over patients and training seeds, and not adjusted for their number; the p-values of
each source's methods of a kind are (Holm).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cxr_data.core.wording import counted
from cxr_train.evaluation.significance import holm
from cxr_train.transferring.cell import Cell, Estimates, entries
from cxr_train.transferring.compare import Estimate, over_sources, share_closed, verdict, worst_of_sources
from cxr_train.transferring.measure import METRICS
from cxr_train.transferring.methods import KINDS, Method

SCHEMA = "cxr.transfer/2"
Row = dict[str, Any]
Pair = tuple[Estimates, Estimates, int]


def _compare(rows: Sequence[Row], pairs: Mapping[str, tuple[Estimate, Estimate, int]]) -> None:
    """Enter into rows the difference of each method's AUROC to the baseline's, with p-values.

    Args:
      rows: of a source, of the mean, or of the stress test.
      pairs: by method its AUROC, the baseline's, and the number of seeds that both have.
    """
    tested = []
    for row in rows:
        if row["method"] not in pairs:
            continue
        ours, theirs, seeds = pairs[row["method"]]
        difference = ours - theirs
        row["against"] = {
            "difference": difference.entry(),
            "p": difference.p_value,
            "holm_p": None,
            "seeds": seeds,
        }
        if not np.isnan(difference.value):
            tested.append(row["against"])
    for test, adjusted in zip(tested, holm([test["p"] for test in tested]), strict=True):
        test["holm_p"] = adjusted


def _of_auroc(pairs: Mapping[str, Pair]) -> dict[str, tuple[Estimate, Estimate, int]]:
    return {name: (ours["auroc"], theirs["auroc"], seeds) for name, (ours, theirs, seeds) in pairs.items()}


def _pairs(cell: Cell, names: Sequence[str]) -> dict[str, Pair]:
    return {name: pair for name in names if (pair := cell.paired(name))}


def _others(methods: Sequence[Method], kind: str, baseline: str) -> list[str]:
    return [method.name for method in methods if method.kind == kind and method.name != baseline]


def table_of_sources(cells: Mapping[str, Cell], methods: Sequence[Method], baseline: str, kind: str) -> Row:
    """Return the table of one kind of methods, the baseline first.

    Args:
      cells: by source.
      methods: all of them.
      baseline: the name of the baseline.
      kind: of the methods that the table has.
    """
    others = _others(methods, kind, baseline)
    rows: list[Row] = []
    pairs: dict[str, dict[str, Pair]] = {}
    for source, cell in cells.items():
        of_source = [{"source": source, **cell.row(name)} for name in [baseline, *others]]
        pairs[source] = _pairs(cell, others)
        _compare(of_source, _of_auroc(pairs[source]))
        rows += of_source
    together = _together(cells, [baseline, *others], pairs) if cells else {}
    where = f"{kind}, mean AUROC over {counted(len(cells), 'held-out source')}"
    return {"rows": rows, **together, **verdict(baseline, others, together.get("mean", []), where)}


def _together(
    cells: Mapping[str, Cell], names: Sequence[str], pairs: Mapping[str, Mapping[str, Pair]]
) -> dict[str, list[Row]]:
    """Return the rows of mean and worst, of the methods that have a run for every source."""
    found = {name: [cell.estimates(name) for cell in cells.values()] for name in names}
    whole = {name: [one for one in of_cells if one] for name, of_cells in found.items() if all(of_cells)}
    paired = {name: [of_source[name] for of_source in pairs.values() if name in of_source] for name in whole}

    def of(estimates: Sequence[Estimates], metric: str) -> list[Estimate]:
        return [one[metric] for one in estimates]

    mean = [
        {"method": name, **entries({metric: over_sources(of(estimates, metric)) for metric in METRICS})}
        for name, estimates in whole.items()
    ]
    compared = {
        name: (
            over_sources(of([ours for ours, _, _ in of_sources], "auroc")),
            over_sources(of([theirs for _, theirs, _ in of_sources], "auroc")),
            min(seeds for _, _, seeds in of_sources),
        )
        for name, of_sources in paired.items()
        if len(of_sources) == len(cells)
    }
    _compare(mean, compared)
    worst = [
        {"method": name, **{metric: worst_of_sources(of(estimates, metric), metric) for metric in METRICS}}
        for name, estimates in whole.items()
    ]
    return {"mean": mean, "worst": worst}


def bound(within: Cell, without: Cell, trained: str, baseline: str) -> Row | None:
    """Return a method trained within a source, and without it, on the same patients.

    Args:
      within, without: the runs.
      trained: the method that was trained within.
      baseline: stands for it where it was not trained without.

    Returns:
      With null in place of the metrics of one that has no finished run; None where there are too few
      patients.
    """
    own = within.estimates(trained)
    ids = within.tested_ids
    other = own and (without.estimates(trained, ids) or without.estimates(baseline, ids))
    if own and np.isnan(own["auroc"].value):
        return None  # too few patients
    finished, planned = within.finished(trained)
    return {
        "method": trained,
        "runs": {"finished": finished, "planned": planned},
        "images": len(ids),
        "within": own and entries(own),
        "without": other and entries(other),
    }


def table_of_stress(cell: Cell, oracle: Cell, methods: Sequence[Method], baseline: str) -> Row | None:
    """Return the oracle and a table of each kind of methods; None where the baseline is not finished."""
    if cell.estimates(baseline) is None:
        return None
    balanced = oracle.estimates(baseline)
    tables: dict[str, Row] = {}
    for kind in kinds_of(methods, baseline):
        others = _others(methods, kind, baseline)
        rows = [cell.row(name) for name in [baseline, *others]]
        pairs = _pairs(cell, others)
        _compare(rows, _of_auroc(pairs))
        for row in rows:
            if row["method"] in pairs and balanced is not None:
                ours, theirs, _ = pairs[row["method"]]
                closed = share_closed(ours["auroc"], theirs["auroc"], balanced["auroc"])
                row["closed"] = closed and closed.entry()
        where = f"{kind}, AUROC of the stress test, where the correlation is reversed"
        tables[kind] = {"rows": rows, **verdict(baseline, others, rows, where)}
    return {"oracle": balanced and entries(balanced), "tables": tables}


def kinds_of(methods: Sequence[Method], baseline: str) -> list[str]:
    """Return the kinds that methods other than the baseline have, in the order of `KINDS`.

    The kind of the baseline alone, where there is no other method.
    """
    found = {method.kind for method in methods if method.name != baseline} or {methods[0].kind}
    return [kind for kind in KINDS if kind in found]
