"""The tables of a comparison: what each method is worth on each held-out source, and in the stress test.

`transfer.json`:

    schema        "cxr.transfer/1"
    data          the data set
    baseline      the method that others are compared with
    budget        draws and seeds of every method, and the ranges that all share
    chosen_by     the metric of validation patients of the training sources by which epoch and draw are chosen
    sensitivity   that the thresholds reach there
    resamples     of patients and seeds
    sources       every source: images; patients by class; state, "held out", "too few" or "not asked for";
                  told_apart, the AUROC of the source itself from the embeddings, null where not measured
    tables        by kind of method ("generalisation", "adaptation", "test-time"), never mixed: rows,
                  mean, worst and sentence:
                  rows    source, method, seeds, chosen (seed, draw, directory, validation), each of
                          `measure.METRICS` as value and interval, and for all but the baseline
                          against: difference of AUROC (value, interval), p, holm_p over the methods
                  mean    by method the same keys, of the mean over the sources; worst: of the worst source
    bounds        by source: within, the baseline trained within it, and without, the same patients by the
                  baseline trained without it (metrics each); null where there are too few
    stress        null, or sources, classes, images by split, rows as above (with closed: the share of the gap
                  between baseline and oracle, null where there is none), oracle: its metrics; sentence

Intervals are of 95 %, over patients and training seeds, and not adjusted for their number; the p-values of
each source's methods are (Holm).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cxr_data.stats.bootstrap import PatientBootstrap
from cxr_train.evaluation.compare import align
from cxr_train.evaluation.predictions import NamedPredictions
from cxr_train.evaluation.significance import holm
from cxr_train.runs.monitor import Monitor
from cxr_train.transferring.compare import Estimate, over_seeds, over_sources, sentence, share_closed
from cxr_train.transferring.measure import METRICS, Measured, measure, monitored
from cxr_train.transferring.methods import KINDS, PRIOR, Method
from cxr_train.transferring.run import TransferRun

SCHEMA = "cxr.transfer/1"
Row = dict[str, Any]
Estimates = Mapping[str, Estimate]


class Cell:
    """The runs of all methods on the same pictures.

    Args:
      runs: of one `TransferRun.cell`; those that are not finished are left out.
      baseline: the method whose runs test-time methods change.
      bootstrap_seed: of its patients.
      resamples: of the bootstrap.
      sensitivity: that thresholds reach on validation patients.
    """

    def __init__(
        self,
        runs: Sequence[TransferRun],
        *,
        baseline: str,
        bootstrap_seed: int,
        resamples: int,
        sensitivity: float,
    ) -> None:
        self._baseline = baseline
        self._runs = [run for run in runs if run.is_finished]
        self._seed, self._resamples, self._sensitivity = bootstrap_seed, resamples, sensitivity

    def chosen(self, method: str) -> list[tuple[TransferRun, float]]:
        """Return the draw of each seed that is best on validation patients, with that value; the first of
        several.
        """
        best: dict[int, tuple[TransferRun, float]] = {}
        for run in sorted(self._runs, key=lambda run: (run.seed, run.draw)):
            if run.name != (self._baseline if method == PRIOR else method):
                continue
            monitor, said = Monitor(run.config.monitor), run.chosen_on
            value = monitored(said.labels, said.probabilities, said.class_names, monitor)
            if value is not None and (run.seed not in best or monitor.improves(value, best[run.seed][1])):
                best[run.seed] = run, value
        return list(best.values())

    def estimates(self, method: str, ids: Sequence[str] | None = None) -> Estimates | None:
        """Return the metrics of a method; None where no run of it is finished.

        Args:
          ids: of the pictures that are measured; all by default.
        """
        corrected = method == PRIOR
        chosen = [run for run, _ in self.chosen(method)]
        if not chosen:
            return None
        first = self._runs[0].held_out
        rows = None if ids is None else np.isin(first.ids, list(ids))
        kept = first.groups if rows is None else [g for g, k in zip(first.groups, rows, strict=True) if k]
        bootstrap = PatientBootstrap.of_names(kept, resamples=self._resamples, seed=self._seed)
        return over_seeds(
            [self._measured(run, first, bootstrap, rows, corrected=corrected) for run in chosen]
        )

    def _measured(
        self,
        run: TransferRun,
        first: NamedPredictions,
        bootstrap: PatientBootstrap,
        rows: np.ndarray | None,
        *,
        corrected: bool,
    ) -> Measured:
        held_out = align(first, run.held_out)
        prior = run.training_prior if corrected else None
        return measure(run.chosen_on, held_out, bootstrap, self._sensitivity, rows=rows, prior=prior)

    def row(self, method: str, estimates: Estimates) -> Row:
        """Return the row of a method, without the comparison."""
        chosen = [
            {"seed": run.seed, "draw": run.draw, "directory": str(run.directory), "validation": value}
            for run, value in self.chosen(method)
        ]
        return {"method": method, "seeds": len(chosen), "chosen": chosen, **_entries(estimates)}

    @property
    def tested_ids(self) -> tuple[str, ...]:
        """The pictures that were held out; empty where no run is finished."""
        return self._runs[0].held_out.ids if self._runs else ()


def _entries(estimates: Estimates) -> Row:
    return {metric: estimates[metric].entry() for metric in METRICS}


def _compare(baseline: str, found: Mapping[str, Estimate], rows: Sequence[Row]) -> None:
    """Enter into rows the difference of each method's AUROC to the baseline's, with p-values."""
    tested = []
    for row in rows:
        if row["method"] == baseline or baseline not in found:
            continue
        difference = found[row["method"]] - found[baseline]
        row["against"] = {"difference": difference.entry(), "p": difference.p_value, "holm_p": None}
        if not np.isnan(difference.value):
            tested.append(row["against"])
    for test, adjusted in zip(tested, holm([test["p"] for test in tested]), strict=True):
        test["holm_p"] = adjusted


def table_of_sources(cells: Mapping[str, Cell], methods: Sequence[Method], baseline: str, kind: str) -> Row:
    """Return the table of one kind of methods, the baseline first.

    Args:
      cells: by source.
      methods: all of them.
      baseline: the name of the baseline.
      kind: of the methods that the table has.
    """
    names = [method.name for method in methods if method.kind == kind and method.name != baseline]
    rows: list[Row] = []
    of_sources: dict[str, dict[str, Estimate]] = {}
    for source, cell in cells.items():
        found = {name: estimates for name in [baseline, *names] if (estimates := cell.estimates(name))}
        of_source = [{"source": source, **cell.row(name, estimates)} for name, estimates in found.items()]
        of_sources[source] = {name: estimates["auroc"] for name, estimates in found.items()}
        _compare(baseline, of_sources[source], of_source)
        rows += of_source
    together: dict[str, list[Row]] = {}
    whole = [name for name in [baseline, *names] if all(name in found for found in of_sources.values())]
    for key in ("mean", "worst") if of_sources else ():
        found_of = {
            name: over_sources([found[name] for found in of_sources.values()], worst=key == "worst")
            for name in whole
        }
        together[key] = [{"method": name, "auroc": found_of[name].entry()} for name in whole]
        _compare(baseline, found_of, together[key])
    compared = [
        {"method": row["method"], **row["against"]} for row in together.get("mean", []) if "against" in row
    ]
    where = f"mean AUROC over {len(of_sources)} held-out sources"
    return {"rows": rows, **together, "sentence": sentence(baseline, compared, where)}


def bound(within: Cell, without: Cell, baseline: str) -> Row | None:
    """Return the baseline trained within a source, and without it, on the same patients, if both ran."""
    own = within.estimates(baseline)
    other = own and without.estimates(baseline, within.tested_ids)
    if not own or not other or np.isnan(own["auroc"].value):
        return None
    return {"images": len(within.tested_ids), "within": _entries(own), "without": _entries(other)}


def table_of_stress(cell: Cell, oracle: Cell, methods: Sequence[Method], baseline: str) -> Row | None:
    """Return rows, oracle and sentence of the stress test; None where nothing is finished."""
    found = {m.name: estimates for m in methods if (estimates := cell.estimates(m.name))}
    balanced = oracle.estimates(baseline)
    if baseline not in found:
        return None
    rows = [cell.row(name, estimates) for name, estimates in found.items()]
    areas = {name: estimates["auroc"] for name, estimates in found.items()}
    _compare(baseline, areas, rows)
    for row in rows:
        if row["method"] != baseline and balanced is not None:
            closed = share_closed(areas[row["method"]], areas[baseline], balanced["auroc"])
            row["closed"] = closed and closed.entry()
    compared = [{"method": row["method"], **row["against"]} for row in rows if "against" in row]
    return {
        "rows": rows,
        "oracle": balanced and _entries(balanced),
        "sentence": sentence(baseline, compared, "stress test, AUROC where the correlation is reversed"),
    }


def kinds_of(methods: Sequence[Method]) -> list[str]:
    """Return the kinds that some methods have, in the order of `KINDS`."""
    return [kind for kind in KINDS if any(method.kind == kind for method in methods)]
